"""Compare the kernel in a wheel with the one that this machine's compiler built in the checkout.

    python scripts/release/compare_kernels.py dist/medrestore_monai-0.2.0-py3-none-manylinux2014_x86_64.whl

Both run the package around them, in a process each: results and gradients must agree and the instruction set must be
the same. The ratio of the times is printed; it is of use on a quiet machine only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 2e-5  # of the largest value: compilers add up in different orders
SHAPES = ((1, 19, 29, 8), (2, 65, 70, 51), (1, 128, 128, 48))
RUN = """
import sys, time
import torch
from medrestore_monai.ops.biwkv import cpu, re_wkv
torch.set_num_threads(1)
results, best = [], 1e9
for shape in {shapes}:
    torch.manual_seed(0)
    images = [torch.randn(shape) for _ in range(3)]
    inputs = [torch.randn(2, shape[-1]), torch.randn(2, shape[-1]), *images]
    for each in inputs:
        each.requires_grad_()
    divisor = float(shape[1] * shape[2])
    result = re_wkv(*inputs, divisor=divisor, backend="cpu")
    results += [result.detach(), *torch.autograd.grad(result, inputs, torch.ones_like(result))]
    with torch.no_grad():
        for _ in range(20):
            begin = time.process_time()
            re_wkv(*inputs, divisor=divisor, backend="cpu")
            seconds = time.process_time() - begin
            best = min(best, seconds) if shape == {shapes}[-1] else best
about = dict(results=results, seconds=best, instruction_set=cpu.instruction_set(), library=cpu._library()._name)
torch.save(about, sys.argv[1])
"""


def run_kernel(package: Path, folder: Path) -> dict:
    """Run the kernel of the package in a folder, in a process of its own."""
    output = folder / "results.pt"
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", RUN.format(shapes=SHAPES), str(output)]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return within(torch.load(output, weights_only=True), package)


def within(done: dict, package: Path) -> dict:
    """Return results, of which it is certain that the kernel in a folder computed them."""
    if not Path(done["library"]).resolve().is_relative_to(package.resolve()):
        raise RuntimeError(f"{done['library']} is not the kernel in {package}.")
    return done


def differences(ours: dict, theirs: dict) -> list[str]:
    """Say how two kernels differ; empty where they agree."""
    found = []
    if ours["instruction_set"] != theirs["instruction_set"]:
        found.append(f"one uses {ours['instruction_set']}, the other {theirs['instruction_set']}")
    pairs = zip(ours["results"], theirs["results"], strict=True)
    apart = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    apart = [ratio for ratio in apart if not ratio <= TOLERANCE]  # nor not-a-number
    if apart:
        found.append(f"results differ by {apart[0]:.1e} of the largest value")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel: Path = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "wheel")
        ours, theirs = run_kernel(folder / "wheel", folder), run_kernel(ROOT, folder)
    found = differences(ours, theirs)
    ratio = ours["seconds"] / theirs["seconds"]
    shared = f"{ours['instruction_set']}, {ratio:.2f} times the time of the one built here"
    print(f"kernel of {wheel.name}: {'; '.join(found) or f'agrees, {shared}'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
