"""Input, output, reference and error of a slice in one PNG, with Pillow alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

_CAPTION = 16  # pixels
_GAP = 4
_ERROR_SPAN = 8  # an error of an eighth of the window is shown in full color


def draw_panels(
    path: Path,
    images: Mapping[str, Tensor],
    reference: str,
    restored: str,
    window: tuple[float, float],
    unit: str,
    difference: str = "error",
) -> None:
    """Draw images side by side in a window, and the error of one of them: red is too high, blue is too low.

    Args:
        path: the PNG to write.
        images: by caption, shape ``(C, X, Y)``, in ``unit``; X goes to the right and Y down.
        reference: caption of the reference.
        restored: caption of the image whose error is drawn.
        window: values that become black and white.
        unit: for the caption of the error.
        difference: what the error is called.
    """
    lower, upper = window
    scaled = {name: (_pixels(image) - lower) / (upper - lower) for name, image in images.items()}
    panels = {name: _gray_or_rgb(values) for name, values in scaled.items()}
    span = (upper - lower) / _ERROR_SPAN
    error = (scaled[restored] - scaled[reference]).mean(axis=2) * _ERROR_SPAN
    panels[f"{difference}, +-{span:.4g} {unit}"] = _red_and_blue(error)
    height, width = error.shape
    canvas = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height + _CAPTION), "black")
    draw = ImageDraw.Draw(canvas)
    for index, (name, values) in enumerate(panels.items()):
        left = index * (width + _GAP)
        canvas.paste(Image.fromarray(values), (left, _CAPTION))
        draw.rectangle((left, 0, left + width + _GAP, _CAPTION - 1), fill="black")  # a long caption before
        draw.text((left + 2, 2), name, fill="white")
    canvas.save(path)


def _pixels(image: Tensor) -> np.ndarray:
    """Turn ``(C, X, Y)`` into rows of pixels ``(Y, X, C)``."""
    pixels: np.ndarray = image.detach().cpu().numpy().astype(np.float64).transpose(2, 1, 0)
    return pixels


def _gray_or_rgb(values: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.repeat(levels[..., :1], 3, axis=2) if levels.shape[2] != 3 else levels


def _red_and_blue(error: np.ndarray) -> np.ndarray:
    """Color errors from -1 (blue) over 0 (white) to 1 (red): shape ``(Y, X, 3)``."""
    size = np.clip(error, -1, 1)
    red, green, blue = 1 + np.minimum(size, 0), 1 - np.abs(size), 1 - np.maximum(size, 0)
    return np.rint(255 * np.stack([red, green, blue], axis=-1)).astype(np.uint8)
