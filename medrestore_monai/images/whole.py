"""Is all of a picture in its file? Decoders fill up what is missing and pass over what is too much, in silence."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from medrestore_monai.jpeg_stream import read_jpeg_stream

__all__ = ["check_jpeg", "check_nothing_follows", "check_tiff", "png_chunks"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's color types
# first column and row, and steps, of the seven passes of an interlaced PNG
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_APP2 = 0xE2
_TAILS = tuple(np.random.default_rng(seed).integers(1, 255, 64, dtype=np.uint8).tobytes() for seed in range(4))
_LAST = 4  # bytes of a scan; a picture needs them, or they are not its own
_ZLIB = (8, 32946)  # compressions of TIFF


def png_chunks(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the chunks of a PNG, checked: check sums, every row, nothing behind the end.

    Raises:
        OSError: something is missing, wrong, or too much.
    """
    chunks, start = [], 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        kind, end = data[start + 4 : start + 8].decode("latin-1"), start + 8 + length
        if data[end : end + 4] != struct.pack(">I", zlib.crc32(data[start + 4 : end])):
            raise OSError("the check sum of one of its chunks is wrong")
        chunks.append((kind, data[start + 8 : end]))
        start = end + 4
        if kind == "IEND":
            break
    if not chunks or chunks[-1][0] != "IEND":
        raise OSError("its end is missing")
    check_nothing_follows(len(data) - start)
    width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1][:13])
    expected = 0
    for column, row, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // right), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * _CHANNELS[color_type] * depth // 8))
    _check_zlib(b"".join(content for kind, content in chunks if kind == "IDAT"), expected)
    return chunks


def _check_zlib(packed: bytes, expected: int) -> None:
    """Refuse a zlib stream that does not hold just so many bytes, or is not alone."""
    stream = zlib.decompressobj()
    found = len(stream.decompress(packed, expected + 1))
    if found != expected or (not stream.eof and stream.decompress(stream.unconsumed_tail, 1)):
        raise OSError(f"it holds {'more than ' * (found > expected)}{min(found, expected)} bytes of {expected}")
    if not stream.eof:
        raise OSError("the check sum of its data is missing")
    check_nothing_follows(len(stream.unused_data))


def check_nothing_follows(count: int) -> None:
    """Refuse so many bytes behind the end of an image, unless the count is zero.

    Raises:
        OSError: there are some.
    """
    if count:
        raise OSError(f"{count} bytes follow its end")


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that lacks coded data for some of its pixels, or has too much.

    Its decoder makes up what is missing. So other bytes are put behind each piece of coded data: a picture that has all
    of its own stays the same. Conversely, a picture that stays the same with other last bytes had no use for them.

    Raises:
        OSError: something is missing, too much, or in a wrong order.
    """
    stream = read_jpeg_stream(data)
    pieces, end = stream.pieces, stream.end
    if not any(marker == _APP2 and content.startswith(b"MPF\0") for marker, content in stream.segments):
        check_nothing_follows(len(data[end:].rstrip(b"\0")))  # of several pictures, the others
    if not stream.is_complete:
        raise OSError("its last scans are missing")
    decoded = _decode_jpeg(data)
    tailed, start = b"", 0
    for piece in pieces:
        tailed += data[start : piece.stop] + _TAILS[0]
        start = piece.stop
    if not np.array_equal(_decode_jpeg(tailed + data[start:end]), decoded):
        raise OSError("it lacks data for some of its pixels")
    last = pieces[-1]  # of an earlier scan, the last bits may be too fine to show
    if last.stop - last.start > 2 * _LAST:
        kept = data[: last.stop - _LAST]
        kept = kept[:-1] if kept.endswith(b"\xff") else kept  # not a half of an escaped 0xFF
        if all(np.array_equal(_decode_jpeg(kept + tail + data[last.stop : end]), decoded) for tail in _TAILS):
            raise OSError("it has data that belong to no pixel")


def _decode_jpeg(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        return np.asarray(picture)


def check_tiff(page: tifffile.TiffPage, file_size: int) -> None:
    """Refuse a page of a TIFF whose strips or tiles do not hold all of its pixels, and no more.

    Raises:
        OSError: something is missing or too much.
    """
    expected = _segment_sizes(page)
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.compression == 1 and sum(counts) == sum(expected):
        expected = list(counts)  # strips may be counted as one
    if not len(offsets) == len(counts) == len(expected):
        raise OSError(f"it has {len(counts)} strips or tiles of {len(expected)}")
    for offset, count, size in zip(offsets, counts, expected, strict=True):
        if offset <= 0 or count <= 0 or offset + count > file_size:
            raise OSError("some of its strips or tiles lie outside of the file")
        if page.compression == 1:
            if count != size:
                raise OSError(f"a strip or tile holds {count} bytes of {size}")
        elif page.compression in _ZLIB:
            page.parent.filehandle.seek(offset)
            _check_zlib(page.parent.filehandle.read(count), size)


def _segment_sizes(page: Any) -> list[int]:
    """Bytes of the strips or tiles of a page, as they are once unpacked."""
    together = page.samplesperpixel if page.planarconfig == 1 else 1
    pixel = together * page.dtype.itemsize
    planes = page.samplesperpixel // together
    if page.is_tiled:
        down, across = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
        return [page.tilelength * page.tilewidth * pixel] * (planes * down * across)
    rows = min(page.rowsperstrip, page.imagelength)
    strips = [min(rows, page.imagelength - row) * page.imagewidth * pixel for row in range(0, page.imagelength, rows)]
    return strips * planes
