"""The exportable form computes what the network computes: run by PyTorch, captured, saved, compiled and traced."""

import copy
import io

import pytest
import torch

from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.ops import biwkv_reference
from medrestore_monai.ops.re_wkv_planes import re_wkv_planes

SIZES = [(2, 1, 16, 24), (1, 1, 17, 33), (3, 1, 3, 9), (1, 1, 1, 1), (1, 1, 1, 40), (1, 1, 5, 13)]


def tiny(**options):
    network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, **options).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    for name, parameter in network.named_parameters():  # weights that one could forget without harm are drawn, too
        if "norm" in name or "gamma" in name or "alpha" in name:
            torch.nn.init.normal_(parameter, mean=1 if parameter.std() == 0 else 0, std=0.3)
    return network.requires_grad_(False)


def assert_same(actual, expected, x):
    change = float((expected - x).abs().max())
    # of an image of one pixel the change may be less than what float32 rounds of the sum with it
    torch.testing.assert_close(actual, expected, rtol=2**-22, atol=5e-6 * change)


def test_scans_on_planes_are_those_of_the_formula():
    tokens, channels = 5 * 7, 3
    decay, bonus = torch.randn(2, channels), torch.randn(2, channels)
    k, v = torch.randn(2, 2, channels, 5, 7)
    expected = v
    for scan in range(2):
        order = (0, 3, 2, 1) if scan else (0, 2, 3, 1)  # by columns, by rows
        keys, values = (x.permute(order).flatten(1, 2) for x in (k, expected))
        mixed = biwkv_reference(decay[scan] / tokens, bonus[scan] / tokens, keys, values)
        expected = (
            mixed.unflatten(1, (7, 5)).permute(0, 3, 2, 1) if scan else mixed.unflatten(1, (5, 7)).permute(0, 3, 1, 2)
        )
    torch.testing.assert_close(re_wkv_planes(decay, bonus, k, v), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("recurrences", [1, 3])
def test_the_form_computes_the_same(size, recurrences):
    network = tiny(recurrences=recurrences)
    x = torch.rand(size)
    for ready in (network, network.merged()):
        assert_same(ready.exportable()(x), network(x), x)


def test_the_form_shares_weights_and_state():
    network = tiny()
    form = network.exportable()
    assert form.state_dict().keys() == network.state_dict().keys()
    other = tiny().state_dict()
    form.load_state_dict(other)
    torch.testing.assert_close(dict(network.state_dict()), dict(other), rtol=0, atol=0)


@pytest.mark.parametrize("value", [61.0, -61.0, float("nan")])
def test_decays_beyond_the_exported_sums_are_refused(value):
    network = tiny()
    form, state = network.exportable(), copy.deepcopy(network.state_dict())
    state["decoder.1.0.spatial.decay"][1, 0] = value
    with pytest.raises(ValueError, match=r"max\|decay\| \+ max\|bonus\| <= 60, got"):
        form.load_state_dict(state)
    network.load_state_dict(state)
    with pytest.raises(ValueError, match=r"max\|decay\| \+ max\|bonus\| <= 60, got"):
        network.exportable()


@pytest.fixture(scope="module")
def captured():
    """A network, and its form captured by ``torch.export`` with batch, height and width left open."""
    torch.manual_seed(0)
    network = tiny()
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},)
    return network, torch.export.export(
        network.merged().exportable(), (torch.zeros(2, 1, 41, 70),), dynamic_shapes=shapes
    )


@pytest.mark.slow
def test_a_captured_program_is_saved_loaded_and_takes_other_sizes(captured):
    network, program = captured
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in [(2, 1, 16, 24), (1, 1, 17, 33), (3, 1, 9, 40)]:  # PyTorch captures 1 apart: from 9 pixels upward
        x = torch.rand(size)
        assert_same(loaded(x), network(x), x)


@pytest.mark.slow
def test_the_form_compiles_as_one_graph():
    torch._dynamo.reset()
    network = tiny()
    compiled = torch.compile(network.merged().exportable(), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        x = torch.rand(2, 1, 24, 17)
        assert_same(compiled(x), network(x), x)


@pytest.mark.slow
def test_a_trace_takes_other_sizes():
    network = tiny()
    traced = torch.jit.trace(network.merged().exportable(), torch.zeros(2, 1, 41, 70), check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in SIZES:
        x = torch.rand(size)
        assert_same(loaded(x), network(x), x)
