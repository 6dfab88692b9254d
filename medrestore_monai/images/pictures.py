"""PNG and TIFF files: 8 and 16 bit gray, 8 and 16 bit RGB, TIFF also float and pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from medrestore_monai.images.damage import UnfitImageError, explained

__all__ = ["open_png", "read_png", "read_tiff", "tiff_layout", "write_png", "write_tiff"]


_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}


def open_png(path: Path) -> tuple[Image.Image, int, int]:
    """Open one PNG picture without decoding it; also its bits per sample and PNG's color type.

    Raises:
        ValueError: as :func:`read_png`, as far as the header tells.
    """
    with path.open("rb") as file:
        head = file.read(26).ljust(26, b"\0")
    with explained(path):
        picture = Image.open(path, formats=["PNG"])
    depth, color_type = head[24], head[25]  # of the IHDR chunk
    if depth < 8 or color_type == 3 or (depth == 16 and color_type != 0):
        # Pillow would cut 16 bit color to 8 bit without a word
        hint = "; save it as TIFF, which is read with all 16" if depth == 16 else ""
        raise ValueError(
            f"{path}: expected PNG with 8 or 16 bit gray or 8 bit RGB, got {depth} bit "
            f"{_COLOR_TYPES.get(color_type, 'of an unknown type')}{hint}."
        )
    if getattr(picture, "n_frames", 1) > 1 or "transparency" in picture.info:
        raise ValueError(f"{path}: expected one opaque picture, got an animation or transparency.")
    return picture, depth, color_type


def read_png(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one PNG picture, shape ``(X, Y)`` or ``(3, X, Y)``; an alpha channel that is opaque is noted and left out.

    Raises:
        ValueError: if the file is damaged, transparent, animated, or has a palette, 16 bit color or under 8 bit.
    """
    picture, depth, color_type = open_png(path)
    with explained(path):
        picture.load()
    if "transparency" in picture.info:
        raise ValueError(f"{path}: expected one opaque picture, got an animation or transparency.")
    rows = np.asarray(picture)
    meta: dict[str, Any] = {"color": color_type in (2, 6), "png_mode": picture.mode}
    if color_type in (4, 6):
        if (rows[..., -1] != 255).any():
            raise ValueError(f"{path}: expected an opaque picture, got a transparent one.")
        rows = rows[..., :-1] if meta["color"] else rows[..., 0]
    if "dpi" in picture.info:
        meta["dpi"] = [float(value) for value in picture.info["dpi"]]
    if "icc_profile" in picture.info:
        meta["icc_profile"] = np.frombuffer(picture.info["icc_profile"], dtype=np.uint8).copy()
    # Pillow gives 16 bit gray as I;16 or, in older versions, as I
    return rows.astype(np.uint16 if depth == 16 else np.uint8).T, meta


def write_png(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write one picture with the resolution and color profile of ``like``."""
    picture = Image.fromarray(np.ascontiguousarray(stored.T))
    if like.get("png_mode") in ("LA", "RGBA"):
        picture.putalpha(255)
    options: dict[str, Any] = {}
    if "dpi" in like:
        options["dpi"] = tuple(float(value) for value in like["dpi"])
    if "icc_profile" in like:
        options["icc_profile"] = np.asarray(like["icc_profile"], dtype=np.uint8).tobytes()
    picture.save(file, format="PNG", **options)


def read_tiff(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read TIFF pages, shape ``(X, Y)``, ``(X, Y, Z)`` or ``(3, X, Y)``.

    Raises:
        ValueError: if the file is damaged, or holds pages of several sizes, an alpha channel or a palette.
    """
    with explained(path), tifffile.TiffFile(path) as tiff:
        shape, color = tiff_layout(path, tiff)
        series = tiff.series[0]
        page = series.keyframe
        rows = series.asarray().reshape(shape)
        meta: dict[str, Any] = {
            "tiff_photometric": tifffile.PHOTOMETRIC(page.photometric).name,
            "tiff_compressed": int(page.compression != 1),
            "color": color,
        }
        if "XResolution" in page.tags and "YResolution" in page.tags:
            resolution = [page.tags[f"{axis}Resolution"].value for axis in "XY"]
            unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else 2
            meta["tiff_resolution"] = [int(v) for pair in resolution for v in pair] + [int(unit)]
        if page.description and page.description.isascii():
            meta["tiff_description"] = page.description
    return rows.T, meta


def tiff_layout(path: Path, tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], bool]:
    """Shape of the picture or pages as they lie in the file, ``(..., rows, columns[, 3])``, and whether it is color.

    Raises:
        ValueError: as :func:`read_tiff`.
    """
    series, count = tiff.series[0], len(tiff.series)
    sides = {axis: side for axis, side in zip(series.axes, series.shape, strict=True) if side > 1 or axis in "YX"}
    axes, shape = "".join(sides), tuple(sides.values())
    photometric = tifffile.PHOTOMETRIC(series.keyframe.photometric).name
    color = axes == "YXS" and shape[-1] == 3 and photometric == "RGB"
    gray = photometric in ("MINISBLACK", "MINISWHITE") and axes[-2:] == "YX" and len(axes) <= 3 and axes[:1] != "C"
    if count != 1 or not (gray or color):
        raise UnfitImageError(
            f"{path}: expected TIFF with one gray or RGB picture without alpha, or gray pages of one size, got {count} "
            f"series, the first {photometric} with axes {series.axes} and shape {series.shape}."
        )
    return shape, color


def write_tiff(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write pages with the resolution, description and photometric meaning of ``like``."""
    options: dict[str, Any] = {"photometric": str(like.get("tiff_photometric", "MINISBLACK")).lower()}
    if float(like.get("original_channel_dim", float("nan"))) == 0:
        options["photometric"] = "rgb"
    if int(like.get("tiff_compressed", 0)):
        options["compression"] = "zlib"
    if "tiff_resolution" in like:
        x_top, x_bottom, y_top, y_bottom, unit = (int(value) for value in like["tiff_resolution"])
        options.update(resolution=((x_top, x_bottom), (y_top, y_bottom)), resolutionunit=unit)
    tifffile.imwrite(
        file, np.ascontiguousarray(stored.T), metadata=None, description=like.get("tiff_description"), **options
    )
