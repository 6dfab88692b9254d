"""What is found in folders, how patients are split, and what becomes of files and slices."""

import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from monai.transforms import Compose
from phantoms import ct_series, ct_volume, mr_series, pet_series
from PIL import Image
from tiny_bundle import make_tiny_bundle

from medrestore_monai.data import LoadImageOrSeriesd, find_images, split_by_patient, training_slices
from medrestore_monai.dicom import DicomError, read_series
from medrestore_monai.images.in_memory import open_in_memory
from medrestore_monai.intensity import ToUnitRanged
from medrestore_monai.restorer import restore
from medrestore_monai.transforms.color import PictureModalityd

AFFINE = np.diag([-0.75, -0.75, 2.5, 1.0])


def write_nifti(path, volume):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), AFFINE), path)
    return path


def uid_of(folder):
    return read_series(folder).uid


@pytest.fixture
def cohort(tmp_path):
    """Three patients: NIfTI files, a DICOM series in subfolders and an archive, beside what is no image."""
    root = tmp_path / "cohort"
    write_nifti(root / "p1" / "a.nii.gz", ct_volume(2))
    write_nifti(root / "p1" / "b.nii", ct_volume(3))
    ct_series(root / "p2" / "scan", slices=3)
    files = ct_series(tmp_path / "packed", slices=2)
    (root / "p3").mkdir()
    with zipfile.ZipFile(root / "p3" / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    (root / "notes.txt").write_text("no image")
    ct_series(root / ".trash", slices=2)
    return root


@pytest.mark.slow
def test_find_images_lists_files_series_and_archives_in_order(cohort):
    found = find_images(cohort)
    assert [item["name"] for item in found] == ["p1/a.nii.gz", "p1/b.nii", "p2/scan", "p3/scan.zip"]
    assert [item["patient"] for item in found] == ["p1", "p1", "p2", "p3"]
    assert [item["series_uid"] for item in found] == [""] * 4
    assert found[2]["path"] == str(cohort / "p2" / "scan")


def test_find_images_names_the_series_of_a_folder_with_several(tmp_path):
    ct_series(tmp_path, slices=2, series="a")
    pet_series(tmp_path, slices=2, series="b")
    found = find_images(tmp_path)
    assert len({item["series_uid"] for item in found} - {""}) == 2
    assert {item["path"] for item in found} == {str(tmp_path)}


def test_a_single_file_is_one_image(tmp_path):
    path = write_nifti(tmp_path / "a.nii", ct_volume(2))
    assert [item["path"] for item in find_images(path)] == [str(path)]


def test_find_images_refuses_empty_and_missing_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="holds no image"):
        find_images(tmp_path / "empty")
    with pytest.raises(ValueError, match="no file or folder"):
        find_images(tmp_path / "missing")


def test_a_folder_that_may_not_be_read_is_an_error(cohort, forbid):
    forbid("p2")
    with pytest.raises(PermissionError, match="p2"):
        find_images(cohort)


def test_split_keeps_patients_apart_and_is_the_same_again():
    items = [{"patient": f"p{number % 7}", "path": str(number)} for number in range(40)]
    training, held_back = split_by_patient(items, fraction=0.3, seed=1)
    assert len(training) + len(held_back) == len(items)
    patients = [{item["patient"] for item in part} for part in (training, held_back)]
    assert patients[0].isdisjoint(patients[1])
    assert len(patients[1]) == 2  # 0.3 of 7
    assert split_by_patient(list(reversed(items)), fraction=0.3, seed=1)[1] == held_back[::-1]
    assert any(split_by_patient(items, 0.3, seed)[1] != held_back for seed in range(2, 6))


def test_split_refuses_what_cannot_be_split():
    with pytest.raises(ValueError, match="two patients or more, got 1"):
        split_by_patient([{"patient": "p"}] * 3)
    with pytest.raises(ValueError, match="fraction must be in"):
        split_by_patient([{"patient": "p"}, {"patient": "q"}], fraction=1.0)


def test_training_slices_are_all_slices_once(cohort):
    parts = {part: training_slices(cohort, part, fraction=0.4) for part in ("train", "validation", "all")}
    assert len(parts["all"]) == 2 + 3 + 3 + 2
    assert len(parts["train"]) + len(parts["validation"]) == len(parts["all"])
    named = [(item["name"], item["slice"]) for item in parts["all"]]
    assert len(set(named)) == len(named)
    with pytest.raises(ValueError, match="part must be"):
        training_slices(cohort, "tests")


def test_slices_are_those_of_the_volume(cohort):
    load = LoadImageOrSeriesd("label", modality="CT")
    for item in training_slices(cohort, "all"):
        whole = LoadImageOrSeriesd("label")({**item, "slice": None})["label"]
        one = load(item)["label"]
        assert one.shape == (1, 32, 32)
        np.testing.assert_array_equal(one.numpy(), whole.numpy()[..., item["slice"]])


def test_what_is_done_to_one_slice_does_not_reach_the_next_load(tmp_path):
    np.save(tmp_path / "a.npy", ct_volume(1)[..., 0])
    load, item = LoadImageOrSeriesd("image"), {"image": str(tmp_path / "a.npy"), "slice": 0}
    load(item)["image"].zero_()
    assert item["image"] == str(tmp_path / "a.npy")
    np.testing.assert_array_equal(load(item)["image"].numpy()[0], ct_volume(1)[..., 0])


def test_a_series_comes_in_hu_on_its_grid(tmp_path):
    ct_series(tmp_path / "ct", slices=4, size=(30, 24))
    image = LoadImageOrSeriesd("image", modality="CT")({"image": str(tmp_path / "ct")})["image"]
    assert image.shape == (1, 30, 24, 4)
    np.testing.assert_array_equal(image.numpy()[0], ct_volume(4, (30, 24)))
    np.testing.assert_allclose(image.affine.numpy(), read_series(tmp_path / "ct").affine)
    assert image.meta["unit"] == "HU"


@pytest.mark.parametrize("name", ["T1.nii", "1.2.3.zip"])
def test_a_series_in_a_folder_with_the_name_of_a_file(tmp_path, name):
    ct_series(tmp_path / "in" / name, slices=3)
    assert len(training_slices(tmp_path / "in", "all")) == 3
    image = LoadImageOrSeriesd("image")({"image": str(tmp_path / "in" / name)})["image"]
    np.testing.assert_array_equal(image.numpy()[0], ct_volume(3))


def test_the_named_series_of_several_is_taken(tmp_path):
    volume = ct_volume(2)
    ct_series(tmp_path / "both", volume=volume, series="a")
    ct_series(tmp_path / "both", volume=volume + 10, series="b")
    ct_series(tmp_path / "b", volume=volume + 10, series="b")
    item = {"image": str(tmp_path / "both"), "series_uid": uid_of(tmp_path / "b")}
    np.testing.assert_array_equal(LoadImageOrSeriesd("image")(item)["image"].numpy()[0], volume + 10)
    with pytest.raises(DicomError, match="2 series"):
        LoadImageOrSeriesd("image")({"image": str(tmp_path / "both")})


def test_the_wrong_modality_is_refused(tmp_path):
    pet_series(tmp_path / "pet", slices=2)
    with pytest.raises(DicomError, match="modality PT, where CT is expected"):
        LoadImageOrSeriesd("image", modality="CT")({"image": str(tmp_path / "pet")})
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "color.png")
    with pytest.raises(ValueError, match=r"color\.png is a color picture, where CT is expected"):
        LoadImageOrSeriesd("image", modality="CT")({"image": str(tmp_path / "color.png")})


def test_a_volume_three_voxels_wide_is_no_color_picture(tmp_path):
    volume = ct_volume(5, (3, 12))
    np.save(tmp_path / "thin.npy", volume)
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "color.png")
    load = LoadImageOrSeriesd("image")
    assert load({"image": str(tmp_path / "thin.npy")})["image"].shape == (1, 3, 12, 5)
    assert load({"image": str(tmp_path / "color.png")})["image"].shape == (3, 9, 8)
    assert len(training_slices(tmp_path, "all")) == 1 + 5


@pytest.mark.parametrize("kind", ["file", "series"])
def test_parts_of_an_mr_volume_carry_the_range_of_the_whole(tmp_path, kind):
    if kind == "file":
        path = tmp_path / "brain.nii.gz"
        values = np.random.default_rng(0).uniform(0, 50, (16, 17, 6)).astype(np.float32)
        values[..., 4] *= 4  # the brightest slice decides
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    else:
        path = tmp_path / "series"
        mr_series(path, slices=6)
        series = read_series(path)
        values = series.slab(0, 6)
    expected = 4095 if 1024 <= values.max() <= 4095 else np.percentile(values, 99.9)
    load = LoadImageOrSeriesd("image", modality="MR")
    for part in ({"slice": 1}, {"start": 2, "stop": 4}):
        lower, upper = load({"image": str(path), **part})["image"].meta["intensity_range"]
        assert (lower, upper) == (0, pytest.approx(expected))
    assert "intensity_range" not in load({"image": str(path)})["image"].meta
    if kind == "series":  # its header says that it is MR
        assert "intensity_range" in LoadImageOrSeriesd("image")({"image": str(path), "slice": 1})["image"].meta


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("part", [{"slice": 0}, {"slice": 2}, {"start": 0, "stop": 2}])
def test_parts_of_a_stack_of_pictures_carry_the_range_of_the_whole(tmp_path, dtype, color, part):
    top = {"uint8": (30, 60, 90), "int8": (30, 60, 90)}.get(dtype, (200, 900, 3000))
    stack = np.random.default_rng(0).random((3, 9, 14, *[3] * color))
    stack = (stack / stack.max() * np.reshape(top, (3, *[1] * (stack.ndim - 1)))).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb" if color else "minisblack", metadata=None)
    load = Compose([LoadImageOrSeriesd("image"), PictureModalityd("image"), ToUnitRanged("image", None)])
    whole = load({"image": str(tmp_path / "a.tif")})["image"]
    # 12 bit hold 3000
    assert whole.meta["intensity_range"] == [0.0, 4095.0 if max(top) > 255 else 255.0]
    found = load({"image": str(tmp_path / "a.tif"), **part})["image"]
    for name in ("intensity_range", "intensity_window"):
        assert found.meta[name] == whole.meta[name]
    numbers = part.get("slice", slice(part.get("start"), part.get("stop")))
    np.testing.assert_array_equal(found.numpy(), whole.numpy()[..., numbers])


def test_parts_of_a_stack_that_is_no_picture_get_no_range(tmp_path):
    stack = np.arange(3 * 9 * 14).reshape(3, 9, 14)
    for name, values in (("a", (stack - 1).astype("int16")), ("b", stack.astype("int32")), ("c", stack / 400)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack", metadata=None)
    nib.save(nib.Nifti1Image(stack.T.astype("uint16"), np.eye(4)), tmp_path / "d.nii")
    for name in ("a.tif", "b.tif", "c.tif", "d.nii"):
        for part in ({"slice": 1}, {"start": 1, "stop": 3}):
            image = LoadImageOrSeriesd("image")({"image": str(tmp_path / name), **part})["image"]
            assert "intensity_range" not in image.meta


@pytest.mark.filterwarnings("ignore:.*no value")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["file", "slab", "slice", "memory"])
def test_the_range_of_mr_leaves_padding_out(tmp_path, share, kind):
    rng = np.random.default_rng(0)
    values = rng.uniform(50, 700, (24, 25, 4)).astype(np.float32)
    values[rng.random(values.shape) < share] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "brain.nii")
    expected = np.percentile(values[np.isfinite(values)], 99.9)
    load = LoadImageOrSeriesd("image", modality="MR")
    if kind == "memory":
        taken = open_in_memory(values)
        image = load.take(taken.array, taken.meta)
    else:
        part = {"file": {}, "slab": {"start": 1, "stop": 3}, "slice": {"slice": 2}}[kind]
        image = load({"image": str(tmp_path / "brain.nii"), **part})["image"]
    lower, upper = ToUnitRanged("image", None)({"image": image})["image"].meta["intensity_range"]
    assert (lower, upper) == (0, pytest.approx(expected, rel=1e-6))


def test_the_modality_is_that_of_the_header_or_what_the_user_said(tmp_path):
    pet_series(tmp_path / "pet", slices=2)
    np.save(tmp_path / "a.npy", ct_volume(2))
    np.savez(tmp_path / "pictures.npz", test_images=np.zeros((2, 8, 9), np.uint8))
    archive = {"image": str(tmp_path / "pictures.npz"), "array": "test_images", "slice": 0}
    for item, expected in (
        ({"image": str(tmp_path / "a.npy")}, None),
        (archive, None),
        ({"image": str(tmp_path / "pet")}, "PT"),
    ):
        assert LoadImageOrSeriesd("image")(item)["image"].meta.get("modality") == expected
        assert LoadImageOrSeriesd("image", modality="PT")(item)["image"].meta["modality"] == "PT"


def test_volumes_know_the_distances_of_their_slices(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ct_volume(4))
    assert LoadImageOrSeriesd("image")({"image": path})["image"].meta["slice_steps"].tolist() == [2.5] * 3
    assert len(LoadImageOrSeriesd("image")({"image": path, "slice": 1})["image"].meta["slice_steps"]) == 0
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "b.png")
    assert "slice_steps" not in LoadImageOrSeriesd("image")({"image": tmp_path / "b.png"})["image"].meta
    oblique = mr_series(tmp_path / "mr", slices=4)
    series = LoadImageOrSeriesd("image")({"image": tmp_path / "mr"})["image"]
    np.testing.assert_allclose(series.meta["slice_steps"], [read_series(tmp_path / "mr").spacing[2]] * 3, rtol=1e-6)
    oblique[1].unlink()
    gap = LoadImageOrSeriesd("image", allow_gaps=True)({"image": tmp_path / "mr"})["image"]
    np.testing.assert_allclose(gap.meta["slice_steps"], series.meta["slice_steps"][:2] * [2, 1], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_slabs_are_read_with_their_neighbors(tmp_path, kind):
    if kind == "nifti":
        path = write_nifti(tmp_path / "a.nii.gz", ct_volume(6))
    else:
        ct_series(tmp_path / "ct", slices=6)
        path = tmp_path / "ct"
    whole = LoadImageOrSeriesd("image", context=2)({"image": path})["image"]
    assert "halo" not in whole.meta
    for start, stop, halo in ((0, 2, [0, 2]), (1, 3, [1, 2]), (2, 4, [2, 2]), (4, 6, [2, 0])):
        item = {"image": path, "start": start, "stop": stop, "slices": 6}
        slab = LoadImageOrSeriesd("image", context=2)(item)["image"]
        assert slab.meta["halo"].tolist() == halo
        low, high = start - halo[0], stop + halo[1]
        np.testing.assert_array_equal(slab.numpy(), whole[..., low:high].numpy())
        np.testing.assert_array_equal(slab.meta["slice_steps"], whole.meta["slice_steps"][low : high - 1])
        assert LoadImageOrSeriesd("image")(item)["image"].shape[-1] == 2
    with pytest.raises(ValueError, match="context must be at least 0"):
        LoadImageOrSeriesd("image", context=-1)


def nan_border(volume):
    volume = volume.astype(np.float32)
    volume[:3], volume[:, -2:, 1:] = np.nan, np.nan
    return volume


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "modality", "values"),
    [
        ("ct_denoise_restore_rwkv", "CT", lambda: ct_volume(3, (40, 32))),
        ("mri_superresolution_restore_rwkv", "MR", lambda: ct_volume(3, (40, 32)) + 1024),
        ("pet_synthesis_restore_rwkv", "PT", lambda: (ct_volume(3, (40, 32)) + 1024) / 200),
        ("all_in_one_restore_rwkv", "CT", lambda: ct_volume(3, (40, 32))),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_voxels_without_a_value_are_padding(tmp_path, name, modality, values, dtype):
    config = make_tiny_bundle(tmp_path, name)
    volume = nan_border(values())
    nib.Nifti1Image(volume.astype(dtype), np.diag([-1, -1, 3, 1])).to_filename(tmp_path / "a.nii")
    options = {"modality": modality} if name.startswith("all") else {}
    notes = restore(tmp_path / "a.nii", tmp_path / "b.nii", config, **options).notes
    assert any(f"a.nii: {np.isnan(volume).sum()} voxels have no value" in note for note in notes)
    after = np.asarray(nib.load(tmp_path / "b.nii").dataobj)
    assert after.dtype == dtype
    np.testing.assert_array_equal(np.isnan(after), np.isnan(volume))
    inside = ~np.isnan(volume)
    assert (after[inside] != volume[inside]).mean() > 0.5
    if modality == "PT":
        totals = [np.nansum(array, axis=(0, 1), dtype=np.float64) for array in (volume, after)]
        np.testing.assert_allclose(*totals, rtol=1e-5)


def test_padding_does_not_hide_that_a_ct_is_not_in_hu(tmp_path):
    nib.Nifti1Image(nan_border(ct_volume(3) + 1024), np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="has no value below 0"):
        LoadImageOrSeriesd("image", modality="CT")({"image": tmp_path / "a.nii"})
    with pytest.warns(UserWarning, match="padding"):
        image = LoadImageOrSeriesd("image", modality="CT", hu_offset=-1024)({"image": tmp_path / "a.nii"})["image"]
    assert image[0, 0, 0, 0] == -1024


@pytest.mark.parametrize("values", [np.inf, -np.inf, np.nan])
def test_what_is_infinite_or_nothing_but_padding_is_refused(tmp_path, values):
    volume = ct_volume(3)
    volume[...] = values
    nib.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="infinite or NaN values"):
        LoadImageOrSeriesd("image", modality="CT")({"image": tmp_path / "a.nii"})


def test_a_pet_file_without_a_unit_is_noted(tmp_path, recwarn):
    nib.Nifti1Image(np.full((4, 4, 2), 3.0, np.float32), np.eye(4)).to_filename(tmp_path / "a.nii")
    LoadImageOrSeriesd("image", modality="PT", suv={"factor": 0.5})({"image": tmp_path / "a.nii"})
    LoadImageOrSeriesd("image", modality="MR")({"image": tmp_path / "a.nii"})
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"a\.nii does not name the unit .* taken to be SUV; .* give `suv_factor`"):
        LoadImageOrSeriesd("image", modality="PT")({"image": tmp_path / "a.nii"})


@pytest.mark.slow
@pytest.mark.parametrize(("slope", "inter"), [(1e30, 0), (1e-30, 0), (1e6, 0), (-1e6, 0), (1, 1e6), (1, -1e30)])
def test_slopes_and_intercepts_that_cannot_be_are_refused(tmp_path, slope, inter):
    image = nib.Nifti1Image(np.arange(32, dtype=np.int16).reshape(4, 4, 2), np.eye(4))
    image.header.set_slope_inter(slope, inter)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii has the slope .* which no image in a physical unit can have"):
        LoadImageOrSeriesd("image", modality="PT")({"image": tmp_path / "a.nii"})
    for make in (ct_series, pet_series):
        folder = tmp_path / make.__name__
        make(folder, slices=1, slopes=[1])
        for file in folder.iterdir():
            ds = pydicom.dcmread(file)
            ds.RescaleSlope, ds.RescaleIntercept = f"{slope:g}", f"{inter:g}"
            ds.save_as(file)
        with pytest.raises(ValueError, match=r"has the slope .* which no image"):
            LoadImageOrSeriesd("image")({"image": folder})


@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (0.0001, 0), (7000, 0), (0.5, 100), (-1, 0)])
def test_slopes_and_intercepts_that_can_be_are_read(tmp_path, slope, inter):
    image = nib.Nifti1Image(np.arange(32, dtype=np.int16).reshape(4, 4, 2), np.eye(4))
    image.header.set_slope_inter(slope, inter)
    image.to_filename(tmp_path / "a.nii")
    LoadImageOrSeriesd("image", modality="MR")({"image": tmp_path / "a.nii"})
