"""The exportable form of the routing network computes what the network computes, in PyTorch and in onnxruntime."""

import pytest
import torch

from medrestore_monai.bundles.onnx import OnnxNetwork, export_onnx
from medrestore_monai.networks import RestoreRWKVRouting
from medrestore_monai.networks.restore_rwkv.routing_planes import _route_pixels
from medrestore_monai.networks.routing import SpatialRouting

SIZES = [(2, 1, 16, 24), (1, 1, 17, 33), (3, 1, 3, 9), (1, 1, 1, 1), (1, 1, 1, 40)]


def tiny():
    torch.manual_seed(0)
    options = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
    network = RestoreRWKVRouting(**options, prompt_channels=8, prompt_width=4).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    for routing in network.channel_routing:  # starts as the identity
        torch.nn.init.normal_(routing.gate.weight, std=0.3)
        torch.nn.init.normal_(routing.gate.bias, std=0.3)
    return network.requires_grad_(False)


def assert_same(actual, expected, x):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float((expected - x).abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_form_computes_the_same(size):
    network, x = tiny(), torch.rand(size)
    for ready in (network, network.merged()):
        form = ready.exportable()
        assert form.state_dict().keys() == ready.state_dict().keys()
        assert_same(form(x), network(x), x)


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_pixels_take_the_same_experts_also_where_two_are_wanted_alike(chosen):
    torch.manual_seed(0)
    routing, x, prompt = SpatialRouting(5, 3, chosen=chosen).eval(), torch.randn(2, 4, 7, 5), torch.randn(2, 3)
    with torch.no_grad():
        routing.from_pixel.weight[1] = routing.from_pixel.weight[2]
        routing.from_prompt.weight[1] = routing.from_prompt.weight[2]
        routing.from_prompt.bias[1] = routing.from_prompt.bias[2]
        expected, _ = routing(x, prompt)
        routed = _route_pixels(routing, x.permute(0, 3, 1, 2), prompt)
    torch.testing.assert_close(routed.permute(0, 2, 3, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_computes_the_same_at_other_sizes(tmp_path):
    network = tiny()
    export_onnx(network.merged(), tmp_path / "routing.onnx")
    run = OnnxNetwork(tmp_path / "routing.onnx")
    for size in SIZES:
        x = torch.rand(size)
        assert_same(run(x), network(x), x)
