"""MedDeblur: the paper's sizes, its attention and memory by their formulas, recurrence over scales and supervision."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from medrestore_monai.losses import AllScalesLoss
from medrestore_monai.networks import AllScales, MedDeblur, SRNDeblur
from medrestore_monai.networks.meddeblur import _ConvLSTM
from medrestore_monai.networks.rd_sam import (
    ResidualDenseBlock,
    SpatialAsymmetricAttention,
    SpatialAsymmetricGates,
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


@pytest.mark.slow
def test_has_the_papers_sizes():
    assert count(MedDeblur(attention="published")) == 8_028_917
    assert count(MedDeblur()) == 8_031_671  # of the shipped weights: biases and a second map more
    assert count(MedDeblur(channels=(16, 32, 64))) < 2.2e6


@pytest.mark.slow
def test_the_papers_24_million_are_the_shared_weights_counted_at_each_use():
    network, used = MedDeblur(attention="published", residual=False), []
    for module in network.modules():
        if not list(module.children()):  # as a summary tool walks the calls
            module.register_forward_hook(lambda module, inputs, output: used.append(count(module)))
    network(torch.rand(1, 3, 16, 16))  # with gradients: in inference, layers are taken apart and go around the hooks
    lstm = network.networks[0].lstm.gates
    walked = sum(used)
    if used.count(count(lstm)) == 2:  # the first use, of a state of zeros, goes around the layer
        walked += count(lstm)
    assert walked == 24_089_685


def test_wrong_options_are_refused():
    for channels in ((32, 64), (32, 64, 120), (0, 16, 16)):
        with pytest.raises(ValueError, match="3 multiples of 16"):
            MedDeblur(channels=channels)
    with pytest.raises(ValueError, match="scales must be at least 1, got 0"):
        MedDeblur(scales=0)
    with pytest.raises(ValueError, match="attention must be one of ours, published, got 'theirs'"):
        MedDeblur(attention="theirs")


@pytest.mark.parametrize("size", [(1, 1), (2, 20), (4, 4), (13, 30)])
def test_the_mean_of_a_convolution_is_that_of_its_result(size):
    convolution, x = torch.nn.Conv2d(3, 5, 9, padding=4).double(), torch.randn(2, 3, *size).double()
    assert_close(mean_of_convolution(convolution, x), convolution(x).mean(dim=(2, 3), keepdim=True))


def test_published_attention_gives_the_features_of_its_square_convolution_weighed():
    module, x = SpatialAsymmetricAttention(16), torch.randn(2, 16, 12, 9)
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def convolved(y, name, padding):
        return F.conv2d(y, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    gates = 0
    for name, padding in (("vertical", (1, 0)), ("horizontal", (0, 1))):
        y = convolved(x, name, padding)
        gates = gates + 1 / (1 + (-convolved(torch.stack([y.mean(1), y.max(1).values], 1), "places", 4)).exp())
    features = convolved(x, "overall", 4)
    first, second = (weights[f"excite.{i}.weight"][:, :, 0, 0] for i in (0, 2))
    channels = 1 / (1 + (-((features.mean(dim=(2, 3)) @ first.T).clamp(min=0) @ second.T)).exp())
    expected = features * channels[:, :, None, None] * gates
    assert_close(module(x), torch.where(expected < 0, 0.2 * expected, expected), rtol=1e-4, atol=1e-5)


def test_our_attention_gates_what_it_sees():
    module, x = SpatialAsymmetricGates(16), torch.randn(2, 16, 12, 9)

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
    block, x = ResidualDenseBlock(16), torch.randn(1, 16, 5, 5)
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 32), (13, 22), (1, 5)])
def test_all_scales_are_those_of_forward_rounded_up(size):
    network, image = tiny().eval(), torch.rand(2, 1, *size)
    full, half, quarter = network.all_scales(image)
    assert torch.equal(full, network(image))
    assert half.shape[2:] == tuple((side + 1) // 2 for side in size)
    assert quarter.shape[2:] == tuple((side + 3) // 4 for side in size)


def calls_of(network, image):
    """The results at all scales, and what the U was given for each, coarsest first."""
    inputs = []
    hook = network.networks[0].register_forward_hook(lambda module, arguments, output: inputs.append(arguments))
    results = network.all_scales(image)
    hook.remove()
    return results, inputs


@pytest.mark.slow
def test_each_scale_sees_the_image_and_the_doubled_coarser_result():
    image = torch.rand(1, 1, 32, 48)
    (full, half, quarter), inputs = calls_of(tiny().eval(), image)
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


@pytest.mark.slow
def test_as_published_the_result_is_no_sum_and_stays_in_range():
    network, image = tiny(attention="published", residual=False).eval(), torch.rand(1, 1, 32, 48)
    (full, half, quarter), inputs = calls_of(network, image)
    # of blocks of four, bilinear sampling sees the middle two
    middle = image.unflatten(2, (-1, 4))[:, :, :, 1:3].unflatten(4, (-1, 4))[..., 1:3].mean(dim=(3, 5))
    assert_close(inputs[0][0], torch.cat([2 * middle - 1, torch.zeros_like(middle)], dim=1))
    for number, coarser in ((1, quarter), (2, half)):
        doubled = F.interpolate(2 * coarser - 1, size=inputs[number][0].shape[2:], mode="bilinear")
        assert_close(inputs[number][0][:, 1:], doubled, rtol=1e-4, atol=1e-4)
    assert_close(inputs[2][0][:, :1], 2 * image - 1)
    output, _ = network.networks[0](*inputs[2])
    assert_close(full, 1 / (1 + (-2 * output).exp()))  # the tangent, from [-1, 1] to [0, 1]
    torch.nn.init.normal_(network.networks[0].output.weight, std=100)
    with torch.no_grad():
        far = network(image)
    assert 0 <= float(far.min()) < float(far.max()) <= 1


@pytest.mark.slow
def test_without_recurrence_there_is_one_scale_and_no_memory():
    network = tiny(scales=1)
    assert not any(isinstance(module, _ConvLSTM) for module in network.modules())
    image = torch.rand(1, 1, 9, 11)
    (only,) = network.all_scales(image)
    assert torch.equal(only, network(image))


@pytest.mark.slow
def test_srn_deblur_is_meddeblur_without_rd_sam():
    srn, plain = SRNDeblur(**TINY), MedDeblur(**TINY, rd_sam=False)
    plain.load_state_dict(srn.state_dict())
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(srn(image), plain(image))
    attentions = SpatialAsymmetricAttention | SpatialAsymmetricGates
    assert not any(isinstance(module, attentions) for module in srn.modules())


@pytest.mark.slow
def test_coarser_scales_are_supervised_through_a_wrapper_that_shares_weights():
    network = tiny()
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
