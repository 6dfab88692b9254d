"""Which classical methods there are, what they are compared for, and how one is called as a network is."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.classical.deconvolution import richardson_lucy, unsupervised_wiener, wiener
from medrestore_monai.classical.filters import (
    anscombe_non_local_means,
    apodization,
    bicubic,
    bilateral,
    bm3d,
    gaussian,
    median,
    non_local_means,
    pocs_total_variation,
    total_variation,
    unsharp_masking,
)
from medrestore_monai.classical.filters_3d import gaussian_3d, non_local_means_3d, total_variation_3d

# they see whole volumes (C, X, Y, Z)
VOLUME_METHODS = (gaussian_3d, total_variation_3d, non_local_means_3d)

METHODS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        gaussian,
        unsharp_masking,
        bicubic,
        total_variation,
        non_local_means,
        median,
        bilateral,
        anscombe_non_local_means,
        apodization,
        pocs_total_variation,
        bm3d,
        wiener,
        unsupervised_wiener,
        richardson_lucy,
        *VOLUME_METHODS,
    )
}

# Which methods a task is compared with, and their parameters where nothing was tuned. Those for denoising are the best
# for quarter-dose CT on the training data of the CT bundle; the others are only usual values.
BASELINES: dict[str, dict[str, dict[str, float]]] = {
    "denoising": {
        "gaussian": {"sigma": 0.6},
        "total_variation": {"weight": 0.01},
        "non_local_means": {"h": 0.01},
        "gaussian_3d": {"sigma_mm": 0.4},
        "total_variation_3d": {"weight": 0.01},
        "non_local_means_3d": {"h": 0.01},
    },
    "deblurring": {
        "unsharp_masking": {"sigma": 2.0, "amount": 1.0},
        "wiener": {"sigma": 2.0, "balance": 0.01},
        "unsupervised_wiener": {"sigma": 2.0},
        "richardson_lucy": {"sigma": 2.0, "iterations": 10},
    },
    "super-resolution": {
        "bicubic": {"factor": 4.0},
        "unsharp_masking": {"sigma": 2.0, "amount": 0.3},
        "total_variation": {"weight": 0.01},
        "apodization": {"fraction": 0.25, "taper": 0.25},
        "pocs_total_variation": {"fraction": 0.25, "weight": 0.01},
    },
    "synthesis": {
        "gaussian": {"sigma": 1.0},
        "total_variation": {"weight": 0.01},
        "non_local_means": {"h": 0.01},
        "median": {"radius": 1.0},
        "bilateral": {"sigma": 1.0, "spread": 0.03},
        "anscombe_non_local_means": {"gain": 0.001, "h": 1.0},
        "gaussian_3d": {"sigma_mm": 3.0},
        "total_variation_3d": {"weight": 0.01},
        "non_local_means_3d": {"h": 0.01},
    },
}

# Values among which tuning chooses first, before it looks between the best and its neighbors.
GRIDS: dict[str, tuple[float, ...]] = {
    "sigma": (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6),
    "sigma_mm": (0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
    "amount": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
    "weight": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "h": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "noise": (0.001, 0.003, 0.01, 0.03, 0.1),
    "balance": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "iterations": (2, 5, 10, 20, 40),
    "gain": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "factor": (1.0, 1.5, 2.0, 3.0, 4.0),
    "radius": (1.0, 1.5, 2.0, 3.0, 4.0),
    "spread": (0.003, 0.01, 0.03, 0.1, 0.3),
    "taper": (0.0625, 0.125, 0.25, 0.5, 1.0),
}

# Parameters that undo blur: the noisier an image, the less of it. All others smooth, and rise with the noise.
FALLING = ("amount", "iterations")

# Parameters that are known from how an image was taken, and the setting of ``evaluate.json`` that holds them.
KNOWN: dict[str, str] = {"fraction": "kspace_fraction"}


class Classical:
    """A classical method with its parameters, called as a network is.

    Args:
        method: a name in :data:`METHODS`.
        parameters: its parameters by name, all of them, positive.

    Raises:
        ValueError: for an unknown method, or missing, unknown or bad parameters.
        RuntimeError: the method needs a package that is not installed.
    """

    def __init__(self, method: str, parameters: Mapping[str, float]) -> None:
        expected = parameters_of(method)
        if sorted(parameters) != sorted(expected):
            raise ValueError(f"{method} takes {', '.join(expected)}, got {', '.join(parameters) or 'nothing'}.")
        for name, value in parameters.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name} of {method} must be a number above 0, got {value!r}.")
        if method == "bm3d" and importlib.util.find_spec("bm3d") is None:
            raise RuntimeError("the baseline bm3d needs the package bm3d, which is for non-commercial use only.")
        self.method = method
        self.parameters = dict(parameters)
        arguments = inspect.signature(METHODS[method]).parameters
        self.takes_psf, self.takes_spacing = "psf" in arguments, "spacing" in arguments
        self.needs_neighbors = METHODS[method] in VOLUME_METHODS

    def __call__(
        self, batch: Tensor, psf: np.ndarray | None = None, spacing: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> Tensor:
        """Restore a batch.

        Args:
            batch: slices ``(N, C, X, Y)`` or volumes ``(N, C, X, Y, Z)``, scaled to [0, 1]. Methods that need no
                neighbors take slices alone; for the others a slice is a volume of one.
            psf: the kernel that blurred them, shape ``(KX, KY)``, for methods that can use it.
            spacing: of the voxels in mm, along X, Y and Z, for methods with parameters in mm.

        Returns:
            Same shape, dtype and device.

        Raises:
            ValueError: volumes for a method that takes slices, or another number of axes.
        """
        if batch.ndim not in (4, 5) or (batch.ndim == 5 and not self.needs_neighbors):
            axes = "(N, C, X, Y) or (N, C, X, Y, Z)" if self.needs_neighbors else "(N, C, X, Y)"
            raise ValueError(f"{self.method} takes a batch {axes}, got the shape {tuple(batch.shape)}.")
        known: dict[str, Any] = {"psf": psf} if self.takes_psf else {}
        known |= {"spacing": tuple(spacing)} if self.takes_spacing else {}
        images = batch.detach().cpu().numpy().astype(np.float32 if batch.ndim == 5 else np.float64)
        if self.needs_neighbors and batch.ndim == 4:
            images = images[..., None]
        restored = [METHODS[self.method](image, **self.parameters, **known) for image in images]
        return torch.from_numpy(np.stack(restored).reshape(batch.shape)).to(batch)

    def restore_volume(self, volume: Tensor, spacing: Sequence[float]) -> Tensor:
        """Restore a stack as :class:`~medrestore_monai.inferers.SliceWiseInferer` does one slice after the other.

        Values are clipped to [0, 1] before and after, what was clipped is added back, and slices of one value stay.

        Args:
            volume: shape ``(C, X, Y, Z)``, scaled to [0, 1].
            spacing: of the voxels in mm, along X, Y and Z.

        Returns:
            Same shape.
        """
        clipped = volume.clamp(0, 1)
        restored = self(clipped[None], spacing=spacing)[0].clamp(0, 1) + (volume - clipped)
        constant = (volume == volume[:, :1, :1]).all(dim=2).all(dim=1).all(dim=0)  # (Z,)
        return torch.where(constant, volume, restored)


def parameters_of(method: str) -> list[str]:
    """Return the names of a method's parameters.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"a classical baseline is one of {', '.join(METHODS)}, got {method!r}.")
    return [n for n in inspect.signature(METHODS[method]).parameters if n not in ("image", "volume", "psf", "spacing")]
