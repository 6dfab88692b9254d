import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks.restore_rwkv.routing_network import RestoreRWKVRouting
from medrestore_monai.networks.routing import ChannelRouting, RoutingPrompt, SpatialRouting, balance_loss, top_gates


def test_prompts_are_mixtures_of_the_dictionary():
    torch.manual_seed(0)
    prompt = RoutingPrompt(1, prompt_channels=7, entries=3, width=4)
    found = prompt(torch.rand(2, 1, 17, 23))
    assert found.shape == (2, 7)
    weights = torch.linalg.lstsq(prompt.dictionary.T, found.T).solution  # (3, 2)
    assert_close(weights.sum(0), torch.ones(2), atol=1e-4, rtol=0)
    assert bool((weights > 0).all())


def test_gates_of_the_two_largest_by_hand():
    gates = top_gates(torch.tensor([[0.0, 2.0, -1.0, 1.0]]), 2)
    share = torch.sigmoid(torch.tensor(1.0))
    assert_close(gates, torch.tensor([[0.0, share, 0.0, 1 - share]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gates_of_equal_logits_are_two_all_the_same(dtype):
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        gates = top_gates(logits, 2)
    assert (gates > 0).sum(dim=-1).tolist() == [2, 2]
    assert gates[0, 1] == gates[0].max()
    assert_close(gates.float().sum(dim=-1), torch.ones(2), atol=1e-2, rtol=0)


def test_a_pixel_takes_its_two_experts_only():
    torch.manual_seed(0)
    routing = SpatialRouting(5, 3).eval()
    x, prompt = torch.randn(1, 4, 6, 5), torch.randn(1, 3)
    routed, balance = routing(x, prompt)
    assert balance == 0
    logits = (routing.from_pixel(x) + routing.from_prompt(prompt))[..., :4]
    first, second = logits[0, 2, 3].topk(2).indices.tolist()
    weights = logits[0, 2, 3, [first, second]].softmax(0)
    expected = x[0, 2, 3]
    for weight, expert in zip(weights, (first, second), strict=True):
        expected = expected + weight * routing.reduce[expert](
            torch.nn.functional.gelu(routing.expand[expert](x[0, 2, 3]))
        )
    assert_close(routed[0, 2, 3], expected)


def test_training_draws_noise_and_reaches_every_parameter():
    torch.manual_seed(0)
    routing = SpatialRouting(6, 3).train()
    x, prompt = torch.randn(2, 8, 9, 6), torch.randn(2, 3)
    first, balance = routing(x, prompt)
    second, _ = routing(x, prompt)
    assert not torch.equal(first, second)
    (first.square().mean() + balance).backward()
    for name, parameter in routing.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_balance_is_zero_for_even_use_and_grows_with_uneven_use():
    logits = torch.eye(4).repeat(8, 1) * 5  # every expert is the favorite as often
    spread = torch.full_like(logits, 0.5)
    even = balance_loss(top_gates(logits, 1), logits, logits, spread, 1)
    assert_close(even, torch.zeros(()), atol=1e-6, rtol=0)
    one = torch.zeros(32, 4)
    one[:, 0] = 5
    # all gates and all load on one of four experts: both coefficients of variation are sqrt(3)
    uneven = balance_loss(top_gates(one, 1), one, one, spread, 1)
    assert_close(uneven, torch.tensor(6.0), atol=1e-3, rtol=0)


def test_channel_routing_starts_as_the_identity():
    x, prompt = torch.randn(2, 3, 5, 4), torch.randn(2, 7)
    assert_close(ChannelRouting(4, 7)(x, prompt), x)


def test_too_many_experts_are_refused():
    with pytest.raises(ValueError, match="chosen must be in"):
        SpatialRouting(4, 3, experts=4, chosen=4)


LIGHT = {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "prompt_channels": 16, "prompt_width": 4}


@pytest.mark.slow
def test_the_default_has_the_papers_size():
    count = sum(parameter.numel() for parameter in RestoreRWKVRouting().merged().parameters())
    assert count == pytest.approx(24.85e6, rel=0.01)


@pytest.mark.parametrize("size", [(16, 16), (9, 21), (1, 1)])
def test_training_returns_images_and_balance_and_reaches_every_parameter(size):
    torch.manual_seed(0)
    network = RestoreRWKVRouting(**LIGHT).train()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    restored, balance = network(torch.rand(2, 1, *size))
    assert restored.shape == (2, 1, *size)
    assert balance.shape == ()
    assert balance.item() > 0
    ((restored**2).mean() + balance).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_evaluation_returns_images_alone_and_is_the_same_again():
    torch.manual_seed(0)
    network = RestoreRWKVRouting(**LIGHT).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    x = torch.rand(1, 1, 19, 24)
    expected = network(x)
    assert_close(network(x), expected, atol=0, rtol=0)
    with torch.no_grad():  # strip by strip, and merged
        assert_close(network(x), expected, atol=1e-5, rtol=0)
        assert_close(network.merged()(x), expected, atol=1e-5, rtol=0)


def test_the_prompt_changes_what_is_restored():
    torch.manual_seed(0)
    network = RestoreRWKVRouting(**LIGHT).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    x = torch.rand(1, 1, 16, 16)
    before = network(x)
    with torch.no_grad():
        network.prompt.dictionary.add_(1)
    assert not torch.allclose(network(x), before)


def test_a_batch_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="expected a non-empty"):
        RestoreRWKVRouting(**LIGHT)(torch.rand(1, 2, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_light_one_has_the_size_that_is_said_and_takes_a_training_step(precision):
    options = {"dim": 16, "num_blocks": (1, 2, 2, 2), "num_refinement_blocks": 1}
    network = RestoreRWKVRouting(**options, prompt_channels=64, prompt_width=16)
    assert sum(parameter.numel() for parameter in network.merged().parameters()) == pytest.approx(1.38e6, rel=0.01)
    take_a_step(network, 16, precision)


@pytest.mark.slow
def test_the_papers_size_takes_a_training_step():
    take_a_step(RestoreRWKVRouting(), 16, torch.float32)


def take_a_step(network, size, precision):
    """One step of Adam on one image brings every parameter to move, and the shape is kept."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    image = torch.rand(1, 1, size, size)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        restored, balance = network.train()(image)
        loss = (restored - image.square()).abs().mean() + 0.01 * balance
    assert restored.shape == image.shape
    loss.backward()
    before = network.output.weight.detach().clone()
    optimizer.step()
    assert torch.isfinite(loss)
    assert not torch.equal(network.output.weight, before)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
