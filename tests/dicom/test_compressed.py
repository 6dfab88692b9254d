"""Compressed slices: every row comes from data, sizes agree, nothing follows; whole ones are read as they were."""

import io
import json
import struct
import sys

import numpy as np
import pydicom
import pytest
from phantoms import ct_series
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from medrestore_monai.dicom import DicomError, decoder_process, decoding, read_series
from medrestore_monai.dicom.decoding import Decoded, decode_file
from medrestore_monai.dicom.frames import check_frame

BASELINE, LOSSLESS, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90))
GRAY = (np.add.outer(np.arange(61), np.arange(45) ** 1.2) + np.random.default_rng(0).integers(0, 30, (61, 45))).clip(
    0, 255
)


def saved(kind, **options):
    file = io.BytesIO()
    Image.fromarray(GRAY.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def lossless(restart=0):
    """A lossless JPEG by the standard: differences from the left neighbor, all sizes with codes of five bits."""
    rows, columns = GRAY.shape
    stored = GRAY.astype(int) * 16
    above = np.vstack([[1 << 11], stored[:-1, :1]])
    if restart:  # each interval of whole rows begins anew
        above[:: restart // columns] = 1 << 11
    bits, pieces = "", []
    for number, value in enumerate(np.diff(np.hstack([above, stored]), axis=1).ravel().tolist()):
        if restart and number and number % restart == 0:
            pieces.append(bits)
            bits = ""
        size = abs(value).bit_length()
        bits += f"{size:05b}" + (f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else "")
    data = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, 12, rows, columns, 1, 1, 0x11, 0)
    data += b"\xff\xc4" + struct.pack(">HB", 19 + 17, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    data += b"\xff\xdd" + struct.pack(">HH", 4, restart) if restart else b""
    data += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    for number, piece in enumerate([*pieces, bits]):
        data += bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b""
        whole = piece + "1" * (-len(piece) % 8)
        data += int(whole, 2).to_bytes(len(whole) // 8, "big").replace(b"\xff", b"\xff\x00")
    return data + b"\xff\xd9"


def promise(data, rows, tile=False):
    """The same stream with another number of rows in its header."""
    out = bytearray(data)
    if data.startswith(b"\xff\x4f"):
        start = data.index(b"\xff\x51")
        struct.pack_into(">I", out, start + 10, rows)
        if tile:
            struct.pack_into(">I", out, start + 26, rows)
    else:
        start = next(place for mark in (0xC0, 0xC3, 0xF7) if (place := data.find(bytes([0xFF, mark]))) > 0)
        struct.pack_into(">H", out, start + 5, rows)
    return bytes(out)


def slice_file(folder, syntax, frame, rows=61, bits=8, **encapsulation):
    def edit(ds, index):
        ds.Rows, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, 8 if bits == 8 else 16, bits, bits - 1
        ds.RescaleSlope = 10

    (path,) = ct_series(folder, slices=1, volume=np.full((45, 61, 1), -1000.0), edit=edit)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame], **encapsulation)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path)
    return path


def damaged(data):
    """Name, stream and rows of the header of streams that differ from a whole one."""
    yield "more rows", promise(data, 77), 77
    yield "many more rows", promise(data, 640), 640
    yield "rows of the header alone", data, 77
    yield "rows of the stream alone", promise(data, 77), 61
    yield "half", data[: len(data) // 2], 61
    yield "half with an end", data[: len(data) // 2].rstrip(b"\xff") + data[-2:], 61
    yield "a few bytes less", data[:-9].rstrip(b"\xff") + data[-2:], 61
    yield "twice", data + data, 61
    yield "more behind", data + b"Jane Doe", 61


STREAMS = {
    "baseline": (BASELINE, 8, saved("JPEG", quality=95)),
    "baseline with restarts": (BASELINE, 8, saved("JPEG", quality=80, restart_marker_blocks=7)),
    "optimized": (BASELINE, 8, saved("JPEG", quality=30, optimize=True)),
    "JPEG 2000": (JPEG_2000, 8, saved("JPEG2000", no_jp2=True)),
    "JPEG 2000 in a box": (JPEG_2000, 8, saved("JPEG2000")),
    "tiles": (JPEG_2000, 8, saved("JPEG2000", no_jp2=True, tile_size=(32, 16))),
    "layers": (JPEG_2000, 8, saved("JPEG2000", no_jp2=True, progression="RPCL", quality_layers=[20, 5, 1])),
}


@pytest.mark.parametrize("name", STREAMS)
def test_whole_frames_are_read_as_pillow_reads_them(tmp_path, name):
    syntax, bits, data = STREAMS[name]
    for number, encapsulation in enumerate(({}, {"fragments_per_frame": 3}, {"has_bot": False})):
        path = slice_file(tmp_path / str(number), syntax, data, bits=bits, **encapsulation)
        expected = np.asarray(Image.open(io.BytesIO(data))).T * 10.0 - 1024
        np.testing.assert_array_equal(read_series(path).array[..., 0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STREAMS if "box" not in name])
def test_damaged_frames_are_refused(tmp_path, name):
    syntax, bits, data = STREAMS[name]
    for flaw, stream, rows in damaged(data):
        path = slice_file(tmp_path / flaw, syntax, stream, rows, bits)
        with pytest.raises(DicomError, match="damaged, or its compressed pixel data do not fit"):
            read_series(path)


@pytest.mark.parametrize("rows", [64, 66, 77, 640])
def test_one_tile_that_promises_more_rows_is_refused(tmp_path, rows):
    path = slice_file(tmp_path, JPEG_2000, promise(STREAMS["layers"][2], rows, tile=True), rows)
    with pytest.raises(DicomError, match=r"belong to no pixel|lacks data"):
        read_series(path)


def frame_of(path):
    return pydicom.dcmread(path)


@pytest.mark.parametrize("restart", [0, 45 * 7])
def test_lossless_jpeg_is_counted_sample_by_sample(tmp_path, restart):
    data = lossless(restart)
    check_frame(frame_of(slice_file(tmp_path / "whole", LOSSLESS, data, bits=12)), "a.dcm")
    for flaw, stream, rows in (
        *damaged(data),
        ("one row more", promise(data, 62), 62),
        ("less", promise(data, 60), 60),
    ):
        path = slice_file(tmp_path / flaw, LOSSLESS, stream, rows, 12)
        with pytest.raises(DicomError, match=r"a\.dcm is damaged, or"):
            check_frame(frame_of(path), "a.dcm")


def test_jpeg_ls_must_be_of_the_size_of_its_header_before_a_decoder_sees_it(tmp_path):
    data = b"\xff\xd8\xff\xf7" + struct.pack(">HBHHBBBB", 11, 8, 61, 45, 1, 1, 0x11, 0)
    data += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 0, 0) + b"\x01\xff\x7f\x02" * 9 + b"\xff\xd9"
    check_frame(frame_of(slice_file(tmp_path / "whole", JPEG_LS, data)), "a.dcm")
    for flaw, stream, rows in damaged(data):
        if flaw in ("rows of the header alone", "rows of the stream alone", "half", "twice", "more behind"):
            with pytest.raises(DicomError, match=r"a\.dcm is damaged, or"):
                check_frame(frame_of(slice_file(tmp_path / flaw, JPEG_LS, stream, rows)), "a.dcm")


def test_run_length_segments_hold_one_byte_for_every_pixel(tmp_path):
    (path,) = ct_series(tmp_path, slices=1, size=(33, 21))
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    check_frame(ds, "a.dcm")
    for rows in (19, 22, 210):
        ds.Rows = rows
        with pytest.raises(DicomError, match=r"belong to no pixel|lacks data|follow its end"):
            check_frame(ds, "a.dcm")


def test_a_frame_of_another_process_is_refused(tmp_path):
    for name, data in (
        ("progressive", saved("JPEG", progressive=True)),
        ("color", promise(saved("JPEG"), 61).replace(b"\x00\x3d\x00\x2d\x01", b"\x00\x3d\x00\x2d\x03")),
    ):
        with pytest.raises(DicomError, match=r"coded in another way|3 samples"):
            read_series(slice_file(tmp_path / name, BASELINE, data))


@pytest.mark.parametrize(("name", "package"), [("JPEG 2000", "pylibjpeg"), ("baseline", "python-gdcm")])
def test_a_missing_decoder_is_named(tmp_path, monkeypatch, name, package):
    syntax, bits, data = STREAMS[name]
    path = slice_file(tmp_path, syntax, data, bits=bits)

    monkeypatch.setattr("medrestore_monai.dicom.pixels.decode_file", lambda *_: Decoded(problem="missing"))
    with pytest.raises(DicomError, match=rf"a05\.dcm is compressed .* no decoder .* pip install {package}"):
        read_series(path)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("the plugin is missing"), "missing"),
        (NotImplementedError(), "missing"),
        (MemoryError(), "memory"),
        (ValueError("odd"), "damaged"),
    ],
)
def test_what_a_decoder_raises_becomes_one_word(monkeypatch, error, problem):
    def fail(path):
        raise error

    monkeypatch.setattr(decoder_process, "decode", fail)
    answers = io.BytesIO()
    decoder_process.serve(io.BytesIO(b'"a.dcm"\n'), answers)
    assert json.loads(answers.getvalue()) == {"error": problem}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of memory for a process")
def test_a_bomb_ends_in_the_process_that_decodes_and_the_next_slice_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_LEAST", 100 << 20)
    (path,) = ct_series(tmp_path / "bomb", slices=1, size=(32, 32))
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.PixelData = encapsulate(
        [struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0" + b"\x81\0" * (4 << 20)]
    )  # 512 MB
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    assert decode_file(path, 2048).problem in ("memory", "warned", "damaged")
    good = ct_series(tmp_path / "good", slices=1)[0]
    ds = pydicom.dcmread(good)
    np.testing.assert_array_equal(decode_file(good, ds.Rows * ds.Columns * 2).array, ds.pixel_array)


@pytest.mark.slow
def test_a_decoder_that_crashes_or_does_not_end_is_replaced(tmp_path, monkeypatch):
    path = ct_series(tmp_path, slices=1)[0]
    decoding._decoder(decoding._LEAST)._process.kill()
    decoding._running[0]._process.wait()
    assert decode_file(path, 2048).array is not None
    monkeypatch.setattr(decoding, "_SECONDS", 0.3)
    child = tmp_path / "child.py"
    child.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(decoder_process, "__file__", str(child))
    decoding._close()
    assert decode_file(path, 2048).problem == "time"
    monkeypatch.undo()
    assert decode_file(path, 2048).array is not None
