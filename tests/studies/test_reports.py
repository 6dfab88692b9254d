"""Reports of restorations: beside one result, or one a study with a page that lists them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from phantoms import ct_series, ct_volume
from typer.testing import CliRunner

from medrestore_monai.audit import writing
from medrestore_monai.cli import app
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import make_job, restore_studies, task

SIZE = (24, 21)


@pytest.fixture
def job(tmp_path, bundle):
    ct_series(tmp_path / "in" / "a" / "series", slices=2, size=SIZE, series="a")
    np.save(tmp_path / "in" / "c d.npy", ct_volume(2, SIZE))
    np.save(tmp_path / "in" / "nan.npy", np.full(SIZE, np.nan))
    return make_job(tmp_path / "in", tmp_path / "out", Restorer(bundle, device="cpu"), report=True)


def written(job):
    return sorted(path.parent.relative_to(job.output / "report").as_posix() for path in job.output.rglob("audit.html"))


@pytest.mark.slow
def test_each_study_has_its_report_and_the_page_leads_to_them(job):
    restore_studies(job)
    assert written(job) == ["a/series", "c d.npy"]
    page = (job.output / "report" / "index.html").read_text(encoding="utf-8")
    for link in re.findall('href="([^"]*)"', page):
        assert (job.output / "report" / link.replace("%20", " ")).is_file()
    assert page.count("href=") == 2
    assert page.index("nan.npy") < page.index("c d.npy")  # what failed comes first
    assert sorted(path.name for path in (job.output / ".medrestore").iterdir()) == ["client.json", "lock", "records"]
    report = json.loads((job.output / "report" / "c d.npy" / "audit.json").read_text())
    assert report["source"]["modality"] == "CT"
    assert report["provenance"]["weights_sha256"] == job.restorer.weights_sha256


@pytest.mark.slow
def test_a_result_without_its_report_gets_it_and_is_not_restored_again(job, monkeypatch):
    restore_studies(replace(job, report=False))
    assert written(job) == []
    calls, restored = [], {path: path.stat().st_mtime_ns for path in job.output.rglob("*.npy")}
    monkeypatch.setattr(Restorer, "restore_file", lambda self, path, *rest, **options: calls.append(path.name))
    restore_studies(job)
    assert written(job) == ["a/series", "c d.npy"]
    assert {path: path.stat().st_mtime_ns for path in restored} == restored
    assert calls == ["nan.npy"]


@pytest.mark.slow
def test_a_new_result_takes_away_the_report_of_the_old_one(job):
    restore_studies(job)
    other = Restorer(job.restorer.bundle, device="cpu", strength=0.5)
    restore_studies(make_job(job.source, job.output, other, overwrite=True))
    assert written(job) == []


@pytest.mark.slow
def test_what_cannot_be_audited_is_noted_and_stays_restored(job, monkeypatch):
    def fail(*args, **options):
        raise ValueError("no such audit")

    monkeypatch.setattr(task, "audit_restoration", fail)
    records = {record["name"]: record for record in restore_studies(job)}
    assert records["c d.npy"]["outcome"] == "restored"
    assert records["c d.npy"]["notes"][-1] == "there is no report: no such audit"


@pytest.mark.slow
def test_a_study_may_not_lie_among_the_reports(job, tmp_path):
    (tmp_path / "in" / "report").mkdir()
    np.save(tmp_path / "in" / "report" / "x.npy", np.zeros(SIZE))
    with pytest.raises(ValueError, match=r"result of report/x\.npy would lie among the reports"):
        restore_studies(job)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a.nii.gz", "a_report"),
        ("scan.v1.nii.gz", "scan.v1_report"),
        ("1.2.840.1.NII", "1.2.840.1_report"),
        ("a.b/series.1", "series.1_report"),
        (".npy", ".npy_report"),
    ],
)
def test_where_the_report_of_one_image_goes(tmp_path, name, folder):
    assert writing.report_folder(tmp_path / name).name == folder


@pytest.mark.slow
def test_on_the_command_line(job, tmp_path):
    def run(source, output, *more):
        line = ["restore", source, "-o", output, "--bundle", job.restorer.bundle.root, "--device", "cpu", "--report"]
        return CliRunner().invoke(app, [*map(str, line), *more])

    one = run(tmp_path / "in" / "c d.npy", tmp_path / "one.npy")
    assert one.exit_code == 0, one.output
    assert f"Report: {tmp_path / 'one_report' / 'audit.html'}" in one.stdout
    (tmp_path / "one.npy").unlink()
    refused = run(tmp_path / "in" / "c d.npy", tmp_path / "one.npy")
    assert (refused.exit_code, (tmp_path / "one.npy").exists()) == (2, False)
    assert "one_report exists" in refused.stderr
    assert run(tmp_path / "in" / "c d.npy", tmp_path / "one.npy", "--overwrite").exit_code == 0
    many = run(tmp_path / "in", tmp_path / "many")
    assert many.exit_code == 3
    assert f"Reports: {tmp_path / 'many' / 'report' / 'index.html'}" in many.stdout
