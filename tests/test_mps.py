"""Apple's GPU, where there is none: what is offered and refused, and that networks need nothing that it lacks."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torchgen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from medrestore_monai.bundles import check_backend, list_bundles, read_config
from medrestore_monai.bundles.settings import require_device
from medrestore_monai.bundles.shared_settings import SHARED
from medrestore_monai.cli import app
from medrestore_monai.cli.doctor import describe, examine
from medrestore_monai.evaluate.run import _device_name
from medrestore_monai.memory import available_bytes, divide_memory
from medrestore_monai.ops.biwkv import torch_form
from medrestore_monai.ops.biwkv.robust import robust_forward
from medrestore_monai.ops.precision import as_float64

OPERATORS = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 3000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1000)


@pytest.fixture
def no_apple(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("built", "reason"), [(True, "finds no Apple GPU"), (False, "is built without it")])
def test_it_is_refused_where_it_is_not(tmp_path, monkeypatch, no_apple, built, reason):
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    np.save(tmp_path / "a.npy", np.zeros((8, 8)))
    command = ["restore", str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.npy"), "--modality", "CT"]
    result = CliRunner().invoke(app, [*command, "--device", "mps"])
    assert result.exit_code == 2
    assert f"Error: there is no device mps here: this PyTorch {reason}" in result.stderr
    assert not (tmp_path / "b.npy").exists()
    assert not any(one["device"] == "mps" for one in examine()["devices"])


def test_it_is_taken_where_it_is(apple):
    require_device("mps")
    (device,) = [one for one in SHARED if one.name == "device"]
    assert device.check("mps") == "mps"
    for wrong in ("mps:1", "MPS", "apple"):
        with pytest.raises(ValueError, match="auto, cpu, cuda, cuda:N or mps"):
            device.check(wrong)
    check_backend("torch", torch.device("mps"), "float32")
    found = examine()
    assert [one["device"] for one in found["devices"]][-1] == "mps"
    assert dict(describe(found))["Apple's GPU"] == "device mps, float32; not tested on one"
    assert _device_name("mps").startswith("GPU of ")


def test_it_computes_in_float32_only(apple):
    with pytest.raises(ValueError, match="the device mps computes in float32, not in bfloat16"):
        check_backend("torch", torch.device("mps"), "bfloat16")
    with pytest.raises(ValueError, match="the backend onnx runs on the device cpu"):
        check_backend("onnx", torch.device("mps"), "float32")


def test_its_memory_is_what_it_may_take_of_the_main_memory(apple):
    assert available_bytes("mps") == 2000
    divide_memory(4)
    assert available_bytes("mps") == 500
    divide_memory(1)


def test_what_needs_float64_is_computed_on_the_cpu():
    moved = []

    class OnApple:
        device = torch.device("mps")

        def cpu(self):
            moved.append(self)
            return torch.ones(2)

    assert as_float64(OnApple()).dtype == torch.float64
    assert len(moved) == 1
    here = torch.ones(2)
    assert as_float64(here).device == here.device
    mixed = robust_forward(torch.ones(2), torch.ones(2), torch.ones(1, 3, 2), torch.ones(1, 3, 2))
    assert mixed.dtype == torch.float32


class Operators(TorchDispatchMode):
    """Collects the operators on ``meta`` tensors, which stand for those of a GPU, and the data types of these."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, torch.Tensor)]
        there = {one.dtype for one in tensors if one.device.type == "meta"}
        if there:
            self.names.add(str(func).removeprefix("aten.").removesuffix(".default"))
            self.dtypes |= there
        return out


def operators_without_mps(names):
    """Those that PyTorch's own table gives no implementation for Apple's GPU."""
    blocks = OPERATORS.read_text().split("\n- func: ")[1:]
    table = {block.partition("(")[0]: block for block in blocks}

    def has(name):
        block = table[name]
        delegate = [line.split()[-1] for line in block.splitlines() if "structured_delegate:" in line]
        texts = [block, *(table[one] for one in delegate)]
        return "dispatch:" not in "".join(texts) or any("MPS" in text or "Composite" in text for text in texts)

    return sorted(name for name in names if not has(name))


def test_the_table_names_what_it_lacks():
    assert operators_without_mps({"linalg_eig", "add.Tensor", "sigmoid", "slice.Tensor"}) == ["linalg_eig"]


@pytest.mark.slow
def test_networks_use_neither_float64_nor_an_operator_that_it_lacks(monkeypatch):
    torch.autocast("mps", enabled=False)  # PyTorch knows the device's name
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # which it does not for "meta"
    monkeypatch.setattr(torch_form, "as_float64", lambda x: torch.zeros(x.shape, dtype=torch.float64))
    monkeypatch.setattr(torch_form, "_is_safe", lambda *args: True)
    names = set()
    for bundle in list_bundles():
        network = read_config(bundle.config("inference")).get_parsed_content("network_def").eval()
        network = network.merged() if hasattr(network, "merged") else network
        channels = bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
        image = torch.empty(1, channels, 24, 40, device="meta")
        with torch.no_grad(), Operators() as seen:
            restored = network.to("meta")(image)
        assert restored.shape[-2:] == image.shape[-2:]
        assert torch.float64 not in seen.dtypes, bundle.name
        names |= seen.names
    assert len(names) > 30
    assert operators_without_mps(names) == []
