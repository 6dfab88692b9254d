"""Noise, signal gain and agreement of a slice, and how they are averaged where some slices have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from phantoms import body_phantom
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit import Volume as Image
from medrestore_monai.audit.interval import Calibration, coverage_of, errors_of
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.evaluate.coverage import coverage_of_slices
from medrestore_monai.evaluate.physics import slice_physics
from medrestore_monai.evaluate.volumes import Slice, Volume
from medrestore_monai.report import SliceScore, findings, summarize
from medrestore_monai.report.tables import markdown

SPACING = (1.2, 1.2, 2.5)


def as_slice(array):
    return torch.from_numpy(array.astype(np.float32))[None]


def unit_noise(shape, seed):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.8)
    return noise / noise.std()


def test_noise_is_measured_and_blur_lowers_the_gain():
    clean = body_phantom((180, 171))
    label = clean + 5 * unit_noise(clean.shape, 1)
    values = slice_physics(as_slice(label + 12 * unit_noise(clean.shape, 2)), as_slice(label), "CT", SPACING)
    assert values["noise"] == pytest.approx(13, rel=0.12)
    assert values["noise_of_reference"] == pytest.approx(5, rel=0.12)
    clean[:90] += 80 * unit_noise(clean.shape, 0)[:90] * (clean[:90] > -900)  # one half has structure
    label = clean + unit_noise(clean.shape, 1)
    blurred = slice_physics(as_slice(gaussian_filter(label, 1.5)), as_slice(label), "CT", SPACING)
    same = slice_physics(as_slice(label), as_slice(label), "CT", SPACING)
    assert same["gain"] == pytest.approx(1, abs=1e-3)
    assert blurred["gain"] < 0.8
    assert values["frc"] < same["frc"] == pytest.approx(0.5 / 1.2, rel=0.05)


def test_pictures_and_plain_slices_have_nothing_to_measure():
    plain = torch.full((1, 40, 40), 40.0)
    assert slice_physics(plain, plain, "GRAY", SPACING) == {}
    assert "noise" not in slice_physics(plain[:, :9, :9], plain[:, :9, :9], "CT", SPACING)


def noisy_volume(count=3):
    """Degraded and clean slices of one image as an evaluation has them, and what a bundle might make of them."""
    clean = body_phantom((150, 141))
    slices, restored = [], []
    for number in range(count):
        label, image = (as_slice(clean + size * unit_noise(clean.shape, number)) for size in (5, 15))
        case = {"image": MetaTensor(image, affine=torch.diag(torch.tensor([*SPACING, 1.0]))), "label": label}
        slices.append(Slice(number, case, {}, True))
        restored.append(label + as_slice(6.0 * unit_noise(clean.shape, 100 + number)))
    return Volume(slices), restored


def test_coverage_counts_the_voxels_of_the_body_whose_reference_lies_within():
    volume, restored = noisy_volume()
    factors = np.linspace(0.1, 0.9, 36).reshape(4, 3, 3)
    edges = {"edge": [1.0, 2.0, 3.0], "change": [0.5, 1.0], "noise": [10.0, 20.0]}
    calibration = Calibration(0.9, 9, "a label", "such images", edges, factors, "", {})
    found = coverage_of_slices(volume, [0, 1, 2], restored, "CT", calibration)
    images = [one.case["image"][0].numpy() for one in volume.slices]
    source = Image(np.stack(images, axis=-1), "CT", SPACING)
    result = source.like(np.stack([one[0].numpy() for one in restored], axis=-1))
    labels = [one.label for one in volume.slices]
    label = source.like(np.stack([one[0].numpy() for one in labels], axis=-1))
    errors = errors_of(source, result, label, measure_noise(source, source))
    assert 0.2 < min(found) < max(found) < 0.9
    assert np.mean(found) == pytest.approx(coverage_of(errors, calibration), abs=0.01)  # all have the same body
    assert coverage_of_slices(volume, [0, 1, 2], labels, "CT", calibration) == [1, 1, 1]
    assert coverage_of_slices(volume, [1], [labels[1] + 1000], "CT", calibration) == [0]
    cropped = Volume([replace(one, case={**one.case, "image": one.case["image"][:, :9, :9]}) for one in volume.slices])
    for one in cropped.slices:
        one.case["label"] = one.case["label"][:, :9, :9]
    assert np.isnan(coverage_of_slices(cropped, [0], [restored[0][:, :9, :9]], "CT", calibration)).all()


def test_only_bundles_have_coverage_and_nothing_is_compared_with_it():
    def score(at, method, **values):
        return SliceScore("CT", f"p{at}", "v", at, method, "whole slice", {"psnr": 30.0 + at, **values})

    scores = [score(at, "input") for at in range(3)] + [score(0, "m", coverage=0.9), score(1, "m"), score(2, "m")]
    rows = {(row.average, row.method): row for row in summarize(scores)}
    assert rows["slice", "m"].scores["coverage"].mean == 0.9
    assert np.isnan(rows["slice", "m"].scores["coverage"].p)
    assert "coverage" not in rows["slice", "input"].scores
    table = [line for line in markdown({}, list(rows.values()), []).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "coverage of the interval" in table[0]


def test_slices_without_a_figure_do_not_count_in_it():
    def score(at, method, **values):
        return SliceScore("CT", "p", "v", at, method, "whole slice", {"psnr": 30.0 + at, **values})

    scores = [score(0, "input", noise=10.0), score(1, "input"), score(2, "input", noise=20.0)]
    scores += [score(0, "m", noise=4.0), score(1, "m"), score(2, "m", noise=6.0)]
    rows = summarize(scores)
    means = {(row.average, row.method): row.scores["noise"].mean for row in rows}
    assert means[("slice", "input")] == means[("volume", "input")] == 15
    assert means[("slice", "m")] == 5
    assert not [text for text in findings(rows, ["m"]) if "noise" in text]  # less noise is not better by itself
