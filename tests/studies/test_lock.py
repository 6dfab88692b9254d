"""One client at a time; a dead one loses the output, and what works for it must not write."""

import os
import subprocess
import sys
import time

import pytest

from medrestore_monai.files import UsageError
from medrestore_monai.notes import Notes
from medrestore_monai.studies import lock
from medrestore_monai.studies.lock import holds, lock_output

HOLD = """
import sys, time
from pathlib import Path
from medrestore_monai.studies.lock import lock_output
with lock_output(Path(sys.argv[1]), "tls://host:1"):
    time.sleep(60)
"""


def test_a_lock_is_held_by_one_and_given_back(tmp_path):
    with lock_output(tmp_path) as run:
        assert holds(tmp_path, run)
        assert not holds(tmp_path, "another")
        with pytest.raises(UsageError, match=rf"in use by process {os.getpid()} on .*wait for it; `workers` shares"):
            lock_output(tmp_path).__enter__()
        assert holds(tmp_path, run)
    assert not holds(tmp_path, run)
    with Notes() as notes, pytest.raises(KeyError), lock_output(tmp_path) as again:
        raise KeyError
    assert again != run
    with lock_output(tmp_path):
        assert notes.messages == []


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over_with_a_note(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path])
    client = tmp_path / ".medrestore" / "client.json"
    while not client.is_file() or not client.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(UsageError, match=rf"process {process.pid} on .*scheduler tls://host:1"):
        lock_output(tmp_path).__enter__()
    process.kill()
    process.wait()
    old = lock._read(client)["run"]
    with Notes() as notes, lock_output(tmp_path) as run:
        assert holds(tmp_path, run)
        assert not holds(tmp_path, old)
    assert [f"process {process.pid} on" in message for message in notes.messages] == [True]


def test_where_the_system_has_no_locks_the_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "lock_file", lambda file: None)
    with lock_output(tmp_path), pytest.raises(UsageError, match=r"or remove .*client\.json if that process no longer"):
        lock_output(tmp_path).__enter__()
    with lock_output(tmp_path):
        pass
