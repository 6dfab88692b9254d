"""A kernel that this machine has not run before is compared with PyTorch once before ``auto`` takes it."""

import warnings

import pytest
import torch

from medrestore_monai.cli import doctor
from medrestore_monai.ops import re_wkv
from medrestore_monai.ops.biwkv import choose_backend, forms
from medrestore_monai.ops.biwkv import torch_form as biwkv_torch
from medrestore_monai.ops.biwkv import triton_form as biwkv_triton


def right(decay, first, k, v, r, columns, divisor):
    return biwkv_torch.re_wkv(decay / divisor, first / divisor, k, v, r, columns)


def wrong_result(*arguments):
    return right(*arguments) * 1.01


def wrong_gradient(decay, first, k, v, r, columns, divisor):
    return right(decay, first, k, v, r.detach(), columns, divisor) + 0 * r


def not_a_number(*arguments):
    return right(*arguments) * float("nan")


def wrong_second_scan(decay, first, k, v, r, columns, divisor):
    mixed = right(decay[:1], first[:1], k, v, None, columns, divisor)
    return right(decay[1:], first[1:], k, mixed, r, columns, divisor)


def broken(*arguments):
    raise RuntimeError("no compiler\nfor sm_90")


FLAWED = {
    wrong_result: "its result differs by 1.0e-02",
    wrong_gradient: "its gradient of the receptance differs",
    not_a_number: "its result differs by nan",
    wrong_second_scan: "its result differs",
    broken: "it fails: RuntimeError: no compiler for sm_90",
}


@pytest.fixture
def install(monkeypatch):
    """Puts a form in the place of Triton's kernels, for the CPU; counts how often it is called."""
    monkeypatch.delenv("MEDRESTORE_BIWKV", raising=False)
    monkeypatch.setattr(forms, "_verdicts", {})

    def install(form):
        calls = []

        def counted(*arguments):
            calls.append(arguments)
            return form(*arguments)

        fake = forms._FORMS["triton"]._replace(re_wkv=counted, refusal=lambda k: "")
        no_c = forms._FORMS["cpu"]._replace(refusal=lambda k: "not here")
        monkeypatch.setattr(forms, "_FORMS", {**forms._FORMS, "cpu": no_c, "triton": fake})
        return calls

    return install


def attention(**options):
    torch.manual_seed(0)
    small = [torch.randn(2, 3) for _ in range(2)]
    return re_wkv(*small, *(torch.randn(1, 4, 5, 3) for _ in range(3)), divisor=20.0, **options)


def test_a_kernel_that_agrees_is_taken_and_compared_once(install):
    calls = install(right)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        state = torch.get_rng_state()
        assert choose_backend(torch.zeros(1, 2, 2, 3)) == "triton"
        assert torch.equal(torch.get_rng_state(), state)
        assert len(calls) == 1
        attention()
        attention()
    assert len(calls) == 3
    assert calls[0][2].device == calls[1][2].device
    assert calls[0][2].shape != calls[1][2].shape


@pytest.mark.parametrize("form", FLAWED, ids=lambda form: form.__name__)
def test_one_that_does_not_leaves_the_work_to_pytorch_and_says_so_once(install, form):
    calls = install(form)
    expected = attention(backend="torch")
    with pytest.warns(UserWarning, match=rf"kernel 'triton' does not agree with PyTorch on cpu, {FLAWED[form]}"):
        result = attention()
    assert torch.equal(result, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend(torch.zeros(1, 2, 2, 3)) == "torch"
    assert len(calls) == 1


def test_one_that_is_named_is_used_unasked(install):
    calls = install(wrong_result)
    torch.testing.assert_close(attention(backend="triton"), 1.01 * attention(backend="torch"))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (right, "Triton kernel, which agrees with PyTorch on a small image here"),
        (wrong_result, "pure PyTorch: the Triton kernel does not agree with it here, its result differs by 1.0e-02"),
    ],
)
def test_doctor_shows_which_it_is(install, monkeypatch, form, expected):
    install(form)
    monkeypatch.setattr(biwkv_triton, "refusal", lambda k: "")
    assert doctor._cuda_kernel(torch.device("cpu")).startswith(expected)
    monkeypatch.setattr(biwkv_triton, "refusal", lambda k: "Triton is not installed.")
    assert doctor._cuda_kernel(torch.device("cpu")) == "pure PyTorch: Triton is not installed."
