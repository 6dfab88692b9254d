"""Files that lack data, hold too much, or are broken: refused in one sentence, never filled up in silence."""

import io
import struct
import subprocess
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from phantoms import ct_series
from PIL import Image
from pydicom.uid import RLELossless
from script_loading import load_script

from medrestore_monai.dicom import DicomError, read_series
from medrestore_monai.images import damage, read_header, read_image

ROWS = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)


@pytest.fixture(scope="module")
def fuzz_readers():
    return load_script("experiments/fuzz_readers.py")


@pytest.mark.slow
def test_two_thousand_damaged_files_give_one_sentence_or_the_same_voxels(fuzz_readers):
    outcome = fuzz_readers.fuzz(2112, seed=20)
    assert outcome.failures == []
    for name in fuzz_readers.samples():
        assert sum(count for (of, _), count in outcome.counts.items() if of == name) >= 100
        assert outcome.counts[name, "refused"] > 50


@pytest.mark.slow
def test_the_fuzz_sees_a_reader_that_fills_up(fuzz_readers, monkeypatch):
    monkeypatch.setattr(fuzz_readers, "read", lambda path: np.asarray(Image.open(path)) if path.suffix == ".png" else 0)
    monkeypatch.setattr(fuzz_readers, "samples", lambda: {"gray.png": fuzz_readers._saved(save_png)})
    assert fuzz_readers.fuzz(60, seed=0).failures


def save_png(file):
    Image.fromarray(ROWS).save(file, "PNG")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows, promised, behind=b"", interlaced=False):
    head = struct.pack(">IIBBBBB", rows.shape[1], promised, 8, 0, 0, 0, int(interlaced))
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed)
    return start + chunk(b"IEND", b"") + behind


def jpeg(promised=64, restart=0, **options):
    file = io.BytesIO()
    Image.fromarray(ROWS).save(file, "JPEG", quality=95, restart_marker_blocks=restart, **options)
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    data[frame + 5 : frame + 7] = struct.pack(">H", promised)
    return bytes(data)


def shortened(data, count):
    """Coded data of a JPEG without its last bytes, ended properly."""
    return data[: -2 - count] + data[-2:]


def scans(count, **options):
    """A progressive JPEG with so many of its scans, ended properly; libjpeg smooths over what the others hold."""
    data = jpeg(progressive=True, **options)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, starts[count])  # of the next scan
    return data[:tables] + b"\xff\xd9"


def nifti(behind=b""):
    return nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)).to_bytes() + behind


def npy(behind=b""):
    file = io.BytesIO()
    np.save(file, np.zeros((5, 4), np.int16))
    return file.getvalue() + behind


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.png", png(ROWS[:6], 64), r"294 bytes of 3136"),
        ("b.png", png(ROWS, 63), "more than"),
        ("c.png", png(ROWS, 64, b"\0"), "1 bytes follow its end"),
        ("d.png", png(ROWS, 64).replace(b"IEND", b"IEMD"), "check sum"),
        ("e.png", png(ROWS, 64)[:-12], "its end is missing"),
        ("f.png", png(ROWS[:30], 64, interlaced=True), r"1470 bytes of 31\d\d"),
        ("a.jpg", jpeg(640), "lacks data"),
        ("b.jpg", jpeg(80, progressive=True), "lacks data"),
        ("h.jpg", jpeg(640, progressive=True), "lacks data"),
        ("i.jpg", shortened(jpeg(progressive=True), 9), "lacks data"),
        ("j.jpg", scans(1), "its last scans are missing"),
        ("k.jpg", scans(3), "its last scans are missing"),
        ("l.jpg", scans(-1), "its last scans are missing"),
        ("c.jpg", jpeg(32), "belong to no pixel"),
        ("d.jpg", jpeg() + b"more", "4 bytes follow"),
        ("e.jpg", jpeg()[:-2], "end is missing"),
        ("f.jpg", shortened(jpeg(), 40), "lacks data"),
        ("g.jpg", jpeg(restart=4).replace(b"\xff\xd1", b"\xff\xd2"), "not in order"),
        ("a.nii", nifti(b"\0" * 4), "4 bytes follow"),
        ("a.npy", npy(b"x"), "1 bytes follow"),
        ("b.npy", npy()[:-1], "promises"),
    ],
)
def test_every_row_comes_from_data_and_nothing_follows(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} cannot be read, it is damaged.*{reason}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"srow_x": [0, 0, 0, 0]}, "voxels of 0 x 1 x 1"),
        ({"srow_y": [1, 0, 0, 0]}, "or flat ones"),
        ({"srow_x": [1e30, 0, 0, 0]}, "voxels of 1e"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "not finite"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_are_refused(tmp_path, fields, reason):
    data = nifti()
    header = nib.Nifti1Header(data[:348])
    for name, value in fields.items():
        header[name] = value
    (tmp_path / "a.nii").write_bytes(header.binaryblock + data[348:])
    with pytest.raises(ValueError, match=reason):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (1, 4, 3)])
def test_an_axis_of_one_voxel_needs_no_size(tmp_path, shape):
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    image.to_filename(tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    header = nib.Nifti1Header(data[:348])
    for axis, side in enumerate((*shape, 1)[:3]):
        if side == 1:
            header[f"srow_{'xyz'[axis]}"] = 0
    (tmp_path / "a.nii").write_bytes(header.binaryblock + data[348:])
    assert read_image(tmp_path / "a.nii")[0].shape == shape


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("side", [8, 21, 70])
@pytest.mark.parametrize(
    "options",
    [{"quality": 60}, {"quality": 100, "progressive": True}, {"quality": 90, "restart_marker_rows": 1}],
)
@pytest.mark.parametrize("content", ["flat", "black border", "noise"])
def test_whole_jpegs_are_read(tmp_path, mode, side, options, content):
    rng = np.random.default_rng(side)
    gray = {"flat": np.full((side, side), 90), "noise": rng.integers(0, 256, (side, side))}.get(content)
    if gray is None:
        gray = np.pad(rng.integers(100, 110, (side - 4, side - 4)), 2)
    Image.fromarray(gray.astype(np.uint8)).convert(mode).save(tmp_path / "a.jpg", **options)
    decoded = np.asarray(Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg")[0], decoded.T)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_whole_interlaced_pngs_are_read(tmp_path, bits):
    """The seven passes of a PNG of 8 bit, by the table of the PNG standard, section 8.2."""
    rows = np.arange(7 * 9 * bits, dtype=np.uint8).reshape(7 * bits, 9)
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [rows[row::down, column::right] for row, column, down, right in starts]
    packed = zlib.compress(b"".join(b"\0" + line.tobytes() for one in passes if one.size for line in one))
    head = struct.pack(">IIBBBBB", 9, 7 * bits, 8, 0, 0, 0, 1)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    (tmp_path / "a.png").write_bytes(start + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], rows.T)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 7}, {"tile": (16, 16)}])
def test_a_tiff_that_lacks_a_strip_or_tile_is_refused(tmp_path, options):
    stored = np.arange(40 * 33, dtype=np.uint16).reshape(40, 33)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0], stored.T)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts" if "tile" in options else "StripByteCounts"]
        counts = tag.value
        tag.overwrite((0, *counts[1:]))
    with pytest.raises(ValueError, match=r"a\.tif cannot be read"):
        read_image(tmp_path / "a.tif")


def test_run_length_data_with_bytes_missing_are_refused(tmp_path):
    (path,) = ct_series(tmp_path, slices=1, size=64)
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    read_series(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    refused = 0
    for start in range(middle, middle + 400, 40):
        path.write_bytes(whole[:start] + whole[start + 81 :] + b"")
        try:
            read_series(tmp_path)
        except DicomError:
            refused += 1
    assert refused == 10


@pytest.mark.parametrize("behind", [b"\1\2\3\4\5", b"\x28\x00\x10\x00US\x02\x00\x01\x00" * 3])
def test_a_slice_that_goes_on_behind_its_pixel_data_is_refused(tmp_path, behind):
    (path,) = ct_series(tmp_path, slices=1)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(6))
    read_series(tmp_path)
    path.write_bytes(whole + behind)
    with pytest.raises(DicomError, match="goes on behind its pixel data"):
        read_series(tmp_path)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), OverflowError(), RecursionError(), Exception("odd\nthing")])
def test_whatever_a_parser_raises_becomes_one_sentence(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    tifffile.imwrite(tmp_path / "a.tif", ROWS)
    (path,) = ct_series(tmp_path / "ct", slices=1)
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    monkeypatch.setattr(pydicom, "dcmread", fail)
    for read, place in ((read_image, tmp_path / "a.tif"), (read_header, tmp_path / "a.tif"), (read_series, path)):
        with pytest.raises(ValueError, match=place.name) as caught:
            read(place)
        assert "\n" not in str(caught.value)


def test_messages_leave_out_what_a_parser_quotes(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy().replace(b"'descr'", b"'Doe^Jo'"))
    with pytest.raises(ValueError, match=r"a\.npy cannot be read") as caught:
        read_image(tmp_path / "a.npy")
    assert "Doe" not in str(caught.value)
    assert (
        damage._reason(ValueError("bad value b'Jane' in \"Doe\" of {x: 1} or <y>: no"))
        == "bad value ... in ... of ... or ...: no"
    )
    assert damage._reason(ValueError("bad 'open end Jane")) == "bad"
    assert damage._reason(KeyError(3)) == "KeyError"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/djpeg").is_file(), reason="libjpeg-turbo-progs is not installed")
def test_what_libjpeg_warns_of_is_refused(tmp_path, fuzz_readers):
    rng = np.random.default_rng(3)
    warned = 0
    for name in ("gray.jpg", "color.jpg"):
        for _ in range(60):
            data = fuzz_readers.damaged(fuzz_readers.samples()[name], rng)
            (tmp_path / name).write_bytes(data)
            judged = subprocess.run(["djpeg", "-outfile", "/dev/null"], input=data, capture_output=True)
            if judged.returncode or judged.stderr:
                warned += 1
                with pytest.raises(ValueError, match="cannot be read"):
                    read_image(tmp_path / name)
    assert warned > 40
