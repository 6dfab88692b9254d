"""A killed run leaves no half result: the next one clears up and puts the earlier result back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from medrestore_monai.files import (
    ScratchFolder,
    UsageError,
    atomic_folder,
    atomic_result,
    claim,
    clear_scratch,
    recover,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from medrestore_monai.files import ScratchFolder, atomic_folder, atomic_result
rename = Path.rename
left = int(sys.argv[3])

def counted(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.rename = counted
output, scratch = Path(sys.argv[2]), ScratchFolder()
if sys.argv[1] == "folder":
    with atomic_folder(output, overwrite=True) as folder:
        (folder / "new").write_text("new")
else:
    with atomic_result(output, overwrite=True) as file:
        file.write(b"new")
"""


def content(path):
    return {one.name: one.read_text() for one in path.iterdir()} if path.is_dir() else path.read_text()


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_earlier_result_comes_back_after_a_kill_between_two_renames(tmp_path, monkeypatch, kind, renames):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    output = tmp_path / "place" / "out"
    output.parent.mkdir()
    if kind == "folder":
        output.mkdir()
        (output / "old").write_text("old")
    else:
        output.write_text("old")
    before = content(output)
    command = [sys.executable, "-c", KILLED, kind, str(output), str(renames)]
    killed = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")})
    assert killed.returncode == -signal.SIGKILL
    assert output.exists() == (renames == 0)
    left = [path for path in output.parent.iterdir() if path != output]
    assert [path.stat().st_mode & 0o777 for path in [*left, *(tmp_path / "temporary").iterdir()]] == [0o700, 0o700]
    recover(output)
    clear_scratch()
    assert os.listdir(output.parent) == ["out"]
    assert os.listdir(tmp_path / "temporary") == []
    assert content(output) == before


def test_one_run_at_a_time_writes_an_output(tmp_path):
    refused = []

    def other():
        try:
            with claim(tmp_path / "out"):
                pass
        except UsageError as error:
            refused.append(str(error))

    with claim(tmp_path / "out") as outer:
        with claim(tmp_path / "out") as inner:
            assert inner is outer
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        code = "import sys; from medrestore_monai.files import *; recover(__import__('pathlib').Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        assert "UsageError: another run writes" in process.stderr
    assert ["another run writes" in message for message in refused] == [True]
    assert not list(tmp_path.iterdir())


def test_folders_above_vanish_where_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "missing" / "half").write_text("half")
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "whole").write_text("whole")
    assert content(tmp_path / "a" / "b" / "out") == {"whole": "whole"}


def test_a_name_as_long_as_names_can_be_has_a_workspace(tmp_path):
    with atomic_result(tmp_path / ("a" * 255)) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["a" * 255]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_result_has_the_mode_that_is_asked_for(tmp_path, mode):
    with atomic_result(tmp_path / "a", mode=mode) as file:
        file.write(b"new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_an_error_without_a_name_gets_that_of_the_output(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_result(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a")


def test_the_temporary_folder_of_a_running_process_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    foreign = tmp_path / "medrestore-other"
    foreign.mkdir()
    with ScratchFolder() as place:
        clear_scratch()
        assert os.path.isdir(place)
        ScratchFolder().cleanup()
        assert os.path.isdir(place)
    assert os.listdir(tmp_path) == ["medrestore-other"]
