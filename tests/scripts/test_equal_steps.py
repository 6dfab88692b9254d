"""The comparisons at equal steps: what a variant changes, what all share, and the tables."""

import importlib
import sys

import pytest
import torch
from ignite.engine import Events
from miniatures import MLFF_NAME, write_clean
from monai.data import set_track_meta
from monai.utils import set_determinism
from script_loading import SCRIPTS
from tiny_deblurring import make_tiny_deblurring

from medrestore_monai.losses import RestorationLoss
from medrestore_monai.networks import MLFFUNet


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS / "experiments"))
    names = ("equal_steps", "ablation", "mlff_ablation")
    yield tuple(importlib.import_module(name) for name in names)
    for name in names:
        sys.modules.pop(name, None)
    set_track_meta(True)
    set_determinism(None)


@pytest.mark.slow
def test_each_part_of_table_6_and_each_loss_of_table_2_is_an_option_that_exists(scripts):
    _, _, mlff = scripts
    assert set(mlff.LABELS) == set(mlff.VARIANTS)
    weights = {}
    for name in mlff.LOSSES:
        options = dict(mlff.VARIANTS[name]["loss"])
        assert options.pop("_target_") == "medrestore_monai.losses.RestorationLoss"
        if name != "perceptual":  # needs files that do not ship
            weights[name] = RestorationLoss(**options).weights
    assert weights["all"] == {"mse": 1, "frequency": 0.1}
    assert weights["mse"] == {"mse": 1}
    assert weights["ssim"] == {"mse": 1, "ssim": 0.2}
    sizes = {"all": 0}
    for name in ("all", *mlff.PARTS):
        parts = {key.removeprefix("network_def#"): value for key, value in mlff.VARIANTS[name].items() if key != "loss"}
        network = MLFFUNet(channels=(16, 16, 16, 16), growth=8, **parts)
        sizes[name] = sum(parameter.numel() for parameter in network.parameters())
    assert all(sizes[name] < sizes["all"] for name in mlff.PARTS)


def test_restore_rwkv_has_nine_networks_and_the_scans(scripts):
    _, ablation, _ = scripts
    assert len(ablation.OF_TABLE_5) == 9
    assert set(ablation.VARIANTS) >= {"uni-wkv/uni", "re-wkv/omni", "bi-wkv-columns/omni", "sum/omni"}
    assert list(ablation.VARIANTS["bi-wkv/quad"].values()) == ["bi-wkv", "quad"]


def row(variant, seed, psnr, ssim):
    return {
        "variant": variant,
        "seed": str(seed),
        "parameters": "7",
        "psnr": str(psnr),
        "ssim": str(ssim),
        "seconds_per_step": "0.5",
    }


def test_differences_are_taken_within_a_seed(scripts):
    rows = [row("no-mlff", 1, 30.5, 0.81), row("all", 0, 31, 0.9), row("all", 1, 30, 0.8), row("no-mlff", 0, 30, 0.88)]
    lines = scripts[2].table([*rows, row("mse", 1, 29, 0.7)])
    assert lines[0] == "| variant | parameters | seed 0 | seed 1 | difference, dB | of SSIM | s/step |"
    assert lines[2:] == [
        "| all parts, MSE + 0.1 frequency | 7 | 31.00 / 0.9000 | 30.00 / 0.8000 | +0.00 | +0.0000 | 0.500 |",
        "| MSE alone | 7 |  | 29.00 / 0.7000 | -1.00 | -0.1000 | 0.500 |",
        "| without MLFF | 7 | 30.00 / 0.8800 | 30.50 / 0.8100 | -0.25 | -0.0050 | 0.500 |",
    ]


def test_a_table_of_other_settings_is_refused(scripts, tmp_path):
    equal_steps = scripts[0]
    settings = dict.fromkeys(equal_steps.SETTINGS, "4")
    equal_steps.write_rows(tmp_path / "a.csv", [{**row("all", 0, 31, 0.9), **settings}])
    assert equal_steps.read_rows(tmp_path / "a.csv", settings)[0]["variant"] == "all"
    assert equal_steps.read_rows(tmp_path / "none.csv", settings) == []
    with pytest.raises(ValueError, match="holds another run, with steps 4"):
        equal_steps.read_rows(tmp_path / "a.csv", {**settings, "steps": "8"})
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is no table"):
        equal_steps.read_rows(tmp_path / "b.csv", settings)


@pytest.mark.slow
def test_all_variants_of_a_seed_see_the_same_patches_and_a_run_goes_on(scripts, tmp_path, monkeypatch):
    equal_steps, _, mlff = scripts
    bundle = make_tiny_deblurring(tmp_path / "bundles", MLFF_NAME)
    write_clean(tmp_path / "data")
    seen = []

    class Recorder(equal_steps.Timer):
        def __init__(self, trainer):
            super().__init__(trainer)
            seen.append([])
            trainer.add_event_handler(Events.ITERATION_STARTED, lambda one: seen[-1].append(one.state.batch["image"]))

    monkeypatch.setattr(equal_steps, "Timer", Recorder)
    common = ["mlff_ablation", str(tmp_path / "data"), "-o", str(tmp_path / "out.csv"), "--bundle", str(bundle)]
    common += ["--steps", "2", "--epochs", "1", "--patch", "32", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", [*common, "--seeds", "0", "--only", "all", "no-mlff"])
    mlff.main()
    monkeypatch.setattr(sys, "argv", [*common, "--seeds", "0", "1", "--only", "all"])
    mlff.main()
    assert len(seen) == 3  # the first of the second call was there
    full, without, other = (torch.cat(batches) for batches in seen)
    assert full.shape == (4, 3, 32, 32)
    assert torch.equal(full, without)
    assert not torch.equal(full, other)
    written = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in written[1:]] == [["all", "0"], ["no-mlff", "0"], ["all", "1"]]
