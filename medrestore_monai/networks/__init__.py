"""The networks, one paper a file; all map ``(B, C, H, W)`` to the same shape and know tensors only."""

from medrestore_monai.networks.aff_unet_rwkv import AFFUNetRWKV
from medrestore_monai.networks.baselines import REDCNN, DeblurGANDiscriminator, DeblurGANGenerator, Residual, SRNDeblur
from medrestore_monai.networks.meddeblur import AllScales, MedDeblur
from medrestore_monai.networks.mlff_unet import MLFFUNet
from medrestore_monai.networks.restore_rwkv import RestoreRWKV, RestoreRWKVRouting

__all__ = [
    "AFFUNetRWKV",
    "AllScales",
    "DeblurGANDiscriminator",
    "DeblurGANGenerator",
    "MLFFUNet",
    "MedDeblur",
    "REDCNN",
    "Residual",
    "RestoreRWKV",
    "RestoreRWKVRouting",
    "SRNDeblur",
]
