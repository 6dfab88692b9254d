"""Measure the peak memory of restoring a volume of few and of many slices, and compare it with the estimate it prints.

usage: python scripts/faults/peak_memory.py WORK [--side 256] [--slices 150 600] [--kinds KIND,...] [--strength 0]
    [--commands]; kinds are dicom, nifti, nii.gz, foreign (slices across another axis) and tiff.
Each run is forked from a process that has imported everything, or, with --commands, a command of its own.
Exit code 0: four times as many slices need at most a tenth more memory, and each estimate is within a quarter.
"""

import argparse
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import tifffile
from running import Command, write_nifti, write_series


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--slices", type=int, nargs="+", default=[150, 600])
    parser.add_argument("--kinds", default="dicom,nifti,nii.gz,foreign,tiff")
    parser.add_argument("--strength", default="0")
    parser.add_argument("--commands", action="store_true")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    bad = 0
    print("kind slices GB estimated seconds")
    for kind in given.kinds.split(","):
        peaks = []
        for slices in given.slices:
            # in a process of its own, whose memory the measured one does not inherit
            with ProcessPoolExecutor(1) as pool:
                source, output = pool.submit(make, given.work, kind, given.side, slices).result()
            args = ["restore", source, "-o", output, "--device", "cpu", "--strength", given.strength]
            args += ["--bundle", "ct_denoise_restore_rwkv", "--set", "mean_hu=off"]
            ended = Command(args, given.work / "log.txt", given.work / "temporary", not given.commands).wait()
            found = re.search(r"Memory: about ([\d.]+) GB", ended.text)
            if ended.code or not found:
                raise SystemExit(f"{kind}: exit {ended.code}: {ended.text}")
            estimated = float(found[1])
            peaks.append(ended.peak / 1e9)
            print(f"{kind} {slices} {peaks[-1]:.2f} {estimated:.2f} {ended.seconds:.0f}", flush=True)
            bad += not 0.75 <= estimated / peaks[-1] <= 1.25
            for path in (source, output):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        bad += peaks[-1] > 1.1 * peaks[0]
    return int(bad > 0)


def make(work: Path, kind: str, side: int, slices: int) -> tuple[Path, Path]:
    """Write a volume of a kind; also the name of its result."""
    if kind == "dicom":
        return write_series(work / "series", slices, side), work / "out"
    if kind == "tiff":
        nifti = write_nifti(work / "a.nii", (side, side, slices))
        tifffile.imwrite(work / "a.tif", nib.load(nifti).get_fdata(dtype="float32").T.astype("int16"))
        nifti.unlink()
        return work / "a.tif", work / "out.tif"
    ending = ".nii.gz" if kind == "nii.gz" else ".nii"
    axes = (2, 0, 1) if kind == "foreign" else (0, 1, 2)
    return write_nifti(work / f"a{ending}", (side, side, slices), axes), work / f"out{ending}"


if __name__ == "__main__":
    sys.exit(main())
