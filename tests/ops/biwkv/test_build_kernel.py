"""The compiled kernel: how it is built, found and named, and which instruction set it takes."""

import ctypes
import importlib.machinery
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medrestore_monai.cli.doctor import examine
from medrestore_monai.ops.biwkv import build, cpu, forms
from medrestore_monai.ops.biwkv.build import find_compiler

# an installation without a C compiler has no kernel; .ci/run checks that it was built
needs_kernel = pytest.mark.skipif(not cpu.is_available(), reason="there was no C compiler to build the kernel with")
FMA, OSXSAVE, AVX = 1 << 12, 1 << 27, 1 << 28  # cpuid leaf 1, ECX
AVX2, AVX512 = 1 << 5, 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31  # leaf 7, EBX: F, DQ, BW, VL
BF16 = 1 << 5  # leaf 7, subleaf 1, EAX
AMX = 1 << 22 | 1 << 24  # leaf 7, EDX: BF16, TILE
WIDE, WIDEST, TILES = 0x07, 0xE7, 0x600E7  # XCR0: registers up to YMM, up to ZMM, and tiles


@needs_kernel
@pytest.mark.parametrize(
    ("ecx_1", "ebx_7", "edx_7", "eax_7_1", "xcr0", "expected"),
    [
        (FMA | AVX, AVX2 | AVX512, AMX, BF16, TILES, 4),
        (FMA | AVX, AVX2 | AVX512, AMX, BF16, WIDEST, 3),  # the system does not save tiles
        (FMA | AVX, AVX2 | AVX512, AMX ^ 1 << 22, BF16, TILES, 3),  # tiles without products in bfloat16
        (FMA | AVX, AVX2 | AVX512, AMX, 0, TILES, 2),
        (FMA | AVX, AVX2 | AVX512, 0, BF16, WIDEST, 3),
        (FMA | AVX, AVX2 | AVX512, 0, 0, WIDEST, 2),
        (FMA | AVX, AVX2 | AVX512, 0, BF16, WIDE, 1),  # the system does not save the widest registers
        (FMA | AVX, AVX2 | AVX512 ^ 1 << 31, 0, 0, WIDEST, 1),  # such as Knights Landing, without VL
        (FMA | AVX, AVX2, 0, 0, WIDE, 1),
        (FMA | AVX, AVX2, 0, 0, 0x03, 0),  # the system saves no wide registers
        (FMA | AVX, 0, 0, 0, WIDE, 0),
        (AVX, AVX2 | AVX512, 0, BF16, WIDEST, 0),
        (0, 0, 0, 0, 0, 0),
    ],
)
def test_the_instruction_set_follows_what_processor_and_system_say(ecx_1, ebx_7, edx_7, eax_7_1, xcr0, expected):
    widest_of = cpu._library().biwkv_widest_of
    widest_of.argtypes = [ctypes.c_uint32] * 4 + [ctypes.c_uint64]
    assert widest_of(ecx_1, ebx_7, edx_7, eax_7_1, xcr0) == expected


@pytest.mark.slow
@needs_kernel
def test_the_instruction_set_is_that_of_pytorch(monkeypatch):
    """PyTorch asks the processor by a library of its own, cpuinfo."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    ask = """if True:
        import torch
        known = torch.cpu.get_capabilities()
        print(torch.backends.cpu.get_cpu_capability(), known["avx512_bf16"], known["amx_bf16"] and known["amx_tile"])
    """
    capability = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    names = {"AVX512 True True": "AMX BF16", "AVX512 True False": "AVX-512 BF16", "AVX512 False False": "AVX-512"}
    expected = (names | {"AVX2 False False": "AVX2"}).get(capability, "generic")
    if expected == "AMX BF16" and not cpu._library().biwkv_may_use_tiles():
        expected = "AVX-512 BF16"  # the system refuses, such as to a process with little room for signals
    assert cpu.instruction_set() == expected
    assert examine()["cpu"]["biwkv"] == f"compiled C kernel, {expected}"


def test_the_plain_name_wins_over_that_of_one_python(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    loaded = []

    def load(path):
        loaded.append(Path(path).name)
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", load)
    plain, old = f"_biwkv{build.SUFFIX}", f"_biwkv{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    for name in (old, plain):
        (tmp_path / name).touch()
        assert cpu._library.__wrapped__() is None
    assert loaded == [old, plain]


def test_where_its_tests_have_not_run_it_is_compared_first(monkeypatch):
    monkeypatch.setitem(forms._FORMS, "cpu", forms._FORMS["cpu"]._replace(on_probation=True))
    monkeypatch.setattr(forms, "_verdicts", {})
    compared = []

    def disagreement(form, device):
        compared.append(device)
        return ""

    monkeypatch.setattr(forms, "disagreement", disagreement)
    keys = torch.zeros(1, 2, 3, 4)
    backends = [forms.choose_backend(keys) for _ in range(2)]
    assert backends == ["cpu" if cpu.is_available() else "torch"] * 2
    assert len(compared) == cpu.is_available()


def test_the_compiler_is_that_of_the_environment(monkeypatch):
    monkeypatch.setenv("CC", shlex.join([sys.executable, "-m", "ziglang cc"]))
    assert find_compiler() == [sys.executable, "-m", "ziglang cc"]
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(RuntimeError, match="there is no C compiler no-such-compiler -m64; name another one by CC"):
        find_compiler()


def test_a_failing_compiler_is_reported_and_leaves_the_library_alone(tmp_path):
    library = tmp_path / "lib" / "_biwkv.so"
    library.parent.mkdir()
    library.write_bytes(b"old")
    broken = [sys.executable, "-c", "import sys; sys.exit('no room')"]
    with pytest.raises(RuntimeError, match=r"the C compiler failed: .*\nno room"):
        build.build(library, broken)
    assert library.read_bytes() == b"old"
    assert list(library.parent.iterdir()) == [library]


def test_the_compiler_gets_all_flags_and_the_library_comes_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("CFLAGS", "-DONE -DTWO")
    record = "import sys; a = sys.argv; open(a[a.index('-o') + 1], 'w').write('\\n'.join(a))"
    words = build.build(tmp_path / "_biwkv.so", [sys.executable, "-c", record], ["-s"]).read_text().splitlines()
    assert [*build.FLAGS, "-DONE", "-DTWO", "-s", str(build.SOURCE)] == words[1 : words.index("-o")]
    assert words[-2:] == ["-lm", "-lpthread"]
