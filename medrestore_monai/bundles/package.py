"""The zoo form of a bundle: a folder that runs with MONAI alone, and a zip that is the same bytes every time.

A zoo installs no package of ours, so the folder carries ``medrestore_monai`` itself: MONAI puts a bundle's root on
Python's path. Of the C kernel it carries the source, and one command builds it there; a compiled library would fit one
kind of system only, would not be the same bytes everywhere, and nobody could read what it does.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import BinaryIO

from medrestore_monai.bundles.card import zoo_card
from medrestore_monai.bundles.check import SOURCES, check_bundle
from medrestore_monai.bundles.find import WEIGHTS, Bundle
from medrestore_monai.bundles.network import sha256
from medrestore_monai.bundles.weights import LISTS, large_files
from medrestore_monai.files import atomic_file, atomic_folder

LARGEST = 25 * 2**20  # bytes; what is larger stands in large_files.yml
PARTS = ("LICENSE", "configs", "docs", "models", *LISTS)
# what the carried source needs beside MONAI, PyTorch and NumPy
REQUIREMENTS = ("pytorch-ignite", "nibabel", "pydicom", "scikit-image", "tifffile", "pillow", "rich")
_SKIPPED = shutil.ignore_patterns("__pycache__", ".*", "*.part", "runs", "eval")
_SOURCE = Path(__file__).resolve().parents[1]
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip


def package_bundle(
    bundle: Bundle, output: str | os.PathLike[str], weights_url: str = "", overwrite: bool = False
) -> tuple[Path, Path]:
    """Write the zoo form of a bundle.

    Args:
        bundle: the bundle.
        output: the folder to write to; made if it is missing.
        weights_url: where the weights will be; they are then left out and listed in ``large_files.yml``.
        overwrite: replace an earlier package.

    Returns:
        The folder, ``output/NAME``, and the zip, ``output/NAME_vVERSION.zip``.

    Raises:
        ValueError: the bundle breaks a rule of the zoo or of :func:`~medrestore_monai.bundles.check.check_bundle`, or a
            file is too large.
        FileExistsError: an earlier package is there, or with ``overwrite`` something else than a package.
        OSError: a file cannot be read or written.
    """
    output = Path(output)
    folder = output / bundle.name
    archive = output / f"{bundle.name}_v{bundle.metadata['version']}.zip"
    for path in (folder, archive):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; `overwrite` replaces it.")
    if folder.resolve() == bundle.root.resolve() or output.resolve().is_relative_to(bundle.root.resolve()):
        raise ValueError(f"{output} is the bundle itself or within it; name another folder.")
    if folder.exists() and not _is_package(folder):
        raise FileExistsError(f"{folder} is no earlier package alone, and stays; name another folder.")
    _check_rules(bundle)
    with atomic_folder(folder, overwrite) as staged, atomic_file(archive) as zipped:
        _copy(bundle, staged, weights_url)
        _check_staged(staged, bundle)
        write_zip(staged, zipped, bundle.name)
    return folder, archive


def _is_package(folder: Path) -> bool:
    """Return whether a folder is empty or holds a package, and nothing else of anybody."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    found = {entry.name for entry in folder.iterdir()}
    return not found or {_SOURCE.name, "configs"} <= found <= {*PARTS, _SOURCE.name}


def _check_rules(bundle: Bundle) -> None:
    """Refuse what the zoo's checks would refuse."""
    metadata = bundle.metadata
    missing = [name for name in ("LICENSE", "configs/inference.json", "docs/README.md") if not _has(bundle, name)]
    if missing:
        raise ValueError(f"{bundle.name} lacks {', '.join(missing)}.")
    if metadata["version"] not in metadata.get("changelog", {}):
        raise ValueError(f"the changelog of {bundle.name} has no entry for version {metadata['version']}.")
    required = metadata.get("required_packages_version", {})
    missing = [name for name in REQUIREMENTS if name not in required]
    if missing:
        raise ValueError(f"required_packages_version of {bundle.name} lacks {', '.join(missing)}.")
    listed = {entry.path for entry in large_files(bundle)}
    if not bundle.weights.is_file() and WEIGHTS.as_posix() not in listed:
        raise ValueError(f"{bundle.weights} is missing and not listed in {LISTS[0]}.")


def _has(bundle: Bundle, name: str) -> bool:
    return (bundle.root / name).is_file()


def _copy(bundle: Bundle, staged: Path, weights_url: str) -> None:
    listed = {entry.path for entry in large_files(bundle)}
    for name in PARTS:
        source = bundle.root / name
        if source.is_dir():
            shutil.copytree(source, staged / name, ignore=_SKIPPED)
        elif source.is_file():
            shutil.copyfile(source, staged / name)
    for name in listed:
        (staged / name).unlink(missing_ok=True)
    if weights_url and bundle.weights.is_file():
        _list_weights(bundle, staged, weights_url)
    for path in sorted(path for path in _SOURCE.rglob("*") if path.suffix in SOURCES):
        inside = path.relative_to(_SOURCE)
        if inside.parts[0] != "bundled":
            target = staged / _SOURCE.name / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (staged / "docs" / "README.md").write_text(zoo_card(bundle), encoding="utf-8")


def _list_weights(bundle: Bundle, staged: Path, url: str) -> None:
    """Move the weights of a staged bundle to its list of large files."""
    path = WEIGHTS.as_posix()
    others = [entry for entry in large_files(bundle) if entry.path != path]
    entries = [{"path": e.path, "url": e.url, "hash_val": e.digest, "hash_type": e.kind} for e in others]
    entries.append({"path": path, "url": url, "hash_val": sha256(bundle.weights), "hash_type": "sha256"})
    (staged / path).unlink(missing_ok=True)
    for name in LISTS:
        (staged / name).unlink(missing_ok=True)
    lines = ["large_files:"]
    for entry in entries:
        lines += [f"{'- ' if key == 'path' else '  '}{key}: {json.dumps(value)}" for key, value in entry.items()]
    (staged / LISTS[0]).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check_staged(staged: Path, bundle: Bundle) -> None:
    for path in staged.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGEST:
            name = path.relative_to(staged).as_posix()
            hint = "; give the address where it will be, `weights_url`" if name == WEIGHTS.as_posix() else ""
            raise ValueError(f"{name} has more than {LARGEST >> 20} MiB and is not in {LISTS[0]}{hint}.")
    findings = check_bundle(staged)
    if findings:
        more = f" ({len(findings) - 1} more)" if len(findings) > 1 else ""
        raise ValueError(f"{bundle.name} does not pass its check: {findings[0]}{more}.")


def write_zip(folder: Path, file: BinaryIO, name: str) -> None:
    """Write a folder as a zip: the same bytes for the same files, whenever, wherever and by whomever.

    Sorted, stored without compression (whose bytes depend on the library), with one time and one permission for all.

    Args:
        folder: what the zip holds.
        file: the zip, open for writing.
        name: the folder's name in the zip.
    """
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(folder).as_posix()}", date_time=_TIME)
            entry.create_system = 3  # Unix, for the permission
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes())
