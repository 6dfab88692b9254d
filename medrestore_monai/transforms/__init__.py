"""Degradations as MONAI transforms, in physical units, and the physics behind them as functions."""

from medrestore_monai.transforms.anchored import AnchoredDegradationd
from medrestore_monai.transforms.blur import (
    AnisotropicGaussianBlur,
    BentMotionBlur,
    DefocusBlur,
    GaussianBlur,
    LinearMotionBlur,
    MotionBlur,
    PublishedMotionBlur,
    RandAnisotropicGaussianBlurd,
    RandBentMotionBlurd,
    RandDefocusBlurd,
    RandGaussianBlurd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandPublishedMotionBlurd,
    RandVaryingBlurd,
    VaryingBlur,
    anisotropic_gaussian_blur,
    bent_motion_blur,
    defocus_blur,
    gaussian_blur,
    linear_motion_blur,
    motion_blur,
    varying_blur,
)
from medrestore_monai.transforms.color import OriginalChannelsd, PictureModalityd, ThreeChannelsd
from medrestore_monai.transforms.ct.low_dose import (
    CTLowDose,
    RandCTLowDosed,
    insert_ct_noise,
)
from medrestore_monai.transforms.ct.mean import MeanHUd, body_mean_shift
from medrestore_monai.transforms.ct.noise import CTNoise, ct_noise_map, estimate_ct_noise
from medrestore_monai.transforms.ct.noise_measure import CTNoiseMapd
from medrestore_monai.transforms.ct.scan import CTScan, scan_ct, simulate_ct_low_dose
from medrestore_monai.transforms.ct.simulate import SimulateCTLowDosed
from medrestore_monai.transforms.fixed import FixedDegradationd
from medrestore_monai.transforms.gamma import Gamma, RandGammad, apply_gamma
from medrestore_monai.transforms.jpeg import JPEG, RandJPEGd, compress_jpeg
from medrestore_monai.transforms.mri_kspace import (
    KSpaceConsistencyd,
    KSpaceTruncationd,
    RandKSpaceTruncationd,
    RandMRAcquisitiond,
    acquire_kspace,
    keep_measured_kspace,
    smooth_phase,
    truncate_kspace,
)
from medrestore_monai.transforms.of_modality import OfModalityd
from medrestore_monai.transforms.outside import KeepOutsided, NoteOutsided
from medrestore_monai.transforms.pet.activity import KeepTotalActivityd, ToSUVd, keep_total_activity
from medrestore_monai.transforms.pet.low_count import PETLowCount, PETNoiseMapd, RandPETLowCountd, insert_pet_noise
from medrestore_monai.transforms.pet.noise import pet_noise_map
from medrestore_monai.transforms.pet.scan import PETScan, scan_pet, simulate_pet_low_count
from medrestore_monai.transforms.pet.simulate import SimulatePETLowCountd
from medrestore_monai.transforms.resolution import DownSampling, RandDownSamplingd, down_sample
from medrestore_monai.transforms.sensor_noise import RandSensorNoised, SensorNoise, add_sensor_noise
from medrestore_monai.transforms.slabs import ContextChannelsd, HaloCropd, RandSlabCropd

__all__ = [
    "AnchoredDegradationd",
    "AnisotropicGaussianBlur",
    "BentMotionBlur",
    "acquire_kspace",
    "CTLowDose",
    "CTNoise",
    "CTNoiseMapd",
    "CTScan",
    "ContextChannelsd",
    "DefocusBlur",
    "DownSampling",
    "FixedDegradationd",
    "Gamma",
    "GaussianBlur",
    "HaloCropd",
    "JPEG",
    "KSpaceConsistencyd",
    "KSpaceTruncationd",
    "KeepOutsided",
    "KeepTotalActivityd",
    "LinearMotionBlur",
    "MeanHUd",
    "NoteOutsided",
    "MotionBlur",
    "PublishedMotionBlur",
    "OfModalityd",
    "OriginalChannelsd",
    "PETLowCount",
    "PETNoiseMapd",
    "PETScan",
    "PictureModalityd",
    "RandAnisotropicGaussianBlurd",
    "RandBentMotionBlurd",
    "RandCTLowDosed",
    "RandDefocusBlurd",
    "RandDownSamplingd",
    "RandGammad",
    "RandGaussianBlurd",
    "RandJPEGd",
    "RandKSpaceTruncationd",
    "RandMRAcquisitiond",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "RandPublishedMotionBlurd",
    "RandPETLowCountd",
    "RandSensorNoised",
    "RandSlabCropd",
    "RandVaryingBlurd",
    "SensorNoise",
    "SimulateCTLowDosed",
    "SimulatePETLowCountd",
    "ThreeChannelsd",
    "ToSUVd",
    "VaryingBlur",
    "add_sensor_noise",
    "anisotropic_gaussian_blur",
    "apply_gamma",
    "bent_motion_blur",
    "body_mean_shift",
    "compress_jpeg",
    "ct_noise_map",
    "defocus_blur",
    "down_sample",
    "estimate_ct_noise",
    "gaussian_blur",
    "insert_ct_noise",
    "insert_pet_noise",
    "keep_measured_kspace",
    "smooth_phase",
    "keep_total_activity",
    "linear_motion_blur",
    "motion_blur",
    "pet_noise_map",
    "scan_ct",
    "scan_pet",
    "simulate_ct_low_dose",
    "simulate_pet_low_count",
    "truncate_kspace",
    "varying_blur",
]
