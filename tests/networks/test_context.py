"""Networks that see neighboring slices: the residual is on the middle one, and weights of either kind fit the other."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks import RestoreRWKV, RestoreRWKVRouting

SHAPE = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
ROUTING = {**SHAPE, "prompt_channels": 8, "prompt_width": 4}
networks = pytest.mark.parametrize(("kind", "shape"), [(RestoreRWKV, SHAPE), (RestoreRWKVRouting, ROUTING)])


def build(kind, shape, context):
    torch.manual_seed(context)
    network = kind(**shape, context=context).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    return network


@networks
@pytest.mark.parametrize("size", [(9, 13), (16, 8), (1, 1)])
def test_the_middle_slice_is_restored(kind, shape, size):
    network, slab = build(kind, shape, 2), torch.rand(2, 5, *size)
    torch.nn.init.zeros_(network.output.weight)
    assert_close(network(slab), slab[:, 2:3], rtol=0, atol=0)
    assert network.in_channels == 5


@pytest.mark.slow
@networks
def test_neighbors_matter_and_merged_exported_and_training_forms_agree(kind, shape):
    network, slab = build(kind, shape, 1), torch.rand(2, 3, 11, 14)
    with torch.inference_mode():
        expected = network(slab)
        other = slab.clone()
        other[:, 0] += 0.5
        assert not torch.allclose(network(other), expected, atol=1e-4)
        assert_close(network.merged()(slab), expected, rtol=0, atol=1e-5)
        assert_close(network.merged().exportable()(slab), expected, rtol=0, atol=1e-5)
        assert (network.merged().in_bfloat16()(slab) - expected).abs().mean() < 0.02
    restored = network.train()(slab)
    restored = restored[0] if isinstance(restored, tuple) else restored
    restored.square().mean().backward()
    assert network.embed.weight.grad.abs().amax(dim=(0, 2, 3)).min() > 0


@networks
@pytest.mark.parametrize("context", [1, 3])
def test_weights_without_context_compute_the_same_in_a_network_with_it(kind, shape, context):
    single, network = build(kind, shape, 0), build(kind, shape, context)
    network.load_state_dict(network.with_neighbors(single.state_dict()))
    slab = torch.rand(1, 2 * context + 1, 10, 12)
    with torch.inference_mode():
        assert_close(network(slab), single(slab[:, context : context + 1]), rtol=0, atol=1e-6)


@networks
@pytest.mark.parametrize("less", [0, 1])
def test_weights_with_context_compute_the_same_with_copies(kind, shape, less):
    network, smaller = build(kind, shape, 2), build(kind, shape, less)
    smaller.load_state_dict(smaller.without_neighbors(network.state_dict()))
    slab = torch.rand(1, 2 * less + 1, 10, 12)
    outer = slab[:, less : less + 1].repeat(1, 2 - less, 1, 1)
    with torch.inference_mode():
        assert_close(smaller(slab), network(torch.cat([outer, slab, outer], dim=1)), rtol=0, atol=1e-5)


def test_weights_of_equal_context_and_of_color_stay():
    color, gray = RestoreRWKV(3, 3, **SHAPE), build(RestoreRWKV, SHAPE, 0)
    for network in (color, gray):
        for change in (network.with_neighbors, network.without_neighbors):
            assert_close(change(network.state_dict())["embed.weight"], network.embed.weight, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        color.load_state_dict(color.with_neighbors(gray.state_dict()))
    with pytest.raises(RuntimeError, match="size mismatch"):
        gray.load_state_dict(gray.without_neighbors(color.state_dict()))


def test_context_of_color_and_below_zero_are_refused():
    for options in ({"context": -1}, {"context": 1, "in_channels": 3, "out_channels": 3}):
        with pytest.raises(ValueError, match="context must be at least 0, and 0 for several channels"):
            RestoreRWKV(**{**SHAPE, **options})
    with pytest.raises(ValueError, match=r"expected a non-empty \(B, 5, H, W\)"):
        build(RestoreRWKV, SHAPE, 2)(torch.rand(1, 1, 8, 8))
