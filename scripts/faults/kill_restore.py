"""Kill restorations with SIGKILL at random moments, and run them again: no half result, no leftover, no changed source.

usage: python scripts/faults/kill_restore.py WORK [--kills 100] [--kinds series,nifti,zip,cohort] [--commands]
Every second kill waits until the result is being written, where the time between two renames is; every second run
replaces an earlier result. Exit code 0: no half result after a kill, and after the next run nothing is left and the
result is that of a run that was not killed. With --commands, each run is a process of its own, imports and all.
"""

import argparse
import hashlib
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from running import Command, preload, write_nifti, write_series, write_zip

OPTIONS = ["--bundle", "ct_denoise_restore_rwkv", "--device", "cpu", "--set", "mean_hu=off"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kinds", default="series,nifti,zip,cohort")
    parser.add_argument("--commands", action="store_true")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    kinds = [Kind(given.work, name, not given.commands) for name in given.kinds.split(",")]
    draw, counts = random.Random(0), Counter()
    for number in range(given.kills):
        kind = kinds[number % len(kinds)]
        found = kind.kill(draw, watch=number // len(kinds) % 2 == 0, replace=number // (2 * len(kinds)) % 2 == 0)
        counts.update(found)
        print(f"kill {number + 1} of {kind.name}: {', '.join(found)}", flush=True)
    print(dict(counts))
    bad = ("half result", "left over", "source changed", "wrong result", "next run failed")
    return int(any(counts[word] for word in bad))


class Kind:
    """One kind of source, its result, and how long that takes."""

    def __init__(self, work: Path, name: str, fork: bool) -> None:
        self.name, self.fork, self.place = name, fork, work / name
        self.temporary, self.log = self.place / "temporary", self.place / "log.txt"
        self.out = self.place / "out"
        self.out.mkdir(parents=True)
        self.source, self.output = self._make()
        self.before = digest(self.source)
        self.results = {}
        for strength in ("0", "1"):
            began = time.monotonic()
            ended = self._start(strength).wait()
            self.seconds = time.monotonic() - began
            if ended.code:
                raise SystemExit(f"{name}: {ended.text}")
            self.results[strength] = content(self.output)
            self.kept = self.place / f"result{strength}"
            shutil.move(self.out, self.kept)
            self.out.mkdir()

    def _make(self) -> tuple[Path, Path]:
        if self.name == "nifti":
            return write_nifti(self.place / "a.nii.gz", (48, 40, 40)), self.out / "b.nii.gz"
        if self.name == "cohort":
            for index in range(2):
                write_series(self.place / "in" / f"p{index}", 3, uid=f"1.2.3.{index + 1}")
            write_nifti(self.place / "in" / "p2.nii", (48, 40, 3))
            return self.place / "in", self.out / "many"
        series = write_series(self.place / "in", 34 if self.name == "series" else 6)
        return (write_zip(self.place / "a.zip", series) if self.name == "zip" else series), self.out / "series"

    def _start(self, strength: str) -> Command:
        args = ["restore", self.source, "-o", self.output, "--overwrite", "--strength", strength, *OPTIONS]
        return Command(args, self.log, self.temporary, self.fork)

    def kill(self, draw: random.Random, watch: bool, replace: bool) -> list[str]:
        """Kill one run, look at what is there, and run again."""
        shutil.rmtree(self.out)
        shutil.rmtree(self.temporary, ignore_errors=True)
        if replace:
            shutil.copytree(self.place / "result0", self.out, symlinks=True)
        else:
            self.out.mkdir()
        process, until = self._start("1"), time.monotonic() + draw.uniform(0, self.seconds)
        while not process.ended() and (not self._writing() if watch else time.monotonic() < until):
            time.sleep(0.0005)
        if watch:
            time.sleep(draw.uniform(0, 0.01))
        found = ["ended before" if process.kill().code == 0 else "killed"]
        there = content(self.output)
        if not set(there.items()) <= {*self.results["0"].items(), *self.results["1"].items()}:
            found.append("half result")
        if any(self.out.rglob(".*")) or any(self.temporary.glob("medrestore*")):
            found.append("cleared next")
        if replace and not there:
            found.append("between renames")
        ended = self._start("1").wait()
        if ended.code:
            found.append("next run failed")
            print(ended.text)
        if content(self.output) != self.results["1"]:
            found.append("wrong result")
        hidden = [path for path in self.out.rglob(".*") if path.name != ".medrestore" or self.name != "cohort"]
        if hidden or any(self.temporary.glob("medrestore*")) or any(self.out.rglob("aside")):
            found.append("left over")
        if digest(self.source) != self.before:
            found.append("source changed")
        return found

    def _writing(self) -> bool:
        aside = self.output / ".medrestore" / "aside"
        return any(self.out.glob(".*/new/*")) or (aside.is_dir() and any(aside.rglob("new/*")))


def content(output: Path) -> dict[str, str]:
    """The results at a place: voxels of each image by its name; a series counts as one, with all its slices."""
    if not output.exists():
        return {}
    if output.is_file():
        return {".": hashlib.sha256(output.read_bytes()).hexdigest()}
    found: dict[str, list[str]] = {}
    for path in sorted(output.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(output).parts) or not path.is_file():
            continue
        if path.suffix == ".dcm":
            voxels = np.ascontiguousarray(pydicom.dcmread(path).pixel_array).tobytes()
            found.setdefault(str(path.parent.relative_to(output)), []).append(hashlib.sha256(voxels).hexdigest())
        elif path.suffix == ".nii":
            found[str(path.relative_to(output))] = [hashlib.sha256(path.read_bytes()).hexdigest()]
    return {name: " ".join(values) for name, values in found.items()}


def digest(source: Path) -> str:
    """Digest of all bytes of a source, and of when they were written."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {file.stat().st_mtime_ns}".encode() + file.read_bytes())
    return whole.hexdigest()


if __name__ == "__main__":
    preload()
    sys.exit(main())
