"""Time, memory and stages of ``medrestore restore`` on a whole series, from the first import to the last file.

    MEDRESTORE_SHARED=/data python scripts/benchmark/series.py      # the 40 CT slices of ct_abdomen_crlm there
    python scripts/benchmark/series.py SERIES --bundle ct_denoise_restore_rwkv
    python scripts/benchmark/series.py SERIES --precisions float32 --threads 1 --repeats 3 --json series.json

SERIES is anything that ``medrestore restore`` takes. Every precision and number of threads runs in a fresh process, one
after the other, round after round; the table shows the round of the least CPU time. Time is that of the process, CPU
time that of all its threads; memory is its largest resident size (``ru_maxrss``), with Python and PyTorch in it. In
the process, this script times the very calls of the bundle's transforms and inferer, and changes nothing else:

- import: Python, PyTorch, MONAI and the rest, until the command line's own work begins;
- read: finding, checking and reading the series;
- scale: HU to [0, 1] and back;
- network: the inferer with the network and its weights;
- write: encoding and writing the derived series;
- other: what remains, such as reading the bundle's configuration.
"""

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# stage: module, class or function
STAGES = {
    "read": ("data.plan_outputs", "data.LoadImageOrSeriesd"),
    "scale": ("intensity.ToUnitRanged", "intensity.FromUnitRanged"),
    "network": ("bundles.load_network", "inferers.SliceWiseInferer"),
    "write": ("data.SaveLikeSourced",),
}
NAMES = ("import", *STAGES, "other")


@dataclass
class Run:
    """One run: seconds, CPU seconds, memory in GiB, and the CPU seconds of each stage."""

    precision: str
    threads: int
    wall: float
    cpu: float
    peak: float
    stages: dict[str, float]
    stages_wall: dict[str, float]


def child(report: Path, begin: float, command: list[str]) -> None:
    """Run the command line in this process and write how long its stages took."""
    for module in ("torch", "monai.bundle", "monai.engines", *(f"medrestore_monai.{m}" for m in ("cli", "restorer"))):
        importlib.import_module(module)
    took = {name: [0.0, 0.0] for name in NAMES}
    took["import"] = [time.process_time(), time.time() - begin]
    for stage, names in STAGES.items():
        for name in names:
            module_name, attribute = name.split(".")
            module = importlib.import_module(f"medrestore_monai.{module_name}")
            part = getattr(module, attribute)
            if isinstance(part, type):
                part.__call__ = clocked(part.__call__, took[stage])
            else:
                setattr(module, attribute, clocked(part, took[stage]))
    from medrestore_monai.cli import app

    app(command, standalone_mode=False)
    total = [time.process_time(), time.time() - begin]
    took["other"] = [total[i] - sum(values[i] for values in took.values()) for i in range(2)]
    report.write_text(json.dumps(took))


def clocked(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """Add to ``total`` the CPU time and the wall time of every call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        cpu, wall = time.process_time(), time.time()
        try:
            return function(*args, **kwargs)
        finally:
            total[0] += time.process_time() - cpu
            total[1] += time.time() - wall

    return call


def restore(series: Path, bundle: str, precision: str, threads: int) -> Run:
    """Restore a series in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "stages.json", Path(folder) / "restored"
        if not series.is_dir():
            output = output / series.name
            output.parent.mkdir()
        options = ["--bundle", bundle, "--precision", precision, "--device", "cpu"]
        command = ["restore", str(series), "-o", str(output), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as medrestore asks before it imports PyTorch
        begin = time.time()
        arguments = [sys.executable, __file__, "--child", str(report), repr(begin), *command]
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = process.stderr.read().decode() if process.stderr is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.time() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 or not report.is_file():
            raise SystemExit(f"Error: medrestore ended with code {process.returncode}.\n{errors[-2000:]}")
        took = json.loads(report.read_text())
    cpu, wall_of = ({name: values[i] for name, values in took.items()} for i in range(2))
    return Run(precision, threads, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, cpu, wall_of)


def print_table(runs: list[Run]) -> None:
    """Print one row for each precision and number of threads; stages as seconds of CPU time and their share."""
    print(f"| precision | threads | CPU time, s | wall, s | peak memory, GiB | {' | '.join(NAMES)} |")
    print("|---|---|---|---|---|" + "---|" * len(NAMES))
    for run in runs:
        total = sum(run.stages.values())
        stages = " | ".join(f"{run.stages[name]:.1f} ({run.stages[name] / total:.0%})" for name in NAMES)
        print(f"| {run.precision} | {run.threads} | {run.cpu:.1f} | {run.wall:.1f} | {run.peak:.2f} | {stages} |")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path, nargs="?", help="default: $MEDRESTORE_SHARED/data/ct_abdomen_crlm")
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    shared = os.environ.get("MEDRESTORE_SHARED")
    if arguments.series is None and not shared:
        parser.error("name a SERIES, or set MEDRESTORE_SHARED")
    series = arguments.series or Path(str(shared)) / "data" / "ct_abdomen_crlm"
    if not series.exists():
        parser.error(f"there is no {series}")
    if min(arguments.threads) < 1 or arguments.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    best: dict[tuple[str, int], Run] = {}
    for _ in range(arguments.repeats):
        for precision in arguments.precisions:
            for threads in arguments.threads:
                run = restore(series, arguments.bundle, precision, threads)
                key = (precision, threads)
                best[key] = min(best.get(key, run), run, key=lambda one: one.cpu)
    print(f"{series.name}, bundle {arguments.bundle}, rounds: {arguments.repeats}\n")
    print_table(list(best.values()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(run) for run in best.values()], indent=1) + "\n")


if __name__ == "__main__":
    main()
