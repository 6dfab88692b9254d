"""Degraded images alone: a whole adaptation, what it says, and that it goes on after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from adapt_site import SECRET
from monai.data import MetaTensor
from noisy_site import QUICK, make_open_bundle, noisy_person, save, write_noisy_site
from scipy.ndimage import gaussian_filter
from tiny_bundle import edit_json, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.adapt import adapt, probed, recorrupted
from medrestore_monai.adapt.new_bundle import write_bundle
from medrestore_monai.adapt.unfit_noise import CHECKS
from medrestore_monai.bundles import open_bundle, read_config
from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.cli import app
from medrestore_monai.files import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    return make_open_bundle(root / "bundles"), write_noisy_site(root / "data")


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    bundle, data = place
    return adapt(data, tmp_path_factory.mktemp("out") / "mine", bundle, targets="none", steps=4, settings=QUICK)


def report_of(done):
    return json.loads((done.report / "report.json").read_text())


def test_the_report_has_every_figure(done):
    report = report_of(done)
    assert report["targets"] == "none"
    assert report["verdict"]["estimated_without_truth"]
    assert "estimated without truth" in done.decision.line
    assert [row["step"] for row in report["curve"]] == [2, 4]
    assert all(row["estimated_error"] > 0 for row in report["curve"])
    assert set(report["tuning_estimated_error"]) == {"0", "0.25", "0.5", "0.75", "1"}
    assert report["training"]["trained"] == "gains"
    found = report["estimated"]
    assert found["checks_tried"] == list(CHECKS)
    assert found["recorruption"]["alpha"] == 0.7
    assert [one["part"] for one in found["noise"]] == ["train", "tune", *["verdict"] * 5]
    assert all(one["level"] == pytest.approx(25, rel=0.2) for one in found["noise"])
    assert all(one["kernel_cutoff_per_mm"] == pytest.approx(0.3, rel=0.1) for one in found["noise"])
    if report["training"]["step_size"]:
        assert len(found["units"]) == 5
        assert len(found["sensitivity_db"]) == 18
        assert {"noise_kept", "mean_square_removed", "noise_variance"} < set(found["units"][0]["adapted"])
        assert "share of the noise kept" in [guard["name"] for guard in found["guards"]]
    assert "estimated without truth" in (done.report / "report.html").read_text()


def test_no_name_enters_the_report(place, done):
    for path in (one for one in done.report.rglob("*") if one.is_file()):
        assert SECRET.encode() not in path.read_bytes()
        assert str(place[1]).encode() not in path.read_bytes()


def test_what_is_adopted_says_how_it_was_judged(place, done, tmp_path):
    means = {"estimated_error": 100.0, "noise_kept": 0.3}
    estimated = {**done.about["estimated"], "means": {"as shipped": means, "adapted": means}}
    source = open_bundle(place[0])
    write_bundle(source, source.weights, tmp_path / "mine", {**done.about, "estimated": estimated})
    assert check_bundle(tmp_path / "mine") == []
    assert open_bundle(tmp_path / "mine", configs=("inference", "train", "adapt", "adapt_none"))
    card = (tmp_path / "mine" / "docs" / "README.md").read_text()
    assert "| adapted | 100 | 0.300 |" in card
    assert "estimated without truth" in card


def test_a_run_that_was_killed_goes_on_to_the_same_end(place, done, tmp_path, monkeypatch):
    bundle, data = place
    noted = probed.EstimatedError._note
    calls = []

    def killed(self, engine, name):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        noted(self, engine, name)

    monkeypatch.setattr(probed.EstimatedError, "_note", killed)
    with pytest.raises(KeyboardInterrupt):
        adapt(data, tmp_path / "mine", bundle, targets="none", steps=4, settings=QUICK)
    assert (tmp_path / ".mine.adapting" / "state.pt").is_file()
    monkeypatch.undo()
    again = adapt(data, tmp_path / "mine", bundle, targets="none", steps=4, settings=QUICK)
    assert report_of(again) == report_of(done)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda hu: gaussian_filter(hu, (1.2, 1.2, 0)), "interpolated or filtered"),
        (lambda hu: (hu[..., [0, 0, 1, 1]] + hu[..., [0, 1, 1, 2]]) / 2, "overlap or were interpolated"),
        (lambda hu: hu.clip(-160, 240), "not windowed"),
    ],
)
def test_what_was_processed_is_refused(place, tmp_path, change, reason):
    data = write_noisy_site(tmp_path / "data", change=change)
    with pytest.raises(DataError, match=reason):
        adapt(data, tmp_path / "mine", place[0], targets="none", steps=2, settings=QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_one_scan_in_two_kernels_is_refused(place, tmp_path):
    data = write_noisy_site(tmp_path / "data")
    volume, clean = noisy_person(0)
    for person in range(1, 7):  # whoever trains and whoever is judged
        soft = clean + gaussian_filter(volume - clean, (0.3 + 0.02 * person, 0.3, 0)) + person
        save(data / f"{SECRET}{person}" / "ct.nii.gz", soft)
    with pytest.raises(DataError, match=r"share their noise .* folder of one person"):
        adapt(data, tmp_path / "mine", place[0], targets="none", steps=2, settings=QUICK)


def test_images_far_from_the_training_are_refused_with_code_3(place, tmp_path):
    bundle = make_tiny_bundle(tmp_path / "bundles")
    arguments = [place[1], "-o", tmp_path / "mine", "--from", bundle, "--targets", "none", "--steps", "2"]
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert result.exit_code == 3
    assert "too far from those that the bundle knows: pixel size" in " ".join(result.output.split())
    edit_json(
        bundle / "configs" / "metadata.json",
        lambda metadata: metadata.update(trained_on={"modalities": {"CT": {"noise_level": [0.02, 0.03]}}}),
    )
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert result.exit_code == 3
    assert "noise level" in " ".join(result.output.split())


def test_few_units_are_too_few_to_tell(place, tmp_path):
    data = write_noisy_site(tmp_path / "data", people=2, slices=8)
    arguments = [data, "-o", tmp_path / "mine", "--from", place[0], "--targets", "none", "--steps", "2"]
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "too few to tell" in " ".join(result.output.split())
    assert (tmp_path / "mine_report" / "report.html").is_file()


def test_few_slices_to_train_are_refused(place, tmp_path):
    data = write_noisy_site(tmp_path / "data", slices=1)
    with pytest.raises(DataError, match="1 slices are left to train, and 4 are needed"):
        adapt(data, tmp_path / "mine", place[0], targets="none", steps=2)


def test_recorrupted_items_have_the_noise_of_the_image():
    volume, clean = noisy_person(0, slices=2)
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    item = recorrupted.MeasuredNoised("image", "CT")({"image": MetaTensor(volume[None], affine=affine)})
    made = recorrupted.RandRecorruptd("image", alpha=0.7, kept=0.25).set_random_state(seed=0)(item)
    added = (made["image"] - item["image"]) / 0.7
    taken = (item["image"] - made["label"]) * 0.7 / (1 - 0.25 * 1.49)
    assert torch.allclose(torch.as_tensor(added), torch.as_tensor(taken), atol=0.05)
    inside = (slice(50, 110), slice(40, 90))
    own = (volume - clean)[inside].std()
    assert float(torch.as_tensor(added)[0][inside].std()) == pytest.approx(own, rel=0.15)


def test_monai_trains_by_the_configurations_alone(place, tmp_path):
    bundle, data = place
    configs = [str(bundle / "configs" / f"{name}.json") for name in ("train", "adapt", "adapt_none")]
    parser = read_config(*map(Path, configs))
    parser.update({"dataset_dir": str(data), "output_dir": str(tmp_path / "runs"), "first_bundle": str(bundle)})
    parser.update({"bundle_root": str(bundle), "steps": 1, "epoch_length": 1, "val_interval": 1, "progress": False})
    parser.update({"patch_size": [32, 32], "scheduler#warmup_steps": 0})
    for part in ("initialize", "training"):
        parser.get_parsed_content(part)
    assert (tmp_path / "runs" / "model.pt").is_file()
