"""Read and check one file: its frames, each with the header of a single slice, decoded to the last element."""

from __future__ import annotations

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import ENHANCED_CLASSES, DicomError, check_header, check_layout, left_out, reading
from medrestore_monai.dicom.enhanced import flatten
from medrestore_monai.dicom.files import SourceFile, read_file
from medrestore_monai.dicom.pixels import Excess, in_file, stored_values, word_type
from medrestore_monai.dicom.stacks import Frame

_PIXELS = 0x7FE00010
_AT_THE_END = (0xFFFA, 0xFFFC)  # digital signatures, trailing padding
_TEXTS = ("PN", "LO", "SH", "LT", "ST", "UC", "UT")  # in the character set of the header (PS3.5 6.1.2.3)
_EXTENDED = ("SeriesDescription", "DerivationDescription")  # texts that a derived series adds to


def read_frames(
    file: SourceFile, high_bits: str = "auto"
) -> tuple[list[Frame], list[tuple[SourceFile, str]], list[Excess]]:
    """Read a file and check its headers and the amount of pixel data; the headers come without these.

    Args:
        file: of one slice, or an enhanced one of many.
        high_bits: ``keep`` takes whole words, whatever the header declares.

    Returns:
        The frames; those that are left out with the reason; what unused bits hold.

    Raises:
        DicomError: the file cannot be used.
    """
    with reading(file.label):
        ds = read_file(file)
        syntax = ds.file_meta.TransferSyntaxUID
        _check_end(ds, file)
        many = str(ds.get("SOPClassUID", "")) in ENHANCED_CLASSES
        count = int(ds.get("NumberOfFrames") or 1) if many else 1
        pixels = ds.get_item(_PIXELS)
        start = None
        # single bytes in words of big endian lie the other way round, as pydicom knows
        plain = not syntax.is_compressed and (syntax.is_little_endian or ds.get("BitsAllocated") != 8)
        if isinstance(pixels, RawDataElement) and plain:
            start = pixels.value_tell
        _decode_header(ds, syntax.is_little_endian)
        headers = flatten(ds, file.label) if many else [ds]
        kept, others = [], []
        for index, header in enumerate(headers):
            one = file._replace(
                frame=index if many else None, sop_class=str(ds.SOPClassUID) if many else "", pixels=start
            )
            reason = left_out(header) if header.get("Modality") else ""
            if reason:
                others.append((one, reason))
            else:
                check_header(header, file.label)
                kept.append(Frame(one, header))
        if not kept:
            return [], others, []
        check_layout(ds, file.label, count)
        data = ds.PixelData
        for header in (ds, *(frame.header for frame in kept)):
            if "PixelData" in header:
                del header.PixelData
            if high_bits == "keep":
                header.BitsStored, header.HighBit = header.BitsAllocated, header.BitsAllocated - 1
        found = [] if start is None or high_bits == "keep" else _excess(data, kept)
        return kept, others, found


def _excess(data: bytes, frames: list[Frame]) -> list[Excess]:
    first = frames[0].header
    if int(first.BitsStored) == int(first.BitsAllocated):
        return []
    dtype, size = word_type(first), int(first.Rows) * int(first.Columns)
    found = []
    for frame in frames:
        start = (frame.file.frame or 0) * size * dtype.itemsize
        words = np.frombuffer(data, in_file(first, dtype), size, start).astype(dtype)
        _, excess = stored_values(words.reshape(int(first.Rows), -1), frame.header, frame.file.label)
        found += [excess] if excess else []
    return found


def _check_end(ds: Dataset, file: SourceFile) -> None:
    """Refuse a file that goes on behind its pixel data with anything but signatures or zeros."""
    element = ds.get_item(_PIXELS)
    if not isinstance(element, RawDataElement) or element.value is None:
        return  # none, or not read yet: check_layout says so
    if any(tag > _PIXELS and tag.group not in _AT_THE_END for tag in ds.keys()):  # noqa: SIM118
        raise DicomError(f"{file.label} goes on behind its pixel data, as if it were damaged; copy or export it again.")
    if max(ds.keys()) == _PIXELS:
        undefined = element.length == 0xFFFFFFFF
        with file.path.open("rb") as stream:
            stream.seek(element.value_tell + len(element.value) + 8 * undefined)  # 8: the delimiter
            if any(stream.read()):
                raise DicomError(
                    f"{file.label} goes on behind its pixel data, as if it were damaged; copy or export it again."
                )


class _Bytes(bytes):
    """A text that pydicom writes as it is, a person's name too."""

    def encode(self, _: object) -> bytes:
        """Return the bytes themselves, where a person's name would be encoded."""
        return bytes(self)


def _decode_header(ds: Dataset, little_endian: bool) -> None:
    """Decode a header with its sequences: what cannot be decoded shows now.

    Texts that are not in the declared character set stay bytes: decoded, they would be lost.
    """
    written = {tag: ds.get_item(tag) for tag in tuple(ds.keys())}
    for element in list(ds):
        raw = written[element.tag]
        if element.VR == "SQ":
            for item in element.value:
                _decode_header(item, little_endian)
        elif element.VR == "OW" and element.tag != _PIXELS and not little_endian and element.value:
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
        elif element.VR not in _TEXTS or element.keyword in _EXTENDED:
            continue
        elif isinstance(raw, RawDataElement) and "\ufffd" in str(element.value):
            ds[element.tag] = DataElement(element.tag, element.VR, _Bytes(raw.value), already_converted=True)
