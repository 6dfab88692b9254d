"""An adaptation that was killed goes on when it is repeated, and ends as one that never stopped."""

import pytest
import torch
from adapt_site import QUICK, write_pairs, write_site
from tiny_bundle import make_tiny_bundle

import medrestore_monai.adapt.run as running
from medrestore_monai.adapt import adapt
from medrestore_monai.engines import TrainingState
from medrestore_monai.files import DataError, UsageError

pytestmark = pytest.mark.slow


def weights(done):
    return torch.load(done.output / "models" / "model.pt", weights_only=True)


def test_a_killed_run_ends_as_one_that_never_stopped(tmp_path, monkeypatch):
    bundle, data = make_tiny_bundle(tmp_path / "bundles"), write_site(tmp_path / "data")
    options = {"steps": 8, "settings": QUICK}
    whole = adapt(data, tmp_path / "whole", bundle, **options)
    assert whole.adopted, whole.decision.line
    save, score = TrainingState._save, running.score_units

    def killed_in_training(self, trainer):
        save(self, trainer)
        if trainer.state.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "_save", killed_in_training)
    with pytest.raises(KeyboardInterrupt):
        adapt(data, tmp_path / "cut", bundle, **options)
    monkeypatch.setattr(TrainingState, "_save", save)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(UsageError, match="with other images or settings"):
        adapt(data, tmp_path / "cut", bundle, **{**options, "steps": 12})

    def killed_in_verdict(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "score_units", killed_in_verdict)
    with pytest.raises(KeyboardInterrupt):
        adapt(data, tmp_path / "cut", bundle, **options)
    monkeypatch.setattr(running, "score_units", score)
    resumed = adapt(data, tmp_path / "cut", bundle, **options)
    assert resumed.about == whole.about
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    assert not list(tmp_path.glob(".*"))


def test_pairs_train_and_are_judged_as_they_are(tmp_path):
    bundle, data = make_tiny_bundle(tmp_path / "bundles"), write_pairs(tmp_path / "data")
    done = adapt(data, tmp_path / "mine", bundle, targets="pairs", steps=8, settings=QUICK)
    assert done.adopted, done.decision.line
    assert done.about["data"]["judged_by"] == "people"
    assert done.about["scores"]["adapted"]["psnr_db"] > done.about["scores"]["as shipped"]["psnr_db"] + 0.05


def test_shifted_pairs_are_refused(tmp_path):
    bundle, data = make_tiny_bundle(tmp_path / "bundles"), write_pairs(tmp_path / "data", shift=2)
    with pytest.raises(DataError, match="shifted by 2"):
        adapt(data, tmp_path / "mine", bundle, targets="pairs", steps=8)
    assert not list(tmp_path.glob(".*"))
