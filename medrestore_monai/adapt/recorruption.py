"""Training pairs made of one noisy image, toward an output that keeps a share of its noise.

With ``z`` a fresh draw of the noise ``n`` of ``y = x + n``, the input ``y + alpha z`` and the target ``y - beta z``
have noises whose covariance is ``kept`` times that of the input's noise. For normal noise of any covariance the mean
square error then teaches ``x_hat + kept (input - x_hat)``. ``kept = 0`` is R2R, ``beta = 0`` is Noisier2Noise.

References:
    Pang et al., Recorrupted-to-Recorrupted, CVPR 2021
    Moran et al., Noisier2Noise, https://arxiv.org/abs/1910.11908
"""

from __future__ import annotations

from torch import Tensor

ALPHA = 0.7


def target_weight(alpha: float, kept: float) -> float:
    """Return ``beta = (1 - kept (1 + alpha^2)) / alpha``.

    Raises:
        ValueError: ``alpha`` is not positive, or ``kept`` is not in ``[0, 1 / (1 + alpha^2)]``.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}.")
    most = most_kept(alpha)
    if not 0 <= kept <= most:
        raise ValueError(f"kept must be in 0..{most:.3f} for alpha {alpha}, got {kept}: take a smaller alpha.")
    return (1 - kept * (1 + alpha**2)) / alpha


def most_kept(alpha: float) -> float:
    """Return the largest share that ``alpha`` allows, where the target is the image itself (``beta = 0``)."""
    return 1 / (1 + alpha**2)


def recorrupt(image: Tensor, noise: Tensor, alpha: float = ALPHA, kept: float = 0.0) -> tuple[Tensor, Tensor]:
    """Make an input and a target of one noisy image.

    Args:
        image: noisy image, in the unit in which its noise was measured, any shape.
        noise: a draw of its noise, of the same shape.
        alpha: how much noise is added to the input, above 0.
        kept: share of the input's noise that the output is to keep, in ``[0, 1 / (1 + alpha^2)]``.

    Returns:
        Input and target. The target is never clipped: that would shift its mean.

    Raises:
        ValueError: the shapes differ, or a number is out of range.
    """
    if image.shape != noise.shape:
        raise ValueError(f"image and noise must have one shape, got {tuple(image.shape)} and {tuple(noise.shape)}.")
    return image + alpha * noise, image - target_weight(alpha, kept) * noise


def kept_with_level_error(alpha: float, kept: float, level: float) -> float:
    """Return the share that is taught in truth where noise is drawn with ``level`` times its standard deviation."""
    beta = target_weight(alpha, kept)
    return (1 - alpha * beta * level**2) / (1 + alpha**2 * level**2)
