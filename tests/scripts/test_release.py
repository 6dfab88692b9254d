"""The scripts of a release: wheels that are not as they must be are found, and so are kernels that differ."""

import importlib.util
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
NAME = "medrestore_monai-1.0-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
TAGS = "Tag: py3-none-manylinux2014_x86_64\nTag: py3-none-manylinux_2_17_x86_64\n"
KERNEL = "medrestore_monai/ops/biwkv/_biwkv.so"
INFO = "medrestore_monai-1.0.dist-info"
MODEL = "medrestore_monai/bundled/one/models/model.pt"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "release" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


check_wheels, compare_kernels = load("check_wheels"), load("compare_kernels")


def library(magic, place, processor):
    return magic + bytes(place - len(magic)) + processor + bytes(40)


ELF = library(b"\x7fELF", 18, b"\x3e\x00")
# the place of the header stands at byte 60
WINDOWS = library(b"MZ", 60, b"\x80\x00\x00\x00") + bytes(24) + b"PE\x00\x00\x64\x86"


@pytest.fixture
def expected():
    """A package of one bundle."""
    names = [f"medrestore_monai/bundled/one/{name}" for name in check_wheels.OF_BUNDLES]
    names += [f"medrestore_monai/{name}" for name in check_wheels.OF_PACKAGE]
    return {name: name.encode() for name in names}


def problems(folder, expected, name=NAME, kernel=KERNEL, content=ELF, tags=TAGS, pure="false", **changes):
    held = {**expected, kernel: content, f"{INFO}/licenses/LICENSE": b"Apache"}
    held[f"{INFO}/WHEEL"] = f"Root-Is-Purelib: {pure}\n{tags}".encode()
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in {**held, **changes.get("more", {})}.items():
            if path not in changes.get("less", ()):
                archive.writestr(path, data)
    return check_wheels.problems(folder / name, expected)


def test_a_good_wheel_is_good(tmp_path, expected):
    assert problems(tmp_path, expected) == []
    windows = {"name": "medrestore_monai-1.0-py3-none-win_amd64.whl", "tags": "Tag: py3-none-win_amd64\n"}
    assert problems(tmp_path, expected, kernel=KERNEL.replace(".so", ".pyd"), content=WINDOWS, **windows) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"less": [MODEL]}, [f"{MODEL} is missing"]),
        ({"less": [f"{INFO}/licenses/LICENSE"]}, ["its license is missing"]),
        ({"more": {MODEL: b"others"}}, [f"{MODEL} differs from the checkout"]),
        ({"more": {"medrestore_monai/old.py": b""}}, ["medrestore_monai/old.py does not belong into it"]),
        ({"more": {"tests/test_x.py": b""}}, ["tests/test_x.py does not belong into it"]),
        ({"less": [KERNEL]}, [f"the kernel is missing, where {KERNEL} is expected"]),
        ({"content": WINDOWS}, ["the kernel is no library for manylinux_2_17_x86_64"]),
        ({"content": library(b"\x7fELF", 18, b"\xb7\x00")}, ["the kernel is no library for manylinux_2_17_x86_64"]),
        ({"tags": "Tag: cp311-cp311-linux_x86_64\n"}, ["its tags are cp311-cp311-linux_x86_64"]),
        ({"pure": "true"}, ["it says that it fits any system"]),
    ],
)
def test_what_is_wrong_with_a_wheel_is_found(tmp_path, expected, change, found):
    assert problems(tmp_path, expected, **change) == found


def test_a_kernel_named_after_a_python_is_found(tmp_path, expected):
    other = KERNEL.replace(".so", ".cpython-311-x86_64-linux-gnu.so")
    (found,) = problems(tmp_path, expected, kernel=other)
    assert found == f"the kernel is {other}, where {KERNEL} is expected"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked sdist has no list of tracked files")
def test_the_checkout_has_what_a_wheel_must_have():
    expected = check_wheels.expected_files()
    names = dict.fromkeys(expected, b"")
    assert check_wheels.wrong_files(names, names) == []
    assert sum(name.endswith("models/model.pt") for name in names) == len(list((ROOT / "bundles").iterdir()))
    assert all(path.is_file() for path in expected.values())


def kernel(value=1.0, instruction_set="AVX2"):
    return {"results": [torch.tensor([1.0, -2.0]), torch.tensor([value])], "instruction_set": instruction_set}


def test_kernels_that_differ_are_found():
    assert compare_kernels.differences(kernel(), kernel(1.000001)) == []
    assert compare_kernels.differences(kernel(), kernel(1.001)) == ["results differ by 1.0e-03 of the largest value"]
    assert compare_kernels.differences(kernel(float("nan")), kernel()) == ["results differ by nan of the largest value"]
    slow = kernel(instruction_set="generic")
    assert compare_kernels.differences(slow, kernel()) == ["one uses generic, the other AVX2"]


@pytest.mark.slow
def test_the_kernel_of_the_checkout_agrees_with_itself(tmp_path):
    done = compare_kernels.run_kernel(ROOT, tmp_path)
    assert compare_kernels.differences(done, done) == []
    with pytest.raises(RuntimeError, match="is not the kernel in"):
        compare_kernels.within(done, tmp_path)


@pytest.mark.parametrize("name", ["Dockerfile", "medrestore.def"])
def test_containers_take_their_steps_and_files_from_the_checkout(name):
    text = (ROOT / "scripts" / "containers" / name).read_text()
    assert 'TORCH_INDEX="' in text
    assert "install.sh /opt/medrestore /build/dist" in text
    copied = re.findall(r"^(?:COPY|   ) (scripts/\S+)", text, flags=re.MULTILINE)
    assert len(copied) == 2
    ignored = (ROOT / "scripts" / "containers" / "Dockerfile.dockerignore").read_text()
    for source in copied:
        assert (ROOT / source).is_file()
        assert f"!{source}\n" in ignored


def test_an_installation_is_refused_before_anything_is_made(tmp_path):
    def install(environment):
        command = ["bash", ROOT / "scripts" / "containers" / "install.sh", environment, tmp_path]
        return subprocess.run(command, capture_output=True, text=True)

    done = install(tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path} exists; name a new folder\n"
    done = install(tmp_path / "env")
    assert done.returncode == 1
    assert "has no wheel; build it: python scripts/release/build_wheels.py" in done.stderr
    assert list(tmp_path.iterdir()) == []
