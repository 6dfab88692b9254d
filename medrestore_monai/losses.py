"""Losses of the restoration papers that MONAI and PyTorch lack, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.losses import PerceptualLoss, SSIMLoss
from torch import Tensor, nn

__all__ = [
    "AllScalesLoss",
    "BalancedLoss",
    "CharbonnierLoss",
    "FrequencyReconstructionLoss",
    "RestorationLoss",
    "WassersteinDiscriminatorLoss",
    "WassersteinGeneratorLoss",
    "WindowedLoss",
    "charbonnier",
    "frequency_distance",
    "gradient_penalty",
    "perceptual_loss",
]

_SSIM_WINDOW = 11
# the files that torchvision keeps for the networks of LPIPS
_PERCEPTUAL_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}


def charbonnier(pred: Tensor, label: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of ``sqrt((pred - label)^2 + eps^2)``: the L1 distance, rounded off near zero.

    Args:
        pred: restored images, any shape.
        label: clean images, same shape.
        eps: where the rounding begins, in the unit of the images.

    Returns:
        A scalar, ``eps`` for equal images.

    References:
        Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging, 1994
    """
    return ((pred - label).square() + eps**2).sqrt().mean()


def frequency_distance(pred: Tensor, label: Tensor, norm: str = "ortho") -> Tensor:
    """Mean absolute difference of the two images' Fourier transforms, computed in float32 at least.

    The paper's eq. 17 has the factor ``1 / (2N)`` for ``N`` images before an L1 norm; its mean squared error (eq. 16)
    has the same before a sum of squares, so that the factors only scale the sum of both. Here both are means. With
    ``norm="backward"``, ``mse + 0.1 * frequency`` is the paper's eq. 18 times ``2 / (C * H * W)``.

    Args:
        pred: restored images, shape ``(B, C, H, W)``.
        label: clean images, same shape.
        norm: of ``torch.fft.fft2``. With ``ortho``, ours, a difference counts alike at all image sizes; with
            ``backward``, the plain transform and the paper's, ``sqrt(H * W)`` times as much.

    Returns:
        A scalar.

    References:
        Lian and Wang, An image deblurring method using improved U-Net model based on multilayer fusion and attention
        mechanism, Scientific Reports 2023
    """
    difference = pred - label  # the transform is linear
    if difference.dtype in (torch.float16, torch.bfloat16):
        difference = difference.float()
    return torch.fft.fft2(difference, norm=norm).abs().mean()


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """How far a Wasserstein discriminator's gradient is from length 1 between real and generated images.

    DeblurGAN adds it to the discriminator's loss with weight 10.

    Args:
        discriminator: gives scores of any shape for images.
        real: clean images, shape ``(B, C, H, W)``.
        fake: restored images, same shape.
        share: of ``real`` in the images in between, uniform in [0, 1], shape ``(B, 1, 1, 1)``.

    Returns:
        A scalar: the mean of ``(|gradient| - 1)^2``.

    References:
        Gulrajani et al., Improved Training of Wasserstein GANs, https://arxiv.org/abs/1704.00028
    """
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    # the sum over patches and images: of each image, the gradient of its own score
    (gradient,) = torch.autograd.grad(discriminator(between).flatten(1).mean(1).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class CharbonnierLoss(nn.Module):
    """See :func:`charbonnier`.

    Args:
        eps: see :func:`charbonnier`.

    Raises:
        ValueError: if ``eps`` is not positive: the gradient of equal images would not exist.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}.")
        self.eps = eps

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the loss of restored and clean images."""
        return charbonnier(pred, label, self.eps)


class FrequencyReconstructionLoss(nn.Module):
    """The FRLF of the MLFF-DMRFAB U-Net, see :func:`frequency_distance`.

    Args:
        norm: ``ortho`` or ``backward``.

    Raises:
        ValueError: for another ``norm``.
    """

    def __init__(self, norm: str = "ortho") -> None:
        super().__init__()
        if norm not in ("ortho", "backward"):
            raise ValueError(f"norm must be 'ortho' or 'backward', got {norm!r}.")
        self.norm = norm

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the loss of restored and clean images ``(B, C, H, W)``."""
        return frequency_distance(pred, label, self.norm)


class RestorationLoss(nn.Module):
    """Weighted sum of losses, so that a configuration changes a loss by one number.

    AFF-UNet-RWKV: ``l1=1, charbonnier=1, ssim=0.2``, weights of ours, since the paper names the three losses and no
    weights. MLFF-DMRFAB: ``mse=1, frequency=0.1, norm="backward"``; its table 2 adds ``ssim=0.2`` or ``perceptual=0.5``
    to ``mse=1`` instead. MedDeblur: ``mse=1`` in the authors' code; ours is ``l1=1``. A loss of weight 0 is neither
    built nor computed; the others are computed in float32, also under autocast.

    Args:
        mse: weight of the mean squared error.
        l1: weight of the mean absolute error.
        charbonnier: weight of :class:`CharbonnierLoss`.
        ssim: weight of ``1 - SSIM``, from MONAI's ``SSIMLoss``; needs sides of at least 11 pixels.
        frequency: weight of :class:`FrequencyReconstructionLoss`.
        perceptual: weight of :func:`perceptual_loss`.
        eps: of :class:`CharbonnierLoss`.
        norm: of :class:`FrequencyReconstructionLoss`.
        perceptual_network: of :func:`perceptual_loss`.

    Raises:
        ValueError: a weight is negative, or none is positive.
        RuntimeError: the perceptual loss is asked for, and this installation cannot compute it.
    """

    def __init__(
        self,
        mse: float = 0.0,
        l1: float = 0.0,
        charbonnier: float = 0.0,
        ssim: float = 0.0,
        frequency: float = 0.0,
        perceptual: float = 0.0,
        eps: float = 1e-3,
        norm: str = "ortho",
        perceptual_network: str = "vgg",
    ) -> None:
        super().__init__()
        weights = {
            "mse": mse,
            "l1": l1,
            "charbonnier": charbonnier,
            "ssim": ssim,
            "frequency": frequency,
            "perceptual": perceptual,
        }
        if not all(weight >= 0 for weight in weights.values()) or not any(weights.values()):
            given = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
            raise ValueError(f"the weights of the losses must not be negative and one must be positive, got {given}.")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        build: dict[str, Callable[[], nn.Module]] = {
            "mse": nn.MSELoss,
            "l1": nn.L1Loss,
            "charbonnier": lambda: CharbonnierLoss(eps),
            "ssim": lambda: SSIMLoss(spatial_dims=2),
            "frequency": lambda: FrequencyReconstructionLoss(norm),
            "perceptual": lambda: perceptual_loss(perceptual_network),
        }
        self.terms = nn.ModuleDict({name: build[name]() for name in self.weights})

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: restored images scaled to [0, 1], shape ``(B, C, H, W)``.
            label: clean images, same shape.

        Returns:
            A scalar.

        Raises:
            ValueError: the images differ in shape, are none, or are too small for SSIM.
        """
        if pred.shape != label.shape or pred.ndim != 4 or pred.numel() == 0:
            raise ValueError(
                f"expected two non-empty (B, C, H, W) of one shape, got {tuple(pred.shape)}, {tuple(label.shape)}."
            )
        if "ssim" in self.terms and min(pred.shape[2:]) < _SSIM_WINDOW:
            raise ValueError(
                f"SSIM needs images of at least {_SSIM_WINDOW}x{_SSIM_WINDOW}, got {pred.shape[2]}x{pred.shape[3]}."
            )
        with torch.autocast(pred.device.type, enabled=False):
            pred, label = pred.float(), label.float()
            total = pred.new_zeros(())
            for name, term in self.terms.items():
                total = total + self.weights[name] * term(pred, label)
        return total


class AllScalesLoss(nn.Module):
    """Weighted sum of a loss at several scales, such as those of :class:`~medrestore_monai.networks.AllScales`.

    The clean image is averaged down, as MedDeblur does with the degraded one; MONAI's ``DeepSupervisionLoss`` would
    pick single pixels.

    Args:
        loss: of restored and clean images.
        weights: one per scale, the full one first; scales of weight 0 are left out.

    Raises:
        ValueError: a weight is negative, or none is positive.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] = (1.0, 0.5, 0.25)) -> None:
        super().__init__()
        if not all(weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f"weights must not be negative and one must be positive, got {tuple(weights)}.")
        self.loss = loss
        self.weights = tuple(float(weight) for weight in weights)

    def forward(self, preds: Sequence[Tensor], label: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            preds: restored images ``(B, C, H, W)``, then of half the side, then of a quarter; sides are rounded up.
            label: clean images, shape ``(B, C, H, W)``.

        Returns:
            A scalar.

        Raises:
            ValueError: there are not as many scales as weights.
        """
        if isinstance(preds, Tensor) or len(preds) != len(self.weights):
            found = "one batch" if isinstance(preds, Tensor) else f"{len(preds)} batches"
            raise ValueError(f"expected one batch for each of {len(self.weights)} scales, got {found}.")
        total = label.new_zeros(())
        for weight, pred in zip(self.weights, preds, strict=True):
            if weight:
                total = total + weight * self.loss(pred, label)
            label = F.avg_pool2d(label, 2, ceil_mode=True, count_include_pad=False)
        return total


def perceptual_loss(network: str = "vgg") -> nn.Module:
    """Return MONAI's ``PerceptualLoss`` (LPIPS) for images scaled to [0, 1], if it needs no download.

    Args:
        network: ``alex``, ``squeeze`` or ``vgg``.

    Returns:
        A module of restored and clean images ``(B, 1, H, W)`` or ``(B, 3, H, W)`` that gives a scalar.

    Raises:
        ValueError: for another network.
        RuntimeError: a package or the file of the network's weights is missing.

    References:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
        https://arxiv.org/abs/1801.03924
    """
    if network not in _PERCEPTUAL_FILES:
        raise ValueError(f"the perceptual network must be one of {', '.join(_PERCEPTUAL_FILES)}, got {network!r}.")
    missing = [name for name in ("lpips", "torchvision") if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"the perceptual loss needs the packages lpips and torchvision: no {' and '.join(missing)}.")
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _PERCEPTUAL_FILES[network]
    if not weights.is_file():
        raise RuntimeError(f"the perceptual loss needs torchvision's weights, which are not downloaded: no {weights}.")
    return _PerceptualTerm(PerceptualLoss(spatial_dims=2, network_type=network))


class _PerceptualTerm(nn.Module):
    """LPIPS of images in [0, 1], which it expects in [-1, 1]."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss.eval().requires_grad_(False)

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        return self.loss(2 * pred - 1, 2 * label - 1)


class WindowedLoss(nn.Module):
    """A loss of the whole range plus the same loss inside a window, such as soft tissue in CT.

    CT is scaled to [0, 1] from 4096 HU, of which a reader looks at 400: differences inside them count ``weight`` times
    their part of the window besides. Values outside the window count as its edge, and so have no gradient there.

    Args:
        loss: of two images.
        window: lower and upper edge, in the unit of the images.
        weight: of the loss inside the window.

    Raises:
        ValueError: if the lower edge is not below the upper one, or for a negative weight.
    """

    def __init__(self, loss: nn.Module, window: Sequence[float], weight: float = 1.0) -> None:
        super().__init__()
        lower, upper = window
        if not lower < upper or weight < 0:
            raise ValueError(f"window must rise and weight not be negative, got {tuple(window)} and {weight}.")
        self.loss, self.lower, self.upper, self.weight = loss, float(lower), float(upper), weight

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the scalar loss of restored and clean images, same shape."""
        return self.loss(pred, label) + self.weight * self.loss(self._seen(pred), self._seen(label))

    def _seen(self, images: Tensor) -> Tensor:
        return (images.clamp(self.lower, self.upper) - self.lower) / (self.upper - self.lower)


class BalancedLoss(nn.Module):
    """A loss of the images plus the routing balance loss that a network returns with them in training.

    Args:
        loss: of restored and clean images.
        weight: of the balance loss.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.01) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, pred: Tensor | tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        """Return the scalar loss of images, or of images and their balance loss, and of clean images."""
        if isinstance(pred, Tensor):
            return self.loss(pred, label)
        images, balance = pred
        return self.loss(images, label) + self.weight * balance


class WassersteinDiscriminatorLoss(nn.Module):
    """What DeblurGAN's discriminator makes small: scores of restored images less those of clean ones, and the penalty.

    The shares of the images in between, see :func:`gradient_penalty`, are drawn from PyTorch's random state.

    Args:
        discriminator: gives scores of any shape for images, larger for clean ones.
        penalty: weight of :func:`gradient_penalty`.

    Raises:
        ValueError: if ``penalty`` is negative.

    References:
        Gulrajani et al., Improved Training of Wasserstein GANs, https://arxiv.org/abs/1704.00028
    """

    def __init__(self, discriminator: nn.Module, penalty: float = 10.0) -> None:
        super().__init__()
        if not penalty >= 0:
            raise ValueError(f"penalty must not be negative, got {penalty}.")
        self.discriminator, self.penalty = discriminator, penalty

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Return the scalar loss of two batches ``(B, C, H, W)``; what restored the images gets no gradient."""
        restored = restored.detach()
        distance = self.discriminator(clean).mean() - self.discriminator(restored).mean()
        share = torch.rand(len(clean), 1, 1, 1, dtype=clean.dtype, device=clean.device)
        return self.penalty * gradient_penalty(self.discriminator, clean, restored, share) - distance


class WassersteinGeneratorLoss(nn.Module):
    """What DeblurGAN's generator makes small: a loss of the content less the discriminator's scores.

    The paper's content loss is the distance of VGG-19's features with weight 100. Their weights do not come with this
    package: ``RestorationLoss(l1=100)`` needs none, and its ``perceptual`` is the nearest to the paper.

    Args:
        discriminator: gives scores of any shape for images, larger for clean ones.
        content: of restored and clean images, such as :class:`RestorationLoss`; its weights count against ``weight``.
        weight: of the scores.

    Raises:
        ValueError: if ``weight`` is negative.

    References:
        Kupyn et al., DeblurGAN, https://arxiv.org/abs/1711.07064
    """

    def __init__(self, discriminator: nn.Module, content: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, got {weight}.")
        self.discriminator, self.content, self.weight = discriminator, content, weight

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Return the scalar loss of two batches ``(B, C, H, W)``."""
        return self.content(restored, clean) - self.weight * self.discriminator(restored).mean()
