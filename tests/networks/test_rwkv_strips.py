"""R-RWKV blocks in inference: strips of rows, and the compiled form, against the block that reads like the paper."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks import rwkv_strips
from medrestore_monai.networks.rwkv_blocks import RRWKVBlock
from medrestore_monai.networks.rwkv_strips import run_blocks
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

# a machine without a C compiler has no kernel; .ci/run fails where there is none
needs_kernel = pytest.mark.skipif(not biwkv_cpu.is_available(), reason=biwkv_cpu.unavailable_reason())
SHAPES = [(2, 1, 1, 3), (1, 1, 70, 4), (1, 70, 1, 8), (1, 17, 23, 20), (2, 66, 65, 16), (1, 3, 130, 51), (1, 9, 7, 200)]


def random_block(channels):
    torch.manual_seed(channels)
    block = RRWKVBlock(channels).requires_grad_(False)
    for norm, gamma in ((block.norm1, block.gamma1), (block.norm2, block.gamma2)):
        for parameter in (norm.weight, norm.bias, gamma):
            torch.nn.init.normal_(parameter)
    return block


def exact(block, x):
    """The block as it reads, in float64."""
    twin = random_block(x.shape[-1])
    twin.load_state_dict(block.state_dict())
    return twin.double()(x.double())


@pytest.fixture(params=range(biwkv_cpu._widest() + 1))
def instruction_set(request, monkeypatch):
    """Run with every variant of the kernel that this machine has: generic, AVX2, AVX-512, AVX-512 BF16, AMX BF16."""
    monkeypatch.setattr(biwkv_cpu, "_widest", lambda: request.param)


@needs_kernel
@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_compiled_blocks_match_the_formula(monkeypatch, shape, dtype, tolerance):
    monkeypatch.setattr(rwkv_strips, "run_block_", None)  # nothing else may compute
    block = random_block(shape[-1])
    x = torch.randn(shape).to(dtype)
    expected = exact(block, exact(block, x))
    result = run_blocks([block.to(dtype), block], x.clone())
    assert result.dtype == dtype
    assert_close(result.double() / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=tolerance)


@needs_kernel
@pytest.mark.skipif(biwkv_cpu._widest() < 3, reason="a processor without products in bfloat16 has no such variant")
@pytest.mark.parametrize("shape", SHAPES)
def test_products_in_bfloat16_cost_no_more_than_their_rounding(monkeypatch, shape):
    block, x = random_block(shape[-1]), torch.randn(shape).bfloat16()
    expected = exact(block, x)
    errors = []
    for variant in range(2, biwkv_cpu._widest() + 1):
        monkeypatch.setattr(biwkv_cpu, "_widest", lambda variant=variant: variant)
        result = run_blocks([block], x.clone())
        errors.append(((result.double() - expected).square().mean() / expected.square().mean()).sqrt())
    assert max(errors[1:]) < 2 * errors[0]  # 2**-9 of each input is lost, as of the features that are stored


@needs_kernel
@pytest.mark.parametrize(("what", "value"), [("key", 300.0), ("decay", 100.0)])
def test_numbers_out_of_range_of_the_compiled_block(what, value):
    block = random_block(5)
    block.spatial.key.weight *= value if what == "key" else 1.0
    block.spatial.decay *= value if what == "decay" else 1.0
    x = torch.randn(1, 9, 11, 5)
    expected = exact(block, x)
    room = [torch.empty_like(x) for _ in range(3)]
    changed = x.clone()
    assert not rwkv_strips._mix_space_compiled(block, changed, room)
    assert torch.equal(changed, x)
    assert_close(run_blocks([block], x).double(), expected, rtol=1e-4, atol=1e-4)


@needs_kernel
def test_a_pixel_that_is_not_a_number_is_not_hidden():
    x = torch.randn(1, 6, 9, 4)
    x[0, 2, 3, 1] = torch.nan
    assert run_blocks([random_block(4)], x).isnan().all()  # the scans take it everywhere


@needs_kernel
def test_number_of_threads_changes_nothing(monkeypatch):
    block, x = random_block(32), torch.randn(1, 150, 180, 32)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(run_blocks([block], x.clone()))
    assert torch.equal(*results)


def test_other_blocks_run_in_strips():
    """Scans that the compiled form does not know, and a number of them."""
    x = torch.randn(1, 12, 10, 8)
    for options in ({"recurrences": 1}, {"recurrences": 3}, {"attention": "sum"}, {"token_shift": "uni"}):
        torch.manual_seed(1)
        block = RRWKVBlock(8, **options).requires_grad_(False)
        assert not rwkv_strips._is_compiled(block, x)
        assert_close(run_blocks([block], x.clone()), block(x), rtol=1e-4, atol=1e-5)
