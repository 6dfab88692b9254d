"""Studies on Dask: every result is there once and equals a lone run's, whichever process dies."""

import contextlib
import json
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest
from cluster_parts import open_restorer
from phantoms import ct_series, ct_volume

from medrestore_monai.dicom import read_series
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import Workers, make_job, restore_studies

SIZE = (16, 12)
NAMES = ["a/series", *(f"v{number}.npy" for number in range(5))]


@pytest.fixture
def job(tmp_path, bundle):
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="a")
    for number in range(5):
        np.save(tmp_path / "in" / f"v{number}.npy", ct_volume(1, SIZE)[..., 0] + number)
    return make_job(tmp_path / "in", tmp_path / "out", Restorer(bundle, device="cpu"))


def workers(job, tmp_path, **options):
    return Workers(partial(open_restorer, job.restorer.bundle.root, tmp_path / "log", **options), threads=1)


def attempts(tmp_path):
    return sorted(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())


def assert_equal_to_a_lone_run(job, names=NAMES):
    for name in names:
        if name.endswith(".npy"):
            wanted = job.restorer(np.load(job.source / name))
            np.testing.assert_array_equal(np.load(job.output / name), wanted)
        else:
            job.restorer.restore_file(job.source / name, job.output.parent / "alone" / name, overwrite=True)
            found, wanted = (read_series(place / name) for place in (job.output, job.output.parent / "alone"))
            assert found.uid == wanted.uid
            np.testing.assert_array_equal(found.array, wanted.array)
    assert sorted(path.name for path in (job.output / ".medrestore").iterdir()) == ["client.json", "lock", "records"]
    assert not [path for path in job.output.rglob(".*") if path.name != ".medrestore"]


@pytest.mark.slow
def test_two_workers_one_of_them_killed_and_a_study_that_kills_every_worker(job, tmp_path):
    """One study kills the first worker only, and is restored by the second attempt."""
    reports, listening = [], set()

    def report(progress):
        reports.append(progress)
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # killed just now
                sockets = process.net_connections("inet")
                listening.update(socket.laddr.ip for socket in sockets if socket.status == "LISTEN")

    records = restore_studies(job, report=report, workers=workers(job, tmp_path, deadly="v1.npy", deaths=1))
    assert {record["name"]: record["outcome"] for record in records} == dict.fromkeys(NAMES, "restored")
    assert attempts(tmp_path) == sorted(["series", "v1.npy", *(f"v{number}.npy" for number in range(5))])
    assert len({line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}) >= 2
    assert [progress.done for progress in reports] == list(range(1, 7))
    assert listening == {"127.0.0.1"}
    assert json.loads((job.output / "manifest.json").read_text())["studies"] == records
    assert_equal_to_a_lone_run(job)

    (tmp_path / "log").unlink()
    for name in ("v1.npy", "v2.npy"):
        (job.output / name).unlink()
    records = restore_studies(job, workers=workers(job, tmp_path, deadly="v1.npy"))
    assert attempts(tmp_path) == ["v1.npy", "v1.npy", "v2.npy"]  # nothing that is done is done again
    by_name = {record["name"]: record for record in records}
    assert by_name["v1.npy"]["outcome"] == "failed"
    assert "worker processes died" in by_name["v1.npy"]["reason"]
    assert by_name["v2.npy"]["outcome"] == "restored"
    assert_equal_to_a_lone_run(job, [name for name in NAMES if name != "v1.npy"])


@pytest.mark.slow
def test_a_worker_with_other_weights_or_settings_stops_all(job, tmp_path):
    with pytest.raises(RuntimeError, match=r"worker at tls://127\.0\.0\.1.* differs .*strength 0\.5 there"):
        restore_studies(job, workers=workers(job, tmp_path, strength=0.5))
    assert not (tmp_path / "log").exists()
    assert not list((job.output / ".medrestore" / "records").glob("*"))


CLIENT = """
import sys
from functools import partial
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
from cluster_parts import open_restorer
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import Workers, make_job, restore_studies
if __name__ == "__main__":
    bundle, source, output, log = map(Path, sys.argv[1:])
    job = make_job(source, output, Restorer(bundle, device="cpu"))
    restore_studies(job, workers=Workers(partial(open_restorer, bundle, log, slow=1.0), threads=1))
"""


@pytest.mark.slow
def test_a_client_is_killed_and_restarted_and_a_second_one_is_refused(job, tmp_path):
    here = os.path.dirname(__file__)
    (tmp_path / "client.py").write_text(CLIENT.format(tests=os.path.dirname(here), here=here))
    command = [sys.executable, tmp_path / "client.py", job.restorer.bundle.root, job.source, job.output]
    client = subprocess.Popen([*map(str, command), str(tmp_path / "log")], stderr=subprocess.DEVNULL)
    records = job.output / ".medrestore" / "records"
    while not (records.is_dir() and list(records.glob("*.json"))):
        assert client.poll() is None
        time.sleep(0.05)
    with pytest.raises(ValueError, match=f"is in use by process {client.pid} on .*wait for it"):
        restore_studies(job)
    client.kill()
    client.wait()
    pids = {int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()}
    time.sleep(2)
    assert not [pid for pid in pids if _is_running(pid)]
    before = {path: path.stat().st_mtime_ns for path in job.output.glob("v*.npy")}
    with pytest.warns(UserWarning, match=f"process {client.pid} on .*ended early: this run continues"):
        finished = restore_studies(job)
    assert {record["outcome"] for record in finished} == {"restored"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_equal_to_a_lone_run(job)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
