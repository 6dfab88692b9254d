import contextlib
import gzip
import io
import os
import struct
import warnings
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pytest
import tifffile
from monai.data import DataLoader, Dataset, NibabelReader, PILReader, decollate_batch
from monai.transforms import LoadImage, LoadImaged
from PIL import Image

from medrestore_monai.images import ImageFileReader, read_header, read_image, read_picture_set, write_image

AFFINE = np.array([[-0.7, 0.1, 0, 120.5], [0.1, -0.7, 0, 99.25], [0, 0, 2.5, -300], [0, 0, 0, 1]])


def numbers(shape, dtype, seed=0):
    """Numbers over the whole range of an integer type, or fractions."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1000, shape).astype(dtype)
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    values.flat[0], values.flat[-1] = info.min, info.max
    return values


def write_nifti(path, stored, slope=None, inter=None, kind=nib.Nifti1Image):
    image = kind(stored, AFFINE)
    header = image.header
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"from a scanner"
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE, code=2, strip_shears=True)
    if slope is not None:
        header.set_slope_inter(slope, inter)
    image.to_filename(path)


def write_picture(path, stored, **options):
    """Write rows x columns pictures with the formats' own libraries."""
    if path.suffix in (".png", ".jpg", ".jpeg"):
        Image.fromarray(stored).save(path, **options)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, stored, **options)
    else:
        np.save(path, stored)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
@pytest.mark.filterwarnings("ignore:.*written as float64")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_comes_back_with_its_header(tmp_path, name, dtype, kind):
    stored = numbers((7, 5, 3), dtype).astype("f4").astype(dtype)
    write_nifti(tmp_path / name, stored, kind=kind)
    image, meta = read_image(tmp_path / name)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, stored)
    np.testing.assert_array_equal(meta["affine"], nib.load(tmp_path / name).affine)

    write_image(tmp_path / f"out_{name}", image, like=meta)
    before, after = nib.load(tmp_path / name), nib.load(tmp_path / f"out_{name}")
    assert type(after) is type(before)
    np.testing.assert_array_equal(after.dataobj.get_unscaled(), stored)
    for field in before.header:
        expected = b"" if field == "descrip" else before.header[field]  # a text, see descriptions.py
        np.testing.assert_array_equal(after.header[field], expected, err_msg=field)


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -1024.0), (0.0037, 0.0), (3.1, 12.0)])
def test_nifti_with_a_slope_keeps_its_stored_numbers(tmp_path, slope, inter):
    stored = numbers((31, 29, 11), "int16")
    write_nifti(tmp_path / "a.nii.gz", stored, slope, inter)
    source = nib.load(tmp_path / "a.nii.gz")
    raw = source.dataobj.get_unscaled()
    assert np.ptp(raw.astype(int)) == 65535
    image, meta = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image, source.get_fdata(), rtol=1e-6)
    write_image(tmp_path / "b.nii.gz", image, like=meta)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").dataobj.get_unscaled(), raw)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), source.get_fdata())


def test_nifti_whose_steps_float32_cannot_hold_becomes_float32(tmp_path):
    write_nifti(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4), 0.001, 5e4)
    with pytest.warns(UserWarning, match="written as float32"):
        image, meta = read_image(tmp_path / "a.nii")
    write_image(tmp_path / "b.nii", image, like=meta)
    after = nib.load(tmp_path / "b.nii")
    assert after.get_data_dtype() == np.float32
    np.testing.assert_array_equal(after.get_fdata(), image)


def test_big_endian_nifti(tmp_path):
    stored = numbers((4, 3, 2), "int16")
    nib.Nifti1Image(stored.astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">")).to_filename(tmp_path / "a.nii")
    image, meta = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image, stored)
    write_image(tmp_path / "b.nii", image, like=meta)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").get_fdata(), stored)


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_extensions_are_left_out(tmp_path, order):
    header = nib.Nifti1Header(endianness=order)
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of the scanner, 27 bytes it"))
    stored = numbers((4, 3, 2), "int16")
    nib.Nifti1Image(stored.astype(f"{order}i2"), AFFINE, header).to_filename(tmp_path / "a.nii")
    image, meta = read_image(tmp_path / "a.nii")
    write_image(tmp_path / "b.nii.gz", image, like=meta)
    after = nib.load(tmp_path / "b.nii.gz")
    assert len(after.header.extensions) == 0
    np.testing.assert_array_equal(after.get_fdata(), stored)


def test_same_image_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, numbers((4, 5, 6), "int16"))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("a.png", (9, 14), "uint8"),
        ("a.png", (9, 14), "uint16"),
        ("a.png", (9, 14, 3), "uint8"),
        ("a.tif", (9, 14), "uint8"),
        ("a.tif", (9, 14), "uint16"),
        ("a.tif", (9, 14), "float32"),
        ("a.tif", (9, 14, 3), "uint8"),
        ("a.tif", (9, 14, 3), "uint16"),
        ("a.tif", (4, 9, 14), "uint16"),
        ("a.tif", (4, 9, 3), "float32"),
    ],
)
def test_pictures_come_back_with_their_depth(tmp_path, name, shape, dtype):
    stored = numbers(shape, dtype)
    color = dtype != "float32" and shape[-1] == 3
    options = {"photometric": "rgb" if color else "minisblack"} if name == "a.tif" else {}
    write_picture(tmp_path / name, stored, **options)
    image, meta = read_image(tmp_path / name)
    np.testing.assert_array_equal(image, stored.T)  # columns are X, rows are Y

    write_image(tmp_path / f"out_{name}", image, like=meta)
    decode = tifffile.imread if name == "a.tif" else lambda path: np.asarray(Image.open(path))
    after = decode(tmp_path / f"out_{name}")
    assert after.dtype == stored.dtype
    np.testing.assert_array_equal(after, stored)


def smooth(shape):
    """An 8 bit picture without detail that JPEG would lose; no two axes or directions of it are alike."""
    rows, columns, *channels = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    values = 40 + 90 * rows + 60 * columns**2 + sum(20 * channel for channel in channels)
    return np.rint(values).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
@pytest.mark.parametrize("shape", [(33, 50), (33, 50, 3)])
def test_jpeg_comes_back_as_jpeg_with_a_warning(tmp_path, name, shape):
    Image.fromarray(smooth(shape)).save(tmp_path / name, format="JPEG", quality=100, subsampling=0, dpi=(300, 300))
    decoded = np.asarray(Image.open(tmp_path / name))
    image, meta = read_image(tmp_path / name)
    np.testing.assert_array_equal(image, decoded.T)
    with pytest.warns(UserWarning, match="JPEG loses detail"):
        write_image(tmp_path / f"out_{name}", image, like=meta)
    with Image.open(tmp_path / f"out_{name}") as after:
        assert after.format == "JPEG"
        assert after.info["dpi"] == (300, 300)
        if len(shape) == 3:
            assert [layer[1:3] for layer in after.layer] == [(1, 1)] * 3  # no channel has fewer pixels
        np.testing.assert_allclose(np.asarray(after).astype(int), decoded, atol=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_image(tmp_path / "out.png", image, like=meta)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), decoded)


@pytest.mark.parametrize(
    ("entry", "expected"), [({305: "program"}, None), ({282: 300.0, 283: 300.0, 296: 2}, [300, 300])]
)
def test_jpeg_has_the_resolution_it_had_or_none(tmp_path, entry, expected):
    exif = Image.Exif()
    exif.update(entry)
    Image.fromarray(smooth((8, 9))).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg")[1].get("dpi") == expected


def test_tiff_compressed_in_a_way_of_another_package_names_it(tmp_path):
    Image.fromarray(smooth((8, 9))).save(tmp_path / "a.tif", compression="jpeg")
    with pytest.raises(ValueError, match=r"a\.tif is compressed .* pip install imagecodecs"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_upright_and_written_so(tmp_path, orientation):
    upright = smooth((32, 48, 3))
    # how a camera stores the picture, per the table of EXIF 2.3, tag 274: row 0 and column 0 are the sides named
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    image, meta = read_image(tmp_path / "a.jpg")
    np.testing.assert_allclose(image, upright.T, atol=4)
    header = read_header(tmp_path / "a.jpg")
    assert (header.size, header.slices, header.channels) == ((48, 32), 1, 3)
    with pytest.warns(UserWarning, match="JPEG"):
        write_image(tmp_path / "b.jpg", image, like=meta)
    after = Image.open(tmp_path / "b.jpg")
    assert 274 not in after.getexif()
    np.testing.assert_allclose(np.asarray(after).astype(int), upright, atol=6)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("a.png", (9, 14), ((14, 9), 1, 1)),
        ("a.png", (9, 14, 3), ((14, 9), 1, 3)),
        ("a.jpg", (9, 14), ((14, 9), 1, 1)),
        ("a.tif", (9, 14, 3), ((14, 9), 1, 3)),
        ("a.tif", (4, 9, 14), ((14, 9), 4, 1)),
        ("a.npy", (9, 14, 3), ((9, 14), 3, 1)),
        ("a.npz", (9, 14), ((9, 14), 1, 1)),
        ("a.nii", (9, 14, 4), ((9, 14), 4, 1)),
        ("a.nii.gz", (9, 14), ((9, 14), 1, 1)),
    ],
)
def test_headers_say_what_images_hold(tmp_path, name, shape, expected):
    stored = numbers(shape, "uint8")
    if name.startswith("a.nii"):
        write_nifti(tmp_path / name, stored)
    elif name == "a.npz":
        np.savez(tmp_path / name, stored)
    else:
        color = {"photometric": "rgb" if shape[-1] == 3 else "minisblack"}
        write_picture(tmp_path / name, stored, **(color if name == "a.tif" else {}))
    header = read_header(tmp_path / name)
    assert (header.size, header.slices, header.channels) == expected
    image, meta = read_image(tmp_path / name)
    color = meta["original_channel_dim"] == 0
    assert image.shape == ((3, *header.size) if color else header.size + (header.slices,) * (image.ndim == 3))


def test_opaque_alpha_is_kept_and_transparency_refused(tmp_path):
    rgba = numbers((6, 5, 4), "uint8")
    rgba[..., 3] = 255
    write_picture(tmp_path / "a.png", rgba)
    image, meta = read_image(tmp_path / "a.png")
    assert image.shape == (3, 5, 6)
    write_image(tmp_path / "b.png", image, like=meta)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), rgba)
    rgba[2, 2, 3] = 0
    write_picture(tmp_path / "c.png", rgba)
    with pytest.raises(ValueError, match="transparent"):
        read_image(tmp_path / "c.png")


def test_resolution_and_description_of_pictures_are_kept(tmp_path):
    write_picture(tmp_path / "a.png", numbers((6, 5), "uint8"), dpi=(300, 150))
    write_picture(
        tmp_path / "a.tif",
        numbers((3, 6, 5), "uint16"),
        resolution=((3, 10), (1, 7)),
        resolutionunit=3,
        compression="zlib",
        photometric="miniswhite",
        description="ImageJ=1.54\nimages=3\nslices=3\nspacing=2.5",
        metadata=None,
    )
    for name in ("a.png", "a.tif"):
        image, meta = read_image(tmp_path / name)
        write_image(tmp_path / f"out_{name}", image, like=meta)
    assert Image.open(tmp_path / "out_a.png").info["dpi"] == Image.open(tmp_path / "a.png").info["dpi"]
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(tmp_path / "out_a.tif") as after:
        for tag in (
            "XResolution",
            "YResolution",
            "ResolutionUnit",
            "ImageDescription",
            "PhotometricInterpretation",
        ):
            assert after.pages[0].tags[tag].value == before.pages[0].tags[tag].value
        np.testing.assert_array_equal(after.asarray(), before.asarray())


@pytest.mark.filterwarnings("ignore:.*written as float64")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_numpy_files_keep_type_and_name(tmp_path, dtype):
    stored = numbers((5, 6, 7), dtype).astype("f4").astype(dtype)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", volume=stored)
    for name in ("a.npy", "a.npz"):
        image, meta = read_image(tmp_path / name)
        write_image(tmp_path / f"out_{name}", image, like=meta)
    after = np.load(tmp_path / "out_a.npy")
    assert after.dtype == stored.dtype
    np.testing.assert_array_equal(after, stored)
    np.testing.assert_array_equal(np.load(tmp_path / "out_a.npz")["volume"], stored)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "kwds", "a volume"])
def test_an_array_in_an_archive_may_have_any_name(tmp_path, name):
    stored = numbers((5, 6, 7), "int16")
    _archive(tmp_path / "a.npz", {f"{name}.npy": _npy(stored)})
    image, meta = read_image(tmp_path / "a.npz")
    write_image(tmp_path / "b.npz", image, like=meta)
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        assert archive.namelist() == [f"{name}.npy"]
    with np.load(tmp_path / "b.npz") as after:
        np.testing.assert_array_equal(after[name], stored)


def test_a_file_in_the_place_of_a_picture_set_is_refused(tmp_path):
    _archive(tmp_path / "a.npz", {"train_images.npy": b"no array"})
    with pytest.raises(ValueError, match=r"a\.npz has no array 'train_images'"):
        read_picture_set(tmp_path / "a.npz", "train_images")


@pytest.mark.parametrize("name", ["a.nii", "a.npy"])
def test_float64_is_rounded_with_a_note(tmp_path, name):
    stored = numbers((5, 6, 7), "float64")
    if name == "a.nii":
        write_nifti(tmp_path / name, stored)
    else:
        np.save(tmp_path / name, stored)
    image, meta = read_image(tmp_path / name)
    with pytest.warns(UserWarning, match=rf"out_{name} is written as float64 .* 7 digits"):
        write_image(tmp_path / f"out_{name}", image + np.float32(0.25) * (image > 0), like=meta)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_image(tmp_path / f"exact_{name}", stored, like=meta)
    read = np.load if name == "a.npy" else lambda path: nib.load(path).get_fdata()
    expected = np.where(stored > 0, stored.astype("f4") + np.float32(0.25), stored)  # what stays has all its digits
    np.testing.assert_array_equal(read(tmp_path / f"out_{name}"), expected)
    np.testing.assert_array_equal(read(tmp_path / f"exact_{name}"), stored)


def test_orientation_in_memory_is_that_of_monai(tmp_path):
    write_picture(tmp_path / "a.png", numbers((9, 14), "uint8"))
    write_nifti(tmp_path / "a.nii", numbers((7, 5, 3), "int16"))
    for name, reader in (("a.png", PILReader()), ("a.nii", NibabelReader())):
        theirs = LoadImage(reader=reader)(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[0], theirs.numpy())
        np.testing.assert_array_equal(read_image(tmp_path / name)[1]["affine"], theirs.affine.numpy())


@pytest.mark.parametrize("name", ["a.nii.gz", "rgb.png", "rgb.tif", "a.npz"])
def test_meta_data_of_loadimage_are_good_for_writing(tmp_path, name):
    if name == "a.nii.gz":
        write_nifti(tmp_path / name, numbers((7, 5, 3), "int16"), 0.5, -10.0)
    elif name == "a.npz":
        np.savez(tmp_path / name, volume=numbers((7, 5, 3), "int16"))
    else:
        write_picture(tmp_path / name, numbers((6, 5, 3), "uint8"))
    load = LoadImaged("image", reader=ImageFileReader, ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset([{"image": tmp_path / name}] * 2, load), batch_size=2)))
    image = decollate_batch(batch)[0]["image"]
    assert image.shape[0] == (3 if name.startswith("rgb") else 1)
    write_image(tmp_path / f"out_{name}", image, like=image.meta)
    expected, before = read_image(tmp_path / name)
    actual, after = read_image(tmp_path / f"out_{name}")
    np.testing.assert_array_equal(actual, expected)
    assert after["original_dtype"] == before["original_dtype"]
    np.testing.assert_array_equal(after["affine"], before["affine"])


def test_new_nifti_from_an_affine(tmp_path):
    write_image(tmp_path / "a.nii.gz", numbers((7, 5, 3), "float32"), like={"affine": AFFINE})
    after = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(after.affine, AFFINE, rtol=1e-6)
    assert after.header.get_xyzt_units()[0] == "mm"
    assert int(after.header["sform_code"]) == 1
    assert after.get_data_dtype() == np.float32


def test_integers_are_rounded_and_clipping_is_counted(tmp_path):
    write_picture(tmp_path / "a.png", numbers((2, 3), "uint8"))
    _, meta = read_image(tmp_path / "a.png")
    values = np.array([[-3.0, 0.4], [0.6, 254.5], [255.4, 400.0]])
    with pytest.warns(UserWarning, match="2 of 6 values"):
        write_image(tmp_path / "b.png", values, like=meta)
    assert read_image(tmp_path / "b.png")[0].tolist() == [[0, 0], [1, 254], [255, 255]]


def test_existing_files_and_the_source_are_safe(tmp_path):
    source, other = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(source, numbers((4, 4), "uint8"))
    image, meta = read_image(source)
    write_image(other, image, like=meta)
    with pytest.raises(FileExistsError, match=r"b\.npy exists"):
        write_image(other, image, like=meta)
    write_image(other, image * 0, like=meta, overwrite=True)
    assert not read_image(other)[0].any()
    os.link(source, tmp_path / "link.npy")
    for path in (source, tmp_path / "link.npy"):
        with pytest.raises(ValueError, match="source image"):
            write_image(path, image, like=meta, overwrite=True)


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", numbers((4, 4), "uint8"))
    image, meta = read_image(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "b.npy", image * np.nan, like=meta)

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_image(tmp_path / "b.npy", image, like=meta)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.jpg", "a.tif", "z.tif", "a.npy", "a.npz"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.9])
def test_cut_files_are_refused(tmp_path, name, part):
    path = tmp_path / name
    if name.startswith("a.nii"):
        write_nifti(path, numbers((40, 40, 3), "int16"))
    elif name == "a.npz":
        np.savez(path, numbers((40, 40), "uint16"))
    else:
        options = {"compression": "zlib"} if name == "z.tif" else {}
        write_picture(path, numbers((40, 40), "uint8" if name == "a.jpg" else "uint16"), **options)
    data = path.read_bytes()
    assert read_header(path).size[:2] == (40, 40)
    path.write_bytes(data[: int(part * len(data))])
    for read in (read_image, read_header):
        with pytest.raises(ValueError, match=name) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _archive(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _locked(path):
    """Write an archive that says it is encrypted, in bit 0 of the flags of its two headers."""
    _archive(path, {"a.npy": _npy(np.zeros((4, 4)))})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


def _time_series(path):
    nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), AFFINE).to_filename(path)


def _promise(path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"] = 352
    with gzip.open(path, "wb") as file:
        header.write_to(file)
        file.write(bytes(1000))


def _two_sizes(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((4, 4), np.uint8))
        tiff.write(np.zeros((5, 4), np.uint8))


def _deep_png(path):
    """Write 16 bit color, which Pillow reads as 8 bit without a word: made by hand, as the PNG standard says."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = numbers((4, 5, 3), "uint16").astype(">u2")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("name", "make", "match"),
    [
        ("a.nii.gz", _time_series, "got a series of shape"),
        ("b.nii.gz", _promise, "promises"),
        (
            "c.nii",
            lambda p: nib.Nifti1Image(np.full((2, 2, 2), np.nan, "f4"), AFFINE).to_filename(p),
            "8 infinite or NaN",
        ),
        ("d.nii", lambda p: p.write_bytes(b"no header" * 100), "cannot be read"),
        ("a.bmp", lambda p: p.write_bytes(b""), "expected a name ending"),
        ("d.png", lambda p: _deep_png(p), "got 16 bit RGB: save it as TIFF"),
        ("a.jpg", lambda p: Image.new("CMYK", (4, 4)).save(p), "gray or RGB, got CMYK"),
        ("b.jpg", lambda p: Image.new("L", (4, 4)).save(p, format="PNG"), "another kind"),
        ("b.png", lambda p: Image.new("1", (4, 4)).save(p), "gray or 8 bit RGB"),
        ("c.png", lambda p: Image.new("L", (4, 4)).save(p, transparency=3), "opaque"),
        (
            "a.tif",
            lambda p: tifffile.imwrite(p, np.zeros((4, 4, 4), np.uint8), photometric="rgb"),
            "an opaque picture",
        ),
        ("b.tif", _two_sizes, "one size"),
        ("c.tif", lambda p: tifffile.imwrite(p, np.zeros((2, 3, 4, 4), np.uint8)), "an opaque picture"),
        (
            "d.tif",
            lambda p: tifffile.imwrite(p, np.zeros((2, 5, 6, 7), np.uint8)),
            "ZYX or ZYXS.*got 1 series.*QQYX",
        ),
        ("a.npz", lambda p: np.savez(p, a=np.zeros(3), b=np.zeros(3)), "got 2: a, b"),
        ("b.npz", lambda p: _archive(p, {"readme.txt": b"no array"}), "expected one array, got the file readme.txt"),
        ("d.npz", lambda p: _locked(p), "cannot be read.* password"),
        ("c.npz", lambda p: _archive(p, {"a.npy": b"no array"}), "expected one array, got the file a"),
        ("a.npy", lambda p: np.save(p, np.zeros((4, 4), complex)), "expected numbers of type"),
        ("b.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read"),
        ("c.npy", lambda p: np.save(p, np.zeros(4, "u1")), "expected one 2D"),
        ("e.npy", lambda p: _archive(p, {"a.npy": _npy(np.zeros((4, 4)))}), "cannot be read"),
        ("d.npy", lambda p: np.save(p, np.full((2, 2), 2**30)[:1].astype("i4")), "too large"),
    ],
)
def test_what_is_not_an_image_is_refused(tmp_path, name, make, match):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=match) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="type uint8 or uint16"):
        write_image(tmp_path / "a.png", np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="one slice"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match="expected an array of shape"):
        write_image(tmp_path / "a.npy", np.zeros((4, 4)), like={"spatial_shape": [4, 5]})
    with pytest.raises(ValueError, match="written as PNG, TIFF or JPEG"):
        write_image(tmp_path / "a.nii", np.zeros((3, 4, 5)), like={"spatial_shape": [4, 5], "original_channel_dim": 0})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mri_breast_dce/UCSF-BR-06_phase2.nii.gz", "sts_pet_crops/STS_002/PET.nii.gz", "rgb_nuclei_dsb2018"]
)
def test_real_files_come_back(shared_data, tmp_path, name):
    source = shared_data / name
    for path in [source] if source.is_file() else sorted(source.glob("*.png"))[:3]:
        image, meta = read_image(path)
        write_image(tmp_path / path.name, image, like=meta)
        again, meta_again = read_image(tmp_path / path.name)
        np.testing.assert_array_equal(again, image)
        np.testing.assert_array_equal(meta_again["affine"], meta["affine"])
        assert meta_again["original_dtype"] == meta["original_dtype"]


@pytest.mark.slow
def test_a_gzip_file_with_a_bit_error_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    silent = 0
    for place in range(100, len(whole) - 8, 25):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / "b.nii.gz").write_bytes(damaged)
        with contextlib.suppress(Exception):
            silent += bool((nib.load(tmp_path / "b.nii.gz").dataobj.get_unscaled() != noise).any())
        with pytest.raises(ValueError, match=r"b\.nii\.gz cannot be read, it is damaged"):
            read_image(tmp_path / "b.nii.gz")
    assert silent > 3  # nibabel alone does not notice


def densities(path):
    """Unit and the two numbers of JFIF, by its layout in ISO/IEC 10918-5: after marker, length, name and version."""
    data = path.read_bytes()
    assert data[6:11] == b"JFIF\0"
    return struct.unpack(">BHH", data[13:18])


@pytest.mark.parametrize("density", [(2, 3, 3), (2, 35, 40), (1, 300, 150), (0, 2, 1), (0, 1, 1)])
def test_jpeg_keeps_the_size_and_shape_of_its_pixels(tmp_path, density):
    Image.fromarray(smooth((8, 9))).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:13] + struct.pack(">BHH", *density) + data[18:])
    image, meta = read_image(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_image(tmp_path / "b.jpg", image, like=meta)
        write_image(tmp_path / "b.png", image, like=meta)
        again, png_meta = read_image(tmp_path / "b.png")
        write_image(tmp_path / "c.jpg", again, like=png_meta)
    assert densities(tmp_path / "b.jpg") == density
    info = Image.open(tmp_path / "b.png").info
    if density[0]:
        per_inch = [value * (2.54 if density[0] == 2 else 1) for value in density[1:]]
        assert info["dpi"] == pytest.approx(per_inch, rel=1e-3 if density[1] > 9 else 1e-2)
    else:
        assert info.get("aspect") == (density[1:] if density[1:] != (1, 1) else None)
    assert densities(tmp_path / "c.jpg") == density
    meta.pop("aspect", None)
    with pytest.warns(UserWarning, match="JPEG"):
        write_image(tmp_path / "d.jpg", image, like={**meta, "dpi": [0.0, 0.0]})
    assert densities(tmp_path / "d.jpg") == (0, 1, 1)
