"""Is all of a slice in its compressed frame? Decoders fill up what is missing, pass over what follows, or crash.

What a frame says of its picture is compared with the header before a decoder sees it: some end the process where the
two differ.

References:
    DICOM PS3.5 A.4 (encapsulation), 8.2 and annex G (run-length encoding).
    ISO/IEC 15444-1 (JPEG 2000), annex A.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import DicomError
from medrestore_monai.dicom.huffman import check_coded_samples
from medrestore_monai.jpeg_stream import read_jpeg_stream

__all__ = ["check_frame"]

_RLE = "1.2.840.10008.1.2.5"
_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
_JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_LS_PROCESS = 0xF7
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SOC, _SIZ, _SOT, _SOD, _EOC, _TLM = 0xFF4F, 0xFF51, 0xFF90, 0xFF93, 0xFFD9, 0xFF55
_TAILS = tuple(np.random.default_rng(seed).integers(1, 255, 64, dtype=np.uint8).tobytes() for seed in range(4))
_LAST = 8  # bytes of a code stream; in none of 47 that were tried they are without effect
_TOO_MUCH = "it has data that belong to no pixel"
_TOO_LITTLE = "it lacks data for some of its pixels"


def check_frame(ds: Dataset, label: str) -> None:
    """Refuse a compressed slice whose one frame is not of the size that its header has, is cut short, or goes on.

    Args:
        ds: with its pixel data, one frame.
        label: name of the file in the message.

    Raises:
        DicomError: something is missing, too much, or differs; the message says what.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    try:
        frame = _only_frame(ds.PixelData)
        if syntax == _RLE:
            _check_rle(ds, frame)
        elif syntax in (*_JPEG, *_JPEG_LS):
            _check_jpeg(ds, frame, syntax in _JPEG_LS)
        elif syntax in _JPEG_2000:
            stream = _Jpeg2000(frame)
            stream.check(ds)
            _check_jpeg2000(stream)
    except (OSError, IndexError, struct.error) as error:
        raise _damaged(label, error if isinstance(error, OSError) else "its end is missing") from None


def _damaged(label: str, reason: object) -> DicomError:
    return DicomError(f"{label} is damaged, or its compressed pixel data do not fit its header: {reason}.")


def _check_jpeg2000(stream: _Jpeg2000) -> None:
    """Refuse a code stream whose decoder runs out of data, or leaves some.

    Other bytes behind the data make another picture only if the decoder reads on; others in place of the last ones make
    the same picture only if it had stopped before.
    """
    picture = _decoded(stream.with_tail(b""))
    if picture is None or _decoded(stream.with_tail(_TAILS[0])) != picture:
        raise OSError(_TOO_LITTLE)
    if all(_decoded(stream.with_tail(tail, _LAST)) == picture for tail in _TAILS):
        raise OSError(_TOO_MUCH)


def _decoded(frame: bytes) -> bytes | None:
    """Pixels that Pillow makes of a code stream, in silence, where other decoders write to the terminal."""
    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as picture:
            return picture.tobytes()
    except Exception:  # a decoder may raise anything
        return None


def _only_frame(encapsulated: bytes) -> bytes:
    """The fragments of encapsulated pixel data together, without the table of offsets before them."""
    fragments, position = [], 0
    while position + 8 <= len(encapsulated) and encapsulated[position : position + 4] == _ITEM:
        (length,) = struct.unpack_from("<I", encapsulated, position + 4)
        fragments.append(encapsulated[position + 8 : position + 8 + length])
        if len(fragments[-1]) < length:
            raise OSError("one of its fragments is cut short")
        position += 8 + length
    rest = encapsulated[position:]
    if len(fragments) < 2 or (any(rest) and not rest.startswith(_DELIMITER)):
        raise OSError("its fragments do not follow each other")
    return b"".join(fragments[1:])


def _require_alike(ds: Dataset, rows: int, columns: int, components: int, precision: int) -> None:
    """Refuse a frame that says something else of its picture than the header."""
    if (rows, columns) != (int(ds.Rows), int(ds.Columns)):
        raise OSError(f"it has {columns} columns and {rows} rows, and the header {ds.Columns} and {ds.Rows}")
    if components != 1 or not 1 <= precision <= int(ds.BitsAllocated):
        raise OSError(f"it has {components} samples of {precision} bits, and the header one of {ds.BitsAllocated}")


def _check_jpeg(ds: Dataset, frame: bytes, is_ls: bool) -> None:
    stream = read_jpeg_stream(frame)
    found = stream.frame
    if (found.process == _LS_PROCESS) != is_ls or frame[:2] != b"\xff\xd8":
        raise OSError("it is coded in another way than its transfer syntax has it")
    _require_alike(ds, found.rows, found.columns, found.components, found.precision)
    _refuse_what_follows(frame[stream.end + stream.end % 2 :])  # a byte makes an odd length even
    if not is_ls:  # every decoder of JPEG-LS looks at that itself
        check_coded_samples(frame, stream)


def _refuse_what_follows(rest: bytes) -> None:
    if rest.rstrip(b"\0"):
        raise OSError(f"{len(rest)} bytes follow its end")


def _check_rle(ds: Dataset, frame: bytes) -> None:
    """Refuse run-length encoded data whose segments do not hold one byte for every pixel, and no more."""
    count = int(ds.BitsAllocated) // 8
    if len(frame) < 64 or struct.unpack_from("<I", frame)[0] != count:
        raise OSError(f"it has not the {count} segments that its header asks for")
    offsets = struct.unpack_from(f"<{count}I", frame, 4)
    if offsets[0] != 64 or list(offsets) != sorted(offsets):
        raise OSError("its segments do not follow each other")
    for start, stop in zip(offsets, (*offsets[1:], len(frame)), strict=True):
        _check_segment(frame[start:stop], int(ds.Rows) * int(ds.Columns))


def _check_segment(segment: bytes, expected: int) -> None:
    position = found = 0
    while found < expected and position < len(segment):
        code = segment[position]
        if code < 128:
            found, position = found + code + 1, position + code + 2
        elif code > 128:
            found, position = found + 257 - code, position + 2
        else:
            position += 1
    if found < expected or position > len(segment):
        raise OSError(_TOO_LITTLE)
    if found > expected:
        raise OSError(_TOO_MUCH)
    _refuse_what_follows(segment[position:])


class _Jpeg2000:
    """A code stream of JPEG 2000, cut into its main header and the parts of its tiles."""

    def __init__(self, frame: bytes) -> None:
        data = _code_stream(frame)
        self.header, self.size, position = self._main_header(data)
        self.parts: list[tuple[int, bytes]] = []  # index of the tile, and all of the part
        while True:
            if len(data) < position + 2:
                raise OSError("its end is missing")
            (marker,) = struct.unpack_from(">H", data, position)
            if marker == _EOC:
                break
            if marker != _SOT or len(data) < position + 12:
                raise OSError("the parts of its tiles do not follow each other")
            tile, length = struct.unpack_from(">HI", data, position + 4)
            length = length or len(data.rstrip(b"\0")) - 2 - position  # of the last part
            if length < 14 or position + length > len(data):
                raise OSError(_TOO_LITTLE)
            self.parts.append((tile, data[position : position + length]))
            position += length
        _refuse_what_follows(data[position + 2 + position % 2 :])  # a byte makes an odd length even

    def check(self, ds: Dataset) -> None:
        """Refuse it where it differs from the header, or lacks a tile."""
        right, down, left, top, width, height, x, y, components, precision = self.size
        _require_alike(ds, down - top, right - left, components, precision)
        if not width or not height:
            raise OSError("its tiles have no size")
        tiles = -(-(right - x) // width) * -(-(down - y) // height)
        if {tile for tile, _ in self.parts} != set(range(tiles)):
            raise OSError(f"it has not just the {tiles} tiles that its size asks for")

    def with_tail(self, tail: bytes, left_out: int = 0) -> bytes:
        """Return the stream with other bytes behind the data of its last part, or in place of the last of them."""
        _, last = self.parts[-1]
        last = last[: max(len(last) - left_out, 14)] + tail
        last = last[:6] + struct.pack(">I", len(last)) + last[10:]
        return self.header + b"".join(part for _, part in self.parts[:-1]) + last + struct.pack(">H", _EOC)

    @staticmethod
    def _main_header(data: bytes) -> tuple[bytes, tuple[int, ...], int]:
        """The header without lengths of parts, the sizes of image and tiles, and where the first part begins."""
        kept, position = data[:2], 2
        size: tuple[int, ...] = ()
        while True:
            if len(data) < position + 4:
                raise OSError("its end is missing")
            marker, length = struct.unpack_from(">HH", data, position)
            if marker == _SOT:
                break
            segment = data[position : position + 2 + length]
            if marker == _SIZ and len(segment) >= 43:
                size = (*struct.unpack_from(">8I", segment, 6), *struct.unpack_from(">H", segment, 38))
                size = (*size, (segment[40] & 0x7F) + 1)
            kept += segment if marker != _TLM else b""
            position += 2 + max(length, 2)
        if not size:
            raise OSError("it does not say its size")
        return kept, size, position


def _code_stream(frame: bytes) -> bytes:
    """The code stream, which some files have in a box of the format JP2."""
    position = 0
    while not frame.startswith(struct.pack(">H", _SOC), position):
        if len(frame) < position + 8:
            raise OSError("it is no JPEG 2000 code stream")
        length, kind = struct.unpack_from(">I4s", frame, position)
        if kind != b"jp2c" and length < 8:
            raise OSError("it is no JPEG 2000 code stream")
        position += 8 if kind == b"jp2c" else length
    return frame[position:]
