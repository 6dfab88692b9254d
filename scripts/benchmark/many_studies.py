"""Restore many small studies with two processes, kill one half-way, start it again, and count what came of it.

    python scripts/benchmark/many_studies.py                       # 40 studies, two commands on one output
    python scripts/benchmark/many_studies.py --torchrun            # one torchrun of two processes, one of them killed
    python scripts/benchmark/many_studies.py --studies 12 --bundle my_bundle --json result.json

The studies are parts of the CT slices that ship with the tests, each with UIDs of its own: DICOM series, and NIfTI
volumes in between. A process is killed by SIGKILL when half of the studies are done, and started again by the same
command. It counts: results that are missing, that are there twice, that differ from those of one process that was left
alone, files left behind, and studies that the same command restores again at the end. All must be 0.
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

ARCHIVE = Path(__file__).parents[2] / "tests" / "data" / "ct_abdomen_crlm.zip"
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


def start(source: Path, output: Path, bundle: str, processes: int = 1) -> subprocess.Popen[str]:
    """Start the command, or a torchrun of it."""
    launcher = [sys.executable, "-m", "medrestore_monai"]
    if processes > 1:
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher = [*run, "-m", "medrestore_monai"]
    command = [*launcher, "restore", str(source), "-o", str(output), "--bundle", bundle, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def records(output: Path) -> list[dict[str, object]]:
    found = (output / ".medrestore" / "records").glob("[!.]*.json")
    return [json.loads(path.read_text()) for path in found]


def wait_for(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(records(output)) < count:
        if process.poll() is not None:
            raise SystemExit(f"a process ended too early:\n{process.communicate()[0]}")
        time.sleep(0.02)


def claimed_by(output: Path) -> dict[int, str]:
    """Which process works on which study, by its number."""
    found = {}
    for path in (output / ".medrestore" / "claims").glob("[!.]*"):
        text = path.read_text() if path.exists() else ""
        if text:
            found[int(json.loads(text)["pid"])] = path.stem
    return found


def kill_at_work(output: Path, pids: list[int]) -> None:
    """Kill the first of some processes that holds a claim."""
    while not (at_work := set(pids) & set(claimed_by(output))):
        time.sleep(0.005)
    os.kill(at_work.pop(), signal.SIGKILL)


def restored_with_a_death(source: Path, output: Path, bundle: str, half: int, torchrun: bool) -> list[str]:
    """Restore with two processes, kill one when ``half`` is done, start it again; what the last ones printed."""
    if torchrun:
        process = start(source, output, bundle, 2)
        wait_for(output, half, process)
        kill_at_work(output, list(claimed_by(output)))
        process.communicate()  # torchrun ends the other one too
        return [start(source, output, bundle, 2).communicate()[0]]
    one, two = start(source, output, bundle), start(source, output, bundle)
    wait_for(output, half, two)
    kill_at_work(output, [one.pid])
    one.communicate()
    again = start(source, output, bundle)
    return [process.communicate()[0] for process in (two, again)]


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
    told = [record["name"] for record in manifest if record["outcome"] == "restored"]
    results = {str(path.relative_to(output)) for path in output.rglob("*.nii.gz")}
    results |= {str(path.parent.relative_to(output)) for path in output.rglob("IM0001.dcm")}
    hidden = [path for path in output.rglob(".*") if path.name != ".medrestore"]
    claims = list((output / ".medrestore" / "claims").iterdir())
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".dcm", ".gz")}
    start(source, output, bundle).communicate()
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".dcm", ".gz")}
    return {
        "missing": len(set(names) - results),
        "not in the manifest": len(set(names) - set(told)),
        "twice in the manifest": len(told) - len(set(told)),
        "besides": len(results - set(names)),
        "other than alone": sum(digest(output / name) != digest(alone / name) for name in names),
        "left behind": len(hidden) + len(claims),
        "restored again": sum(after[path] != when for path, when in before.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--torchrun", action="store_true", help="one torchrun of two processes, not two commands")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output, alone = (Path(folder) / name for name in ("studies", "output", "alone"))
        names = make_studies(source, arguments.studies)
        begin = time.time()
        said = restored_with_a_death(source, output, arguments.bundle, arguments.studies // 2, arguments.torchrun)
        took = time.time() - begin
        begin = time.time()
        start(source, alone, arguments.bundle).communicate()
        figures = {"studies": len(names), "seconds": round(took, 1), "seconds alone": round(time.time() - begin, 1)}
        figures |= count_problems(names, source, output, alone, arguments.bundle)
    print("\n".join(text.strip().splitlines()[-1] for text in said))
    print("\n".join(f"{name:22} {value}" for name, value in figures.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=4) + "\n")
    if any(value for name, value in figures.items() if not name.startswith(("studies", "seconds"))):
        raise SystemExit("the studies were not restored once each.")


if __name__ == "__main__":
    main()
