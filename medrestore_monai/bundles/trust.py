"""Which bundles may run: a configuration is code to MONAI, and a bundle may come from anywhere.

What lies in this package or its own checkout is trusted. Everything else is looked at, as bytes, before MONAI or
PyTorch see it: its configurations must have the shape of those of this package, byte for byte or with other plain
values, and nothing in it may be imported. What differs runs only if the user trusts it.
"""

import importlib.machinery
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from medrestore_monai.bundles.check.check import Finding, is_ours
from medrestore_monai.bundles.check.configs import read
from medrestore_monai.bundles.check.shape import (
    NETWORK,
    network_problems,
    plain_problems,
    shape_problems,
    size_problems,
)
from medrestore_monai.bundles.check.weights import weight_problems
from medrestore_monai.bundles.find import WEIGHTS, Bundle, find_bundle, own_folders
from medrestore_monai.bundles.moved import reason_moved, texts
from medrestore_monai.files import DataError

INFERENCE, EVALUATE = "inference", "evaluate"
# by the names of their files; any other is an inference
_ROLES = (EVALUATE, "train", "adapt", "adapt_pairs", "adapt_none")
METADATA = Path("configs") / "metadata.json"
_LARGEST_WEIGHTS = 2**31  # bytes
_IMPORTED = (*importlib.machinery.all_suffixes(), ".pyc", ".pyd", ".so", ".dll", ".pyw")
_SHOWN = 3  # findings in a message
_MOST = 1000  # findings of a bundle
# of this process: bundles that a user trusts, and those in which nothing was found, by the state of their files
_accepted: set[tuple[Any, ...]] = set()


class UntrustedBundleError(DataError):
    """A bundle that is not run, with the ``findings``."""

    def __init__(self, what: str, findings: Sequence[Finding]) -> None:
        shown = "; ".join(str(finding).rstrip(".") for finding in findings[:_SHOWN])
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        super().__init__(
            f"{what} was not run, because it is not of this package and differs from its bundles in more than plain "
            f"values ({shown}{more}): check it, and set trust_bundle only if you trust its author."
        )
        self.findings = list(findings)


def open_bundle(
    name: str | os.PathLike[str], trust_bundle: bool = False, configs: Iterable[str] = (INFERENCE,)
) -> Bundle:
    """Find a bundle and make sure that it may run; every command opens bundles by this function.

    Args:
        name: as for :func:`~medrestore_monai.bundles.find_bundle`.
        trust_bundle: run it whatever it holds; a warning says so.
        configs: the configurations that will be run, such as ``inference`` and ``evaluate``; those that are not there
            are passed over. Without any, only the card is looked at.

    Raises:
        ValueError: there is no such bundle.
        UntrustedBundleError: it is not of this package, and there are findings.
    """
    bundle = find_bundle(name)
    require_trust(bundle.root, {role: bundle.config(role) for role in configs}, trust_bundle)
    return bundle


def open_config(config: str | os.PathLike[str], trust_bundle: bool = False) -> Path:
    """Make sure that one configuration may run, and the bundle that it lies in.

    Args:
        config: of a bundle, in its ``configs``; ``evaluate.json``, one of a training, or one that takes the place of
            ``inference.json``.
        trust_bundle: see :func:`open_bundle`.

    Returns:
        The file, links followed.

    Raises:
        UntrustedBundleError: see :func:`open_bundle`.
    """
    path = Path(config).resolve()
    role = path.stem if path.stem in _ROLES else INFERENCE
    require_trust(path.parents[1], {role: path}, trust_bundle)
    return path


def open_overlay(path: Path, trust_bundle: bool = False) -> Path:
    """Make sure that the ``network_def`` of an overlay is one that is known, with other plain values.

    Args:
        path: a JSON or YAML file, of which nothing but ``network_def`` is used.
        trust_bundle: see :func:`open_bundle`.

    Raises:
        UntrustedBundleError: see :func:`open_bundle`.
    """
    if not is_own(path):
        _require(f"the overlay {path}", [_state([path])], lambda: _overlay_findings(path), trust_bundle)
    return path


def require_trust(root: Path, configs: Mapping[str, Path], trust_bundle: bool = False) -> None:
    """Refuse a bundle that is not of this package and holds more than its bundles with other plain values.

    Args:
        root: the bundle's folder.
        configs: the configurations that will be run, by the name of the one they are compared with.
        trust_bundle: see :func:`open_bundle`.

    Raises:
        UntrustedBundleError: see :func:`open_bundle`.
    """
    if is_own(root) and all(is_own(path) for path in configs.values()):
        return
    files = [root, root / METADATA, root / WEIGHTS]
    states = [(role, *_state([*files, path])) for role, path in configs.items()] or [_state(files)]
    _require(f"the bundle {root}", states, lambda: sorted(set(islice(_findings(root, configs), _MOST))), trust_bundle)


def is_own(path: Path) -> bool:
    """Return whether a file or folder lies in this package or its own checkout; links are followed first."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder.resolve()) for folder in own_folders())


def _require(
    what: str, states: Sequence[tuple[Any, ...]], find: Callable[[], list[Finding]], trust_bundle: bool
) -> None:
    if _accepted.issuperset(states):
        return
    findings = find()
    if findings and not trust_bundle:
        raise UntrustedBundleError(what, findings)
    if findings:
        warnings.warn(f"{what} runs as you trust it, with {len(findings)} finding(s): {findings[0]}.", stacklevel=4)
    _accepted.update(states)


def _state(files: Iterable[Path]) -> tuple[Any, ...]:
    """What changes as soon as one of the files does."""
    found: list[Any] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append((str(path), None))
        else:
            found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _findings(root: Path, configs: Mapping[str, Path]) -> Iterator[Finding]:
    yield from _metadata_findings(root)
    if not configs:  # nothing will be built or loaded
        return
    yield from _importable(root)
    path = root / WEIGHTS
    if path.exists() or path.is_symlink():
        reason = _reason_against_file(root, path)
        if not reason and path.stat().st_size > _LARGEST_WEIGHTS:
            reason = f"more than {_LARGEST_WEIGHTS >> 30} GiB"
        for problem in [reason] if reason else weight_problems(path.read_bytes()):
            yield Finding(WEIGHTS.as_posix(), "", problem)
    for role, path in configs.items():
        if path.exists() or path.is_symlink():
            yield from _config_findings(root, role, path)


def _metadata_findings(root: Path) -> Iterator[Finding]:
    content = _content(root, root / METADATA)
    if isinstance(content, Finding):
        yield content
        return
    for key, reason in plain_problems("", content, paths=False):
        yield Finding(METADATA.as_posix(), key, reason)


def _config_findings(root: Path, role: str, path: Path) -> Iterator[Finding]:
    content = _content(root, path)
    if isinstance(content, Finding):
        yield content
        return
    for text in texts(content):
        if reason := reason_moved(text):
            raise DataError(f"{path.name} was written for an earlier version: {reason}.")
    known, networks = _known()
    for key, reason in shape_problems(content, known.get(role, []), networks):
        yield Finding(_short(root, path), key, reason)


def _overlay_findings(path: Path) -> list[Finding]:
    content = _content(path.parent, path)
    if isinstance(content, Finding):
        return [content]
    if not isinstance(content, dict):
        return [Finding(path.name, "", "is not a mapping")]
    networks = _known()[1]
    found = [(name, "the key stands there twice") for name in getattr(content, "names", ())]
    for name, value in content.items():
        parts = name.replace("#", "::").split("::")
        if parts == [NETWORK]:
            found += network_problems(value, networks)
        elif parts[0] == NETWORK:
            inner = "::".join(parts)
            found += [(inner, "builds an object")] if any(part.startswith("_") for part in parts) else []
            found += plain_problems(inner, value)
    found += size_problems(content)
    return [Finding(path.name, key, reason) for key, reason in found]


def _content(root: Path, path: Path) -> Any:
    """Return what a configuration holds, or the finding that says why it is not read."""
    reason = _reason_against_file(root, path)
    if reason:
        return Finding(_short(root, path), "", reason)
    try:
        return read(path.name, path.read_bytes())
    except (ValueError, RecursionError) as error:
        return Finding(_short(root, path), "", str(error) or "nested too deeply")


def _reason_against_file(root: Path, path: Path) -> str:
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        return "a link, which may lead out of the bundle"
    return "" if path.is_file() else "not a file"


def _importable(root: Path) -> Iterator[Finding]:
    """Find what Python could import, as MONAI puts the bundle's folder before the installed packages."""
    for folder, folders, names in os.walk(root):
        for name in sorted([*folders, *names]):
            file = Path(folder, name)
            short = file.relative_to(root).as_posix()
            if file.is_symlink() and file.is_dir():
                yield Finding(short, "", "a link, which may lead out of the bundle")
            elif name.lower().endswith(_IMPORTED) and not (file.is_file() and is_ours(short, file.read_bytes())):
                yield Finding(short, "", "a program, which this package might import")


def _short(root: Path, path: Path) -> str:
    resolved = path.absolute()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.name


def _known() -> tuple[dict[str, list[Any]], list[Any]]:
    """Return the configurations of this package's bundles by role, and all networks in them."""
    files = [path for place in own_folders() for path in sorted(place.glob("*/configs/*.json"))]
    return _read_known(tuple(files))


@lru_cache(maxsize=2)
def _read_known(files: tuple[Path, ...]) -> tuple[dict[str, list[Any]], list[Any]]:
    known: dict[str, list[Any]] = {}
    networks = []
    for path in files:
        content = read(path.name, path.read_bytes())
        known.setdefault(path.stem, []).append(content)
        network = content.get(NETWORK) if isinstance(content, dict) else None
        if network is not None and network not in networks:
            networks.append(network)
    return known, networks
