"""Build the sdist and wheels of a release in dist/: one wheel for each system, which fits any Python 3.

    pip install '.[release]'
    python scripts/release/build_wheels.py            # for Linux on this processor
    python scripts/release/build_wheels.py --all      # also for the systems that nobody has tested

The compiler of the package ziglang makes wheels for manylinux_2_17 and for other systems; without it, this machine's C
compiler makes one for this Linux alone, for systems at least as new. auditwheel checks and names the Linux wheels.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from medrestore_monai.ops.biwkv.build import build

ROOT = Path(__file__).resolve().parents[2]


class Target(NamedTuple):
    """What zig compiles for, the suffix of the kernel, the tag of the wheel, and that which auditwheel then finds."""

    zig: str
    suffix: str
    tag: str
    audited: str = ""


# PyTorch has no wheels for Macs with Intel processors any more
TARGETS = {
    "linux_x86_64": Target("x86_64-linux-gnu.2.17", ".so", "linux_x86_64", "manylinux_2_17_x86_64"),
    "linux_aarch64": Target("aarch64-linux-gnu.2.17", ".so", "linux_aarch64", "manylinux_2_17_aarch64"),
    "macos_arm64": Target("aarch64-macos.11.0", ".so", "macosx_11_0_arm64"),
    "windows_amd64": Target("x86_64-windows-gnu", ".pyd", "win_amd64"),
}


def run(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command quietly; what it printed is shown if it fails."""
    result = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"Error: {' '.join(command)} failed:\n{result.stdout[-3000:]}{result.stderr[-3000:]}")


def make_sdist(output: Path) -> Path:
    """Pack the source."""
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(output))
    return next(output.glob("*.tar.gz"))


def make_wheel(sdist: Path, target: Target, zig: bool, output: Path) -> None:
    """Compile the kernel for a system and build the wheel from the unpacked sdist, where nothing old lies around."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig] if zig else []
        kernel = build(folder / f"_biwkv{target.suffix}", compiler, ["-s"])
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "source", filter="data")
        (source,) = (folder / "source").iterdir()
        command = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder))
        named = f"--config-setting=--build-option=--plat-name={target.tag}"
        run(*command, named, cwd=source, MEDRESTORE_KERNEL=str(kernel))
        (wheel,) = folder.glob("*.whl")
        if target.audited:
            run("auditwheel", "repair", "--wheel-dir", str(output), str(wheel))
            if zig and not list(output.glob(f"*{target.audited}.whl")):
                sys.exit(f"Error: auditwheel did not find the wheel to be {target.audited}.")
        else:
            shutil.move(wheel, output / wheel.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="build for every system; needs ziglang")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="earlier files of this package are removed")
    arguments = parser.parse_args()
    zig = importlib.util.find_spec("ziglang") is not None
    here = f"{sys.platform}_{platform.machine()}"
    if not (zig if arguments.all else here in TARGETS):
        sys.exit(
            "Error: ziglang is not installed; pip install '.[release]'." if arguments.all else f"Error: not {here}."
        )
    # the tools of this Python's environment, whether it is activated or not
    os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
    if "SOURCE_DATE_EPOCH" not in os.environ:  # the same files give the same wheel
        when = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        os.environ["SOURCE_DATE_EPOCH"] = when.stdout.strip()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("medrestore_monai-*"):
        old.unlink()
    sdist = make_sdist(output)
    for name in TARGETS if arguments.all else [here]:
        print(f"Building for {name} with {'zig' if zig else 'the C compiler of this machine'} ...", flush=True)
        make_wheel(sdist, TARGETS[name], zig, output)
    for path in sorted(output.glob("medrestore_monai-*")):
        print(f"{path.stat().st_size / 1e6:5.1f} MB  {path.name}")


if __name__ == "__main__":
    main()
