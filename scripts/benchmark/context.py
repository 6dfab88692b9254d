"""What neighboring slices cost: time and memory of a restoration with ``context=2`` against ``context=0``.

    taskset -c 0 python scripts/benchmark/context.py                      # CT 512x512x40 and PET 168x168x300
    taskset -c 0 python scripts/benchmark/context.py --case ct --slices 8 --repeats 3 --json context.json

Each run restores a NIfTI volume by a bundle's ``inference.json``, from file to file, in a fresh process. The weights
are drawn at random: they change neither time nor memory. With and without neighbors take turns, so that a load on the
machine meets both. Time is the CPU time of the restoration, without imports, the least of all rounds; memory is the
largest resident size of the process (``ru_maxrss``), with Python and PyTorch in it. The ratio of the times is the
median over rounds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

CASES = {
    "ct": ("ct_denoise_restore_rwkv", (512, 512, 40), (0.8, 0.8, 3.0)),
    "pet": ("pet_synthesis_restore_rwkv", (168, 168, 300), (4.0, 4.0, 3.0)),
}


@dataclass
class Run:
    """One restoration: CPU seconds and the largest resident size in MiB."""

    context: int
    seconds: float
    mebibytes: float


def write_volume(path: Path, case: str, slices: int) -> None:
    """Save a volume of noise in the unit of the modality."""
    import nibabel as nib
    import numpy as np

    _, shape, spacing = CASES[case]
    noise = np.random.default_rng(0).standard_normal((*shape[:2], slices)).astype(np.float32)
    values = noise * 20 - 300 * (noise > 3) if case == "ct" else abs(noise)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1.0])), path)


def write_weights(path: Path, config: Path, context: int) -> None:
    """Save weights drawn at random for the network of a configuration."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(config))
    parser.update({"context": context})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    torch.nn.init.normal_(network.output.weight, std=0.02)
    torch.save(network.state_dict(), path)


def child(case: str, context: int, volume: Path, threads: int) -> Run:
    """Restore the volume in this process."""
    import torch

    from medrestore_monai.bundles import find_bundle
    from medrestore_monai.restorer import restore

    torch.set_num_threads(threads)
    config = find_bundle(CASES[case][0]).config("inference")
    settings = {"mean_hu": "off"} if case == "ct" else {}  # random weights move the mean
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "model.pt")
        write_weights(weights, config, context)
        begin = time.process_time()
        restore(
            volume, Path(folder, "out.nii"), CASES[case][0], device="cpu", weights=weights, context=context, **settings
        )
        seconds = time.process_time() - begin
    return Run(context, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(case: str, slices: int, context: int, repeats: int, threads: int) -> list[tuple[Run, Run]]:
    """Run without and with neighbors by turns, each in a process of its own."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder, "volume.nii")
        write_volume(volume, case, slices)
        for number in range(repeats):
            order = (0, context) if number % 2 == 0 else (context, 0)
            runs = {}
            for one in order:
                call = [sys.executable, __file__, "--child", case, str(one), str(volume), "--threads", str(threads)]
                done = subprocess.run(call, check=True, capture_output=True, text=True)
                runs[one] = Run(**json.loads(done.stdout.splitlines()[-1]))
            rounds.append((runs[0], runs[context]))
    return rounds


def report(case: str, slices: int, rounds: list[tuple[Run, Run]]) -> dict[str, object]:
    """Print one line and return its figures."""
    shape = CASES[case][1]
    seconds = [min(pair[place].seconds for pair in rounds) for place in (0, 1)]
    memory = [max(pair[place].mebibytes for pair in rounds) for place in (0, 1)]
    ratios = [statistics.median(b.seconds / a.seconds for a, b in rounds), memory[1] / memory[0]]
    print(
        f"{case} {shape[0]}x{shape[1]}x{slices}: {seconds[0]:.1f} s -> {seconds[1]:.1f} s ({ratios[0]:.3f}x), "
        f"{memory[0]:.0f} MiB -> {memory[1]:.0f} MiB ({ratios[1]:.3f}x)",
        flush=True,
    )
    return {"case": case, "slices": slices, "ratios": ratios, "rounds": [[asdict(a), asdict(b)] for a, b in rounds]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), action="append", help="by default all")
    parser.add_argument("--slices", type=int, help="fewer slices than those of the case")
    parser.add_argument("--context", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "CONTEXT", "VOLUME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        case, context, volume = options.child
        print(json.dumps(asdict(child(case, int(context), Path(volume), options.threads))))
        return
    found = []
    for case in options.case or CASES:
        slices = options.slices or CASES[case][1][2]
        rounds = measure(case, slices, options.context, options.repeats, options.threads)
        found.append(report(case, slices, rounds))
    if options.json:
        options.json.write_text(json.dumps(found, indent=4))


if __name__ == "__main__":
    main()
