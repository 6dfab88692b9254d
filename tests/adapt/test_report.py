"""A report and a card are written whatever the scores are: a training went before them."""

import json
import math

import pytest
import torch
from tiny_bundle import make_tiny_bundle

from medrestore_monai.adapt import Request
from medrestore_monai.adapt.decision import decide
from medrestore_monai.adapt.new_bundle import write_bundle
from medrestore_monai.adapt.report import summary, write_report
from medrestore_monai.adapt.scores import UnitScores
from medrestore_monai.adapt.training import Trained
from medrestore_monai.data import Division

SLAB = {"start": 0, "stop": 4, "unit": 0}


@pytest.mark.parametrize("exact", [("input",), ("input", "before", "after")])
def test_scores_that_are_not_finite_are_left_empty(tmp_path, exact):
    request = Request(tmp_path, tmp_path / "mine", make_tiny_bundle(tmp_path / "bundles"))
    psnr = {"input": 20.0, "before": 30.0, "after": 31.0, **dict.fromkeys(exact, math.inf)}
    ssim = {"input": 0.5, "before": 0.9, "after": 0.95}
    units = [UnitScores(unit, unit, 4, {**psnr, "after": psnr["after"] + unit / 9}, ssim) for unit in range(5)]
    curve = [{"step": 4, "learning_rate": 1e-3, "loss": math.nan, "PSNR": math.inf}]
    trained = Trained(tmp_path / "adapted.pt", "all", 4, 4, 4, 1.0, curve, {"0": math.inf, "1": 30.0})
    division = Division({"train": [SLAB], "tune": [SLAB], "verdict": [SLAB]}, 7, "people")
    decision = decide(units, "CT")
    assert decision.adopt is ("before" not in exact)
    about = summary(request, division, decision, trained, units, {})
    folder = write_report(request, about, trained, units, None)
    report = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["scores"]["input"] == {"psnr_db": None, "ssim": 0.5}
    assert report["tuning_psnr_db"] == {"0": None, "1": 30.0}
    assert report["curve"][0]["loss"] is None
    assert "<tr><td>input<td><td>0.5000</tr>" in (folder / "report.html").read_text()
    torch.save({}, trained.weights)
    write_bundle(request.opened, trained.weights, request.output, about)
    assert "| input |  | 0.5000 |" in (request.output / "docs" / "README.md").read_text()
