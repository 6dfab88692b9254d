"""Evaluation from the command line: the same table in every run, scores as scikit-image has them, clear refusals."""

import csv
import hashlib
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_command import run
from phantoms import body_phantom, ct_series, ct_volume
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from tiny_bundle import NAME, TINY, edit_json, make_tiny_bundle, write_tiny_weights
from typer.testing import CliRunner

from medrestore_monai.audit.interval import Calibration, settings_of_result, write_calibration
from medrestore_monai.bundles import find_bundle
from medrestore_monai.cli import app
from medrestore_monai.data import paired_folders
from medrestore_monai.evaluate import known_psf, parse_candidate
from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.restorer import Restorer
from medrestore_monai.transforms.blur.kernels import motion_kernel

TABLES = ("table.csv", "table.json", "table.md", "slices.csv")
SIZE = (40, 32)
OTHER = "other_denoise"
ALL = "all_in_one_restore_rwkv"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two tiny bundles with different weights."""
    folder = tmp_path_factory.mktemp("bundles")
    root = make_tiny_bundle(folder)
    other = folder / OTHER
    shutil.copytree(root, other)
    digest = hashlib.sha256(write_tiny_weights(other / "models" / "model.pt", seed=1).read_bytes()).hexdigest()
    edit_json(other / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=digest))
    return folder


@pytest.fixture(autouse=True)
def _found(bundles, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(bundles))


def table(folder):
    """Rows of the table by region, kind of average and method."""
    with (folder / "table.csv").open(newline="") as file:
        return {(row["region"], row["average"], row["method"]): row for row in csv.DictReader(file)}


def whole(folder, method, score="psnr"):
    return float(table(folder)["whole slice", "slice", method][score])


def write_pairs(folder, patients=3, noise=40.0):
    """NumPy volumes in HU below LQ and HQ."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(patients):
        clean = ct_volume(2, SIZE, noise=0) + 10 * number
        noisy = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
        for name, volume in (("LQ", noisy), ("HQ", clean)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"p{number}.npy", volume)
        pairs.append((noisy, clean))
    return pairs


def expected_scores(pairs):
    """Mean PSNR, SSIM and RMSE over slices in [-160, 240] HU, with NumPy and scikit-image."""
    scores = []
    for noisy, clean in pairs:
        for z in range(clean.shape[2]):
            a, b = (np.clip(image[..., z].astype(np.float64), -160, 240) for image in (noisy, clean))
            options = {"data_range": 400, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            mse = ((a - b) ** 2).mean()
            scores.append((10 * np.log10(400**2 / mse), structural_similarity(a, b, **options), mse**0.5))
    return np.mean(scores, axis=0)


def assert_scores(folder, method, expected):
    """Equal to the digits of the table: 0.01 dB, 0.0001, and four digits of RMSE."""
    steps = (0.0051, 0.000051, 0.00051 * expected[2])
    for name, value, step in zip(("psnr", "ssim", "rmse"), expected, steps, strict=True):
        assert whole(folder, method, name) == pytest.approx(value, abs=step), name


@pytest.mark.slow
def test_the_table_has_the_coverage_of_a_bundle_with_intervals(bundles, tmp_path):
    clean = np.repeat(body_phantom((150, 141))[..., None], 2, axis=2)
    noise = 20 * np.random.default_rng(0).standard_normal(clean.shape) * (clean > -900)
    for patient in ("p1", "p2"):
        ct_series(tmp_path / "data" / patient, volume=np.rint(clean + noise), series=patient)
    bundle = find_bundle(str(bundles / OTHER))
    made_for = bundle.metadata["weights_sha256"], settings_of_result(bundle, {})
    edges = {"edge": [1.0, 2.0, 3.0], "change": [0.5, 1.0], "noise": [10.0, 20.0]}
    calibration = Calibration(0.9, 12, "a label", "such images", edges, np.full((4, 3, 3), 1e6), *made_for)
    path = bundle.root / "docs" / "interval.json"
    path.parent.mkdir(exist_ok=True)
    write_calibration(path, "CT", calibration)
    try:
        both = ("--data", tmp_path / "data", "--bundle", NAME, "--bundle", OTHER, "--baselines", "gaussian")
        run(*both, "-o", tmp_path / "report")
        rows = table(tmp_path / "report")
        coverage = {method: rows["whole slice", "slice", method]["coverage"] for method in ("input", NAME, OTHER)}
        assert coverage == {"input": "", NAME: "", OTHER: "1"}
        assert f"{OTHER}: its intervals are for such images" in (tmp_path / "report" / "table.md").read_text()
        run(*both, "-o", tmp_path / "other", "--set", "strength=0.5")
        assert "coverage" not in table(tmp_path / "other")["whole slice", "slice", OTHER]
        path.write_text("{")
        run(*both, "-o", tmp_path / "damaged")
        assert f"{OTHER}: no coverage of intervals" in (tmp_path / "damaged" / "table.md").read_text()
        note = f"{OTHER}: the coverage of its intervals is not measured: it was calibrated for strength 1.0 and not 0.5"
        assert note in (tmp_path / "other" / "table.md").read_text()
    finally:
        path.unlink()


def tuned_text(baselines, levels=(1.0,), modality="CT"):
    part = {"task": "denoising", "noise_levels": list(levels), "baselines": baselines}
    return json.dumps({"version": 1, "modalities": {modality: part}})


@pytest.mark.slow
def test_two_runs_write_the_same_tables(tmp_path):
    for patient in ("p1", "p2"):
        ct_series(tmp_path / "data" / patient, slices=2, size=SIZE, series=patient)
    for name in ("first", "second"):
        run("--data", tmp_path / "data", "-o", tmp_path / name)
    for name in TABLES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    rows = table(tmp_path / "first")
    methods = ["input", "gaussian", "total_variation", "non_local_means"]
    methods += ["gaussian_3d", "total_variation_3d", "non_local_means_3d", NAME]
    assert [method for region, average, method in rows if (region, average) == ("whole slice", "slice")] == methods
    assert {region for region, _, _ in rows} == {"whole slice", "body"}
    row = rows["whole slice", "slice", NAME]
    assert (row["count"], row["patients"], row["interval_over"]) == ("4", "2", "patients")
    assert row["psnr_low"] == row["psnr_high"] == ""  # of two patients: its ends would be theirs
    assert 0 <= float(row["psnr_p"]) <= 1
    text = (tmp_path / "first" / "table.md").read_text()
    assert "For research, not a medical device." in text
    assert str(tmp_path) not in text
    # a network of random weights must not look good
    assert f"{NAME} does not beat its input (CT, whole slice, psnr)." in text
    times = (tmp_path / "first" / "times.csv").read_text().splitlines()
    assert len(times) == 1 + len(methods)
    pictures = sorted(path.name for path in (tmp_path / "first" / "worst").iterdir())
    assert pictures == [f"{NAME}_{number}.png" for number in (1, 2, 3)]
    with Image.open(tmp_path / "first" / "worst" / pictures[0]) as picture:
        assert picture.size == (4 * (SIZE[0] + 4) - 4, SIZE[1] + 16)


@pytest.mark.slow
def test_seed_and_settings_change_the_degradation(tmp_path):
    ct_series(tmp_path / "data", slices=2, size=SIZE)
    base = ["--data", tmp_path / "data", "--baselines", "none", "-o"]
    run(*base, tmp_path / "a")
    run(*base, tmp_path / "seed", "--seed", 1)
    run(*base, tmp_path / "dose", "--set", "dose=0.9")
    run(*base, tmp_path / "apart", "--set", "axial_correlation=0")
    assert whole(tmp_path / "a", "input") != whole(tmp_path / "apart", "input")
    run(*base, tmp_path / "public", "--set", "dose=0.9", "--protocol", "restore-rwkv")
    assert whole(tmp_path / "a", "input") != whole(tmp_path / "seed", "input")
    assert whole(tmp_path / "a", "input") < whole(tmp_path / "dose", "input") - 3
    settings = json.loads((tmp_path / "public" / "table.json").read_text())["about"]["bundles"][NAME]["settings"]
    assert settings["dose"] == 0.9  # what the user says goes over the protocol
    assert set(table(tmp_path / "a")) > set(table(tmp_path / "public"))  # no body there


@pytest.mark.slow
def test_pairs_score_as_in_scikit_image(tmp_path):
    pairs = write_pairs(tmp_path / "data")
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian"]
    run(*base, "-o", tmp_path / "out", "--against", "gaussian")
    assert_scores(tmp_path / "out", "input", expected_scores(pairs))
    rows = table(tmp_path / "out")
    assert rows["whole slice", "slice", "gaussian"]["psnr_p"] == ""
    assert rows["whole slice", "slice", "input"]["psnr_p"] != ""
    assert rows["whole slice", "volume", "input"]["count"] == "3"
    with (tmp_path / "out" / "slices.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(one["patient"], one["slice"]) for one in lines} == {(f"p{n}", str(z)) for n in range(3) for z in (0, 1)}


@pytest.mark.slow
def test_a_bundle_scores_as_what_restore_writes(tmp_path):
    pairs = write_pairs(tmp_path / "data", patients=2)
    run("--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out")
    command = ["restore", tmp_path / "data" / "LQ", "-o", tmp_path / "restored", "--device", "cpu", "--bundle", NAME]
    assert CliRunner().invoke(app, [str(arg) for arg in command]).exit_code == 0
    restored = [np.load(path) for path in sorted((tmp_path / "restored").glob("*.npy"))]
    expected = expected_scores([(image, clean) for image, (_, clean) in zip(restored, pairs, strict=True)])
    assert_scores(tmp_path / "out", NAME, expected)


@pytest.mark.slow
def test_bundles_side_by_side_get_the_same_images(tmp_path):
    ct_series(tmp_path / "data", slices=2, size=SIZE)
    edited = ["--data", tmp_path / "data", "--baselines", "none", "-o"]
    run("--bundle", NAME, "--bundle", OTHER, *edited, tmp_path / "both")
    run("--bundle", OTHER, *edited, tmp_path / "one")
    assert whole(tmp_path / "both", OTHER) == whole(tmp_path / "one", OTHER)
    assert whole(tmp_path / "both", "input") == whole(tmp_path / "one", "input")
    assert whole(tmp_path / "both", NAME) != whole(tmp_path / "both", OTHER)
    assert len(list((tmp_path / "both" / "worst").iterdir())) == 4


@pytest.mark.slow
def test_folders_of_any_name(tmp_path, bundles):
    data, root = tmp_path / "data#1", tmp_path / "run#2" / NAME
    ct_series(data, slices=2, size=SIZE)
    shutil.copytree(bundles / NAME, root)
    own = write_tiny_weights(tmp_path / "run#2" / "own.pt", seed=1)
    base = ["--data", data, "--baselines", "none", "-o"]
    run("--bundle", root, "--model", f"own={root},{own}", *base, tmp_path / "out#3")
    run("--bundle", NAME, "--bundle", OTHER, *base, tmp_path / "out")
    assert whole(tmp_path / "out#3", NAME) == whole(tmp_path / "out", NAME)
    assert whole(tmp_path / "out#3", "own") == whole(tmp_path / "out", OTHER)


@pytest.mark.slow
def test_color_pairs(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles").rename(tmp_path / "bundles" / "rgb_deblur_tiny")
    channels = {"in_channels": 3, "out_channels": 3}
    edit_json(root / "configs" / "inference.json", lambda config: config["network_def"].update(channels))
    edit_json(
        root / "configs" / "inference.json", lambda config: config["scaling"]["transforms"][1].update(modality="RGB")
    )
    edit_json(
        root / "configs" / "metadata.json",
        lambda metadata: metadata["medrestore"].update(modalities=["RGB"], task="deblurring"),
    )
    weights = write_tiny_weights(root / "models" / "model.pt", **channels)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit_json(root / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=digest))
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(root.parent))
    rng = np.random.default_rng(0)
    for scene in ("s1", "s2"):
        sharp = rng.integers(0, 255, (24, 28, 3)).astype(np.uint8)
        for name, picture in (("sharp", sharp), ("blur", sharp // 2)):
            (tmp_path / "data" / "test" / scene / name).mkdir(parents=True)
            Image.fromarray(picture).save(tmp_path / "data" / "test" / scene / name / "0.png")
    base = ["--bundle", root.name, "--data", tmp_path / "data", "--layout", "gopro", "-o"]
    run(*base, tmp_path / "out")
    assert {"psnr", "ssim", "rmse", "delta_e"} <= set(next(iter(table(tmp_path / "out").values())))
    assert ("whole slice", "slice", "richardson_lucy") in table(tmp_path / "out")
    run(*base, tmp_path / "mlff", "--protocol", "mlff", "--baselines", "none")
    assert whole(tmp_path / "mlff", "input") == whole(tmp_path / "out", "input")
    assert not {"rmse", "delta_e"} & set(next(iter(table(tmp_path / "mlff").values())))


@pytest.mark.slow
def test_perfect_images_give_valid_json(tmp_path):
    write_pairs(tmp_path / "data", noise=0)
    run("--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text(), parse_constant=pytest.fail)["table"]
    assert rows[0]["method"] == "input"
    assert (rows[0]["psnr"], rows[0]["psnr_low"], rows[0]["ssim"]) == ("inf", None, 1.0)


@pytest.mark.slow
def test_empty_slices_are_left_out_and_counted(tmp_path):
    write_pairs(tmp_path / "data")
    for path in (tmp_path / "data").glob("*/p0.npy"):
        volume = np.load(path)
        volume[..., 0] = -1000
        np.save(path, volume)
    run("--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian", "-o", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {row["count"] for row in report["table"] if row["average"] == "slice"} == {5}
    assert all(isinstance(row["psnr"], float) for row in report["table"])
    assert "1 slices with a constant reference were left out." in report["notes"]
    assert f"{NAME} does not beat its input (CT, whole slice, psnr)." in report["notes"]


@pytest.mark.slow
def test_tuned_parameters_are_used_and_reported(tmp_path):
    write_pairs(tmp_path / "data", patients=2)
    tuned = tmp_path / "tuned.json"
    tuned.write_text(tuned_text({"gaussian": {"sigma": 0.55}}))
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "gaussian", "-o"]
    run(*base, tmp_path / "plain")
    run(*base, tmp_path / "out", "--tuned", tuned)
    assert whole(tmp_path / "plain", "gaussian") != whole(tmp_path / "out", "gaussian")
    about = json.loads((tmp_path / "out" / "table.json").read_text())["about"]
    assert about["classical baselines"] == {"CT": {"gaussian": {"sigma": 0.55}}}
    assert about["tuned by"] == {"CT": "tuned.json"}


@pytest.mark.slow
def test_limit_takes_slices_from_all_over(tmp_path):
    write_pairs(tmp_path / "data", patients=3)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out"]
    run(*base, "--limit", 3)
    assert {"p0", "p1", "p2"} == {line.split(",")[2] for line in (tmp_path / "out" / "slices.csv").open()} - {"patient"}


@pytest.mark.slow
def test_a_bad_image_is_named_and_can_be_left_out(tmp_path):
    write_pairs(tmp_path / "data", patients=3)
    volume = np.load(tmp_path / "data" / "LQ" / "p1.npy")
    volume[3, 3, 1] = np.inf
    np.save(tmp_path / "data" / "LQ" / "p1.npy", volume)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out"]
    result = run(*base, code=3)
    assert re.search(r"Error: .*p1.* infinite", result.stderr)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    run(*base, "--skip-bad")
    text = (tmp_path / "out" / "table.md").read_text()
    assert re.search(r"left out: .*p1.* infinite", text)
    assert table(tmp_path / "out")["whole slice", "slice", "input"]["count"] == "4"
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "heap"], "layout must be one of clean, .*, got 'heap'"),
        (["--part", "half"], "part must be one of all"),
        (["--protocol", "mine"], "protocol must be one of standard, .*, got 'mine'"),
        (["--baselines", "gauss"], "baseline is one of gaussian, .*, got 'gauss'"),
        (["--against", "gauss"], "p-values are against one of input, gaussian"),
        (["--bundle", "none_such"], "no bundle 'none_such'"),
        (["--bundle", NAME, "--bundle", NAME], "name each bundle once"),
        (["--allow-gaps"], "gaps are allowed in the layouts paired and low-dose-ct, not in clean"),
        (["--set", "doses=1"], r"there is no setting doses\. Did you mean dose\?"),
        (["--set", "dose=abc"], r"dose must be a number in \(0, 1\], got \'abc\'"),
        (["--set", "dose=2"], r"dose must be a number in \(0, 1\], got 2"),
        (["--set", "axial_correlation=1"], r"axial_correlation must be a number in \[0, 0.95\], got 1"),
        (["--set", "handlers=1"], "there is no setting handlers"),
        (["--set", "dose"], "a setting is NAME=VALUE"),
        (["--set", "dose=$__import__('os').getpid()"], r"dose must be a number in \(0, 1\], got"),
        (["--set", "self_ensemble=3"], "self_ensemble must be 1, 2, 4 or 8, got 3"),
        (["--set", "self_ensemble=2.5"], "self_ensemble must be 1, 2, 4 or 8, got 2.5"),
        (["--set", "seed=1"], "seed is not set by --set but by --seed"),
        (["--device", "tpu"], "device must be auto, cpu"),
        (["--tuned", "none.json"], "none.json is no file of tuned baselines"),
    ],
)
def test_mistakes_are_refused_before_an_image_is_read(tmp_path, options, message):
    (tmp_path / "data").mkdir()
    result = run("--data", tmp_path / "data", "-o", tmp_path / "out", *options, code=2)
    assert re.search(message, result.stderr)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.slow
def test_reports_are_replaced_on_request_only_and_nothing_else(tmp_path):
    write_pairs(tmp_path / "data", patients=1)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out"]
    run(*base)
    assert "exists" in run(*base, code=2).stderr
    run(*base, "--overwrite", "--seed", 1)
    assert json.loads((tmp_path / "out" / "table.json").read_text())["about"]["seed"] == 1
    assert "no report" in run(*base[:-1], tmp_path / "data", "--overwrite", code=2).stderr
    assert "no file or folder" in run("--data", tmp_path / "nowhere", "-o", tmp_path / "x", code=2).stderr


@pytest.mark.slow
def test_a_report_does_not_replace_what_it_is_made_of(tmp_path):
    write_pairs(tmp_path / "data", patients=1)
    base = ["--layout", "paired", "--baselines", "none", "-o", tmp_path / "out"]
    run("--data", tmp_path / "data", *base)
    shutil.copytree(tmp_path / "data", tmp_path / "out" / "scans")
    (tmp_path / "out" / "tuned.json").write_text(tuned_text({}))
    weights = tmp_path / "out" / "own.pt"
    weights.write_bytes(b"weights")
    (tmp_path / "linked" / "HQ").mkdir(parents=True)
    shutil.copytree(tmp_path / "data" / "LQ", tmp_path / "linked" / "LQ")
    (tmp_path / "linked" / "HQ" / "p0.npy").symlink_to(tmp_path / "out" / "scans" / "HQ" / "p0.npy")
    bundle = make_tiny_bundle(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    for options, message in (
        (
            ["--data", tmp_path / "out" / "scans"],
            r"out/scans may not lie in the folder .*out, which the report replaces",
        ),
        (["--data", tmp_path / "data", "--tuned", tmp_path / "out" / "tuned.json"], r"tuned.json may not lie"),
        (["--data", tmp_path / "data", "--model", f"own={NAME},{weights}"], r"own.pt may not lie"),
        (["--data", tmp_path / "linked"], r"holds the source's p0.npy, by a link"),
        (["--data", tmp_path / "data", "--bundle", bundle], r"ct_denoise_restore_rwkv may not lie in the folder"),
    ):
        assert re.search(message, run(*options, *base, "--overwrite", code=2).stderr)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_bad_data_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    assert "holds no image" in run("--data", tmp_path / "data", "-o", tmp_path / "out", code=3).stderr
    write_pairs(tmp_path / "data", patients=2)
    (tmp_path / "data" / "LQ" / "p0.npy").unlink()
    args = ["--data", tmp_path / "data", "--layout", "paired", "-o", tmp_path / "out"]
    assert "p0.npy has no partner" in run(*args, code=3).stderr
    assert not (tmp_path / "out").exists()


def test_the_kernel_is_known_from_what_the_degradation_noted():
    assert known_psf({"image": 1}) is None
    noted = {"motion_blur": {"length": 9, "angle": 20.0}}
    np.testing.assert_array_equal(known_psf(noted), motion_kernel(9, 20.0))
    both = known_psf({**noted, "gaussian_blur": {"sigma": 1.0}})
    assert both.sum() == pytest.approx(1)
    assert both.shape > motion_kernel(9, 20.0).shape


@pytest.mark.slow
def test_bundles_of_two_modalities_have_a_folder_and_a_table_each(tmp_path, bundles, monkeypatch):
    shutil.copytree(bundles, tmp_path / "bundles")
    configs = tmp_path / "bundles" / OTHER / "configs"
    edit_json(configs / "inference.json", lambda config: config["scaling"]["transforms"][1].update(modality="MR"))
    edit_json(
        configs / "metadata.json",
        lambda metadata: metadata["medrestore"].update(modalities=["MR"]),
    )
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    for modality in ("CT", "MR"):
        write_pairs(tmp_path / "data" / modality, patients=2)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "none", "-o", tmp_path / "out"]
    run("--bundle", NAME, "--bundle", OTHER, *base)
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        found = {(row["modality"], row["method"]) for row in csv.DictReader(file) if row["region"] == "whole slice"}
    assert found == {("CT", "input"), ("CT", NAME), ("MR", "input"), ("MR", OTHER)}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Tiny bundles for CT, for MR, and for CT, MR and PT together."""
    folder = tmp_path_factory.mktemp("family")
    for name in (NAME, "mri_superresolution_restore_rwkv", ALL):
        make_tiny_bundle(folder, name)
    return folder


def modalities_and_methods(folder):
    with (folder / "table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["region"] == "whole slice" and row["average"] == "slice"]
    return [(row["modality"], row["method"]) for row in rows]


def write_volumes(folder, modalities):
    """One clean NumPy volume below a folder for each modality."""
    for modality in modalities:
        (folder / modality / "p0").mkdir(parents=True)
        volume = ct_volume(1, (48, 40), noise=0)
        np.save(folder / modality / "p0" / "a.npy", volume if modality == "CT" else (volume + 1024).clip(0) / 100)


@pytest.mark.slow
def test_a_bundle_of_several_modalities_joins_those_of_one(tmp_path, family, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(family))
    mr = "mri_superresolution_restore_rwkv"
    write_volumes(tmp_path / "data", ["CT", "MR"])
    base = ["--baselines", "none", "-o"]
    run("--bundle", NAME, "--bundle", ALL, "--data", tmp_path / "data" / "CT", *base, tmp_path / "ct")
    assert modalities_and_methods(tmp_path / "ct") == [("CT", "input"), ("CT", NAME), ("CT", ALL)]
    run("--bundle", ALL, "--bundle", NAME, "--bundle", mr, "--data", tmp_path / "data", *base, tmp_path / "both")
    expected = [("CT", "input"), ("CT", ALL), ("CT", NAME), ("MR", "input"), ("MR", ALL), ("MR", mr)]
    assert modalities_and_methods(tmp_path / "both") == expected
    pictures = {path.name for path in (tmp_path / "both" / "worst").iterdir()}
    assert pictures == {f"{ALL}_CT_1.png", f"{ALL}_MR_1.png", f"{NAME}_1.png", f"{mr}_1.png"}
    run("--bundle", ALL, "--modality", "MR", "--data", tmp_path / "data" / "MR", *base, tmp_path / "one")
    assert modalities_and_methods(tmp_path / "one") == [("MR", "input"), ("MR", ALL)]
    # alone or beside others, a bundle scores the same
    assert score_of(tmp_path / "both", "MR", ALL) == score_of(tmp_path / "one", "MR", ALL)


@pytest.mark.slow
def test_each_bundle_is_opened_once_for_all_its_modalities(tmp_path, family, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(family))
    write_volumes(tmp_path / "data", ["CT", "MR"])
    mr = "mri_superresolution_restore_rwkv"
    options = ["--bundle", ALL, "--bundle", NAME, "--bundle", mr, "--data", tmp_path / "data", "--baselines", "none"]
    run(*options, "-o", tmp_path / "first")  # looks through what is not of the package
    read, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text, **how: (read.append(str(text)), loads(text, **how))[1])
    opened, start = [], Restorer.__init__
    monkeypatch.setattr(Restorer, "__init__", lambda self, *a, **how: (opened.append(a), start(self, *a, **how))[1])
    run(*options, "-o", tmp_path / "second")
    assert len([text for text in read if '"network_def": {' in text]) == len(opened) == 3


def score_of(folder, modality, method):
    rows = json.loads((folder / "table.json").read_text())["table"]
    return next(row["psnr"] for row in rows if (row["modality"], row["method"]) == (modality, method))


@pytest.mark.slow
def test_modalities_that_do_not_fit_are_refused(tmp_path, family, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(family))
    write_volumes(tmp_path / "data", ["CT"])
    base = ["--data", tmp_path / "data", "-o", tmp_path / "out", "--bundle"]
    assert f"{NAME} restores CT, not MR" in run(*base, NAME, "--modality", "MR", code=2).stderr
    assert "has no folder MR, PT: give each modality its folder" in run(*base, ALL, code=2).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_other_weights_and_networks_take_part(tmp_path, bundles):
    write_pairs(tmp_path / "data", patients=2)
    own = bundles / OTHER / "models" / "model.pt"
    overlay = tmp_path / "wide.json"
    overlay.write_text(json.dumps({"network_def::dim": 16, "seed": 7, "train::batch_size": 3}))
    wide = tmp_path / "wide.pt"
    torch.save(RestoreRWKV(**{**TINY, "dim": 16}).state_dict(), wide)
    base = ["--data", tmp_path / "data", "--layout", "paired", "--baselines", "none"]
    models = ["--model", f"again={NAME},{own}", "--model", f"wide={NAME},{overlay},{wide}"]
    run("--bundle", NAME, "--bundle", OTHER, *models, *base, "-o", tmp_path / "out")
    assert whole(tmp_path / "out", "again") == whole(tmp_path / "out", OTHER) != whole(tmp_path / "out", NAME)
    about = json.loads((tmp_path / "out" / "table.json").read_text())["about"]["bundles"]
    assert (about["wide"]["recipe"], about["wide"]["overlay"]) == (NAME, "wide.json")
    assert about["wide"]["weights"] == hashlib.sha256(wide.read_bytes()).hexdigest()
    assert about["wide"]["settings"]["seed"] == 0  # of the overlay, the network alone counts
    run("--model", f"wide={NAME},{overlay},{wide}", *base, "-o", tmp_path / "alone")
    assert whole(tmp_path / "alone", "wide") == whole(tmp_path / "out", "wide")
    result = run("--model", f"wide={NAME},{wide}", *base, "-o", tmp_path / "wrong", code=3)
    assert "does not hold the weights of RestoreRWKV" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ct", r"a model is LABEL=BUNDLE,OVERLAY\.json,WEIGHTS\.pt, got 'ct'"),
        ("a=b,c.pt,d.pt", "a model is LABEL="),
        ("a/b=" + NAME, "a label has letters, digits"),
        ("a=none_such", "no bundle 'none_such'"),
        (f"a={NAME},none.pt", "there is no file none.pt, for a"),
        (f"a={NAME},none.json", r"there is no file .*none\.json, for a"),
        (f"a={NAME},logging.json", r"logging\.json says nothing of network_def"),
        (f"input={NAME}", "a model may not be called input"),
    ],
)
def test_models_that_cannot_be_are_refused(tmp_path, model, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logging.json").write_text('{"seed": 1}')
    (tmp_path / "data").mkdir()
    result = run("--data", tmp_path / "data", "-o", tmp_path / "out", "--model", model, code=2)
    assert re.search(message, result.stderr)


def test_an_overlay_in_the_working_folder_does_not_stand_in_for_the_bundles_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base.json", "own.json"):
        Path(name).write_text("{}")
    bundle = find_bundle(NAME)
    assert parse_candidate(f"a={NAME},base.json").overlay == bundle.root / "configs" / "base.json"
    assert parse_candidate(f"a={NAME},./base.json").overlay == Path("base.json")
    assert parse_candidate(f"a={NAME},own.json").overlay == Path("own.json")


@pytest.mark.slow
def test_tuning_finds_the_best_of_a_grid(tmp_path, monkeypatch):
    """The volumes have white noise; the best Gaussian is that of an exhaustive search with SciPy."""
    pairs = write_pairs(tmp_path / "data", patients=3)
    script = Path(__file__).parents[2] / "scripts" / "calibrate" / "tune_classical.py"
    output = tmp_path / "tuned.json"
    options = [
        "--bundle",
        NAME,
        "--data",
        tmp_path / "data",
        "--layout",
        "paired",
        "--methods",
        "gaussian",
        "-o",
        output,
    ]
    monkeypatch.setattr(sys, "argv", [str(part) for part in (script, *options)])
    runpy.run_path(str(script), run_name="__main__")
    content = json.loads(output.read_text())
    content = content["modalities"]["CT"]
    assert (content["task"], content["tuned_on"]["slices"]) == ("denoising", 4)  # two patients train
    used = [pair for number, pair in enumerate(pairs) if number not in held_back(tmp_path / "data")]
    best = content["baselines"]["gaussian"]["sigma"]
    assert best == pytest.approx(max(np.arange(0.3, 3, 0.01), key=lambda s: gaussian_psnr(used, s)), rel=0.2)


def held_back(data):
    names = {item["name"] for item in paired_folders(data, "train")}
    return [number for number in range(3) if f"p{number}.npy" not in {Path(name).name for name in names}]


def gaussian_psnr(pairs, sigma):
    """Mean PSNR of slices that were smoothed, as the networks see them: from -1024 HU."""
    smooth = [(gaussian_filter(noisy.clip(-1024, 3072), (sigma, sigma, 0), mode="nearest"), c) for noisy, c in pairs]
    return expected_scores(smooth)[0]
