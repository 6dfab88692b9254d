"""The check that Triton kernels compile for CUDA devices: what it records, and that it sees what spills.

``scripts/release/compile_triton.py`` compiles all of them. Here a process of its own compiles one: the script puts a
driver without a device into Triton.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "release" / "compile_triton.py"
ONE = "gradient first pass rows gate fp32"
CODE = f"""
import json, runpy
script = runpy.run_path({str(SCRIPT)!r})
found = script["launched"]([48], ["float32"], [512])
flaws = []
for _ in range(2):  # as known, and as if nothing were known
    flaws.append(script["compiled"](next(one for one in found if one.title == {ONE!r}), 90).flaws)
    script["KNOWN"].clear()
print(json.dumps([[one.title for one in found], *flaws]))
"""


@pytest.mark.slow
# Triton exists for Linux on x86-64 only, where the tests' requirements install it
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_all_launches_are_recorded_and_what_spills_is_found():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    titles, known, unknown = json.loads(done.stdout.splitlines()[-1])
    # totals and results by rows and columns, gradients in two passes; with and without a gate
    assert len(set(titles)) == len(titles) == 2 + 2 * 2 + 2 * 2 * 2 + 2
    assert {title.split()[0] for title in titles} == {"totals", "carry", "mix", "gradient"}
    assert (known, unknown) == ([], ["spills"])
