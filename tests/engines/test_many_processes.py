"""Two processes train as one does, agree on every score, write each file once, and go on after a kill."""

import json
import re
import time

import pytest
import torch
from miniatures import AFF_NAME, MED_NAME, MLFF_NAME, write_recipe_data
from phantoms import ct_series, mr_series, pet_series
from tiny_bundle import BUNDLES, make_tiny_bundle
from training_runs import assert_same_training, finish, rows, saved, start, train, write_patients

pytestmark = pytest.mark.slow

OPTIONS = {"max_epochs": 3, "val_interval": 1, "held_back": 0.2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Twelve patients to train on and three for validation, whose volumes two processes cannot share evenly."""
    root = tmp_path_factory.mktemp("processes")
    return make_tiny_bundle(root), write_patients(root / "data", 15, slices=1)


@pytest.fixture(scope="module")
def two(place, tmp_path_factory):
    return train(*place, tmp_path_factory.mktemp("two") / "run", ranks=2, batch_size=2, **OPTIONS)


def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(tmp_path, place, two):
    one = train(*place, tmp_path / "one", batch_size=4, **OPTIONS)
    assert len(rows(one)) == len(rows(two)) == 3
    for expected, got in zip(rows(one), rows(two), strict=True):
        assert float(got["learning_rate"]) == float(expected["learning_rate"])
        # gradients are summed in another order, and Adam's first steps enlarge their rounding
        assert float(got["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
        assert float(got["PSNR"]) == pytest.approx(float(expected["PSNR"]), abs=0.02)
        assert float(got["SSIM"]) == pytest.approx(float(expected["SSIM"]), abs=1e-3)


def test_both_processes_have_the_same_scores_and_one_writes(two):
    logs = [(two.parent / f"run-{rank}.log").read_text() for rank in (0, 1)]
    scores = [re.findall(r"Epoch\[\d\] Metrics -- .*", log) for log in logs]
    assert len(scores[0]) == 6
    assert scores[0] == scores[1]
    assert {path.name for path in two.iterdir()} == {"history.csv", "model.json", "model.pt", "state.pt", "tensorboard"}
    assert len(list((two / "tensorboard").iterdir())) == 1
    assert not any(name.startswith("module.") for name in saved(two)["network"])


def test_fewer_validation_images_than_processes_are_shared_all_the_same(tmp_path, place):
    data, options = write_patients(tmp_path / "data", 4, slices=1), {**OPTIONS, "max_epochs": 1, "held_back": 0.25}
    run = train(place[0], data, tmp_path / "run", ranks=2, batch_size=1, **options)
    scores = [re.findall(r"Epoch\[\d\] Metrics -- .*", (tmp_path / f"run-{rank}.log").read_text()) for rank in (0, 1)]
    assert scores[0] == scores[1]
    assert json.loads((run / "model.json").read_text())["PSNR"] == float(rows(run)[0]["PSNR"])


def killed_and_continued(bundle, data, output, **options):
    """Train in two processes that are killed after an epoch, then in two that go on."""
    processes = start(bundle, data, output, ranks=2, **options)
    end = time.monotonic() + 200
    while not (output / "state.pt").exists() and time.monotonic() < end:
        time.sleep(0.001)
    for process in processes:
        process.kill()
    finish(processes)
    assert saved(output)["trainer"]["epoch"] < options["max_epochs"]
    return train(bundle, data, output, ranks=2, **options)


def test_two_killed_processes_go_on_as_if_nothing_had_happened(tmp_path, place, two):
    assert_same_training(killed_and_continued(*place, tmp_path / "run", batch_size=2, **OPTIONS), two)


def test_a_routing_network_trains_in_two_processes(tmp_path, place):
    shape = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "prompt_channels": 8, "prompt_width": 4}
    networks = "medrestore_monai.networks.RestoreRWKVRouting"
    parts = {
        "network_def": {"_target_": networks, "in_channels": 1, "out_channels": 1, **shape},
        "loss": {"_target_": "medrestore_monai.losses.BalancedLoss", "loss": {"_target_": "torch.nn.L1Loss"}},
        "train#inferer": {"_target_": "SimpleInferer"},
    }
    options = {**OPTIONS, "max_epochs": 1, "epoch_length": 2, "batch_size": 1}
    run = train(*place, tmp_path / "run", ranks=2, **parts, **options)
    assert json.loads((run / "model.json").read_text())["PSNR"] == float(rows(run)[0]["PSNR"])


@pytest.mark.parametrize("name", [AFF_NAME, MLFF_NAME, MED_NAME])
def test_the_networks_for_pictures_train_in_two_processes(name, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    options = {"max_epochs": 1, "epoch_length": 1, "val_interval": 1, "batch_size": 1, "cache_rate": 0}
    run = train(BUNDLES / name, write_recipe_data(name, data), tmp_path / "run", ranks=2, **options)
    assert json.loads((run / "model.json").read_text())["PSNR"] == float(rows(run)[0]["PSNR"])


def test_results_at_all_scales_train_in_two_processes(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    parts = {
        "trained": {"_target_": "medrestore_monai.networks.AllScales", "network": "@network"},
        "loss": {"_target_": "medrestore_monai.losses.AllScalesLoss", "loss": {"_target_": "torch.nn.L1Loss"}},
    }
    options = {**parts, "max_epochs": 1, "epoch_length": 1, "val_interval": 1, "batch_size": 1, "cache_rate": 0}
    run = train(BUNDLES / MED_NAME, write_recipe_data(MED_NAME, data), tmp_path / "run", ranks=2, **options)
    assert json.loads((run / "model.json").read_text())["PSNR"] == float(rows(run)[0]["PSNR"])
    weights = torch.load(run / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in weights} == {"networks"}


def test_all_tasks_in_one_train_in_two_processes_that_go_on_after_a_kill(tmp_path):
    bundle, data = make_tiny_bundle(tmp_path, "all_in_one_restore_rwkv"), tmp_path / "data"
    for modality, series in (("CT", ct_series), ("MR", mr_series), ("PT", pet_series)):
        for patient in range(3):
            series(data / modality / f"p{patient}", slices=1, size=40)
    options = {"max_epochs": 2, "epoch_length": 2, "batch_size": 1, "val_interval": 1}
    whole = train(bundle, data, tmp_path / "whole", ranks=2, **options)
    assert len({row["loss"] for row in rows(whole)}) == 2
    logs = [(tmp_path / f"whole-{rank}.log").read_text() for rank in (0, 1)]
    scores = [re.findall(r"Epoch\[\d\] Metrics -- .*", log) for log in logs]
    assert scores[0] == scores[1] != []
    assert_same_training(killed_and_continued(bundle, data, tmp_path / "again", **options), whole)
