"""What it takes to start: ``medrestore restore`` on one slice, as multiples of ``python -c "import monai"``.

    python scripts/benchmark/startup.py                      # 7 rounds; the ratio of wall times needs a quiet machine
    python scripts/benchmark/startup.py --rounds 3 --json startup.json

The slice, 512x512, is one of the series that ships. Commands take turns, each in a new process; cells are medians over
rounds, ratios medians of those within a round. "restore, strength 0" does everything but run the network.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "medrestore_monai" / "demo" / "ct_abdomen_crlm.zip"
FIRST = "import monai"


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is run, by name."""
    with zipfile.ZipFile(DEMO) as archive:
        archive.extract(sorted(archive.namelist())[0], folder / "slice")
    restore = ["-m", "medrestore_monai", "restore", str(folder / "slice"), "-o", str(folder / "out"), "--overwrite"]
    return {
        FIRST: ["-c", "import monai"],
        "medrestore --help": ["-m", "medrestore_monai", "--help"],
        "import Restorer": ["-c", "from medrestore_monai import Restorer"],
        "restore, strength 0": [*restore, "--strength", "0"],
        "restore": restore,
    }


def timed(arguments: list[str]) -> tuple[float, float]:
    """Run Python and return the wall seconds and the CPU seconds that it took."""
    before, begin = os.times(), time.perf_counter()
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begin, os.times()
    if run.returncode:
        sys.exit(f"Error: {' '.join(arguments)} ended with code {run.returncode}.\n{run.stderr[-2000:]}")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        for arguments in todo.values():
            timed(arguments)  # byte code is written, files are read into the memory of the system
        for _ in range(options.rounds):
            for name, arguments in todo.items():
                taken.setdefault(name, []).append(timed(arguments))
    print("| command | wall, s | of import monai | CPU time, s | of import monai |\n|---|---|---|---|---|")
    for name, runs in taken.items():
        cells = []
        for kind in (0, 1):
            ratios = [one[kind] / other[kind] for one, other in zip(runs, taken[FIRST], strict=True)]
            cells += [f"{statistics.median(run[kind] for run in runs):.2f}", f"{statistics.median(ratios):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    if options.json is not None:
        options.json.write_text(json.dumps(taken, indent=1) + "\n")


if __name__ == "__main__":
    main()
