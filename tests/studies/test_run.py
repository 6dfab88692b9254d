"""Many studies: each is restored once, what is done is skipped, and a bad one stops nothing."""

import contextlib
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import ct_series, ct_volume, pet_series
from tiny_bundle import NAME, write_tiny_weights
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.dicom import read_series
from medrestore_monai.restorer import Restorer, restore
from medrestore_monai.studies import list_studies, make_job, restore_studies, task

SIZE = (16, 12)


@pytest.fixture
def calls(monkeypatch):
    """The real work, noted and much faster: the file or series is written as it is."""
    noted = []

    def note(self, path, target, **options):
        noted.append(target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("restored")

    monkeypatch.setattr(Restorer, "restore_file", note)
    return noted


def outcomes(records):
    return {record["name"]: record["outcome"] for record in records}


def opened_with(job, **settings):
    return make_job(job.source, job.output, Restorer(job.restorer.bundle, device="cpu", **settings))


def leftovers(output):
    """Hidden things but for the folder of records, which holds the lock of nobody and no result."""
    ours = {path.name for path in (output / ".medrestore").iterdir()} - {"records", "lock", "client.json"}
    hidden = [path.name for path in output.rglob(".*") if path.name != ".medrestore"]
    return [*hidden, *ours, (output / ".medrestore/client.json").read_text()]


@pytest.mark.slow
def test_every_study_equals_one_restored_alone(job, bundle, tmp_path):
    records = restore_studies(job)
    assert set(outcomes(records).values()) == {"restored"}
    for record in records:
        restore(record["source"], tmp_path / "alone" / record["name"], bundle, device="cpu")
    for name in ("c.npy", "d.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / name), np.load(tmp_path / "alone" / name))
    for name in ("a/series", "b/series"):
        found, wanted = read_series(tmp_path / "out" / name), read_series(tmp_path / "alone" / name)
        assert found.uid == wanted.uid
        np.testing.assert_array_equal(found.array, wanted.array)
    assert leftovers(job.output) == [""]
    manifest = json.loads((job.output / "manifest.json").read_text())
    assert manifest["studies"] == records
    first = records[0]
    assert first["series_uid"] == read_series(tmp_path / "in" / "a").uid
    assert first["weights_sha256"] == job.settings["weights_sha256"] != ""
    assert (first["settings"]["strength"], first["settings"]["bundle"], first["files"]) == (1.0, NAME, 2)


@pytest.mark.slow
def test_what_is_done_is_skipped_and_what_is_missing_or_failed_is_not(job, calls, tmp_path):
    restore_studies(job)
    assert sorted(calls) == ["c.npy", "d.npy", "series", "series"]
    calls.clear()
    restore_studies(job)
    assert calls == []
    (job.output / "c.npy").unlink()
    np.save(tmp_path / "in" / "e.npy", np.zeros(SIZE))
    restore_studies(job)
    assert calls == ["c.npy", "e.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["setting", "weights", "source"])
def test_other_settings_weights_or_files_are_refused_in_one_sentence_by_default(job, calls, tmp_path, change):
    restore_studies(job)
    calls.clear()
    words = {
        "setting": "strength 1.0 there and 0.5 now",
        "weights": "weights_sha256 .* there and 0{12}... now",
        "source": "1 files of .* bytes then, 1 of .* now",
    }
    changes = {"setting": {"strength": 0.5}, "weights": {"weights_sha256": "0" * 64}, "source": {}}
    if change == "source":
        np.save(tmp_path / "in" / "c.npy", ct_volume(3, SIZE))
    job = replace(job, settings={**job.settings, **changes[change]})
    with pytest.raises(FileExistsError, match=f"restored otherwise .*{words[change]}.*`overwrite`"):
        restore_studies(job)
    assert calls == []
    restore_studies(replace(job, overwrite=True))
    assert len(calls) == (1 if change == "source" else 4)
    calls.clear()
    restore_studies(replace(job, overwrite=True))  # what is done is done
    assert calls == []


@pytest.mark.slow
def test_an_earlier_result_stays_recorded_if_a_later_run_fails(job, tmp_path):
    restore_studies(job)
    kept, good = (job.output / "c.npy").read_bytes(), (tmp_path / "in" / "c.npy").read_bytes()
    (tmp_path / "in" / "c.npy").write_bytes(good[:-40])
    records = {record["name"]: record for record in restore_studies(replace(job, overwrite=True))}
    assert records["c.npy"]["outcome"] == "failed"
    assert (job.output / "c.npy").read_bytes() == kept
    assert records["c.npy"]["output"] == str(job.output / "c.npy")
    assert records["c.npy"]["notes"][-1] == "The result of an earlier run is still there."
    (tmp_path / "in" / "c.npy").write_bytes(good)
    again = {record["name"]: record for record in restore_studies(job)}  # no --overwrite: it is ours
    assert (again["c.npy"]["outcome"], again["c.npy"]["notes"]) == ("restored", [])


@pytest.mark.slow
def test_how_a_result_that_stays_was_made_stays_on_record(job, tmp_path):
    made = {record["name"]: record for record in restore_studies(job)}["c.npy"]
    good = (tmp_path / "in" / "c.npy").read_bytes()
    (tmp_path / "in" / "c.npy").write_bytes(good[:-40])
    other = opened_with(job, strength=0.5)
    for _ in range(2):  # the second failure may not take the first one's settings for those of the result
        failed = {record["name"]: record for record in restore_studies(replace(other, overwrite=True))}["c.npy"]
        assert (failed["outcome"], failed["settings"]["strength"]) == ("failed", 0.5)
        assert failed["earlier"] == {name: made[name] for name in failed["earlier"]}
        assert failed["earlier"]["settings"]["strength"] == 1.0
    (tmp_path / "in" / "c.npy").write_bytes(good)
    third = opened_with(job, strength=0.7)
    with pytest.raises(FileExistsError, match=r"restored otherwise .*strength 0\.5 there and 0\.7 now"):
        restore_studies(third)
    again = {record["name"]: record for record in restore_studies(other)}["c.npy"]
    assert again["outcome"] == "restored"
    assert "earlier" not in again


@pytest.mark.slow
def test_another_series_of_the_same_size_and_time_is_not_done(job):
    """Two series that change places, as two anonymised cohorts with the same names would."""
    places = [job.source / patient for patient in "abc"]
    for path in job.source.rglob("*.dcm"):
        os.utime(path, ns=(0, 0))
    before = list_studies(job.source)[0]
    restore_studies(job)
    for source, target in ((0, 2), (1, 0), (2, 1)):
        places[source].rename(places[target])
    after = list_studies(job.source)[0]
    same = {"series_uid": before.series_uid, "fingerprints": before.fingerprints}  # the files have other names, too
    assert replace(after, **same) == before != after
    with pytest.raises(FileExistsError, match=r"holds 2 of these .*restored otherwise .*another series then"):
        restore_studies(job)


@pytest.mark.slow
def test_weights_that_are_written_anew_meanwhile_change_nothing(job, tmp_path, monkeypatch):
    """A training may write better ones: all results are of those that the records name."""
    own, restored = write_tiny_weights(tmp_path / "own.pt"), Restorer.restore_file
    job = opened_with(job, weights=own)

    def restore_then_write(self, path, target, **options):
        restored(self, path, target, **options)
        write_tiny_weights(own, seed=1)

    monkeypatch.setattr(Restorer, "restore_file", restore_then_write)
    records = restore_studies(job)
    assert {record["weights_sha256"] for record in records} == {job.restorer.weights_sha256}
    alone = np.load(job.source / "d.npy")
    wanted = job.restorer(alone)
    np.testing.assert_array_equal(np.load(job.output / "d.npy"), wanted)
    assert (Restorer(job.restorer.bundle, weights=own)(alone) != wanted).any()


@pytest.mark.slow
def test_a_series_in_a_folder_named_like_a_picture_with_a_preview_beside_it(job):
    ct_series(job.source / "y.png", slices=2, size=SIZE, series="c")
    (job.source / "y.png" / "preview.png").write_bytes(b"")
    records = {record["name"]: record for record in restore_studies(job)}
    restored = [name for name, record in records.items() if record["outcome"] == "restored" and "y.png" in name]
    assert len(restored) == 1
    assert read_series(job.output / restored[0]).array.shape == (*SIZE, 2)


def test_somebody_else_s_manifest_stays(job):
    job.output.mkdir()
    (job.output / "manifest.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"manifest\.json exists, without the records"):
        restore_studies(job)
    assert (job.output / "manifest.json").read_text() == "mine"
    assert [path.name for path in job.output.iterdir()] == ["manifest.json"]


@pytest.mark.slow
def test_bad_studies_are_reported_and_the_rest_is_restored(job, tmp_path):
    ct_series(tmp_path / "in" / "gap", slices=5, size=SIZE, series="g", skip=[2])
    (tmp_path / "in" / "bad.nii").write_bytes(b"nothing")
    np.save(tmp_path / "in" / "nan.npy", np.full(SIZE, np.nan))
    pet_series(tmp_path / "in" / "mixed", slices=2, size=SIZE, series="p")
    ct_series(tmp_path / "in" / "mixed", slices=2, size=SIZE, series="q")
    records = restore_studies(job)
    by_name = {record["name"].split("-")[0]: record for record in records}
    assert {name: by_name[name]["outcome"] for name in ("gap", "bad.nii", "nan.npy", "mixed/PT", "mixed/CT")} == {
        **dict.fromkeys(["gap", "bad.nii", "nan.npy"], "failed"),
        "mixed/PT": "unfit",
        "mixed/CT": "restored",
    }
    assert "slice(s) missing" in by_name["gap"]["reason"]
    assert sum(record["outcome"] == "restored" for record in records) == 5
    assert not (job.output / "gap").exists()
    assert leftovers(job.output) == [""]


@pytest.mark.slow
def test_a_mistake_of_ours_is_a_failure_that_names_no_patient(job, monkeypatch):
    def mistaken(self, path, target, **options):
        raise KeyError("Canary^Name")

    monkeypatch.setattr(Restorer, "restore_file", mistaken)
    assert {record["reason"] for record in restore_studies(job)} == {
        "an unexpected KeyError: a mistake in medrestore, please report it."
    }


@pytest.mark.slow
def test_a_full_disk_stops_the_work(job, monkeypatch):
    def full(self, path, target, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Restorer, "restore_file", full)
    with pytest.raises(OSError, match=r"No space left.*series"):
        restore_studies(job)
    assert leftovers(job.output) == [""]


@pytest.mark.slow
def test_what_comes_to_be_there_after_a_full_disk_is_not_replaced(job, monkeypatch):
    def full(self, path, target, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(Restorer, "restore_file", full)
        with pytest.raises(OSError, match="No space left"):
            restore_studies(job)
    there = job.output / list_studies(job.source)[0].name / "notes.txt"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("of somebody else")
    (record, *_) = restore_studies(job)
    assert "exists" in record["reason"]
    assert there.read_text() == "of somebody else"


def test_weights_that_do_not_fit_stop_the_work(job, tmp_path):
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "own.pt")
    result = command(job, "--weights", tmp_path / "own.pt")
    assert result.exit_code == 3
    assert "own.pt does not hold the weights of RestoreRWKV" in result.stderr
    assert not job.output.exists()


@pytest.mark.parametrize("there", ["", "of somebody else", "of an earlier run"])
@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_run_that_is_killed_between_record_and_result_resumes(job, bundle, monkeypatch, there, moment):
    """Killed before its record is written, or before its result is in place: neither a result without its record is
    left, nor the record of one result with another."""
    if there == "of somebody else":
        job.output.mkdir()
        (job.output / "c.npy").write_text(there)
    elif there:
        restore_studies(opened_with(job, strength=0.5))

    def die(*args):
        raise SystemExit  # undone below: a killed process would undo nothing

    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(task.shutil, "rmtree", lambda *args, **options: None)
        if moment == "write":
            patch.setattr(task.Ledger, "write", die)
        else:
            patch.setattr(Path, "rename", lambda a, b: die() if b == job.output / "c.npy" else rename(a, b))
        with contextlib.suppress(SystemExit):
            restore_studies(replace(job, overwrite=bool(there) and "earlier" in there), only(job, "c.npy"))
    (record,) = restore_studies(replace(job, overwrite="earlier" in there), only(job, "c.npy"))
    if there == "of somebody else":
        assert (record["outcome"], (job.output / "c.npy").read_text()) == ("failed", there)
        assert "c.npy exists" in record["reason"]
    else:
        assert record["outcome"] == "restored"
        wanted = job.restorer(np.load(job.source / "c.npy"))
        np.testing.assert_array_equal(np.load(job.output / "c.npy"), wanted)
    assert leftovers(job.output) == [""]


def test_what_a_killed_process_left_of_a_record_or_the_manifest_is_cleared_away(job):
    records = job.output / ".medrestore" / "records"
    records.mkdir(parents=True)
    for left in (records / ".00ff.json.58cd6ea883d5.part", job.output / ".manifest.json.58cd6ea883d5.part"):
        left.write_bytes(b'{"name"')
    mine = job.output / ".mine.part"
    mine.write_text("of somebody else")
    restore_studies(job)
    assert sorted(leftovers(job.output)) == ["", ".mine.part"]


def only(job, name):
    return [study for study in list_studies(job.source) if study.name == name]


@pytest.mark.parametrize("output", ["in", "in/out", "in/c.npy"])
def test_output_and_source_in_one_another(job, calls, tmp_path, output):
    with pytest.raises(ValueError, match="may not lie in one another"):
        restore_studies(replace(job, output=tmp_path / output))
    assert calls == []


def test_a_damaged_record_is_named(job, calls):
    restore_studies(job)
    record = next((job.output / ".medrestore" / "records").iterdir())
    record.write_text("{")
    with pytest.raises(ValueError, match=f"{record.name} is no record"):
        restore_studies(job)


def command(job, *more):
    line = ["restore", job.source, "-o", job.output, "--bundle", job.restorer.bundle.root, "--device", "cpu", *more]
    return CliRunner().invoke(app, [str(word) for word in line])


def test_on_the_command_line(job, calls, tmp_path):
    planned = command(job, "--dry-run")
    assert planned.exit_code == 0
    assert planned.stdout.count("to do") == 4
    assert not job.output.exists()
    (tmp_path / "in" / "bad.zip").write_bytes(b"PK")
    result = command(job)
    assert result.exit_code == 3
    assert "5 studies with ct_denoise_restore_rwkv: 4 restored, 1 failed." in result.stdout
    assert "cannot be" in result.stdout
    assert "studies/min, 0:00 left" in result.stderr
    assert "Error" not in result.stderr
    (tmp_path / "in" / "bad.zip").unlink()
    assert command(job).exit_code == 0
    refused = command(job, "--strength", "0.5")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "strength 1.0 there and 0.5 now" in refused.stderr
    assert len(calls) == 4


def test_one_series_stays_what_it_was(job, tmp_path):
    result = command(replace(job, source=tmp_path / "in" / "a"))
    assert result.exit_code == 0
    assert sorted(path.name for path in job.output.iterdir()) == ["series"]
    deep = command(replace(job, source=tmp_path / "in" / "a" / "series", output=tmp_path / "deep"))
    assert deep.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["IM0001.dcm", "IM0002.dcm"]


def rewrite(path, seconds=10.0):
    """Give a file another time of change, as if the same bytes were written again."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + round(seconds * 1e9)))


def test_a_source_written_again_counts_as_changed(job, calls, tmp_path):
    restore_studies(job)
    calls.clear()
    rewrite(tmp_path / "in" / "c.npy", 1e-6)
    with pytest.raises(FileExistsError, match=r"1 of these .*files written at 20.* UTC then, 20.* UTC now"):
        restore_studies(job)
    restore_studies(replace(job, overwrite=True))
    restore_studies(job)
    assert calls == ["c.npy"]


def test_a_copy_that_keeps_whole_seconds_is_the_same(job, calls, tmp_path):
    for path in (tmp_path / "in").rglob("*.*"):
        os.utime(path, ns=(0, 10**18 + 5 * 10**8))
    restore_studies(job)
    calls.clear()
    for path in (tmp_path / "in").rglob("*.*"):
        os.utime(path, ns=(0, 10**18))
    restore_studies(job)
    assert calls == []
    rewrite(tmp_path / "in" / "d.npy")
    with pytest.raises(FileExistsError, match="1 of these studies restored otherwise"):
        restore_studies(job)


def forget(job, *fields):
    """Make records those of an earlier version."""
    for path in (job.output / ".medrestore" / "records").iterdir():
        record = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in record.items() if name not in fields}))


def test_records_of_earlier_versions_have_no_time(job, calls, tmp_path):
    restore_studies(job)
    calls.clear()
    forget(job, "modified", "fingerprints")
    rewrite(tmp_path / "in" / "c.npy")
    restore_studies(job)
    assert calls == []


def test_records_of_earlier_versions_have_the_newest_time_alone(job, calls, tmp_path):
    for number, path in enumerate(sorted((tmp_path / "in").rglob("*.*"))):
        os.utime(path, ns=(0, 10**18 + number * 10**10 + 5))
    restore_studies(job)
    calls.clear()
    forget(job, "fingerprints")
    rewrite(min((tmp_path / "in" / "a" / "series").iterdir()), -100)
    restore_studies(job)
    assert calls == []
    rewrite(tmp_path / "in" / "c.npy")
    with pytest.raises(FileExistsError, match=r"1 of these .*files written at 20.* UTC then, 20.* UTC now"):
        restore_studies(job)


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_replaced_by_an_older_one_of_its_size_counts_as_changed(job, calls, tmp_path, whole):
    """As ``cp -p``, ``rsync -t`` and ``unzip`` do: number, bytes and the newest time stay."""
    first, last = sorted((tmp_path / "in" / "a" / "series").iterdir())
    for number, path in enumerate((first, last)):
        os.utime(path, ns=(0, 10**18 + number * 10**9 + 5 * (not whole)))
    restore_studies(job)
    calls.clear()
    rewrite(first, 1e-1 if not whole else -1)
    with pytest.raises(FileExistsError, match=r"1 of these .*files of other names, sizes or times then"):
        restore_studies(job)
    restore_studies(replace(job, overwrite=True))
    restore_studies(job)
    assert calls == ["series"]


def test_half_a_pair_that_is_replaced_counts_as_changed(job, calls, tmp_path):
    nib.Nifti1Pair(np.zeros((4, 5, 3), np.int16), np.eye(4)).to_filename(tmp_path / "in" / "e.hdr")
    rewrite(tmp_path / "in" / "e.img", -100)
    restore_studies(job)
    rewrite(tmp_path / "in" / "e.img", 50)
    with pytest.raises(FileExistsError, match=r"1 of these .*files of other names, sizes or times then"):
        restore_studies(job)


@pytest.mark.parametrize("step", [10**9, 2 * 10**9, -2 * 10**9])  # a negative one rounds up
@pytest.mark.parametrize("back", [False, True])
def test_a_copy_with_coarse_times_of_many_files_is_the_same(job, calls, tmp_path, step, back):
    def set_times(coarse):
        for number, path in enumerate(sorted((tmp_path / "in").rglob("*.*"))):
            ns = 10**18 + 7 * 10**8 * number + 3
            os.utime(path, ns=(0, ns // step * step if coarse else ns))

    set_times(back)
    restore_studies(job)
    calls.clear()
    set_times(not back)
    restore_studies(job)
    assert calls == []


def test_the_output_may_not_lie_in_what_a_link_of_the_source_leads_to(job, calls, tmp_path):
    (tmp_path / "store").mkdir()
    np.save(tmp_path / "store" / "e.npy", np.zeros(SIZE))
    (tmp_path / "in" / "more").symlink_to(tmp_path / "store")
    ct_series(tmp_path / "store" / "f", slices=2, size=SIZE, series="f")
    with pytest.raises(ValueError, match="may not lie in one another"):
        restore_studies(replace(job, output=tmp_path / "store" / "f" / "out"))
    assert calls == []


@pytest.fixture
def odd_name(tmp_path):
    """A folder whose name is Latin-1, beside the others."""
    place = os.fsdecode(os.fsencode(tmp_path / "in") + b"/M\xfcller")
    try:
        os.mkdir(place)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    return place


def test_names_that_are_not_utf8(job, tmp_path, odd_name):
    np.save(os.path.join(odd_name, "e.npy"), ct_volume(1, SIZE)[..., 0])
    np.save(os.path.join(odd_name, "nan.npy"), np.full(SIZE, np.nan))
    for series in "fg":
        ct_series(tmp_path / "in" / odd_name / "two", slices=2, size=SIZE, series=series)
    planned = command(job, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert r"M\udcfcller" in planned.stdout
    result = command(job, "--strength", "0")
    assert result.exit_code == 3
    assert "8 studies with ct_denoise_restore_rwkv: 7 restored, 1 failed." in result.stdout
    assert r"M\udcfcller/e.npy: restored" in result.stderr
    assert r"M\udcfcller/nan.npy" in result.stdout
    (written,) = [path for path in job.output.iterdir() if path.name.endswith("ller")]
    assert os.fsencode(written.name) == b"M\xfcller"
    assert len(list(written.iterdir())) == 2
    manifest = json.loads((job.output / "manifest.json").read_text(encoding="utf-8"))
    assert all(os.path.exists(record["output"]) for record in manifest["studies"] if record["output"])
    assert command(job, "--strength", "0").stderr.count("restored") == 0


def test_markup_in_a_header_or_a_path_is_printed_as_it_is(job, tmp_path):
    ct_series(
        tmp_path / "in" / "x", slices=2, size=SIZE, series="x", edit=lambda ds, _: setattr(ds, "Modality", "[/CT]")
    )
    (tmp_path / "[").mkdir()
    source = (tmp_path / "in").rename(tmp_path / "[" / "in]")
    planned = command(replace(job, source=source), "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "[/CT]" not in planned.stdout  # no modality of DICOM
    assert "modality unknown" in planned.stdout
    assert "[/in]" in planned.stdout.replace("\n", "")


def test_images_and_previews_beside_dicom_files(job, tmp_path):
    """Each image has its own result, and no picture makes the job fail."""
    np.save(tmp_path / "in" / "a" / "series" / "more.npy", ct_volume(1, SIZE)[..., 0])
    (tmp_path / "in" / "b" / "series" / "thumb.jpg").write_bytes(b"a picture")
    result = command(job, "--strength", "0")
    assert result.exit_code == 0, result.output
    assert "6 studies with ct_denoise_restore_rwkv: 5 restored, 0 failed, 1 passed over." in result.stdout
    assert "thumb.jpg" in result.stdout
    assert (job.output / "a" / "series" / "more.npy").is_file()
    assert read_series(job.output / "a" / "series").shape == (*SIZE, 2)
    assert {path.suffix for path in (job.output / "b" / "series").iterdir()} == {".dcm"}


def test_one_series_with_a_preview_stays_one(job, tmp_path):
    (tmp_path / "in" / "a" / "series" / "thumb.jpg").write_bytes(b"a picture")
    result = command(replace(job, source=tmp_path / "in" / "a" / "series"), "--strength", "0")
    assert result.exit_code == 0, result.output
    assert "thumb.jpg passed over" in result.stderr
    assert sorted(path.name for path in job.output.iterdir()) == ["IM0001.dcm", "IM0002.dcm"]
