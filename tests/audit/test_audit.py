"""The whole audit, of volumes in memory and of files and series."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from noise_fields import correlated_noise
from phantoms import body_phantom, ct_series, ct_volume

from medrestore_monai.audit import Volume, audit
from medrestore_monai.audit.page import render_page
from medrestore_monai.audit.reading import read_pair
from medrestore_monai.audit.writing import audit_restoration
from medrestore_monai.bundles import find_bundle
from medrestore_monai.dicom import Derivation, read_series, write_derived_series

SPACING = (1.2, 1.2, 2.5)


def images(size=(160, 151), slices=2):
    clean = np.repeat(body_phantom(size)[..., None], slices, axis=2)
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    inside = clean > -900
    return np.rint(clean + noise * inside), np.rint(clean + 0.4 * noise * inside)


@pytest.mark.slow
def test_every_figure_has_a_unit_and_a_method_or_a_reason():
    source, restored = images()
    found = audit(Volume(source, "CT", SPACING), Volume(restored, "CT", SPACING), bundle="ct_denoise_restore_rwkv")
    report = json.loads(found.json())
    figures = [*report["noise"], *report["sharpness"], *report["bias"], *report["faithfulness"]["figures"]]
    assert len(figures) > 8
    for figure in figures:
        assert figure["unit"], figure
        assert figure["method"], figure
        assert (figure["after"] is None) == bool(figure["not_measured"]), figure
    assert report["noise"][0]["before"] == pytest.approx(15, rel=0.1)
    assert report["noise"][0]["after"] == pytest.approx(6, rel=0.1)
    assert report["provenance"]["bundle"].startswith("ct_denoise_restore_rwkv")
    assert len(report["provenance"]["weights_sha256"]) == 64
    assert report["scope"]["state"] != "unknown"
    assert report["interval"]["not_measured"]
    assert set(report["timing_s"]) >= {"noise", "sharpness", "bias", "scope", "faithfulness"}


def test_an_image_compared_with_itself_has_no_flag_and_no_shift():
    source, _ = images()
    found = audit(Volume(source, "CT", SPACING), Volume(source, "CT", SPACING))
    assert found.faithfulness.count == 0
    assert all(figure.change == 0 for figure in found.bias if figure.after is not None)
    assert found.scope.state == "unknown"
    assert found.verdict.light == "green"


@pytest.mark.slow
def test_a_shift_and_an_invention_make_the_light_red():
    source, restored = images()
    restored = restored + 10 * (np.abs(restored - 50) < 80)
    restored[60:68, 60:68, 1] += 150
    found = audit(Volume(source, "CT", SPACING), Volume(restored, "CT", SPACING))
    assert found.verdict.light == "red"
    assert any("soft tissue moved" in reason for reason in found.verdict.reasons)
    strongest = found.faithfulness.flags[0]
    assert (strongest.slice, strongest.z > 0) == (1, True)
    assert abs(strongest.x - 63.5) < 4 > abs(strongest.y - 63.5)


@pytest.mark.slow
def test_a_series_and_its_restored_one_are_read(tmp_path):
    source, restored = images((96, 83))

    def derived(ds, index):
        ds.DerivationDescription = f"denoise, weights SHA-256 {'ab' * 32} and more"

    ct_series(tmp_path / "in", volume=source, spacing=(1.2, 1.2))
    ct_series(tmp_path / "out", volume=restored, spacing=(1.2, 1.2), series="b", edit=derived)
    found = audit(tmp_path / "in", tmp_path / "out")
    assert (found.source.unit, found.source.spacing) == ("HU", pytest.approx(SPACING))
    assert np.array_equal(found.restored.array, restored)
    assert found.provenance["weights_sha256"] == "ab" * 32
    assert found.source.about["tube voltage"] == "120 kV"
    assert "Canary" not in found.json()


@pytest.mark.slow
def test_nifti_needs_a_modality_and_one_grid(tmp_path):
    source, restored = images((64, 60))
    affine = np.diag([-1.2, -1.2, 2.5, 1])
    for name, values, place in (("a", source, affine), ("b", restored, affine), ("c", restored, 2 * affine)):
        nib.save(nib.Nifti1Image(values.astype(np.int16), place), tmp_path / f"{name}.nii.gz")
    with pytest.raises(ValueError, match="give `modality=CT`, MR or PT"):
        audit(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match="not on the grid"):
        audit(tmp_path / "a.nii.gz", tmp_path / "c.nii.gz", modality="CT")
    assert audit(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", modality="CT").source.spacing == pytest.approx(SPACING)


def test_the_slices_lie_across_the_axis_that_they_were_restored_across(tmp_path):
    source, restored = images((64, 60), 5)
    # the slices come first, and voxels are cubes, so that the header does not say so
    affine = np.eye(4)[[1, 2, 0, 3]]
    paths = [tmp_path / "a.nii", tmp_path / "b.nii"]
    for path, values in zip(paths, (source, restored), strict=True):
        nib.save(nib.Nifti1Image(values.transpose(2, 0, 1).astype(np.int16), affine), path)
    bundle = find_bundle("ct_denoise_restore_rwkv")
    settings = {"modality": "CT", "slice_axis": 0}
    done = audit_restoration(SimpleNamespace(bundle=bundle, settings=settings, weights_sha256="ab" * 32), *paths)
    wanted = audit(*(Volume(values, "CT") for values in (source, restored)), bundle=bundle)
    np.testing.assert_array_equal(done.restored.array, restored)
    for one, other in zip(done.noise.figures, wanted.noise.figures, strict=True):
        assert (one.before, one.after) == (pytest.approx(other.before), pytest.approx(other.after))
    assert audit(*paths, modality="CT").source.array.shape == (5, 64, 60)


def test_images_that_do_not_belong_together_are_refused():
    source, _ = images((64, 60))
    with pytest.raises(ValueError, match="on the grid of its source"):
        audit(Volume(source, "CT"), Volume(source[:-1], "CT"))
    with pytest.raises(TypeError, match="not one of each"):
        audit(Volume(source, "CT"), "restored.nii.gz")
    with pytest.raises(ValueError, match="NaN"):
        Volume(np.full((4, 4), np.nan), "CT")
    with pytest.raises(ValueError, match="spacing must be"):
        Volume(source, "CT", (0, 1, 1))


@pytest.mark.parametrize("modality", ["CT", "PT", "MR", "RGB", "GRAY"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 1), (17, 40, 2), (70, 65)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "constant", "zero"])
def test_no_image_is_too_small_or_too_plain_to_be_audited(modality, shape, kind):
    rng = np.random.default_rng(0)
    values = {"noise": rng.uniform(0, 200, shape), "constant": np.full(shape, 40.0), "zero": np.zeros(shape)}[kind]
    unit = "SUV" if modality == "PT" else ""
    source = Volume(values, modality, (2.0, 2.0, 3.0), unit)
    done = audit(source, source.like(0.9 * values), bundle="all_in_one_restore_rwkv")
    json.loads(done.json())
    assert "</html>" in render_page(done)


def test_a_result_and_its_source_in_the_wrong_order_are_refused(tmp_path):
    """By the headers: only the first of them names weights."""
    volume = ct_volume(2, (72, 61))
    ct_series(tmp_path / "in", volume=volume)
    derivation = Derivation("denoise", weights_sha256="0" * 64)
    series = read_series(tmp_path / "in")
    write_derived_series(series, series.array, tmp_path / "out", derivation)
    with pytest.raises(ValueError, match="out was made from in by its header: give the source first"):
        read_pair(tmp_path / "out", tmp_path / "in")
    first, second = read_pair(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(first.array, second.array)
