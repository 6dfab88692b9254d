"""Degrading from file to file: the physics is tested in tests/transforms; here it is which image gets what, and why."""

import json
import os
import sys
from dataclasses import fields

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from phantoms import ct_series, ct_volume, mr_echoes, mr_series, pet_series
from PIL import Image
from scipy import ndimage
from skimage import data
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.cli.degrade import DEGRADATIONS
from medrestore_monai.degrader import TASKS, check_task, degrade
from medrestore_monai.dicom import read_series, read_stacks
from medrestore_monai.transforms import (
    AnisotropicGaussianBlur,
    BentMotionBlur,
    DefocusBlur,
    GaussianBlur,
    MotionBlur,
    VaryingBlur,
    truncate_kspace,
)
from medrestore_monai.transforms.axial_noise import axial_weights, correlation_of
from medrestore_monai.transforms.blur.kernels import motion_kernel


@pytest.mark.slow
def test_degrade_is_the_same_again_and_different_by_seed_and_patient(tmp_path):
    for patient in "pq":
        ct_series(tmp_path / "in" / patient / "scan", slices=2, size=96)
    for name, seed in {"one": 1, "two": 1, "three": 2}.items():
        written = degrade(tmp_path / "in", tmp_path / name, seed=seed)
        assert [one.output for one in written] == [tmp_path / name / patient / "scan" for patient in "pq"]
        assert all(one.parameters == {"dose": 0.25, "exact": False, "axial_correlation": 0.3} for one in written)
    source = read_series(tmp_path / "in" / "p" / "scan").array
    one, two, three, other = (
        read_series(tmp_path / name / "scan").array - source for name in ("one/p", "two/p", "three/p", "one/q")
    )
    np.testing.assert_array_equal(one, two)
    for noise in (three, other):
        assert abs(np.corrcoef(one.ravel(), noise.ravel())[0, 1]) < 0.1
    neighbors = np.corrcoef(one[..., 0].ravel(), one[..., 1].ravel())[0, 1]
    assert neighbors == pytest.approx(0.3, abs=0.06)
    tissue = (source > 0) & (source < 150)
    assert 15 < one[tissue].std() < 60  # the phantom has 15 HU; a quarter of the dose adds sqrt(3) times as much


@pytest.mark.slow
def test_degrade_takes_the_noise_of_other_slices_where_one_shows_no_tissue(tmp_path):
    volume = ct_volume(3, (128, 128))
    volume[..., 1] = -1000
    ct_series(tmp_path / "ct", volume=volume)
    degrade(tmp_path / "ct", tmp_path / "low", dose=0.25)
    noise = read_series(tmp_path / "low").array - read_series(tmp_path / "ct").array
    assert noise[..., 0].std() > 1
    assert noise[..., 1].std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_metal_and_padding_keep_their_stored_value_at_low_dose(tmp_path, exact):
    volume = ct_volume(1, (128, 128))
    volume[30:34, 40:44], volume[:9, :9] = 12000, -3024
    ct_series(tmp_path / "in", volume=volume, signed=True, bits_stored=16)
    degrade(tmp_path / "in", tmp_path / "out", seed=1, exact=exact)
    after = read_series(tmp_path / "out").array
    outside = (volume < -1024) | (volume > 3072)
    np.testing.assert_array_equal(after[outside], volume[outside])
    assert (after[~outside] != volume[~outside]).mean() > 0.5


@pytest.mark.slow
def test_degrade_exact_and_fast_have_the_same_level(tmp_path):
    ct_series(tmp_path / "ct", volume=ct_volume(1, (128, 128)))
    noise = {}
    for exact in (False, True):
        degrade(tmp_path / "ct", tmp_path / f"low{exact}", dose=0.25, exact=exact)
        difference = read_series(tmp_path / f"low{exact}").array - read_series(tmp_path / "ct").array
        noise[exact] = difference[48:80, 48:80].std()
    assert noise[True] == pytest.approx(noise[False] / 1.1, rel=0.15)  # the fast one draws 1.1 times the level


@pytest.mark.slow
def test_degrade_refuses_what_it_cannot_simulate(tmp_path):
    ct_series(tmp_path / "ct", slices=2, size=32)  # too small to measure its noise
    pet_series(tmp_path / "pet", slices=2)
    np.save(tmp_path / "a.npy", np.full((96, 96), np.nan))
    for options, message in (
        ({"task": "mri"}, "task must be one of ct_low_dose"),
        ({"dose": 0}, "dose must be a fraction"),
        ({"source": tmp_path / "ct"}, r"ct, slice 0: too little flat soft tissue"),
        ({"source": tmp_path / "pet"}, "modality PT, where CT is expected"),
        ({"source": tmp_path / "a.npy"}, r"a\.npy has 9216 infinite or NaN values"),
    ):
        with pytest.raises(ValueError, match=message):
            degrade(**{"source": tmp_path / "ct", "output": tmp_path / "out", **options})
        assert not (tmp_path / "out").exists()


def test_every_task_is_named_by_the_command():
    assert DEGRADATIONS.split(", ") == list(TASKS)


@pytest.mark.slow
def test_a_series_is_blurred_by_one_kernel_and_its_header_records_it(tmp_path):
    ct_series(tmp_path / "ct", slices=3, size=(64, 48))
    (done,) = degrade(tmp_path / "ct", tmp_path / "out", "motion_blur", seed=4)
    source, blurred = read_series(tmp_path / "ct").array, read_series(tmp_path / "out").array
    kernel = motion_kernel(done.parameters["length"], done.parameters["angle"])
    expected = np.stack([ndimage.convolve(one, kernel, mode="mirror") for one in np.moveaxis(source, -1, 0)], axis=-1)
    np.testing.assert_allclose(blurred, expected, atol=0.51)  # stored as whole HU
    header = pydicom.dcmread(next((tmp_path / "out").iterdir()))
    recorded = json.loads(header.DerivationDescription[header.DerivationDescription.index("{") :])
    assert recorded == {"task": "motion_blur", "seed": 4, "simulated": True, **done.parameters}
    assert header.ImageType[0] == "DERIVED"
    assert "simulated motion blur" in header.SeriesDescription


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("bent_motion_blur", BentMotionBlur),
        ("anisotropic_gaussian_blur", AnisotropicGaussianBlur),
        ("defocus_blur", DefocusBlur),
        ("varying_blur", VaryingBlur),
    ],
)
def test_the_other_blurs_are_drawn_by_name_and_seed_alike_in_all_slices(tmp_path, task, expected):
    volume = np.random.RandomState(0).rand(41, 38, 2).astype(np.float32)
    nib.save(nib.Nifti1Image(volume[..., [0, 1, 0]], np.eye(4)), tmp_path / "a.nii.gz")
    (one,), (again,), (other,) = (
        degrade(tmp_path / "a.nii.gz", tmp_path / f"{name}.nii.gz", task, seed=seed)
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    assert one.parameters == again.parameters != other.parameters
    assert one.parameters.keys() <= {field.name for field in fields(expected)} | {"noise_std"}
    written = nib.load(one.output).get_fdata()
    np.testing.assert_array_equal(written, nib.load(again.output).get_fdata())
    np.testing.assert_array_equal(written[..., 0], written[..., 2])
    assert written.std() < 0.8 * volume.std()


def test_given_values_are_used_and_the_others_drawn_by_name_and_seed(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", ct_volume(1, (40, 30))[..., 0])
    parameters = {}
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        out = tmp_path / f"{name}{seed}.npy"
        (done,) = degrade(tmp_path / f"{name}.npy", out, "motion_blur", seed=seed, length=21.0)
        parameters[name, seed] = dict(done.parameters)
        expected = MotionBlur(21, done.parameters["angle"])(torch.from_numpy(np.load(tmp_path / f"{name}.npy"))[None])
        np.testing.assert_array_equal(np.load(out), expected[0].numpy())
    assert all(values["length"] == 21 and values["noise_std"] == 0 for values in parameters.values())
    assert len({values["angle"] for values in parameters.values()}) == 3
    (again,) = degrade(tmp_path / "a.npy", tmp_path / "again.npy", "motion_blur", seed=0, **parameters["a", 0])
    assert again.parameters == parameters["a", 0]
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "a0.npy").read_bytes()


@pytest.mark.slow
def test_a_magnetic_resonance_series_loses_the_periphery_of_k_space(tmp_path):
    mr_series(tmp_path / "mr", slices=2, size=(33, 24))
    degrade(tmp_path / "mr", tmp_path / "out", "mri_kspace", fraction=0.5)
    source = torch.from_numpy(read_series(tmp_path / "mr").array)[None]
    error = np.abs(read_series(tmp_path / "out").array - truncate_kspace(source, 0.5)[0].numpy()).max()
    assert error < 0.51  # stored as whole numbers
    assert not np.array_equal(read_series(tmp_path / "out").array, source[0].numpy())


@pytest.mark.parametrize("task", ["gaussian_blur", "mri_kspace"])
def test_stacks_are_degraded_alike_and_stay_one_series(tmp_path, task):
    (done,) = degrade(mr_echoes(tmp_path / "mr"), tmp_path / "out", task)
    for echo, source in enumerate(read_stacks(tmp_path / "mr"), 1):
        folder = tmp_path / "out" / f"stack0{echo}_echo"
        image = torch.from_numpy(source.array)[None]
        if task == "mri_kspace":
            expected = truncate_kspace(image, 0.25)[0].numpy()
        else:
            expected = GaussianBlur(done.parameters["sigma"])(image)[0].numpy()
        np.testing.assert_allclose(read_series(folder).array, expected, atol=0.51)  # stored as whole numbers
    assert len({pydicom.dcmread(file).SeriesInstanceUID for file in (tmp_path / "out").rglob("*.dcm")}) == 1
    assert [str(one.name) for one in read_stacks(tmp_path / "out")] == ["echo 1 of 2, 5 ms", "echo 2 of 2, 10 ms"]


def test_each_stack_has_noise_of_its_own_and_may_be_taken_alone(tmp_path):
    mr_echoes(tmp_path / "mr")
    degrade(tmp_path / "mr", tmp_path / "all", "sensor_noise", noise_std=20)
    alone = ["degrade", tmp_path / "mr", "-o", tmp_path / "two", "--stack", 2, "--task", "sensor_noise"]
    result = CliRunner().invoke(app, [*map(str, alone), "--noise-std", "20"])
    assert result.exit_code == 0, result.output
    sources, noisy = read_stacks(tmp_path / "mr"), read_stacks(tmp_path / "all")
    one, two = (after.array - before.array for after, before in zip(noisy, sources, strict=True))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1
    assert one.std() == pytest.approx(20, rel=0.05)
    np.testing.assert_array_equal(read_series(tmp_path / "two").array, noisy[1].array)


def test_stacks_that_would_be_degraded_otherwise_ask_for_the_value(tmp_path):
    mr_echoes(tmp_path / "mr")
    with pytest.raises(ValueError, match="its stacks would differ in upper: give upper"):
        degrade(tmp_path / "mr", tmp_path / "out", "jpeg")
    assert not (tmp_path / "out").exists()
    degrade(tmp_path / "mr", tmp_path / "out", "jpeg", lower=0, upper=4000)
    assert len(read_stacks(tmp_path / "out")) == 2


@pytest.mark.slow
def test_positron_emission_is_simulated_in_suv(tmp_path):
    pet_series(tmp_path / "pet", slices=2, size=(40, 36))
    source = read_series(tmp_path / "pet").array
    degrade(tmp_path / "pet", tmp_path / "out", "pet_low_count", suv_factor=5 / float(source.max()))
    body = source > source.max() / 10
    noise = read_series(tmp_path / "out").array[body] / source[body] - 1
    # four times the activity counts more, and scatters more: 0.5 to 0.8 of the noise, drawn from the same seed
    degrade(tmp_path / "pet", tmp_path / "hot", "pet_low_count", suv_factor=20 / float(source.max()))
    less = read_series(tmp_path / "hot").array[body] / source[body] - 1
    assert 0.01 < 0.5 * noise.std() < less.std() < 0.8 * noise.std()
    assert np.corrcoef(noise, less)[0, 1] > 0.95


@pytest.mark.slow
def test_the_suv_comes_from_the_header_or_the_user(tmp_path):
    paths = pet_series(tmp_path / "pet", slices=2, size=(40, 36))
    (done,) = degrade(tmp_path / "pet", tmp_path / "given", "pet_low_count")
    # 70 kg and 370 MBq, which have decayed for some time
    assert done.parameters["suv_factor"] > 70_000 / 370e6
    for path in paths:
        header = pydicom.dcmread(path)
        del header.PatientWeight
        header.save_as(path)
    with pytest.raises(ValueError, match=r"pet does not give its SUV per unit: give the suv_factor"):
        degrade(tmp_path / "pet", tmp_path / "out", "pet_low_count")
    assert not (tmp_path / "out").exists()


def test_a_volume_without_unit_is_taken_as_suv(tmp_path):
    suv = ct_volume(2, (40, 36)).clip(0) / 100
    nib.save(nib.Nifti1Image(suv, np.diag([4.0, 4.0, 3.0, 1.0])), tmp_path / "a.nii")
    (done,) = degrade(tmp_path / "a.nii", tmp_path / "b.nii", "pet_low_count", drf=4)
    assert done.parameters == {"drf": 4, "suv_factor": 1.0, "axial_width": 5.0}
    written = nib.load(tmp_path / "b.nii").get_fdata()
    assert written.min() == 0
    assert not np.array_equal(written, suv)


def test_positron_emission_of_no_unit_that_is_no_suv_is_refused(tmp_path):
    """Activity in Bq/ml gets hardly any noise if it is taken for SUV."""
    suv = ct_volume(2, (40, 36)).clip(0) / 100
    for name, factor in (("suv", 1), ("activity", 6000)):
        nib.save(nib.Nifti1Image((suv * factor).astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii")
    with pytest.raises(ValueError, match=r"activity\.nii has values up to .* no SUV: give the suv_factor"):
        degrade(tmp_path / "activity.nii", tmp_path / "out.nii", "pet_low_count")
    command = ["degrade", str(tmp_path / "activity.nii"), "-o", str(tmp_path / "out.nii"), "--task", "pet_low_count"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, list(tmp_path.glob("out*"))) == (3, [])
    assert "which are no SUV: give the suv_factor" in " ".join(result.output.split())
    degrade(tmp_path / "suv.nii", tmp_path / "a.nii", "pet_low_count")
    degrade(tmp_path / "activity.nii", tmp_path / "b.nii", "pet_low_count", suv_factor=1 / 6000)
    noise, other = (nib.load(tmp_path / n).get_fdata() / f - suv for n, f in (("a.nii", 1), ("b.nii", 6000)))
    assert other.std() == pytest.approx(noise.std(), rel=0.2)


def test_a_nifti_volume_gets_new_noise_in_every_slice(tmp_path):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(np.full((40, 50, 3), 100, np.float32), affine), tmp_path / "a.nii.gz")
    degrade(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "sensor_noise", noise_std=5.0, seed=1)
    written = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    noise = written.get_fdata() - 100
    assert noise.std() == pytest.approx(5, rel=0.05)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.08


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("motion_blur", {"noise_std": 2.0}),
        ("linear_motion_blur", {"length": 5, "angle": 30}),
        ("gaussian_blur", {"sigma": 1}),
        ("bent_motion_blur", {"length": 9, "bend": 40}),
        ("anisotropic_gaussian_blur", {"sigma_along": 2, "sigma_across": 0.7, "angle": 30}),
        ("defocus_blur", {"radius": 2.5}),
        ("varying_blur", {"width": 9, "noise_std": 1.0}),
        ("sensor_noise", {"noise_std": 3}),
        ("down_sampling", {"factor": 3}),
        ("jpeg", {"quality": 20}),
    ],
)
def test_color_pictures_stay_what_they_are(tmp_path, task, options, ending):
    rows = data.astronaut()[100:161, 100:150]
    Image.fromarray(rows).save(tmp_path / f"a.{ending}")
    degrade(tmp_path / f"a.{ending}", tmp_path / f"b.{ending}", task, **options)
    written = np.asarray(Image.open(tmp_path / f"b.{ending}"))
    assert (written.shape, written.dtype) == (rows.shape, rows.dtype)
    assert 0.5 < np.abs(written.astype(float) - rows).mean() < 60


@pytest.mark.parametrize(("dtype", "upper"), [(np.uint8, 255), (np.uint16, 65535)])
def test_jpeg_spans_the_range_of_the_integers(tmp_path, dtype, upper):
    Image.fromarray(np.tile(np.arange(64, dtype=dtype), (64, 1))).save(tmp_path / "a.png")
    (done,) = degrade(tmp_path / "a.png", tmp_path / "b.png", "jpeg", quality=90)
    assert (done.parameters["lower"], done.parameters["upper"]) == (0, upper)


def test_jpeg_spans_the_extremes_of_calibrated_pictures(tmp_path):
    """A calibration by ImageJ, so that pixels are not what the integers can have."""
    stored = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    calibration = "ImageJ=1.54f\nimages=1\ncf=0\nc0=-10\nc1=0.5\nvunit=Gray Value\n"
    tifffile.imwrite(tmp_path / "a.tif", stored, description=calibration, metadata=None)
    (done,) = degrade(tmp_path / "a.tif", tmp_path / "b.tif", "jpeg", quality=100)
    assert (done.parameters["lower"], done.parameters["upper"]) == (-10, 21.5)
    assert np.abs(tifffile.imread(tmp_path / "b.tif").astype(float) - stored).max() <= 2


@pytest.mark.slow
def test_jpeg_spans_the_extremes_of_other_images(tmp_path):
    ct_series(tmp_path / "ct", slices=2, size=32)
    (done,) = degrade(tmp_path / "ct", tmp_path / "out", "jpeg", quality=90)
    array = read_series(tmp_path / "ct").array
    assert (done.parameters["lower"], done.parameters["upper"]) == (array.min(), array.max())
    (done,) = degrade(tmp_path / "ct", tmp_path / "window", "jpeg", quality=90, lower=-160, upper=240)
    assert (done.parameters["lower"], done.parameters["upper"]) == (-160, 240)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("gaussian_blur", {"angle": 3.0}, "task gaussian_blur has no option angle; it takes sigma, noise_std"),
        ("ct_low_dose", {"quality": 3}, "task ct_low_dose has no option quality"),
        ("sensor_noise", {}, "needs noise_std"),
        ("jpeg", {"lower": 3.0}, "lower and upper together"),
        ("jpeg", {"quality": 0}, "quality must be"),
        ("mri_kspace", {"fraction": 1.5}, "fraction must lie in"),
        ("pet_low_count", {"drf": 0.5}, "must be at least 1"),
        ("pet_low_count", {"suv_factor": 0}, "suv_factor must be above 0"),
        ("motion_blur", {"length": 20.5}, "whole pixels"),
        ("motion_blur", {"noise_std": -1}, "std must be"),
        ("linear_motion_blur", {"length": 0.5}, "length must be"),
        ("gaussian_blur", {"sigma": float("inf")}, "sigma must be"),
        ("bent_motion_blur", {"bend": 200}, "bend must be"),
        ("anisotropic_gaussian_blur", {"sigma_across": 0.1}, "sigma_across must be"),
        ("anisotropic_gaussian_blur", {"sigma": 1}, "takes sigma_along, sigma_across, angle, noise_std"),
        ("defocus_blur", {"radius": -1}, "radius must be"),
        ("varying_blur", {"width": 0.5}, "width must be"),
        ("down_sampling", {"factor": 0}, "factor must be"),
    ],
)
def test_an_option_of_another_task_or_out_of_range_is_a_usage_error(tmp_path, task, options, message):
    with pytest.raises(ValueError, match=message):
        check_task(task, options)
    np.save(tmp_path / "a.npy", np.zeros((16, 16), np.float32))
    args = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]
    result = CliRunner().invoke(
        app, ["degrade", str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.npy"), "--task", task, *args]
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not (tmp_path / "b.npy").exists()


def test_the_command_prints_the_drawn_values(tmp_path):
    np.save(tmp_path / "a.npy", ct_volume(1, (40, 30))[..., 0])
    args = [
        "degrade",
        str(tmp_path / "a.npy"),
        "-o",
        str(tmp_path / "b.npy"),
        "--task",
        "motion_blur",
        "--angle",
        "-20",
    ]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "(motion_blur: length " in result.stdout
    assert "angle -20.0, noise_std 0.0)" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_what_a_slice_is_too_small_for_names_the_slice(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 5), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy, slice 0: factor must be a whole number in 1\.\.2"):
        degrade(tmp_path / "a.npy", tmp_path / "b.npy", "down_sampling", factor=3)
    assert not (tmp_path / "b.npy").exists()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("motion_blur", {"length": 4000}, "length must be .* in .1, 1000., got 4000"),
        ("linear_motion_blur", {"length": 1e9}, "length must be .* in .1, 1000., got 1000000000.0"),
        ("gaussian_blur", {"sigma": 1e6}, "sigma must be .* in .0, 1000., got 1000000.0"),
    ],
)
def test_blurs_wider_than_any_picture_are_usage_errors(task, options, message):
    with pytest.raises(ValueError, match=message):
        check_task(task, options)


def test_what_a_transform_refuses_is_said_in_its_own_words(tmp_path, monkeypatch):
    def refuse(self, image):
        raise ValueError("this picture is too dark.")

    monkeypatch.setattr(MotionBlur, "__call__", refuse)
    Image.fromarray(data.camera()[:40, :40]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png, slice 0: this picture is too dark\.$"):
        degrade(tmp_path / "a.png", tmp_path / "b.png", "motion_blur", length=5)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_name_that_is_no_utf8(tmp_path):
    name = os.fsdecode(b"g\xff.png")
    Image.fromarray(data.camera()[:40, :40]).save(tmp_path / name)
    arguments = ["degrade", str(tmp_path / name), "-o", str(tmp_path / "out.png"), "--task", "jpeg", "--quality", "50"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "expected"), [(None, 0.3), (0.0, 0.0), (0.8, 0.8)])
def test_noise_of_neighboring_ct_slices_is_correlated_as_asked(tmp_path, asked, expected):
    ct_series(tmp_path / "ct", slices=6, size=(128, 121))
    options = {} if asked is None else {"axial_correlation": asked}
    (done,) = degrade(tmp_path / "ct", tmp_path / "low", **options)
    assert done.parameters["axial_correlation"] == expected
    noise = read_series(tmp_path / "low").array - read_series(tmp_path / "ct").array
    assert np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1] == pytest.approx(expected, abs=0.06)
    header = pydicom.dcmread(next((tmp_path / "low").iterdir()))
    assert f'"axial_correlation": {expected}' in header.DerivationDescription


@pytest.mark.parametrize("asked", [0.0, 4.0, 8.0])
def test_noise_of_neighboring_pet_slices_is_correlated_by_their_distance(tmp_path, asked):
    volume = np.full((64, 61, 6), 8000.0)
    pet_series(tmp_path / "pet", volume=volume)
    (done,) = degrade(tmp_path / "pet", tmp_path / "low", "pet_low_count", axial_width=asked)
    assert done.parameters["axial_width"] == asked
    source = read_series(tmp_path / "pet")
    noise = np.log(read_series(tmp_path / "low").array / source.array)
    expected = correlation_of(axial_weights(asked, source.spacing[2]))
    assert np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1] == pytest.approx(expected, abs=0.1)
    header = pydicom.dcmread(next((tmp_path / "low").iterdir()))
    assert f'"axial_width": {asked}' in header.DerivationDescription


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--axial-correlation", "0.99"], "axial_correlation must be in 0..0.95"),
        (["--exact", "--axial-correlation", "0.3"], "exact slices are independent"),
        (["--axial-width", "5"], "task ct_low_dose has no option axial_width"),
        (["--task", "pet_low_count", "--axial-width", "-1"], "axial_width must be in 0..100 mm"),
    ],
)
def test_a_correlation_that_cannot_be_is_a_usage_error(tmp_path, options, message):
    ct_series(tmp_path / "ct", slices=2, size=96)
    result = CliRunner().invoke(app, ["degrade", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
