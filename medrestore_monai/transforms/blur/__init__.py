"""Blurs: motion as in MedDeblur, straight and bent; Gaussians; defocus; and blur that varies over the picture.

Images have the shape ``(C, X, Y)`` or ``(C, X, Y, Z)``, in any unit; a volume is blurred slice by slice with the same
kernel. Beyond its border an image goes on as its mirror image, the outermost pixel not repeated ("reflect"). The
result has the image's shape, keeps flat areas flat (but for :class:`PublishedMotionBlur`) and is not shifted. Where a
patch is to look like a part of a blurred slice up to its border, blur the slice first, or crop wider. Lengths are in
pixels; angles in degrees, from the first spatial axis towards the second.
"""

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.defocus import DefocusBlur, RandDefocusBlurd, defocus_blur
from medrestore_monai.transforms.blur.gaussian import (
    AnisotropicGaussianBlur,
    GaussianBlur,
    RandAnisotropicGaussianBlurd,
    RandGaussianBlurd,
    anisotropic_gaussian_blur,
    gaussian_blur,
)
from medrestore_monai.transforms.blur.motion import (
    BentMotionBlur,
    LinearMotionBlur,
    MotionBlur,
    PublishedMotionBlur,
    RandBentMotionBlurd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandPublishedMotionBlurd,
    bent_motion_blur,
    linear_motion_blur,
    motion_blur,
)
from medrestore_monai.transforms.blur.varying import RandVaryingBlurd, VaryingBlur, varying_blur

__all__ = [
    "AnisotropicGaussianBlur",
    "BentMotionBlur",
    "DefocusBlur",
    "GaussianBlur",
    "LinearMotionBlur",
    "MotionBlur",
    "PublishedMotionBlur",
    "RandAnisotropicGaussianBlurd",
    "RandBentMotionBlurd",
    "RandDefocusBlurd",
    "RandGaussianBlurd",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "RandPublishedMotionBlurd",
    "RandVaryingBlurd",
    "VaryingBlur",
    "anisotropic_gaussian_blur",
    "bent_motion_blur",
    "blur",
    "defocus_blur",
    "gaussian_blur",
    "linear_motion_blur",
    "motion_blur",
    "varying_blur",
]
