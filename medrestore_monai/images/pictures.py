"""PNG and TIFF files: 8 and 16 bit gray, 8 and 16 bit RGB, TIFF also float and pages.

Pixels stay as stored, and their orientation (tag 274 of TIFF and EXIF) is written again: unlike in JPEG, many programs
ignore it, and source and result must look alike in those, too.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from medrestore_monai.images.damage import UnfitImageError
from medrestore_monai.images.descriptions import technical_description
from medrestore_monai.images.whole import check_tiff, png_chunks

__all__ = [
    "checked_tiff",
    "open_png",
    "orientation_exif",
    "read_png",
    "read_tiff",
    "tiff_layout",
    "write_png",
    "write_tiff",
    "write_tiff_pages",
]

ORIENTATION = 274
_TURNED = range(2, 9)  # orientations; 1 is upright, others mean nothing
_COLOR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}
# color and size of a pixel, which need not be square; sBIT is left out, as restored values use all bits
_CHUNKS = ("gAMA", "cHRM", "sRGB", "cICP", "pHYs")
_SIGNATURE_AND_IHDR = 8 + 25


def open_png(path: Path) -> tuple[Image.Image, int, int]:
    """Open one PNG picture without decoding it; also its bits per sample and PNG's color type.

    Raises:
        Exception: as :func:`read_png`, as far as the header shows.
    """
    with path.open("rb") as file:
        head = file.read(26).ljust(26, b"\0")
    picture = Image.open(path, formats=["PNG"])
    depth, color_type = head[24], head[25]  # of the IHDR chunk
    try:
        _check_png(path, picture, depth, color_type)
    except ValueError:
        picture.close()
        raise
    return picture, depth, color_type


def _check_png(path: Path, picture: Image.Image, depth: int, color_type: int) -> None:
    if depth < 8 or color_type == 3 or (depth == 16 and color_type != 0):
        # Pillow would cut 16 bit color to 8 bit without a word
        hint = "; save it as TIFF, which is read with all 16" if depth == 16 else ""
        raise UnfitImageError(
            f"{path}: expected PNG with 8 or 16 bit gray or 8 bit RGB, got {depth} bit "
            f"{_COLOR_TYPES.get(color_type, 'of an unknown type')}{hint}."
        )
    if getattr(picture, "n_frames", 1) > 1 or "transparency" in picture.info:
        raise UnfitImageError(f"{path}: expected one opaque picture, got an animation or transparency.")


def read_png(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one PNG picture, shape ``(X, Y)`` or ``(3, X, Y)``; an alpha channel that is opaque is noted and left out.

    Raises:
        UnfitImageError: if the picture is transparent or animated, or has a palette, 16 bit color or under 8 bit.
        Exception: whatever Pillow raises on a damaged file; OSError if it lacks rows or a check sum is wrong.
    """
    picture, depth, color_type = open_png(path)
    with picture:
        found = png_chunks(path.read_bytes())
        chunks = [(kind, base64.b64encode(content).decode()) for kind, content in found if kind in _CHUNKS]
        picture.load()
        orientation = picture.getexif().get(ORIENTATION)
        rows = np.asarray(picture)
    if "transparency" in picture.info:
        raise UnfitImageError(f"{path}: expected one opaque picture, got an animation or transparency.")
    meta: dict[str, Any] = {"color": color_type in (2, 6), "png_mode": picture.mode}
    if color_type in (4, 6):
        if (rows[..., -1] != 255).any():
            raise UnfitImageError(f"{path}: expected an opaque picture, got a transparent one.")
        rows = rows[..., :-1] if meta["color"] else rows[..., 0]
    if "dpi" in picture.info:
        meta["dpi"] = [float(value) for value in picture.info["dpi"]]
    if "aspect" in picture.info:  # pixels that are not square, and of no size
        meta["aspect"] = [int(value) for value in picture.info["aspect"]]
    if "icc_profile" in picture.info:
        meta["icc_profile"] = np.frombuffer(picture.info["icc_profile"], dtype=np.uint8).copy()
    if orientation is not None and orientation in _TURNED:
        meta["orientation"] = int(orientation)
    if chunks:
        meta["png_chunks"] = json.dumps(chunks)
    # Pillow gives 16 bit gray as I;16 or, in older versions, as I
    return rows.astype(np.uint16 if depth == 16 else np.uint8).T, meta


def write_png(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write one picture with the resolution, orientation, color profile and color chunks of ``like``."""
    picture = Image.fromarray(np.ascontiguousarray(stored.T))
    if like.get("png_mode") in ("LA", "RGBA"):
        picture.putalpha(255)
    chunks = json.loads(like.get("png_chunks", "[]"))
    sized = "pHYs" in [kind for kind, _ in chunks]
    if "aspect" in like and not sized:
        ratio = struct.pack(">IIB", *(int(value) for value in like["aspect"]), 0)
        chunks.append(("pHYs", base64.b64encode(ratio).decode()))
    options: dict[str, Any] = {"exif": orientation_exif(like)}
    if "dpi" in like and not sized:
        options["dpi"] = tuple(float(value) for value in like["dpi"])
    if "icc_profile" in like:
        options["icc_profile"] = np.asarray(like["icc_profile"], dtype=np.uint8).tobytes()
    written = io.BytesIO()
    picture.save(written, format="PNG", **options)
    file.write(written.getbuffer()[:_SIGNATURE_AND_IHDR])
    for kind, content in chunks:
        body = kind.encode() + base64.b64decode(content)
        file.write(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
    file.write(written.getbuffer()[_SIGNATURE_AND_IHDR:])


def orientation_exif(like: Mapping[str, Any]) -> bytes:
    """Return EXIF that holds the orientation of ``like`` and nothing else; empty if it has none."""
    if "orientation" not in like:
        return b""
    exif = Image.Exif()
    exif[ORIENTATION] = int(like["orientation"])
    return exif.tobytes()


def read_tiff(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read TIFF pages, shape ``(X, Y)``, ``(X, Y, Z)`` or ``(3, X, Y)``.

    Raises:
        UnfitImageError: if the file holds pages of several sizes, an alpha channel, a palette, or samples packed into
            fewer bits than their type has.
        Exception: whatever tifffile raises on a damaged file; OSError if it lacks some pixels.
    """
    with tifffile.TiffFile(path) as tiff:
        shape, meta = checked_tiff(path, tiff)
        return tiff.series[0].asarray().reshape(shape).T, meta


def checked_tiff(path: Path, tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Check that no page of a TIFF lacks pixels; its shape as of :func:`tiff_layout`, and its meta data.

    Raises:
        Exception: as :func:`read_tiff`.
    """
    shape, color = tiff_layout(path, tiff)
    series = tiff.series[0]
    page = series.keyframe
    for index, one in enumerate(series.pages):
        if one is None and series.dataoffset is None:
            raise OSError(f"its page {index} is missing")
        if one is not None:
            check_tiff(one if isinstance(one, tifffile.TiffPage) else one.aspage(), path.stat().st_size)
    meta: dict[str, Any] = {
        "tiff_sizes": len(series.levels),
        "tiff_photometric": tifffile.PHOTOMETRIC(page.photometric).name,
        "tiff_compressed": int(page.compression != 1),
        "color": color,
    }
    if "XResolution" in page.tags and "YResolution" in page.tags:
        resolution = [page.tags[f"{axis}Resolution"].value for axis in "XY"]
        unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else 2
        if all(bottom > 0 for _, bottom in resolution):
            meta["tiff_resolution"] = [int(v) for pair in resolution for v in pair] + [int(unit)]
    description = technical_description(page.description)
    if description:
        meta["tiff_description"] = description
    if page.tags.valueof(ORIENTATION) in _TURNED:
        meta["orientation"] = int(page.tags.valueof(ORIENTATION))
    profile = page.tags.valueof("InterColorProfile")
    if profile:
        meta["icc_profile"] = np.frombuffer(bytes(profile), dtype=np.uint8).copy()
    return shape, meta


def tiff_layout(path: Path, tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], bool]:
    """Shape of the picture or pages as they lie in the file, ``(..., rows, columns[, 3])``, and whether it is color.

    Raises:
        UnfitImageError: as :func:`read_tiff`.
    """
    series, count = tiff.series[0], len(tiff.series)
    page = series.keyframe
    sides = [(axis, side) for axis, side in zip(series.axes, series.shape, strict=True) if side > 1 or axis in "YX"]
    axes, shape = "".join(axis for axis, _ in sides), tuple(side for _, side in sides)
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    color = axes == "YXS" and shape[-1] == 3 and photometric == "RGB"
    stack = axes[-2:] == "YX" and len(axes) <= 3 and axes[:1] not in ("C", "S")
    gray = photometric in ("MINISBLACK", "MINISWHITE") and stack
    if count != 1 or not (gray or color):
        raise UnfitImageError(
            f"{path}: expected TIFF with one gray or RGB picture without alpha, or gray pages of one size (axes YX, "
            f"YXS or ZYX), got {count} series, the first {photometric} of axes {series.axes} and shape {series.shape}."
        )
    if page.dtype is None or page.bitspersample != page.dtype.itemsize * 8:
        raise UnfitImageError(f"{path}: expected TIFF with 8, 16, 32 or 64 bits per sample, got {page.bitspersample}.")
    return shape, color


def write_tiff(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write pages with the resolution, description, photometric meaning, orientation and color profile of ``like``."""
    tifffile.imwrite(file, np.ascontiguousarray(stored.T), metadata=None, **_tiff_options(like))


def write_tiff_pages(
    file: BinaryIO, pages: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, like: Mapping[str, Any]
) -> None:
    """Write pages ``(rows, columns)`` as they come, as :func:`write_tiff` does; ``shape`` is that of all together."""
    tifffile.imwrite(file, pages, shape=shape, dtype=dtype, metadata=None, **_tiff_options(like))


def _tiff_options(like: Mapping[str, Any]) -> dict[str, Any]:
    """What a TIFF has of ``like``.

    The description is written as UTF-8, as OME-TIFF wants it, though TIFF means it to be ASCII.
    """
    options: dict[str, Any] = {"photometric": str(like.get("tiff_photometric", "MINISBLACK")).lower()}
    if float(like.get("original_channel_dim", float("nan"))) == 0:
        options["photometric"] = "rgb"
    if int(like.get("tiff_compressed", 0)):
        options["compression"] = "zlib"
    if "tiff_resolution" in like:
        x_top, x_bottom, y_top, y_bottom, unit = (int(value) for value in like["tiff_resolution"])
        options.update(resolution=((x_top, x_bottom), (y_top, y_bottom)), resolutionunit=unit)
    if "tiff_description" in like:
        options["description"] = str(like["tiff_description"]).encode()
    if "orientation" in like:
        options["extratags"] = [(ORIENTATION, "H", 1, int(like["orientation"]), False)]  # in every page
    if "icc_profile" in like:
        options["iccprofile"] = np.asarray(like["icc_profile"], dtype=np.uint8).tobytes()
    return options
