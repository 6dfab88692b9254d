"""The options for several processes: refused early in one sentence, or turned into workers."""

import importlib.util

import numpy as np
import pytest
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.cli.cluster import check_workers, warn_without_tls
from medrestore_monai.notes import Notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2", "--scheduler", "tls://host:1"], "give one of the two"),
        (["--scheduler", "host:8786"], "must be an address such as tls://host:8786, got host:8786"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    np.save(tmp_path / "a.npy", np.zeros((8, 8)))
    result = CliRunner().invoke(app, ["restore", str(tmp_path), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_without_the_extra_one_process_remains(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_workers(1, None)
    for count, scheduler, option in ((2, None, "--workers"), (1, "tls://host:1", "--scheduler")):
        with pytest.raises(RuntimeError, match=rf"{option} needs distributed: install medrestore-monai\[cluster\]"):
            check_workers(count, scheduler)


def test_a_scheduler_without_tls_is_noted():
    with Notes() as notes:
        for address in ("tls://host:1", "", "tcp://host:1"):
            warn_without_tls(address)
    (message,) = notes.messages
    assert "tcp://host:1 has no TLS: anyone who reaches it can run code" in message
