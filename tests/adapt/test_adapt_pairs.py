"""Pairs train and are judged as they are; what are none is refused."""

import pytest
from adapt_site import QUICK, write_pairs
from tiny_bundle import make_tiny_bundle

from medrestore_monai.adapt import adapt
from medrestore_monai.files import DataError

pytestmark = pytest.mark.slow


def test_pairs_train_and_are_judged_as_they_are(tmp_path):
    bundle, data = make_tiny_bundle(tmp_path / "bundles"), write_pairs(tmp_path / "data")
    done = adapt(data, tmp_path / "mine", bundle, targets="pairs", steps=8, settings=QUICK)
    assert done.adopted, done.decision.line
    assert done.about["data"]["judged_by"] == "people"
    assert done.about["scores"]["adapted"]["psnr_db"] > done.about["scores"]["as shipped"]["psnr_db"] + 0.05


def test_shifted_pairs_are_refused(tmp_path):
    bundle, data = make_tiny_bundle(tmp_path / "bundles"), write_pairs(tmp_path / "data", shift=2)
    with pytest.raises(DataError, match="no pairs to learn from"):
        adapt(data, tmp_path / "mine", bundle, targets="pairs", steps=8)
    assert not list(tmp_path.glob(".*"))
