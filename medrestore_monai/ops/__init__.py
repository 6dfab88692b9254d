"""Tensor operators PyTorch lacks; each stands beside a reference that reads like its formula."""

from medrestore_monai.ops.biwkv import biwkv, biwkv2d, biwkv_reference, re_wkv

__all__ = ["biwkv", "biwkv2d", "biwkv_reference", "re_wkv"]
