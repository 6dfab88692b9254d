"""Lesions in images: their shape, their places, what is planted, and what is measured of them."""

import json
from math import erf, exp, pi, sqrt
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from evaluate_command import run
from monai.data import MetaTensor
from phantoms import body_phantom, ct_series
from scipy.ndimage import gaussian_filter
from tiny_bundle import NAME

import medrestore_monai.cli
from medrestore_monai.audit import Volume
from medrestore_monai.evaluate.lesions.inventions import count_inventions
from medrestore_monai.evaluate.lesions.kinds import KINDS, LesionKind
from medrestore_monai.evaluate.lesions.planting import PlantingLoad, Site
from medrestore_monai.evaluate.lesions.recovery import recovered_contrast, recovered_size
from medrestore_monai.evaluate.lesions.sites import find_sites
from medrestore_monai.evaluate.lesions.sphere import sphere

SPACING = (0.8, 0.7, 2.5)


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds[:3]])
def test_a_sphere_has_its_volume_and_its_middle(kind):
    spacing = (3.4, 3.1, 2.0) if kind.is_relative and kind.diameter > 12 else SPACING
    image = sphere(kind, spacing)
    assert all(size % 2 for size in image.shape)
    assert image.sum() * np.prod(spacing) == pytest.approx(np.pi / 6 * kind.diameter**3, rel=0.03)
    assert image.max() == pytest.approx(image[tuple(size // 2 for size in image.shape)], abs=1e-5)
    assert image.max() <= 1.0001
    for axis in range(3):
        np.testing.assert_allclose(image, np.flip(image, axis), atol=2e-3)
        assert np.take(image, 0, axis).max() < 0.02


def test_a_thick_slice_dilutes_a_small_sphere():
    # a point in the middle: the part of the slice's thickness that the sphere fills
    kind = LesionKind(3, 1, False, blur=1e-3)
    assert sphere(kind, (0.1, 0.1, 5.0)).max() == pytest.approx(3 / 5, abs=0.05)
    # the closed form for a Gaussian: doi 10.1118/1.595095
    blurred = sphere(LesionKind(6, 1, True, 2.5, 2.5), (1.0, 1.0, 1.0)).max()
    ratio = 3 / 2.5
    assert blurred == pytest.approx(erf(ratio / sqrt(2)) - sqrt(2 / pi) * ratio * exp(-(ratio**2) / 2), abs=0.015)


def test_sites_lie_in_soft_tissue_apart_from_each_other_and_always_the_same():
    label = body_phantom((240, 211))
    places = find_sites(label, "CT", (1.2, 1.2), 12, seed=3)
    assert 2 <= len(places) <= 12
    assert places == find_sites(label, "CT", (1.2, 1.2), 12, seed=3) != find_sites(label, "CT", (1.2, 1.2), 12, seed=4)
    for x, y in places:
        around = label[x - 6 : x + 7, y - 6 : y + 7]
        assert around.min() > -200
        assert around.max() < 250
    gaps = [np.hypot(a - c, b - d) * 1.2 for i, (a, b) in enumerate(places) for c, d in places[:i]]
    assert min(gaps) >= 24
    assert find_sites(np.full((60, 60), -1000.0), "CT", (1, 1), 12, 0) == []


def load_slices(volume):
    affine = torch.diag(torch.tensor([*SPACING, 1.0]))
    return lambda item: {**item, "label": MetaTensor(volume[None, ..., item["slice"]], affine=affine)}


def test_a_lesion_reaches_into_the_neighbors_and_relative_contrast_is_to_its_own_slice():
    volume = torch.full((60, 50, 9), 100.0)
    volume[..., 4] = 200  # the slice of the center
    kind = LesionKind(10, 0.5, True, blur=0.4)
    sites = {("", "scan", "", "", "p", "n"): [Site(4, 30, 20)]}
    plain = load_slices(volume)
    items = [{"label": "scan", "slice": number, "patient": "p", "name": "n"} for number in range(9)]
    planted = PlantingLoad(plain, lambda data: data, kind, sites)
    added = torch.stack([planted(item)["label"][0] - plain(item)["label"][0] for item in items], dim=-1).numpy()
    expected = 0.5 * 200 * sphere(kind, SPACING)
    middle = tuple(size // 2 for size in expected.shape)
    assert added[30, 20, 4] == pytest.approx(expected[middle], rel=1e-5)
    assert added.sum() == pytest.approx(expected.sum(), rel=1e-4)
    assert (
        added[30, 20, 5] == added[30, 20, 3] == pytest.approx(expected[middle[0], middle[1], middle[2] + 1], rel=1e-5)
    )
    other = {**items[4], "name": "another"}
    assert torch.equal(planted(other)["label"], plain(other)["label"])


def test_a_pair_gets_the_lesion_in_both_images():
    kind = LesionKind(6, -15, False, blur=0.6)
    affine = torch.eye(4)
    pair = {name: MetaTensor(torch.zeros(1, 30, 30, 3), affine=affine) for name in ("image", "label")}
    sites = {("a", "b", "", "", "p", "n"): [Site(0, 2, 29)]}  # at the border
    item = {"image": "a", "label": "b", "patient": "p", "name": "n"}
    found = PlantingLoad(lambda _: pair, lambda data: data, kind, sites)(item)
    assert torch.equal(found["image"], found["label"])
    assert found["image"][0, 2, 29, 0] == pytest.approx(-15, abs=1)
    assert not pair["image"].any()


def test_contrast_and_size_of_a_blurred_lesion():
    steps = np.arange(61) - 30
    squared = steps[:, None] ** 2 + steps**2
    truth = np.exp(-squared / (2 * 4.0**2))
    blurred = gaussian_filter(truth, 3)
    # Gaussians: widths add in squares, and <g_a, g_b> is known
    wide = 4.0**2 + 3.0**2
    assert recovered_contrast(truth / 2, truth) == pytest.approx(0.5)
    assert recovered_contrast(blurred, truth) == pytest.approx(2 * 4.0**2 / (4.0**2 + wide), rel=0.01)
    assert recovered_size(blurred, truth) == pytest.approx(np.sqrt(wide) / 4, rel=0.02)
    assert recovered_size(-3 * truth, -truth) == pytest.approx(1)
    assert recovered_size(-truth, truth) is None


def test_blobs_that_the_reference_lacks_are_counted():
    rng = np.random.default_rng(0)
    clean = body_phantom((180, 171))
    noise = gaussian_filter(rng.standard_normal(clean.shape), 0.7)
    reference = Volume(clean + 10 * noise / noise.std(), "CT", (1.2, 1.2, 3.0))
    same = count_inventions(reference, reference)
    assert (same.bright, same.dark) == (0, 0)
    steps = np.meshgrid(np.arange(180), np.arange(171), indexing="ij")
    disc = [((steps[0] - x) ** 2 + (steps[1] - y) ** 2 <= 3**2) for x, y in ((90, 100), (120, 80), (90, 40))]
    restored = reference.like(reference.array[..., 0] + 150 * disc[0] + 150 * disc[1] - 150 * disc[2])
    found = count_inventions(reference, restored)
    assert (found.bright, found.dark) == (2, 1)
    assert found.noise == pytest.approx(10, rel=0.15)


@pytest.fixture
def scans(tmp_path):
    volume = np.stack([body_phantom((150, 141)) for _ in range(3)], axis=-1)
    rng = np.random.default_rng(1)
    volume = np.rint(np.clip(volume + 8 * rng.standard_normal(volume.shape), -1024, 3000))
    ct_series(tmp_path / "scans" / "a", volume=volume, spacing=(1.6, 1.6))
    return tmp_path / "scans"


@pytest.mark.slow
def test_the_report_of_a_tiny_bundle(scans, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))
    small = tuple(kind for kind in KINDS["CT"] if kind.diameter == 12)
    monkeypatch.setitem(KINDS, "CT", small)
    common = ("--bundle", NAME, "--data", scans, "--lesions", "--limit", 1, "--baselines", "gaussian")
    document = json.loads(run(*common, "-o", tmp_path / "report", "--json").stdout)
    assert document["schema"] == "medrestore/lesions/1"
    schema = Path(medrestore_monai.cli.__file__).parent / "schemas" / "lesions-1.json"
    jsonschema.validate(document, json.loads(schema.read_text()), cls=jsonschema.Draft202012Validator)
    rows = {(row["contrast"], row["method"]): row for row in document["lesions"]}
    assert set(rows) == {(kind.contrast, name) for kind in small for name in ("input", "gaussian", NAME)}
    for (_, method), row in rows.items():
        assert row["pairs"] >= 2
        assert row["auc"] is None
        assert "50 pairs" in row["not_measured"]
        if method == "input":  # noise is added, and nothing taken away
            assert row["contrast_left"] == pytest.approx(1, abs=0.02)
            assert row["size_left"] == pytest.approx(1, abs=0.05)
    assert {row["method"] for row in document["inventions"]} == {"input", "gaussian", NAME}
    assert "needs 50 pairs" in (tmp_path / "report" / "table.md").read_text()


def test_lesions_refuse_what_they_do_not_have(scans, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))
    common = ("--bundle", NAME, "--data", scans, "--lesions", "-o", tmp_path / "report")
    assert "oracle" in run(*common, "--oracle", code=2).output
    picture = run("--bundle", "rgb_deblur_mlff_unet", *common[2:], code=2).output
    assert "lesions are planted in CT, PT, MR, not in RGB" in " ".join(picture.split())
    assert not (tmp_path / "report").exists()
