"""What cannot be HU is refused by every command that takes CT; what may be HU or not needs the user's word."""

import re

import nibabel as nib
import numpy as np
import pytest
import tifffile
from monai.bundle import run as run_bundle
from phantoms import ct_series, ct_volume
from PIL import Image
from tiny_bundle import NAME, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.data.hounsfield import check_hounsfield
from medrestore_monai.dicom import DicomError, read_series

SIZE = (128, 112)
CT = ct_volume(2, SIZE)
MU_WATER = 0.019  # per mm, at 70 keV
#: By name: the image, and what is said of it.
NO_HU = {
    "scaled to 0..1": ((CT + 1024) / 4096, "cannot be HU"),
    "scaled to -1..1": ((CT + 1024) / 2048 - 1, "cannot be HU"),
    "standard scores": ((CT - CT.mean()) / CT.std(), "cannot be HU"),
    "attenuation per mm": (np.clip(CT / 1000 + 1, 0, None) * MU_WATER, "cannot be HU"),
    "gray levels of 16 bit": (((CT + 1024) * 16).astype(np.uint16), "gray levels"),
    "labels": ((CT > 0).astype(np.int16), "cannot be HU"),
    "stored values": (
        (CT + 1024).astype(np.int16),
        "no value below 0.*--hu-offset.*-1024 for most stored values, 0 if",
    ),
    "stored values as floats": (CT + 1024, "no value below 0"),
}


def write(path, volume):
    nib.save(nib.Nifti1Image(volume.astype(np.float32) if volume.dtype == np.float64 else volume, np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name in (NAME, "all_in_one_restore_rwkv", "pet_synthesis_restore_rwkv"):
        make_tiny_bundle(folder, name)
    return folder


@pytest.fixture(autouse=True)
def _found(bundles, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundles))


def invoke(code, *args):
    if args[0] == "restore" and "--bundle" not in args:
        args = (*args, "--bundle", NAME)
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.split())


def commands(tmp_path, *options):
    """The commands that take CT, each with its input and output."""
    data, places = tmp_path / "data", [tmp_path / "data" / "a.nii.gz", "-o", tmp_path / "out.nii.gz"]
    all_in_one = ["--bundle", "all_in_one_restore_rwkv", "--modality", "CT"]
    return {
        "restore": ["restore", *places, *options],
        "all in one": ["restore", *places, *all_in_one, *options],
        "degrade": ["degrade", *places, *options],
        "evaluate": ["evaluate", "--data", data, "-o", tmp_path / "report", "--baselines", "none", *options],
    }


#: All of it is refused by one function; every command is tried with two.
REFUSED = [(name, "restore") for name in NO_HU]
REFUSED += [
    (name, command) for command in ("all in one", "degrade", "evaluate") for name in ("scaled to 0..1", "labels")
]


@pytest.mark.parametrize(("name", "command"), REFUSED)
def test_what_cannot_be_hu_is_refused(tmp_path, name, command):
    image, reason = NO_HU[name]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.nii.gz", image)
    message = invoke(3, *commands(tmp_path)[command])
    assert re.search(reason, message)
    assert "a.nii.gz" in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("command", ["restore", "all in one", "degrade", "evaluate"])
@pytest.mark.parametrize(("offset", "image"), [(-1024, CT + 1024), (0, np.clip(CT, 0, None)), (0, CT)])
def test_the_users_word_lets_it_pass(tmp_path, command, offset, image):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.nii.gz", image.astype(np.int16))
    invoke(0, *commands(tmp_path, "--hu-offset", offset)[command])


def test_stored_values_are_restored_as_the_hu_they_mean(tmp_path):
    writers = {
        "a.nii.gz": lambda path, volume: write(path, volume.astype(np.int16)),
        "b.tif": lambda path, volume: tifffile.imwrite(path, volume.astype(np.int16).T, photometric="minisblack"),
        "c.npy": lambda path, volume: np.save(path, volume.astype(np.float32)),
    }
    read = {
        "a.nii.gz": lambda path: np.asarray(nib.load(path).dataobj),
        "b.tif": lambda path: tifffile.imread(path).T,
        "c.npy": np.load,
    }
    for name, writer in writers.items():
        writer(tmp_path / f"hu_{name}", CT)
        writer(tmp_path / f"stored_{name}", CT + 1024)
        invoke(0, "restore", tmp_path / f"hu_{name}", "-o", tmp_path / f"out_hu_{name}")
        invoke(0, "restore", tmp_path / f"stored_{name}", "-o", tmp_path / f"out_stored_{name}", "--hu-offset", "-1024")
        hu, stored = (read[name](tmp_path / f"out_{kind}_{name}") for kind in ("hu", "stored"))
        np.testing.assert_allclose(stored, hu + 1024.0, rtol=0, atol=1e-3 if name == "c.npy" else 0)
        assert (hu != CT).mean() > 0.5


def test_metal_in_stored_values_keeps_all_its_digits(tmp_path):
    volume = CT + 1024
    volume[60:64, 50:54] = 13024.3703
    np.save(tmp_path / "a.npy", volume.astype(np.float32))
    invoke(0, "restore", tmp_path / "a.npy", "-o", tmp_path / "out.npy", "--hu-offset", "-1024")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[60:64, 50:54], np.float32(13024.3703))


def test_a_picture_of_stored_values(tmp_path):
    Image.fromarray((CT[..., 0] + 1024).astype(np.uint16).T).save(tmp_path / "a.png")
    invoke(3, "restore", tmp_path / "a.png", "-o", tmp_path / "out.png")
    invoke(0, "restore", tmp_path / "a.png", "-o", tmp_path / "out.png", "--hu-offset", "-1024", "--strength", "0")
    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("a", "out"))
    np.testing.assert_array_equal(after, before)


def test_hu_are_not_shifted_by_mistake(tmp_path):
    write(tmp_path / "a.nii.gz", CT.astype(np.int16))
    message = invoke(3, "restore", tmp_path / "a.nii.gz", "-o", tmp_path / "out.nii.gz", "--hu-offset", "-1024")
    assert "has values below 0 and looks like HU: it needs no hu_offset of -1024" in message


def test_interpolation_and_padding_below_stored_values_are_no_hu():
    stored = CT + 1024
    stored[:30, :30] = -2000
    stored[30, :50] = -3
    check_hounsfield(stored, "a", "int16", -1024)


def test_one_value_may_be_anything():
    for value in (0.0, -1000.0, 7.0):
        check_hounsfield(np.full((4, 4), value), "a", "int16")


@pytest.mark.parametrize("volume", [np.clip(CT, 1, None), np.where(CT < 9999, np.arange(SIZE[1])[:, None] % 9 + 30, 0)])
def test_dicom_with_a_sound_slope_and_intercept_is_trusted(tmp_path, volume):
    ct_series(tmp_path / "in", volume=volume.astype(np.float32))
    for options in ((), ("--hu-offset", "-1024")):
        invoke(0, "restore", tmp_path / "in", "-o", tmp_path / "out", "--strength", "0", "--overwrite", *options)
        np.testing.assert_array_equal(read_series(tmp_path / "out").array, volume)


def test_dicom_that_can_store_no_air_needs_the_users_word(tmp_path):
    ct_series(tmp_path / "right", volume=CT)
    ct_series(tmp_path / "in", volume=CT + 1024, intercept=0)
    assert "leave no value for air" in invoke(3, "restore", tmp_path / "in", "-o", tmp_path / "out")
    invoke(0, "restore", tmp_path / "in", "-o", tmp_path / "out", "--hu-offset", "-1024")
    invoke(0, "restore", tmp_path / "right", "-o", tmp_path / "expected")
    np.testing.assert_array_equal(read_series(tmp_path / "out").array - 1024, read_series(tmp_path / "expected").array)
    header = read_series(tmp_path / "out").datasets[0]
    assert '"hu_offset": -1024.0' in header.DerivationDescription


def test_dicom_whose_slope_makes_no_hu_is_refused(tmp_path):
    ct_series(tmp_path / "in", volume=(CT + 1024) / 4096, slopes=[1 / 4096] * 2, intercept=0)
    with pytest.raises(DicomError, match=r"can store 0 to 0.999\d* by its slope and intercept, which cannot be HU"):
        read_series(tmp_path / "in")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["restore", "a.nii.gz", "--bundle", "pet_synthesis_restore_rwkv"], "hu-offset is for CT, not for PT"),
        (["restore", "a.nii.gz", "--bundle", "all_in_one_restore_rwkv", "--modality", "MR"], "is for CT, not for MR"),
        (["restore", "a.nii.gz", "--set", "hu_offset=0"], "hu_offset is not set by --set but by --hu-offset"),
        (["degrade", "a.nii.gz", "--task", "mri_kspace"], "task mri_kspace is not for CT"),
        (["evaluate", "--data", ".", "--bundle", "pet_synthesis_restore_rwkv"], "hu-offset is for CT, not for PT"),
    ],
)
def test_an_offset_of_what_is_no_ct_is_a_usage_error(tmp_path, monkeypatch, args, reason):
    monkeypatch.chdir(tmp_path)
    write("a.nii.gz", CT.astype(np.int16))
    assert reason in invoke(2, *args, "-o", "out", "--hu-offset", "-1024")


@pytest.mark.slow
def test_monai_takes_it_as_a_value_of_the_configuration(tmp_path, bundles):
    write(tmp_path / "a.nii.gz", (CT + 1024).astype(np.int16))
    configs = bundles / NAME / "configs"
    files = {"config_file": str(configs / "inference.json"), "meta_file": str(configs / "metadata.json")}
    places = {"dataset_dir": str(tmp_path / "a.nii.gz"), "output_dir": str(tmp_path / "out.nii.gz")}
    run_bundle(
        run_id="inference", logging_file=False, bundle_root=str(bundles / NAME), hu_offset=-1024, **files, **places
    )
    invoke(0, "restore", tmp_path / "a.nii.gz", "-o", tmp_path / "cli.nii.gz", "--hu-offset", "-1024")
    ours, monais = (nib.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in ("cli", "out"))
    np.testing.assert_array_equal(ours, monais)


def test_a_single_slice_is_judged_by_its_whole_volume(tmp_path):
    volume = CT.copy()
    volume[..., 1] = 40 + np.arange(SIZE[1])  # no air in this one
    write(tmp_path / "a.nii.gz", volume.astype(np.int16))
    image = LoadImageOrSeriesd("image", modality="CT")({"image": tmp_path / "a.nii.gz", "slice": 1})["image"]
    np.testing.assert_array_equal(image[0], volume[..., 1])
    with pytest.raises(ValueError, match="MR images have no HU"):
        LoadImageOrSeriesd("image", modality="MR", hu_offset=0)
    with pytest.raises(ValueError, match="hu_offset must be a number of HU, got nan"):
        LoadImageOrSeriesd("image", modality="CT", hu_offset=float("nan"))


def test_pairs_are_judged_too(tmp_path):
    for name in ("LQ", "HQ"):
        (tmp_path / "data" / name / "p").mkdir(parents=True)
        np.save(tmp_path / "data" / name / "p" / "a.npy", (CT[..., 0] + 1024).astype(np.int16))
    args = ["evaluate", "--data", tmp_path / "data", "--layout", "paired", "--baselines", "none"]
    args += ["-o", tmp_path / "report"]
    assert "no value below 0" in invoke(3, *args)
    invoke(0, *args, "--hu-offset", "-1024")
