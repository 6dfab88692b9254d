"""The one boundary around the decoders and parsers of image files: what they raise or warn of becomes one sentence."""

from __future__ import annotations

import errno
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from medrestore_monai.files import unpack_limit

__all__ = ["UnfitImageError", "explained", "refuse_promise"]

_LOGGERS = ("tifffile", "nibabel.global")
#: Warnings that say nothing of the data; large pictures are read as they are.
_HARMLESS = (Image.DecompressionBombWarning, DeprecationWarning, FutureWarning, ResourceWarning)
#: What nibabel says of headers that only other programs cannot read, or that know no size of a voxel.
_HARMLESS_RECORDS = ("divisible by 16", "should be non-zero")
_LONGEST_REASON = 160
_LARGEST_GROWTH = 1032  # of a deflate stream
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of temporary files: the image is not to blame


class UnfitImageError(ValueError):
    """A file is whole, but holds something else than is expected; the message is one sentence that names it."""


def refuse_promise(path: Path, promised: int, packed: int) -> None:
    """Refuse a packed file that promises more than it can hold, or more than may be unpacked.

    Args:
        path: its name.
        promised: bytes of its voxels, or those that were unpacked so far.
        packed: bytes of the file.

    Raises:
        OSError: no deflate stream grows so much.
        UnfitImageError: it would need too much memory.
    """
    if promised > _LARGEST_GROWTH * packed:
        raise OSError(f"the header promises {promised} bytes, more than the file can hold")
    if promised > unpack_limit(packed):
        raise UnfitImageError(
            f"{path} would unpack to {promised / 2**30:.1f} GiB, where at most {unpack_limit(packed) / 2**30:.1f} GiB "
            "are accepted of so small a file: unpack it first if it is what it should be."
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a library raises or warns of into a ValueError of one sentence that names ``path``.

    A file that is not there or may not be read stays what it is, and so does a file that is whole but unfit. Warnings
    of our own must not be raised inside.
    """
    try:
        with _warnings_are_damage():
            yield
    except (FileNotFoundError, PermissionError, UnfitImageError):
        raise
    except OSError as error:
        if error.errno in _OF_DISK:
            raise
        raise _damaged(path, error) from error
    except Exception as error:  # a parser may raise anything on damaged data
        if "imagecodecs" in str(error):  # tifffile, of LZW, JPEG and others
            raise ValueError(f"{path} is compressed in a way that needs a package: pip install imagecodecs.") from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read, it is damaged, cut short or of another kind: {_reason(error)}; "
        "copy it or save it again."
    )


@contextmanager
def _warnings_are_damage() -> Iterator[None]:
    """Raise an OSError at the end if a library warned of, or logged, something about the data."""
    records: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno >= logging.WARNING and not any(words in text for words in _HARMLESS_RECORDS):
            records.append(text)
        return False

    with ExitStack() as stack:
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.addFilter(keep)
            stack.callback(logger.removeFilter, keep)
        yield
        records += [str(one.message) for one in caught or () if not issubclass(one.category, _HARMLESS)]
    if records:
        raise OSError(f"its decoder warns: {records[0]}")


def _reason(error: Exception) -> str:
    """The words of a library without what it quotes, which may be a text of the file."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"""b?(["'`]).*?\1|<[^>]*>|\[[^]]*]|{[^}]*}""", "...", line)
    words = re.split(r"""["'`<\[{\\]""", line)[0].strip(" :(.,@")
    return words[:_LONGEST_REASON] if re.search(r"[A-Za-z]{3}", words) else type(error).__name__
