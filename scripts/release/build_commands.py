"""Commands of setuptools that ``pyproject.toml`` names: build the C kernel, and wheels for every Python of a system.

The kernel is a plain library without Python in it. ``MEDRESTORE_KERNEL`` in the environment names a kernel that was
compiled before, which the wheel must then carry; without it, the kernel is compiled here if there is a C compiler.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

KERNEL = os.environ.get("MEDRESTORE_KERNEL")


def load_builder():
    """Load the file that compiles the kernel, without the package around it, which needs PyTorch."""
    path = Path("medrestore_monai", "ops", "biwkv", "build.py")
    spec = importlib.util.spec_from_file_location("build_kernel", path)
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
            ext.optional = False
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


class WholeSource(sdist):
    """A source archive with what a packager needs to test it, beside the package and its bundles."""

    def make_distribution(self):
        """Add the files and pack all."""
        for folder in ("docs", "scripts", "tests"):
            self.filelist.graft(folder)
        for name in ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"):
            self.filelist.include(name)
        self.filelist.prune("docs/generated")
        for pattern in ("*.py[cod]", "*.so", "*.pyd"):
            self.filelist.global_exclude(pattern)
        self.filelist.sort()
        self.filelist.remove_duplicates()
        super().make_distribution()
