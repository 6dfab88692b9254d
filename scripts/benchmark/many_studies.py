"""Restore many small studies, end processes and fill the disk meanwhile, and count what came of it.

    python scripts/benchmark/many_studies.py                       # 40 studies
    python scripts/benchmark/many_studies.py --studies 12 --bundle my_bundle --json result.json
    mkdir small && sudo mount -t tmpfs -o size=3m tmpfs small      # a disk that fills up: --small-disk small
    python scripts/benchmark/many_studies.py --small-disk small --runs "full disk"

The studies are parts of the CT slices that ship with the tests, each with UIDs of its own: DICOM series, and NIfTI
volumes in between. They are restored by

- one process, left alone: all others must equal it;
- two workers;
- two workers, of which one is killed by SIGKILL when a quarter of the studies is done; the command itself is killed
  when half is, and started again; a second command on the same output has to be refused;
- two workers of a running scheduler, whose command is killed when half of the studies is done, and started again;
- two workers whose disk is full; its other files are then removed and the command is started again.

Counted are results that are missing, that are there twice, that differ from those of the process left alone, files left
behind, processes that outlive the command by two seconds, results that are written more than two seconds after it, and
studies that the same command restores again at the end. All must be 0.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from medrestore_monai.demo import ARCHIVE

SIDE, SLICES = 48, 3
FIGURES = ("seconds", "MiB a process", "results before the disk was full")  # all others count problems


def make_studies(folder: Path, count: int) -> list[str]:
    """Write ``count`` studies and return their names: three of four are DICOM series, every fourth is NIfTI."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".dcm"))[:SLICES]
        slices = [pydicom.dcmread(archive.open(name)) for name in names]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    pixels = np.stack([ds.pixel_array for ds in slices])
    made = []
    for number in range(count):
        row, column = 120 + 8 * (number // 8), 100 + 24 * (number % 8)
        part = pixels[:, row : row + SIDE, column : column + SIDE]
        name = f"patient{number:03d}" + (".nii.gz" if number % 4 == 3 else "/study/series")
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if number % 4 == 3:
            slope, intercept = float(slices[0].RescaleSlope), float(slices[0].RescaleIntercept)
            volume = (part.T * slope + intercept).astype(np.int16)
            nib.save(nib.Nifti1Image(volume, np.diag([0.7, 0.7, 5, 1])), place)
        else:
            write_series(place, slices, part, number)
        made.append(name)
    return made


def write_series(folder: Path, slices: list[pydicom.Dataset], pixels: np.ndarray, number: int) -> None:
    """Write a part of the slices as a series of its own."""
    folder.mkdir()
    for index, (source, part) in enumerate(zip(slices, pixels, strict=True)):
        ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_bytes(source)))
        ds.PatientID = f"P{number:03d}"
        ds.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["study", str(number)])
        ds.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["series", str(number)])
        ds.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["slice", str(number), str(index)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.Rows, ds.Columns, ds.PixelData = SIDE, SIDE, np.ascontiguousarray(part).tobytes()
        ds["PixelData"].VR = "OW"
        ds.save_as(folder / f"{index}.dcm")


def _bytes(ds: pydicom.Dataset) -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def start(source: Path, output: Path, bundle: str, *options: object) -> subprocess.Popen[str]:
    """Start the command."""
    command = [sys.executable, "-m", "medrestore_monai", "restore", source, "-o", output, "--bundle", bundle]
    return start_python(*map(str, command[1:]), "--device", "cpu", *map(str, options))


def start_python(*words: str) -> subprocess.Popen[str]:
    # results are equal at equal threads
    settings = {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    environment = {**os.environ, **settings, "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
    command = [sys.executable, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    records = output / ".medrestore" / "records"
    while len(list(records.glob("[!.]*.json"))) < count:
        if process.poll() is not None:
            raise SystemExit(f"the command ended too early:\n{process.communicate()[0]}")
        time.sleep(0.02)


def processes_of(pid: int) -> list[int]:
    """The processes that a process has started, those of most memory first: its workers."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for thread in threads for child in thread.read_text().split()]
    return sorted(found, key=memory_of, reverse=True)


def memory_of(pid: int, kind: str = "VmRSS") -> int:
    """Main memory of a process in KiB; ``VmHWM`` for its peak."""
    status = Path(f"/proc/{pid}/status")
    lines = [line.split() for line in status.read_text().splitlines()] if status.exists() else []
    return next((int(line[1]) for line in lines if line and line[0] == f"{kind}:"), 0)


def timed(source: Path, output: Path, bundle: str, count: int, *options: object) -> dict[str, float]:
    """Restore all studies undisturbed: seconds, and the largest peak of memory of a process that restores."""
    begin, client = time.time(), start(source, output, bundle, *options)
    wait_for(output, count // 2, client)
    pids = processes_of(client.pid)[:2] if options else [client.pid]
    peak = max(memory_of(pid, "VmHWM") for pid in pids) // 1024
    client.communicate()
    return {"seconds": round(time.time() - begin, 1), "MiB a process": peak}


def restored_with_deaths(source: Path, output: Path, bundle: str, count: int) -> dict[str, float]:
    """Restore with two workers: kill one, then the command, and start it again; figures of what happened."""
    client = start(source, output, bundle, "--workers", 2)
    wait_for(output, count // 4, client)
    os.kill(processes_of(client.pid)[0], signal.SIGKILL)
    wait_for(output, count // 2, client)
    client.send_signal(signal.SIGSTOP)  # it would be done before the second one has started
    second = start(source, output, bundle)
    refused = "is in use by process" in second.communicate()[0] and second.returncode == 2
    workers = processes_of(client.pid)
    client.kill()
    client.communicate()
    time.sleep(2)
    orphans = sum(memory_of(pid) > 0 for pid in workers)  # a zombie has no memory
    said = start(source, output, bundle, "--workers", 2).communicate()[0]
    return {"second client let in": int(not refused), "orphans": orphans, **not_noted(said)}


def not_noted(said: str) -> dict[str, float]:
    return {"take-over not noted": int("ended early" not in said)}


def restored_by_scheduler(source: Path, output: Path, bundle: str, count: int) -> dict[str, float]:
    """Restore with a running scheduler: kill the command, and start it again; figures of what happened."""
    own = ["--no-dashboard", "--host", "127.0.0.1"]
    address = "tcp://127.0.0.1:18786"
    scheduler = start_python("-m", "distributed.cli.dask_scheduler", "--port", address.rpartition(":")[2], *own)
    workers = ["--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", *own]
    nannies = start_python("-m", "distributed.cli.dask_worker", address, *workers)
    try:
        client = start(source, output, bundle, "--scheduler", address)
        wait_for(output, count // 2, client)
        client.kill()
        client.communicate()
        time.sleep(2)
        before = len(list((output / ".medrestore" / "records").iterdir()))
        time.sleep(5)
        late = len(list((output / ".medrestore" / "records").iterdir())) - before
        said = start(source, output, bundle, "--scheduler", address).communicate()[0]
    finally:
        for process in (nannies, scheduler):
            process.terminate()
            process.communicate()
    return {"written after the end": late, **not_noted(said)}


def restored_on_a_full_disk(source: Path, output: Path, bundle: str) -> dict[str, float]:
    """Restore to a disk that has room for a few results only, then make room and start again."""
    filling, usage = output.parent / "filling", shutil.disk_usage(output.parent)
    filling.write_bytes(bytes(max(0, usage.free - 200_000)))
    client = start(source, output, bundle, "--workers", 2)
    stopped = "No space left on device" in client.communicate()[0] and client.returncode == 3
    there = len(list(output.rglob("*.nii.gz"))) + len(list(output.rglob("IM0001.dcm")))
    filling.unlink()
    start(source, output, bundle, "--workers", 2).communicate()
    return {"results before the disk was full": there, "not stopped": int(not stopped)}


def digest(path: Path) -> str:
    """Of all pixels of a result, and of its UID."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = hashlib.sha256()
    for file in sorted(path.iterdir()):
        ds = pydicom.dcmread(file)
        found.update(ds.SOPInstanceUID.encode() + ds.PixelData)
    return found.hexdigest()


def count_problems(names: list[str], source: Path, output: Path, alone: Path, bundle: str) -> dict[str, int]:
    manifest = json.loads((output / "manifest.json").read_text())["studies"]
    listed = [record["name"] for record in manifest if record["outcome"] == "restored"]
    results = {str(path.relative_to(output)) for path in output.rglob("*.nii.gz")}
    results |= {str(path.parent.relative_to(output)) for path in output.rglob("IM0001.dcm")}
    hidden = [path for path in output.rglob(".*") if path.name != ".medrestore"]
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".dcm", ".gz")}
    start(source, output, bundle).communicate()
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".dcm", ".gz")}
    return {
        "missing": len(set(names) - results),
        "not in the manifest": len(set(names) - set(listed)),
        "twice in the manifest": len(listed) - len(set(listed)),
        "besides": len(results - set(names)),
        "other than alone": sum(digest(output / name) != digest(alone / name) for name in names),
        "left behind": len(hidden) + (output / ".medrestore" / "unfinished").exists(),
        "restored again": sum(after[path] != when for path, when in before.items()),
    }


def show(run: str, figures: dict[str, float]) -> None:
    print("\n".join(f"{run:12} {name:32} {value}" for name, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--small-disk", type=Path, help="folder on a file system with little room, to fill up")
    parser.add_argument("--runs", default="", help="of these, separated by commas; all by default")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, alone = Path(folder) / "studies", Path(folder) / "alone"
        names, bundle = make_studies(source, arguments.studies), arguments.bundle
        count = len(names)
        figures["one process"] = timed(source, alone, bundle, count)
        show("one process", figures["one process"])
        runs = {
            "two workers": lambda output: timed(source, output, bundle, count, "--workers", 2),
            "deaths": lambda output: restored_with_deaths(source, output, bundle, count),
            "scheduler": lambda output: restored_by_scheduler(source, output, bundle, count),
        }
        if arguments.small_disk:
            runs["full disk"] = lambda output: restored_on_a_full_disk(source, output, bundle)
        chosen = arguments.runs.split(",") if arguments.runs else list(runs)
        for name, run in ((name, runs[name]) for name in chosen):
            output = (arguments.small_disk if name == "full disk" else Path(folder)) / name
            figures[name] = run(output) | count_problems(names, source, output, alone, bundle)
            show(name, figures[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=4) + "\n")
    if any(value for run in figures.values() for name, value in run.items() if name not in FIGURES):
        raise SystemExit("the studies were not restored once each.")


if __name__ == "__main__":
    main()
