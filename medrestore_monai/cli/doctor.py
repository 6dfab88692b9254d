"""What this installation can do, in lines that answer the questions of a bug report."""

import importlib.metadata
import importlib.util
import os
import platform
import warnings
from typing import TYPE_CHECKING

from PIL import features

from medrestore_monai.memory import available_bytes

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pydicom", "nibabel", "pillow", "tifffile", "scikit-image")
DECODERS = {
    "JPEG lossless, JPEG-LS": ("gdcm",),
}


def examine() -> list[tuple[str, str]]:
    """Return pairs of a subject and its state; nothing in them is about a patient or the computer network."""
    import torch

    from medrestore_monai.bundles import list_bundles
    from medrestore_monai.bundles.onnx import missing_packages
    from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

    lines = [("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    lines += [(name, _version(name)) for name in PACKAGES]
    free = available_bytes("cpu")
    memory = "free memory unknown" if free is None else f"{free / 2**30:.1f} GiB free"
    lines.append(("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used, {memory}"))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(("CUDA", ", ".join(devices) or "no device; everything runs on the CPU"))
    lines += [(f"Bi-WKV on CUDA device {i}", _cuda_kernel(torch.device("cuda", i))) for i in range(len(devices))]
    kernel = f"compiled C kernel, {biwkv_cpu.instruction_set()}"
    reason = biwkv_cpu.unavailable_reason()
    lines.append(("Bi-WKV on the CPU", f"pure PyTorch: {reason}" if reason else kernel))
    missing = missing_packages()
    onnx = f"missing {', '.join(missing)}" if missing else f"onnxruntime {_version('onnxruntime')}"
    lines.append(("ONNX backend", onnx))
    decoder = "decoder of Pillow" if features.check("jpg_2000") else "no decoder; such files are refused"
    lines.append(("DICOM JPEG 2000", decoder))
    for name, modules in DECODERS.items():
        there = all(importlib.util.find_spec(module) for module in modules)
        lines.append((f"DICOM {name}", "decoder installed" if there else "no decoder; such files are refused"))
    found = ", ".join(bundle.name for bundle in list_bundles())
    lines.append(("bundles", found or "none found"))
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
