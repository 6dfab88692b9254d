"""Bi-WKV on feature planes ``(B, C, H, W)`` as one operator, for what captures a network: exporters and compilers.

``torch.ops.medrestore.re_wkv_planes`` stands for all scans of one spatial mix. In a captured program it is a single
node of known shape, whatever the size of the image; run by PyTorch it is :func:`medrestore_monai.ops.re_wkv`, and
:mod:`medrestore_monai.ops.re_wkv_onnx` writes it in operators of ONNX. Inference only.
"""

import torch
from torch import Tensor

from medrestore_monai.ops.biwkv import re_wkv


@torch.library.custom_op("medrestore::re_wkv_planes", mutates_args=())
def _re_wkv_planes(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens = k.shape[2] * k.shape[3]
    keys, values = (x.permute(0, 2, 3, 1).contiguous() for x in (k, v))
    return re_wkv(decay / tokens, bonus / tokens, keys, values).permute(0, 3, 1, 2).contiguous()


@_re_wkv_planes.register_fake
def _(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def re_wkv_planes(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scan images by Bi-WKV along rows, then along columns, and so on; each result is the value of the next scan.

    Args:
        decay: decay over the whole image, of each scan and channel, shape ``(R, C)``, float32.
        bonus: bonus of a pixel to itself, scaled as ``decay``, shape ``(R, C)``, float32.
        k: finite keys, shape ``(B, C, H, W)``.
        v: values, shape ``(B, C, H, W)``.

    Returns:
        Mixed values, shape ``(B, C, H, W)``.
    """
    return _re_wkv_planes(decay, bonus, k, v)
