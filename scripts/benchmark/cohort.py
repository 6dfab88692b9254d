"""Time a cohort of small studies, restored by one command, and an array, restored in memory and by the command.

    python scripts/benchmark/cohort.py                            # 40 studies with the bundle for CT
    python scripts/benchmark/cohort.py --package ../older         # the same studies with another checkout
    python scripts/benchmark/cohort.py --studies 0 --shape 512 512 40

The studies are those of ``many_studies.py``. A study's time is that of its record in the manifest: reading, restoring
and writing it, and, where a version opens the bundle for each study, opening it. The array is CT with noise; both ways
give equal voxels. Its seconds are CPU seconds; another checkout runs the command only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from many_studies import make_studies

CHECKOUT = Path(__file__).parents[2]


def restore_by_command(source: Path, output: Path, package: Path, *options: str) -> None:
    """Run ``medrestore restore`` with the code in ``package``."""
    command = [sys.executable, "-m", "medrestore_monai", "restore", str(source), "-o", str(output), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(package.resolve())}
    # not in this checkout: Python would take the package in the working folder
    subprocess.run([*command, *options], env=environment, cwd=source.parent, check=True, capture_output=True)


def time_cohort(folder: Path, count: int, bundle: str, package: Path) -> dict[str, float]:
    """Restore ``count`` studies with the code in ``package``; seconds of the command, and of each study."""
    make_studies(folder / "in", count)
    begin, before = time.monotonic(), os.times()
    restore_by_command(folder / "in", folder / "out", package, "--bundle", bundle)
    wall, after = time.monotonic() - begin, os.times()
    records = json.loads((folder / "out" / "manifest.json").read_text())["studies"]
    seconds = [record["seconds"] for record in records if record["outcome"] == "restored"]
    return {
        "studies restored": len(seconds),
        "seconds, command": wall,
        "CPU seconds, command": cpu_seconds_of_children(before, after),
        "seconds a study, median": statistics.median(seconds),
        "seconds a study, mean": statistics.mean(seconds),
    }


def cpu_seconds_of_children(before: os.times_result, after: os.times_result) -> float:
    """Return the CPU seconds of the processes that ended between two readings."""
    return after.children_user + after.children_system - before.children_user - before.children_system


def time_array(folder: Path, shape: list[int], bundle: str, package: Path) -> dict[str, float]:
    """Restore one array in memory, if the code is this checkout's, and as a NumPy file by the command."""
    noise = np.random.default_rng(0).normal(0, 30, shape).astype(np.float32)
    side = np.hypot(*np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j])[..., None]
    array = np.where(side < 0.8, 40, -1000).astype(np.float32) + noise
    np.save(folder / "in.npy", array)
    before = os.times()
    restore_by_command(folder / "in.npy", folder / "out.npy", package, "--bundle", bundle, "--set", "mean_hu=off")
    figures = {"CPU seconds, command": cpu_seconds_of_children(before, os.times())}
    if package.resolve() != CHECKOUT.resolve():
        return figures
    from medrestore_monai import Restorer

    begin = time.process_time()
    restorer = Restorer(bundle, device="cpu", mean_hu="off")
    opened = time.process_time()
    restorer(array[:64, :64, :1])  # what the first call of a process loads
    warm = time.process_time()
    restored = restorer(array)
    called = time.process_time()
    np.testing.assert_array_equal(np.load(folder / "out.npy"), restored)
    return {
        **figures,
        "CPU seconds, opening": opened - begin,
        "CPU seconds, first small call": warm - opened,
        "CPU seconds, array": called - warm,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--shape", type=int, nargs=3, help="of the array; none by default")
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--package", type=Path, default=CHECKOUT, help="the checkout to run")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.studies:
            figures |= time_cohort(Path(folder), arguments.studies, arguments.bundle, arguments.package)
        if arguments.shape:
            figures |= time_array(Path(folder), arguments.shape, arguments.bundle, arguments.package)
    for name, value in figures.items():
        print(f"{name:30} {value:.2f}")


if __name__ == "__main__":
    main()
