"""Copies of a volume for the eye: 8 bit within a window, as NIfTI, small enough to lie within a page."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from medrestore_monai.audit.display import (
    BUDGET,
    MAP_SIDE,
    Z_RANGE,
    display_flips,
    display_window,
    extreme,
    left_out,
    reduced,
)
from medrestore_monai.audit.volume import Volume

VOLUMES = ("CT", "PT", "MR")  # modalities whose slices lie in space
_SAMPLE = 8  # one of so many slices is tried first


@dataclass(frozen=True)
class VolumeDisplay:
    """The volumes of a page.

    Args:
        copies: base64 of a ``.nii.gz`` of 8 bit whose header scales to the unit, by ``source``, ``restored``,
            ``change`` and ``interval``; the maps only where there are any, and coarser.
        numbers: of the slices that are shown, in the volume.
        window: what is black and white, in the unit of the image.
        shape: columns and rows of a slice as it is shown.
        size: its width and height in mm.
        flips: whether columns and rows are turned for the eye.
        affine: voxel index of the whole volume to mm, RAS.
        note: what was left out to keep the page small; empty if nothing was.
    """

    copies: dict[str, str]
    numbers: list[int]
    window: tuple[float, float]
    shape: tuple[int, int]
    size: tuple[float, float]
    flips: tuple[bool, bool]
    affine: np.ndarray
    note: str


def is_volume(image: Volume) -> bool:
    """Return whether an image is shown as a volume: several slices of CT, PET or MR, of known size."""
    return image.slices > 1 and image.modality in VOLUMES and image.length == "mm"


def make_volume_display(
    source: Volume, restored: Volume, z: np.ndarray, half_width: np.ndarray | None = None, budget: int = BUDGET
) -> VolumeDisplay:
    """Make the copies that a page shows of a volume.

    Args:
        source: the input.
        restored: the output.
        z: the change map, shape ``(X, Y, Z)``, or empty.
        half_width: of the interval, likewise; ``None`` if there is none.
        budget: bytes of base64; slices are halved in size, then left out, until they fit.
    """
    window = display_window(source)
    for step, skip, last in _sizes(source):
        parts = (source, restored, z, half_width, window, step)
        # a part of the slices tells what does not fit
        sample = len(range(0, source.slices, skip)) / len(range(0, source.slices, skip * _SAMPLE))
        if not last and sample * _size(_copies(*parts, skip * _SAMPLE)) > 1.1 * budget:
            continue
        copies = _copies(*parts, skip)
        if last or _size(copies) <= budget:
            break
    columns, rows = (-(-size // step) for size in source.array.shape[:2])
    size = (source.array.shape[0] * source.pixel[0], source.array.shape[1] * source.pixel[1])
    return VolumeDisplay(
        copies,
        list(range(0, source.slices, skip)),
        window,
        (columns, rows),
        size,
        display_flips(source),
        _affine(source),
        left_out(step, skip),
    )


def _sizes(source: Volume) -> Iterator[tuple[int, int, bool]]:
    """Yield in which steps columns and rows, and slices, may be shown, and whether this is the last choice."""
    step, skip, last = 1, 1, False
    while not last:
        smallest = min(source.array.shape[:2]) // (2 * step)
        last = source.slices <= 2 * skip and smallest < MAP_SIDE
        yield step, skip, last
        if smallest >= MAP_SIDE and step < 4:
            step *= 2
        else:
            skip *= 2


def _size(copies: Mapping[str, str]) -> int:
    return sum(map(len, copies.values()))


def _copies(
    source: Volume,
    restored: Volume,
    z: np.ndarray,
    half_width: np.ndarray | None,
    window: tuple[float, float],
    step: int,
    skip: int,
) -> dict[str, str]:
    affine = _affine(source)
    found = {
        name: _nifti(one.array[..., ::skip], affine, window, step, skip, np.mean)
        for name, one in (("source", source), ("restored", restored))
    }
    coarse = max(1, -(-max(source.array.shape[:2]) // MAP_SIDE))
    if z.size:
        found["change"] = _nifti(z[..., ::skip], affine, (-Z_RANGE, Z_RANGE), coarse, skip, extreme)
    if half_width is not None:
        top = float(half_width.max()) or 1.0
        found["interval"] = _nifti(half_width[..., ::skip], affine, (0.0, top), coarse, skip, extreme)
    return found


def _affine(source: Volume) -> np.ndarray:
    """Return voxel index to mm; without an affine, columns run to the left and rows to the back."""
    if source.affine is not None:
        return np.asarray(source.affine, dtype=np.float64)
    across, down, through = source.spacing
    return np.diag([-across, -down, through, 1.0])


def _nifti(
    array: np.ndarray,
    affine: np.ndarray,
    limits: tuple[float, float],
    step: int,
    skip: int,
    reduce: Callable[..., np.ndarray],
) -> str:
    low, high = limits
    slope = (high - low) / 255
    stored = np.stack(
        [
            np.rint(np.clip((reduced(one, step, reduce) - low) / slope, 0, 255)).astype(np.uint8)
            for one in np.moveaxis(array, 2, 0)
        ],
        axis=2,
    )
    # the first voxel is the middle of the first block
    block = np.diag([step, step, skip, 1.0])
    block[:2, 3] = (step - 1) / 2
    image = nib.Nifti1Image(stored, affine @ block)
    image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = low, high
    content = bytearray(image.to_bytes())
    slopes = np.array([slope, low], dtype=np.dtype(np.float32).newbyteorder(image.header.endianness))
    content[112:120] = slopes.tobytes()  # nibabel leaves scl_slope and scl_inter to itself
    return base64.b64encode(gzip.compress(bytes(content), 6, mtime=0)).decode("ascii")
