"""Copies of slices for the eye: 8 bit within a window, as PNG, small enough to lie within a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medrestore_monai.audit.volume import Volume
from medrestore_monai.intensity import INTENSITY_RANGES, NOT_YET_SUV

BUDGET = 13_200_000  # bytes of base64 for all slices of all views
Z_RANGE = 10.0  # of the change map: what becomes the darkest and the brightest gray
MAP_SIDE = 128  # pixels of the change map
_SUV_SHOWN = 7.0
_MR_PERCENTILE = 99.5


@dataclass(frozen=True)
class Display:
    """The slices of a page.

    Args:
        source: each slice as base64 of a PNG.
        restored: the same of the result.
        change: the same of the change map; empty if there is no change map.
        numbers: of the slices, in the volume.
        window: what is black and white, in the unit of the image.
        shape: columns and rows of a slice as it is shown.
        size: its width and height in mm or pixels.
        note: what was left out to keep the page small; empty if nothing was.
    """

    source: list[str]
    restored: list[str]
    change: list[str]
    numbers: list[int]
    window: tuple[float, float]
    shape: tuple[int, int]
    size: tuple[float, float]
    note: str


def make_display(source: Volume, restored: Volume, z: np.ndarray, budget: int = BUDGET) -> Display:
    """Make the copies that a page shows.

    Args:
        source: the input.
        restored: the output.
        z: the change map, shape ``(X, Y, Z)``, or empty.
        budget: bytes of base64; slices are halved in size, then left out, until they fit.
    """
    window = display_window(source)
    low, high = window
    flips = display_flips(source)
    numbers = list(range(source.slices))
    step, skip = 1, 1
    while True:
        shown = numbers[::skip]
        pictures = [_pictures(image.array, shown, step, low, high, flips) for image in (source, restored)]
        maps = _maps(z, shown, flips) if z.size else []
        total = sum(len(text) for texts in (*pictures, maps) for text in texts)
        smallest = min(source.array.shape[:2]) // (2 * step)
        if total <= budget or (len(shown) == 1 and smallest < MAP_SIDE):
            break
        if smallest >= MAP_SIDE and step < 4:
            step *= 2
        else:
            skip *= 2
    columns, rows = (-(-size // step) for size in source.array.shape[:2])
    size = (source.array.shape[0] * source.pixel[0], source.array.shape[1] * source.pixel[1])
    return Display(pictures[0], pictures[1], maps, shown, window, (columns, rows), size, left_out(step, skip))


def display_window(source: Volume) -> tuple[float, float]:
    """Return what is shown as black and as white: the window of CT, SUV 0 to 7, else up to the 99.5th percentile."""
    if source.modality == "CT":
        return INTENSITY_RANGES["CT"].window
    if source.modality == "PT":
        factor = source.suv_factor if source.unit in NOT_YET_SUV else 1.0
        if factor:
            return 0.0, _SUV_SHOWN / factor
    low = min(float(source.array.min()), 0.0)
    high = float(np.percentile(source.array, _MR_PERCENTILE))
    return low, high if high > low else low + 1.0


def left_out(step: int, skip: int) -> str:
    """Say what the copies lack: they have 1 of ``step`` columns and rows, and one of ``skip`` slices."""
    parts = [f"with 1/{step} of their columns and rows"] * (step > 1) + [f"one of {skip}"] * (skip > 1)
    return (
        f"Slices are shown {' and '.join(parts)}, to keep this file small; figures come from all data." if parts else ""
    )


def display_flips(source: Volume) -> tuple[bool, bool]:
    """Return whether columns and rows are turned for radiological display: to the left, and to the back or feet."""
    if source.affine is None or source.length != "mm":
        return False, False
    axes = source.affine[:3, :2]
    largest = np.abs(axes).argmax(axis=0)
    return bool(axes[largest[0], 0] > 0), bool(axes[largest[1], 1] > 0)


def _pictures(
    array: np.ndarray, numbers: list[int], step: int, low: float, high: float, flips: tuple[bool, bool]
) -> list[str]:
    out = []
    for number in numbers:
        one = array[..., number]
        if step > 1:
            one = reduced(one, step, np.mean)
        gray = np.rint(np.clip((one - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        out.append(_png(gray, flips))
    return out


def _maps(z: np.ndarray, numbers: list[int], flips: tuple[bool, bool]) -> list[str]:
    step = max(1, -(-max(z.shape[:2]) // MAP_SIDE))
    out = []
    for number in numbers:
        one = reduced(z[..., number], step, extreme)
        out.append(_png(np.rint(127.5 + 127.5 * np.clip(one / Z_RANGE, -1, 1)).astype(np.uint8), flips))
    return out


def extreme(blocks: np.ndarray, axis: tuple[int, int]) -> np.ndarray:
    """Return the value of the largest magnitude along the axes."""
    top, bottom = blocks.max(axis=axis), blocks.min(axis=axis)
    strongest: np.ndarray = np.where(top > -bottom, top, bottom)
    return strongest


def reduced(one: np.ndarray, step: int, reduce: object) -> np.ndarray:
    """Reduce blocks of ``step`` pixels a side to one; the last blocks repeat the border."""
    missing = [-size % step for size in one.shape]
    whole = np.pad(one, [(0, more) for more in missing], mode="edge")
    blocks = whole.reshape(whole.shape[0] // step, step, whole.shape[1] // step, step)
    reduced: np.ndarray = reduce(blocks, axis=(1, 3))  # type: ignore[operator]
    return reduced


def _png(gray: np.ndarray, flips: tuple[bool, bool]) -> str:
    for axis, flip in enumerate(flips):
        gray = np.flip(gray, axis) if flip else gray
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(gray.T)).save(file, "PNG", compress_level=7)
    return base64.b64encode(file.getvalue()).decode("ascii")
