"""Find bundles, read their cards, and load their weights: the right ones or none."""

import hashlib
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

DEFAULT_BUNDLE = "ct_denoise_restore_rwkv"
WEIGHTS = Path("models") / "model.pt"
PRECISIONS = ("float32", "bfloat16")


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
    def modality(self) -> str:
        """DICOM modality of the images it restores."""
        return str(self.metadata["network_data_format"]["inputs"]["image"]["modality"])

    def config(self, name: str) -> Path:
        """Return the path of ``configs/<name>.json``."""
        return self.root / "configs" / f"{name}.json"


def search_path() -> list[Path]:
    """Return the folders in which bundles are looked for, first come, first served.

    ``MEDRESTORE_BUNDLES`` in the environment, ``bundles`` in the working folder, that of the checkout, and the
    bundles that were installed with the package.
    """
    here = Path(__file__).resolve().parent
    named = os.environ.get("MEDRESTORE_BUNDLES")
    places = [Path(named)] if named else []
    return [*places, Path.cwd() / "bundles", here.parent / "bundles", here / "bundled"]


def list_bundles() -> list[Bundle]:
    """Return every bundle found, by name; the first of a name wins."""
    found: dict[str, Bundle] = {}
    for place in search_path():
        for metadata in sorted(place.glob("*/configs/metadata.json")):
            bundle = _read(metadata.parents[1])
            found.setdefault(bundle.name, bundle)
    return [found[name] for name in sorted(found)]


def find_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Return the bundle of that name, or in that folder.

    Raises:
        ValueError: there is none.
    """
    for root in (Path(name), Path.cwd(), *(place / name for place in search_path())):
        same = root.resolve().name == Path(name).resolve().name
        if same and (root / "configs" / "metadata.json").is_file():
            return _read(root.resolve())
    known = ", ".join(bundle.name for bundle in list_bundles()) or "none"
    raise ValueError(f"no bundle {str(name)!r}; found here: {known}.")


def bundle_root(name: str) -> str:
    """Return the folder of bundle ``name``, for its configurations: they run from any working folder."""
    return str(find_bundle(name).root)


def _read(root: Path) -> Bundle:
    path = root / "configs" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("version", "task", "network_data_format") if key not in metadata]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no JSON object: {error}.") from error
    if missing:
        raise ValueError(f"{path} does not tell {', '.join(missing)}.")
    return Bundle(root, metadata)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_weights(path: str | os.PathLike[str], bundle: str | os.PathLike[str] | None = None) -> str:
    """Return the SHA-256 of a weight file; the one a bundle ships must be that of its card.

    Args:
        path: the file.
        bundle: name or folder of the bundle whose weights these may be.

    Raises:
        ValueError: the file is missing, or is a bundle's ``models/model.pt`` with another SHA-256 than in its card.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the weight file {path} is missing; train the bundle, or name another file as its weights.")
    found = sha256(path)
    owner = find_bundle(bundle) if bundle is not None else None
    if owner is not None and path.resolve() == owner.weights.resolve():
        expected = owner.metadata.get("weights_sha256")
        if found != expected:
            raise ValueError(f"{path} is not the file of the bundle's card: SHA-256 {found}, expected {expected}.")
    return found


def load_weights(
    network: "nn.Module", path: str | os.PathLike[str], bundle: str | os.PathLike[str] | None = None
) -> "nn.Module":
    """Fill a network with weights; every number of it, or an error.

    Args:
        network: filled in place.
        path: a plain state dict saved by PyTorch.
        bundle: see :func:`verify_weights`.

    Returns:
        ``network``, in evaluation mode.

    Raises:
        ValueError: as :func:`verify_weights`, or the file is no state dict, or has other names or shapes.
    """
    import torch

    verify_weights(path, bundle)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not hold the weights of {type(network).__name__}: {reason}") from error
    return network.eval()


def load_network(
    network: "nn.Module",
    path: str | os.PathLike[str],
    bundle: str | None = None,
    device: Any = "cpu",
    precision: str = "float32",
) -> "nn.Module":
    """Return a network ready for inference: weights loaded, convolutions merged where it can, on ``device``.

    Args:
        network: see :func:`load_weights`.
        path: see :func:`load_weights`.
        bundle: see :func:`load_weights`.
        device: a PyTorch device.
        precision: ``float32`` or ``bfloat16``: of the weights and of what is computed with them.

    Returns:
        The network; it takes and gives float32 images in both precisions.

    Raises:
        ValueError: as :func:`load_weights`; an unknown precision, or one that the network does not offer.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    network = load_weights(network, path, bundle)
    ready: nn.Module = network.merged() if hasattr(network, "merged") else network
    if precision == "bfloat16":
        if not hasattr(ready, "in_bfloat16"):
            raise ValueError(f"{type(network).__name__} does not offer the precision bfloat16.")
        ready = ready.in_bfloat16()
    return ready.to(device)
