"""Where results go, checked before any work, and how one result is written: the kind of its source, whole or not."""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Transform

from medrestore_monai.data.find import IMAGE_SUFFIXES, Item, find_images, is_archive, is_image_file, partner_of
from medrestore_monai.data.loading import with_padding, without_offset
from medrestore_monai.dicom import (
    Derivation,
    Series,
    check_replaceable,
    choose_stack,
    find_series,
    read_series,
    read_stacks,
    write_derived_series,
)
from medrestore_monai.files import UsageError, claim, clear_scratch, recover, refuse_links, require_writable
from medrestore_monai.images import SLICE_ORDER, SlabFile, kind_of, read_header, write_image, write_volume

# endings of files that this package does not write, which would be odd names of folders
_OTHER_KINDS = (
    ".dcm",
    ".zip",
    ".nhdr",
    ".mhd",
    ".hdr",
    ".img",
    ".gz",
    ".gif",
    ".bmp",
    ".webp",
)


_ALIKE = {".nii.gz": ".nii", ".hdr": ".nii", ".img": ".nii", ".mgh": ".mgz"}


def plan_outputs(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    series_uid: str = "",
    overwrite: bool = False,
    slab: int = 0,
    key: str = "image",
    slice_axis: int | None = None,
    stack: int = 0,
    allow_gaps: bool = False,
    high_bits: str = "auto",
) -> list[Item]:
    """Decide for every image of a source where its result goes.

    One image file goes to ``output`` itself where that names a file of the same kind, else into that folder; one DICOM
    series becomes the folder ``output``; of a folder of many, each keeps its place below ``output``.

    Args:
        source: a file, a DICOM series (file, folder, zip) or a folder of any of them.
        output: a file or folder.
        series_uid: take this DICOM series and nothing else.
        overwrite: allow results that exist.
        slab: cut DICOM series, NIfTI and TIFF volumes of more slices than this into items of so many slices each, 0 for
            whole images. A network that sees neighboring slices needs them read with each slab, see ``context`` of
            :class:`~medrestore_monai.data.LoadImageOrSeriesd`.
        key: name of the image in the items.
        slice_axis: axis that the slices of a volume in a file lie across; ``None``: chosen by its header.
        stack: take this stack of a series alone, from 1; 0 for all.
        allow_gaps: see :func:`~medrestore_monai.dicom.read_series`.
        high_bits: see there.

    Returns:
        Items with ``key`` (the image's path), ``output``, ``series_uid``, and the number ``stack`` of ``stacks`` that
        become one output; with ``slab``, also ``start`` and ``stop`` of the slab of ``slices`` slices of ``columns``
        and ``rows``, where ``stop`` is 0 for a whole image.

    Raises:
        ValueError: the source holds no image, the output is of another kind, output and source lie in one another, or
            two results would be one.
        FileExistsError: a result exists and ``overwrite`` is off.
        OSError: the output may not be written.
    """
    source, output = Path(source), Path(output)
    clear_scratch()
    found = find_images(source)
    if series_uid:
        found = _with_series(found, series_uid, source)
    targets: list[tuple[Path, bool]] = []
    for item in found:
        if item["series_uid"] and not series_uid:
            read_series(item["path"])  # several series in one folder: lists them and asks for one
        targets.append((_target(Path(item["path"]), source, output), is_image_file(Path(item["path"]))))
    _check_targets(targets, source, overwrite)
    items: list[Item] = []
    for item, (target, is_file) in zip(found, targets, strict=True):
        result = {key: item["path"], "output": str(target), "series_uid": series_uid}
        if is_file:
            parts = _of_file(Path(item["path"]), slab, slice_axis)
            items += [{**result, "stack": 0, "stacks": 1, **part} for part in parts]
        else:
            stacks = read_stacks(item["path"], series_uid or None, None, allow_gaps, high_bits)
            items += [{**result, **part} for part in _of_stacks(stacks, stack, slab)]
    return items


def check_folder(source: Path, output: Path) -> None:
    """Refuse an output that names a file, or is one, where the source's results go into a folder.

    A folder that has the name of a file may keep it.

    Raises:
        ValueError: it is so.
    """
    named = is_image_file(output) or output.suffix.lower() in (".dcm", ".zip")
    kept = output.name == source.name and source.is_dir()
    if ((named and not kept) or output.exists()) and not output.is_dir():
        raise UsageError(f"the output of {source} is a folder, but {output.name} names a file.")


def _of_file(path: Path, slab: int, slice_axis: int | None) -> list[dict[str, int]]:
    """What the items of an image file say of its size and slabs."""
    if slab < 1:
        return [{}]
    columns, rows, slices, in_slabs = _extent(path, slice_axis)
    return [{"columns": columns, "rows": rows, **part} for part in _slabs(slices, slab if in_slabs else slices)]


def _extent(path: Path, slice_axis: int | None) -> tuple[int, int, int, bool]:
    """Columns, rows and slices of an image, and whether it can be read slab by slab; 0 for what is not known yet."""
    try:
        header = read_header(path, slice_axis)
    except (ValueError, FileNotFoundError):
        return 0, 0, 0, False  # it is reported when it is read
    in_slabs = header.in_slabs and not (kind_of(path) == "tiff" and slice_axis not in (None, 2))
    return (*header.size, header.slices * (1 if in_slabs else header.channels), in_slabs)


def _of_stacks(stacks: Sequence[Series], stack: int, slab: int) -> Iterator[dict[str, int]]:
    """What the items of a series say of its stacks and slabs."""
    chosen = [choose_stack(stacks, stack)] if stack else list(stacks)
    for series in chosen:
        number = {"stack": series.name.number, "stacks": len(chosen)}
        columns, rows, slices = series.shape
        parts = _slabs(slices, slab) if slab > 0 else [{}]
        size = {"columns": columns, "rows": rows} if slab > 0 else {}
        yield from ({**number, **size, **part} for part in parts)


def _slabs(slices: int, slab: int) -> list[dict[str, int]]:
    if slices <= slab:
        return [{"start": 0, "stop": 0, "slices": slices}]
    return [{"start": start, "stop": min(start + slab, slices), "slices": slices} for start in range(0, slices, slab)]


def _with_series(items: Sequence[Item], series_uid: str, source: Path) -> list[Item]:
    """Return the items that are the series ``series_uid``."""
    listed, chosen = {}, []
    for item in items:
        if not is_image_file(Path(item["path"])):
            series = {one.uid: one for one in find_series(item["path"])}
            listed.update(series)
            if series_uid in series and item["series_uid"] in ("", series_uid):
                chosen.append(item)
    if not chosen:
        raise UsageError(f"{source} holds no series {series_uid}, but: {'; '.join(map(str, listed.values())) or None}.")
    return chosen


def _target(path: Path, source: Path, output: Path) -> Path:
    """Return where the result of the image at ``path`` goes."""
    if is_image_file(path) and path == source:
        if partner_of(output) is not None and not output.is_dir():
            raise UsageError(f"a NIfTI pair is written as one file: name the output {output.stem}.nii.")
        if not is_image_file(output):
            if output.suffix.lower() in _OTHER_KINDS and not output.is_dir():
                raise UsageError(f"the output {output.name} is of another kind than {path.name}; the kind must stay.")
            return output / _result_name(path).name
        if _kind(output) not in (_kind(path), ".png" if _kind(path) == ".jpg" else ""):  # PNG loses nothing more
            raise UsageError(f"the output {output.name} is of another kind than {path.name}; the kind must stay.")
        return output
    check_folder(source, output)
    if path == source:
        return output
    relative = path.relative_to(source)
    return output / (relative.with_suffix("") if is_archive(path) else _result_name(relative))


def _result_name(path: Path) -> Path:
    """The name of an image's result: that of the image, but a NIfTI pair becomes one file."""
    return path if partner_of(path) is None else path.with_suffix(".nii")


def _kind(path: Path) -> str:
    ending = next(suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix))
    return {**_ALIKE, ".tiff": ".tif", ".jpeg": ".jpg"}.get(ending, ending)


def _check_targets(targets: Sequence[tuple[Path, bool]], source: Path, overwrite: bool) -> None:
    """Refuse targets that cannot be written; each comes with whether it is a file."""
    root = source.resolve()
    known = set()
    for target, is_file in targets:
        place = target.resolve()
        if place == root or root in place.parents or place in root.parents:
            raise UsageError(f"the output {target} and the source {source} may not lie in one another.")
        if place in known:
            raise ValueError(f"two images of {source} would both become {target}; restore them one by one.")
        require_writable(place)
        recover(place)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists; name another output, or replace it with `overwrite`.")
        _check_replaced(target, is_file)
        known.add(place)
    for place in known:
        if not known.isdisjoint(place.parents):
            raise ValueError(f"results of {source} would lie in one another, at {place}; restore them one by one.")
    refuse_links(source, [target for target, _ in targets if target.exists()])


def _check_replaced(target: Path, is_file: bool) -> None:
    """Refuse to replace a folder by a file, and anything but a derived series by one."""
    if is_file and target.is_dir():
        raise FileExistsError(f"{target} is a folder, where a file is to be written; name another output.")
    if not is_file:
        check_replaceable(target)


class SaveLikeSourced(Transform):
    """Write a restored image as the kind its source is, on the same grid: a derived DICOM series, or an image file.

    Slabs of one image come one after the other, and so do the stacks of one series; they are kept in files beside the
    output until the last one is there, or until :meth:`close`.

    Args:
        derivation: what a DICOM header records of the processing.
        key: the result, shape ``(C, X, Y[, Z])``, in the unit of the source.
        like: the image it was made from, whose meta data name the source.
        output_key: where the item says where to write.
        overwrite: replace what exists.
        split_series: make a series of each stack of a DICOM series.
    """

    def __init__(
        self,
        derivation: Derivation,
        key: str = "pred",
        like: str = "image",
        output_key: str = "output",
        overwrite: bool = False,
        split_series: bool = False,
    ) -> None:
        self.derivation = derivation
        self.key, self.like, self.output_key = key, like, output_key
        self.overwrite = overwrite
        self.split_series = split_series
        self._collected: list[SlabFile] = []  # a stack each, the last one perhaps in part
        self._claim = ExitStack()

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Write ``data[key]`` and return ``data``.

        Raises:
            DataError: the source has changed since it was read.
            OSError: the disk is full or read-only, with the output's name; nothing is left behind.
        """
        image, meta, target = data[self.key], data[self.like].meta, Path(data[self.output_key])
        values = with_padding(without_offset(image.detach().cpu().numpy(), meta), meta)
        stacks = int(data.get("stacks", 1))
        with _naming_cause(target):
            if stacks == 1 and not int(data.get("stop", 0)):
                self._write([values], meta, target)
            elif self._collect(values[0], target, data, stacks):
                self._write(self._collected, meta, target)
                self.close()
        return data

    def _write(self, volumes: Sequence[Any], meta: Mapping[str, Any], target: Path) -> None:
        """Write an image: whole ones ``(C, X, Y[, Z])``, or volumes of slabs, of several stacks all."""
        if meta.get("series_uid"):
            series = _stacks_of(meta, len(volumes))
            series[0].refuse_change(meta["source_state"])
            voxels = [one if isinstance(one, SlabFile) else one[0] for one in volumes]
            write_derived_series(series, voxels, target, self.derivation, self.overwrite, self.split_series)
        elif isinstance(volumes[0], SlabFile):
            write_volume(target, volumes[0], meta, self.overwrite)
        else:
            write_image(target, _in_order_of_file(volumes[0], meta), like=meta, overwrite=self.overwrite)

    def close(self) -> None:
        """Give up the slabs and stacks of an image that is not finished."""
        while self._collected:
            self._collected.pop().close()
        self._claim.close()

    def _collect(self, values: np.ndarray, target: Path, item: Mapping[Hashable, Any], stacks: int) -> bool:
        """Keep one slab or stack ``(X, Y, n)``; return whether it was the last one."""
        slices = values.shape[-1]
        start, stop = int(item.get("start", 0)), int(item.get("stop", 0)) or slices
        if int(item.get("stop", 0)):
            slices = int(item["slices"])
        if start == 0:
            if stacks == 1 or int(item["stack"]) == 1:
                self.close()
            workspace = self._claim.enter_context(claim(target))
            place = workspace.folder / f"voxels{len(self._collected)}"
            self._collected.append(SlabFile(place, (*values.shape[:2], slices)))
        if not self._collected:
            raise RuntimeError(f"the slabs of {target} do not come in order.")
        self._collected[-1].write(start, values)
        return stop == slices and len(self._collected) == stacks


def _stacks_of(meta: Mapping[str, Any], stacks: int) -> list[Series]:
    """Open the stacks of a series that an image was made from: all of several, or the one that its meta data name."""
    found = read_stacks(
        meta["source"],
        meta["series_uid"],
        allow_gaps=bool(meta["allow_gaps"]),
        high_bits=str(meta.get("high_bits", "auto")),
    )
    return found if stacks > 1 else [choose_stack(found, int(meta.get("stack", 0)))]


def _in_order_of_file(values: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Put the axes of ``(C, X, Y, Z)`` back where the loader found them."""
    if SLICE_ORDER not in meta:
        return values
    places = np.argsort([int(axis) for axis in meta[SLICE_ORDER]])
    return values.transpose(0, *(1 + places))


@contextmanager
def _naming_cause(target: Path) -> Iterator[None]:
    """Let an error of the system name the target, also where another one was made of it, as pydicom does."""
    try:
        yield
    except OSError as error:
        cause: BaseException | None = error
        while isinstance(cause, OSError):
            if cause.errno is not None:
                raise OSError(cause.errno, cause.strerror, str(target)) from error
            cause = cause.__cause__
        raise
