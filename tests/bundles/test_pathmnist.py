"""AFF-UNet-RWKV on a file like PathMNIST: trained by the paper's recipe, evaluated on the test part, restored."""

import csv
import json
import shutil

import monai
import numpy as np
import pytest
import torch
from evaluate_command import run
from miniatures import AFF_NAME, pixels
from monai.bundle import ConfigParser
from tiny_bundle import BUNDLES, edit_json

from medrestore_monai import Restorer

COUNTS = {"train": 40, "val": 3, "test": 5}


def write_pathmnist(path):
    """Smooth color pictures of 28x28, all different, under the names of MedMNIST."""
    number, arrays = 0, {}
    for part, count in COUNTS.items():
        pictures = [pixels(28, 28, 3, seed=number + i) for i in range(count)]
        arrays[f"{part}_images"], number = np.stack(pictures), number + count
        arrays[f"{part}_labels"] = np.zeros((count, 1), np.uint8)
    np.savez(path, **arrays)
    return arrays


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The bundle with a tiny network, trained for the recipe's ten epochs."""
    folder = tmp_path_factory.mktemp("pathmnist")
    root = shutil.copytree(
        BUNDLES / AFF_NAME, folder / AFF_NAME, ignore=shutil.ignore_patterns("models", "runs", "eval", "docs")
    )
    for name in ("train", "inference"):
        edit_json(root / "configs" / f"{name}.json", lambda config: config["network_def"].update(channels=[8, 8, 8, 8]))
    write_pathmnist(folder / "pathmnist.npz")
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "train.json"))
    places = {"dataset_dir": str(folder), "output_dir": str(folder / "run"), "bundle_root": str(root)}
    parser.update({**places, "device": "$torch.device('cpu')", "num_workers": 0})
    try:
        parser.get_parsed_content("initialize")
        parser.get_parsed_content("run")
    finally:
        monai.data.set_track_meta(True)
        monai.utils.set_determinism(None)
    return root


@pytest.mark.slow
def test_the_recipe_trains_ten_epochs_of_all_pictures_and_keeps_the_best(trained):
    folder = trained.parent
    with (folder / "run" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 11)]
    scores = [float(row["PSNR"]) for row in rows]
    assert scores[-1] > scores[0]
    assert json.loads((folder / "run" / "model.json").read_text())["PSNR"] == pytest.approx(max(scores), abs=1e-3)
    state = torch.load(folder / "run" / "state.pt", weights_only=True)
    assert {int(one["step"]) for one in state["optimizer"]["state"].values()} == {10 * 2}  # 40 pictures, 32 a step


@pytest.mark.slow
def test_the_weights_are_evaluated_on_the_test_part(trained, tmp_path):
    folder = trained.parent
    model = f"trained={trained},{folder / 'run' / 'model.pt'}"
    command = ["--model", model, "--data", folder / "pathmnist.npz", "--layout", "medmnist", "--part", "test"]
    run(*command, "--protocol", "aff", "--set", "length=5", "-o", tmp_path / "report")
    with (tmp_path / "report" / "table.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["average"] == "slice"}
    assert rows["trained"]["count"] == str(COUNTS["test"])
    assert 10 < float(rows["trained"]["psnr"]) < 60
    assert rows["trained"]["psnr"] != rows["input"]["psnr"]


@pytest.mark.slow
def test_a_test_picture_is_restored(trained):
    with np.load(trained.parent / "pathmnist.npz") as arrays:
        picture = arrays["test_images"][0]
    restorer = Restorer(trained, weights=trained.parent / "run" / "model.pt", device="cpu")
    restored = restorer(picture)
    assert restored.shape == picture.shape
    assert restored.dtype == picture.dtype
