"""What bundles promise of their results, whatever the network does: measured k-space, total activity, units."""

import warnings

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_series, ct_volume, mr_series, pet_series
from tiny_bundle import NAME, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.bundles import find_bundle
from medrestore_monai.cli import app
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.dicom import read_series
from medrestore_monai.evaluate import Candidate, open_model

MRI, PET, ALL = "mri_superresolution_restore_rwkv", "pet_synthesis_restore_rwkv", "all_in_one_restore_rwkv"
SIZE = (40, 37)  # an even and an odd count of lines


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name in (NAME, MRI, PET, ALL):
        make_tiny_bundle(folder, name)
    return folder


@pytest.fixture(autouse=True)
def _found(bundles, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundles))


def restore(source, output, bundle, *options, code=0):
    command = ["restore", source, "-o", output, "--bundle", bundle, "--device", "cpu", *options]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == code, result.output
    return result


def positive(slices=3):
    """A phantom without negative values, far from any end of a range."""
    return (ct_volume(slices, SIZE, noise=0) + 1100) * 1.5


def write(path, volume):
    nib.save(nib.Nifti1Image(volume.astype(np.float32), np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path


def voxels(path):
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def center(volume):
    """The measured center of k-space of every slice, by NumPy."""
    spectrum = np.fft.fftshift(np.fft.fft2(volume, axes=(0, 1)), axes=(0, 1))
    rows, columns = (slice(n // 2 - half + 1, n // 2 + half) for n, half in zip(SIZE, (5, 5), strict=True))
    return spectrum[rows, columns]


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "options"), [(MRI, []), (ALL, ["--modality", "MR"])])
def test_the_measured_kspace_is_that_of_the_input(tmp_path, bundle, options):
    source = write(tmp_path / "mr.nii.gz", positive())
    restore(source, tmp_path / "kept.nii.gz", bundle, *options)
    restore(source, tmp_path / "off.nii.gz", bundle, *options, "--set", "kspace_kept=0")
    before, kept, off = (voxels(tmp_path / name) for name in ("mr.nii.gz", "kept.nii.gz", "off.nii.gz"))
    scale = np.abs(center(before)).max()
    assert np.abs(center(kept) - center(before)).max() < 1e-6 * scale
    assert np.abs(center(off) - center(before)).max() > 1e-4 * scale
    assert np.abs(kept - before).max() > 1  # the periphery is the network's


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bundle", "modality"), [(NAME, "CT"), (MRI, "MR"), (PET, "PT"), (ALL, "CT"), (ALL, "MR"), (ALL, "PT")]
)
def test_an_evaluation_scores_what_a_user_gets(tmp_path, bundle, modality):
    volume = ct_volume(3, SIZE) if modality == "CT" else positive() / (200 if modality == "PT" else 1)
    source = write(tmp_path / "source.nii.gz", volume)
    settings = {"mean_hu": "correct"} if (bundle, modality) == (ALL, "CT") else {}  # a tiny bundle's is off
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    restore(source, tmp_path / "out.nii.gz", bundle, "--modality", modality, *options)
    model = open_model(Candidate(bundle, find_bundle(bundle)), modality, tmp_path, "cpu", settings, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        item = LoadImageOrSeriesd("image", modality=modality)({"image": source})
        scored = model.restore({"image": item["image"], "label": item["image"]})
    np.testing.assert_allclose(scored[0], voxels(tmp_path / "out.nii.gz"), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "options"), [(PET, []), (ALL, ["--modality", "PT"])])
def test_the_total_activity_of_each_slice_stays(tmp_path, bundle, options):
    source = write(tmp_path / "pet.nii.gz", positive() / 200 * np.array([0.1, 1, 2]))
    restore(source, tmp_path / "kept.nii.gz", bundle, *options)
    restore(source, tmp_path / "off.nii.gz", bundle, *options, "--set", "keep_total_activity=false")
    before, kept, off = (
        voxels(tmp_path / name).sum(axis=(0, 1)) for name in ("pet.nii.gz", "kept.nii.gz", "off.nii.gz")
    )
    np.testing.assert_allclose(kept, before, rtol=1e-5)
    assert np.abs(off / before - 1).max() > 1e-3
    assert np.abs(voxels(tmp_path / "kept.nii.gz") - voxels(tmp_path / "pet.nii.gz")).max() > 0.01


@pytest.mark.slow
def test_hot_uptake_is_restored_and_scaled_as_all_of_its_slice(tmp_path):
    """Up to SUV 100, though images are scaled and scored in [0, 20]."""
    source = write(tmp_path / "pet.nii.gz", positive() / positive().max() * np.array([15, 60, 99]))
    restore(source, tmp_path / "kept.nii.gz", PET)
    restore(source, tmp_path / "off.nii.gz", PET, "--set", "keep_total_activity=false")
    before, kept, off = (voxels(tmp_path / name) for name in ("pet.nii.gz", "kept.nii.gz", "off.nii.gz"))
    hot = before > 25
    assert hot.sum() > 50
    assert (np.abs(off - before)[hot] > 1e-3).mean() > 0.9
    clear = (off > 1) & (off < 99.9)  # off its ends, where results are clipped
    for factor, used in zip(np.moveaxis(kept / np.where(clear, off, 1), -1, 0), np.moveaxis(clear, -1, 0), strict=True):
        np.testing.assert_allclose(factor[used], np.median(factor[used]), rtol=1e-4)


SERIES = {"CT": ct_series, "MR": mr_series, "PT": pet_series}
ALONE = {"CT": NAME, "MR": MRI, "PT": PET}


@pytest.mark.slow
@pytest.mark.parametrize("modality", SERIES)
def test_the_header_has_the_modality_and_strength_0_changes_nothing(tmp_path, modality):
    SERIES[modality](tmp_path / "scan", slices=3, size=SIZE)
    before = read_series(tmp_path / "scan")
    restore(tmp_path / "scan", tmp_path / "all", ALL)
    assert np.abs(read_series(tmp_path / "all").array - before.array).max() > 1
    for name, bundle in (("same", ALL), ("alone", ALONE[modality])):
        restore(tmp_path / "scan", tmp_path / name, bundle, "--strength", 0)
        after = read_series(tmp_path / name)
        assert after.modality == modality
        step = max(float(ds.get("RescaleSlope", 1)) for ds in after.datasets) if modality == "PT" else 0
        np.testing.assert_allclose(after.array, before.array, rtol=0, atol=0.5001 * step)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_step_for_one_modality_does_nothing_to_another(tmp_path, modality):
    source = write(tmp_path / "image.nii.gz", positive() - (2000 if modality == "CT" else 0))
    own = {"CT": "mean_hu=off", "MR": "kspace_kept=0"}[modality]
    restore(source, tmp_path / "a.nii.gz", ALL, "--modality", modality, "--set", own)
    settings = ("--set", "mean_hu=off", "--set", "kspace_kept=0", "--set", "keep_total_activity=false")
    restore(source, tmp_path / "b.nii.gz", ALL, "--modality", modality, *settings)
    np.testing.assert_array_equal(voxels(tmp_path / "a.nii.gz"), voxels(tmp_path / "b.nii.gz"))


@pytest.mark.slow
def test_a_file_of_no_modality_is_refused(tmp_path):
    source = write(tmp_path / "image.nii.gz", positive())
    result = restore(source, tmp_path / "out.nii.gz", ALL, code=3)
    assert "image.nii.gz names no modality: give its --modality: CT, MR or PT." in result.stderr
    assert not (tmp_path / "out.nii.gz").exists()
    for bundle, modality, allowed in ((ALL, "US", "CT, MR or PT"), (MRI, "CT", "MR")):
        result = restore(source, tmp_path / "out.nii.gz", bundle, "--modality", modality, code=2)
        assert f"modality must be {allowed}, got '{modality}'." in result.stderr
    restore(source, tmp_path / "out.nii.gz", MRI, "--modality", "MR")


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "modality"), [(NAME, "CT"), (PET, "PT"), (ALL, "CT"), (ALL, "PT")])
def test_noise_along_the_axis_is_a_setting_of_the_evaluation(tmp_path, bundle, modality):
    name, expected = {"CT": ("axial_correlation", 0.3), "PT": ("axial_width", 0.61)}[
        modality
    ]  # 5 mm, slices 3 mm apart
    source = write(tmp_path / "a.nii.gz", ct_volume(3, (128, 121)) if modality == "CT" else np.full((96, 91, 3), 4.0))
    for settings, asked in (({}, expected), ({name: 0}, 0.0)):
        model = open_model(Candidate(bundle, find_bundle(bundle)), modality, tmp_path, "cpu", settings, {})
        item = model.degrading({"label": str(source), "name": "a", "series_uid": ""})
        noise = (item["image"] - item["label"]).numpy()
        found = np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]
        assert found == pytest.approx(asked, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [NAME, ALL])
def test_an_evaluation_keeps_what_is_outside_of_the_range_as_a_restoration_does(tmp_path, bundle):
    hu = ct_volume(3, (40, 37))
    hu[:9, :, 1], hu[20:24, 20:24, 1] = -2000.3, 3500.7  # padding and metal
    source = write(tmp_path / "a.nii.gz", hu)
    model = open_model(Candidate(bundle, find_bundle(bundle)), "CT", tmp_path, "cpu", {}, {})
    item = model.degrading({"label": str(source), "name": "a", "slice": 1})
    outside = (item["image"] < -1024) | (item["image"] > 3072)
    assert outside.sum() > 300
    restored = model.restore(item)
    assert bool((restored[outside] == item["image"].as_tensor()[outside]).all())
    assert not bool((restored == item["image"].as_tensor()).all())
