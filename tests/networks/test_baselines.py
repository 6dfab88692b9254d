"""RED-CNN, DeblurGAN: the papers' sizes and formulas, any image size, gradients, refusals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from torch.testing import assert_close

from medrestore_monai.networks.baselines import REDCNN, DeblurGANDiscriminator, DeblurGANGenerator, Residual, _pad_to
from medrestore_monai.networks.residual import crop


def test_has_the_papers_size():
    # 96 kernels of 5x5 with a bias: one layer from 1 channel, eight from 96, one back to 1
    by_hand = (25 + 1) * 96 + 8 * (96 * 25 + 1) * 96 + 96 * 25 + 1
    count = sum(parameter.numel() for parameter in REDCNN().parameters())
    assert count == by_hand == 1_848_865


def test_is_the_papers_formula():
    network, image = REDCNN(channels=6), torch.rand(2, 1, 23, 26)
    (c1, c2, c3, c4, c5), (d1, d2, d3, d4, d5) = network.encoder, network.decoder

    def down(x, layer):
        return torch.relu(F.conv2d(x, layer.weight, layer.bias))

    def up(x, layer):  # a transposed convolution is one with a turned kernel on a padded image
        return F.conv2d(x, layer.weight.flip(2, 3).transpose(0, 1), layer.bias, padding=4)

    second = down(down(image, c1), c2)
    fourth = down(down(second, c3), c4)
    x = torch.relu(up(down(fourth, c5), d1) + fourth)
    x = torch.relu(up(torch.relu(up(x, d2)), d3) + second)
    x = torch.relu(up(torch.relu(up(x, d4)), d5) + image)
    assert_close(network(image), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 3), (13, 20), (21, 21), (22, 35), (37, 64)])
def test_keeps_any_size(size):
    image = torch.rand(2, 1, *size)
    before = image.clone()
    assert REDCNN(channels=4)(image).shape == image.shape
    assert torch.equal(image, before)


def test_pads_only_what_is_too_small_to_shrink():
    image = torch.arange(36.0).view(1, 1, 3, 12)
    padded = _pad_to(image, 21)
    assert padded.shape == (1, 1, 21, 21)
    assert_close(padded[0, 0, 0], torch.tensor([*range(12), *range(10, 1, -1)], dtype=torch.float32))  # reflected
    assert_close(padded[0, 0, 3:, :12], image[0, 0, 2].expand(18, 12))  # three rows are too few to reflect
    large = torch.rand(1, 1, 21, 22)
    assert torch.equal(_pad_to(large, 21), large)


def test_colors_and_wrong_input():
    assert REDCNN(in_channels=3, out_channels=3, channels=4)(torch.rand(1, 3, 25, 25)).shape == (1, 3, 25, 25)
    network = REDCNN(channels=4)
    for wrong in (torch.rand(1, 3, 25, 25), torch.rand(1, 25, 25), torch.rand(0, 1, 25, 25), torch.rand(1, 1, 0, 25)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, 1, H, W\)"):
            network(wrong)
    with pytest.raises(ValueError, match="out_channels equal to in_channels"):
        REDCNN(in_channels=1, out_channels=3)


def test_every_parameter_gets_a_finite_gradient():
    network = REDCNN(channels=8)
    network(torch.rand(2, 1, 25, 31)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_eval_is_deterministic_and_changes_no_weight():
    network, image = REDCNN(channels=8).eval(), torch.rand(1, 1, 33, 24)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(network(image), network(image))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bfloat16_is_close():
    network, image = REDCNN(channels=8).eval(), torch.rand(1, 1, 32, 32)
    exact = network(image)
    low = network.bfloat16()(image.bfloat16())
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    network, image = REDCNN(channels=8).eval(), torch.rand(1, 1, 40, 48)
    assert_close(network.cuda()(image.cuda()).cpu(), network.cpu()(image), rtol=1e-4, atol=1e-4)


def test_deblurgan_generator_has_the_papers_size():
    # 7x7, two strided and two transposed 3x3, nine blocks of two 3x3 with 256 channels; a bias at the end only
    ends, strided, blocks = 2 * 3 * 64 * 49 + 3, 2 * 9 * (64 * 128 + 128 * 256), 9 * 2 * 9 * 256**2
    count = sum(parameter.numel() for parameter in DeblurGANGenerator().parameters())
    assert count == ends + strided + blocks == 11_372_931


def test_deblurgan_changes_the_image_by_at_most_one():
    network, image = DeblurGANGenerator(1, 1, channels=4, blocks=1), torch.rand(1, 1, 24, 24)
    torch.nn.init.normal_(network.layers[-2].weight, std=100)
    change = network(image) - image
    assert 0.99 < change.abs().max() <= 1 + 1e-6


def test_deblurgan_drops_features_in_training_only():
    network, image = DeblurGANGenerator(1, 1, channels=4, blocks=1), torch.rand(1, 1, 24, 24)
    assert not torch.equal(network.train()(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_discriminator_scores_patches_of_70_pixels():
    network = DeblurGANDiscriminator(1, channels=4)
    assert network(torch.rand(2, 1, 24, 33)).shape == (2, 1, 1, 2)
    for module in network.modules():  # which looks at the whole image
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda x: x
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0, 0, 7, 7], image)
    assert (gradient[0, 0].abs().sum(0) > 0).sum() == (gradient[0, 0].abs().sum(1) > 0).sum() == 70


def test_discriminator_learns_and_refuses_wrong_input():
    network = DeblurGANDiscriminator(1, channels=4)
    network(torch.rand(2, 1, 40, 40)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    for wrong in (torch.rand(1, 3, 32, 32), torch.rand(1, 1, 23, 32), torch.rand(0, 1, 32, 32), torch.rand(1, 32, 32)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, 1, H, W\) with sides of at least 24"):
            network(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["ct_denoise", "mri_superresolution", "pet_synthesis"])
@pytest.mark.parametrize("overlay", ["unet", "restormer"])
def test_comparators_are_about_the_light_network_and_keep_any_size(bundle, overlay):
    torch.manual_seed(0)
    parser = ConfigParser()
    root = Path(__file__).parents[2]
    configs = [
        root / "bundles" / f"{bundle}_restore_rwkv" / "configs" / name for name in ("train.json", "train_cpu.json")
    ]
    overlay = root / "scripts" / "experiments" / f"{bundle}_restore_rwkv" / f"{overlay}.json"
    parser.read_config([str(path) for path in (*configs, overlay)])
    network = parser.get_parsed_content("network_def").eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(1.19e6, rel=0.05)
    for size in [(1, 1), (13, 22), (16, 32)]:
        image = torch.rand(2, 1, *size)
        restored = network(image)
        assert restored.shape == image.shape
        assert_close(restored, image + crop(network.network(network.padded(image)), *size))


def test_residual_refuses_wrong_input():
    network = Residual(torch.nn.Conv2d(2, 2, 1, bias=False), in_channels=2, multiple=4)
    torch.nn.init.dirac_(network.network.weight)
    assert_close(network(torch.ones(1, 2, 3, 5)), 2 * torch.ones(1, 2, 3, 5))
    with pytest.raises(ValueError, match=r"expected a non-empty \(B, 2, H, W\)"):
        network(torch.rand(1, 1, 8, 8))


def test_residual_with_neighbors_is_on_the_middle_slice():
    convolution = torch.nn.Conv2d(5, 1, 1, bias=False)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    convolution.weight.data = weights.view(1, 5, 1, 1)
    image = torch.rand(2, 5, 13, 9)
    expected = image[:, 2:3] + (image * weights.view(1, 5, 1, 1)).sum(dim=1, keepdim=True)
    assert_close(Residual(convolution, multiple=8, context=2)(image), expected)


@pytest.mark.parametrize(("channels", "context"), [(3, 1), (1, -1)])
def test_residual_refuses_such_context(channels, context):
    with pytest.raises(ValueError, match="context must be at least 0"):
        Residual(torch.nn.Identity(), in_channels=channels, context=context)
