"""MLFF-DMRFAB U-Net: the paper's size and the formulas of its parts, with and without what its table leaves out."""

import numpy as np
import pytest
import pywt
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from medrestore_monai.networks import MLFFUNet
from medrestore_monai.networks.mlff_unet import DMRFAB, DSC, MLFF, MRFAB, RDSC

TINY = {"channels": (16, 16, 32, 32), "growth": 4}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
def test_has_the_papers_size():
    network = MLFFUNet()
    assert count(network) == pytest.approx(6.1e6, rel=0.03)
    assert count(MLFFUNet(channels=(16, 32, 64, 128), growth=32)) < 0.75e6
    for part in ("wavelets", "dmrfab", "attention", "mlff"):
        assert count(MLFFUNet(**{part: False})) < count(network), part


def test_wrong_channels_are_refused():
    for channels in ((32, 64, 128), (32, 64, 128, 250), (0, 16, 16, 16)):
        with pytest.raises(ValueError, match="4 multiples of 16"):
            MLFFUNet(channels=channels)


def test_depthwise_filters_start_as_filters_of_detail():
    filters = [module.depthwise.weight for module in MLFFUNet(**TINY).modules() if isinstance(module, DSC)]
    for weight in filters:
        assert_close(weight.sum(dim=(1, 2, 3)), torch.zeros(len(weight)), rtol=0, atol=1e-6)
        assert weight.std() > 0.1


def test_separable_convolutions_are_their_formula():
    block, x = RDSC(3), torch.randn(2, 3, 6, 7)

    def separable(y, layer: DSC):  # as one full convolution
        full = torch.einsum("oi,ixy->oixy", layer.pointwise.weight[:, :, 0, 0], layer.depthwise.weight[:, 0])
        return F.conv2d(y, full, layer.pointwise.bias, padding=1)

    def leaky(y):
        return torch.where(y > 0, y, 0.01 * y)

    expected = leaky(x + separable(leaky(separable(x, block.first)), block.second))
    assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_fusion_chooses_by_channel_among_levels_brought_together_by_pywavelets(level):
    channels = (16, 16, 32)
    module = MLFF(channels, level)
    features = [torch.randn(2, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate(channels)]

    def down(x):
        approximation, details = pywt.dwt2(x.numpy(), "haar")
        return torch.from_numpy(np.concatenate([approximation, *details], axis=1))

    def up(x):
        approximation, *details = np.split(x.numpy(), 4, axis=1)
        return torch.from_numpy(pywt.idwt2((approximation, tuple(details)), "haar"))

    with torch.no_grad():
        branches = []
        for other, x in enumerate(features):
            branch = module.adapt[other](x)
            for _ in range(abs(other - level)):
                branch = down(branch) if other < level else up(branch)
            branches.append(branch)
        pooled = sum(branches).mean(dim=(2, 3), keepdim=True)
        scores = module.expand(F.leaky_relu(module.squeeze(pooled))).view(2, 3, channels[level], 1, 1)
        weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        expected = sum(weights[:, i] * branch for i, branch in enumerate(branches))
        assert_close(module(features), expected, rtol=1e-4, atol=1e-5)
        assert isinstance(module.adapt[level], torch.nn.Identity)


@pytest.mark.parametrize("attention", [True, False])
def test_multi_receptive_field_block_is_the_papers_formula(attention):
    block, x = MRFAB(6, 4, attention), torch.randn(2, 6, 9, 10)
    squeezed = F.conv2d(x, block.squeeze.weight, block.squeeze.bias)
    parts = [F.conv2d(squeezed, b.weight, b.bias, padding=d, dilation=d) for d, b in enumerate(block.branches, start=1)]
    r = torch.cat([*parts, x], dim=1)
    if attention:
        first, _, second, _ = block.by_channel
        mean = r.flatten(2).mean(2)
        by_channel = F.leaky_relu(mean @ first.weight[:, :, 0, 0].T + first.bias)
        by_channel = torch.sigmoid(by_channel @ second.weight[:, :, 0, 0].T + second.bias)[:, :, None, None]
        place = block.by_place[0]
        by_place = torch.stack([r.max(dim=1).values, r.mean(dim=1)], dim=1)
        by_place = torch.sigmoid(F.conv2d(by_place, place.weight, place.bias, padding=3))
        r = torch.cat([by_channel * r, by_place * r], dim=1)
    assert_close(block(x), F.conv2d(r, block.join.weight, block.join.bias), rtol=1e-4, atol=1e-5)


def test_dense_units_see_all_before_them():
    block, x = DMRFAB(8, 4), torch.randn(1, 8, 5, 5)
    assert [unit.squeeze.in_channels for unit in block.units] == [8, 12, 16, 20]
    seen = [x]
    for unit in block.units:
        seen.append(unit(torch.cat(seen, dim=1)))
    assert_close(block(x), F.conv2d(torch.cat(seen, dim=1), block.bottleneck.weight, block.bottleneck.bias))


def test_decoder_adds_the_encoder_level_without_fusion():
    network, seen = MLFFUNet(1, 1, **TINY, mlff=False).eval(), {}
    network.encoder[0].register_forward_hook(lambda module, inputs, output: seen.update(skip=output))
    network.decoder[1].register_forward_hook(lambda module, inputs, output: seen.update(below=output))
    network.decoder[0].register_forward_hook(lambda module, inputs, output: seen.update(sum=inputs[0]))
    network(torch.rand(1, 1, 16, 16))
    a, b, c, d = seen["below"].chunk(4, dim=1)
    first = (a + b + c + d) / 2  # upper left pixel of each block
    assert_close(seen["sum"][:, :, ::2, ::2], seen["skip"][:, :, ::2, ::2] + first)
