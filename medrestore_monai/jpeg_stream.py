"""Where the segments and the coded data of a JPEG or JPEG-LS stream lie; nothing is decoded.

References:
    ISO/IEC 10918-1 (ITU-T T.81), annex B; ISO/IEC 14495-1 (T.87), annex C.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["JpegFrame", "JpegStream", "read_jpeg_stream"]

_EOI, _SOS = 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # of 0xC0 to 0xCF: tables, a reserved one, conditions of arithmetic coding
_JPEG_LS = 0xF7
_PROGRESSIVE = (0xC2, 0xCA)


class JpegFrame(NamedTuple):
    """What a stream says of its picture.

    Args:
        process: the marker, which names how it is coded: 0xC0 for baseline, 0xC3 lossless, 0xF7 JPEG-LS.
        precision: bits per sample.
        rows: of the picture.
        columns: of the picture.
        components: samples per pixel.
    """

    process: int
    precision: int
    rows: int
    columns: int
    components: int


@dataclass(frozen=True)
class JpegStream:
    """The parts of a stream.

    Args:
        segments: marker and content of each, in order.
        pieces: where the coded data lie; restart markers divide them.
        end: of the stream, behind its last marker.
    """

    segments: list[tuple[int, bytes]]
    pieces: list[slice]
    end: int

    @property
    def frame(self) -> JpegFrame:
        """The only frame of the stream.

        Raises:
            OSError: there is none, or there are several.
        """
        found = [one for one in self.segments if _is_frame(one[0])]
        if len(found) != 1 or len(found[0][1]) < 6:
            raise OSError(f"it has {len(found)} frame headers")
        marker, content = found[0]
        return JpegFrame(marker, *struct.unpack(">BHHB", content[:6]))

    @property
    def scans(self) -> int:
        """How often the coded data begin anew."""
        return sum(marker == _SOS for marker, _ in self.segments)

    @property
    def is_complete(self) -> bool:
        """Whether the scans of a JPEG bring all coefficients of all components to their last bit.

        A progressive one that ends earlier is a picture without its fine detail.

        Raises:
            OSError: see :attr:`frame`.
        """
        process, header = self.frame.process, next(content for marker, content in self.segments if _is_frame(marker))
        wanted = range(64) if process in _PROGRESSIVE else range(1)
        missing = {(component, each) for component in header[6::3] for each in wanted}
        for content in (content for marker, content in self.segments if marker == _SOS):
            components = content[1 : 1 + 2 * content[0] : 2] if content else b""
            if len(content) < 4 + 2 * len(components):
                raise OSError("a header of a scan is too short")
            first, last, approximation = content[1 + 2 * len(components) :][:3]
            if process not in _PROGRESSIVE:
                missing -= {(component, 0) for component in components}
            elif approximation & 0x0F == 0:
                missing -= {(component, each) for component in components for each in range(first, last + 1)}
        return not missing


def _is_frame(marker: int) -> bool:
    return marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES)


def read_jpeg_stream(data: bytes) -> JpegStream:
    """Walk through a JPEG or JPEG-LS stream from marker to marker.

    Raises:
        OSError: the end is missing, or something is in a wrong order.
    """
    segments: list[tuple[int, bytes]] = []
    pieces: list[slice] = []
    restart, position, stuffed = 0, 2, 1
    while True:
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 4 > len(data) and data[position : position + 2] != b"\xff\xd9":
            raise OSError("its end is missing")
        if data[position] != 0xFF:
            raise OSError("its segments do not follow each other")
        marker = data[position + 1]
        if marker == _EOI:
            break
        if marker in _RESTARTS:
            if marker != _RESTARTS[restart % 8]:
                raise OSError("its pieces are not in order")
            restart, position = restart + 1, position + 2
        else:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            segments.append((marker, data[position + 4 : position + 2 + length]))
            position += 2 + max(length, 2)
        if marker == _JPEG_LS:
            stuffed = 0x80  # there, a bit of 0 follows a byte of ones, and not a whole byte
        if marker == _SOS:
            restart = 0
        if marker == _SOS or marker in _RESTARTS:
            stop = _end_of_piece(data, position, stuffed)
            pieces.append(slice(position, stop))
            position = stop
    if not pieces:
        raise OSError("it holds no data")
    return JpegStream(segments, pieces, position + 2)


def _end_of_piece(data: bytes, start: int, stuffed: int) -> int:
    """Where coded data end: at 0xFF with a byte behind it that is not below ``stuffed``."""
    while True:
        found = data.find(b"\xff", start)
        if found < 0 or found + 1 >= len(data):
            raise OSError("its end is missing")
        if data[found + 1] >= stuffed:
            return found
        start = found + 2
