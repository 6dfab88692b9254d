"""What libraries raise on a damaged file, turned into one sentence."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image
from tifffile import TiffFileError

__all__ = ["UnfitImageError", "explained"]

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,  # Pillow, broken PNG
    KeyError,
    IndexError,
    MemoryError,
    RuntimeError,  # imagecodecs, broken TIFF; zipfile, locked or unknown compression
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    ImageFileError,
    HeaderDataError,
    TiffFileError,  # a ValueError in newer releases only
    Image.DecompressionBombError,
)


class UnfitImageError(ValueError):
    """A file is whole, but holds something else than is expected; the message is one sentence that names it."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a library raises on a damaged file into a ValueError of one sentence that names ``path``.

    A file that is not there or may not be read stays what it is, and so does a file that is whole but unfit.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, UnfitImageError):
        raise
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        if "imagecodecs" in reason:  # tifffile, of LZW, JPEG and others
            raise ValueError(f"{path} is compressed in a way that needs a package: pip install imagecodecs.") from error
        raise ValueError(f"{path} cannot be read, it is damaged, cut short or of another kind: {reason}.") from error
