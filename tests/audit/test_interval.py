"""Intervals: they hold on new patients, scale with the noise, and are void for anything else."""

import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from noise_fields import correlated_noise
from phantoms import body_phantom
from tiny_bundle import edit_json

from medrestore_monai.audit import Volume, audit
from medrestore_monai.audit.interval import (
    Errors,
    calibrate,
    coverage_of,
    errors_of,
    measure_interval,
    read_calibration,
    settings_of_result,
    write_calibration,
)
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.page import render_page
from medrestore_monai.audit.writing import write_audit
from medrestore_monai.bundles import find_bundle

SPACING = (1.2, 1.2, 2.5)


def patient(seed, spread=0.15, count=6000):
    """Errors that grow with the edge strength; the scale differs between patients."""
    rng = np.random.default_rng(seed)
    values = {
        "edge": rng.exponential(1, count),
        "change": rng.exponential(1, count),
        "noise": rng.uniform(10, 30, count),
    }
    scale = np.exp(spread * rng.normal()) * (0.5 + 0.3 * values["edge"])
    return Errors(np.abs(rng.normal(size=count)) * scale, values)


def test_they_hold_on_new_patients_and_follow_the_bins():
    found = calibrate([patient(seed) for seed in range(15)], "label", "ab", {})
    held = [coverage_of(patient(seed), found) for seed in range(100, 140)]
    assert 0.9 <= np.mean(held) <= 0.97
    assert (found.kind, found.patients) == ("conformal", 15)
    assert found.factors[-1].mean() > 1.5 * found.factors[0].mean()
    one = patient(1)
    calm = one.values["edge"] < np.median(one.values["edge"])
    parts = [coverage_of(Errors(one.error[m], {n: v[m] for n, v in one.values.items()}), found) for m in (calm, ~calm)]
    assert abs(parts[0] - parts[1]) < 0.05  # one factor for all would hold much more of the calm half


@pytest.mark.slow
def test_the_quantile_is_taken_above_the_level_and_few_patients_promise_nothing():
    """Twenty equal patients of a known distribution: the level is 0.9 * 21 / 20."""
    rng = np.random.default_rng(0)
    values = {name: np.zeros(100_000) for name in ("edge", "change", "noise")}
    same = Errors(rng.uniform(0, 1, 100_000), values)
    assert calibrate([same] * 20, "label", "", {}).factors[0, 0, 0] == pytest.approx(0.945, abs=0.04)
    few, plain = calibrate([same] * 3, "label", "", {}), calibrate([same] * 20, "label", "", {}, promise=False)
    assert few.kind == plain.kind == "empirical"
    assert plain.factors[0, 0, 0] == pytest.approx(0.9, abs=0.021)
    with pytest.raises(ValueError, match="two patients or more"):
        calibrate([same], "label", "", {})


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "suv_factor"), [("MR", None), ("PT", 1e-4)])
def test_they_scale_with_an_image_whose_unit_is_arbitrary(modality, suv_factor):
    clean = body_phantom((150, 141))[..., None] + 1000
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    parts = [np.maximum(clean + part * noise * (clean > 100), 0) for part in (1.0, 0.4)]
    found, errors = [], []
    for scale in (1.0, 0.1):
        factor = None if suv_factor is None else suv_factor / scale
        source, restored = (Volume(scale * one, modality, SPACING, suv_factor=factor) for one in parts)
        measured = measure_noise(source, source)
        errors.append(errors_of(source, restored, source, measured))
        if not found:
            calibration = replace(
                calibrate([errors[0]] * 2, "label", "", {}), factors=np.arange(1, 37.0).reshape(4, 3, 3)
            )
        found.append(measure_interval(source, restored, measured, calibration).half_width)
    assert np.quantile(found[0][found[0] > 0], 0.9) > 2 * np.quantile(found[0][found[0] > 0], 0.1)
    # a voxel at the limit of a bin may fall to its other side
    assert np.isclose(found[1], 0.1 * found[0], rtol=1e-3, atol=1e-6).mean() > 0.999
    for name, values in errors[0].values.items():
        np.testing.assert_allclose(errors[1].values[name], values, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("level", "patients", "kind"),
    [
        (0.9, 9, "conformal"),
        (0.9, 8, "empirical"),
        (0.95, 19, "conformal"),
        (0.95, 18, "empirical"),
        (0.8, 4, "conformal"),
    ],
)
def test_the_level_decides_how_many_patients_a_promise_needs(level, patients, kind):
    """Level ``(K + 1) / K`` of the patients' mean distribution is at most all of it."""
    few = [patient(seed, count=200) for seed in range(patients)]
    found, plain = (calibrate(few, "label", "", {}, level, promise=promise) for promise in (True, False))
    assert (found.kind, plain.kind) == (kind, "empirical")
    assert (found.factors > plain.factors).all() == (kind == "conformal")


@pytest.fixture
def bundle(tmp_path):
    root = tmp_path / "ct_denoise_restore_rwkv"
    original = find_bundle("ct_denoise_restore_rwkv").root
    shutil.copytree(original, root, ignore=shutil.ignore_patterns("models", "interval.json", "*.png", "*.jpg"))
    (root / "models").mkdir()
    trained = {"modalities": {"CT": {"unit": "HU", "pixel_mm": [0.5, 1.5]}}}
    edit_json(root / "configs" / "metadata.json", lambda content: content.update(trained_on=trained))
    return find_bundle(str(root))


def images():
    clean = np.repeat(body_phantom((150, 141))[..., None], 2, axis=2)
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    inside = clean > -900
    return [Volume(clean + part * noise * inside, "CT", SPACING) for part in (1.0, 0.4)]


def text_of(done):
    return re.sub(r"<[^>]*>|\s+", " ", render_page(done))


@pytest.mark.slow
def test_a_report_has_the_interval_of_its_settings_and_weights_only(bundle, tmp_path):
    weights, settings = bundle.metadata["weights_sha256"], settings_of_result(bundle, {})
    assert settings["strength"] == 1.0
    assert "hu_offset" not in settings
    found = calibrate([patient(seed) for seed in range(12)], "the label", weights, settings, images="such images")
    assert read_calibration(bundle, "CT") is None
    write_calibration(bundle.root / "docs" / "interval.json", "CT", found)
    assert (bundle.root / "docs" / "interval.json").stat().st_size < 4000
    assert read_calibration(bundle, "PT") is None
    again = read_calibration(bundle, "CT")
    np.testing.assert_allclose(again.factors, found.factors, atol=5e-4)

    pair = images()
    done = audit(*pair, bundle=bundle, settings={})
    write_audit(done, tmp_path / "report")
    half = nib.load(tmp_path / "report" / "interval.nii.gz")
    assert half.get_data_dtype() == np.uint16
    np.testing.assert_allclose(half.get_fdata(), done.interval.half_width, atol=half.get_fdata().max() / 60_000)
    assert half.header.get_zooms() == pytest.approx(SPACING)
    report = json.loads((tmp_path / "report" / "audit.json").read_text())["interval"]
    assert (report["level"], report["kind"], report["patients"]) == (0.9, "conformal", 12)
    assert report["figures"][0]["after"] == pytest.approx(
        float(np.median(half.get_fdata()[half.get_fdata() > 0])), rel=0.01
    )

    assert report["images"] == "such images"
    page = text_of(done)
    assert "an interval for the label. It is only for such images. Conformal: it holds at least 90 %" in page
    assert "patients like the 12 of the calibration" in page
    few = replace(done, interval=replace(done.interval, calibration=replace(found, patients=5)))
    assert "Empirical, without a guarantee: it comes from 5 patients" in text_of(few)
    assert "Conformal:" not in text_of(few)
    methods = [
        measure_interval(*pair, done.noise, one).figures[0].method for one in (found, replace(found, patients=5))
    ]
    assert [one.partition(" over ")[0] for one in methods] == ["split conformal prediction", "quantiles of errors"]

    far = [replace(one, spacing=(2.0, 2.0, 2.5)) for one in pair]
    outside = audit(*far, bundle=bundle, settings={})
    assert outside.interval.half_width is None
    assert "out of the scope of the training" in outside.as_dict()["interval"]["not_measured"]
    assert "Empirical" not in text_of(outside)

    for options, reason in (
        ({}, "settings of this result are unknown"),
        ({"settings": {"strength": 0.5}}, "calibrated for strength 1.0 and not 0.5"),
        ({"settings": {}, "weights_sha256": "0" * 64}, "calibrated for other weights"),
    ):
        void = audit(*pair, bundle=bundle, **options)
        assert void.interval.half_width is None
        assert reason in void.as_dict()["interval"]["not_measured"]
        write_audit(void, tmp_path / "void", overwrite=True)
        assert not (tmp_path / "void" / "interval.nii.gz").exists()


def test_a_damaged_file_is_named(bundle):
    path = bundle.root / "docs" / "interval.json"
    for content in ('{"version": 9}', '{"version": 1, "modalities": {}}', "[1]", '{"version": 2, "modalities": [1]}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"interval\.json is damaged or of another version"):
            read_calibration(bundle, "CT")
        with pytest.raises(ValueError, match=r"interval\.json is damaged or of another version"):
            write_calibration(path, "CT", calibrate([patient(1), patient(2)], "label", "", {}))
        assert path.read_text() == content


def test_other_names_of_settings_are_those_of_the_header():
    one = find_bundle("all_in_one_restore_rwkv")
    assert settings_of_result(one, {"CT mean_hu": "off"})["mean_hu"] == "off"
