"""What the package and the command import: nothing heavy before it is needed. Time is not tested."""

import subprocess
import sys

import pytest
from phantoms import ct_series

# of other packages and of this one, that neither restores an image
UNUSED = (
    "dask",
    "distributed",
    "jinja2",
    "matplotlib",
    "medrestore_monai.evaluate",
    "medrestore_monai.label_app",
    "medrestore_monai.ops.biwkv.triton_form",
    "medrestore_monai.ops.re_wkv_onnx",
    "medrestore_monai.report",
    "onnx",
    "onnxruntime",
    "skimage.measure.find_contours",
    "skimage.transform",
    "torch._dynamo",
    "torch._inductor",
    "torch.onnx",
    "triton",
)
HEAVY = ("ignite", "monai", "nibabel", "numpy", "pydicom", "scipy", "skimage", "torch", *UNUSED)


def imported(names, code):
    """Which of ``names`` a new process has imported after ``code``."""
    look = f"import sys; print('IMPORTED', *[name for name in {names!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{look}"], capture_output=True, text=True, check=True)
    return run.stdout.split("IMPORTED")[1].split()


def command(*arguments):
    return f"""
from medrestore_monai.cli import app
try:
    app({list(arguments)!r})
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("code", ["import medrestore_monai", command("--help"), command("restore", "--help")])
def test_nothing_heavy_is_imported_to_say_what_there_is(code):
    assert imported(HEAVY, code) == []


@pytest.mark.slow
def test_a_restoration_imports_what_it_needs(tmp_path):
    ct_series(tmp_path / "ct", slices=1, size=(24, 16))
    code = command("restore", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--bundle", "ct_denoise_restore_rwkv")
    # what MONAI itself brings along is not ours to choose
    brought = imported(UNUSED, "import monai")
    assert set(imported(UNUSED, code)) <= set(brought)
    assert (tmp_path / "out" / "IM0001.dcm").is_file()
