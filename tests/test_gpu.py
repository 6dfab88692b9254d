"""What a user runs on a CUDA device: the network, training with mixed precision, restoration; against the CPU."""

import copy
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

from phantoms import ct_series
from tiny_bundle import NAME, make_tiny_bundle
from torch.testing import assert_close

from medrestore_monai.demo import ARCHIVE
from medrestore_monai.dicom import read_series
from medrestore_monai.networks import RestoreRWKV

pytestmark = pytest.mark.gpu

LIGHT = {"dim": 16, "num_blocks": (1, 2, 2, 2), "num_refinement_blocks": 1}


@pytest.fixture(autouse=True)
def _exact_convolutions():
    """Without TensorFloat-32, whose ten bits would hide what is compared."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def light(**options):
    torch.manual_seed(0)
    network = RestoreRWKV(**LIGHT, **options)
    torch.nn.init.normal_(network.output.weight, std=0.1)  # the identity at the start would hide differences
    return network


def change(network, image):
    with torch.no_grad():
        return (network(image) - image).cpu()


@pytest.mark.parametrize("size", [(64, 64), (91, 130), (256, 256)])
def test_network_computes_what_it_computes_on_the_cpu(size):
    network, image = light().eval(), torch.rand(2, 1, *size)
    expected = change(network, image)
    actual = change(copy.deepcopy(network).cuda(), image.cuda())
    assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_merged_network_in_bfloat16_stays_close():
    network, image = light().merged(), torch.rand(1, 1, 128, 128).cuda()
    exact, blurred = change(network.cuda(), image), change(network.in_bfloat16().cuda(), image)
    assert (blurred - exact).abs().max() < 0.1 * exact.abs().max()


def gradients(network, image):
    network.train()
    network.zero_grad()
    (network(image) - 0.5).abs().mean().backward()
    return [parameter.grad.cpu().clone() for parameter in network.parameters()]


def test_gradients_are_those_of_the_cpu():
    network, image = light(), torch.rand(2, 1, 40, 48)
    expected, actual = gradients(network, image), gradients(copy.deepcopy(network).cuda(), image.cuda())
    for got, want in zip(actual, expected, strict=True):
        assert (got - want).abs().max() < 1e-3 * want.abs().max() + 1e-7


def test_checkpointing_changes_no_gradient():
    network, image = light().cuda(), torch.rand(2, 1, 64, 64).cuda()
    twin = light(use_checkpoint=True).cuda()
    # the backward passes of convolutions may add up in another order
    for got, want in zip(gradients(twin, image), gradients(network, image), strict=True):
        assert (got - want).abs().max() <= 1e-4 * want.abs().max() + 1e-8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_learns(dtype):
    """Sixty steps with a gradient scaler take noise off one picture."""
    torch.manual_seed(0)
    network = RestoreRWKV(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    clean = torch.linspace(0, 1, 64).expand(4, 1, 64, 64).cuda()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = (network(clean + 0.1 * torch.randn_like(clean)) - clean).abs().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_compiled_network_computes_the_same():
    network, image = light().eval().cuda(), torch.rand(1, 1, 64, 64).cuda()
    expected = change(network, image)
    assert_close(change(torch.compile(network), image), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_bundle_trains_with_mixed_precision(tmp_path):
    """``train.json`` as it is, which turns mixed precision on where there is a CUDA device."""
    bundle = make_tiny_bundle(tmp_path / "bundles")
    for patient in ("p1", "p2", "p3"):
        ct_series(tmp_path / "data" / patient / "ct", slices=2, size=(96, 96))
    options = {"epoch_length": 8, "val_interval": 2, "batch_size": 2, "patch_size": "[32,32]", "num_workers": 0}
    options |= {"max_epochs": 4, "dataset_dir": tmp_path / "data", "output_dir": tmp_path / "run"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    run = subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    losses = [float(x) for x in re.findall(r"Metrics -- loss: (\S+)", run.stdout + run.stderr)]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_restored_series_is_that_of_the_cpu(tmp_path):
    """The demonstration series, by the shipped weights, differs by at most 3 HU, by 0.2 HU on average."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path / "ct")
    for device in ("cpu", "cuda"):
        command = [sys.executable, "-m", "medrestore_monai", "restore", tmp_path / "ct", "-o", tmp_path / device]
        command += ["--bundle", NAME, "--device", device]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    cpu, cuda, source = (read_series(tmp_path / name).array for name in ("cpu", "cuda", "ct"))
    assert np.abs(cpu - source).max() > 5
    # convolutions in TensorFloat-32, PyTorch's default on a CUDA device, keep ten bits of the change
    assert np.abs(cuda - cpu).max() <= 3
    assert np.abs(cuda - cpu).mean() <= 0.2
