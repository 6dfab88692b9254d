"""Fill a network with a bundle's weights, the right ones or none, and make it ready to run."""

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrestore_monai.bundles.config import read_config
from medrestore_monai.bundles.find import Bundle, find_bundle
from medrestore_monai.bundles.shared_settings import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from torch import nn


class WeightsError(ValueError):
    """Weights that a network cannot use."""


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
        WeightsError: the bundle's own file, ``models/model.pt``, is missing or has another SHA-256 than in its card.
        ValueError: another file is missing.
    """
    path = Path(path)
    owner = find_bundle(bundle) if bundle is not None else None
    own = owner is not None and path.resolve() == owner.weights.resolve()
    if not path.is_file():
        kind = WeightsError if own else ValueError
        raise kind(f"the weight file {path} is missing; train the bundle, or name another file as its weights.")
    found = sha256(path)
    if owner is not None and own:
        expected = owner.metadata.get("weights_sha256")
        if found != expected:
            raise WeightsError(f"{path} is not the file of the bundle's card: SHA-256 {found}, expected {expected}.")
    return found


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
        adapt = getattr(network, "without_neighbors", None)
        if isinstance(state, dict) and adapt is not None:
            state = adapt(state)
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
    adapt = getattr(network, "with_neighbors", None)
    if adapt is not None:
        state = adapt(state)
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
            once and kept (:func:`~medrestore_monai.bundles.onnx.cached_onnx`).
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
    merge = getattr(network, "merged", None)
    ready: nn.Module = network if merge is None else merge()
    if backend == "onnx":
        from medrestore_monai.bundles.onnx import OnnxNetwork, cached_onnx

        return OnnxNetwork(cached_onnx(ready, digest))
    if precision == "bfloat16":
        convert = getattr(ready, "in_bfloat16", None)
        if convert is None:
            raise ValueError(f"{type(network).__name__} does not offer the precision bfloat16.")
        ready = convert()
    return ready.to(device)


def check_backend(backend: str, device: Any = "cpu", precision: str = "float32") -> None:
    """Refuse a backend that is unknown, not installed, or that cannot do what goes with it; and so a device.

    Args:
        backend: see :func:`load_network`.
        device: see :func:`load_network`.
        precision: see :func:`load_network`.

    Raises:
        ValueError: there is no such backend, or it or the device does not offer what goes with it.
        RuntimeError: its packages are missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if str(device) == "mps" and precision != "float32":
        raise ValueError(f"the device mps computes in float32, not in {precision}: leave `precision` out.")
    if backend == "onnx":
        if str(device) != "cpu" or precision != "float32":
            raise ValueError(f"the backend onnx runs on the device cpu in float32, not on {device} in {precision}.")
        from medrestore_monai.bundles.onnx import require_packages

        require_packages()


def export_bundle(
    bundle: Bundle, output: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> None:
    """Write the network of a bundle, with its weights, as an ONNX file.

    Args:
        bundle: its ``inference.json`` describes the network.
        output: the file to write.
        weights: other weights than the bundle's.

    Raises:
        ValueError: the weights are missing or do not fit, or the network cannot be exported.
        RuntimeError: a package is missing.
        OSError: the file cannot be written.
    """
    from medrestore_monai.bundles.onnx import TO_WRITE, export_onnx, require_packages

    require_packages(TO_WRITE)
    parser = read_config(bundle.config("inference"))
    path = Path(weights or bundle.weights)
    network = load_network(parser.get_parsed_content("network_def"), path, str(bundle.root))
    notes = {"bundle": bundle.name, "version": str(bundle.metadata["version"]), "weights_sha256": sha256(path)}
    notes["intended_use"] = str(bundle.metadata.get("intended_use", ""))
    export_onnx(network, output, notes)
