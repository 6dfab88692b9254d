"""PNG files: 8 and 16 bit gray, 8 bit RGB.

Pixels stay as stored, and their orientation (tag 274 of EXIF) is written again: unlike in JPEG, many programs
ignore it, and source and result must look alike in those, too.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medrestore_monai.images.damage import UnfitImageError
from medrestore_monai.images.whole import png_chunks

__all__ = ["ORIENTATION", "TURNED", "is_gray_palette", "open_png", "orientation_exif", "read_png", "write_png"]

ORIENTATION = 274
OPAQUE = "flatten it onto a background and save it without transparency"
TURNED = range(2, 9)  # orientations; 1 is upright, others mean nothing
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
    if (depth < 8 and color_type != 3) or (depth == 16 and color_type != 0):
        # Pillow would cut 16 bit color to 8 bit without a word
        hint = ": save it as TIFF, which is read with all 16" if depth == 16 else ": save it with 8 bit"
        raise UnfitImageError(
            f"{path}: expected PNG with 8 or 16 bit gray or 8 bit RGB, got {depth} bit "
            f"{_COLOR_TYPES.get(color_type, 'of an unknown type')}{hint}."
        )
    if getattr(picture, "n_frames", 1) > 1 or "transparency" in picture.info:
        raise UnfitImageError(f"{path}: expected one opaque picture, got an animation or transparency: {OPAQUE}.")


def read_png(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one PNG picture, shape ``(X, Y)`` or ``(3, X, Y)``; an alpha channel that is opaque is noted and left out.

    Raises:
        UnfitImageError: if the picture is transparent or animated, or has 16 bit color, or gray under 8 bit.
        Exception: whatever Pillow raises on a damaged file; OSError if it lacks rows or a check sum is wrong.
    """
    picture, depth, color_type = open_png(path)
    with picture:
        found = png_chunks(path.read_bytes())
        chunks = [(kind, base64.b64encode(content).decode()) for kind, content in found if kind in _CHUNKS]
        picture.load()
        orientation = picture.getexif().get(ORIENTATION)
        gray = color_type == 3 and is_gray_palette(picture)
        shown = picture.convert("L" if gray else "RGB") if color_type == 3 else picture
        rows = np.asarray(shown)
    if "transparency" in picture.info:
        raise UnfitImageError(f"{path}: expected one opaque picture, got an animation or transparency: {OPAQUE}.")
    color = color_type in (2, 6) or (color_type == 3 and not gray)
    meta: dict[str, Any] = {"color": color, "png_mode": shown.mode, "palette": color_type == 3}
    if color_type in (4, 6):
        if (rows[..., -1] != 255).any():
            raise UnfitImageError(f"{path}: expected an opaque picture, got a transparent one: {OPAQUE}.")
        rows = rows[..., :-1] if meta["color"] else rows[..., 0]
    if "dpi" in picture.info:
        meta["dpi"] = [float(value) for value in picture.info["dpi"]]
    if "aspect" in picture.info:  # pixels that are not square, and of no size
        meta["aspect"] = [int(value) for value in picture.info["aspect"]]
    if "icc_profile" in picture.info:
        meta["icc_profile"] = np.frombuffer(picture.info["icc_profile"], dtype=np.uint8).copy()
    if orientation is not None and orientation in TURNED:
        meta["orientation"] = int(orientation)
    if chunks:
        meta["png_chunks"] = json.dumps(chunks)
    # Pillow gives 16 bit gray as I;16 or, in older versions, as I
    return rows.astype(np.uint16 if depth == 16 else np.uint8).T, meta


def is_gray_palette(picture: Image.Image) -> bool:
    """Return whether the palette of a picture holds gray levels only."""
    colors = np.frombuffer(picture.palette.tobytes() if picture.palette else b"", dtype=np.uint8)
    mode = picture.palette.mode if picture.palette else "RGB"
    colors = colors[: len(colors) // len(mode) * len(mode)].reshape(-1, len(mode))
    return bool((colors[:, :1] == colors[:, :3]).all())


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
