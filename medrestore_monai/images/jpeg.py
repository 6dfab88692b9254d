"""JPEG files: 8 bit gray and RGB, upright."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from medrestore_monai.images.damage import UnfitImageError
from medrestore_monai.images.pictures import ORIENTATION, orientation_exif
from medrestore_monai.images.whole import check_jpeg
from medrestore_monai.notes import note

__all__ = ["open_jpeg", "read_jpeg", "write_jpeg"]

_QUALITY = 95
_AXES_EXCHANGED = range(5, 9)
_DENSITY = 13  # where JFIF has the unit and the two numbers, five bytes in all
_LARGEST = 0xFFFF
_X_RESOLUTION = 282  # EXIF; Pillow takes 72 dpi where EXIF has none


def open_jpeg(path: Path) -> Image.Image:
    """Open one JPEG picture without decoding it.

    Raises:
        UnfitImageError: if the file holds CMYK.
        Exception: whatever Pillow raises if the file is no JPEG.
    """
    picture = Image.open(path, formats=["JPEG"])
    if picture.mode not in ("L", "RGB"):
        picture.close()
        raise UnfitImageError(f"{path}: expected JPEG with gray or RGB, got {picture.mode}.")
    return picture


def read_jpeg(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one JPEG picture, shape ``(X, Y)`` or ``(3, X, Y)``, turned upright where EXIF says how the camera was held.

    Raises:
        UnfitImageError: if the file holds CMYK.
        Exception: whatever Pillow raises on a damaged file; OSError if it lacks data for some pixels.
    """
    check_jpeg(path.read_bytes())
    with open_jpeg(path) as picture:
        meta: dict[str, Any] = {"color": picture.mode == "RGB"}
        if "dpi" in picture.info and (picture.info.get("jfif_unit") or _X_RESOLUTION in picture.getexif()):
            meta["dpi"] = [float(value) for value in picture.info["dpi"]]
            if picture.getexif().get(ORIENTATION) in _AXES_EXCHANGED:
                meta["dpi"].reverse()
        ratio = picture.info.get("jfif_density", (1, 1))
        if not picture.info.get("jfif_unit") and all(ratio) and ratio[0] != ratio[1]:
            meta["aspect"] = [int(value) for value in ratio]
            if picture.getexif().get(ORIENTATION) in _AXES_EXCHANGED:
                meta["aspect"].reverse()
        if "icc_profile" in picture.info:
            meta["icc_profile"] = np.frombuffer(picture.info["icc_profile"], dtype=np.uint8).copy()
        rows = np.asarray(ImageOps.exif_transpose(picture))
    return rows.T, meta


def write_jpeg(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write one picture of quality 95, with full color resolution and the resolution and color profile of ``like``.

    EXIF entries of a JPEG are not kept: they may say who was pictured, when and where, and the picture is upright.
    Pixels of a PNG or TIFF may not be, and keep their orientation.
    """
    note(
        f"JPEG loses detail: written with quality {_QUALITY} and full color resolution; name the output .png to keep "
        "every gray level.",
        stacklevel=3,
    )
    options: dict[str, Any] = {"exif": orientation_exif(like)}
    if "icc_profile" in like:
        options["icc_profile"] = np.asarray(like["icc_profile"], dtype=np.uint8).tobytes()
    picture = Image.fromarray(np.ascontiguousarray(stored.T))
    written = io.BytesIO()
    picture.save(written, format="JPEG", quality=_QUALITY, subsampling=0, **options)
    data, density = written.getvalue(), _density(like)
    if density:
        data = data[:_DENSITY] + struct.pack(">BHH", *density) + data[_DENSITY + 5 :]
    file.write(data)


def _density(like: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Unit (0 none, 1 inch, 2 cm) and pixels per unit along x and y, as JFIF has them; ``None`` if nothing is known."""
    if "dpi" in like:
        inches = [float(value) for value in like["dpi"]]
        if not min(inches) > 0:
            return None
        scales = {1: inches, 2: [value / 2.54 for value in inches]}
        unit = min(scales, key=lambda one: max(abs(value - round(value)) / value for value in scales[one]))
        x, y = (round(value) for value in scales[unit])
    elif "aspect" in like:
        unit, (x, y) = 0, (int(value) for value in like["aspect"])
    else:
        return None
    return (unit, x, y) if min(x, y) > 0 and max(x, y) <= _LARGEST else None
