"""Weights too large for a repository: ``large_files.yml`` tells where they are and what their digest is.

The format is that of MONAI's ``download_large_files``, which this replaces where it matters: a transfer that was cut
off goes on where it ended, and a file takes its place only when its digest is right.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medrestore_monai.bundles.find import WEIGHTS, Bundle

LISTS = ("large_files.yml", "large_files.yaml", "large_files.json")
DIGESTS = ("md5", "sha1", "sha256", "sha512")  # those of MONAI
SCHEMES = ("https", "http", "file")
_BLOCK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class LargeFile:
    """A file of a bundle that is fetched from elsewhere.

    Args:
        path: its place in the bundle, with forward slashes.
        url: where it is fetched; ``https``, ``http`` or ``file``.
        digest: in hexadecimal.
        kind: one of ``DIGESTS``.
    """

    path: str
    url: str
    digest: str
    kind: str = "sha256"

    def has_digest(self, path: Path) -> bool:
        """Tell whether the file at ``path`` has the digest of this one."""
        digest = hashlib.new(self.kind)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == self.digest.lower()


def large_files(bundle: Bundle) -> list[LargeFile]:
    """Return what a bundle's ``large_files.yml`` (or ``.yaml``, ``.json``) lists; nothing without such a file.

    A file without a digest there is refused, unless it is ``models/model.pt`` and the card tells its SHA-256.

    Raises:
        ValueError: the list is damaged, or an entry has no digest, leads out of the bundle or names another scheme.
    """
    path = next((bundle.root / name for name in LISTS if (bundle.root / name).is_file()), None)
    if path is None:
        return []
    import yaml  # reads JSON too

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = content["large_files"]
        return [_entry(entry, bundle) for entry in entries]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no list of large files: {' '.join(str(error).split())}.") from error


def _entry(entry: dict[str, Any], bundle: Bundle) -> LargeFile:
    path, url = str(entry["path"]), str(entry["url"])
    digest, kind = entry.get("hash_val"), entry.get("hash_type") or "md5"  # MONAI's default
    if not digest and PurePosixPath(path) == PurePosixPath(WEIGHTS.as_posix()):
        digest, kind = bundle.metadata.get("weights_sha256"), "sha256"
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "\\")) or ".." in parts or ":" in path or "\\" in path:
        raise ValueError(f"the large file {path!r} of {bundle.name} is not inside the bundle.")
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url} begins with none of {', '.join(SCHEMES)}.")
    if not digest or kind not in DIGESTS:
        raise ValueError(f"the large file {path} of {bundle.name} has no digest ({', '.join(DIGESTS)}).")
    return LargeFile(path, url, str(digest), kind)


def get_weights(bundle: Bundle, overwrite: bool = False, report: Callable[[str], None] | None = None) -> list[Path]:
    """Fetch what is missing of a bundle's large files; what is there and right stays.

    Args:
        bundle: its ``large_files.yml`` is read; without one, its own weights are verified.
        overwrite: replace files that are there and wrong.
        report: called with one line per file.

    Returns:
        The files, all of them with the right digest.

    Raises:
        ValueError: as :func:`large_files`, or a digest is wrong.
        RuntimeError: the address cannot be reached or the transfer ended early; the next call resumes it.
        OSError: the file cannot be written.
    """
    tell = report or (lambda line: None)
    found = []
    for entry in large_files(bundle) or [_own_weights(bundle)]:
        target = bundle.root / entry.path
        if not target.resolve().is_relative_to(bundle.root.resolve()):
            raise ValueError(f"{target} leads out of the bundle.")
        if target.is_file() and entry.has_digest(target):
            tell(f"{entry.path}: there, {entry.kind} right")
        elif target.exists() and not overwrite:
            raise ValueError(f"{target} is there with another {entry.kind} than listed; `overwrite` replaces it.")
        elif not entry.url:
            raise ValueError(f"{target} is missing, and {bundle.name} has no {LISTS[0]} that tells where it is.")
        else:
            download(entry, target)
            tell(f"{entry.path}: fetched, {entry.kind} right")
        found.append(target)
    return found


def verify_files(bundle: Bundle) -> list[tuple[str, str]]:
    """Return path and state of a bundle's weights and large files; the state is empty where all is right.

    Raises:
        ValueError: as :func:`large_files`.
    """
    entries = large_files(bundle)
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
        raise ValueError(f"the card of {bundle.name} tells no SHA-256 of its weights.")
    return LargeFile(WEIGHTS.as_posix(), "", str(digest))


def download(entry: LargeFile, target: Path) -> None:
    """Fetch one file; it appears at ``target`` only when it is whole and right.

    What arrives is kept beside as ``<name>.part``, and the next call asks for the rest of it.

    Args:
        entry: where, and which digest.
        target: the file to write; replaced if it exists.

    Raises:
        ValueError: the digest is wrong; what was fetched is removed.
        RuntimeError: the address cannot be reached, or the transfer ended early; what was fetched stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _transfer(entry.url, part)
    except (urllib.error.URLError, TimeoutError, ConnectionError, EOFError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RuntimeError(f"{entry.url} could not be fetched in full: {reason}; the next try resumes it.") from error
    if not entry.has_digest(part):
        part.unlink()
        raise ValueError(f"{entry.url} has another {entry.kind} than listed; nothing was kept of it.")
    os.replace(part, target)


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing left to send
            raise
        return
    with response:
        # a server may ignore the range, as local files do, and send all of it
        resumed = start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        expected = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            before = file.tell()
            while block := response.read1(_BLOCK):  # what arrived, where read would wait for more, and lose it
                file.write(block)
            arrived = file.tell() - before
    if expected is not None and arrived < int(expected):
        raise EOFError(f"{arrived} of {expected} bytes arrived")
