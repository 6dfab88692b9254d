"""What number formats a processor is good at."""

import torch
from torch import Tensor


def as_float64(x: Tensor) -> Tensor:
    """Return a tensor in float64: on its device, or on the CPU if its device has no such numbers, as Apple's GPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def multiplies_bfloat16() -> bool:
    """Return whether this CPU is known to have instructions for products in bfloat16."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # PyTorch 2.9
    return bool(known.get("avx512_bf16", False))
