"""Kill a training with SIGKILL again and again, at random moments and while it writes; compare with a whole run.

usage: python scripts/train/kill_training.py BUNDLE DATA WORK [--kills 12] [-- OPTIONS OF THE RUN]
Every process is ``python -m monai.bundle run training --config_file BUNDLE/configs/train.json``. Half of the kills wait
for a file that is being written, the others for a random time. Exit code 0: both runs ended with equal weights.
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=12)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:end])
    given.options = sys.argv[end + 1 :]
    whole, cut = given.work / "whole", given.work / "cut"
    draw = random.Random(0)

    begin = time.monotonic()
    run(given, whole).wait()
    seconds = time.monotonic() - begin
    killed = writing = ended = 0
    while killed < given.kills and not ended:
        started = time.time()
        process = run(given, cut)
        wait = time.monotonic() + draw.uniform(0, 0.7 * seconds)
        watch = killed % 2 == 0
        while process.poll() is None:
            if (watch and partial(cut, started)) or (not watch and time.monotonic() > wait):
                break
            time.sleep(0.0003)
        ended = process.poll() is not None
        process.kill()
        process.wait()
        killed += not ended
        cut_short = partial(cut, started)
        writing += cut_short
        for name in ("state.pt", "model.pt"):
            if (cut / name).exists():
                torch.load(cut / name, weights_only=True)
        print(f"kill {killed}: after epoch {epoch(cut)}, {'while writing' if cut_short else ''}")
    if not ended:
        run(given, cut).wait()
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, cut)]
    equal = all(torch.equal(states[0]["network"][name], value) for name, value in states[1]["network"].items())
    rows = len((cut / "history.csv").read_text().splitlines()) - 1
    print(
        f"{killed} kills, {writing} of them while a file was written; epochs {epoch(whole)} and {epoch(cut)}; ", end=""
    )
    print(f"{rows} rows in the table; final weights {'equal' if equal else 'NOT equal'} to the bit")
    return 0 if equal and epoch(whole) == epoch(cut) == rows else 1


def run(given: argparse.Namespace, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(given.bundle / "configs" / "train.json"), "--dataset_dir", str(given.data)]
    command += ["--output_dir", str(output), *given.options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def partial(folder: Path, started: float) -> bool:
    """Return whether a file is being written that this process began: those of killed ones are still there."""
    try:
        return any(path.stat().st_mtime > started for path in folder.glob(".*.part"))
    except FileNotFoundError:
        return False


def epoch(folder: Path) -> int:
    path = folder / "state.pt"
    return torch.load(path, weights_only=True)["trainer"]["epoch"] if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
