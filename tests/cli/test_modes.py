"""How commands print: quiet, verbose, one line for a warning, and words that a shell completes."""

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import typer
from phantoms import ct_series
from PIL import Image
from tiny_bundle import write_tiny_weights
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.cli.modes import reporting
from medrestore_monai.restorer import Restorer

SIZE = (24, 16)


def run(*args, code=0, command=app):
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_quiet_prints_notes_and_nothing_else(tmp_path, bundle):
    Image.fromarray(100 * np.eye(*SIZE[::-1], dtype=np.uint16)).save(tmp_path / "a.png")
    weights = write_tiny_weights(tmp_path / "own.pt")
    command = ["restore", tmp_path / "a.png", "--bundle", bundle, "--weights", weights, "--hu-offset", "0"]
    loud = run(*command, "-o", tmp_path / "loud.png")
    assert "For research, not a medical device." in loud.stdout
    quiet = run(*command, "-o", tmp_path / "quiet.png", "--quiet")
    assert quiet.stdout == ""
    notes = quiet.stderr.splitlines()
    assert notes
    assert all(line.startswith("Note: ") for line in notes)
    assert {line.replace("quiet.png", "loud.png") for line in notes} < set(loud.stderr.splitlines())
    assert (tmp_path / "quiet.png").read_bytes() == (tmp_path / "loud.png").read_bytes()


def test_quiet_of_many_studies(tmp_path, bundle):
    for name in "ab":
        ct_series(tmp_path / "in" / name, slices=1, size=SIZE, series=name)
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--bundle", bundle, "-q")
    assert (result.stdout, result.stderr) == ("", "")


def test_quiet_of_a_simulation(tmp_path):
    ct_series(tmp_path / "ct", slices=1, size=SIZE)
    result = run("degrade", tmp_path / "ct", "-o", tmp_path / "out", "--task", "gaussian_blur", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def test_quiet_prints_errors(tmp_path):
    result = run("degrade", tmp_path / "nothing", "-o", tmp_path / "out", "--quiet", code=2)
    assert result.stderr.startswith("Error: there is no file or folder")


def test_verbose_says_what_is_used(tmp_path, bundle):
    ct_series(tmp_path / "ct", slices=1, size=SIZE)
    result = run("restore", tmp_path / "ct", "-o", tmp_path / "out", "--bundle", bundle, "-v", "--device", "cpu")
    details = [line for line in result.stderr.splitlines() if line.startswith("Detail: ")]
    assert re.search(rf"from {re.escape(str(bundle))}, weights SHA-256 [0-9a-f]{{64}}\.", details[0])
    assert "Opened on cpu" in details[1]
    assert re.fullmatch(r"Detail: restore took \d+\.\d s\.", details[2])


def test_verbose_says_where_it_failed_and_quotes_no_header(tmp_path, bundle):
    ct_series(tmp_path / "ct", slices=2, size=SIZE, edit=lambda ds, index: setattr(ds, "RescaleType", "Canary"))
    command = ["restore", tmp_path / "ct", "-o", tmp_path / "out", "--bundle", bundle]
    silent = run(*command, code=3)
    assert "Detail" not in silent.stderr
    result = run(*command, "--verbose", code=3)
    assert re.search(r"Detail: \w+Error at .*\.py:\d+ \w+", result.stderr)
    assert "Canary" not in result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("Error")] == silent.stderr.splitlines()[-1:]


def test_verbose_names_the_causes_of_an_error_without_their_texts(tmp_path, bundle, monkeypatch):
    ct_series(tmp_path / "ct", slices=1, size=SIZE)

    def broken(*args, **options):
        try:
            raise KeyError("Canary")
        except KeyError as error:
            raise ValueError("a sentence.") from error

    monkeypatch.setattr(Restorer, "restore_file", broken)
    result = run("restore", tmp_path / "ct", "-o", tmp_path / "out", "--bundle", bundle, "-v", code=3)
    assert re.search(r"Detail: ValueError at .* broken; from KeyError at test_modes\.py:\d+ broken", result.stderr)
    assert "Error: a sentence." in result.stderr
    assert "Canary" not in result.output


def test_quiet_and_verbose_exclude_each_other(tmp_path):
    ct_series(tmp_path / "ct", slices=1, size=SIZE)
    result = run("degrade", tmp_path / "ct", "-o", tmp_path / "out", "-q", "-v", code=2)
    assert result.stderr == "Error: give --quiet or --verbose, not both.\n"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def warning_command():
    command = typer.Typer()

    @command.command()
    @reporting("quiet")
    def warn() -> None:
        """Warn."""
        warnings.warn("two\nlines", UserWarning, stacklevel=1)

    return command


@pytest.mark.parametrize("options", [[], ["-q"], ["-v"]], ids=str)
@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_without_a_place_in_the_code(warning_command, options):
    before = warnings.showwarning
    result = run(*options, command=warning_command)
    assert result.stderr.splitlines()[0] == "Note: two lines"
    assert ".py" not in result.output
    assert warnings.showwarning is before


COMPLETIONS = [
    ("res", "restore"),
    ("restore --bundle ct_", "ct_denoise_restore_rwkv"),
    ("bundles show pet", "pet_synthesis_restore_rwkv"),
    ("degrade --task pet", "pet_low_count"),
    ("restore --precision b", "bfloat16"),
    ("evaluate --layout gop", "gopro"),
]


@pytest.mark.slow
def test_a_shell_completes_words_without_torch():
    script = f"""
import contextlib, io, os, sys
from medrestore_monai.cli import app
for words, expected in {COMPLETIONS}:
    os.environ.update(_MEDRESTORE_COMPLETE="complete_bash", COMP_WORDS="medrestore " + words)
    os.environ["COMP_CWORD"] = str(len(words.split()))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        app(prog_name="medrestore")
    assert printed.getvalue().split() == [expected], (words, printed.getvalue())
assert not {{"torch", "monai", "numpy", "pydicom"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "MEDRESTORE_BUNDLES": ""})


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = "from medrestore_monai.cli import app; app(prog_name='medrestore')"
    command = [sys.executable, "-c", script, "--show-completion", shell]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "_MEDRESTORE_COMPLETE" in shown
