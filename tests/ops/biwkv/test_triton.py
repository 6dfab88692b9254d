"""The Triton kernels of Bi-WKV: when they are chosen, and what they compute in Triton's interpreter, without a GPU.

On a CUDA device they are tested by ``tests/test_gpu.py``.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medrestore_monai.ops import biwkv2d
from medrestore_monai.ops.biwkv import choose_backend
from medrestore_monai.ops.biwkv import triton_form as biwkv_triton

ROOT = Path(__file__).resolve().parents[3]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.slow
@needs_triton
def test_kernels_in_the_interpreter():
    """In a process of its own: Triton must know from its import on that it is to interpret."""
    tests = Path(__file__).with_name("interpreted_triton.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout


@pytest.mark.slow
def test_importing_the_package_does_not_import_triton():
    code = "import torch, sys; had = 'triton' in sys.modules; import medrestore_monai.ops; "
    code += "sys.exit('triton' in sys.modules and not had)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_is_refused_without_a_cuda_device_or_triton(monkeypatch):
    k = torch.zeros(1, 2, 3, 4)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(biwkv_triton, "_INSTALLED", True)
    with pytest.raises(RuntimeError, match="'triton' is not available: it takes float32"):
        biwkv2d(k[0, 0, 0], k[0, 0, 0], k, k, backend="triton")
    assert "float64" in biwkv_triton.refusal(k.double())
    assert choose_backend(k) != "triton"
    monkeypatch.setattr(biwkv_triton, "_INSTALLED", False)
    with pytest.raises(RuntimeError, match="'triton' is not available: Triton is not installed"):
        biwkv2d(k[0, 0, 0], k[0, 0, 0], k, k, backend="triton")
