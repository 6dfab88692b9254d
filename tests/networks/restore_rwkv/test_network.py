"""Restore-RWKV: the paper's size, any image size, merged inference, checkpointing, gradients, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from medrestore_monai.memory import measure_bytes_per_pixel
from medrestore_monai.networks import RestoreRWKV, rwkv_strips
from medrestore_monai.networks.residual import pad_to_multiple
from medrestore_monai.networks.restore_rwkv.network import _convolve_to_few
from medrestore_monai.networks.rwkv_blocks import RRWKVBlock
from medrestore_monai.networks.rwkv_strips import run_block_
from medrestore_monai.networks.token_shifts import OmniShift
from medrestore_monai.ops import biwkv_reference
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

LIGHT = {"dim": 16, "num_blocks": (1, 2, 2, 2), "num_refinement_blocks": 1}
TINY = {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}


def tiny(**options):
    torch.manual_seed(0)
    network = RestoreRWKV(**{**TINY, **options})
    torch.nn.init.normal_(network.output.weight, std=0.1)  # the identity at the start would hide differences
    return network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network):
    with FlopCounterMode(display=False) as counter:  # with gradients: their form has no products in place
        network(torch.zeros(1, 1, 64, 64))
    bi_wkv = sum(v for k, v in counter.flop_counts["Global"].items() if "bmm" in str(k))  # its matrix form
    return (counter.get_total_flops() - bi_wkv) / 2 * 4  # of 128x128: all of them are for a pixel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parameters", "gigaflops"), [({}, 27.91e6, 37.46), (LIGHT, 1.187e6, 1.45)], ids=["base", "light"]
)
def test_has_the_papers_size(options, parameters, gigaflops):
    network = RestoreRWKV(**options).merged()
    assert count(network) == pytest.approx(parameters, rel=0.01)
    assert multiply_adds(network) / 1e9 == pytest.approx(gigaflops, rel=0.05)


@pytest.mark.slow
def test_biases_are_where_the_public_code_has_them():
    network, plain, image = tiny(bias=True), tiny(), torch.rand(1, 1, 19, 24)
    added = {name for name, _ in network.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert added == {"embed.bias", "fuse.0.bias", "fuse.1.bias", "output.bias"}
    state = dict(network.state_dict())
    plain.load_state_dict({name: value for name, value in state.items() if name not in added})
    network.load_state_dict({name: value * 0 if name in added else value for name, value in state.items()})
    assert_close(network(image), plain(image))
    with torch.no_grad():
        network.output.bias.fill_(0.25)
        assert_close(network(image), plain(image) + 0.25)
        for name in sorted(added):
            torch.nn.init.normal_(network.get_parameter(name))
    expected = network(image)
    expected.square().mean().backward()
    assert all(network.get_parameter(name).grad.abs().max() > 0 for name in added)
    with torch.inference_mode():  # strip by strip, merged, and on planes
        assert_close(network(image), expected, rtol=0, atol=1e-5)
        assert_close(network.merged()(image), expected, rtol=0, atol=1e-5)
        assert_close(network.merged().exportable()(image), expected, rtol=0, atol=1e-5)
        low = network.merged().in_bfloat16()(image)
    assert 0 < (low - expected).abs().max() < 0.05 * (expected - image).abs().max()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (5, 3), (8, 8), (13, 22), (33, 40)])
def test_keeps_any_size(size):
    image = torch.rand(2, 1, *size)
    assert tiny()(image).shape == image.shape


def test_pads_by_reflection_or_else_by_repeating():
    image = torch.arange(10.0).view(1, 1, 2, 5)
    padded = pad_to_multiple(image, 8)
    assert padded.shape == (1, 1, 8, 8)
    assert_close(padded[0, 0, 0], torch.tensor([0.0, 1, 2, 3, 4, 3, 2, 1]))  # reflected
    assert_close(padded[0, 0, :, 0], torch.tensor([0.0, 5, 5, 5, 5, 5, 5, 5]))  # two rows are too few to reflect


def test_colors_and_wrong_input():
    assert tiny(in_channels=3, out_channels=3)(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)
    network = tiny()
    for wrong in (torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8), torch.rand(0, 1, 8, 8), torch.rand(1, 1, 0, 8)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, 1, H, W\)"):
            network(wrong)
    with pytest.raises(ValueError, match="out_channels equal to in_channels"):
        RestoreRWKV(in_channels=1, out_channels=3)
    with pytest.raises(ValueError, match="4 numbers"):
        RestoreRWKV(num_blocks=(1, 1))


def test_omni_shift_is_the_sum_of_its_branches():
    torch.manual_seed(0)
    shift = OmniShift(6)
    torch.nn.init.normal_(shift.alpha)
    x = torch.randn(2, 7, 9, 6)
    image = x.permute(0, 3, 1, 2)
    branches = [image]
    for kernel, pad in ((shift.kernel1, 0), (shift.kernel3, 1), (shift.kernel5, 2)):
        branches.append(F.conv2d(image, kernel, padding=pad, groups=6))
    expected = sum(a * branch for a, branch in zip(shift.alpha, branches, strict=True)).permute(0, 2, 3, 1)
    assert_close(shift(x), expected, rtol=1e-5, atol=1e-5)
    assert_close(shift.merged()(x), expected, rtol=1e-5, atol=1e-5)


def test_block_is_the_papers_formula():
    torch.manual_seed(0)
    block = RRWKVBlock(4)
    torch.nn.init.normal_(block.gamma1)
    torch.nn.init.normal_(block.gamma2)
    x = torch.randn(1, 3, 5, 4)

    def norm(y, layer):
        return F.layer_norm(y, (4,), layer.weight, layer.bias)

    s, c = block.spatial, block.channel
    y = s.shift(norm(x, block.norm1))
    r, k, v = (y @ layer.weight.T for layer in (s.receptance, s.key, s.value))
    v = biwkv_reference(s.decay[0] / 15, s.bonus[0] / 15, k.reshape(1, 15, 4), v.reshape(1, 15, 4)).view(1, 3, 5, 4)
    kt, vt = (z.transpose(1, 2).reshape(1, 15, 4) for z in (k, v))
    v = biwkv_reference(s.decay[1] / 15, s.bonus[1] / 15, kt, vt).view(1, 5, 3, 4).transpose(1, 2)
    x1 = x + block.gamma1 * ((torch.sigmoid(r) * v) @ s.output.weight.T)
    y = c.shift(norm(x1, block.norm2))
    mixed = torch.sigmoid(y @ c.receptance.weight.T) * (torch.relu(y @ c.key.weight.T) ** 2 @ c.value.weight.T)
    assert_close(block(x), x1 + block.gamma2 * mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strip", [1, 8 * 24 * 5, 2**18])  # strips of 4 rows, of 5 and a rest, of the whole image
@pytest.mark.parametrize("size", [(19, 24), (1, 2), (3, 9)])
def test_inference_in_strips_equals_training(monkeypatch, strip, size):
    monkeypatch.setattr("medrestore_monai.networks.rwkv_strips._STRIP_CPU", strip)
    monkeypatch.setenv("MEDRESTORE_BIWKV", "torch")  # the compiled form of blocks has no strips
    network, image = tiny().eval(), torch.rand(2, 1, *size)
    expected = network(image)
    with torch.inference_mode():
        assert_close(network(image), expected, rtol=0, atol=5e-6)
        assert_close(network.merged()(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 9, 10, 13])  # a strip has 4 rows and the kernel sees 2 more
def test_block_in_place_is_the_block(monkeypatch, rows):
    monkeypatch.setattr("medrestore_monai.networks.rwkv_strips._STRIP_CPU", 1)
    torch.manual_seed(0)
    block, x = RRWKVBlock(4), torch.randn(2, rows, 3, 4)
    for parameter in (block.gamma1, block.gamma2, block.norm1.bias, block.norm2.bias):
        torch.nn.init.normal_(parameter)
    expected = block(x)
    changed = x.clone()
    assert run_block_(block, changed) is changed
    assert_close(changed, expected, rtol=1e-5, atol=1e-5)


def test_inference_leaves_the_image_alone():
    network, image = tiny().eval().merged(), torch.rand(1, 1, 24, 24)
    before = image.clone()
    with torch.no_grad():
        network(image)
    assert torch.equal(image, before)


@pytest.mark.slow
@pytest.mark.skipif(not biwkv_cpu.is_available(), reason="the compiled Bi-WKV was not built")
def test_inference_needs_little_memory():
    network = tiny().eval().merged()
    live = measure_bytes_per_pixel(network, torch.rand(1, 1, 256, 256)) / 1.25  # less what it adds for the unseen
    # at full size: features, receptance, key, value and two results of 2 * dim numbers, and the states of a scan
    assert live < 4 * 2 * TINY["dim"] * 7.5


def test_inference_under_autocast_is_close():
    network, image = tiny().eval(), torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            low = network(image)
    assert 0 < (low - exact).abs().max() < 0.03 * (exact - image).abs().max()


def test_merged_computes_the_same_and_changes_nothing():
    network, image = tiny().eval(), torch.rand(1, 1, 30, 37)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    merged = network.merged()
    assert count(merged) < count(network)
    assert_close(merged(image), network(image), rtol=0, atol=1e-5)
    assert network.state_dict().keys() == before.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_parameter_gets_a_finite_gradient():
    network = tiny()
    network(torch.rand(2, 1, 16, 24)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.slow
def test_checkpointing_gives_the_same_gradients():
    image = torch.rand(1, 1, 16, 16)
    gradients = []
    for use_checkpoint in (False, True):
        network = tiny(use_checkpoint=use_checkpoint)
        network(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert_close(gradients[1], gradients[0])


def test_bfloat16_is_close():
    network, image = tiny().eval(), torch.rand(1, 1, 32, 32)
    exact = network(image)
    low = network.bfloat16()(image.bfloat16())
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), exact, rtol=0.05, atol=0.05)


def test_bfloat16_weights_take_float32_images_and_keep_decay_exact():
    network, image = tiny().eval(), torch.rand(1, 1, 33, 32)
    before = [parameter.clone() for parameter in network.parameters()]
    twin = network.merged().in_bfloat16()
    with torch.inference_mode():
        low, exact = twin(image), network(image)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.03 * (exact - image).abs().max()
    types = {name.rpartition(".")[2]: parameter.dtype for name, parameter in twin.named_parameters()}
    assert types["decay"] == types["bonus"] == torch.float32
    assert types["weight"] == types["kernel"] == torch.bfloat16
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_eval_is_deterministic_and_changes_no_weight():
    network, image = tiny().eval(), torch.rand(1, 1, 24, 24)
    assert torch.equal(network(image), network(image))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    network, image = tiny().eval(), torch.rand(1, 1, 40, 48)
    assert_close(network.cuda()(image.cuda()).cpu(), network.cpu()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_papers_size_takes_a_training_step():
    torch.manual_seed(0)
    network = RestoreRWKV(use_checkpoint=True).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)  # small enough for one step to lead downhill
    image, before = torch.rand(1, 1, 16, 16), network.output.weight.detach().clone()
    restored = network(image)
    loss = (restored - image.square()).abs().mean()
    loss.backward()
    optimizer.step()
    assert restored.shape == image.shape
    assert not torch.equal(network.output.weight, before)
    with torch.no_grad():
        assert F.l1_loss(network(image), image.square()) < loss


def test_a_layer_is_not_changed_while_it_computes_in_another_type(monkeypatch):
    """Other threads may use it at the same time."""
    monkeypatch.setattr(rwkv_strips, "_computed_type", lambda dtype, device: torch.float32)
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append((layer.weight.dtype, layer.weight is weight, x.dtype))
            return super().forward(x)

    layer = Looks(3, 2).bfloat16()
    weight, x = layer.weight, torch.rand(4, 3).bfloat16()
    with torch.no_grad():
        y = rwkv_strips.apply_layer(layer, x)
    assert seen == [(torch.bfloat16, True, torch.float32)]
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.linear(x.float(), weight.float(), layer.bias.float()).bfloat16())


@pytest.mark.parametrize(
    ("batch", "height", "width", "outputs"), [(1, 1, 1, 1), (2, 1, 7, 3), (1, 9, 2, 1), (2, 13, 11, 3)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_to_few_channels_is_that_convolution(batch, height, width, outputs, bias):
    convolution = torch.nn.Conv2d(5, outputs, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(batch, height, width, 5)
    expected = convolution.double()(x.double().permute(0, 3, 1, 2))
    with torch.no_grad():
        result = _convolve_to_few(convolution.float(), x)
    assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


def test_threads_do_not_change_a_convolution_to_few_channels():
    convolution, x = torch.nn.Conv2d(32, 1, 3, padding=1).requires_grad_(False), torch.randn(1, 96, 80, 32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                results.append(_convolve_to_few(convolution, x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
