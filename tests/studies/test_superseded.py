"""A result whose series has another name now, or that lies in the way of others, does not go unseen."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantoms import ct_series
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.dicom import find_series, read_series
from medrestore_monai.studies import Ledger, list_studies, restore_studies

SIZE = (16, 12)


def own_names(job, folder):
    """The names of the series that share a folder, by the first letters of their files."""
    names = {study.series_uid: study.name for study in list_studies(job.source) if study.path == job.source / folder}
    return {one.files[0].label[0]: names[one.uid] for one in find_series(job.source / folder)}


def in_manifest(job):
    return [record["name"] for record in json.loads((job.output / "manifest.json").read_text())["studies"]]


@pytest.mark.parametrize("changed", [False, True])
def test_a_series_that_gets_a_name_of_its_own_leaves_no_stale_result(job, tmp_path, changed):
    restore_studies(job)
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="x")
    if changed:
        os.utime(next((tmp_path / "in" / "a" / "series").glob("a*")), ns=(0, 0))
    names, others = own_names(job, "a/series"), ["b/series", "c.npy", "d.npy"]
    before = sorted(job.output.rglob("*"))
    with pytest.raises(FileExistsError, match=f"1 of these .*a/series there is {names['a']} now.*with `overwrite`"):
        restore_studies(job)
    assert sorted(job.output.rglob("*")) == before
    records = restore_studies(replace(job, overwrite=True))
    assert in_manifest(job) == [record["name"] for record in records] == sorted([*names.values(), *others])
    assert sorted(path.name for path in (job.output / "a" / "series").iterdir()) == sorted(
        name.rpartition("/")[2] for name in names.values()
    )
    assert restore_studies(job) == records


def test_a_plan_says_which_results_have_other_names_now(job, tmp_path):
    restore_studies(job)
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="x")
    names = own_names(job, "a/series")
    line = ["restore", job.source, "-o", job.output, "--bundle", job.restorer.bundle.root, "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, line), "--dry-run", "--json"])
    plan = {one["name"]: one for one in json.loads(result.stdout)["studies"]}
    assert plan[names["a"]]["state"] == "restored otherwise"
    assert plan[names["a"]]["reason"] == f"a/series there is {names['a']} now"
    assert plan[names["x"]]["state"] == "to do"


def test_a_series_that_is_alone_again_replaces_what_lay_in_its_place(job, tmp_path):
    others = ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="x")
    names = own_names(job, "a/series")
    restore_studies(job)
    for file in others:
        file.unlink()
    words = f"{names['a']} there is a/series now", f"a/series would replace the result {names['x']} that is there"
    with pytest.raises(FileExistsError, match=f"1 of these .*({'|'.join(words)})"):
        restore_studies(job)
    assert set(names.values()) < set(in_manifest(job))
    restore_studies(replace(job, overwrite=True))
    assert in_manifest(job) == ["a/series", "b/series", "c.npy", "d.npy"]
    assert read_series(job.output / "a" / "series").shape == (*SIZE, 2)
    assert {path.suffix for path in (job.output / "a" / "series").iterdir()} == {".dcm"}


def test_a_failure_under_an_old_name_goes_without_a_word(job, tmp_path):
    ct_series(tmp_path / "in" / "gap", slices=5, size=SIZE, series="g", skip=[2])
    restore_studies(job)
    assert "gap" in in_manifest(job)
    ct_series(tmp_path / "in" / "gap", slices=2, size=SIZE, series="x")
    restore_studies(job)
    assert "gap" not in in_manifest(job)
    assert set(own_names(job, "gap").values()) < set(in_manifest(job))


def test_results_of_others_stay_where_one_is_removed_around_them(job, tmp_path):
    """As earlier versions left them: the result of a series, and within it those of later names."""
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="x")
    names = own_names(job, "a/series")
    restore_studies(job)
    ledger = Ledger(job.output)
    ledger.write({**ledger.read(names["a"]), "name": "a/series", "output": str(job.output / "a/series")})
    ledger.remove(names["a"])
    for file in (job.output / names["a"]).iterdir():
        file.rename(job.output / "a" / "series" / file.name)
    kept = sorted((job.output / names["x"]).iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    for place in ("a/series", names["x"]):
        (job.output / "report" / place).mkdir(parents=True, exist_ok=True)
        (job.output / "report" / place / "audit.html").write_text("a report")
    with pytest.raises(FileExistsError, match=f"a/series there is {names['a']} now"):
        restore_studies(job)
    restore_studies(replace(job, overwrite=True))
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert {path.name for path in (job.output / "a" / "series").iterdir()} == {
        n.rpartition("/")[2] for n in names.values()
    }
    assert [path.parent.name for path in job.output.glob("report/**/audit.html")] == [names["x"].rpartition("/")[2]]
    assert "a/series" not in in_manifest(job)


def test_what_other_sources_left_in_the_output_stays(job, tmp_path):
    restore_studies(job)
    np.save(tmp_path / "e.npy", np.zeros(SIZE))
    (tmp_path / "more").mkdir()
    (tmp_path / "e.npy").rename(tmp_path / "more" / "e.npy")
    restore_studies(replace(job, source=tmp_path / "more"))
    assert in_manifest(job) == ["a/series", "b/series", "c.npy", "d.npy", "e.npy"]


@pytest.mark.parametrize("name", ["../precious", "/precious"])
def test_a_record_that_leads_out_of_the_output_removes_nothing(job, tmp_path, name):
    restore_studies(job)
    name = str(tmp_path / "precious") if name.startswith("/") else name
    ledger = Ledger(job.output)
    (tmp_path / "precious").mkdir()
    record = next(one for one in ledger.read_all().values() if one["series_uid"])
    ledger.write({**record, "name": name})
    (job.output / "manifest.json").unlink()
    restore_studies(replace(job, overwrite=True))
    assert (tmp_path / "precious").is_dir()


def test_a_result_of_another_source_is_never_removed(job, tmp_path):
    """Another batch into the same output, of which a study would lie in a result of the first."""
    restore_studies(job)
    for name in "xy":
        ct_series(tmp_path / "later" / "a" / "series" / name, slices=2, size=SIZE, series=name)
    before = {path: path.read_bytes() for path in job.output.rglob("*.dcm")}
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="and is of another source; name another output"):
            restore_studies(replace(job, source=tmp_path / "later", overwrite=overwrite))
        assert {path: path.read_bytes() for path in job.output.rglob("*.dcm")} == before


def test_a_source_named_from_another_folder_is_the_same(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    restore_studies(replace(job, source=Path("in")))
    monkeypatch.chdir(tmp_path / "in" / "a")
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="x")
    with pytest.raises(FileExistsError, match="a/series there is"):
        restore_studies(job)
