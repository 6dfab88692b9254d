"""Weights too large for a repository: ``large_files.yml`` lists where they are and their digests.

The format is that of MONAI's ``download_large_files``, which this replaces where it matters: a transfer that was cut
off is resumed, a file takes its place only when its SHA-256 is right, and a list from anywhere reaches nothing outside
of the bundle's folder.
"""

import hashlib
import http.client
import os
import stat
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from medrestore_monai.bundles.check.configs import read
from medrestore_monai.bundles.find import WEIGHTS, Bundle
from medrestore_monai.texts import one_line

LISTS = ("large_files.yml", "large_files.yaml", "large_files.json")
DIGESTS = ("sha256", "sha512")  # of those of MONAI; for others, a second file of the same digest can be made
SCHEMES = ("https",)
LARGEST = 2**32  # bytes
_BLOCK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class LargeFile:
    """A file of a bundle that is fetched from elsewhere.

    Args:
        path: its place in the bundle, with forward slashes.
        url: where it is fetched; ``https``, or ``file`` where that is asked for.
        digest: in hexadecimal.
        kind: one of ``DIGESTS``.
    """

    path: str
    url: str
    digest: str
    kind: str = "sha256"

    def has_digest(self, path: Path) -> bool:
        """Return whether the file at ``path`` has the digest of this one."""
        digest = hashlib.new(self.kind)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == self.digest.lower()


def large_files(bundle: Bundle, allow_file: bool = False) -> list[LargeFile]:
    """Return what a bundle's ``large_files.yml`` (or ``.yaml``, ``.json``) lists; nothing without such a file.

    A file without a SHA-256 there is refused, unless it is ``models/model.pt`` and the card has its SHA-256.

    Args:
        bundle: the bundle.
        allow_file: accept addresses of files of this machine, ``file:``.

    Raises:
        ValueError: the list is damaged, or an entry has no digest, leads out of the bundle or names another scheme.
    """
    path = next((bundle.root / name for name in LISTS if (bundle.root / name).is_file()), None)
    if path is None:
        return []
    try:
        entries = read(path.name, path.read_bytes())["large_files"]
        listed = [(str(one["path"]), str(one["url"]), one.get("hash_val"), one.get("hash_type")) for one in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no list of large files: {one_line(str(error), 200).rstrip('.')}.") from error
    return [_entry(*one, bundle, allow_file) for one in listed]


def _entry(path: str, url: str, digest: Any, kind: Any, bundle: Bundle, allow_file: bool) -> LargeFile:
    kind = kind or "md5"  # MONAI's default
    if (not digest or kind not in DIGESTS) and PurePosixPath(path) == PurePosixPath(WEIGHTS.as_posix()):
        digest, kind = bundle.metadata.get("weights_sha256"), "sha256"
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "\\")) or ".." in parts or ":" in path or "\\" in path:
        raise ValueError(f"the large file {path!r} of {bundle.name} is not inside the bundle.")
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme == "file" and not allow_file:
        raise ValueError(f"{url} is a file of this machine; set allow_file to take it.")
    if scheme not in (*SCHEMES, "file"):
        raise ValueError(f"{url} does not begin with {' or '.join(SCHEMES)}.")
    if not digest or kind not in DIGESTS:
        raise ValueError(f"the large file {path} of {bundle.name} has no {' or '.join(DIGESTS)}.")
    return LargeFile(path, url, str(digest), kind)


def get_weights(
    bundle: Bundle,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    allow_file: bool = False,
    largest: int = LARGEST,
) -> list[Path]:
    """Fetch what is missing of a bundle's large files; what is there and right stays.

    Args:
        bundle: its ``large_files.yml`` is read; without one, its own weights are verified.
        overwrite: replace files that are there and wrong.
        report: called with one line per file.
        allow_file: see :func:`large_files`.
        largest: bytes that a file may have.

    Returns:
        The files, all of them with the right digest.

    Raises:
        ValueError: as :func:`large_files`, a digest is wrong, a file is too large, or a link is in the way.
        RuntimeError: the address cannot be reached or the transfer ended early; the next call resumes it.
        OSError: the file cannot be written.
    """
    say = report or (lambda line: None)
    found = []
    for entry in large_files(bundle, allow_file) or [_own_weights(bundle)]:
        target = bundle.root / entry.path
        _refuse_links(bundle.root, target)
        if target.is_file() and entry.has_digest(target):
            say(f"{entry.path}: there, {entry.kind} right")
        elif target.exists() and not overwrite:
            raise ValueError(f"{target} is there with another {entry.kind} than listed; `overwrite` replaces it.")
        elif not entry.url:
            raise ValueError(f"{target} is missing, and {bundle.name} has no {LISTS[0]} that lists where it is.")
        else:
            download(entry, target, largest)
            say(f"{entry.path}: fetched, {entry.kind} right")
        found.append(target)
    return found


def verify_files(bundle: Bundle) -> list[tuple[str, str]]:
    """Return path and state of a bundle's weights and large files; the state is empty where all is right.

    Raises:
        ValueError: as :func:`large_files`.
    """
    entries = large_files(bundle, allow_file=True)
    if all(PurePosixPath(entry.path) != PurePosixPath(WEIGHTS.as_posix()) for entry in entries):
        entries = [_own_weights(bundle), *entries]
    states = []
    for entry in entries:
        target = bundle.root / entry.path
        state = "" if target.is_file() else "missing"
        if not state and not entry.has_digest(target):
            state = f"another {entry.kind} than listed"
        states.append((entry.path, state))
    return states


def _own_weights(bundle: Bundle) -> LargeFile:
    digest = bundle.metadata.get("weights_sha256")
    if not digest:
        raise ValueError(f"the card of {bundle.name} has no SHA-256 of its weights.")
    return LargeFile(WEIGHTS.as_posix(), "", str(digest))


def _refuse_links(root: Path, target: Path) -> None:
    """Refuse a place that a link makes another one."""
    for path in (target, *target.parents):
        if path == root:
            return
        if path.is_symlink():
            raise ValueError(f"{path} is a link, which may lead out of the bundle: remove it.")
    raise ValueError(f"{target} leads out of the bundle.")


def download(entry: LargeFile, target: Path, largest: int = LARGEST) -> None:
    """Fetch one file; it appears at ``target`` only when it is whole and right.

    What arrives is kept beside as ``<name>.part``, and the next call asks for the rest of it.

    Args:
        entry: where, and which digest.
        target: the file to write; replaced if it exists.
        largest: bytes that it may have.

    Raises:
        ValueError: the digest is wrong or there are more bytes, and what was fetched is removed; or a link is where
            it would be kept.
        RuntimeError: the address cannot be reached, or the transfer ended early; what was fetched stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _transfer(entry.url, part, largest)
    except (urllib.error.URLError, TimeoutError, ConnectionError, EOFError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if not part.stat().st_size:
            part.unlink()
        raise RuntimeError(f"{entry.url} could not be fetched in full: {reason}; the next try resumes it.") from error
    if not entry.has_digest(part):
        part.unlink()
        raise ValueError(f"{entry.url} has another {entry.kind} than listed; nothing was kept of it.")
    os.replace(part, target)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to no other scheme."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in SCHEMES:
            raise ValueError(f"{req.full_url} leads to {newurl}, which does not begin with {' or '.join(SCHEMES)}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_part(part: Path) -> BinaryIO:
    """Open what has arrived so far; never through a link, nor a file that has a second name."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if part.is_symlink():  # where the system has no O_NOFOLLOW
        raise ValueError(f"{part} is a link, which may lead out of the bundle: remove it.")
    file = os.fdopen(os.open(part, flags, 0o666), "r+b")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        file.close()
        raise ValueError(f"{part} is not a file of its own: remove it.")
    return file


def _transfer(url: str, part: Path, largest: int) -> None:
    with _open_part(part) as file:
        start = file.seek(0, os.SEEK_END)
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            response = urllib.request.build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # nothing left to send
                raise
            return
        with response:
            # a server may ignore the range, as local files do, and send all of it
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                file.truncate(file.seek(0))
            before = file.tell()
            expected = response.headers.get("Content-Length")
            while block := response.read1(_BLOCK):  # what arrived, where read would wait for more, and lose it
                file.write(block)
                if file.tell() > largest:
                    part.unlink()
                    raise ValueError(f"{url} sends more than {largest} bytes; nothing was kept of it.")
            arrived = file.tell() - before
    if expected is not None and arrived < int(expected):
        raise EOFError(f"{arrived} of {expected} bytes arrived")
