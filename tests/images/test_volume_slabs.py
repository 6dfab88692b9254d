"""A volume that is read and written slab by slab is the same as one that is read and written whole."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from phantoms import ct_volume

from medrestore_monai.data import LoadImageOrSeriesd, SaveLikeSourced, plan_outputs
from medrestore_monai.data.whole import range_of_mr
from medrestore_monai.dicom import Derivation
from medrestore_monai.images import VolumeFile, read_image, volumes
from medrestore_monai.notes import Notes
from medrestore_monai.transforms import HaloCropd


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(volumes, "_BLOCK", 3000)


def write(path, dtype="int16", slope=None, axes=(0, 1, 2), nan=False, order="<"):
    """Write a volume of 7 slices, whose axes are exchanged and whose spacing says so."""
    volume = ct_volume(7, (19, 23)).astype(np.dtype(dtype).newbyteorder(order))
    if nan:
        volume[:3, :2] = np.nan
    if path.suffix == ".tif":
        tifffile.imwrite(path, np.ascontiguousarray(volume.T), photometric="minisblack")
        return path
    affine = np.diag([0.7, 0.7, 5, 1.0])[:, [*axes, 3]]
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(volume.dtype)
    image = nib.Nifti1Image(volume.transpose(axes), affine, header)
    image.header.set_data_dtype(volume.dtype)
    if slope:
        image.header.set_slope_inter(*slope)
    nib.save(image, path)
    return path


def restore(source, target, slab, modality="CT", axis=None, context=0):
    """Restore nothing but 3 units, in slabs or whole; also the notes."""
    load = LoadImageOrSeriesd("image", modality, slice_axis=axis, context=context)
    save = SaveLikeSourced(Derivation("denoise"), overwrite=True)
    with Notes() as notes:
        items = plan_outputs(source, target, overwrite=True, slab=slab, slice_axis=axis)
        for item in items:
            image = HaloCropd("image")({"image": load(item)["image"]})["image"]
            save({**item, "image": image, "pred": image + 3})
    load.close()
    save.close()
    return len(items), [message.replace(target.name, "") for message in notes.messages]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.nii", {}),
        ("a.nii", {"order": ">", "slope": (0.5, -3)}),
        ("a.nii", {"dtype": "float32", "nan": True}),
        ("a.nii.gz", {"dtype": "float64"}),
        ("a.nii", {"axes": (2, 0, 1)}),
        ("a.nii.gz", {"axes": (0, 2, 1), "dtype": "float32"}),
        ("a.nii", {"axes": (2, 1, 0), "dtype": "float64"}),
        ("a.tif", {"dtype": "int16"}),
        ("a.tif", {"dtype": "float32"}),
    ],
)
def test_slabs_give_the_file_that_the_whole_gives(tmp_path, name, options):
    source = write(tmp_path / name, **options)
    target = Path(name)
    (tmp_path / "whole").mkdir()
    (tmp_path / "slabs").mkdir()
    one, expected = restore(source, tmp_path / "whole" / target, 0)
    several, notes = restore(source, tmp_path / "slabs" / target, 3, context=1)
    assert (one, several) == (1, 3)
    assert notes == [message.replace("whole", "slabs") for message in expected]
    whole, slabs = (tmp_path / place / name for place in ("whole", "slabs"))
    assert slabs.read_bytes() == whole.read_bytes()
    before, after = read_image(source)[0], read_image(slabs)[0]
    np.testing.assert_allclose(after, before + 3, atol=0.3)


def test_a_chosen_axis_counts_in_the_plan_too(tmp_path):
    source = write(tmp_path / "a.nii")
    assert restore(source, tmp_path / "b.nii", 3, axis=0)[0] == 7  # 19 slices
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").dataobj, np.asarray(nib.load(source).dataobj) + 3)


def test_damage_is_found_as_in_the_whole(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        source = write(tmp_path / name)
        whole = source.read_bytes()
        raw = gzip.decompress(whole) if name.endswith(".gz") else whole
        for changed, message in ((raw[:-9], "cannot be read"), (raw + b"12", "2 bytes follow its end")):
            source.write_bytes(gzip.compress(changed) if name.endswith(".gz") else changed)
            with pytest.raises(ValueError, match=message):
                VolumeFile(source)
        if name.endswith(".gz"):
            source.write_bytes(whole[:-8] + b"\0" * 4 + whole[-4:])
            with pytest.raises(ValueError, match="cannot be read"):
                VolumeFile(source)
    source = write(tmp_path / "b.nii", dtype="float32")
    data = bytearray(source.read_bytes())
    data[-4:] = np.float32(np.inf).tobytes()
    source.write_bytes(data)
    with pytest.raises(ValueError, match="1 infinite or NaN"):
        VolumeFile(source)


def test_a_volume_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    volume = VolumeFile(write(tmp_path / "a.nii.gz", axes=(2, 0, 1)))
    files = [path.name for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert sorted(files) == [".lock", "slices"]
    volume.close()
    assert not list((tmp_path / "temporary").iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("", (), {"free": 1000})())
    with pytest.raises(OSError, match="No space left on device") as caught:
        VolumeFile(tmp_path / "a.nii.gz")
    assert "medrestore-run" in caught.value.filename
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0])
def test_the_range_of_mr_is_that_of_the_whole(scale):
    volume = scale * np.abs(np.random.default_rng(0).normal(0, 500, (31, 29, 11))).astype(np.float32)
    volume[3, 4, 5] = np.nan
    found = range_of_mr(lambda: np.moveaxis(volume, -1, 0))
    finite = volume[np.isfinite(volume)]
    usual = 1024 <= finite.max() <= 4095
    assert found == [0.0, pytest.approx(4095.0 if usual else np.percentile(finite, 99.9), rel=1e-6)]


@pytest.mark.parametrize(("slope", "inter"), [(1e12, 0), (1e-12, 0), (1, 1e9)])
def test_a_slope_that_no_image_can_have_is_refused_as_in_the_whole(tmp_path, slope, inter):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii")
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.arange(60, dtype=np.uint16).reshape(3, 4, 5),
        photometric="minisblack",
        description=f"ImageJ=1.54f\nimages=3\nslices=3\ncf=0\nc0={inter:E}\nc1={slope:E}\n",
        metadata=None,
    )
    for name in ("a.nii", "a.tif"):
        for read in (read_image, VolumeFile):
            with pytest.raises(ValueError, match=rf"{name} has the slope .* which no image in a physical unit"):
                read(tmp_path / name)


def test_a_slope_of_infinity_is_refused(tmp_path):
    source = write(tmp_path / "a.nii")
    data = bytearray(source.read_bytes())
    data[112:116] = np.float32(np.inf).tobytes()
    source.write_bytes(data)
    with pytest.raises(ValueError, match=r"has the slope .* inf"):
        read_image(source)
