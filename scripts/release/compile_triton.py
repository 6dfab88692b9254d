"""Compile every Triton kernel of Bi-WKV as it is launched, for CUDA devices, on a machine without one.

    python scripts/release/compile_triton.py                        # all architectures: about 20 minutes of one core
    python scripts/release/compile_triton.py --architectures 90 --channels 48 --dtypes float32
    python scripts/release/compile_triton.py --json kernels.json > kernels.md

The package's own launch code runs on CPU tensors, under a driver that launches nothing: what Triton would compile is
recorded, so that no shape is repeated here. Triton then compiles each record for each architecture, with the ptxas of
its wheel, and a table shows registers of a thread, bytes of registers that spill into memory, shared memory of a block,
and how many blocks a multiprocessor holds at a time.

Exit code 1 where a kernel does not compile, needs more shared memory than a block may have, or spills although the
channels are a multiple of 16, as those of all networks here, beyond what is ``KNOWN``; spills with other numbers of
channels are shown.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before triton is imported
os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # what comes from a cache has no word of ptxas
os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver
from triton.runtime.jit import JITFunction

REGISTERS = 64 * 1024  # of a multiprocessor
# Bytes that are known to spill, by kernel and architecture. With maxnreg=168 the one in float32 would spill nothing,
# and a multiprocessor would hold one block instead of two; which is faster, only a device can tell.
KNOWN = {("gradient first pass rows gate fp32", 90): 4, ("gradient first pass rows gate bf16", 90): 4}


@dataclass(frozen=True)
class Device:
    """What a multiprocessor has, and a block may have: the CUDA programming guide's table of compute capabilities.

    Attributes:
        threads: of a multiprocessor.
        blocks: of a multiprocessor.
        shared: KiB of a multiprocessor; each block takes one more.
        of_block: KiB that one block may have.
    """

    threads: int
    blocks: int
    shared: int
    of_block: int


DEVICES = {
    75: Device(1024, 16, 64, 64),
    80: Device(2048, 32, 164, 163),
    86: Device(1536, 16, 100, 99),
    89: Device(1536, 24, 100, 99),
    90: Device(2048, 32, 228, 227),
    100: Device(2048, 32, 228, 227),
    120: Device(1536, 24, 100, 99),
}


@dataclass
class Compilation:
    """One kernel as it is launched: what Triton compiles it from, and a title."""

    kernel: str
    signature: dict[str, str]
    constants: dict[tuple, Any]
    attributes: dict[tuple, Any]
    options: dict[str, Any]
    channels: int
    title: str


@dataclass
class Compiled:
    """What became of it on one architecture; ``error`` is empty where it compiled."""

    title: str
    architecture: int
    channels: int
    warps: int
    registers: int = 0
    spilled: int = 0
    shared: int = 0
    blocks: int = 0
    error: str = ""
    flaws: list[str] = field(default_factory=list)


class NoDevice:
    """A driver for Triton that names a device and launches nothing."""

    def get_current_device(self) -> int:
        """Return the number of the device."""
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        """Return the default stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return any CUDA architecture: what is recorded is compiled for others."""
        return GPUTarget("cuda", 80, 32)

    def get_active_torch_device(self) -> torch.device:
        """Return where the tensors are."""
        return torch.device("cpu")


@contextlib.contextmanager
def recording(found: dict[str, Compilation], case: dict[str, Any]) -> Iterator[None]:
    """Put what Triton would compile inside into ``found``, each once; ``case`` says what is launched."""

    def record(
        self: JITFunction,
        key: Any,
        signature: dict[str, str],
        device: Any,
        constants: dict[tuple, Any],
        options: Any,
        attributes: dict[tuple, Any],
        warmup: bool,
    ) -> None:
        names = list(signature)
        chosen = {name: getattr(options, name) for name in ("num_warps", "maxnreg")}
        words = describe(self.fn.__name__, {names[place[0]]: value for place, value in constants.items()}, signature)
        of = Compilation(
            self.fn.__name__, dict(signature), dict(constants), dict(attributes), chosen, case["channels"], words
        )
        found.setdefault(repr((of.kernel, of.signature, of.constants, of.attributes, of.options)), of)

    driver.set_active(NoDevice())  # for good: without a GPU there is none to go back to
    before, JITFunction._do_compile = JITFunction._do_compile, record
    try:
        yield
    finally:
        JITFunction._do_compile = before


def describe(kernel: str, constants: dict[str, Any], signature: dict[str, str]) -> str:
    """Name a compilation by what is fixed in it."""
    words = [kernel.removesuffix("_kernel")]
    if kernel == "gradient_kernel":
        words.append("first pass" if constants.get("handed", "") is None else "second pass")
    if kernel == "carry_kernel":
        words.append("backward" if constants.get("top", "") is None else "forward")
    if "COLUMNS" in constants:
        words.append("columns" if constants["COLUMNS"] else "rows")
    if kernel in ("mix_kernel", "gradient_kernel") and constants.get("r", "") is not None:
        words.append("gate")
    return " ".join([*words, *([signature["k"].removeprefix("*")] if "k" in signature else [])])


def launched(channels: list[int], dtypes: list[str], sizes: list[int]) -> list[Compilation]:
    """Return each distinct compilation of the forward and the backward pass of such images."""
    from medrestore_monai.ops.biwkv import triton_form  # noqa: F401  registers the operators

    forward, backward = torch.ops.medrestore.biwkv2d_triton, torch.ops.medrestore.biwkv2d_triton_backward
    found: dict[str, Compilation] = {}
    for count, dtype, size, columns, gated in itertools.product(channels, dtypes, sizes, (False, True), (False, True)):
        with recording(found, {"channels": count}):
            k = torch.zeros(1, size, size, count, dtype=getattr(torch, dtype))
            decay = torch.zeros(1, count)
            r = k.clone() if gated else None
            _, carried, highest = forward(decay, decay.clone(), k, k.clone(), r, columns, 0, 1.0)
            backward(k.clone(), decay, decay.clone(), k, k.clone(), r, carried, highest, columns, 0, 1.0)
    return list(found.values())


def compiled(of: Compilation, architecture: int) -> Compiled:
    """Compile one kernel for one architecture; what is wrong with it is among its ``flaws``."""
    from medrestore_monai.ops.biwkv import triton_kernels

    result = Compiled(of.title, architecture, of.channels, of.options["num_warps"])
    source = ASTSource(getattr(triton_kernels, of.kernel), of.signature, of.constants, of.attributes)
    log = io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(log):
            os.environ["TRITON_CACHE_DIR"] = cache
            done = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=of.options)
    except Exception as error:  # of whatever stage
        result.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        result.flaws.append("does not compile")
        return result
    used = [int(number) for number in re.findall(r"Used (\d+) registers", log.getvalue())]
    if not used:
        raise RuntimeError(f"ptxas does not state the registers of {of.title}: {log.getvalue()[:300]!r}.")
    result.registers, result.shared = max(used), done.metadata.shared
    result.spilled = max((int(n) for n in re.findall(r"(\d+) bytes spill stores", log.getvalue())), default=0)
    device, threads = DEVICES[architecture], 32 * result.warps
    of_thread = -(-result.registers // 8) * 8  # a warp takes them by 256
    result.blocks = min(
        device.blocks,
        device.threads // threads,
        REGISTERS // (of_thread * threads),
        (device.shared << 10) // (result.shared + 1024),
    )
    if result.shared > device.of_block << 10:
        result.flaws.append("too much shared memory")
    if result.spilled > KNOWN.get((of.title, architecture), 0) and of.channels % 16 == 0:
        result.flaws.append("spills")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", choices=list(DEVICES), default=list(DEVICES))
    parser.add_argument("--channels", type=int, nargs="+", default=[48, 3])
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="sides of the images in pixels")
    parser.add_argument("--only", default="", metavar="WORDS", help="of these, such as 'gradient first pass'")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()

    todo = [one for one in launched(options.channels, options.dtypes, options.sizes) if options.only in one.title]
    tasks = [(one, architecture) for architecture in options.architectures for one in todo]
    print(f"Triton {triton.__version__}, {len(todo)} kernels, {len(options.architectures)} architectures\n")
    print("| kernel | channels | sm | warps | registers | spilled, bytes | shared memory, bytes | blocks | flaws |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(compiled, *zip(*tasks, strict=True)) if tasks else ():
            rows.append(row)
            numbers = (row.registers, row.spilled, row.shared, row.blocks) if not row.error else ("", "", "", "")
            cells = (row.title, row.channels, row.architecture, row.warps, *numbers, ", ".join(row.flaws) or "none")
            print("|", " | ".join(map(str, cells)), "|", *([row.error] if row.error else []), flush=True)
    flawed = [row for row in rows if row.flaws]
    print(f"\n{len(rows)} compiled, {len(flawed)} with flaws")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if flawed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
