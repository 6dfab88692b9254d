"""Restore-RWKV and its variant with routing; each has a form on feature planes, which exporters take."""

from medrestore_monai.networks.restore_rwkv.network import RestoreRWKV
from medrestore_monai.networks.restore_rwkv.routing_network import RestoreRWKVRouting

__all__ = ["RestoreRWKV", "RestoreRWKVRouting"]
