"""What PNG and TIFF hold beside their pixels: written and read back with Pillow, tifffile and by hand."""

import contextlib
import gc
import struct
import warnings
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import Compose, LoadImaged
from PIL import Image, ImageCms, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo
from skimage import data

from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.images import (
    ImageFileReader,
    SlabFile,
    VolumeFile,
    read_header,
    read_image,
    write_image,
    write_volume,
)
from medrestore_monai.intensity import ToUnitRanged
from medrestore_monai.transforms.color import PictureModalityd

GRAY = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def again(path):
    """Read a file and write it unchanged; return the path of the copy."""
    image, meta = read_image(path)
    return write_image(path.with_name(f"out_{path.name}"), image, like=meta)


def turned_png(path, stored, orientation):
    exif = Image.Exif()
    exif[274], exif[315] = orientation, "the artist"
    Image.fromarray(stored).save(path, exif=exif)


def shown(path):
    """The picture as a viewer that heeds the orientation shows it."""
    if path.suffix != ".tif":
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture))
    # Pillow 13 scrambles uncompressed TIFF of orientations 5 to 8
    with tifffile.TiffFile(path) as tiff:
        picture = Image.fromarray(tiff.asarray())
        picture.getexif()[274] = tiff.pages[0].tags.valueof(274) or 1
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stored", [GRAY, RGB], ids=["gray", "rgb"])
def test_orientation_of_tiff_and_png_is_kept(tmp_path, stored, orientation):
    photometric = "rgb" if stored.ndim == 3 else "minisblack"
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, extratags=tags)
    turned_png(tmp_path / "a.png", stored, orientation)
    for name in ("a.tif", "a.png"):
        out = again(tmp_path / name)
        np.testing.assert_array_equal(shown(out), shown(tmp_path / name))
        assert read_header(out) == read_header(tmp_path / name)
        assert shown(out).shape[:2] == ((9, 14) if orientation < 5 else (14, 9))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out_a.tif"), stored)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out_a.png")), stored)
    # nothing else of the EXIF, which may say who was pictured
    assert set(Image.open(tmp_path / "out_a.png").getexif()) <= {274}


def test_orientation_of_pages_is_kept_in_each(tmp_path):
    stored = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]])
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", extratags=[(274, "H", 1, 6, False)])
    with tifffile.TiffFile(again(tmp_path / "a.tif")) as after:
        assert [page.tags[274].value for page in after.pages] == [6, 6, 6]
        np.testing.assert_array_equal(after.asarray(), stored)


def test_a_picture_keeps_its_orientation_in_another_format(tmp_path):
    turned_png(tmp_path / "a.png", np.repeat(np.arange(0, 140, 10, dtype=np.uint8)[None], 9, axis=0), 6)
    image, meta = read_image(tmp_path / "a.png")
    write_image(tmp_path / "b.tif", image, like=meta)
    with pytest.warns(UserWarning, match="JPEG"):
        write_image(tmp_path / "b.jpg", image, like=meta)
    for name in ("b.tif", "b.jpg"):
        np.testing.assert_allclose(shown(tmp_path / name).astype(int), shown(tmp_path / "a.png"), atol=4)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_meta_data_of_turned_pictures_survive_batches(tmp_path, name):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if name == "a.tif":
        tifffile.imwrite(
            tmp_path / name, GRAY, extratags=[(274, "H", 1, 8, True)], iccprofile=profile, description=b"5 \xc2\xb5m"
        )
    else:
        exif, chunks = Image.Exif(), PngInfo()
        exif[274] = 8
        chunks.add(b"gAMA", struct.pack(">I", 45455))
        chunks.add_itxt("Author", "\u0141ucja", "pl", "Autor")
        Image.fromarray(GRAY).save(tmp_path / name, exif=exif, pnginfo=chunks, icc_profile=profile)
    load = LoadImaged("image", reader=ImageFileReader, ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset([{"image": tmp_path / name}] * 2, load), batch_size=2)))
    image = decollate_batch(batch)[1]["image"]
    write_image(tmp_path / f"batch_{name}", image, like=image.meta)
    assert (tmp_path / f"batch_{name}").read_bytes() == again(tmp_path / name).read_bytes()


def packed_tiff(path, bits, photometric=1):
    """Write 8 rows of 16 samples of so many bits each, by hand as TIFF 6.0 says."""
    data = bytes(range(16)) * bits  # 16 * 8 * bits / 8
    entries = {256: 16, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 8, 279: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    directory = struct.pack("<H", len(entries)) + fields + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)


def test_tiff_with_packed_samples_is_refused(tmp_path):
    packed_tiff(tmp_path / "8.tif", 8)
    assert read_image(tmp_path / "8.tif")[0].shape == (16, 8)
    for bits in (1, 2, 4, 12):
        packed_tiff(tmp_path / "a.tif", bits)
        for read in (read_image, read_header):
            with pytest.raises(
                ValueError, match=rf"a\.tif: expected TIFF with 8, .* bits per sample, got {bits}: save it"
            ):
                read(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_color_profiles_are_kept(tmp_path, name):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / name, icc_profile=profile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="JPEG loses")
        out = again(tmp_path / name)
    assert Image.open(out).info["icc_profile"] == profile


def chunks(path):
    """All chunks of a PNG by their kind."""
    data, found = path.read_bytes()[8:], {}
    while data:
        length = struct.unpack(">I", data[:4])[0]
        found[data[4:8]] = data[8 : 8 + length]
        data = data[12 + length :]
    return found


@pytest.mark.parametrize("stored", [GRAY, RGB, GRAY.astype(np.uint16) * 257], ids=["gray", "rgb", "16bit"])
def test_color_chunks_of_png_are_kept(tmp_path, stored):
    # a curve of 1/2.2, the primaries of Rec. 709, and the intent "absolute colorimetric"
    wanted = {
        b"gAMA": struct.pack(">I", 45455),
        b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
        b"sRGB": b"\x03",
    }
    info = PngInfo()
    for kind, content in wanted.items():
        info.add(kind, content)
    Image.fromarray(stored).save(tmp_path / "a.png", pnginfo=info)
    assert wanted.items() <= chunks(tmp_path / "a.png").items()
    out = again(tmp_path / "a.png")
    assert wanted.items() <= chunks(out).items()
    np.testing.assert_array_equal(np.asarray(Image.open(out)), stored)
    Image.fromarray(stored).save(tmp_path / "plain.png")
    assert not wanted.keys() & chunks(again(tmp_path / "plain.png")).keys()


def test_texts_of_png_are_left_out(tmp_path):
    info = PngInfo()
    info.add_text("Title", "Kidney, 5 \xb5m")
    info.add_text("Comment", "long " * 100, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    Image.fromarray(GRAY).save(tmp_path / "a.png", pnginfo=info)
    out = again(tmp_path / "a.png")
    assert not {b"tEXt", b"zTXt", b"iTXt"} & chunks(out).keys()
    assert Image.open(out).text == {}


@pytest.mark.parametrize("size", [(2, 1, 0), (11811, 5906, 1), (0, 0, 1)], ids=["ratio", "per meter", "none"])
def test_pixels_of_png_keep_their_size_and_shape(tmp_path, size):
    Image.fromarray(GRAY).save(tmp_path / "plain.png")
    body = b"pHYs" + struct.pack(">IIB", *size)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    plain = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk + plain[33:])
    out = again(tmp_path / "a.png")
    assert out.read_bytes().count(b"pHYs") == 1
    assert chunks(out)[b"pHYs"] == struct.pack(">IIB", *size)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), GRAY)


def test_significant_bits_of_png_are_left_out(tmp_path):
    info = PngInfo()
    info.add(b"sBIT", b"\x05")  # a decoder may drop the other bits, which a restored picture uses
    Image.fromarray(GRAY).save(tmp_path / "a.png", pnginfo=info)
    assert b"sBIT" in chunks(tmp_path / "a.png")
    assert b"sBIT" not in chunks(again(tmp_path / "a.png"))


def test_smaller_copies_in_a_tiff_are_left_out_with_a_note(tmp_path):
    picture = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(picture, subifds=1)
        tiff.write(picture[::2, ::2], subfiletype=1)
    with pytest.warns(UserWarning, match=r"a\.tif: only the largest of the 2 sizes of the picture is kept\."):
        out = again(tmp_path / "a.tif")
    with tifffile.TiffFile(out) as tiff:
        assert not tiff.series[0].is_pyramidal
        np.testing.assert_array_equal(tiff.asarray(), picture)


def imagej(path, stored, *lines, **options):
    """A TIFF as ImageJ writes one, with further lines in its description."""
    text = "".join(f"{line}\n" for line in ("ImageJ=1.54f", f"images={len(stored)}", f"slices={len(stored)}", *lines))
    tifffile.imwrite(path, stored, description=text, metadata=None, **{"photometric": "minisblack", **options})
    return path


@pytest.mark.parametrize("slab", [False, True])
@pytest.mark.parametrize(
    ("dtype", "c0", "c1", "added"),
    [("uint16", -32768, 1, 0), ("uint16", -1024, 0.5, 0), ("uint8", 3, 2.5, 0), ("int16", -32768, 1, 32768)],
)
def test_a_linear_calibration_by_imagej_is_the_unit_of_the_values(tmp_path, dtype, c0, c1, added, slab):
    """ImageJ shows c0 + c1 * pixel; to signed pixels it adds 32768 before."""
    stored = np.stack([GRAY + shift for shift in (0, 5, 9)]).astype(dtype)
    lines = ("cf=0", f"c0={c0:.1f}", f"c1={c1}", "vunit=of Jane Doe", "loop=false")
    path = imagej(tmp_path / "a.tif", stored, *lines)
    shown = c0 + c1 * (stored.astype(float) + added)
    change = np.ones_like(stored) * (stored < 255)
    out = tmp_path / "b.tif"
    if slab:
        volume = VolumeFile(path)
        values, meta = volume.slab(0, 3), volume.meta
        voxels = SlabFile(tmp_path / "voxels", volume.shape)
        voxels.write(0, values + c1 * change.T)
        write_volume(out, voxels, meta)
        volume.close()
    else:
        values, meta = read_image(path)
        write_image(out, values + c1 * change.T, meta)
    np.testing.assert_allclose(values, shown.T, rtol=1e-6)
    with tifffile.TiffFile(out) as written:
        assert written.asarray().dtype == dtype
        np.testing.assert_array_equal(written.asarray(), stored + change)
        noted = written.imagej_metadata
        assert (noted["cf"], noted["c0"], noted["c1"], noted["vunit"]) == (0, c0, c1, "Gray Value")
    np.testing.assert_allclose(read_image(out)[0], (shown + c1 * change).T, rtol=1e-6)


@pytest.mark.parametrize(
    "lines", [("cf=20",), ("cf=0", "c0=0.0", "c1=1.0"), ("cf=1", "c0=0", "c1=1", "c2=0"), ("cf=0",)]
)
def test_a_calibration_by_imagej_that_changes_nothing(tmp_path, lines):
    path = imagej(tmp_path / "a.tif", np.stack([GRAY] * 3), *lines)
    image, meta = read_image(path)
    np.testing.assert_array_equal(image, np.stack([GRAY.T] * 3, axis=-1))
    assert "scl_slope" not in meta
    np.testing.assert_array_equal(tifffile.imread(again(path)), [GRAY] * 3)


@pytest.mark.parametrize(
    "lines",
    [
        ("cf=21",),
        ("cf=1", "c0=0", "c1=1", "c2=0.5"),
        ("cf=4", "c0=0", "c1=1"),
        ("cf=0", "c0=-9", "c1=1", "zeroclip=true"),
    ],
)
def test_another_calibration_by_imagej_is_refused(tmp_path, lines):
    path = imagej(tmp_path / "a.tif", np.stack([GRAY] * 3), *lines)
    for read in (read_image, VolumeFile):
        with pytest.raises(ValueError, match=r"a\.tif has a calibration by ImageJ .*: apply it in ImageJ with Image"):
            read(path)
    floats = imagej(tmp_path / "b.tif", np.stack([GRAY] * 3).astype("float32"), *lines)
    np.testing.assert_array_equal(read_image(floats)[0], np.stack([GRAY.T] * 3, axis=-1))


def test_a_calibration_with_a_palette_is_refused(tmp_path):
    table = (np.arange(256) * np.array([[257], [256], [0]])).astype(np.uint16)
    lines = ("cf=0", "c0=2", "c1=1")
    path = imagej(tmp_path / "a.tif", np.stack([GRAY] * 3), *lines, photometric="palette", colormap=table)
    with pytest.raises(ValueError, match="goes with a palette: apply it in ImageJ"):
        read_image(path)


def test_calibrated_values_are_no_gray_levels(tmp_path):
    load = Compose([LoadImageOrSeriesd("image"), PictureModalityd("image")])
    scaling = ToUnitRanged("image", None)
    path = imagej(tmp_path / "a.tif", np.stack([GRAY] * 3), "cf=0", "c0=0", "c1=0.01")
    for part in ({}, {"slice": 1}, {"start": 0, "stop": 2}):
        with pytest.raises(ValueError, match="no gray levels: take it away, in ImageJ with Analyze > Calibrate"):
            scaling(load({"image": str(path), **part}))
    signed = imagej(tmp_path / "b.tif", np.stack([GRAY] * 3).astype("uint16") + 32768, "cf=0", "c0=-32768", "c1=1")
    for part in ({}, {"slice": 1}, {"start": 0, "stop": 2}):
        assert scaling(load({"image": str(signed), **part}))["image"].meta["intensity_range"] == [0.0, 255.0]


def _plain_map(xml):
    """The elements of an OME description and their attributes, without the map of pages and the UUID of the file."""
    for element in ElementTree.fromstring(xml).iter():
        if not element.tag.endswith("TiffData"):
            yield element.tag, {key: value for key, value in element.attrib.items() if key != "UUID"}


def _ome(pages, uuid=""):
    """An OME description of three slices of 14 x 9 pixels, with the map of pages as given."""
    spaces = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    sizes = 'DimensionOrder="XYCZT" Type="uint8" SizeX="14" SizeY="9" SizeC="1" SizeZ="3" SizeT="1"'
    channel = '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    pixels = f'<Pixels ID="Pixels:0" {sizes}>{channel}{pages}</Pixels>'
    return f'<OME xmlns="{spaces}" {uuid}><Image ID="Image:0" Name="Image0">{pixels}</Image></OME>'


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("slab", [False, True])
def test_slices_of_an_ome_tiff_stay_where_they_are(tmp_path, order, slab):
    """The pages lie in any order, and a map says which slice each one is."""
    pages = "".join(f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for page, z in enumerate(order))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        for page in range(3):
            tiff.write(GRAY // 4 + 60 * page, description=_ome(pages) if page == 0 else None, metadata=None)
    expected = tifffile.imread(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(expected, [GRAY // 4 + 60 * order.index(z) for z in range(3)])
    if slab:
        volume = VolumeFile(tmp_path / "a.ome.tif")
        voxels = SlabFile(tmp_path / "voxels", volume.shape)
        voxels.write(0, volume.slab(0, 3))
        out = write_volume(tmp_path / "out_a.ome.tif", voxels, volume.meta)
        volume.close()
    else:
        out = again(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(tifffile.imread(out), expected)
    np.testing.assert_array_equal([np.asarray(page) for page in ImageSequence.Iterator(Image.open(out))], expected)
    np.testing.assert_array_equal(tifffile.imread(again(out)), expected)


def test_no_ome_description_is_made_up(tmp_path):
    """tifffile writes one where the name of the file asks for it, and takes the slices for channels."""
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([GRAY] * 4), metadata=None, ome=False, photometric="minisblack")
    out = again(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(out) as tiff:
        assert not tiff.is_ome
    np.testing.assert_array_equal(read_image(out)[0], read_image(tmp_path / "a.ome.tif")[0])


@pytest.mark.parametrize("name", ["a0.ome.tif", "a2.ome.tif"])
def test_a_set_of_ome_tiff_files_is_refused(tmp_path, name):
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{z}" for z in range(3)]
    pages = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="a{z}.ome.tif">{uuid}</UUID></TiffData>'
        for z, uuid in enumerate(uuids)
    )
    for z, uuid in enumerate(uuids):
        description = _ome(pages, f'UUID="{uuid}"')
        tifffile.imwrite(tmp_path / f"a{z}.ome.tif", GRAY // 4 + 60 * z, description=description, metadata=None)
    assert tifffile.imread(tmp_path / name).shape == (3, *GRAY.shape)
    for read in (read_image, read_header, VolumeFile):
        with pytest.raises(ValueError, match=rf"{name} is part of an OME-TIFF set, .*: save the set as one file\.$"):
            read(tmp_path / name)


def test_ome_tiff_keeps_its_voxel_size_and_axes(tmp_path):
    stored = np.stack([GRAY] * 4)
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 2.5, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    out = again(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as before, tifffile.TiffFile(out) as after:
        assert after.series[0].axes == "ZYX"
        assert 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"' in after.ome_metadata
        assert sorted(_plain_map(after.ome_metadata)) == sorted(_plain_map(before.ome_metadata))
        np.testing.assert_array_equal(after.asarray(), stored)


def test_refused_pictures_are_closed(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    Image.new("P", (4, 4)).save(tmp_path / "a.png")
    Image.fromarray(GRAY).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-60])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a.jpg", "a.png", "cut.png"):
            for read in (read_image, read_header):
                with contextlib.suppress(ValueError):
                    read(tmp_path / name)
        gc.collect()
    assert not [str(note.message) for note in caught if issubclass(note.category, ResourceWarning)]


@pytest.mark.parametrize("pair", [(0, 0), (300, 0)])
def test_an_invalid_resolution_is_left_out(tmp_path, pair):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, resolution=(300, 200), resolutionunit="inch")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags[282].overwrite(pair)
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(again(tmp_path / "a.tif")) as after:
        assert before.pages[0].tags[282].value == pair
        assert after.pages[0].tags.valueof(282) in (None, (1, 1))
        np.testing.assert_array_equal(after.asarray(), GRAY)


def test_planes_of_several_samples_are_no_slices(tmp_path):
    planes = np.stack([GRAY] * 4)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", planarconfig="separate")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.series[0].axes == "SYX"
    for read in (read_image, read_header):
        with pytest.raises(ValueError, match=r"a\.tif: expected TIFF with gray or RGB pictures"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_resolution_of_a_jpeg_is_turned_with_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.jpg", dpi=(300, 150), exif=exif)
    image, meta = read_image(tmp_path / "a.jpg")
    turned = orientation >= 5
    assert image.shape == ((3, 9, 14) if turned else (3, 14, 9))
    write_image(tmp_path / "b.png", image, like=meta)
    assert Image.open(tmp_path / "b.png").info["dpi"] == pytest.approx((150, 300) if turned else (300, 150), rel=1e-3)


@pytest.mark.slow
def test_a_png_with_a_bit_error_is_refused(tmp_path):
    Image.fromarray(data.astronaut()[100:160, 100:228]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    end, silent = whole.index(b"IEND") - 8, 0
    for place in range(end - 400, end, 2):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / "b.png").write_bytes(damaged)
        with contextlib.suppress(Exception):
            silent += bool(np.asarray(Image.open(tmp_path / "b.png")).size)
        with pytest.raises(ValueError, match=r"b\.png cannot be read, it is damaged"):
            read_image(tmp_path / "b.png")
    assert silent > 0  # Pillow alone does not notice
