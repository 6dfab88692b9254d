"""The whole way: a CT series is degraded, restored and derived; a bundle is trained, killed, resumed and used."""

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from forked_python import MONAI_BUNDLE, forked_python
from phantoms import ct_series, ct_volume
from tiny_bundle import BUNDLES, NAME, TINY, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.cli import app
from medrestore_monai.dicom import read_series

SAME = ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ConvolutionKernel", "SliceThickness")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


def run(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def headers(folder):
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


@pytest.mark.slow
def test_degraded_and_restored_series_are_derived_from_their_sources(tmp_path, bundle, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundle.parent))
    files = ct_series(tmp_path / "routine", slices=3, size=(104, 96), reverse_numbers=True)
    before = {file: file.read_bytes() for file in files}
    run("degrade", tmp_path / "routine", "-o", tmp_path / "low", "--dose", "0.25", "--seed", "1")
    run("restore", tmp_path / "low", "-o", tmp_path / "restored", "--device", "cpu")
    run("restore", tmp_path / "low", "-o", tmp_path / "same", "--strength", "0")
    assert {file: file.read_bytes() for file in files} == before

    names = ["routine", "low", "restored", "same"]
    series = {name: read_series(tmp_path / name) for name in names}
    assert len({one.uid for one in series.values()}) == 4
    for name in names[1:]:
        np.testing.assert_array_equal(series[name].affine, series["routine"].affine)
        assert series[name].shape == (104, 96, 3)
        for derived, source in zip(series[name].datasets, series["routine"].datasets, strict=True):
            assert all(derived[keyword] == source[keyword] for keyword in SAME)
            assert derived.SOPInstanceUID != source.SOPInstanceUID
    noise = series["low"].array - series["routine"].array
    assert noise.std() > 5
    assert not np.array_equal(series["restored"].array, series["low"].array)
    for index in range(3):  # strength 0: not one stored value differs
        np.testing.assert_array_equal(series["same"].stored(index), series["low"].stored(index))

    digest = json.loads((bundle / "configs" / "metadata.json").read_text())["weights_sha256"]
    for ds, source in zip(headers(tmp_path / "restored"), series["low"].datasets, strict=True):
        assert list(ds.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert digest[:16] in str(ds)
        assert "research" in str(ds).lower()


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Three patients with enough soft tissue to measure its noise: two NIfTI files and a DICOM series."""
    root = tmp_path_factory.mktemp("data")
    volume = ct_volume(2, 96)
    for patient in ("p1", "p2"):
        (root / patient).mkdir()
        image = nib.Nifti1Image(volume.astype(np.int16), np.diag([-0.75, -0.75, 2.5, 1.0]))
        nib.save(image, root / patient / "ct.nii.gz")
    ct_series(root / "p3" / "scan", volume=volume)
    return root


def monai_bundle(cwd, run_id, configs, dataset_dir, output_dir, fresh=False, **options):
    """``python -m monai.bundle run`` as a user types it, without any setting of ours."""
    files = "[" + ",".join(f"'{file}'" for file in configs) + "]"
    command = ["run", run_id, "--config_file", files]
    options = {"dataset_dir": dataset_dir, "output_dir": output_dir, **options}
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    if not fresh:
        return forked_python().run(MONAI_BUNDLE, *command, folder=cwd)
    environment = {k: v for k, v in os.environ.items() if k != "MEDRESTORE_BUNDLES"}
    command = [sys.executable, "-m", "monai.bundle", *command]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**environment, "OMP_NUM_THREADS": "1"}, timeout=600
    )


QUICK = {"epoch_length": 2, "val_interval": 1, "batch_size": 1, "patch_size": "[32,32]"}
OVERLAY = ["configs/train.json", "configs/train_cpu.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bundle, patients):
    """One epoch, started in the bundle's folder."""
    output = tmp_path_factory.mktemp("runs") / "run"
    result = monai_bundle(bundle, "training", OVERLAY, patients, output, fresh=True, max_epochs=1, **QUICK)
    assert result.returncode == 0, result.stderr
    return output


def score(folder):
    return json.loads((folder / "model.json").read_text())["PSNR"]


@pytest.mark.slow
def test_training_from_the_root_of_the_checkout_is_equal_to_the_bit(tmp_path, patients, trained):
    before = sorted((BUNDLES / NAME).rglob("*"))
    configs = [f"bundles/{NAME}/{name}" for name in OVERLAY]
    network = {f"network_def#{name}": str(value).replace(" ", "") for name, value in TINY.items()}
    options = {"max_epochs": 1, **QUICK, **network}
    result = monai_bundle(BUNDLES.parent, "training", configs, patients, tmp_path / "run", **options)
    assert result.returncode == 0, result.stderr
    assert sorted((BUNDLES / NAME).rglob("*")) == before
    states = [torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path / "run")]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert score(trained) == score(tmp_path / "run")
    assert list((trained / "tensorboard").iterdir())


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path, bundle, patients, trained):
    run = shutil.copytree(trained, tmp_path / "run")
    first, best = torch.load(run / "state.pt", weights_only=True), score(run)
    assert first["trainer"]["epoch"] == 1
    result = monai_bundle(bundle, "training", OVERLAY, patients, run, max_epochs=2, **QUICK)
    assert result.returncode == 0, result.stderr
    log = result.stdout + result.stderr
    for line in ("going on after epoch 1", r"Epoch\[2\] Metrics -- loss: 0\.\d+", r"Epoch\[2\] Metrics -- PSNR: \d+"):
        assert re.search(line, log)
    second = torch.load(run / "state.pt", weights_only=True)
    assert second["trainer"]["epoch"] == 2
    assert second["best"]["score"] == score(run) >= best
    steps = [state["optimizer"]["state"][0]["step"].item() for state in (first, second)]
    assert steps == [2, 4]


@pytest.mark.slow
def test_inference_from_the_folder_of_the_bundle(tmp_path, bundle, trained):
    ct_series(tmp_path / "ct", slices=2, size=(40, 32))
    weights = trained / "model.pt"
    result = monai_bundle(
        bundle, "inference", ["configs/inference.json"], tmp_path / "ct", tmp_path / "out", fresh=True, weights=weights
    )
    assert result.returncode == 0, result.stderr
    assert read_series(tmp_path / "out").shape == (40, 32, 2)


@pytest.mark.slow
def test_an_evaluation_without_inference_json_ends_with_the_command_to_run(tmp_path, bundle):
    alone = monai_bundle(bundle, "evaluating", ["configs/evaluate.json"], tmp_path, tmp_path / "out")
    assert alone.returncode == 1
    assert "Traceback" not in alone.stderr
    said = alone.stderr.strip().splitlines()[-1]
    assert said.startswith("Error: evaluate.json is laid over inference.json: python -m monai.bundle run evaluating")
    assert "['configs/inference.json','configs/evaluate.json']" in said


@pytest.mark.slow
@pytest.mark.parametrize(("run_id", "config"), [("training", "train"), ("inference", "inference")])
def test_an_empty_folder_ends_with_an_error(tmp_path, bundle, run_id, config):
    (tmp_path / "empty").mkdir()
    result = monai_bundle(bundle, run_id, [f"configs/{config}.json"], tmp_path / "empty", tmp_path / "out")
    assert result.returncode != 0
    assert "empty holds no image" in result.stderr
    assert not (tmp_path / "out").exists()
