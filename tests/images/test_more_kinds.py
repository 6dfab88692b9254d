"""Pairs, MGZ, NRRD, MHA, 64 bit integers, palettes, LZW, opaque RGBA and RGB stacks: read, written, read by others."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from medrestore_monai.files import unpacking
from medrestore_monai.images import read_header, read_image, write_image
from medrestore_monai.notes import Notes

AFFINE = np.array([[-0.7, 0.1, 0, 30], [0.1, 0.7, 0, -20], [0, 0, 2.5, 11], [0, 0, 0, 1.0]])


def volume(dtype="int16", shape=(7, 6, 5)):
    return (np.random.default_rng(0).integers(-900, 900, shape) + 900 * (np.dtype(dtype).kind == "u")).astype(dtype)


def copied(source, target):
    """What the reader gives, and the file that the writer makes of it."""
    image, meta = read_image(source)
    write_image(target, image, meta)
    return image, meta


@pytest.mark.parametrize("name", ["a.hdr", "a.img"])
def test_a_nifti_pair_becomes_one_file(tmp_path, name):
    nib.Nifti1Pair(volume(), AFFINE).to_filename(tmp_path / "a.hdr")
    image, _ = copied(tmp_path / name, tmp_path / "b.nii")
    np.testing.assert_array_equal(image, volume())
    written = nib.load(tmp_path / "b.nii")
    assert type(written) is nib.Nifti1Image
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), volume())
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.hdr").affine)
    assert read_header(tmp_path / name).slices == 5
    with pytest.raises(ValueError, match=r"written as one file; name the output \.nii"):
        write_image(tmp_path / "c.hdr", image)


def test_pairs_that_are_none(tmp_path):
    nib.Nifti1Pair(volume(), AFFINE).to_filename(tmp_path / "a.hdr")
    data = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"a\.hdr cannot be read"):
        read_image(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(ValueError, match=r"half of a pair: put a\.img beside it"):
        read_image(tmp_path / "a.hdr")
    nib.AnalyzeImage(volume(), AFFINE).to_filename(tmp_path / "b.hdr")
    with pytest.raises(ValueError, match=r"no NIfTI file but Analyze.*convert it to NIfTI"):
        read_image(tmp_path / "b.hdr")


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_64_bits(tmp_path, dtype):
    nib.save(nib.Nifti1Image(volume(dtype), AFFINE, dtype=dtype), tmp_path / "a.nii.gz")
    _, meta = copied(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert meta["original_dtype"] == dtype
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), volume(dtype))
    large = volume(dtype)
    large[0, 0, 0] = 2**40
    nib.save(nib.Nifti1Image(large, AFFINE, dtype=dtype), tmp_path / "c.nii.gz")
    with Notes() as notes:
        assert read_image(tmp_path / "c.nii.gz")[1]["original_dtype"] == "float32"
    assert "it will be written as float32" in notes.messages[0]


@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_mgz(tmp_path, ending, dtype):
    values = volume(dtype) // (8 if dtype == "uint8" else 1)
    nib.freesurfer.MGHImage(values.astype(dtype), AFFINE).to_filename(tmp_path / f"a{ending}")
    image, _ = copied(tmp_path / f"a{ending}", tmp_path / f"b{ending}")
    written, source = (nib.load(tmp_path / f"{name}{ending}") for name in "ba")
    np.testing.assert_array_equal(image, values)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), values)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert written.get_data_dtype() == source.get_data_dtype()
    assert read_header(tmp_path / f"a{ending}").slices == 5


def test_a_damaged_mgz(tmp_path):
    nib.freesurfer.MGHImage(volume(), AFFINE).to_filename(tmp_path / "a.mgh")
    packed = gzip.compress((tmp_path / "a.mgh").read_bytes())
    for name, data in (("b.mgz", packed[:-20]), ("c.mgz", packed[:-8] + b"\0" * 8), ("d.mgz", b"no image")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("ending", [".mgz", ".nii.gz", ".nrrd", ".mha"])
def test_what_unpacks_to_more_than_its_size_allows_is_refused(tmp_path, ending, monkeypatch):
    """A limit of 1 MiB, where zeros of 4 MiB are packed to some kilobytes."""
    import SimpleITK as sitk  # noqa: N813

    zeros = np.zeros((256, 256, 64), np.uint8)
    path = tmp_path / f"a{ending}"
    if ending == ".mgz":
        nib.freesurfer.MGHImage(zeros, AFFINE).to_filename(path)
    elif ending == ".nii.gz":
        nib.save(nib.Nifti1Image(zeros, AFFINE), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(zeros), str(path), True)
    assert read_image(path)[0].shape == zeros.shape[:: 1 if ending in (".mgz", ".nii.gz") else -1]
    monkeypatch.setattr(unpacking, "_ALWAYS", 1 << 20)
    for read in (read_image, read_header):
        with pytest.raises(ValueError, match=r"would unpack to 0.0 GiB, where at most 0.0 GiB"):
            read(path)


def test_a_stream_that_goes_on_behind_the_voxels_of_an_mgz(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_ALWAYS", 1 << 20)
    nib.freesurfer.MGHImage(volume(), AFFINE).to_filename(tmp_path / "a.mgz")
    read_image(tmp_path / "a.mgz")
    with (tmp_path / "a.mgz").open("ab") as file:
        file.write(gzip.compress(bytes(4 << 20)))
    with pytest.raises(ValueError, match="would unpack to"):
        read_image(tmp_path / "a.mgz")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_and_mha(tmp_path, ending, dtype, packed):
    import SimpleITK as sitk  # noqa: N813

    values = (volume(dtype) // (8 if dtype == "uint8" else 1)).astype(dtype)
    source = sitk.GetImageFromArray(values.T.copy())
    source.SetSpacing((0.7, 0.8, 2.5))
    source.SetOrigin((-30.5, 20.25, 11))
    source.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    sitk.WriteImage(source, str(tmp_path / f"a{ending}"), packed)
    image, meta = copied(tmp_path / f"a{ending}", tmp_path / f"b{ending}")
    np.testing.assert_array_equal(image, values)
    written = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), values.T)
    assert written.GetPixelID() == source.GetPixelID()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, name)() == getattr(source, name)()
    # the affine leads to the same place as ITK, which is in LPS
    place = np.array(source.TransformContinuousIndexToPhysicalPoint((2, 3, 4))) * (-1, -1, 1)
    np.testing.assert_allclose((meta["affine"] @ [2, 3, 4, 1])[:3], place)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_damaged_nrrd_and_mha(tmp_path, ending):
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(sitk.GetImageFromArray(volume().T.copy()), str(tmp_path / f"a{ending}"), False)
    data = (tmp_path / f"a{ending}").read_bytes()
    for number, broken in enumerate((data[:-9], data + b"more", data[:40], b"no image")):
        (tmp_path / f"b{number}{ending}").write_bytes(broken)
        with pytest.raises(ValueError, match=rf"b{number}\{ending} cannot be read"):
            read_image(tmp_path / f"b{number}{ending}")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 3)), isVector=True), str(tmp_path / f"c{ending}"))
    with pytest.raises(ValueError, match="3 values a voxel"):
        read_image(tmp_path / f"c{ending}")


def test_data_in_another_file_are_not_followed(tmp_path):
    (tmp_path / "a.nrrd").write_text("NRRD0004\ntype: short\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: b\n\n")
    (tmp_path / "a.mha").write_text("ObjectType = Image\nNDims = 2\nDimSize = 4 4\nElementDataFile = b.raw\n")
    for name in ("a.nrrd", "a.mha"):
        with pytest.raises(ValueError, match="keeps its data in another file: save both as one"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("color", [True, False])
def test_a_png_palette_is_replaced_by_its_colors(tmp_path, bits, color):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (2**bits, 3 if color else 1)).repeat(1 if color else 3, axis=1).astype(np.uint8)
    indices = rng.integers(0, 2**bits, (6, 9)).astype(np.uint8)
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(colors.tobytes())
    picture.save(tmp_path / "a.png", bits=bits)
    with Notes() as notes:
        copied(tmp_path / "a.png", tmp_path / "b.png")
    assert "its palette is replaced by the colors" in notes.messages[0]
    expected = colors[indices] if color else colors[indices][..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), expected)
    header = read_header(tmp_path / "a.png")
    assert (header.size, header.channels) == ((9, 6), 3 if color else 1)


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("name", ["plain.tif", "shaped.tif", "a.ome.tif", "imagej.tif"])
def test_a_tiff_palette_is_replaced_by_its_colors(tmp_path, pages, factor, color, name):
    """ImageJ writes colors times 256, others times 257; Pillow reads both."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (256, 3 if color else 1)).repeat(1 if color else 3, axis=1)
    indices = rng.integers(0, 256, (pages, 6, 9)).astype(np.uint8)
    table = (colors.T * factor).astype(np.uint16)
    options = {"plain.tif": {"metadata": None}, "imagej.tif": {"metadata": None, "description": "ImageJ=1.54f\n"}}
    stored = indices.squeeze()
    metadata = {"metadata": {"axes": "ZYX"[-stored.ndim :]}, **options.get(name, {})}
    tifffile.imwrite(tmp_path / name, stored, photometric="palette", colormap=table, **metadata)
    copied(tmp_path / name, tmp_path / f"out_{name}")
    expected = colors[stored] if color else colors[stored][..., 0]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / f"out_{name}"), expected)
    np.testing.assert_array_equal(Image.open(tmp_path / f"out_{name}"), expected if pages == 1 else expected[0])
    np.testing.assert_array_equal(Image.open(tmp_path / name).convert("RGB"), colors[indices[0]])
    copied(tmp_path / f"out_{name}", tmp_path / f"again_{name}")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / f"again_{name}"), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_lzw_without_a_further_package(tmp_path, dtype):
    values = np.arange(54).reshape(6, 9).astype(dtype) * 3
    mode = {"uint8": "L", "uint16": "I;16", "float32": "F"}[dtype]
    first, second = (Image.frombytes(mode, (9, 6), (values + k).tobytes()) for k in (0, 1))
    first.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=[second])
    image, _ = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    np.testing.assert_array_equal(image, np.stack([values.T, values.T + 1], axis=-1))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), np.stack([values, values + 1]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("pages", [0, 3])
def test_opaque_rgba_and_rgb_stacks(tmp_path, dtype, pages):
    rgba = np.random.default_rng(0).integers(0, 255, ((pages,) * (pages > 0) + (6, 9, 4))).astype(dtype)
    rgba[..., 3] = np.iinfo(dtype).max
    for name, values in (("rgb", rgba[..., :3]), ("rgba", rgba)):
        extra = {"extrasamples": ["unassalpha"]} if name == "rgba" else {}
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="rgb", metadata=None, **extra)
        image, _ = copied(tmp_path / f"{name}.tif", tmp_path / f"{name}2.tif")
        assert image.shape == (3, 9, 6, *([pages] if pages else []))
        with tifffile.TiffFile(tmp_path / f"{name}2.tif") as written:
            np.testing.assert_array_equal(written.asarray(), values)
            assert len(written.pages[0].extrasamples) == (name == "rgba")
        header = read_header(tmp_path / f"{name}.tif")
        assert (header.size, header.slices, header.channels) == ((9, 6), max(pages, 1), 3)
    rgba[..., 0, 0, 3] = 7
    tifffile.imwrite(tmp_path / "c.tif", rgba, photometric="rgb", metadata=None, extrasamples=["unassalpha"])
    with pytest.raises(ValueError, match="expected an opaque picture, got a transparent one: flatten it"):
        read_image(tmp_path / "c.tif")


def test_real_inputs(shared_data, tmp_path):
    folder = shared_data.parent / "cases" / "inputs" / "lzw_palette_rgba"
    for name in ("lzw.tif", "pal.tif", "pal.png", "rgba.tif", "rgbstack.tif"):
        image, _ = copied(folder / name, tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[0], image)
    with pytest.raises(ValueError, match=r"SEPARATED.*save it as 8 or 16 bit RGB or gray"):
        read_image(folder / "cmyk.tif")
