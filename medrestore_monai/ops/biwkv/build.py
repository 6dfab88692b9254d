"""Compile the C kernel: for ``pip install``, for the wheels of a release, and for a bundle in its zoo form.

    python medrestore_monai/ops/biwkv/build.py

compiles it beside this file, where it is found from then on. Only the standard library is used: an installation loads
this file on its own, before anything is installed.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

NAME = "_biwkv"
SUFFIX = ".pyd" if sys.platform == "win32" else ".so"
SOURCE = Path(__file__).with_name("csrc") / "biwkv.c"
FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
LIBRARIES = ("-lm", "-lpthread")


def find_compiler() -> list[str]:
    """Return the command of the C compiler: ``CC`` from the environment, or the first that is installed.

    Raises:
        RuntimeError: there is none.
    """
    named = os.environ.get("CC")
    for command in [named] if named else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    raise RuntimeError(
        f"there is no C compiler {named}; name another one by CC."
        if named
        else "there is no C compiler; install one (Debian, Ubuntu: apt install gcc libc6-dev), or name it by CC."
    )


def build(output: str | os.PathLike[str], compiler: Sequence[str] = (), flags: Sequence[str] = ()) -> Path:
    """Compile the kernel; an earlier library is replaced when the new one is complete.

    Args:
        output: the library to write.
        compiler: its command; by default that of :func:`find_compiler`.
        flags: more of them, after ``FLAGS`` and those of ``CFLAGS`` in the environment.

    Returns:
        ``output``.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    output = Path(output)
    compiler = compiler or find_compiler()
    more = [*shlex.split(os.environ.get("CFLAGS", "")), *flags]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        made = Path(folder, output.name)
        command = [*compiler, *FLAGS, *more, str(SOURCE), "-o", str(made), *LIBRARIES]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise RuntimeError(f"the C compiler {compiler[0]} cannot be run: {error.strerror}.") from error
        if result.returncode:
            raise RuntimeError(f"the C compiler failed: {shlex.join(command)}\n{result.stderr.strip()[-2000:]}")
        os.replace(made, output)
    return output


if __name__ == "__main__":
    try:
        sys.stdout.write(f"Built {build(Path(__file__).with_name(NAME + SUFFIX))}\n")
    except (RuntimeError, OSError) as problem:
        sys.exit(f"Error: {problem}")
