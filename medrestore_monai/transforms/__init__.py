"""Degradations as MONAI transforms, in physical units, and the physics behind them as functions."""

from medrestore_monai.transforms.ct_low_dose import (
    CTLowDose,
    CTNoiseMapd,
    RandCTLowDosed,
    insert_ct_noise,
)
from medrestore_monai.transforms.ct_noise import CTNoise, ct_noise_map, estimate_ct_noise
from medrestore_monai.transforms.ct_scan import CTScan, scan_ct, simulate_ct_low_dose

__all__ = [
    "CTLowDose",
    "CTNoise",
    "CTNoiseMapd",
    "CTScan",
    "RandCTLowDosed",
    "ct_noise_map",
    "estimate_ct_noise",
    "insert_ct_noise",
    "scan_ct",
    "simulate_ct_low_dose",
]
