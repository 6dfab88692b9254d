"""What number formats a processor is good at."""

import torch


def multiplies_bfloat16() -> bool:
    """Return whether this CPU is known to have instructions for products in bfloat16."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # PyTorch 2.9
    return bool(known.get("avx512_bf16", False))
