"""MedDeblur: the paper's sizes, its attention and memory by their formulas, recurrence over scales and supervision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from medrestore_monai.losses import AllScalesLoss
from medrestore_monai.networks import AllScales, MedDeblur, SRNDeblur
from medrestore_monai.networks.meddeblur import (
    SpatialAsymmetricAttention,
    _ConvLSTM,
    _ResidualDenseBlock,
    mean_of_convolution,
)

TINY = {"in_channels": 1, "out_channels": 1, "channels": (16, 16, 16)}


def tiny(**options):
    network = MedDeblur(**{**TINY, **options})
    for part in network.networks:
        torch.nn.init.normal_(part.output.weight, std=0.05)  # the identity at the start would hide differences
    return network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_has_the_papers_sizes():
    assert count(MedDeblur()) == pytest.approx(8.03e6, rel=0.01)
    # the paper's 24.1 million are the shared weights, counted once for each scale
    assert count(MedDeblur(share_weights=False)) == 3 * count(MedDeblur()) == pytest.approx(24.1e6, rel=0.01)
    assert count(MedDeblur(channels=(16, 32, 64))) < 2.2e6


def test_wrong_options_are_refused():
    for channels in ((32, 64), (32, 64, 120), (0, 16, 16)):
        with pytest.raises(ValueError, match="3 multiples of 16"):
            MedDeblur(channels=channels)
    with pytest.raises(ValueError, match="scales must be at least 1, got 0"):
        MedDeblur(scales=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 20), (4, 4), (13, 30)])
def test_the_mean_of_a_convolution_is_that_of_its_result(size):
    convolution, x = torch.nn.Conv2d(3, 5, 9, padding=4).double(), torch.randn(2, 3, *size).double()
    assert_close(mean_of_convolution(convolution, x), convolution(x).mean(dim=(2, 3), keepdim=True))


def test_attention_is_the_papers_formula():
    module, x = SpatialAsymmetricAttention(16), torch.randn(2, 16, 12, 9)

    def places(features, layer):
        both = torch.stack([features.mean(dim=1), features.max(dim=1).values], dim=1)
        return torch.sigmoid(F.conv2d(both, layer.weight, layer.bias, padding=4))

    tall = F.conv2d(x, module.vertical.weight, module.vertical.bias, padding=(1, 0))
    wide = F.conv2d(x, module.horizontal.weight, module.horizontal.bias, padding=(0, 1))
    assert (module.vertical.kernel_size, module.horizontal.kernel_size) == ((3, 1), (1, 3))
    f_c = places(tall, module.vertical_places) + places(wide, module.horizontal_places)
    descriptor = F.conv2d(x, module.overall.weight, module.overall.bias, padding=4).mean(dim=(2, 3))
    first, second = (module.excite[i].weight[:, :, 0, 0] for i in (0, 2))
    f_g = torch.sigmoid(F.leaky_relu(descriptor @ first.T, 0.1) @ second.T)
    assert_close(module(x), x * f_c * f_g[:, :, None, None], rtol=1e-4, atol=1e-5)


def test_dense_layers_see_all_before_them():
    block, x = _ResidualDenseBlock(16), torch.randn(1, 16, 5, 5)
    seen = [x]
    for layer in block.layers:
        assert layer.out_channels == 8
        seen.append(layer(torch.cat(seen, dim=1)).clamp(min=0))
    assert_close(block(x), x + block.fuse(torch.cat(seen, dim=1)))


def test_memory_is_its_formula_and_starts_with_zeros():
    lstm, x, state = _ConvLSTM(3), torch.randn(2, 3, 6, 5), torch.randn(2, 6, 6, 5)
    hidden, cell = state[:, :3], state[:, 3:]
    gates = F.conv2d(torch.cat([x, hidden], dim=1), lstm.gates.weight, lstm.gates.bias, padding=2)
    i, f, o, g = (gates[:, 3 * n : 3 * n + 3] for n in range(4))
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    assert_close(lstm(x, state), torch.cat([o.sigmoid() * cell.tanh(), cell], dim=1))
    assert_close(lstm(x, None), lstm(x, torch.zeros_like(state)))


@pytest.mark.parametrize("size", [(16, 32), (13, 22), (1, 5)])
def test_all_scales_are_those_of_forward_rounded_up(size):
    network, image = tiny().eval(), torch.rand(2, 1, *size)
    full, half, quarter = network.all_scales(image)
    assert torch.equal(full, network(image))
    assert half.shape[2:] == tuple((side + 1) // 2 for side in size)
    assert quarter.shape[2:] == tuple((side + 3) // 4 for side in size)


def test_each_scale_sees_the_image_and_the_doubled_coarser_result():
    network, inputs = tiny(share_weights=False).eval(), []
    for part in network.networks:
        part.register_forward_hook(lambda module, arguments, output: inputs.append(arguments))
    image = torch.rand(1, 1, 32, 48)
    full, half, quarter = network.all_scales(image)
    blocks = image.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean(dim=(3, 5))

    def seen(picture):
        return 4 * (picture - image.mean(dim=(2, 3), keepdim=True))

    assert_close(inputs[0][0], torch.cat([seen(blocks), torch.zeros_like(blocks)], dim=1))
    assert inputs[0][1] is None
    for number, coarser in ((1, quarter), (2, half)):
        doubled = F.interpolate(seen(coarser), size=inputs[number][0].shape[2:], mode="bilinear")
        assert_close(inputs[number][0][:, 1:], doubled)
        assert inputs[number][1].shape[2:] == tuple(side // 4 for side in doubled.shape[2:])
    assert torch.equal(inputs[2][0][:, :1], seen(image))
    assert full.shape == image.shape


def test_without_recurrence_there_is_one_scale_and_no_memory():
    network = tiny(scales=1)
    assert not any(isinstance(module, _ConvLSTM) for module in network.modules())
    image = torch.rand(1, 1, 9, 11)
    (only,) = network.all_scales(image)
    assert torch.equal(only, network(image))


def test_srn_deblur_is_meddeblur_without_rd_sam():
    srn, plain = SRNDeblur(**TINY), MedDeblur(**TINY, rd_sam=False)
    plain.load_state_dict(srn.state_dict())
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(srn(image), plain(image))
    assert not any(isinstance(module, SpatialAsymmetricAttention) for module in srn.modules())


def test_coarser_scales_are_supervised_through_a_wrapper_that_shares_weights():
    network = tiny(share_weights=False)
    keys = set(network.state_dict())
    wrapped, image, label = AllScales(network), torch.rand(2, 1, 1, 24, 21).unbind()[0], torch.rand(1, 1, 24, 21)
    loss = AllScalesLoss(torch.nn.L1Loss(), weights=(1, 0.5, 0.25))(wrapped(image), label)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    assert set(network.state_dict()) == keys
    moved = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)  # the network itself has learned
    assert network(image).shape == label.shape
