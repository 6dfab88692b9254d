"""Start the restore command and measure it: a process of its own, or forked from one that has imported everything."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom

REAL = Path(__file__).resolve().parents[2] / "medrestore_monai/demo/ct_abdomen_crlm.zip"


class Ended(NamedTuple):
    """How a command ended.

    Args:
        code: of its exit; negative for a signal, -999 if it ran too long.
        peak: memory in bytes, with its children.
        seconds: wall time.
        text: what it printed.
    """

    code: int
    peak: int
    seconds: float
    text: str


class Command:
    """A running command.

    Args:
        args: of ``medrestore``.
        log: file for what it prints.
        temporary: folder for its temporary files.
        fork: fork it from this process, which has imported everything: the imports are then not waited for.
        memory: bytes that it may use more than it does at its start (with ``fork``), 0 for no limit.
    """

    def __init__(self, args: list, log: Path, temporary: Path, fork: bool = True, memory: int = 0) -> None:
        self.log, self.began = log, time.monotonic()
        temporary.mkdir(exist_ok=True, parents=True)
        args = [str(arg) for arg in args]
        if fork:
            preload()
            self.pid = os.fork()
            if self.pid == 0:
                _run(args, log, temporary, memory)
        else:
            env = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
            with log.open("wb") as out:
                command = [sys.executable, "-m", "medrestore_monai", *args]
                self.pid = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True).pid

    def kill(self) -> Ended:
        """Kill it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def ended(self) -> bool:
        """Say whether it has ended, without waiting."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, limit: float = 3600) -> Ended:
        """Wait for its end; it is killed at the limit."""
        late = False
        while not self.ended():
            if time.monotonic() - self.began > limit and not late:
                late = True
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.began
        code = -999 if late else os.waitstatus_to_exitcode(status)
        return Ended(code, usage.ru_maxrss * 1024, seconds, self.log.read_text(errors="replace"))


def preload() -> None:
    """Import what the command imports."""
    import torch

    import medrestore_monai.cli
    import medrestore_monai.degrader
    import medrestore_monai.studies  # noqa: F401

    torch.set_num_threads(1)


def _run(args: list[str], log: Path, temporary: Path, memory: int) -> None:
    import tempfile

    from medrestore_monai.cli import app

    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        if memory:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        app(args, standalone_mode=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def real_slices(count: int, side: int = 48) -> list[pydicom.Dataset]:
    """Cropped slices of the real series that ships, as many as asked for, at even distances."""
    with zipfile.ZipFile(REAL) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".dcm"))
        datasets = [pydicom.dcmread(BytesIO(archive.read(name))) for name in names]
    slices = []
    for index in range(count):
        ds = pydicom.dcmread(BytesIO(_bytes(datasets[index % len(datasets)])))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.10.{index + 1}"
        ds.ImagePositionPatient = [-100, -100, 2.5 * index]
        ds.ImageOrientationPatient, ds.InstanceNumber = [1, 0, 0, 0, 1, 0], index + 1
        start = (ds.Rows - side) // 2
        ds.PixelData = np.ascontiguousarray(ds.pixel_array[start : start + side, start : start + side]).tobytes()
        ds.Rows = ds.Columns = side
        slices.append(ds)
    return slices


def _bytes(ds: pydicom.Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def write_series(folder: Path, count: int, side: int = 48, uid: str = "") -> Path:
    """Write a CT series of a file per slice."""
    folder.mkdir(parents=True)
    for index, ds in enumerate(real_slices(count, side)):
        if uid:
            ds.SeriesInstanceUID = uid
        ds.save_as(folder / f"{index:04d}.dcm")
    return folder


def write_zip(path: Path, folder: Path) -> Path:
    """Pack the files of a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def write_nifti(path: Path, shape: tuple[int, int, int], axes: tuple[int, int, int] = (0, 1, 2)) -> Path:
    """Write a CT volume, made of a real slice and noise, whose axes may be exchanged."""
    ds = real_slices(1, 256)[0]
    stored = ds.pixel_array.T * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    slice_ = np.resize(stored, shape[:2]).astype(np.int16)
    noise = np.random.default_rng(0).integers(-20, 20, shape, dtype=np.int16)
    affine = np.diag([0.7, 0.7, 5, 1.0])[:, [*axes, 3]]
    nib.save(nib.Nifti1Image((noise + slice_[..., None]).transpose(axes), affine), path)
    return path
