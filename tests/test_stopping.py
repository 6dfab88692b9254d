"""SIGTERM is never lost, and ends work between its steps."""

import signal
import subprocess
import sys

import pytest

BEGIN = """
import os, signal
from medrestore_monai.stopping import stop_if_asked, stop_on_sigterm, stopping_at_once
stop_on_sigterm()
def ask():
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize(
    ("code", "printed", "status"),
    [
        ("ask(); print('step'); stop_if_asked(); print('no')", "step", 143),
        ("stop_if_asked(); print('step')", "step", 0),
        ("ask()\nwith stopping_at_once(): print('no')", "", 143),
        ("with stopping_at_once():\n    ask()\n    print('no')", "", 143),
        ("with stopping_at_once(): pass\nask(); print('step'); stop_if_asked()", "step", 143),
        ("ask(); ask(); print('no')", "", -signal.SIGTERM),
        # an exception in a finalizer would be lost
        ("class A:\n    def __del__(self): ask()\nA(); print('step'); stop_if_asked(); print('no')", "step", 143),
    ],
)
def test_sigterm_ends_the_work_between_its_steps(code, printed, status):
    ended = subprocess.run([sys.executable, "-u", "-c", BEGIN + code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (status, printed, "")
