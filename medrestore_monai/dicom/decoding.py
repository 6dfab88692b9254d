"""Decode compressed pixel data in a process of its own, with limits of memory and time."""

from __future__ import annotations

import atexit
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.dicom import decoder_process

__all__ = ["Decoded", "decode_file"]

_LEAST = 512 << 20  # bytes that a decoder may always use
_COPIES = 16  # of the slice that its header declares
_SECONDS = 120.0


class Decoded:
    """What came of decoding a file.

    Attributes:
        array: the values as they lie in the file, ``None`` if there are none.
        problem: why, one of ``missing`` (no decoder is installed), ``damaged``, ``memory`` (more than the header
            declares), ``time`` and ``crashed``; ``warned`` where the decoder doubts its own work; empty if all is well.
    """

    def __init__(self, array: np.ndarray | None = None, problem: str = "") -> None:
        self.array, self.problem = array, problem


def decode_file(path: Path, size: int) -> Decoded:
    """Decode the pixel data of a DICOM file.

    Args:
        path: of the file.
        size: bytes that its header declares for the decoded slice.
    """
    with _lock:
        return _decoder(max(_LEAST, _COPIES * size)).decode(path, size)


class _Decoder:
    """A process that decodes, until it dies."""

    def __init__(self, memory: int) -> None:
        self.memory, self.owner = memory, os.getpid()
        command = [sys.executable, decoder_process.__file__, str(memory)]
        self._process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, path: Path, size: int) -> Decoded:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(_SECONDS, stop)
        timer.start()
        try:
            return self._answer(path, size)
        except (OSError, ValueError):  # it has died, or its answer is cut short
            self.close()
            return Decoded(problem="time" if late.is_set() else "crashed")
        finally:
            timer.cancel()

    def _answer(self, path: Path, size: int) -> Decoded:
        self._process.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            return Decoded(problem=answer["error"])
        dtype, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
        count = math.prod(shape) * dtype.itemsize
        if count > max(_LEAST, _COPIES * size):
            self.close()
            return Decoded(problem="memory")
        data = self._process.stdout.read(count)
        return Decoded(np.frombuffer(data, dtype).reshape(shape), "warned" if answer["warned"] else "")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


_lock = threading.Lock()
_running: list[_Decoder] = []


def _decoder(memory: int) -> _Decoder:
    """Return a process that may use so much memory; a new one where there is none, or it has less."""
    if not _running or _running[0].owner != os.getpid() or not _running[0].alive() or _running[0].memory < memory:
        _close()
        _running.append(_Decoder(memory))
    return _running[0]


@atexit.register
def _close() -> None:
    while _running:
        decoder = _running.pop()
        if decoder.owner == os.getpid():  # not the one of a process that this one was forked from
            decoder.close()
