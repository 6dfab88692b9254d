"""Read one checked stack of a series: voxels in physical units, and where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import DicomError, check_alike, reading, rescale
from medrestore_monai.dicom.enhanced import number_pet_slices
from medrestore_monai.dicom.file_frames import read_frames
from medrestore_monai.dicom.files import SeriesInfo, SourceFile, find_series
from medrestore_monai.dicom.geometry import stack_grid, unit_normal
from medrestore_monai.dicom.pixels import HIGH_BITS, Excess, read_words, stored_values
from medrestore_monai.dicom.stacks import Frame, Stack, StackName, split_stacks
from medrestore_monai.files import ScratchFolder, refuse_change, state_of
from medrestore_monai.neighbors import slice_steps
from medrestore_monai.notes import note
from medrestore_monai.stopping import stop_if_asked

UNITS = {"CT": "HU", "PT": "Bq/ml", "MR": "arbitrary"}
_OTHER_PET_UNITS = {"GML": "SUV", "CNTS": "counts"}


@dataclass(eq=False)
class Series:
    """A checked stack of an image series, of which most have one; voxels are read from the files when asked for.

    Attributes:
        source: what the user named: a file, a folder or an archive.
        info: UID, modality and description.
        files: one per slice, sorted along the normal of the slices.
        datasets: the headers, in the same order, without pixel data.
        affine: voxel index ``(column, row, slice)`` to mm, RAS, shape ``(4, 4)``.
        spacing: of columns, rows and slices in mm.
        regular: slices follow each other by one step; else they lie at uneven distances.
        state: of its files when they were read, see :func:`~medrestore_monai.files.state_of`.
        name: what distinguishes the stack from the others of the series.
        independent: the slices are single images, such as rotating projections, and no stack.
        high_bits: as in :func:`read_series`.
        frames: the headers of all stacks of the series, without pixel data.
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
    name: StackName = field(default_factory=StackName)
    independent: bool = False
    high_bits: str = "auto"
    frames: list[Dataset] = field(default_factory=list, repr=False)
    _whole: set[int] = field(default_factory=set, init=False, repr=False)  # slices with data for every pixel

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.info.uid

    @property
    def modality(self) -> str:
        """``CT``, ``MR``, ``PT``; ``CR`` or ``DX`` of X-ray images."""
        return self.info.modality

    @property
    def unit(self) -> str:
        """``HU``, ``Bq/ml``, ``arbitrary`` or ``gray levels``; ``SUV`` or ``counts`` of PET that is stored as such."""
        return _OTHER_PET_UNITS.get(str(self.datasets[0].get("Units")), UNITS.get(self.modality, "gray levels"))

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
        if self.independent or len(self.datasets) < 2:
            return np.zeros(len(self.datasets) - 1)
        origins = np.array([[float(v) for v in ds.ImagePositionPatient] for ds in self.datasets])
        row, column = np.array([float(v) for v in self.datasets[0].ImageOrientationPatient]).reshape(2, 3)
        return slice_steps(origins, unit_normal(row, column), min(self.spacing[:2]))

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
        """Read the values of one slice as they are stored, without unused bits: shape ``(X, Y)``, integers.

        Raises:
            DicomError: the pixel data cannot be decoded, do not fit the header, or overflow the declared bits.
        """
        header, label = self.datasets[index], self.files[index].label
        values, excess = stored_values(self.words(index), header, label)
        if excess is not None and self.files[index].pixels is None:  # else it was looked at where the series was opened
            _check_excess([excess], self.high_bits, int(header.BitsStored))
        return values.T

    def words(self, index: int) -> np.ndarray:
        """Read one slice with all bits: shape ``(rows, columns)``, integers."""
        stop_if_asked()
        with reading(self.files[index].label):
            words = read_words(self.files[index], self.datasets[index], index not in self._whole)
        self._whole.add(index)
        return words


def read_series(
    path: str | os.PathLike[str],
    series_uid: str | None = None,
    modality: str | None = None,
    allow_gaps: bool = False,
    stack: int = 0,
    high_bits: str = "auto",
) -> Series:
    """Find one series, check it and sort its slices along their normal.

    Args:
        path: a DICOM file, a folder (searched with its subfolders) or a ``.zip`` archive of one.
        series_uid: which series, where there are several.
        modality: ``CT``, ``MR`` or ``PT``, if it must be that one.
        allow_gaps: take a series with missing slices; everything else is checked all the same.
        stack: which of the stacks of a series of several (echoes, phases, time points), from 1.
        high_bits: what to do about values beyond the bits that the header declares: ``auto`` refuses values that
            overflowed, and ignores other bits with a note; ``ignore`` ignores them; ``keep`` takes whole words.

    Returns:
        The series; an array ``(X, Y, Z)``, also for a single slice.

    Raises:
        DicomError: the series cannot be used, or there are several, or several stacks, and none was named.
        FileNotFoundError: there is no such path.
        ValueError: ``modality`` is not one of the three, or an option has no such value.
    """
    return choose_stack(read_stacks(path, series_uid, modality, allow_gaps, high_bits), stack)


def choose_stack(stacks: Sequence[Series], number: int) -> Series:
    """Return one stack of a series by its number from 1; 0 stands for the only one.

    Raises:
        DicomError: there is no such stack, or there are several.
    """
    place = stacks[0].source.name
    if not 0 <= number <= len(stacks):
        raise DicomError(f"The series in {place} has {len(stacks)} stack(s), and no stack {number}.")
    if number == 0 and len(stacks) > 1:
        raise DicomError(
            f"The series in {place} has {len(stacks)} stacks, choose one by its number, `stack`: "
            f"{'; '.join(str(one.name) for one in stacks)}."
        )
    return stacks[max(number, 1) - 1]


def read_stacks(
    path: str | os.PathLike[str],
    series_uid: str | None = None,
    modality: str | None = None,
    allow_gaps: bool = False,
    high_bits: str = "auto",
) -> list[Series]:
    """Find one series and split it into its stacks: one contrast, one time, one slice at each place.

    Args:
        path: see :func:`read_series`.
        series_uid: see there.
        modality: see there.
        allow_gaps: see there.
        high_bits: see there.

    Returns:
        The stacks in their order; most series have one.

    Raises:
        DicomError: the series cannot be used.
        FileNotFoundError: there is no such path.
        ValueError: ``modality`` is not one of the three, or an option has no such value.
    """
    if modality is not None and modality not in UNITS:
        raise ValueError(f"modality must be one of {', '.join(UNITS)}, got {modality!r}.")
    if high_bits not in HIGH_BITS:
        raise ValueError(f"high_bits must be one of {', '.join(HIGH_BITS)}, got {high_bits!r}.")
    path = Path(path)
    place = path.name or str(path)
    info = _choose(find_series(path), series_uid, place)
    if modality is not None and info.modality != modality:
        raise DicomError(
            f"{place} holds a series of modality {info.modality}, where {modality} is expected: name a bundle for "
            f"{info.modality}."
        )
    state = _state(path, info)
    stacks = _split(info, place, high_bits)
    series = [_series(path, info, one, state, allow_gaps, high_bits) for one in stacks]
    if any(file.frame is not None for one in series for file in one.files) and info.modality == "PT":
        number_pet_slices([one.datasets for one in series])
    frames = [ds for one in series for ds in one.datasets]
    for one in series:
        one.frames = frames
    first = series[0]
    if first.datasets[0].file_meta.TransferSyntaxUID.is_compressed:
        first.stored(0)  # a missing decoder shows now, not halfway
    return series


def _state(source: Path, info: SeriesInfo) -> str:
    files = sorted(file.path for file in info.files)
    return state_of([source] if info.archive else files)  # those of an archive are unpacked anew each time


def _split(info: SeriesInfo, place: str, high_bits: str) -> list[Stack]:
    """Read all files of a series, leave out what is no slice of it, and split the others into stacks."""
    frames: list[Frame] = []
    others: list[tuple[SourceFile, str]] = []
    excess: list[Excess] = []
    for file in info.files:
        stop_if_asked()
        kept, left_out, found = read_frames(file, high_bits)
        frames += kept
        others += left_out
        excess += found
    if not frames:
        file, reason = others[0]
        raise DicomError(f"{file.label} is {reason}.")
    frames = _in_order_of_files(frames)
    check_alike([frame.header for frame in frames], [frame.file.label for frame in frames], whole=True)
    if excess:
        _check_excess(excess, high_bits, int(frames[0].header.BitsStored))
    with reading(place):
        stacks, doubled = split_stacks(frames, _is_copy)
    _note_others(others + [(frame.file, reason) for frame, reason in doubled])
    if len(stacks) > 1:
        note(f"{place}: the series has {len(stacks)} stacks: {'; '.join(str(stack.name) for stack in stacks)}.")
    return stacks


def _in_order_of_files(frames: list[Frame]) -> list[Frame]:
    """Number the frames of several multi-frame files on, so that no instance number is taken twice."""
    files = {frame.file.path for frame in frames if frame.file.frame is not None}
    if len(files) > 1:
        for number, frame in enumerate(frames):
            frame.header.InstanceNumber = number + 1
    return frames


def _note_others(others: Sequence[tuple[SourceFile, str]]) -> None:
    reasons: dict[str, list[SourceFile]] = {}
    for file, reason in others:
        reasons.setdefault("a copy of another slice" if reason.startswith("a copy") else reason, []).append(file)
    for reason, files in reasons.items():
        more = f" and {len(files) - 1} more" * (len(files) > 1)
        note(f"{files[0].label}{more} passed over: {reason}.", stacklevel=4)


def _check_excess(found: Sequence[Excess], high_bits: str, bits: int) -> None:
    """Stop where values overflow the declared bits, and note where other bits are ignored.

    Raises:
        DicomError: they overflow.
    """
    if high_bits == "ignore":
        return
    worst = next((one for one in found if one.overflow), None)
    if worst is not None:
        raise DicomError(
            f"{worst.label} holds {worst.voxels} values outside the {bits} bits that its header declares, the first at "
            f"column {worst.first[0]}, row {worst.first[1]}: `high_bits=keep` takes all bits as they are, "
            "`high_bits=ignore` the declared ones."
        )
    first, more = found[0], f", and {len(found) - 1} more slices" * (len(found) > 1)
    note(
        f"{first.label}: bits above the {bits} that its header declares are ignored, in {first.voxels} voxel(s), the "
        f"first at column {first.first[0]}, row {first.first[1]}{more}; `high_bits=keep` takes them as part of the "
        "values."
    )


def _is_copy(first: Frame, second: Frame) -> bool:
    """Return whether two frames that are alike in place and attributes hold the same pixels."""
    if first.file.frame == second.file.frame and first.header.SOPInstanceUID == second.header.SOPInstanceUID:
        return True
    if any(first.header.get(word) != second.header.get(word) for word in ("BitsAllocated", "PixelRepresentation")):
        return False
    return np.array_equal(read_words(first.file, first.header), read_words(second.file, second.header))


def _series(path: Path, info: SeriesInfo, stack: Stack, state: str, allow_gaps: bool, high_bits: str) -> Series:
    headers, files = [frame.header for frame in stack.frames], [frame.file for frame in stack.frames]
    labels = [file.label for file in files]
    check_alike(headers, labels)
    with reading(path.name or str(path)):
        grid = stack_grid(headers, labels, allow_gaps, stack.independent)
    for text in grid.notes:
        note(text if stack.name.count == 1 else f"{stack.name}: {text}", stacklevel=4)
    return Series(
        path,
        info,
        [files[i] for i in grid.order],
        [headers[i] for i in grid.order],
        grid.affine,
        grid.spacing,
        grid.regular,
        state,
        info.archive,
        stack.name,
        stack.independent,
        high_bits,
    )


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
