"""Write a restored image as a new, derived DICOM series in the same study, on the grid of its source.

Rules and their sections of the DICOM standard: PS3.3 C.8.9.4 (PET pixels), C.11.1 (rescale), C.7.5.1.1.2 (padding);
PS3.5 6.2 (DS texts of at most 16 characters), B.2 (UIDs of the form 2.25). What the header says: ``derivation.py``.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medrestore_monai.dicom.checks import DicomError, reading, rescale, storable
from medrestore_monai.dicom.derivation import Derivation, Reference, derive, drop_outdated, identify
from medrestore_monai.dicom.pixels import move_overlays, overlays_in_pixels, padding_range
from medrestore_monai.dicom.read import Series, read_series
from medrestore_monai.dicom.stacks import StackName
from medrestore_monai.files import atomic_folder, file_mode, folder_mode, refuse_links
from medrestore_monai.neighbors import neighbor_numbers
from medrestore_monai.notes import note
from medrestore_monai.quiet import quiet
from medrestore_monai.stopping import stop_if_asked

_TRIED = 16  # whole numbers to divide a slope by
_IMPLEMENTATION_UID = "2.25.54331898515762389943907171665167166527"  # of this writer, drawn once


class Volume(Protocol):
    """Voxels ``(X, Y, Z)``: an array, or slices in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(X, Y, Z)``."""

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a slice, for ``[..., index]``."""


class _Stored(NamedTuple):
    """One slice as it will be stored: values ``(X, Y)``, slope as DS text (PET only), number of clipped voxels."""

    values: np.ndarray
    slope: str | None
    clipped: int


def write_derived_series(
    source: Series | Sequence[Series] | str | os.PathLike[str],
    image: Volume | Sequence[Volume],
    output: str | os.PathLike[str],
    derivation: Derivation,
    overwrite: bool = False,
    split_series: bool = False,
) -> list[Path]:
    """Write a restored image as a derived DICOM series: uncompressed, on the source's grid, in the source's study.

    CT and MR keep slope, intercept, bits and sign of the source, so that unchanged voxels are stored unchanged; PET
    gets a slope per slice: the source's divided by a whole number where that has room for all values, so that voxels
    that did not change keep theirs exactly. Padding voxels are those of the source. The UIDs depend on source,
    derivation and voxels only. The folder appears as a whole or not at all. ``image`` is taken slice by slice, so it
    may lie in a file. Several stacks of one series become one series again, in a folder each.

    Args:
        source: the series that was restored, the path of one, or all stacks of one.
        image: restored voxels, shape ``(X, Y, Z)`` as the source, in its unit (HU, Bq/ml, counts, SUV, arbitrary); of
            several stacks, one for each.
        output: folder to make; its files are ``IM0001.dcm`` and so on, sorted along the normal of the slices.
        derivation: how the image was made.
        overwrite: replace ``output`` if it holds nothing but what this package wrote.
        split_series: make a series of each stack.

    Returns:
        The files, sorted along the normal of the slices.

    Raises:
        ValueError: ``image`` has another shape, or NaN or infinite voxels; ``output`` and source lie in one another.
        FileExistsError: there is an ``output`` already.
        OSError: disk full, read-only; nothing is left behind then.
    """
    if isinstance(source, (str, os.PathLike)):
        source = read_series(source)
    stacks = [source] if isinstance(source, Series) else list(source)
    images: list[Volume] = list(image) if isinstance(image, Sequence) else [image]
    output = Path(output)
    check_output(stacks[0], output, overwrite)
    for series, one in zip(stacks, images, strict=True):
        if tuple(one.shape) != series.shape:
            raise ValueError(
                f"The restored image has shape {tuple(one.shape)}, where that of its source, {series.shape}, is due."
            )
    uids = _series_uids(stacks, images, derivation, split_series)
    now = datetime.now(timezone.utc)
    written = []
    with atomic_folder(output, overwrite, folder_mode(stacks[0].files[0].path)) as folder:
        for series, one, uid in zip(stacks, images, uids, strict=True):
            place = series.name.folder if len(stacks) > 1 else ""
            (folder / place).mkdir(exist_ok=True)
            names = [f"IM{index + 1:04d}.dcm" for index in range(len(series.files))]
            own_name = series.name if split_series and len(stacks) > 1 else None
            _write_stack(series, one, [folder / place / name for name in names], uid, derivation, now, own_name)
            if place:
                (folder / place).chmod(folder_mode(series.files[0].path))
            written += [output / place / name for name in names]
        for series in stacks:
            series.refuse_change(series.state)
    return written


def _write_stack(
    series: Series,
    image: Volume,
    paths: Sequence[Path],
    series_uid: str,
    derivation: Derivation,
    now: datetime,
    own_name: StackName | None,
) -> None:
    """Write one stack; a series of its own gets its name into the description."""
    taken = neighbor_numbers(series.slice_steps, derivation.neighbors, derivation.neighbor_distance)
    references = [
        Reference(file.sop_class or str(ds.SOPClassUID), str(ds.SOPInstanceUID), file.frame)
        for file, ds in zip(series.files, series.datasets, strict=True)
    ]
    for index, path in enumerate(paths):
        stop_if_asked()
        stored, label = _quantize(series, image, index), series.files[index].label
        words = [str(series.name.number)] if series.name.count > 1 else []
        uid = _uid(series_uid, references[index].instance, str(index), *words)
        with reading(label):
            ds = copy.deepcopy(series.datasets[index])
            if overlays_in_pixels(ds):
                move_overlays(ds, series.words(index))
            drop_outdated(ds, enhanced=series.files[index].frame is not None)
            identify(ds, series_uid, uid, derivation, now, own_name)
            derive(ds, [references[number] for number in sorted(set(taken[index]))], derivation, now)
        _set_pixels(ds, stored)
        _save(ds, path, label)
        path.chmod(file_mode(series.files[index].path))


def check_output(series: Series, output: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse an output folder that :func:`write_derived_series` would refuse; ask before the long work starts.

    Args:
        series: the source.
        output: folder to make.
        overwrite: a series that this package wrote may be replaced, anything else may not.

    Raises:
        ValueError: ``output`` and source lie in one another.
        FileExistsError: there is an ``output`` already.
    """
    output = Path(output)
    place, source = output.resolve(), series.source.resolve()
    inside = source.is_dir() and (place == source or source in place.parents)
    if inside or place in source.parents or place == source:
        raise ValueError(f"The output {output} and the source {series.source} may not lie in one another.")
    if not output.exists():
        return
    refuse_links(series.source, [output])
    if not overwrite:
        raise FileExistsError(f"The output {output} exists already; it is replaced only if overwriting is asked for.")
    check_replaceable(output)


def check_replaceable(output: Path) -> None:
    """Refuse to replace a folder, or a file, that holds other things than a derived series of this package.

    Raises:
        FileExistsError: it does.
    """
    if output.exists() and not (output.is_dir() and all(_is_ours(file) for file in _inside(output))):
        raise FileExistsError(
            f"The output {output} holds other things than a derived series, and so is not overwritten."
        )


def _inside(folder: Path) -> Iterator[Path]:
    """What lies in a folder and in the folders of stacks in it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and re.fullmatch(r"stack\d+_\w+", path.name):
            yield from path.iterdir()
        else:
            yield path


def _is_ours(file: Path) -> bool:
    """Say whether this package wrote a file."""
    try:
        with reading(file.name):
            return str(read_file_meta_info(str(file)).get("ImplementationClassUID")) == _IMPLEMENTATION_UID
    except DicomError:
        return False


def _series_uids(
    stacks: Sequence[Series], images: Sequence[Volume], derivation: Derivation, split_series: bool
) -> list[str]:
    """A UID for each stack, of one series or of its own, from everything that makes a series what it is."""
    clipped, digests = 0, []
    whole = hashlib.sha256(f"{stacks[0].uid}\n{derivation.key}".encode())
    for series, image in zip(stacks, images, strict=True):
        digest = hashlib.sha256(f"{series.uid}\n{series.name}\n{derivation.key}".encode()) if split_series else whole
        clipped += _digest_stack(series, image, digest)
        digests.append(digest)
    if clipped:
        modality = stacks[0].modality
        note(f"{clipped} voxel(s) were clipped to the range that {modality} slices can store.", stacklevel=3)
    return [_uid(digest.hexdigest()) for digest in digests]


def _digest_stack(series: Series, image: Volume, digest: Any) -> int:
    """Add what a stack will store to a digest, and return the number of voxels that have to be clipped."""
    clipped = 0
    for index in range(len(series.files)):
        stop_if_asked()
        if not np.isfinite(np.asarray(image[..., index])).all():
            raise ValueError(f"The restored image has NaN or infinite voxels in slice {index}.")
        stored = _quantize(series, image, index)
        digest.update(f"{series.datasets[index].SOPInstanceUID} {stored.slope} ".encode())
        digest.update(np.ascontiguousarray(stored.values).tobytes())
        clipped += stored.clipped
    return clipped


def _uid(*words: str) -> str:
    """A UUID-derived UID that is the same for the same words (PS3.5 B.2)."""
    digest = hashlib.sha256("\n".join(words).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _quantize(series: Series, image: Volume, index: int) -> _Stored:
    """Turn one slice into stored integers; padding, and what a PET slice has unchanged, stay as they are stored."""
    ds, pet = series.datasets[index], series.modality == "PT"
    physical = np.asarray(image[..., index], dtype=np.float64)
    signed, bits = bool(ds.PixelRepresentation), 16 if pet else int(ds.BitsStored)
    low, high = storable(bits, signed)
    dtype = f"<{'i' if signed else 'u'}{2 if pet else int(ds.BitsAllocated) // 8}"
    padding, padded = padding_range(ds), np.zeros(physical.shape, dtype=bool)
    needed = pet or padding is not None
    original = series.stored(index).astype(np.int64) if needed else np.zeros(physical.shape, dtype=np.int64)
    if padding is not None:
        padded = (original >= padding[0]) & (original <= padding[1])
    slope, intercept = rescale(ds)
    text, steps, unchanged = None, 0, np.zeros(physical.shape, dtype=bool)
    if pet:
        unchanged = physical.astype(np.float32) == np.asarray(original * slope + intercept, dtype=np.float32)
        text, steps = _pet_slope(ds, physical[~padded], original[unchanged & ~padded], (low, high))
        slope, intercept = float(text), 0.0
    exact = (physical - intercept) / slope
    if steps:
        exact = np.where(unchanged, steps * original, exact)
    values = np.clip(np.rint(exact), low, high)
    clipped = int(((values != np.rint(exact)) & ~padded).sum())
    if padding is not None:
        # a voxel that is not padding may not become it by its value
        values = np.where((values >= padding[0]) & (values <= padding[1]), _beside(padding, exact, low, high), values)
        values = np.where(padded, original, values)
    return _Stored(values.astype(dtype), text, clipped)


def _beside(padding: tuple[int, int], exact: np.ndarray, low: int, high: int) -> np.ndarray:
    """The storable value next to the padding range, on the nearer side."""
    below, above = padding[0] - 1, padding[1] + 1
    if below < low:
        return np.full_like(exact, above)
    if above > high:
        return np.full_like(exact, below)
    return np.where(exact - below < above - exact, below, above)


def _pet_slope(ds: Dataset, physical: np.ndarray, kept: np.ndarray, ends: tuple[int, int]) -> tuple[str, int]:
    """Slope of a slice, as the text of at most 16 characters that will be in the header.

    It is the source's divided by a whole number, the greatest that leaves room for all values and changes none of those
    that are kept; where there is no such number, the least slope that stores the slice in 16 bits.

    Args:
        ds: header of the source.
        physical: values to store.
        kept: stored values of the source that its slice shares.
        ends: least and greatest integer that can be stored.

    Returns:
        The text, and the number, 0 if there is none to give.
    """
    low, high = ends
    own, intercept = rescale(ds)
    top, bottom = float(physical.max(initial=0)), float(physical.min(initial=0))
    least = max(top / high, bottom / low if low else 0.0)
    if least == 0:
        return "1", 0
    if own > 0 and intercept == 0:
        kept = np.unique(kept)
        values = (kept * own).astype(np.float32)
        most = int(own / least * (1 + 1e-6))  # a float32 may lie a little above what it stands for
        for steps in range(most, max(most - _TRIED, 0), -1):
            text = _ds_text(ds) if steps == 1 else format_number_as_ds(own / steps)
            inside = kept.size == 0 or (kept.min() * steps >= low and kept.max() * steps <= high)
            if inside and np.array_equal((kept * steps * float(text)).astype(np.float32), values):
                return text, steps
        if most:
            return _ds_text(ds), 1
    return f"{least:.8E}", 0  # 14 characters; its rounding moves the greatest value by 0.0002 steps at most


def _ds_text(ds: Dataset) -> str:
    """The slope of a header as it is written there, where that has at most 16 characters."""
    text = str(ds.RescaleSlope).strip()
    return text if len(text) <= 16 else format_number_as_ds(float(ds.RescaleSlope))


def _set_pixels(ds: Dataset, stored: _Stored) -> None:
    # decoders need what some writers leave out
    ds.SamplesPerPixel, ds.HighBit = 1, int(ds.BitsStored) - 1
    if stored.slope is not None:
        ds.RescaleSlope, ds.RescaleIntercept = stored.slope, "0"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    data = np.ascontiguousarray(stored.values.T).tobytes()
    ds.add_new(0x7FE00010, "OB" if ds.BitsAllocated == 8 else "OW", data + b"\0" * (len(data) % 2))


def _save(ds: Dataset, path: Path, label: str) -> None:
    """Write one file in Explicit VR Little Endian, down to the disk."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = _IMPLEMENTATION_UID, "MEDRESTORE"
    file = FileDataset(str(path), ds, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    with path.open("wb") as stream:
        try:
            with quiet():
                file.save_as(stream)
        except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError, RecursionError) as error:
            raise DicomError(f"The header of {label} cannot be written again ({type(error).__name__}).") from None
        stream.flush()
        os.fsync(stream.fileno())
