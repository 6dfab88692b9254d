"""Clean images in every layout: plain folders, IXI, MedMNIST."""

import nibabel as nib
import numpy as np
import pytest
from phantoms import mr_echoes, mr_series
from PIL import Image

from medrestore_monai.data import (
    LoadImageOrSeriesd,
    PatientSplit,
    check_items,
    ixi,
    medmnist,
    spread_slices,
    training_slices,
    training_volumes,
)
from medrestore_monai.intensity import ToUnitRanged

LOAD = LoadImageOrSeriesd("label")


@pytest.fixture
def ixi_copy(tmp_path):
    """Five volumes of ten slices; one has six."""
    for number, site in ((2, "Guys"), (12, "HH"), (13, "HH"), (14, "IOP"), (15, "Guys")):
        slices = 6 if number == 15 else 10
        values = np.arange(slices) * np.ones((7, 5, 1)) + 100 * number
        for contrast in ("T1", "T2"):
            name = f"IXI{number:03d}-{site}-{700 + number:04d}-{contrast}.nii.gz"
            nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), tmp_path / name)
    (tmp_path / "IXI.xls").write_bytes(b"a table")
    return tmp_path


def test_ixi_gives_the_central_slices(ixi_copy):
    items = ixi(ixi_copy, "all", slices=4)
    assert [item["slice"] for item in items if item["patient"] == "IXI002"] == [3, 4, 5, 6]
    assert [item["slice"] for item in items if item["patient"] == "IXI015"] == [1, 2, 3, 4]
    assert len(items) == 20
    for item in items:
        label = LOAD(item)["label"]
        assert label.shape == (1, 7, 5)
        assert float(label.mean()) == 100 * int(item["patient"][3:]) + item["slice"]
    assert len(ixi(ixi_copy, "all", slices=0)) == 46
    assert len(ixi(ixi_copy, "all", slices=8)) == 38


def test_ixi_is_divided_by_patient(ixi_copy):
    split = PatientSplit(validation=1, test=2)
    parts = {
        part: {item["patient"] for item in ixi(ixi_copy, part, split=split)} for part in ("train", "validation", "test")
    }
    assert [len(patients) for patients in parts.values()] == [2, 1, 2]
    assert len(set.union(*parts.values())) == 5


def test_ixi_with_problems(ixi_copy):
    with pytest.raises(ValueError, match=r"no volume IXI\.\.\.-PD"):
        ixi(ixi_copy, "all", "PD")
    path = ixi_copy / "IXI012-HH-0712-T2.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    (ixi_copy / "IXI013-HH-0713-T2.nii.gz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"2 problems:\n.*IXI012-HH-0712-T2.*\n.*IXI013-HH-0713-T2"):
        ixi(ixi_copy, "all")


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (64, 64, 3), (12, 9)])
def test_medmnist(tmp_path, shape):
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_images": rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        for part, count in (("train", 5), ("val", 2), ("test", 3))
    }
    labels = {f"{part}_labels": np.zeros((4, 1), np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "pathmnist.npz", **arrays, **labels)
    found = {part: medmnist(tmp_path / "pathmnist.npz", part) for part in ("train", "validation", "test", "all")}
    assert [len(items) for items in found.values()] == [5, 2, 3, 10]
    assert len({item["name"] for item in found["all"]}) == 10
    # as a PNG file of the same picture comes
    for array, part in (("train_images", "train"), ("val_images", "validation"), ("test_images", "test")):
        for item, pixels in zip(found[part], arrays[array], strict=True):
            Image.fromarray(pixels).save(tmp_path / "one.png")
            expected = LOAD({"label": str(tmp_path / "one.png")})["label"]
            np.testing.assert_array_equal(LOAD(item)["label"].numpy(), expected.numpy())
    scaled = ToUnitRanged("label", "RGB" if len(shape) == 3 else "GRAY")(LOAD(found["train"][0]))["label"]
    np.testing.assert_allclose(scaled.numpy() * 255, LOAD(found["train"][0])["label"].numpy(), atol=1e-4)


def test_what_is_no_medmnist_is_refused(tmp_path):
    gray = np.zeros((4, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=gray, val_images=gray.astype(float))
    with pytest.raises(ValueError, match="has no array test_images, only train_images, val_images"):
        medmnist(tmp_path / "a.npz", "test")
    with pytest.raises(ValueError, match="val_images must hold 8 bit gray or RGB"):
        medmnist(tmp_path / "a.npz", "all")
    with pytest.raises(ValueError, match="train_images has 1 channels, where 3 are expected"):
        medmnist(tmp_path / "a.npz", "train", channels=3)
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"b\.npz cannot be read"):
        medmnist(tmp_path / "b.npz", "train")
    np.savez(tmp_path / "c.npz", images=gray)
    with pytest.raises(ValueError, match="has no array train_images, only images"):
        medmnist(tmp_path / "c.npz", "all")


def test_a_plain_folder_with_problems(tmp_path):
    for name, pixels in {"a.png": (4, 5, 3), "b.jpg": (4, 5, 3), "c.png": (4, 5)}.items():
        Image.fromarray(np.zeros(pixels, np.uint8)).save(tmp_path / name)
    (tmp_path / "d.tif").write_bytes(b"II*\0")
    (tmp_path / "e.dcm").mkdir()
    (tmp_path / "e.dcm" / "x").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 10)
    with pytest.raises(ValueError, match="3 problems") as caught:
        training_slices(tmp_path, "all", channels=3)
    for text in ("c.png has 1 channels", "d.tif cannot be read", "e.dcm"):
        assert text in str(caught.value)


def test_a_series_of_several_stacks_is_refused_unless_one_is_named(tmp_path):
    mr_series(tmp_path / "set" / "p1")
    training_slices(tmp_path / "set", "all")
    mr_echoes(tmp_path / "set" / "p2")
    expected = r"set.p2: its series has 2 stacks \(echo 1 of 2, 5 ms; echo 2 of 2, 10 ms\), .* folder of its own"
    with pytest.raises(ValueError, match=expected):
        training_slices(tmp_path / "set", "all")
    item = {"label": str(tmp_path / "set" / "p2"), "slice": 2, "series_uid": ""}
    with pytest.raises(ValueError, match=expected):
        check_items([item], ["label"])
    check_items([{**item, "stack": 2}], ["label"])
    with pytest.raises(ValueError, match="slice 3 is listed"):
        check_items([{**item, "stack": 2, "slice": 3}], ["label"])


def test_real_medmnist(shared_data):
    path = shared_data / "xray_pneumoniamnist" / "pneumoniamnist_28_trainval.npz"
    items = {part: medmnist(path, part, channels=1) for part in ("train", "validation")}
    assert [len(found) for found in items.values()] == [3882, 524]
    with np.load(path) as archive:
        np.testing.assert_array_equal(LOAD(items["validation"][7])["label"].numpy()[0], archive["val_images"][7].T)


def test_real_jpeg_pictures(shared_data):
    items = training_slices(shared_data / "rgb_blood_bccd", "validation", channels=3)
    assert len(items) == 10
    path = items[0]["label"]
    np.testing.assert_array_equal(LOAD(items[0])["label"].numpy(), np.asarray(Image.open(path)).T)


def test_slices_are_spread_evenly_as_slabs_of_one(tmp_path):
    for patient, shape in (("a", (5, 4, 6)), ("b", (5, 4, 3)), ("c", (5, 4))):
        (tmp_path / patient).mkdir()
        array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / patient / "x.nii.gz")
    items = spread_slices(tmp_path, "all", 3)
    assert [(item["patient"], item["start"], item["stop"]) for item in items] == [
        *(("a", 0, 1), ("a", 3, 4), ("b", 0, 1)),
        ("c", 0, 1),
    ]
    assert all("slice" not in item for item in items)
    assert len(spread_slices(tmp_path, "all", 30)) == 10
    load = LoadImageOrSeriesd("label", context=2)
    assert [load(item)["label"].shape for item in items] == [(1, 5, 4, 3), (1, 5, 4, 5), (1, 5, 4, 3), (1, 5, 4)]
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        spread_slices(tmp_path, "all", 0)


def test_volumes_are_listed_once_with_their_slices(tmp_path):
    for patient, shape in (("a", (5, 4, 3)), ("b", (5, 4, 6)), ("c", (5, 4))):
        (tmp_path / patient).mkdir()
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / patient / "x.nii.gz")
    items = training_volumes(tmp_path, "all")
    assert [(item["patient"], item["slices"], item["name"]) for item in items] == [
        ("a", 3, "a/x.nii.gz"),
        ("b", 6, "b/x.nii.gz"),
        ("c", 1, "c/x.nii.gz"),
    ]
    assert all("slice" not in item for item in items)
    assert LOAD(items[1])["label"].shape == (1, 5, 4, 6)
    held_back = training_volumes(tmp_path, "validation", fraction=0.3)
    assert {item["patient"] for item in held_back} == {
        item["patient"] for item in training_slices(tmp_path, "validation", fraction=0.3)
    }


def test_a_slice_without_a_place_is_looked_at(tmp_path):
    """What has one slice alone needs no position to be used."""
    (file,) = mr_series(tmp_path, slices=1, edit=lambda ds, index: delattr(ds, "ImagePositionPatient"))
    check_items([{"label": str(file)}])
