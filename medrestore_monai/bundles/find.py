"""Find bundles, by name or folder, and read their cards."""

import json
import os
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from medrestore_monai.bundles.check.configs import read
from medrestore_monai.bundles.settings import Setting, declared_modalities, declared_settings, declared_task

DEFAULT_BUNDLE = "ct_denoise_restore_rwkv"
WEIGHTS = Path("models") / "model.pt"
_NAMES_CONFIG = re.compile(r"--config[_-]file(=|$)")


@dataclass(frozen=True)
class Bundle:
    """One model: configurations, card and weights in a folder.

    Args:
        root: the bundle's folder.
        metadata: the content of ``configs/metadata.json``.
    """

    root: Path
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    @property
    def weights(self) -> Path:
        """Where the shipped weights stand."""
        return self.root / WEIGHTS

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the images it restores, as its metadata declares them; ``RGB`` for pictures."""
        return declared_modalities(self.metadata)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Those of them that its ``evaluate.json`` scores."""
        modalities = self.modalities  # which refuses a damaged block
        return tuple(self.metadata["medrestore"].get("evaluated", modalities))

    @property
    def dicom_modalities(self) -> tuple[str, ...]:
        """Those of them that DICOM series have."""
        return tuple(one for one in self.modalities if one != "RGB")

    @property
    def settings(self) -> dict[str, Setting]:
        """What can be set, by name."""
        return declared_settings(self.metadata)

    def task(self, modality: str) -> str:
        """Return what it does with images of a modality, such as ``denoising``."""
        return declared_task(self.metadata, modality)

    def config(self, name: str) -> Path:
        """Return the path of ``configs/<name>.json``."""
        return self.root / "configs" / f"{name}.json"


def own_folders() -> list[Path]:
    """Return the folders of this package's bundles: those of its checkout, or those that were installed with it."""
    here = Path(__file__).resolve().parents[1]
    try:
        # beside an installed package, a folder of this name is somebody else's
        in_checkout = 'name = "medrestore-monai"' in (here.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        in_checkout = False
    return [here.parent / "bundles", here / "bundled"] if in_checkout else [here / "bundled"]


def search_path() -> list[Path]:
    """Return the folders in which bundles are looked for by name, first come, first served.

    ``MEDRESTORE_BUNDLES`` in the environment, if it is an absolute path, and :func:`own_folders`. The working folder is
    not searched: a configuration is code, and a folder of downloads must not choose what runs. So a relative
    ``MEDRESTORE_BUNDLES`` comes last.
    """
    named = os.environ.get("MEDRESTORE_BUNDLES")
    places = [Path(named)] if named else []
    own = own_folders()
    return [*places, *own] if named and Path(named).is_absolute() else [*own, *places]


def list_bundles() -> list[Bundle]:
    """Return every bundle found, by name; the first of a name wins."""
    found: dict[str, Bundle] = {}
    for place in search_path():
        for metadata in sorted(place.glob("*/configs/metadata.json")):
            bundle = _read(metadata.parents[1])
            found.setdefault(bundle.name, bundle)
    return [found[name] for name in sorted(found)]


def find_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Return a bundle by its name, or by the path of its folder.

    Args:
        name: a plain word is looked for in :func:`search_path` alone. What has a separator of folders in it is a path,
            and so are ``.`` and ``..``.

    Raises:
        ValueError: no such bundle is found.
    """
    text = os.fspath(name)
    roots = [Path(text)] if is_path(text) else [place / text for place in search_path()]
    for root in roots:
        if (root / "configs" / "metadata.json").is_file():
            return _read(root.resolve())
    known = ", ".join(bundle.name for bundle in list_bundles()) or "none"
    beside = not is_path(text) and bool(text) and (Path(text) / "configs" / "metadata.json").is_file()
    hint = f" The folder {text} here is no installed bundle: run one that you trust by its path, ./{text}." * beside
    raise ValueError(f"no bundle {text!r}; found here: {known}.{hint}")


def is_path(text: str) -> bool:
    """Return whether a name is a path; a plain word names an installed bundle."""
    return text in (".", "..") or any(mark in text for mark in (os.sep, os.altsep) if mark)


def bundle_root(name: str) -> str:
    """Return the folder of bundle ``name``, for its configurations: they run from any working folder.

    A copy goes before the original: that whose configuration the command line of ``monai.bundle`` names, or that in
    which the process runs. Only configurations call this, and :func:`~medrestore_monai.restorer.restore` sets the
    folder itself.
    """
    carrier = Path(__file__).resolve().parents[2]
    # the zoo form carries this package, whatever its folder's name
    if (carrier / "configs" / "metadata.json").is_file():
        return str(carrier)
    for root in (*_roots_on_command_line(), Path.cwd()):
        if _calls_itself(root, name):
            return str(root.resolve())
    return str(find_bundle(name).root)


def name_with_copy(root: str | os.PathLike[str], name: str) -> str:
    """Return ``name``, by which results name the bundle; for a copy in another folder the folder's name goes before it.

    A copy may have other weights or settings than the original, and its results must not pass for the original's.

    Args:
        root: the bundle's folder.
        name: of the bundle that its configurations were written for.
    """
    folder = Path(root).resolve().name
    return name if folder == name else f"{folder} (copy of {name})"


def _roots_on_command_line() -> list[Path]:
    """Folders of the bundles that ``--config_file FILE`` or ``--config_file "['FILE', ...]"`` names."""
    given = [text.partition("=")[2] or after for text, after in pairwise([*sys.argv, ""]) if _NAMES_CONFIG.match(text)]
    files = [part.strip("[]()'\" ") for text in given for part in text.split(",")]
    return [Path(file).absolute().parent.parent for file in files if file]


def _calls_itself(root: Path, name: str) -> bool:
    """Return whether the folder is the bundle ``name``, or a copy of it under another name."""
    try:
        config = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
        return bool(config["bundle_root"]["name"] == name)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _read(root: Path) -> Bundle:
    path = root / "configs" / "metadata.json"
    try:
        metadata = read(path.name, path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object: {str(error).rstrip('.')}.") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is no JSON object.")
    missing = [key for key in ("version", "task", "network_data_format") if key not in metadata]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    return Bundle(root, metadata)
