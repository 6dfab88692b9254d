"""Compare a kernel with the PyTorch form on a small image before it is used: nobody may have tried this device yet."""

from collections.abc import Callable

import torch
from torch import Tensor

from medrestore_monai.ops.biwkv import torch_form

_SIZE = (1, 19, 29, 8)  # B, H, W, C: more tokens than a chunk has, odd sides
_DIVISOR = float(_SIZE[1] * _SIZE[2])
# of the largest value; kernels that are right differ by 1e-5, those with a flaw by far more
_TOLERANCE = 1e-3
_NAMES = ("result", *(f"gradient of the {name}" for name in ("decay", "bonus", "keys", "values", "receptance")))


def disagreement(kernel: Callable[..., Tensor], device: torch.device) -> str:
    """Say how a kernel differs from the PyTorch form on a device; empty where they agree.

    Both scans of an image of 19x29 pixels are computed, forward and backward: the kernel in float32, the PyTorch form
    in float64. The inputs are no random numbers, so that nobody's random state changes.

    Args:
        kernel: a form of :func:`medrestore_monai.ops.re_wkv`, called with its first seven arguments.
        device: where to run both.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            actual = _value_and_gradients(kernel, device, torch.float32)
            expected = _value_and_gradients(_in_pytorch, device, torch.float64)
    except Exception as error:  # whatever a compiler or a driver raises
        return f"it fails: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}"
    for name, got, want in zip(_NAMES, actual, expected, strict=True):
        difference = float((got.double() - want).abs().max() / want.abs().max())
        if not difference <= _TOLERANCE:  # nor not-a-number
            return f"its {name} differs by {difference:.1e} of the largest value"
    return ""


def _in_pytorch(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, divisor: float
) -> Tensor:
    return torch_form.re_wkv(decay / divisor, first / divisor, k, v, r, columns)


def _value_and_gradients(form: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The result of two scans and the gradients of all five inputs."""
    channels = _SIZE[-1]
    shapes = ((2, channels), (2, channels), _SIZE, _SIZE, _SIZE)
    inputs = []
    for number, shape in enumerate(shapes):
        count = torch.Size(shape).numel()
        # waves of several lengths: neither constant nor random
        wave = torch.sin(torch.arange(count, dtype=torch.float64) * (0.7 + 0.31 * number) + number)
        scale = _DIVISOR if number == 1 else 1.0  # the bonus is divided, too
        inputs.append((wave * scale).view(shape).to(device, torch.float32).to(dtype).requires_grad_())
    value: Tensor = form(*inputs, False, _DIVISOR)
    seed = torch.cos(torch.arange(value.numel(), dtype=torch.float64) * 1.3).view(_SIZE).to(device, dtype)
    return [value.detach(), *torch.autograd.grad(value, inputs, seed)]
