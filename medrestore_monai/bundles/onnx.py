"""Networks as ONNX files: written by PyTorch's exporter, run by onnxruntime on the CPU.

Needs the optional packages onnx, onnxscript (to write) and onnxruntime (to run): ``pip install
"medrestore-monai[onnx]"``.
"""

import hashlib
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn

from medrestore_monai import __version__
from medrestore_monai.files import atomic_file

if TYPE_CHECKING:
    import onnx

OPSET = 20
INPUT, OUTPUT = "image", "pred"
_EXAMPLE = (41, 70)  # sides that no layer has by chance
_FREE = {0: "batch", 2: "height", 3: "width"}
TO_WRITE, TO_RUN = ("onnx", "onnxscript"), ("onnxruntime",)


def missing_packages(packages: tuple[str, ...] = TO_WRITE + TO_RUN) -> list[str]:
    """Return those of ``packages`` that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def export_onnx(network: nn.Module, path: str | os.PathLike[str], notes: dict[str, str] | None = None) -> None:
    """Write a network as one ONNX file for images of any size and number.

    Args:
        network: offers ``exportable()``; merged, it gives the smaller file.
        path: the file to write; it appears when it is complete.
        notes: metadata of the file, by name.

    Raises:
        ValueError: the network cannot be exported.
        RuntimeError: a package is missing.
        OSError: the file cannot be written.
    """
    require_packages(TO_WRITE)
    if not hasattr(network, "exportable"):
        raise ValueError(f"{type(network).__name__} does not offer an exportable form.")
    model = _in_parts(network) if hasattr(network, "exportable_parts") else _in_one_piece(network)
    for key, value in {"medrestore_monai": __version__, **(notes or {})}.items():
        model.metadata_props.add(key=key, value=value)
    with atomic_file(Path(path)) as file:
        file.write(model.SerializeToString())


def _in_one_piece(network: Any) -> "onnx.ModelProto":
    example = torch.zeros(2, network.in_channels, *_EXAMPLE)
    return _captured(network.exportable(), {INPUT: example}, OUTPUT, [_FREE])


def _in_parts(network: Any) -> "onnx.ModelProto":
    """Capture what pads, the network, and what adds its change to the image each alone, and join them."""
    from onnx import compose

    pad, change, add = network.exportable_parts()
    multiple = network.multiple
    image = torch.zeros(2, network.in_channels, *_EXAMPLE)
    padded = torch.zeros(2, network.in_channels, 3 * multiple, 5 * multiple)
    sides = {axis: multiple * torch.export.Dim(name) for axis, name in ((2, "rows"), (3, "columns"))}
    programs = {
        "pad": _captured(pad, {INPUT: image}, "padded", [_FREE]),
        "change": _captured(change, {"padded": padded}, "change", [{0: torch.export.Dim("batch"), **sides}]),
        "add": _captured(add, {INPUT: image, "change": padded}, OUTPUT, [_FREE, {0: "batch", 2: "rows", 3: "columns"}]),
    }
    named = {name: compose.add_prefix(program, f"{name}/") for name, program in programs.items()}
    joined = compose.merge_models(named["pad"], named["change"], io_map=[("pad/padded", "change/padded")])
    joined = compose.merge_models(joined, named["add"], io_map=[("change/change", "add/change")])
    final = {f"pad/{INPUT}": INPUT, f"add/{INPUT}": INPUT, f"add/{OUTPUT}": OUTPUT}
    graph = joined.graph
    for node in graph.node:
        node.input[:] = [final.get(name, name) for name in node.input]
        node.output[:] = [final.get(name, name) for name in node.output]
    del graph.input[1]  # the image, again
    graph.input[0].name, graph.output[0].name = INPUT, OUTPUT
    return joined


def _captured(module: nn.Module, inputs: dict[str, Tensor], output: str, sizes: list[dict]) -> "onnx.ModelProto":
    from medrestore_monai.ops.re_wkv_onnx import translations

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that are not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(sizes),
            custom_translation_table=translations(),
            optimize=False,  # onnxruntime does it when it loads the file, and far sooner
            verbose=False,
        )
    if program is None:
        raise RuntimeError("PyTorch's exporter gave no program.")
    for node in program.model.graph:
        node.metadata_props.clear()  # traces through this machine's files
    return program.model_proto


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a network, run by onnxruntime on the CPU with PyTorch's number of threads.

    Args:
        path: a file as :func:`export_onnx` writes it.

    Raises:
        RuntimeError: onnxruntime is missing, or does not take the file.
    """

    own_threads = True  # calls at once would share them

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        require_packages(TO_RUN)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise RuntimeError(f"onnxruntime cannot load {path}: {' '.join(str(error).split())[:200]}") from error

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch of images scaled to [0, 1], shape ``(B, C, H, W)``, on the CPU."""
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: x.float().contiguous().numpy()})[0])


def cached_onnx(network: nn.Module, weights_sha256: str) -> Path:
    """Return the ONNX file of a network, exported once for these weights and versions.

    Args:
        network: see :func:`export_onnx`.
        weights_sha256: SHA-256 of its weight file.

    Raises:
        ValueError, RuntimeError, OSError: see :func:`export_onnx`.
    """
    folder = cache_folder()
    kind = type(network).__name__
    path = folder / f"{kind}-{weights_sha256[:32]}-{_settings_of(network)}-{__version__}-torch{torch.__version__}.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        Console(stderr=True).print("Exporting the network to ONNX, once: a minute or two.")
        export_onnx(network, path, {"weights_sha256": weights_sha256})
    return path


def _settings_of(network: nn.Module) -> str:
    """Return a hash of what a network does beside its weights: its modules and their plain attributes."""
    plain = (bool, int, float, str, tuple, list, type(None))
    modules = [
        (name, type(module).__qualname__, sorted((k, repr(v)) for k, v in vars(module).items() if isinstance(v, plain)))
        for name, module in network.named_modules()
    ]
    return hashlib.sha256(repr(modules).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return where exported files are kept: ``MEDRESTORE_CACHE`` in the environment, or the user's cache folder."""
    if named := os.environ.get("MEDRESTORE_CACHE"):
        return Path(named)
    home = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / home) / "medrestore"


def require_packages(packages: tuple[str, ...] = TO_WRITE + TO_RUN) -> None:
    """Raise :class:`RuntimeError` where one of ``packages`` is not installed."""
    if missing := missing_packages(packages):
        raise RuntimeError(
            f'the ONNX backend needs {" and ".join(missing)}, not installed here: pip install "medrestore-monai[onnx]".'
        )
