"""Stored values of a frame: decoded, and what the bits above those that the header declares mean (PS3.5 8.1.1)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_pixel_data_frame

from medrestore_monai.dicom.checks import DicomError, storable
from medrestore_monai.dicom.decoding import decode_file
from medrestore_monai.dicom.files import SourceFile, has_preamble, read_file
from medrestore_monai.dicom.frames import check_frame
from medrestore_monai.files import ScratchFolder, naming

HIGH_BITS = ("auto", "keep", "ignore")  #: what to do about values beyond the declared bits
_J2K, _JPEG = "pylibjpeg pylibjpeg-openjpeg", "python-gdcm"
_DECODERS = {"4.90": _J2K, "4.91": _J2K, "4.201": _J2K, "4.202": _J2K, "4.203": _J2K}
_PIXELS, _FRAMES = 0x7FE00010, 0x00280008
_FOR_DECODER = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_TOP = 0.05  # of the range: values that border on such ones have overflowed
_MANY = 0.1  # of the voxels


class Excess(NamedTuple):
    """Voxels of a frame whose unused bits say something.

    Attributes:
        label: name of the file.
        voxels: how many.
        first: column and row of the first one.
        overflow: they look like values that are too large for the declared bits.
    """

    label: str
    voxels: int
    first: tuple[int, int]
    overflow: bool


def read_words(file: SourceFile, header: Dataset, check: bool = True) -> np.ndarray:
    """Decode one frame to whole words, shape ``(rows, columns)``, of the type that the header allocates.

    Args:
        file: where it is.
        header: of the frame.
        check: see whether compressed data are whole, too.

    Raises:
        DicomError: the pixel data cannot be decoded, or do not fit the header.
    """
    rows, columns = int(header.Rows), int(header.Columns)
    dtype = word_type(header)
    if file.pixels is not None:
        size = rows * columns * dtype.itemsize
        with file.path.open("rb") as stream:
            stream.seek(file.pixels + (file.frame or 0) * size)
            data = stream.read(size)
        return np.frombuffer(data, in_file(header, dtype), count=rows * columns).reshape(rows, columns).astype(dtype)
    words = _decompress(file, header, check)
    if words.shape != (rows, columns):
        raise DicomError(f"{file.label} decodes to shape {words.shape}, where {(rows, columns)} is expected.")
    return words.astype(dtype)


def word_type(header: Dataset) -> np.dtype:
    """Type of the words that a header allocates."""
    return np.dtype(f"{'iu'[header.PixelRepresentation == 0]}{int(header.BitsAllocated) // 8}")


def in_file(header: Dataset, dtype: np.dtype) -> np.dtype:
    """A type of words in the byte order of a file."""
    return dtype.newbyteorder("<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">")


def _decompress(file: SourceFile, header: Dataset, check: bool) -> np.ndarray:
    """Decode one frame in a process of its own; what is not compressed after all, pydicom only puts in order."""
    syntax, label = header.file_meta.TransferSyntaxUID, file.label
    ds = _one_frame(file)
    if not ds.file_meta.TransferSyntaxUID.is_compressed:
        pixels: np.ndarray = ds.pixel_array
        return pixels
    if check:
        check_frame(ds, label)
    with _decodable(file, ds) as path:
        decoded = decode_file(path, int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8)
    if decoded.array is not None and not decoded.problem:
        return decoded.array
    if decoded.problem == "warned":
        raise DicomError(f"{label} is damaged: the decoder of its pixel data warns of them; copy or export it again.")
    package = _DECODERS.get(syntax.rpartition("1.2.")[2], _JPEG)
    reason = {
        "missing": f"no decoder for it is installed: pip install {package}",
        "memory": "unpacks to more than its header declares: it is damaged, or made to harm",
        "time": "its decoder does not come to an end: it is damaged, or made to harm",
        "crashed": "its decoder crashed: it is damaged, or made to harm",
    }.get(decoded.problem, f"the data are damaged or need another decoder, such as that of: pip install {package}")
    name = syntax.name if syntax.name != syntax else "an unknown transfer syntax"
    raise DicomError(f"{label} is compressed ({name}) and {reason}.")


@contextmanager
def _decodable(file: SourceFile, ds: Dataset) -> Iterator[Path]:
    """Give the path of a plain file of one frame: the source, or a temporary one with what a decoder needs."""
    if file.frame is None and has_preamble(file.path):
        yield file.path
        return
    one = Dataset()
    one.update({ds.data_element(word).tag: ds.data_element(word) for word in _FOR_DECODER if word in ds})
    one.SOPClassUID, one.SOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    one[_PIXELS] = DataElement(_PIXELS, "OB", ds.PixelData, is_undefined_length=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    with ScratchFolder() as folder:
        path = Path(folder) / "frame.dcm"
        whole = FileDataset(str(path), one, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
        with naming(path):
            whole.save_as(str(path))
        yield path


def _one_frame(file: SourceFile) -> Dataset:
    """Read a file; of one with many frames, as if it had that one alone."""
    if file.frame is None:
        return read_file(file)
    stat = file.path.stat()
    whole = _whole_file(file._replace(frame=None), stat.st_mtime_ns, stat.st_size)
    count, data = int(whole.NumberOfFrames), whole.PixelData
    if whole.file_meta.TransferSyntaxUID.is_compressed:
        data = encapsulate([next(itertools.islice(generate_pixel_data_frame(data, count), file.frame, None))])
    else:
        size = len(data) // count
        data = data[file.frame * size : (file.frame + 1) * size]
    ds = Dataset()
    ds.update({element.tag: element for element in whole})
    ds.file_meta = whole.file_meta
    ds[_FRAMES] = DataElement(_FRAMES, "IS", 1)  # setting the value would change that of the whole file
    ds[_PIXELS] = DataElement(_PIXELS, whole[_PIXELS].VR, data)
    return ds


@functools.lru_cache(maxsize=1)
def _whole_file(file: SourceFile, modified: int, size: int) -> Dataset:
    """Read a file of many frames, whose frames come one after the other; ``modified`` and ``size`` say which state."""
    return read_file(file)


def stored_values(words: np.ndarray, header: Dataset, label: str) -> tuple[np.ndarray, Excess | None]:
    """Take the declared bits of words, with their sign; padding keeps its whole word.

    Args:
        words: of a frame, of :func:`read_words`.
        header: of the frame.
        label: name of the file.

    Returns:
        The values, in the same type, and what the other bits say.
    """
    bits, signed = int(header.BitsStored), bool(header.PixelRepresentation)
    low, high = storable(bits, signed)
    if bits == int(header.BitsAllocated) or (words.min() >= low and words.max() <= high):
        return words, None
    values = words & np.asarray((1 << bits) - 1).astype(words.dtype)
    if signed:
        values = np.where(values > high, values - np.asarray(1 << bits).astype(words.dtype), values)
    padding = padding_range(header)
    padded = np.zeros(words.shape, dtype=bool)
    if padding is not None:
        padded = (words >= padding[0]) & (words <= padding[1])
    values = np.where(padded, words, values)
    declared = sum(1 << position for _, position in overlays_in_pixels(header))
    meaningless = np.asarray(~declared).astype(words.dtype)
    differ = ((words ^ values) & meaningless) != 0
    raised = ((words >> bits) & (meaningless >> bits)) != 0
    if declared:
        differ &= raised
    elif signed and not raised.any():  # negative numbers without the repeated sign, or too large ones
        differ &= _overflows(values, differ, low, high, many=1.0)
    if not differ.any():
        return values, None
    row, column = np.argwhere(differ)[0]
    excess = Excess(label, int(differ.sum()), (int(column), int(row)), _overflows(values, differ, low, high))
    return values, excess


def _overflows(values: np.ndarray, differ: np.ndarray, low: int, high: int, many: float = _MANY) -> bool:
    """Return whether voxels border on others at the top of the range, or are too many to be marks."""
    if differ.mean() > many:
        return True
    bright = np.pad(~differ & (values >= high - _TOP * (high - low)), 1)
    plain = np.pad(~differ, 1)
    inside = slice(1, -1)
    beside = [(slice(2, None), inside), (slice(None, -2), inside), (inside, slice(2, None)), (inside, slice(None, -2))]
    at_edge = np.any([plain[place] for place in beside], axis=0) & differ
    at_top = np.any([bright[place] for place in beside], axis=0) & differ
    return bool(at_top.sum() > at_edge.sum() / 2)


def padding_range(ds: Dataset) -> tuple[int, int] | None:
    """Least and greatest stored value that means "no image here"; None if there is no such value."""
    value = ds.get("PixelPaddingValue")
    if value is None:
        return None
    limit = ds.get("PixelPaddingRangeLimit")
    # some writers store the value with the wrong sign: take its bits as the pixels have them
    bits = int(ds.BitsAllocated)
    ends = []
    for end in (value, value if limit is None else limit):
        low, high = storable(bits, bool(ds.PixelRepresentation))
        ends.append((int(end) - low) % (high - low + 1) + low)
    return min(ends), max(ends)


def overlays_in_pixels(header: Dataset) -> list[tuple[int, int]]:
    """Groups of overlays that lie in unused bits of the pixel data, and their bit."""
    found = []
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in header and (group, 0x3000) not in header:
            position = int(header[group, 0x0102].value or 0)
            if int(header.BitsStored) <= position < int(header.BitsAllocated):
                found.append((group, position))
    return found


def move_overlays(ds: Dataset, words: np.ndarray) -> None:
    """Put overlays that lie in unused bits of the pixel data into Overlay Data (60xx,3000) of a header."""
    for group, position in overlays_in_pixels(ds):
        plane = (words.view(f"u{words.dtype.itemsize}") >> position) & 1
        packed = np.packbits(plane.astype(np.uint8).ravel(), bitorder="little").tobytes()
        ds.add_new((group, 0x0100), "US", 1)
        ds.add_new((group, 0x0102), "US", 0)
        for element, vr, value in ((0x0010, "US", ds.Rows), (0x0011, "US", ds.Columns), (0x0050, "SS", [1, 1])):
            if (group, element) not in ds:
                ds.add_new((group, element), vr, value)
        ds.add_new((group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))
