"""CPU time of an audit against that of the restoration that it audits, by turns in one process.

    python scripts/benchmark/audit.py                              # the four CT slices that ship
    python scripts/benchmark/audit.py --volume 8                   # a made CT of 512x512x8
    python scripts/benchmark/audit.py --volume 8 --profile 15      # and where the audit spends its time

CPU time is that of all threads (``OMP_NUM_THREADS`` sets how many); reading is part of both, starting Python and
reading the weights of neither. Writing the page is counted apart. An audit should take less than its restoration.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from medrestore_monai import Restorer
from medrestore_monai.audit import audit
from medrestore_monai.audit.page import render_page

DEMO = Path(__file__).resolve().parents[2] / "medrestore_monai" / "demo" / "ct_abdomen_crlm.zip"
SIDE, PIXEL, DISTANCE = 512, 0.7, 3.0


def made_volume(path: Path, slices: int) -> None:
    """Write an ellipse of soft tissue with organs and a lung in air, with noise of a soft kernel; HU."""
    random = np.random.default_rng(0)
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    body = np.where(np.hypot(x / 0.85, y / 0.65) < 1, 50.0, -1000.0)
    for _ in range(24):
        (left, top), (width, height) = random.uniform(-0.45, 0.45, 2), random.uniform(0.03, 0.2, 2)
        body[np.hypot((x - left) / width, (y - top) / height) < 1] = random.choice([-90, 20, 80, 120, 300, -850])
    noise = gaussian_filter(random.normal(0, 1, (SIDE, SIDE, slices)), (0.9, 0.9, 0.4))
    image = nib.Nifti1Image(
        np.rint(body[..., None] + 25 * noise / noise.std()).astype(np.int16), np.diag([-PIXEL, -PIXEL, DISTANCE, 1])
    )
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def clocked(function: Callable[[], object]) -> tuple[float, object]:
    begin = time.process_time()
    result = function()
    return time.process_time() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--volume", type=int, metavar="SLICES", help="a made CT instead of the series that ships")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=int, metavar="LINES", help="show the functions that take longest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.volume:
            source, restored = Path(folder, "made.nii.gz"), Path(folder, "restored.nii.gz")
            made_volume(source, options.volume)
        else:
            source, restored = Path(folder, "series"), Path(folder, "restored")
            with zipfile.ZipFile(DEMO) as archive:
                archive.extractall(source)
        restorer = Restorer(options.bundle, device="cpu")
        ratios = []
        for number in range(options.rounds + 1):
            restoring, _ = clocked(lambda: restorer.restore_file(source, restored, overwrite=True))
            auditing, done = clocked(lambda: audit(source, restored, bundle=options.bundle, modality="CT"))
            writing, _ = clocked(lambda done=done: render_page(done))
            if number:  # the first round warms up
                ratios.append(auditing / restoring)
                print(
                    f"restore {restoring:.2f} s, audit {auditing:.2f} s, page {writing:.2f} s, ratio {ratios[-1]:.2f}"
                )
        print("of the audit: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in done.timing.items()))
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(audit, source, restored, bundle=options.bundle, modality="CT")
            pstats.Stats(profile, stream=sys.stdout).sort_stats("cumulative").print_stats(options.profile)
    print(f"median ratio of audit to restoration: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
