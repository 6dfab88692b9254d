"""Noise, signal gain and agreement of a slice, and how they are averaged where some slices have none."""

import numpy as np
import pytest
import torch
from phantoms import body_phantom
from scipy.ndimage import gaussian_filter

from medrestore_monai.evaluate.physics import slice_physics
from medrestore_monai.report import SliceScore, findings, summarize

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
