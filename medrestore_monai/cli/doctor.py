"""What this installation can do, in lines that answer the questions of a bug report."""

import importlib.metadata
import importlib.util
import os
import platform
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import features

from medrestore_monai.memory import available_bytes

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pydicom", "nibabel", "pillow", "tifffile", "scikit-image")
_APPLE = {"device": "mps", "name": "device mps, float32; not tested on one", "biwkv": "pure PyTorch"}
DECODERS = {
    "JPEG lossless, JPEG-LS": ("gdcm",),
}


def examine() -> dict[str, Any]:
    """Return what there is; nothing in it is about a patient or the computer network."""
    import torch

    from medrestore_monai.bundles import list_bundles
    from medrestore_monai.bundles.onnx import missing_packages
    from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    there = biwkv_cpu.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "free_bytes": available_bytes("cpu"),
            "biwkv": f"compiled C kernel, {biwkv_cpu.instruction_set()}"
            if there
            else f"pure PyTorch: {biwkv_cpu.unavailable_reason()}",
        },
        "devices": [
            *(
                {"device": str(one), "name": torch.cuda.get_device_name(one), "biwkv": _cuda_kernel(one)}
                for one in gpus
            ),
            *([_APPLE] if torch.backends.mps.is_available() else []),
        ],
        "onnx": {"missing": missing_packages(), "onnxruntime": _version("onnxruntime")},
        "decoders": {
            "JPEG 2000": features.check("jpg_2000"),
            **{name: all(map(importlib.util.find_spec, modules)) for name, modules in DECODERS.items()},
        },
        "bundles": [bundle.name for bundle in list_bundles()],
    }


def describe(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of a subject and its state, of what :func:`examine` found."""
    cpu, devices, onnx = found["cpu"], found["devices"], found["onnx"]
    lines = [("Python", f"{found['python']} on {found['platform']}")]
    lines += [(name, version or "missing") for name, version in found["packages"].items()]
    free = cpu["free_bytes"]
    memory = "free memory unknown" if free is None else f"{free / 2**30:.1f} GiB free"
    lines.append(("CPU", f"{cpu['cores']} cores, {cpu['threads']} threads used, {memory}"))
    names = ", ".join(one["name"] for one in devices if one["device"] != "mps")
    lines.append(("CUDA", names or "no device"))
    lines.append(("Apple's GPU", _APPLE["name"] if _APPLE in devices else "no device"))
    lines += [(f"Bi-WKV on {one['device']}", one["biwkv"]) for one in devices]
    lines.append(("Bi-WKV on the CPU", cpu["biwkv"]))
    missing = ", ".join(onnx["missing"])
    lines.append(("ONNX backend", f"missing {missing}" if missing else f"onnxruntime {onnx['onnxruntime']}"))
    for name, there in found["decoders"].items():
        lines.append((f"DICOM {name}", "decoder installed" if there else "no decoder; such files are refused"))
    lines.append(("bundles", ", ".join(found["bundles"]) or "none found"))
    return lines


def _cuda_kernel(device: "torch.device") -> str:
    """What computes Bi-WKV on a device, and why; where that is a kernel, it has just been compared."""
    import torch

    from medrestore_monai.ops.biwkv import flaw
    from medrestore_monai.ops.biwkv import triton_form as biwkv_triton

    keys = torch.zeros(1, 1, 1, 1, device=device)
    reason = biwkv_triton.refusal(keys)
    if reason:
        return f"pure PyTorch: {reason}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reported in this line
        reason = flaw("triton", device)
    if reason:
        return f"pure PyTorch: the Triton kernel does not agree with it here, {reason}"
    return "Triton kernel, which agrees with PyTorch on a small image here"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
