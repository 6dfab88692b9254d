"""How many samples the coded data of a JPEG hold: the Huffman codes are walked through, and no sample is made.

A decoder that runs out of data fills up in silence; here, every sample must have bits of its own, and no bits may be
left over. Only one component: DICOM slices are gray.

References:
    ISO/IEC 10918-1 (ITU-T T.81), annexes C, F and H.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from medrestore_monai.jpeg_stream import JpegStream

__all__ = ["check_coded_samples"]

BASELINE, EXTENDED, LOSSLESS = 0xC0, 0xC1, 0xC3
_DHT, _SOS, _DRI = 0xC4, 0xDA, 0xDD
_BLOCK = 64
_ENDLESS = 2 * _BLOCK  # coefficients that an invalid code stands for

_Table = tuple[np.ndarray, np.ndarray]  # length and symbol of the code that begins 16 bits; 0 where there is none


def check_coded_samples(data: bytes, stream: JpegStream) -> None:
    """Refuse a sequential or lossless JPEG with one component that has too little or too much coded data.

    Args:
        data: the whole stream.
        stream: its parts.

    Raises:
        OSError: it has, or its codes are invalid, or it is coded in another way.
    """
    frame = stream.frame
    if frame.process not in (BASELINE, EXTENDED, LOSSLESS) or frame.components != 1 or stream.scans != 1:
        raise OSError("it is coded in another way than its transfer syntax has it")
    lossless = frame.process == LOSSLESS
    units = frame.rows * frame.columns if lossless else -(-frame.rows // 8) * -(-frame.columns // 8)
    first, second, interval = _tables(stream)
    left = units
    for piece in stream.pieces:
        count = min(left, interval) if interval else left
        coded = data[piece].replace(b"\xff\x00", b"\xff")
        used = _walk_lossless(coded, count, first) if lossless else _walk_blocks(coded, count, first, second)
        if used > 8 * len(coded):
            raise OSError("it lacks data for some of its pixels")
        if 8 * len(coded) - used >= 8:
            raise OSError("it has data that belong to no pixel")
        left -= count
    if left:
        raise OSError("it lacks data for some of its pixels")


def _tables(stream: JpegStream) -> tuple[_Table, _Table | None, int]:
    """The tables for DC (or differences) and AC that the only scan names, and the restart interval."""
    tables: dict[int, _Table] = {}
    interval, chosen = 0, b""
    for marker, content in stream.segments:
        if marker == _DHT:
            tables |= _read_tables(content)
        elif marker == _DRI:
            (interval,) = struct.unpack(">H", content)
        elif marker == _SOS:
            chosen = content
    if len(chosen) < 3 or chosen[0] != 1 or chosen[2] >> 4 not in tables:
        raise OSError("its scan has no Huffman table")
    return tables[chosen[2] >> 4], tables.get(0x10 | chosen[2] & 15), interval


def _read_tables(content: bytes) -> dict[int, _Table]:
    """Tables by class and number, as one byte."""
    found = {}
    while content:
        counts, symbols = content[1:17], content[17 : 17 + sum(content[1:17])]
        if len(counts) < 16 or len(symbols) < sum(counts):
            raise OSError("one of its Huffman tables is cut short")
        found[content[0]] = _table(counts, symbols)
        content = content[17 + len(symbols) :]
    return found


def _table(counts: Sequence[int], symbols: Sequence[int]) -> _Table:
    lengths, values = np.zeros(1 << 16, np.uint8), np.zeros(1 << 16, np.uint8)
    start, number = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[number : number + count]:
            stop = start + (1 << 16 - length)
            if stop > 1 << 16:
                raise OSError("one of its Huffman tables is invalid")
            lengths[start:stop], values[start:stop] = length, symbol
            start = stop
        number += count
    return lengths, values


def _windows(coded: bytes) -> np.ndarray:
    """The 16 bits from each bit on; behind the end there are ones, as in the padding."""
    padded = np.frombuffer(coded + b"\xff" * 4, np.uint8).astype(np.uint32)
    whole = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows: np.ndarray = (whole[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)).astype(np.uint16).ravel()
    return windows


def _of_each(windows: np.ndarray, table: np.ndarray) -> bytes:
    """One byte of a table for each window."""
    return table.astype(np.uint8)[windows].tobytes()


def _walk_lossless(coded: bytes, count: int, table: _Table) -> int:
    """Bits that ``count`` differences take; too many if there are too few."""
    lengths, sizes = table
    # a size of 16 has no further bits; an invalid code leads nowhere
    steps = _of_each(_windows(coded), np.where(lengths == 0, 0, lengths + np.where(sizes < 16, sizes, 0)))
    position = 0
    try:
        for _ in range(count):
            step = steps[position]
            if not step:
                raise OSError("it holds an invalid code")
            position += step
    except IndexError:
        return 8 * len(coded) + 1
    return position


def _walk_blocks(coded: bytes, count: int, dc: _Table, ac: _Table | None) -> int:
    """Bits that ``count`` blocks of 8 x 8 take; too many if there are too few."""
    if ac is None:
        raise OSError("its scan has no Huffman table")
    windows = _windows(coded)
    lengths, symbols = dc
    first = _of_each(windows, np.where(lengths == 0, 0, lengths + symbols))
    lengths, symbols = ac
    steps = _of_each(windows, np.where(lengths == 0, 0, lengths + (symbols & 15)))
    ends = (symbols & 15 == 0) & (symbols != 0xF0)  # the end of a block
    ahead = _of_each(windows, np.where(lengths == 0, _ENDLESS, np.where(ends, _BLOCK, (symbols >> 4) + 1)))
    position = 0
    try:
        for _ in range(count):
            if not first[position]:
                raise OSError("it holds an invalid code")
            position += first[position]
            done = 1
            while done < _BLOCK:
                run = ahead[position]
                position += steps[position]
                done += run
                if done > _BLOCK and run != _BLOCK:
                    raise OSError("it holds an invalid code")
    except IndexError:
        return 8 * len(coded) + 1
    return position
