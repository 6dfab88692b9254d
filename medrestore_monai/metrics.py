"""Scores as the restoration papers report them: per slice, in a window of the physical unit, then averaged.

MONAI's metrics score a volume as one image and know no window; here they get windowed slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.regression import RegressionMetric
from monai.utils import MetricReduction
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SliceWiseMetric", "body_mask", "delta_e", "slice_scores", "ssim_map"]

_SSIM_WINDOW = 11
_SSIM_BORDER = _SSIM_WINDOW // 2
_BODY_HU = -300.0


class SliceWiseMetric(RegressionMetric):
    """Score slices inside a window with a MONAI metric, such as ``PSNRMetric(max_val=400)`` for CT in [-160, 240] HU.

    Attach it to an engine through MONAI's ``IgniteMetricHandler(metric_fn=...)``.

    Args:
        metric: a 2D metric that gives one value per image; its data range is that of the window.
        window: both images are clipped to it first, in their own unit; ``None`` for no clipping.
        per_volume: give one value per volume, the mean over its slices, where else each slice counts once. MONAI's
            ``MetricsSaver`` needs one value per image for its details.
        reduction: how ``aggregate`` reduces, see MONAI's metrics.

    Raises:
        ValueError: for an empty window; on a call, if the shapes differ or a value is NaN or infinite, which MONAI
            would leave out of the mean.
    """

    def __init__(
        self,
        metric: RegressionMetric,
        window: Sequence[float] | None = None,
        per_volume: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__(reduction=reduction)
        self.metric = metric
        self.window = None if window is None else _checked_window(window)
        self.per_volume = per_volume

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Values of shape ``(N, 1)`` for images ``(B, C, X, Y)`` or volumes ``(B, C, X, Y, Z)``."""
        slices = (_slices(image.float(), self.window) for image in _checked_pair(y_pred, y))
        scores: Tensor = self.metric._compute_tensor(*slices)
        return scores.reshape(len(y), -1).mean(dim=1, keepdim=True) if self.per_volume else scores


def slice_scores(
    y_pred: Tensor,
    y: Tensor,
    window: Sequence[float],
    data_range: str = "window",
    count_border: bool = False,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """PSNR, SSIM and RMSE of every slice, inside a window, computed in float64.

    SSIM has an 11x11 Gaussian window of sigma 1.5 and population covariance. Without its border of 5 pixels it is that
    of scikit-image's ``structural_similarity`` with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.
    RMSE is in the unit of the images.

    Args:
        y_pred: restored, shape ``(B, C, X, Y)`` or ``(B, C, X, Y, Z)``.
        y: reference, same shape and unit.
        window: lower and upper end, such as -160 and 240 HU.
        data_range: of PSNR and SSIM: ``window`` for the window's width, ``label`` for the largest minus the smallest
            value of each slice of ``y`` inside the window, as in the public code of Restore-RWKV.
        count_border: let the border count in SSIM, with zeros (in the images' unit) around, as that code does.
        mask: pixels that count, boolean, the shape of ``y`` or with one channel; all by default. The windows of SSIM
            around them may reach out of it.

    Returns:
        ``psnr``, ``ssim`` and ``rmse``, each one float64 value per slice, shape ``(N,)``, volume after volume. Equal
        slices have an infinite PSNR. A slice without a pixel in the mask has NaN.

    Raises:
        ValueError: if the shapes differ, slices are smaller than 11x11 (where the border does not count), a value is
            NaN or infinite, or a slice to score against its own range is constant.
    """
    if data_range not in ("window", "label"):
        raise ValueError(f"data_range must be 'window' or 'label', got {data_range!r}.")
    pair = _checked_pair(y_pred, y)
    if not count_border and min(y.shape[2:4]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs slices of at least {_SSIM_WINDOW}x{_SSIM_WINDOW}, got {tuple(y.shape[2:4])}.")
    limits = _checked_window(window)
    pred, label = (_slices(image.double(), limits) for image in pair)
    counts = torch.ones_like(label) if mask is None else _slices(mask.expand_as(y).double())
    width = label.new_full((len(label), 1, 1, 1), limits[1] - limits[0])
    if data_range == "label":
        width = label.amax(dim=(1, 2, 3), keepdim=True) - label.amin(dim=(1, 2, 3), keepdim=True)
        if bool((width == 0).any()):
            raise ValueError("a slice of the reference is constant inside the window: it has no data range.")
    mse = _mean_over((pred - label) ** 2, counts)
    similar = ssim_map(pred, label, width, count_border)
    inner = counts if count_border else counts[..., _SSIM_BORDER:-_SSIM_BORDER, _SSIM_BORDER:-_SSIM_BORDER]
    psnr = 10 * torch.log10(width.flatten() ** 2 / mse)
    return {"psnr": psnr, "ssim": _mean_over(similar, inner), "rmse": mse.sqrt()}


def ssim_map(y_pred: Tensor, y: Tensor, data_range: Tensor | float, count_border: bool = False) -> Tensor:
    """Structural similarity around every pixel: Gaussian window of 11x11, sigma 1.5; MONAI's knows float32 only.

    Args:
        y_pred: slices, shape ``(N, C, X, Y)``, float64 for sums of squares that do not cancel.
        y: reference, same shape.
        data_range: a number, or one per slice of shape ``(N, 1, 1, 1)``.
        count_border: pad with zeros, and return the whole slice.

    Returns:
        Shape ``(N, C, X - 10, Y - 10)``, or ``(N, C, X, Y)`` with the border.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004
    """
    offsets = torch.arange(-_SSIM_BORDER, _SSIM_BORDER + 1, dtype=y.dtype, device=y.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    padding = _SSIM_BORDER if count_border else 0

    def mean(image: Tensor) -> Tensor:
        planes = image.flatten(0, 1)[:, None]
        planes = F.conv2d(planes, weights[None, None, :, None], padding=(padding, 0))
        planes = F.conv2d(planes, weights[None, None, None, :], padding=(0, padding))
        return planes.unflatten(0, image.shape[:2])[:, :, 0]

    mean_x, mean_y = mean(y_pred), mean(y)
    var_x, var_y = mean(y_pred**2) - mean_x**2, mean(y**2) - mean_y**2
    covariance = mean(y_pred * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def delta_e(y_pred: Tensor, y: Tensor) -> Tensor:
    """Mean color difference CIEDE2000 of every picture, with scikit-image: about 1 is just noticeable.

    Args:
        y_pred: restored pictures, shape ``(B, 3, X, Y)`` (sRGB) or ``(B, 1, X, Y)`` (gray), 0 to 1, clipped to it.
        y: reference, same shape.

    Returns:
        Shape ``(B,)``, float64.

    Raises:
        ValueError: for another shape, or NaN or infinite values.
    """
    pair = _checked_pair(y_pred, y)
    if y.ndim != 4 or y.shape[1] not in (1, 3):
        raise ValueError(f"DeltaE needs pictures (B, 3, X, Y) or (B, 1, X, Y), got {tuple(y.shape)}.")
    rgb = (image.double().clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1).cpu().numpy() for image in pair)
    difference = deltaE_ciede2000(*(rgb2lab(image) for image in rgb))
    return torch.from_numpy(difference.mean(axis=(1, 2)))


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Mark the body in a CT slice: air around it and the table are out, air inside it is in.

    Pixels over -300 HU, opened by a disk of radius 2, of which pieces of at least a tenth of the largest one (arms,
    two legs) counts and is filled.

    Args:
        hu: a reference slice in HU, shape ``(X, Y)``.

    Returns:
        Boolean, shape ``(X, Y)``; nowhere true in a slice of air.
    """
    x, y = np.ogrid[-2:3, -2:3]
    solid = ndimage.binary_opening(hu > _BODY_HU, structure=x**2 + y**2 <= 4)
    pieces, count = ndimage.label(solid)
    if count == 0:
        return solid
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    filled: np.ndarray = ndimage.binary_fill_holes((sizes >= sizes.max() / 10)[pieces])
    return filled


def _checked_window(window: Sequence[float]) -> tuple[float, float]:
    if not (len(window) == 2 and window[0] < window[1]):
        raise ValueError(f"window must be (lower, upper) with lower < upper or None, got {window}.")
    return float(window[0]), float(window[1])


def _checked_pair(y_pred: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as plain tensors, of one shape and finite."""
    if y_pred.ndim not in (4, 5):
        raise ValueError(f"Expected images (B, C, X, Y) or volumes (B, C, X, Y, Z), got {tuple(y_pred.shape)}.")
    if y_pred.shape != y.shape:
        raise ValueError(f"prediction and label differ in shape: {tuple(y_pred.shape)} and {tuple(y.shape)}.")
    for name, image in (("prediction", y_pred), ("label", y)):
        if not bool(torch.isfinite(image.as_subclass(Tensor)).all()):
            raise ValueError(f"The {name} to score has NaN or infinite values.")
    return y_pred.as_subclass(Tensor), y.as_subclass(Tensor)


def _slices(image: Tensor, window: tuple[float, float] | None = None) -> Tensor:
    """Clip, and turn volumes into slices: shape ``(N, C, X, Y)``."""
    values = image if window is None else image.clamp(*window)
    return values if values.ndim == 4 else values.movedim(-1, 1).flatten(0, 1)


def _mean_over(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of ``values`` ``(N, C, X, Y)`` where ``counts`` is 1: shape ``(N,)``, NaN where it nowhere is."""
    return (values * counts).sum(dim=(1, 2, 3)) / counts.sum(dim=(1, 2, 3))
