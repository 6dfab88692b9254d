"""The networks, one paper a file; all map ``(B, C, H, W)`` to the same shape and know tensors only."""

from medrestore_monai.networks.baselines import REDCNN
from medrestore_monai.networks.restore_rwkv import RestoreRWKV

__all__ = ["REDCNN", "RestoreRWKV"]
