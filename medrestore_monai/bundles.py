"""Find bundles, read their cards, and load their weights: the right ones or none."""

import hashlib
import io
import json
import os
import pickle
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

DEFAULT_BUNDLE = "ct_denoise_restore_rwkv"
WEIGHTS = Path("models") / "model.pt"
PRECISIONS = ("float32", "bfloat16")
BACKENDS = ("torch", "onnx")
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
    def modality(self) -> str:
        """DICOM modality of the images it restores, as the card tells it; several are separated by commas."""
        return str(self.metadata["network_data_format"]["inputs"]["image"]["modality"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities one by one."""
        return tuple(part.strip() for part in self.modality.split(","))

    def config(self, name: str) -> Path:
        """Return the path of ``configs/<name>.json``."""
        return self.root / "configs" / f"{name}.json"


def search_path() -> list[Path]:
    """Return the folders in which bundles are looked for by name, first come, first served.

    ``MEDRESTORE_BUNDLES`` in the environment, ``bundles`` of the checkout, and the bundles that were installed with the
    package. The working folder is not searched: a configuration is code, and a folder of downloads must not choose what
    runs.
    """
    here = Path(__file__).resolve().parent
    named = os.environ.get("MEDRESTORE_BUNDLES")
    places = [Path(named)] if named else []
    return [*places, here.parent / "bundles", here / "bundled"]


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
        ValueError: there is none.
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
    which the process runs. Only configurations call this, and :func:`~medrestore_monai.restore.restore` sets the
    folder itself.
    """
    carrier = Path(__file__).resolve().parents[1]
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
    """Tell whether the folder is the bundle ``name``, or a copy of it under another name."""
    try:
        config = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
        return bool(config["bundle_root"]["name"] == name)
    except (OSError, ValueError, TypeError, KeyError):
        return False


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


class WeightsError(ValueError):
    """Weights that a network cannot use."""


def load_weights(
    network: "nn.Module",
    path: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    digest: str | None = None,
) -> "nn.Module":
    """Fill a network with weights; every number of it, or an error.

    Args:
        network: filled in place.
        path: a plain state dict saved by PyTorch.
        bundle: see :func:`verify_weights`.
        digest: the SHA-256 that results will name, if it is known already.

    Returns:
        ``network``, in evaluation mode.

    Raises:
        ValueError: as :func:`verify_weights`.
        WeightsError: the file is no state dict, has other names or shapes, or another SHA-256 than ``digest``.
    """
    import torch

    digest = digest or verify_weights(path, bundle)
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise WeightsError(f"{path} is another file than when its SHA-256 was taken: start again.")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # where less context is asked for than the weights have
        if isinstance(state, dict) and hasattr(network, "without_neighbors"):
            state = network.without_neighbors(state)
        network.load_state_dict(state)
    except (EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} is no file of weights: PyTorch reads no plain state dict in it.") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not hold the weights of {type(network).__name__}: {reason}") from error
    return network.eval()


def start_from(network: "nn.Module", bundle: str | os.PathLike[str]) -> int:
    """Fill what a network has in common with a bundle's network, before training; the rest of it stays.

    Args:
        network: filled in place.
        bundle: name or folder of the bundle with the weights.

    Returns:
        How many parameters and buffers, those of one name and shape, were filled. A network with context takes those
        of one without it, see :meth:`~medrestore_monai.networks.RestoreRWKV.with_neighbors`.

    Raises:
        ValueError: as :func:`verify_weights`, or the two have nothing in common.
    """
    import torch

    found = find_bundle(bundle)
    verify_weights(found.weights, found.root)
    own = network.state_dict()
    state = torch.load(found.weights, map_location="cpu", weights_only=True)
    if hasattr(network, "with_neighbors"):
        state = network.with_neighbors(state)
    shared = {name: values for name, values in state.items() if name in own and own[name].shape == values.shape}
    if not shared:
        raise ValueError(f"{type(network).__name__} and the weights of {found.name} have nothing in common.")
    network.load_state_dict(shared, strict=False)
    return len(shared)


def load_network(
    network: "nn.Module",
    path: str | os.PathLike[str],
    bundle: str | None = None,
    device: Any = "cpu",
    precision: str = "float32",
    backend: str = "torch",
    digest: str | None = None,
) -> "nn.Module":
    """Return a network ready for inference: weights loaded, convolutions merged where it can, on ``device``.

    Args:
        network: see :func:`load_weights`.
        path: see :func:`load_weights`.
        bundle: see :func:`load_weights`.
        device: a PyTorch device.
        precision: ``float32`` or ``bfloat16``: of the weights and of what is computed with them.
        backend: ``torch``, or ``onnx``: onnxruntime on the CPU runs the network from an ONNX file, which is exported
            once and kept (:func:`~medrestore_monai.onnx_network.cached_onnx`).
        digest: see :func:`load_weights`.

    Returns:
        The network; it takes and gives float32 images in both precisions.

    Raises:
        ValueError: as :func:`load_weights`; an unknown precision or backend, or one that the network does not offer.
        RuntimeError: the backend's packages are missing.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    check_backend(backend, device, precision)
    digest = digest or verify_weights(path, bundle)
    network = load_weights(network, path, bundle, digest)
    ready: nn.Module = network.merged() if hasattr(network, "merged") else network
    if backend == "onnx":
        from medrestore_monai.onnx_network import OnnxNetwork, cached_onnx

        return OnnxNetwork(cached_onnx(ready, digest))
    if precision == "bfloat16":
        if not hasattr(ready, "in_bfloat16"):
            raise ValueError(f"{type(network).__name__} does not offer the precision bfloat16.")
        ready = ready.in_bfloat16()
    return ready.to(device)


def check_backend(backend: str, device: Any = "cpu", precision: str = "float32") -> None:
    """Refuse a backend that is unknown, not installed, or that cannot do what goes with it.

    Args:
        backend: see :func:`load_network`.
        device: see :func:`load_network`.
        precision: see :func:`load_network`.

    Raises:
        ValueError: there is no such backend, or it does not offer that device or precision.
        RuntimeError: its packages are missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if backend == "onnx":
        if str(device) != "cpu" or precision != "float32":
            raise ValueError(f"the backend onnx runs on the device cpu in float32, not on {device} in {precision}.")
        from medrestore_monai.onnx_network import require_packages

        require_packages()


def export_bundle(
    bundle: Bundle, output: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> None:
    """Write the network of a bundle, with its weights, as an ONNX file.

    Args:
        bundle: its ``inference.json`` tells the network.
        output: the file to write.
        weights: other weights than the bundle's.

    Raises:
        ValueError: the weights are missing or do not fit, or the network cannot be exported.
        RuntimeError: a package is missing.
        OSError: the file cannot be written.
    """
    from monai.bundle import ConfigParser

    from medrestore_monai.onnx_network import TO_WRITE, export_onnx, require_packages

    require_packages(TO_WRITE)
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    path = Path(weights or bundle.weights)
    network = load_network(parser.get_parsed_content("network_def"), path, str(bundle.root))
    notes = {"bundle": bundle.name, "version": str(bundle.metadata["version"]), "weights_sha256": sha256(path)}
    notes["intended_use"] = str(bundle.metadata.get("intended_use", ""))
    export_onnx(network, output, notes)
