"""Restore many small studies with two workers, kill one of them and then the command, and count what came of it.

    python scripts/benchmark/many_studies.py                       # 40 studies
    python scripts/benchmark/many_studies.py --studies 12 --bundle my_bundle --json result.json

The studies are parts of the CT slices that ship with the tests, each with UIDs of its own: DICOM series, and NIfTI
volumes in between. A worker is killed by SIGKILL when a quarter of the studies is done, and the command itself when
half is; it is started again. A second command on the same output has to be refused. Counted are results that are
missing, that are there twice, that differ from those of one process that was left alone, files left behind, processes
that outlive the command by two seconds, and studies that the same command restores again at the end. All must be 0.
"""

import argparse
import hashlib
import json
import os
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


def start(source: Path, output: Path, bundle: str, workers: int = 1) -> subprocess.Popen[str]:
    """Start the command."""
    command = [sys.executable, "-m", "medrestore_monai", "restore", str(source), "-o", str(output), "--bundle", bundle]
    command += ["--device", "cpu", "--workers", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # results are equal at equal threads
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    records = output / ".medrestore" / "records"
    while len(list(records.glob("[!.]*.json"))) < count:
        if process.poll() is not None:
            raise SystemExit(f"the command ended too early:\n{process.communicate()[0]}")
        time.sleep(0.02)


def processes_of(pid: int) -> list[int]:
    """The processes that a process has started, those of most memory first: its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children]
    return sorted(found, key=memory_of, reverse=True)


def memory_of(pid: int, kind: str = "VmRSS") -> int:
    """Main memory of a process in KiB; ``VmHWM`` for its peak."""
    status = Path(f"/proc/{pid}/status")
    lines = [line.split() for line in status.read_text().splitlines()] if status.exists() else []
    return next((int(line[1]) for line in lines if line and line[0] == f"{kind}:"), 0)


def restored_with_deaths(source: Path, output: Path, bundle: str, count: int) -> dict[str, float]:
    """Restore with two workers: kill one, then the command, and start it again; figures of what happened."""
    client = start(source, output, bundle, 2)
    wait_for(output, count // 4, client)
    workers = processes_of(client.pid)[:2]
    peak = max(memory_of(pid, "VmHWM") for pid in workers)
    os.kill(workers[0], signal.SIGKILL)
    wait_for(output, count // 2, client)
    second = start(source, output, bundle)
    refused = "is in use by process" in second.communicate()[0] and second.returncode == 2
    workers = processes_of(client.pid)
    client.kill()
    client.communicate()
    time.sleep(2)
    orphans = sum(memory_of(pid) > 0 for pid in workers)  # a zombie has no memory
    said = start(source, output, bundle, 2).communicate()[0]
    print(said.strip().splitlines()[-1])
    return {
        "memory of a worker in MiB": peak // 1024,
        "second client let in": int(not refused),
        "take-over not noted": int("ended early" not in said),
        "orphans": orphans,
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output, alone, two = (Path(folder) / name for name in ("studies", "output", "alone", "two"))
        names = make_studies(source, arguments.studies)
        figures: dict[str, float] = {"studies": len(names)}
        for name, place, workers in (("seconds alone", alone, 1), ("seconds of two workers", two, 2)):
            begin = time.time()
            start(source, place, arguments.bundle, workers).communicate()
            figures[name] = round(time.time() - begin, 1)
        figures["other of two workers"] = sum(digest(two / name) != digest(alone / name) for name in names)
        figures |= restored_with_deaths(source, output, arguments.bundle, arguments.studies)
        figures |= count_problems(names, source, output, alone, arguments.bundle)
    print("\n".join(f"{name:26} {value}" for name, value in figures.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=4) + "\n")
    if any(value for name, value in figures.items() if not name.startswith(("studies", "seconds", "memory"))):
        raise SystemExit("the studies were not restored once each.")


if __name__ == "__main__":
    main()
