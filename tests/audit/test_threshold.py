"""The threshold of the change map: chosen for few false flags, kept with the weights that it was tuned for."""

import pytest
from tiny_bundle import make_tiny_bundle

from medrestore_monai.audit.threshold import choose_threshold, threshold_of, thresholds, write_threshold
from medrestore_monai.bundles import open_bundle


def test_the_least_threshold_with_one_flag_in_ten_slices_is_chosen():
    strongest = [4.6, 5.3, *[4.1] * 18]  # of each slice, one region
    flags = [{one: int(value > one) for one in thresholds()} for value in strongest]
    assert choose_threshold(flags) == 4.25
    assert choose_threshold(flags[:10]) == 4.75
    assert choose_threshold(flags[1:2]) == 5.5
    with pytest.raises(ValueError, match="no threshold up to 20"):
        choose_threshold([dict.fromkeys(thresholds(), 1)])
    with pytest.raises(ValueError, match="no threshold"):
        choose_threshold([])


def test_a_bundle_has_its_threshold_for_its_weights_and_modality(tmp_path):
    bundle = open_bundle(make_tiny_bundle(tmp_path), trust_bundle=True, configs=())
    own = bundle.metadata["weights_sha256"]
    assert threshold_of(bundle, "CT") == threshold_of(None, "CT") == 5
    path = bundle.root / "docs" / "change.json"
    write_threshold(path, "CT", {"threshold": 6.25, "weights_sha256": own})
    write_threshold(path, "MR", {"threshold": 7.0, "weights_sha256": "0" * 64})
    assert threshold_of(bundle, "CT") == threshold_of(bundle, "CT", own) == 6.25
    assert threshold_of(bundle, "CT", "0" * 64) == threshold_of(bundle, "MR") == threshold_of(bundle, "PT") == 5
    path.write_text('{"version": 9}')
    with pytest.raises(ValueError, match=r"change\.json has no thresholds of this version"):
        threshold_of(bundle, "CT")
