"""A whole adaptation of a tiny bundle: what is adopted is a bundle like any other, and says nothing of the images."""

import json
import math

import numpy as np
import pytest
import torch
from adapt_site import QUICK, SECRET, write_site
from phantoms import ct_volume
from tiny_bundle import make_tiny_bundle

from medrestore_monai import Restorer
from medrestore_monai.adapt import Request, adapt
from medrestore_monai.bundles import open_bundle, sha256
from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.files import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    return make_tiny_bundle(root / "bundles"), write_site(root / "data")


@pytest.fixture(scope="module")
def adopted(place, tmp_path_factory):
    bundle, data = place
    torch.manual_seed(7)
    before = torch.get_rng_state()
    done = adapt(data, tmp_path_factory.mktemp("out") / "mine", bundle, steps=8, settings=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    return done


def test_what_is_better_beyond_chance_is_adopted(adopted):
    assert adopted.adopted, adopted.decision.line
    assert adopted.decision.gain > 0.05
    assert adopted.decision.p_value < 0.025
    assert adopted.about["data"] | {} == {
        "people": 7,
        "judged_by": "people",
        "units": 5,
        "train": {"slices": 4},
        "tune": {"slices": 4},
        "verdict": {"slices": 20},
    }
    assert adopted.about["training"]["steps"] == 8


def test_the_bundle_is_taken_without_an_option(adopted):
    bundle = open_bundle(adopted.output, configs=("inference", "evaluate", "train", "adapt"))
    assert bundle.metadata["weights_sha256"] == sha256(bundle.weights)
    assert check_bundle(adopted.output) == []
    restored = Restorer(adopted.output)(ct_volume(2, 49), spacing=(0.75, 0.75, 2.5))
    assert restored.shape == (49, 49, 2)


def test_the_truth_gains_as_the_verdict_says(place, adopted):
    """PSNR by hand, of noise that the verdict did not see."""
    clean = ct_volume(2, 49).astype(np.float32)
    noisy = clean + np.random.default_rng(3).normal(0, 20, clean.shape).astype(np.float32)
    errors = []
    for bundle in (place[0], adopted.output):
        restored = Restorer(bundle)(noisy, spacing=(0.75, 0.75, 2.5))
        errors.append(float(((restored - clean) ** 2).mean()))
    assert 10 * math.log10(errors[0] / errors[1]) > 0.05


def test_no_name_and_no_image_enters_bundle_or_report(place, adopted):
    for root in (adopted.output, adopted.report):
        for path in (one for one in root.rglob("*") if one.is_file()):
            assert SECRET.encode() not in path.read_bytes(), path
            assert str(place[1]).encode() not in path.read_bytes(), path
    kinds = {path.suffix for path in adopted.output.rglob("*") if path.is_file()}
    assert kinds <= {"", ".json", ".md", ".txt", ".pt", ".conf"}


def test_the_report_has_every_figure(adopted):
    report = json.loads((adopted.report / "report.json").read_text())
    assert report["verdict"]["line"] == adopted.decision.line
    assert len(report["units"]) == 5
    assert [row["step"] for row in report["curve"]] == [4, 8]
    assert set(report["tuning_psnr_db"]) == {"0", "0.25", "0.5", "0.75", "1"}
    assert "<script" not in (adopted.report / "report.html").read_text()


def test_equal_at_equal_steps_and_seed(place, adopted, tmp_path):
    bundle, data = place
    again = adapt(data, tmp_path / "other", bundle, steps=8, settings=QUICK)
    first, second = (torch.load(one.output / "models/model.pt", weights_only=True) for one in (adopted, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_does_not_help_is_not_adopted(place, tmp_path):
    bundle, data = place
    done = adapt(data, tmp_path / "mine", bundle, steps=1, settings={**QUICK, "learning_rate": 1e-9})
    assert not done.adopted
    assert done.decision.line.startswith("keep the shipped weights")
    assert not (tmp_path / "mine").exists()
    assert (done.report / "report.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_empty_slices_do_not_count(place, tmp_path):
    data = write_site(tmp_path / "data", empty=1)
    done = adapt(data, tmp_path / "mine", place[0], steps=8, settings=QUICK)
    assert done.adopted, done.decision.line
    report = json.loads((done.report / "report.json").read_text(), parse_constant=pytest.fail)
    assert {unit["slices"] for unit in report["units"]} == {3}
    assert all(0 < values["psnr_db"] < 100 for values in report["scores"].values())
    assert not list(tmp_path.glob(".*"))


def test_few_units_are_too_few_to_tell(place, tmp_path):
    data = write_site(tmp_path / "data", people=1, slices=24)
    done = adapt(data, tmp_path / "mine", place[0], steps=1, settings=QUICK)
    assert not done.adopted
    assert "too few to tell" in done.decision.line
    assert done.about["data"]["judged_by"] == "blocks of slices"
    assert "training" not in done.about


def test_few_slices_to_train_are_refused(place, tmp_path):
    data = write_site(tmp_path / "data", people=7, slices=1)
    with pytest.raises(DataError, match="1 slices are left to train, and 4 are needed"):
        adapt(data, tmp_path / "mine", place[0], steps=1)


def test_one_person_under_two_names_is_refused(place, tmp_path):
    data = write_site(tmp_path / "data")
    for person in range(1, 7):
        source = data / f"{SECRET}0" / "ct.nii.gz"
        (data / f"{SECRET}{person}" / "ct.nii.gz").write_bytes(source.read_bytes())
    with pytest.raises(DataError, match="hold the same slice, in two parts"):
        adapt(data, tmp_path / "mine", place[0], steps=1)


def test_a_bundle_that_may_not_run_is_refused(tmp_path):
    root = make_tiny_bundle(tmp_path)
    text = (root / "configs" / "adapt.json").read_text()
    (root / "configs" / "adapt.json").write_text(text.replace("torch.optim.Adam", "os.system"))
    with pytest.raises(ValueError, match=r"adapt\.json"):
        Request(tmp_path, tmp_path / "out", root).check()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mri_superresolution_restore_rwkv", "k-space"), ("rgb_deblur_mlff_unet", "blur")],
)
def test_no_targets_no_lost_frequencies(tmp_path, name, reason):
    with pytest.raises(ValueError, match=reason):
        Request(tmp_path, tmp_path / "out", name, targets="none").check()
