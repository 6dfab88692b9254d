"""A process of its own that decodes compressed pixel data: what a decoder does there, it does within limits.

Run as a file, so that it imports pydicom and its decoders alone. It reads a path a line from its standard input, as
JSON, and answers with a line of JSON and the bytes of the array.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom

#: Parts of pydicom that decode pixels, in its releases 2 and 3.
DECODERS = {"pixels", "pixel_data_handlers", "encaps.py"}


def decode(path: str) -> tuple[np.ndarray, bool]:
    """Return the array of a file, and whether a decoder warned of its data: it may have made up what is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        array = pydicom.dcmread(path).pixel_array
    return np.ascontiguousarray(array), any(_of_decoder(one.filename) for one in caught)


def _of_decoder(file: str) -> bool:
    parts = Path(file).parts
    # pydicom warns of header values, too
    return "pydicom" not in parts or not DECODERS.isdisjoint(parts)


def limit_memory(size: int) -> None:
    """Let this process use so many bytes more than it does now, where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more requests."""
    for line in requests:
        answer: dict[str, Any] = {}
        array = None
        try:
            array, answer["warned"] = decode(json.loads(line))
            answer.update(dtype=array.dtype.str, shape=array.shape)
        except MemoryError:
            answer["error"] = "memory"
        except Exception as error:  # a decoder may raise anything
            missing = "missing" in str(error) or isinstance(error, NotImplementedError)
            answer["error"] = "missing" if missing else "damaged"
        answers.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            answers.write(array.data)
        answers.flush()


if __name__ == "__main__":
    pixels = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a decoder prints is no answer
    limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, pixels)
