"""Build the C kernel, and wheels for every Python of a system: the kernel is a plain library without Python in it.

Everything else is described in ``pyproject.toml``. ``MEDRESTORE_KERNEL`` in the environment names a kernel that was
compiled before, which the wheel must then carry; without it, the kernel is compiled here if there is a C compiler.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FOLDER = Path("medrestore_monai", "ops", "biwkv")
KERNEL = os.environ.get("MEDRESTORE_KERNEL")


def load_builder():
    """Load the file that compiles the kernel, without the package around it, which needs PyTorch."""
    spec = importlib.util.spec_from_file_location("build_kernel", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = load_builder()


class BuildKernel(build_ext):
    """Compile the kernel, or take the one that was compiled before."""

    def get_ext_filename(self, fullname):
        """Return its path: the name has no version of Python in it."""
        return os.path.join(*fullname.split(".")) + (Path(KERNEL).suffix if KERNEL else builder.SUFFIX)

    def build_extension(self, ext):
        """Write the library."""
        output = Path(self.get_ext_fullpath(ext.name))
        if KERNEL:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(KERNEL, output)
            return
        try:
            builder.build(output)
        except RuntimeError as error:
            raise CompileError(str(error)) from error


class SystemWheel(bdist_wheel):
    """A wheel of one system and of any Python 3."""

    def get_tag(self):
        """Return the tag."""
        return "py3", "none", super().get_tag()[2]


sources = sorted(str(path) for path in (FOLDER / "csrc").iterdir())
setup(
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": SystemWheel},
    ext_modules=[
        Extension(
            "medrestore_monai.ops.biwkv._biwkv",
            sources=[path for path in sources if path.endswith(".c")],
            depends=sources,
            optional=not KERNEL,  # without a compiler the installation goes on; PyTorch then does the work
        )
    ],
)
