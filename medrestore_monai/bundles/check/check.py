"""Look through a bundle for what would run code, reach out of its folder or fetch something, before MONAI reads it."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medrestore_monai.bundles.check import configs
from medrestore_monai.bundles.check.files import BundleFile, RefusedError, list_files
from medrestore_monai.bundles.check.logging_conf import logging_problems
from medrestore_monai.bundles.check.weights import is_weights, weight_problems

PACKAGE = "medrestore_monai"
SOURCES = (".py", ".c", ".h")  # what the zoo form carries of the package
_CONFIGS = (".json", ".yaml", ".yml")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin")
_LOGGING = (".conf", ".ini", ".cfg")
_PASSIVE = (".md", ".txt", ".rst", ".csv", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".cff", ".bib", ".safetensors")
_IMAGES = (".nii", ".nii.gz", ".dcm", ".tif", ".tiff")
_PLAIN_NAMES = ("LICENSE", "NOTICE", ".gitignore", ".gitattributes")
_CODE = (
    ".py",
    ".pyc",
    ".pyo",
    ".pyd",
    ".pyw",
    ".pth",
    ".so",
    ".dll",
    ".dylib",
    ".sh",
    ".bat",
    ".cmd",
    ".exe",
    ".ipynb",
)


@dataclass(frozen=True, order=True)
class Finding:
    """One reason not to trust a bundle.

    Args:
        file: path in the bundle.
        key: where in the file, parts separated by ``::``; may be empty.
        reason: what is wrong there.
    """

    file: str
    key: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.key}" if self.key else self.file
        # nothing of the bundle shall steer the terminal
        return "".join(c if c.isprintable() else "?" for c in f"{where}: {self.reason}")


def check_bundle(path: str | os.PathLike[str]) -> list[Finding]:
    """Check a bundle against the list of what is known to be harmless; nothing of it runs or is imported.

    MONAI treats a configuration as code: ``_target_`` calls what it names and ``$`` is evaluated. Found is all that is
    not on the list: other targets, names and attributes, imports, macros from elsewhere, weights that are more than
    numbers, TorchScript, logging classes and arguments, Python and other files that a bundle has no use for, links,
    and paths and addresses that lead out. What is not found may still use much time or memory, or restore badly.

    Args:
        path: a folder or a zip file.

    Returns:
        The findings, sorted; none for a bundle that keeps to the list.

    Raises:
        ValueError: ``path`` holds no bundle.
        OSError: a file cannot be read.
    """
    try:
        files, refused = list_files(Path(path))
    except RefusedError as error:
        return [Finding(error.name, "", error.reason)]
    found = {Finding(name, "", reason) for name, reason in refused}
    for file in files:
        found.update(_check_content(file))
    found.update(_check_configs([file for file in files if _suffix(file.name) in _CONFIGS], files))
    return sorted(found)


def _suffix(name: str) -> str:
    name = name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix


def _check_content(file: BundleFile) -> Iterator[Finding]:
    suffix = _suffix(file.name)
    content = _read(file)
    if isinstance(content, Finding):
        yield content
    elif is_ours(file.name, content):
        return
    elif suffix in _WEIGHTS or is_weights(content):
        yield from (Finding(file.name, "", reason) for reason in weight_problems(content))
    elif suffix in _LOGGING:
        yield from (Finding(file.name, key, reason) for key, reason in logging_problems(content))
    elif suffix in _CODE or content.startswith(b"#!"):
        yield Finding(file.name, "", _about_code(file.name))
    elif suffix not in (*_CONFIGS, *_PASSIVE, *_IMAGES) and PurePosixPath(file.name).name not in _PLAIN_NAMES:
        yield Finding(file.name, "", "a kind of file that a bundle has no use for")


def _about_code(name: str) -> str:
    if name.startswith(f"{PACKAGE}/"):
        return f"differs from the file of the installed {PACKAGE}"
    return "a program; a bundle holds configurations, weights and texts"


def is_ours(name: str, content: bytes) -> bool:
    """Return whether a file is one of this very package, byte for byte, as the zoo form carries it."""
    parts = PurePosixPath(name).parts
    if parts[0] != PACKAGE or PurePosixPath(name).suffix not in SOURCES:
        return False
    mine = Path(__file__).resolve().parents[2].joinpath(*parts[1:])
    return mine.is_file() and hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(content).digest()


def _read(file: BundleFile) -> bytes | Finding:
    try:
        return file.read()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        return Finding(file.name, "", f"cannot be unpacked: {error}")


def _check_configs(files: list[BundleFile], every: list[BundleFile]) -> Iterator[Finding]:
    found: dict[str, list[configs.Item]] = {}
    findings: list[Finding] = []
    for file in files:
        content = _read(file)
        if isinstance(content, Finding):
            continue  # reported already
        try:
            value: Any = configs.read(file.name, content)
            found[file.name] = configs.all_items(value)
        except (ValueError, RecursionError) as error:
            findings.append(Finding(file.name, "", str(error) or "nested too deeply"))
    imported = dict(configs.DEFAULT_IMPORTS)
    names = {file.name for file in every}
    reports = {name: _reporter(name, findings) for name in found}
    for name, items in found.items():
        configs.collect_imports(items, imported, reports[name])
    definitions: dict[str, list[Any]] = {}
    for items in found.values():
        configs.collect_definitions(items, definitions)
    for name, items in found.items():
        configs.check_items(name, items, imported, names, reports[name], definitions)
    yield from findings


def _reporter(name: str, findings: list[Finding]) -> configs.Report:
    return lambda key, reason: findings.append(Finding(name, key, reason))
