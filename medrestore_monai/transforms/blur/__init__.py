"""Blurs: motion as in MedDeblur, straight uniform motion, and Gaussian.

Images have the shape ``(C, X, Y)`` or ``(C, X, Y, Z)``, in any unit; a volume is blurred slice by slice with the same
kernel. Beyond its border an image goes on as its mirror image, the outermost pixel not repeated ("reflect"). The
result has the image's shape, keeps flat areas flat and is not shifted. Where a patch is to look like a part of a
blurred slice up to its border, blur the slice first, or crop wider. Lengths are in pixels; angles in degrees, from the
first spatial axis towards the second.
"""

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.gaussian import GaussianBlur, RandGaussianBlurd, gaussian_blur
from medrestore_monai.transforms.blur.motion import (
    LinearMotionBlur,
    MotionBlur,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    linear_motion_blur,
    motion_blur,
)

__all__ = [
    "GaussianBlur",
    "LinearMotionBlur",
    "MotionBlur",
    "RandGaussianBlurd",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "blur",
    "gaussian_blur",
    "linear_motion_blur",
    "motion_blur",
]
