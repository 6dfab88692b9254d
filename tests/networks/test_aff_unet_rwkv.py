"""AFF-UNet-RWKV: its size, AFF and the mixer by their formulas, poolings, batch normalization inside convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from medrestore_monai.networks import AFFUNetRWKV
from medrestore_monai.networks.aff_unet_rwkv import AFF, RWKVLiteMixer

TINY = {"channels": (8, 8, 16, 16)}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def draw_all(network):
    """Draw what starts as ones and zeros, so that none of it can be forgotten without harm."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.std(correction=0) == 0:
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name or "scale" in name else value.normal_()
    return network


def test_is_lightweight():
    assert count(AFFUNetRWKV()) == 2_218_531 <= 2.5e6
    assert count(AFFUNetRWKV(channels=(16, 32, 64, 128))) == 562_707
    plain = count(AFFUNetRWKV(aff=False, mixer=False))
    assert count(AFFUNetRWKV(mixer=False)) < plain  # AFF saves half of the first convolutions
    assert count(AFFUNetRWKV(aff=False)) > plain


def test_wrong_channels_are_refused():
    for channels in ((32, 64, 128), (32, 64, 128, 250), (0, 8, 8, 8)):
        with pytest.raises(ValueError, match="4 multiples of 8"):
            AFFUNetRWKV(channels=channels)


def test_aff_is_the_papers_formula():
    module = draw_all(AFF(8)).eval()
    x, y = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)

    def batch_norm(z, layer):
        mean, var = layer.running_mean.view(-1, 1, 1), layer.running_var.view(-1, 1, 1)
        return (z - mean) / (var + layer.eps).sqrt() * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)

    def group_norm(z, layer):
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + layer.eps).sqrt()
        return z * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)

    def branch(z, layers, norm):
        z = torch.einsum("oi,bihw->bohw", layers[0].weight[:, :, 0, 0], z)
        z = torch.einsum("oi,bihw->bohw", layers[3].weight[:, :, 0, 0], norm(z, layers[1]).clamp(min=0))
        return norm(z, layers[4])

    pooled = (x + y).mean(dim=(2, 3), keepdim=True)
    m = torch.sigmoid(branch(x + y, module.local, batch_norm) + branch(pooled, module.overall, group_norm))
    assert_close(module(x, y), 2 * m * x + 2 * (1 - m) * y, rtol=1e-4, atol=1e-5)


def test_mixer_is_its_formula():
    mixer, x = draw_all(RWKVLiteMixer(4)), torch.randn(2, 4, 7, 9)
    normal = F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2) * mixer.norm.weight + mixer.norm.bias
    shifted = F.conv2d(normal, mixer.shift.weight, padding=1, groups=4)
    r, k, v = (F.conv2d(shifted, w) for w in mixer.receptance_key_value.weight.chunk(3))
    columns, rows, pointwise = mixer.mix
    kernel = columns.weight * rows.weight  # 21x21, of rank one
    assert kernel.shape == (4, 1, 21, 21)
    mixed = F.conv2d(F.conv2d(k * v, kernel, padding=10, groups=4), pointwise.weight, pointwise.bias)
    expected = x + mixer.scale * F.conv2d(torch.sigmoid(r) * mixed, mixer.output.weight)
    assert_close(mixer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_mixer_sees_far():
    mixer, x = RWKVLiteMixer(4), torch.randn(1, 4, 41, 41, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x)[0, :, 20, 20].sum(), x)
    seen = gradient[0].abs().sum(0) > 0
    assert seen[20 - 10 - 1 : 20 + 10 + 2, 20 - 10 - 1 : 20 + 10 + 2].all()  # 21x21, and 3x3 of the shift
    assert seen.sum() == 23 * 23


def test_pooling_is_maximum_and_before_the_bottleneck_minimum():
    network, seen = AFFUNetRWKV(1, 1, **TINY).eval(), {}
    for level, convolutions in enumerate(network.encoder):
        convolutions.register_forward_hook(
            lambda module, inputs, output, level=level: seen.update({level: (inputs[0], output)})
        )
    network(torch.rand(1, 1, 32, 32))
    for level, extreme in ((1, torch.amax), (2, torch.amax), (3, torch.amin)):
        before = seen[level - 1][1]
        blocks = before.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
        assert torch.equal(seen[level][0], extreme(blocks, dim=(3, 5)))


@pytest.mark.parametrize("options", [{}, {"aff": False}, {"mixer": False}], ids=str)
def test_merged_computes_the_same_and_changes_nothing(options):
    network = draw_all(AFFUNetRWKV(1, 1, **TINY, **options)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image, merged = torch.rand(2, 1, 30, 37), network.merged()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in merged.modules())
    with torch.no_grad():
        expected = network(image)
    assert_close(merged(image), expected, rtol=1e-4, atol=1e-4 * float((expected - image).abs().max()))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_first_filters_start_as_filters_of_detail():
    weight = AFFUNetRWKV(channels=(8, 8, 8, 8)).encoder[0][0].weight
    assert_close(weight.sum(dim=(2, 3)), torch.zeros(8, 3), rtol=0, atol=1e-6)
    assert weight.std() > 0.01
