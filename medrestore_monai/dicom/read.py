"""Read one checked series: voxels in physical units, and where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import (
    DicomError,
    check_alike,
    check_slice,
    reading,
    rescale,
    storable,
)
from medrestore_monai.dicom.decoding import decode_file
from medrestore_monai.dicom.files import SeriesInfo, SourceFile, find_series
from medrestore_monai.dicom.frames import check_frame
from medrestore_monai.dicom.geometry import series_grid
from medrestore_monai.files import ScratchFolder, refuse_change, state_of
from medrestore_monai.neighbors import slice_steps
from medrestore_monai.stopping import stop_if_asked

UNITS = {"CT": "HU", "PT": "Bq/ml", "MR": "arbitrary"}
_OTHER_PET_UNITS = {"GML": "SUV", "CNTS": "counts"}
_PIXELS = 0x7FE00010
_AT_THE_END = (0xFFFA, 0xFFFC)  # digital signatures, trailing padding
_J2K, _JPEG = "pylibjpeg pylibjpeg-openjpeg", "python-gdcm"
_TEXTS = ("PN", "LO", "SH", "LT", "ST", "UC", "UT")  # in the character set of the header (PS3.5 6.1.2.3)
_EXTENDED = ("SeriesDescription", "DerivationDescription")  # texts that a derived series adds to
_DECODERS = {"4.90": _J2K, "4.91": _J2K, "4.201": _J2K, "4.202": _J2K, "4.203": _J2K}


@dataclass(eq=False)
class Series:
    """A checked image series; voxels are read from the files when they are asked for.

    Attributes:
        source: what the user named: a file, a folder or an archive.
        info: UID, modality and description.
        files: one per slice, sorted along the normal of the slices.
        datasets: the headers, in the same order, without pixel data.
        affine: voxel index ``(column, row, slice)`` to mm, RAS, shape ``(4, 4)``.
        spacing: of columns, rows and slices in mm.
        regular: slices follow each other at one distance; False only where gaps were allowed.
        state: of its files when they were read, see :func:`~medrestore_monai.files.state_of`.
    """

    source: Path
    info: SeriesInfo
    files: list[SourceFile]
    datasets: list[Dataset]
    affine: np.ndarray
    spacing: tuple[float, float, float]
    regular: bool
    state: str
    archive: ScratchFolder | None = field(default=None, repr=False)
    _whole: set[int] = field(default_factory=set, init=False, repr=False)  # slices with data for every pixel

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.info.uid

    @property
    def modality(self) -> str:
        """``CT``, ``MR`` or ``PT``."""
        return self.info.modality

    @property
    def unit(self) -> str:
        """``HU``, ``Bq/ml`` or ``arbitrary``; ``SUV`` or ``counts`` of a PET series that is stored as such."""
        return _OTHER_PET_UNITS.get(str(self.datasets[0].get("Units")), UNITS[self.modality])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of columns, rows and slices."""
        return int(self.datasets[0].Columns), int(self.datasets[0].Rows), len(self.files)

    def refuse_change(self, before: str) -> None:
        """Refuse to go on where the files are no longer in the state ``before``.

        Raises:
            DataError: they have changed.
        """
        refuse_change(before, _state(self.source, self.info), str(self.source))

    @property
    def slice_steps(self) -> np.ndarray:
        """Distance in mm from each slice to the next, 0 for no neighbor, see :mod:`medrestore_monai.neighbors`."""
        origins = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in self.datasets])
        row, column = np.array([float(v) for v in self.datasets[0].ImageOrientationPatient]).reshape(2, 3)
        normal = np.cross(row, column)
        return slice_steps(origins, normal / np.linalg.norm(normal), min(self.spacing[:2]))

    @cached_property
    def array(self) -> np.ndarray:
        """All voxels, shape ``(X, Y, Z)``, float32, in :attr:`unit`; kept once read."""
        return self.slab(0, len(self.files))

    def slab(self, start: int, stop: int) -> np.ndarray:
        """Read slices ``start`` to ``stop - 1`` from their files: shape ``(X, Y, stop - start)``, float32."""
        voxels: np.ndarray = np.empty((*self.shape[:2], stop - start), dtype=np.float32)
        for index in range(start, stop):
            slope, intercept = rescale(self.datasets[index])
            voxels[..., index - start] = self.stored(index) * np.float64(slope) + intercept
        return voxels

    def stored(self, index: int) -> np.ndarray:
        """Read the values of one slice as they are stored: shape ``(X, Y)``, integers.

        Raises:
            DicomError: the pixel data cannot be decoded, or do not fit the header.
        """
        stop_if_asked()
        file = self.files[index]
        with reading(file.label):
            stored = _decode(pydicom.dcmread(str(file.path)), file, index not in self._whole)
        self._whole.add(index)
        return stored


def read_series(
    path: str | os.PathLike[str],
    series_uid: str | None = None,
    modality: str | None = None,
    allow_gaps: bool = False,
) -> Series:
    """Find one series, check it and sort its slices along their normal.

    Args:
        path: a DICOM file, a folder (searched with its subfolders) or a ``.zip`` archive of one.
        series_uid: which series, where there are several.
        modality: ``CT``, ``MR`` or ``PT``, if it must be that one.
        allow_gaps: take a series with missing slices or uneven spacing, whose slices then are independent images
            (``Series.regular`` is False); everything else is checked all the same.

    Returns:
        The series; an array ``(X, Y, Z)``, also for a single slice.

    Raises:
        DicomError: the series cannot be used, or there are several and none was named.
        FileNotFoundError: there is no such path.
        ValueError: ``modality`` is not one of the three.
    """
    if modality is not None and modality not in UNITS:
        raise ValueError(f"modality must be one of {', '.join(UNITS)}, got {modality!r}.")
    path = Path(path)
    info = _choose(find_series(path), series_uid, path.name or str(path))
    if modality is not None and info.modality != modality:
        raise DicomError(
            f"{path.name or path} holds a series of modality {info.modality}, where {modality} is expected."
        )
    state = _state(path, info)
    labels = [file.label for file in info.files]
    datasets = [_read_slice(file) for file in info.files]
    check_alike(datasets, labels)
    with reading(path.name or str(path)):
        grid = series_grid(datasets, labels, allow_gaps)
    files, headers = [info.files[i] for i in grid.order], [datasets[i] for i in grid.order]
    series = Series(path, info, files, headers, grid.affine, grid.spacing, grid.regular, state, info.archive)
    if headers[0].file_meta.TransferSyntaxUID.is_compressed:
        series.stored(0)  # a missing decoder shows now, not halfway
    return series


def _state(source: Path, info: SeriesInfo) -> str:
    files = sorted(file.path for file in info.files)
    return state_of([source] if info.archive else files)  # those of an archive are unpacked anew each time


def _choose(found: Sequence[SeriesInfo], series_uid: str | None, place: str) -> SeriesInfo:
    listed = "; ".join(str(info) for info in found)
    if series_uid is not None:
        for info in found:
            if info.uid == series_uid:
                return info
        raise DicomError(f"There is no series {series_uid} in {place}, which holds: {listed}.")
    if len(found) > 1:
        raise DicomError(f"There are {len(found)} series in {place}, choose one by its `series_uid`: {listed}.")
    return found[0]


def _read_slice(file: SourceFile) -> Dataset:
    """Read and check one file; its header comes back decoded to the last element, without the pixel data."""
    stop_if_asked()
    with reading(file.label):
        ds = pydicom.dcmread(str(file.path))
        little_endian = ds.file_meta.TransferSyntaxUID.is_little_endian
        _check_end(ds, file)
        check_slice(ds, file.label)
        del ds.PixelData
        _decode_header(ds, little_endian)
        return ds


def _check_end(ds: Dataset, file: SourceFile) -> None:
    """Refuse a file that goes on behind its pixel data with anything but signatures or zeros."""
    element = ds.get_item(_PIXELS)
    if not isinstance(element, RawDataElement) or element.value is None:
        return  # none, or not read yet: check_slice says so
    if any(tag > _PIXELS and tag.group not in _AT_THE_END for tag in ds.keys()):  # noqa: SIM118
        raise DicomError(f"{file.label} goes on behind its pixel data, as if it were damaged.")
    if max(ds.keys()) == _PIXELS:
        undefined = element.length == 0xFFFFFFFF
        with file.path.open("rb") as stream:
            stream.seek(element.value_tell + len(element.value) + 8 * undefined)  # 8: the delimiter
            if any(stream.read()):
                raise DicomError(f"{file.label} goes on behind its pixel data, as if it were damaged.")


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
        elif element.VR == "OW" and not little_endian and element.value:
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
        elif element.VR not in _TEXTS or element.keyword in _EXTENDED:
            continue
        elif isinstance(raw, RawDataElement) and "\ufffd" in str(element.value):
            ds[element.tag] = DataElement(element.tag, element.VR, _Bytes(raw.value), already_converted=True)


def _decode(ds: Dataset, file: SourceFile, check: bool) -> np.ndarray:
    """Stored values of a slice, ``(X, Y)``, checked against the number of bits the header declares.

    Args:
        ds: with pixel data.
        file: that it was read from.
        check: see whether compressed data are whole, too.
    """
    syntax, label = ds.file_meta.TransferSyntaxUID, file.label
    rows, columns, bits = int(ds.Rows), int(ds.Columns), int(ds.BitsStored)
    dtype = np.dtype(f"{'iu'[ds.PixelRepresentation == 0]}{int(ds.BitsAllocated) // 8}")
    if syntax.is_compressed:
        stored = _decompress(ds, file, check)
    elif syntax.is_little_endian:
        stored = np.frombuffer(ds.PixelData, dtype.newbyteorder("<"), count=rows * columns).reshape(rows, columns)
    else:
        stored = ds.pixel_array
    if stored.shape != (rows, columns):
        raise DicomError(f"{label} decodes to shape {stored.shape}, where {(rows, columns)} is expected.")
    low, high = storable(bits, bool(ds.PixelRepresentation))
    if stored.min() < low or stored.max() > high:
        raise DicomError(f"{label} holds stored values outside the {bits} bits that its header declares.")
    return stored.astype(dtype).T


def _decompress(ds: Dataset, file: SourceFile, check: bool) -> np.ndarray:
    syntax, label = ds.file_meta.TransferSyntaxUID, file.label
    if check:
        check_frame(ds, label)
    decoded = decode_file(file.path, int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated) // 8)
    if decoded.array is not None and not decoded.problem:
        return decoded.array
    if decoded.problem == "warned":
        raise DicomError(f"{label} is damaged: the decoder of its pixel data warns of them.")
    package = _DECODERS.get(syntax.rpartition("1.2.")[2], _JPEG)
    reason = {
        "missing": f"no decoder for it is installed: pip install {package}",
        "memory": "unpacks to more than its header declares: it is damaged, or made to harm",
        "time": "its decoder does not come to an end: it is damaged, or made to harm",
        "crashed": "its decoder crashed: it is damaged, or made to harm",
    }.get(decoded.problem, f"the data are damaged or need another decoder, such as that of: pip install {package}")
    name = syntax.name if syntax.name != syntax else "an unknown transfer syntax"
    raise DicomError(f"{label} is compressed ({name}) and {reason}.")


class DicomSeriesReader(ImageReader):
    """MONAI reader of one checked DICOM series, for ``LoadImaged(reader=DicomSeriesReader, ...)``.

    The image is ``(X, Y, Z)``, float32, in HU, Bq/ml, counts, SUV or arbitrary units, without a channel dimension. The
    metadata carry ``affine`` (RAS, mm) and what is needed to find the source again: ``source``, ``series_uid``,
    ``allow_gaps``; also ``modality``, ``unit``, ``spacing`` and ``regular``.

    Args:
        series_uid: which series, where there are several.
        modality: ``CT``, ``MR`` or ``PT``, if it must be that one.
        allow_gaps: take a series with gaps, whose slices then are independent images.
    """

    def __init__(self, series_uid: str | None = None, modality: str | None = None, allow_gaps: bool = False) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.modality = modality
        self.allow_gaps = allow_gaps

    def verify_suffix(self, filename: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str) -> bool:
        """Say whether this may be DICOM: a folder, a ``.zip``, or a file that says so in its first bytes."""
        names = [filename] if isinstance(filename, (str, os.PathLike)) else list(filename)
        return len(names) == 1 and _may_be_dicom(Path(names[0]))

    def read(self, data: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str, **kwargs: Any) -> Path:
        """Return the one path in ``data``; :meth:`get_data` opens it, as MONAI hides what is raised here.

        Raises:
            ValueError: several paths.
        """
        names = [data] if isinstance(data, (str, os.PathLike)) else list(data)
        if len(names) != 1:
            raise ValueError(f"Expected one DICOM file, folder or archive per image, got {len(names)}.")
        return Path(names[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Read and check the series.

        Args:
            img: a DICOM file, a folder or a ``.zip`` archive.

        Returns:
            Voxels ``(X, Y, Z)``, float32, and the metadata.

        Raises:
            DicomError: the series cannot be used.
        """
        series = read_series(img, self.series_uid, self.modality, self.allow_gaps)
        meta = {
            MetaKeys.AFFINE: series.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: series.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(series.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's sign for "no channel"
            "spacing": np.asarray(series.spacing),
            "source": str(img),
            "series_uid": series.uid,
            "modality": series.modality,
            "unit": series.unit,
            "regular": series.regular,
            "allow_gaps": self.allow_gaps,
        }
        return series.array, meta


def _may_be_dicom(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() == ".zip":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
