"""Which paths of the server's machine a client may name for its image: those of what it has sent; and of what size."""

import gzip
import os
import re
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

# of tempfile.NamedTemporaryFile, which MONAI Label asks for a name; it adds all endings of the client's name
_NAME = r"tmp[a-z0-9_]{8}(\..*)?"


def is_received(image: str, sessions: str | None = None) -> bool:
    """Return whether a path is a file that a client has just sent, or the image of its session.

    MONAI Label puts a sent file directly into the temporary folder, where other programs keep files and folders, too.

    Args:
        image: what the request names.
        sessions: the folder with the sessions of MONAI Label, if there are any.
    """
    path = Path(image)
    if not os.path.exists(image):
        return False
    if sessions is not None and Path(sessions).resolve() in path.resolve().parents:
        return True
    status = path.lstat()  # of a link itself
    named = path.parent.resolve() == Path(tempfile.gettempdir()).resolve() and re.fullmatch(_NAME, path.name)
    owned = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()  # Windows has no owner here
    return bool(named) and owned and stat.S_ISREG(status.st_mode)


def check_size(image: Path, largest: int, largest_unpacked: int) -> None:
    """Refuse an image file that is too large, packed or unpacked; a folder is left alone.

    Args:
        image: a file, or the folder of a series.
        largest: bytes of the file.
        largest_unpacked: bytes that a zip or gzip file may unpack to.

    Raises:
        ValueError: it is too large, or the archive is damaged.
    """
    if not image.is_file():
        return
    size = image.stat().st_size
    if size > largest:
        raise ValueError(f"the image has {size} bytes, more than the {largest} that this server takes.")
    try:
        unpacked = _unpacked_size(image, largest_unpacked)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"the image is a damaged archive: {' '.join(str(error).split())[:100]}.") from error
    if unpacked > largest_unpacked:
        raise ValueError(f"the image unpacks to more than the {largest_unpacked} bytes that this server takes.")


def _unpacked_size(image: Path, most: int) -> int:
    """Return how many bytes an archive unpacks to, counted no further than ``most``; 0 for other files."""
    with image.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if not is_gzip:
        if not zipfile.is_zipfile(image):
            return 0
        with zipfile.ZipFile(image) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    count = 0
    with gzip.open(image) as packed:
        while count <= most and (block := packed.read(1 << 20)):
            count += len(block)
    return count
