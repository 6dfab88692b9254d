"""Bi-WKV, its reference and its forms: PyTorch on any device, a C kernel for CPUs, Triton kernels for CUDA.

``forms`` is what networks call, with the reference and the choice of a form; ``check`` compares a kernel with PyTorch
before it is used.
"""

from medrestore_monai.ops.biwkv.forms import BACKENDS, biwkv, biwkv2d, biwkv_reference, choose_backend, flaw, re_wkv

__all__ = ["BACKENDS", "biwkv", "biwkv2d", "biwkv_reference", "choose_backend", "flaw", "re_wkv"]
