"""TIFF files: gray and RGB of 8 and 16 bit, gray also of other integers and float, one page or a stack of pages.

Pixels stay as stored, and their orientation (tag 274) is written again, see :mod:`medrestore_monai.images.pictures`.
A linear calibration by ImageJ is the slope and intercept of their unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from medrestore_monai.images.damage import UnfitImageError
from medrestore_monai.images.descriptions import linear_calibration, technical_description
from medrestore_monai.images.pictures import OPAQUE, ORIENTATION, TURNED
from medrestore_monai.images.whole import check_tiff

__all__ = ["TiffLayout", "checked_tiff", "read_tiff", "tiff_layout", "write_tiff", "write_tiff_pages"]

_SIGNED = 32768  # is added by ImageJ to signed numbers of 16 bit before their calibration
_BY_PILLOW = (5, 32773)  # compressions that tifffile alone does not know: LZW and PackBits


class TiffLayout(NamedTuple):
    """How pixels lie in a file.

    Attributes:
        shape: ``([pages, ]rows, columns[, samples])``.
        color: they are RGB, or indices of a palette of colors.
        alpha: the last sample says how opaque a pixel is.
        palette: of the colors that indices stand for, 8 bit, shape ``(256, 3)``.
        in_slabs: they are gray values that tifffile reads page by page.
    """

    shape: tuple[int, ...]
    color: bool
    alpha: bool = False
    palette: np.ndarray | None = None
    in_slabs: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        """Columns, rows and, of a stack, pages."""
        samples = self.color and self.palette is None
        return self.shape[-2::-1] if samples else self.shape[::-1]


def read_tiff(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read TIFF pages, shape ``(X, Y)``, ``(X, Y, Z)`` or ``(3, X, Y[, Z])``.

    Raises:
        UnfitImageError: if the file holds pages of several sizes, transparency, CMYK, or samples packed into fewer bits
            than their type has, pages in other files, or a calibration by ImageJ that is no straight line.
        Exception: whatever tifffile raises on a damaged file; OSError if it lacks some pixels.
    """
    with tifffile.TiffFile(path) as tiff:
        layout, meta = checked_tiff(path, tiff)
        series = tiff.series[0]
        stored = _by_pillow(path, series) if _needs_pillow(series.keyframe) else series.asarray()
        return _pixels(path, stored.reshape(layout.shape), layout).T, meta


def checked_tiff(path: Path, tiff: tifffile.TiffFile) -> tuple[TiffLayout, dict[str, Any]]:
    """Check that no page of a TIFF lacks pixels; its layout as of :func:`tiff_layout`, and its meta data.

    Raises:
        Exception: as :func:`read_tiff`.
    """
    layout = tiff_layout(path, tiff)
    series = tiff.series[0]
    page = series.keyframe
    for index, one in enumerate(series.pages):
        if one is None and series.dataoffset is None:
            raise OSError(f"its page {index} is missing")
        if one is not None:
            check_tiff(one if isinstance(one, tifffile.TiffPage) else one.aspage(), path.stat().st_size)
    meta: dict[str, Any] = {
        **_calibration(path, page, layout),
        "tiff_sizes": len(series.levels),
        "tiff_photometric": "RGB" if layout.color else tifffile.PHOTOMETRIC(page.photometric).name,
        "tiff_compressed": int(page.compression != 1),
        "tiff_alpha": int(layout.alpha),
        "palette": layout.palette is not None,
        "color": layout.color,
    }
    if layout.palette is not None and not layout.color:
        meta["tiff_photometric"] = "MINISBLACK"
    if "XResolution" in page.tags and "YResolution" in page.tags:
        resolution = [page.tags[f"{axis}Resolution"].value for axis in "XY"]
        unit = page.tags["ResolutionUnit"].value if "ResolutionUnit" in page.tags else 2
        if all(bottom > 0 for _, bottom in resolution):
            meta["tiff_resolution"] = [int(v) for pair in resolution for v in pair] + [int(unit)]
    description = technical_description(page.description)
    if layout.palette is not None and layout.color and not description.startswith("ImageJ="):
        description = ""  # it would be of indices
    if description:
        meta["tiff_description"] = description
    if page.tags.valueof(ORIENTATION) in TURNED:
        meta["orientation"] = int(page.tags.valueof(ORIENTATION))
    profile = page.tags.valueof("InterColorProfile")
    if profile:
        meta["icc_profile"] = np.frombuffer(bytes(profile), dtype=np.uint8).copy()
    return layout, meta


def _calibration(path: Path, page: Any, layout: TiffLayout) -> dict[str, float]:
    """Return slope and intercept from the stored numbers to those that ImageJ shows, where they differ.

    Raises:
        UnfitImageError: they differ in another way.
    """
    if page.dtype.kind == "f" or (layout.color and layout.palette is None):
        return {}  # ImageJ calibrates neither
    found = linear_calibration(page.description)
    if found == (1.0, 0.0):
        return {}
    if found is None or layout.palette is not None:
        raise UnfitImageError(
            f"{path} has a calibration by ImageJ that is no straight line or goes with a palette: apply it in ImageJ "
            "with Image > Type > 32-bit and save the image again."
        )
    slope, inter = found
    if page.dtype == np.int16:
        inter += _SIGNED * slope
    return {} if (slope, inter) == (1.0, 0.0) else {"scl_slope": slope, "scl_inter": inter}


def _pixels(path: Path, stored: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Put colors in place of indices, and take an opaque alpha channel away.

    Raises:
        UnfitImageError: a pixel is transparent.
    """
    if layout.palette is not None:
        colors = layout.palette[stored]
        return colors if layout.color else colors[..., 0]
    if layout.alpha:
        full = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1
        if (stored[..., 3] != full).any():
            raise UnfitImageError(f"{path}: expected an opaque picture, got a transparent one: {OPAQUE}.")
        return stored[..., :3]
    return stored


def _needs_pillow(page: Any) -> bool:
    return page.compression in _BY_PILLOW and find_spec("imagecodecs") is None


def _by_pillow(path: Path, series: Any) -> np.ndarray:
    """Decode pages by Pillow, which knows these compressions but not every type of samples.

    Raises:
        ValueError: the pages are not what Pillow can give without loss.
    """
    page, pages = series.keyframe, []
    with Image.open(path, formats=["TIFF"]) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            found = np.asarray(picture)
            values = found.astype(page.dtype)
            same_kind = found.dtype.itemsize >= page.dtype.itemsize and np.array_equal(found, values)
            inverted = tifffile.PHOTOMETRIC(page.photometric).name == "MINISWHITE"
            if found.shape != page.shape or not same_kind or inverted:
                raise ValueError("it needs the package imagecodecs")
            pages.append(values)
    if len(pages) != len(series.pages):
        raise ValueError("it needs the package imagecodecs")
    return np.stack(pages)


def tiff_layout(path: Path, tiff: tifffile.TiffFile) -> TiffLayout:
    """Return how the pixels of a picture, or of a stack of pages, lie in a file.

    Raises:
        UnfitImageError: as :func:`read_tiff`.
    """
    series, count = tiff.series[0], len(tiff.series)
    page = series.keyframe
    if any(one is not None and one.parent is not tiff for one in series.pages):
        raise UnfitImageError(
            f"{path} is part of an OME-TIFF set, whose slices lie in several files: save the set as one file."
        )
    sides = [(axis, side) for axis, side in zip(series.axes, series.shape, strict=True) if side > 1 or axis in "YX"]
    axes, shape = "".join(axis for axis, _ in sides), tuple(side for _, side in sides)
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in (1, 2)
    in_stack = len(axes) == 3 or axes[:1] not in ("C", "S")
    color = axes[-3:] == "YXS" and len(axes) <= 4 and in_stack and shape[-1] == 3 + alpha and photometric == "RGB"
    gray = axes[-2:] == "YX" and len(axes) <= 3 and axes[:1] not in ("C", "S")
    indices = gray and photometric == "PALETTE" and page.dtype == np.uint8 and page.colormap is not None
    if count != 1 or not (color or indices or (gray and photometric in ("MINISBLACK", "MINISWHITE"))):
        raise UnfitImageError(
            f"{path}: expected TIFF with gray or RGB pictures of one size (axes YX, YXS, ZYX or ZYXS), got {count} "
            f"series, the first {photometric} of axes {series.axes} and shape {series.shape}: save it as 8 or 16 bit "
            "RGB or gray."
        )
    if page.dtype is None or page.bitspersample != page.dtype.itemsize * 8:
        raise UnfitImageError(
            f"{path}: expected TIFF with 8, 16, 32 or 64 bits per sample, got {page.bitspersample}: save it with 8 or "
            "16."
        )
    if indices:
        palette = np.asarray(page.colormap).T >> 8  # 16 bit, shape (256, 3): 256 or 257 times those of 8 bit
        return TiffLayout(shape, bool((palette != palette[:, :1]).any()), False, palette.astype(np.uint8))
    return TiffLayout(shape, bool(color), bool(color and alpha), in_slabs=not color and not _needs_pillow(page))


def write_tiff(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write pages with the resolution, description, photometric meaning, orientation and color profile of ``like``."""
    options = _tiff_options(like)
    rows = np.ascontiguousarray(stored.T)
    if options["photometric"] == "rgb" and int(like.get("tiff_alpha", 0)):
        full = np.iinfo(rows.dtype).max if rows.dtype.kind in "iu" else 1
        rows = np.concatenate([rows, np.full((*rows.shape[:-1], 1), full, dtype=rows.dtype)], axis=-1)
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(file, rows, metadata=None, ome=False, **options)


def write_tiff_pages(
    file: BinaryIO, pages: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype, like: Mapping[str, Any]
) -> None:
    """Write gray pages ``(rows, columns)`` as they come, as :func:`write_tiff` does; ``shape`` is that of all."""
    tifffile.imwrite(file, pages, shape=shape, dtype=dtype, metadata=None, ome=False, **_tiff_options(like))


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
