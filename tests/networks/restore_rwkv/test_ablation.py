"""The networks of the paper's tables 5 to 7: by override, any size, trainable, and the same in every form."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.networks.rwkv_blocks import ATTENTIONS, SCANS, RRWKVBlock
from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS
from medrestore_monai.ops import biwkv_reference
from medrestore_monai.ops.uniwkv import uniwkv_reference

VARIANTS = [*itertools.product(ATTENTIONS, TOKEN_SHIFTS), *((scan, "omni") for scan in SCANS)]


def tiny(attention="re-wkv", token_shift="omni", **options):
    torch.manual_seed(0)
    shape = {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}
    network = RestoreRWKV(**shape, attention=attention, token_shift=token_shift, **options)
    torch.nn.init.normal_(network.output.weight, std=0.1)
    return network


def scans(attention, mix, key, value):
    """Mix the values by the formulas, quadratic in the number of tokens."""
    height, width = key.shape[1:3]
    tokens = height * width
    formula = uniwkv_reference if attention == "uni-wkv" else biwkv_reference

    def scanned(decay, bonus, value, turned):
        k, v = ((x.transpose(1, 2) if turned else x).flatten(1, 2) for x in (key, value))
        mixed = formula(decay, bonus, k, v)
        return mixed.unflatten(1, (width, height)).transpose(1, 2) if turned else mixed.view_as(key)

    decays, bonuses = mix.decay / tokens, mix.bonus / tokens
    if attention == "sum":
        return scanned(decays[0], bonuses[0], value, False) + scanned(decays[1], bonuses[1], value, True)
    for number, (decay, bonus) in enumerate(zip(decays, bonuses, strict=True)):
        value = scanned(decay, bonus, value, (number % 2 == 1) != (attention == "bi-wkv-columns"))
    return value


@pytest.mark.parametrize(("attention", "token_shift"), VARIANTS)
def test_a_block_is_what_the_formulas_say(attention, token_shift):
    torch.manual_seed(0)
    block, x = RRWKVBlock(8, 2, attention, token_shift), torch.randn(2, 5, 7, 8)
    space, channel = block.spatial, block.channel
    assert space.decay.shape == ((2 if attention in ("re-wkv", "sum") else 1), 8)
    y = space.shift(F.layer_norm(x, (8,)))
    gate, key, value = (F.linear(y, layer.weight) for layer in (space.receptance, space.key, space.value))
    middle = x + F.linear(torch.sigmoid(gate) * scans(attention, space, key, value), space.output.weight)
    y = channel.shift(F.layer_norm(middle, (8,)))
    hidden = F.linear(y, channel.key.weight).relu().square()
    change = F.linear(y, channel.receptance.weight).sigmoid() * F.linear(hidden, channel.value.weight)
    assert_close(block(x), middle + change, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "token_shift"), VARIANTS)
def test_every_variant_trains_and_restores_alike_in_every_form(attention, token_shift):
    network, image = tiny(attention, token_shift), torch.rand(2, 1, 19, 25)
    expected = network(image)
    expected.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    merged = network.merged()
    with torch.inference_mode():
        assert_close(network(image), expected, rtol=0, atol=1e-5)
        assert_close(merged(image), expected, rtol=0, atol=1e-5)
        low = merged.in_bfloat16()(image)
        assert network(torch.rand(1, 1, 1, 3)).shape == (1, 1, 1, 3)
    assert 0 < (low - expected).abs().max() < 0.05 * (expected - image).abs().max()
    if "uni" in token_shift or "uni" in attention or attention in SCANS:
        with pytest.raises(ValueError, match=r"neither Uni-WKV nor Uni-Shift|columns nor summed ones"):
            merged.exportable()
    else:
        assert_close(merged.exportable()(image), expected, rtol=0, atol=1e-5)


def test_uni_wkv_and_uni_shift_look_back_only():
    network, image = RRWKVBlock(4, 2, "uni-wkv", "uni"), torch.randn(1, 3, 5, 4)
    changed = image.clone()
    changed[0, 1, 2, 0] += 1  # token 7
    difference = (network(changed) - network(image)).flatten(1, 2).abs().amax(dim=(0, 2))
    assert bool((difference[:7] < 1e-7).all())  # not 0 where a product takes its rows in another order
    assert bool((difference[7:] > 1e-5).all())


@pytest.mark.parametrize("attention", SCANS)
def test_the_scans_of_tables_6_and_7_take_a_training_step(attention):
    network, image = tiny(attention).train(), torch.rand(2, 1, 16, 24)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss = F.l1_loss(network(image), image.square())
    loss.backward()
    optimizer.step()
    for (name, parameter), old in zip(network.named_parameters(), before, strict=True):
        assert not torch.equal(parameter, old), name
    with torch.no_grad():
        assert F.l1_loss(network(image), image.square()) < loss


def test_scans_alternate_from_block_to_block_in_the_order_of_the_pass():
    network = RestoreRWKV(dim=8, num_blocks=(1, 2, 1, 2), num_refinement_blocks=3, attention="alternating")
    seen = []
    for block in network.modules():
        if isinstance(block, RRWKVBlock):
            block.register_forward_hook(lambda module, inputs, output: seen.append(module.spatial.columns))
    network(torch.rand(1, 1, 8, 8))
    assert seen == [number % 2 == 1 for number in range(6 + 4 + 3)]
    rows = RestoreRWKV(dim=8, num_blocks=(1, 2, 1, 2), num_refinement_blocks=3, attention="bi-wkv")
    assert network.state_dict().keys() == rows.state_dict().keys()


def test_turned_images_turn_a_scan_along_rows_into_one_along_columns():
    torch.manual_seed(0)
    rows, x = RRWKVBlock(8, 2, "bi-wkv", "quad"), torch.randn(1, 5, 7, 8)
    columns = RRWKVBlock(8, 2, "bi-wkv-columns", "quad")
    columns.load_state_dict(rows.state_dict())
    x = x.clone()
    for block in (rows, columns):
        block.spatial.shift = block.channel.shift = torch.nn.Identity()
    assert_close(columns(x), rows(x.transpose(1, 2)).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_the_default_is_the_papers_network():
    state, same = tiny().state_dict(), tiny("re-wkv", "omni").state_dict()
    assert state.keys() == same.keys()
    assert "encoder.0.0.spatial.shift.kernel5" in state
    assert state["encoder.0.0.spatial.decay"].shape == (2, 8)


def test_unknown_variants_are_refused():
    with pytest.raises(
        ValueError, match=r"attention must be one of re-wkv, bi-wkv, uni-wkv, bi-wkv-columns, .* got 'tri-wkv'"
    ):
        tiny("tri-wkv")
    with pytest.raises(ValueError, match="token_shift must be one of omni, quad, uni, got 'q'"):
        tiny(token_shift="q")
