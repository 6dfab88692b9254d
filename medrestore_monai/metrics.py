"""Scores as the restoration papers report them: per slice, in a window of the physical unit, then averaged.

MONAI's metrics score a volume as one image and know no window; here they get windowed slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import PSNRMetric, RMSEMetric, SSIMMetric
from monai.metrics.regression import RegressionMetric
from monai.utils import MetricReduction
from torch import Tensor

__all__ = ["SliceWiseMetric", "slice_scores"]

_SSIM_WINDOW = 11


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
        if window is not None and not (len(window) == 2 and window[0] < window[1]):
            raise ValueError(f"window must be (lower, upper) with lower < upper or None, got {window}.")
        self.metric = metric
        self.window = None if window is None else (float(window[0]), float(window[1]))
        self.per_volume = per_volume

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Values of shape ``(N, 1)`` for images ``(B, C, X, Y)`` or volumes ``(B, C, X, Y, Z)``."""
        if y_pred.ndim not in (4, 5):
            raise ValueError(f"Expected images (B, C, X, Y) or volumes (B, C, X, Y, Z), got {tuple(y_pred.shape)}.")
        slices = []
        for name, image in (("prediction", y_pred), ("label", y)):
            values = image.as_subclass(Tensor).float()
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"The {name} to score has NaN or infinite values.")
            values = values if self.window is None else values.clamp(*self.window)
            slices.append(values if values.ndim == 4 else values.movedim(-1, 1).flatten(0, 1))
        scores: Tensor = self.metric._compute_tensor(*slices)
        return scores.reshape(len(y), -1).mean(dim=1, keepdim=True) if self.per_volume else scores


def slice_scores(y_pred: Tensor, y: Tensor, window: Sequence[float]) -> dict[str, Tensor]:
    """PSNR, SSIM and RMSE of every slice, inside a window.

    The data range of PSNR and SSIM is the width of the window. SSIM has an 11x11 Gaussian window of sigma 1.5,
    population covariance, and leaves out a border of 5 pixels, as scikit-image's ``structural_similarity`` with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. RMSE is in the unit of the images.

    Args:
        y_pred: restored, shape ``(B, C, X, Y)`` or ``(B, C, X, Y, Z)``.
        y: reference, same shape and unit.
        window: lower and upper end, such as -160 and 240 HU.

    Returns:
        ``psnr``, ``ssim`` and ``rmse``, each one value per slice, shape ``(N,)``, volume after volume. Equal slices
        have an infinite PSNR.

    Raises:
        ValueError: if the shapes differ, slices are smaller than 11x11, or a value is NaN or infinite.
    """
    if min(y.shape[2:4], default=0) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs slices of at least {_SSIM_WINDOW}x{_SSIM_WINDOW}, got {tuple(y.shape[2:4])}.")
    width = float(window[1]) - float(window[0])
    metrics = {
        "psnr": PSNRMetric(max_val=width),
        "ssim": SSIMMetric(spatial_dims=2, data_range=width, win_size=_SSIM_WINDOW, kernel_sigma=1.5),
        "rmse": RMSEMetric(),
    }
    return {name: SliceWiseMetric(metric, window)._compute_tensor(y_pred, y)[:, 0] for name, metric in metrics.items()}
