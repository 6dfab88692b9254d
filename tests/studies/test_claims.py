"""One holder at a time, of any number of processes; a dead one loses what it held, a living one does not."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from medrestore_monai.studies.claims import Claims, started_at

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="tells processes by /proc")
fork = multiprocessing.get_context("fork")


def owner(claims, key="a", generation=1):
    return json.loads((claims.folder / f"{key}.{generation}").read_text())


def test_a_claim_is_held_by_one_and_then_gone(tmp_path):
    one, two = Claims(tmp_path), Claims(tmp_path)
    with one.hold("a") as claim, two.hold("a") as refused, two.hold("b") as other:
        assert (claim.generation, refused, other.generation) == (1, None, 1)
        assert owner(one)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_the_claim(tmp_path):
    with pytest.raises(KeyError), Claims(tmp_path).hold("a"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def hold_forever(folder):
    with Claims(folder).hold("a"):
        time.sleep(60)


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path):
    claims = Claims(tmp_path)
    for died in range(1, 3):
        process = fork.Process(target=hold_forever, args=(tmp_path,))
        process.start()
        while not (tmp_path / f"a.{died}").exists() or not (tmp_path / f"a.{died}").read_text():
            time.sleep(0.01)
        with claims.hold("a") as claim:
            assert claim is None  # it lives
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with claims.hold("a") as claim:
        assert claim.generation == 3  # two died over it
    assert list(tmp_path.iterdir()) == []


def test_of_work_that_is_done_only_dead_claims_are_taken_away(tmp_path):
    claims = Claims(tmp_path)
    with claims.hold("dead"):
        dead = owner(claims, "dead") | {"pid": 2**22 + 1}
    for key in ("dead", "other"):
        (tmp_path / f"{key}.1").write_text(json.dumps(dead))
    with Claims(tmp_path).hold("living"):
        claims.release_dead(["dead", "living", "nothing"])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["living.1", "other.1"]


def test_a_number_that_another_process_got_is_no_sign_of_life(tmp_path):
    claims = Claims(tmp_path)
    with claims.hold("a"):
        changed = owner(claims) | {"started": "1"}
        (tmp_path / "a.1").write_text(json.dumps(changed))
        with Claims(tmp_path).hold("a") as claim:
            assert claim.generation == 2


def test_elsewhere_only_time_tells(tmp_path):
    claims = Claims(tmp_path, stale_after=100)
    foreign = {"host": "elsewhere", "boot": "b", "processes": "p", "pid": os.getpid(), "started": "1"}
    for text in (json.dumps(foreign), ""):  # or a process died before it could write
        (tmp_path / "a.1").write_text(text)
        with claims.hold("a") as claim:
            assert claim is None
        os.utime(tmp_path / "a.1", times=(time.time() - 101, time.time() - 101))
        with claims.hold("a") as claim:
            assert claim.generation == 2


def test_a_held_claim_is_touched(tmp_path):
    claims = Claims(tmp_path, stale_after=0.2)
    with claims.hold("a"):
        os.utime(tmp_path / "a.1", times=(0, 0))
        time.sleep(0.4)
        assert time.time() - (tmp_path / "a.1").stat().st_mtime < 100


def test_who_was_thought_dead_knows_it_and_takes_nothing_away(tmp_path):
    slow = Claims(tmp_path)
    with slow.hold("a") as claim:
        assert slow.owns(claim)
        (tmp_path / "a.2").write_text("{}")  # another machine took it over
        assert not slow.owns(claim)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1", "a.2"]


def count(folder, log, times):
    """Claim each key until it is done by somebody, as restoring does."""
    claims = Claims(folder)
    left = list(range(times))
    while left:
        for key in list(left):
            with claims.hold(str(key)) as claim:
                if claim is None:
                    continue
                done = folder.parent / f"done{key}"
                if not done.exists():
                    with log.open("a") as file:
                        file.write(f"{key}\n")
                    done.touch()
                left.remove(key)


def test_four_processes_do_each_thing_once(tmp_path):
    (tmp_path / "claims").mkdir()
    log = tmp_path / "log"
    processes = [fork.Process(target=count, args=(tmp_path / "claims", log, 40)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(map(int, log.read_text().split())) == list(range(40))
    assert list((tmp_path / "claims").iterdir()) == []


def test_processes_are_told_by_their_start():
    assert started_at(os.getpid()) == started_at(os.getpid()) is not None
    assert started_at(2**22 + 1) is None
