"""The losses by hand, by NumPy and by scikit-image; weights, refusals, and what is not installed."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.testing import assert_close

from medrestore_monai import losses
from medrestore_monai.losses import (
    AllScalesLoss,
    BalancedLoss,
    CharbonnierLoss,
    FrequencyReconstructionLoss,
    RestorationLoss,
    WindowedLoss,
    charbonnier,
    frequency_distance,
    gradient_penalty,
    perceptual_loss,
)


@pytest.fixture
def pair():
    return torch.rand(2, 3, 23, 30), torch.rand(2, 3, 23, 30)


def test_charbonnier_by_hand():
    pred, label = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 7.0]])
    assert_close(charbonnier(pred, label, eps=3.0), torch.tensor((3 + 5) / 2.0))
    assert_close(charbonnier(pred, label, eps=1e-6), torch.tensor(2.0))  # of a small eps: L1


def test_charbonnier_has_a_gradient_where_images_are_equal():
    pred = torch.ones(4, requires_grad=True)
    CharbonnierLoss()(pred, torch.ones(4)).backward()
    assert torch.equal(pred.grad, torch.zeros(4))
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        CharbonnierLoss(0)


@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_frequency_distance_is_that_of_numpy(pair, norm):
    a, b = (np.fft.fft2(image.double().numpy(), norm=norm) for image in pair)
    assert_close(FrequencyReconstructionLoss(norm)(*pair).item(), np.abs(a - b).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(8, 16), (23, 30)])
def test_the_plain_transform_has_the_papers_scale(size):
    """Equations 16 to 18 of the MLFF-DMRFAB U-Net, as they read."""
    restored, clean = torch.rand(4, 3, *size), torch.rand(4, 3, *size)
    difference = (restored - clean).double().numpy()
    mse = (difference**2).sum() / (2 * 4)
    frequency = sum(np.abs(np.fft.fft2(plane)).sum() for image in difference for plane in image) / (2 * 4)
    total = RestorationLoss(mse=1, frequency=0.1, norm="backward")(restored, clean)
    assert_close(total.item() * 3 * size[0] * size[1] / 2, mse + 0.1 * frequency, rtol=1e-5, atol=0)


def test_frequency_distance_of_a_constant_and_of_a_wave_by_hand():
    x = torch.arange(16.0).expand(1, 1, 8, 16)
    assert_close(
        frequency_distance(torch.full((1, 1, 8, 16), 0.5), torch.zeros(1, 1, 8, 16)), torch.tensor(0.5 / 128**0.5)
    )
    wave = torch.cos(2 * torch.pi * 3 * x / 16)  # two coefficients, each half of the 128 pixels
    assert_close(frequency_distance(wave, torch.zeros_like(wave), "backward"), torch.tensor(2 * 64 / 128.0))


def test_frequency_distance_of_low_precision_and_its_gradient(pair):
    low = frequency_distance(pair[0].bfloat16(), pair[1].bfloat16())
    assert low.dtype == torch.float32
    assert_close(low, frequency_distance(*pair), rtol=0.02, atol=0)
    same = pair[0].clone().requires_grad_(True)
    frequency_distance(same, pair[0]).backward()
    assert torch.isfinite(same.grad).all()
    with pytest.raises(ValueError, match="norm must be 'ortho' or 'backward', got 'forward'"):
        FrequencyReconstructionLoss("forward")


def test_ssim_is_that_of_scikit_image(pair):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    scores = []
    for pred, label in zip(*(image.numpy().reshape(6, 23, 30) for image in pair), strict=True):
        _, scored = structural_similarity(pred, label, **options)
        scores.append(scored[5:-5, 5:-5].mean())
    assert_close(RestorationLoss(ssim=0.2)(*pair).item(), 0.2 * (1 - np.mean(scores)), rtol=1e-4, atol=0)


def test_the_sum_is_weighted_and_leaves_out_what_has_no_weight(pair):
    difference = pair[0] - pair[1]
    l1, mse = difference.abs().mean(), difference.square().mean()
    assert_close(RestorationLoss(mse=1, l1=0.5)(*pair), mse + 0.5 * l1)
    aff = RestorationLoss(l1=1, charbonnier=1, ssim=0.2)
    assert_close(aff(*pair), l1 + charbonnier(*pair) + RestorationLoss(ssim=0.2)(*pair))
    assert_close(RestorationLoss(mse=1, frequency=0.1)(*pair), mse + 0.1 * frequency_distance(*pair))
    assert set(aff.terms) == {"l1", "charbonnier", "ssim"}
    assert not list(RestorationLoss(mse=1).parameters())


def test_the_sum_has_a_finite_gradient_in_low_precision_too(pair):
    loss = RestorationLoss(mse=1, l1=1, charbonnier=1, ssim=1, frequency=1)
    for kind in (torch.float32, torch.bfloat16):
        pred = pair[0].to(kind, copy=True).requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(pred, pair[1])
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(pred.grad).all()
        assert pred.grad.abs().max() > 0


def test_wrong_weights_and_images_are_refused():
    with pytest.raises(ValueError, match="must not be negative and one must be positive, got mse=0, l1=-1"):
        RestorationLoss(l1=-1)
    with pytest.raises(ValueError, match="one must be positive"):
        RestorationLoss()
    with pytest.raises(ValueError, match=r"of one shape, got \(1, 1, 4, 4\), \(1, 1, 4, 5\)"):
        RestorationLoss(l1=1)(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 5))
    with pytest.raises(ValueError, match="SSIM needs images of at least 11x11, got 12x10"):
        RestorationLoss(ssim=1)(torch.rand(1, 1, 12, 10), torch.rand(1, 1, 12, 10))


def test_scales_are_compared_with_averages_of_the_clean_image():
    label = torch.rand(2, 1, 12, 8)
    half = label.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean(dim=(3, 5))
    loss = AllScalesLoss(nn.L1Loss(), weights=(1, 0.5))
    assert loss((label, half), label) < 1e-6
    assert_close(loss((label + 1, half - 2), label), torch.tensor(1 + 0.5 * 2.0))
    odd = torch.rand(1, 1, 5, 3)
    assert AllScalesLoss(nn.L1Loss(), weights=(0, 1))((odd, odd[:, :, ::2, ::2]), odd).isfinite()
    with pytest.raises(ValueError, match="one batch for each of 2 scales, got one batch"):
        loss(label, label)
    with pytest.raises(ValueError, match="one batch for each of 2 scales, got 3 batches"):
        loss((label, half, half), label)
    with pytest.raises(ValueError, match="weights must not be negative"):
        AllScalesLoss(nn.L1Loss(), weights=(1, -1))


def test_gradient_penalty_by_hand():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return self.slope * x.flatten(1).sum(1, keepdim=True)

    discriminator = Linear()
    penalty = gradient_penalty(discriminator, *torch.rand(2, 3, 1, 4, 4), torch.rand(3, 1, 1, 1))
    assert_close(penalty, torch.tensor((0.5 * 4 - 1) ** 2.0))  # 16 pixels with slope 0.5: length 2
    (gradient,) = torch.autograd.grad(penalty, discriminator.slope)
    assert_close(gradient, torch.tensor(2 * (2 - 1) * 4.0))


def test_a_perceptual_loss_that_cannot_be_computed_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(losses, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="needs the packages lpips and torchvision: no lpips and torchvision"):
        RestorationLoss(mse=1, perceptual=0.5)
    monkeypatch.setattr(losses, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match=r"weights, which are not downloaded: no .*vgg16-397923af\.pth"):
        perceptual_loss()
    with pytest.raises(ValueError, match="must be one of alex, squeeze, vgg, got 'resnet50'"):
        perceptual_loss("resnet50")


def test_the_perceptual_loss_is_monais_on_images_from_minus_one_to_one(monkeypatch, tmp_path, pair):
    class Fake(nn.Module):
        def __init__(self, spatial_dims, network_type):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))
            assert (spatial_dims, network_type) == (2, "alex")

        def forward(self, pred, label):
            return self.scale * (pred.mean() - 2 * label.mean())

    monkeypatch.setattr(losses, "find_spec", lambda name: name)
    monkeypatch.setattr(losses, "PerceptualLoss", Fake)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"")
    loss = RestorationLoss(perceptual=0.5, perceptual_network="alex")
    pred, label = (2 * image.mean() - 1 for image in pair)
    assert_close(loss(*pair), 0.5 * (pred - 2 * label))
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_balanced_loss_adds_the_weighted_balance_where_there_is_one():
    loss = BalancedLoss(torch.nn.L1Loss(), weight=0.5)
    images, label = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert loss((images, torch.tensor(4.0)), label) == 3
    assert loss(images, label) == 1


def test_windowed_loss_by_hand():
    pred, label = torch.tensor([0.1, 0.35, 0.9]), torch.tensor([0.2, 0.25, 0.5])
    # whole range: (0.1 + 0.1 + 0.4) / 3; in the window 0.2 to 0.4: (0 + 0.5 + 0) / 3, the last beyond it in both
    assert_close(WindowedLoss(nn.L1Loss(), (0.2, 0.4), 0.3)(pred, label), torch.tensor(0.2 + 0.3 * 0.5 / 3))


def test_windowed_loss_teaches_nothing_beyond_the_window():
    pred = torch.tensor([0.1, 0.3, 0.9], requires_grad=True)
    loss = WindowedLoss(nn.L1Loss(), (0.2, 0.4), 1.0)
    (loss(pred, torch.zeros(3)) - nn.L1Loss()(pred, torch.zeros(3))).backward()
    assert_close(pred.grad, torch.tensor([0.0, 1 / 0.2 / 3, 0.0]))


@pytest.mark.parametrize(("window", "weight"), [((0.4, 0.2), 1.0), ((0.2, 0.2), 1.0), ((0.2, 0.4), -1.0)])
def test_windowed_loss_refuses(window, weight):
    with pytest.raises(ValueError, match="window"):
        WindowedLoss(nn.L1Loss(), window, weight)
