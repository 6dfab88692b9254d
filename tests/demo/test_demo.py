"""The demonstration: what it writes and prints, and what it leaves alone; on a small phantom in place of the series."""

import csv
import zipfile

import numpy as np
import pydicom
import pytest
from phantoms import ct_series
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from tiny_bundle import make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai import demo
from medrestore_monai.cli import app
from medrestore_monai.demo import run as demo_run

ARCHIVE = demo.ARCHIVE


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(make_tiny_bundle(tmp_path / "bundles").parent))
    ct_series(tmp_path / "ct", slices=2, size=(120, 101))
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as archive:
        for file in (tmp_path / "ct").iterdir():
            archive.write(file, file.name)
    monkeypatch.setattr(demo_run, "ARCHIVE", tmp_path / "small.zip")
    monkeypatch.chdir(tmp_path)


def run(*args):
    return CliRunner().invoke(app, ["demo", *map(str, args)])


def hounsfield(folder):
    slices = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda one: one.ImagePositionPatient[2])
    return np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])


def test_it_writes_three_series_a_picture_and_the_scores_of_its_files(tmp_path):
    result = run()
    assert result.exit_code == 0, result.output
    output = tmp_path / "medrestore_demo"
    assert {path.name for path in output.iterdir()} == {
        *("source", "quarter_dose", "restored"),
        *("comparison.png", "scores.csv"),
    }
    volumes = {name: hounsfield(output / name).clip(-160, 240) for name in ("source", "quarter_dose", "restored")}
    with (output / "scores.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"quarter dose", "restored"}
    for name, row in rows.items():
        pairs = zip(volumes["source"], volumes[name.replace(" ", "_")], strict=True)
        expected = np.mean([peak_signal_noise_ratio(truth, image, data_range=400) for truth, image in pairs])
        assert float(row["psnr_db"]) == pytest.approx(expected, abs=1e-3)
        assert f"{float(row['psnr_db']):.2f}" in result.stdout
    assert np.asarray(Image.open(output / "comparison.png")).std() > 10
    assert "Restored DICOM series: medrestore_demo/restored" in result.stdout
    assert "The low dose is simulated. For research, not a medical device." in result.stdout


def test_it_replaces_an_earlier_demonstration_alone_and_when_asked(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "scores.csv").write_text("mine")
    for options, message in (([], "mine exists; --overwrite replaces it"), (["--overwrite"], "is no earlier demo")):
        result = run("-o", mine, *options)
        assert result.exit_code == 2
        assert message in result.stderr
    assert [path.name for path in mine.iterdir()] == ["scores.csv"]
    (mine / "comparison.png").write_text("old")
    assert run("-o", mine, "--overwrite").exit_code == 0
    assert len(list(mine.iterdir())) == 5


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "none"))
    monkeypatch.setattr(demo_run, "restore", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    result = run("-o", "out")
    assert result.exit_code == 3
    assert "Error: No space left: out." in result.stderr
    assert not list(tmp_path.glob("*out*"))
    monkeypatch.setattr(demo_run, "ARCHIVE", tmp_path / "missing.zip")
    assert "is missing: install medrestore-monai again" in run().stderr


def test_the_series_that_ships_is_whole_and_names_its_license():
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 12
    assert "CC BY 4.0" in ARCHIVE.with_name("README.md").read_text()
