"""``medrestore audit``: two files, exit codes, nothing written for a mistake."""

import json

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_series, ct_volume
from typer.testing import CliRunner

from medrestore_monai.cli import app


def run(*args):
    return CliRunner().invoke(app, ["audit", *(str(arg) for arg in args)])


@pytest.fixture
def pair(tmp_path):
    volume = ct_volume(2, (72, 61))
    ct_series(tmp_path / "in", volume=volume)
    ct_series(tmp_path / "restored", volume=volume + 2, series="b")
    return tmp_path / "in", tmp_path / "restored"


@pytest.mark.slow
def test_an_audit_writes_the_figures_and_one_page(pair, tmp_path):
    result = run(*pair, "-o", tmp_path / "new" / "report")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "new" / "report"
    assert sorted(file.name for file in folder.iterdir()) == ["audit.html", "audit.json"]
    report = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert result.stdout.startswith(report["verdict"]["light"])
    assert "For research, not a medical device." in result.stdout
    assert (folder / "audit.html").stat().st_size < 2e6  # 1.06 MB of it are the viewer


@pytest.mark.slow
def test_the_slice_axis_of_files_can_be_named(tmp_path):
    nib.save(nib.Nifti1Image(ct_volume(2, (72, 61)).transpose(2, 0, 1).astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    line = [tmp_path / "a.nii", tmp_path / "a.nii", "--modality", "CT", "--slice-axis", "0", "-o", tmp_path / "report"]
    assert run(*line).exit_code == 0
    report = json.loads((tmp_path / "report" / "audit.json").read_text(encoding="utf-8"))
    assert report["source"]["shape"] == [72, 61, 2]


@pytest.mark.slow
def test_overwrite_replaces_an_audit_and_nothing_else(pair, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    for options in ([], ["--overwrite"]):
        assert run(*pair, "-o", tmp_path / "other", *options).exit_code == 2
    assert run(*pair, "-o", tmp_path / "out").exit_code == 0
    refused = run(*pair, "-o", tmp_path / "out")
    assert (refused.exit_code, "name another folder, or give --overwrite" in refused.stderr) == (2, True)
    assert run(*pair, "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert (tmp_path / "other" / "precious").exists()


@pytest.mark.slow
def test_usage_errors_end_with_2_and_bad_data_with_3(pair, tmp_path):
    source, restored = pair
    ct_series(tmp_path / "small", slices=2, size=(24, 16), series="c")
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 2), np.int16), np.eye(4)), tmp_path / "a.nii")
    cases = [
        (2, "no file or folder", [source, tmp_path / "missing", "-o", tmp_path / "x"]),
        (2, "--threshold must be above 0", [source, restored, "-o", tmp_path / "x", "--threshold", "0"]),
        (2, "no bundle 'nothing'", [source, restored, "-o", tmp_path / "x", "--bundle", "nothing"]),
        (2, "--modality must be one of", [source, restored, "-o", tmp_path / "x", "--modality", "US"]),
        (2, "may not lie in one another", [source, restored, "-o", source / "report"]),
        (3, "on the grid of its source", [source, tmp_path / "small", "-o", tmp_path / "x"]),
        (
            2,
            "does not state its modality: give --modality CT, MR or PT",
            [tmp_path / "a.nii", tmp_path / "a.nii", "-o", tmp_path / "x"],
        ),
    ]
    for code, message, args in cases:
        result = run(*args)
        assert (result.exit_code, message in result.stderr) == (code, True), result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".*"))
