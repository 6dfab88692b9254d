"""The threshold of the change map: chosen for few false flags, kept with the weights that it was tuned for."""

import numpy as np
import pytest
from tiny_bundle import make_tiny_bundle

from medrestore_monai.audit.spectrum import Spectrum, frequencies
from medrestore_monai.audit.threshold import (
    choose_share,
    shares,
    target_of,
    threshold_at,
    threshold_of,
    write_threshold,
)
from medrestore_monai.bundles import open_bundle
from medrestore_monai.files import DataError

PIXEL = (0.8, 0.8)


def white(side=64):
    return Spectrum(np.ones((side, side)), PIXEL, np.ones(4), 4, 4 * side**2)


def coarse(sigma=2.0, side=64):
    """White noise behind a Gaussian of ``sigma`` mm."""
    power = np.exp(-((2 * np.pi * sigma * frequencies((side, side), PIXEL)) ** 2))
    return Spectrum(power, PIXEL, np.ones(4), 4, 4 * side**2)


def test_the_least_share_with_one_flag_in_ten_slices_of_everybody_is_chosen():
    def person(*strongest):
        return [{one: int(value > one) for one in shares()} for value in strongest]

    assert choose_share([person(0.31, *[0.02] * 9)]) == 0.05
    assert choose_share([person(0.31, *[0.02] * 8)]) == 0.35
    assert choose_share([person(*[0.02] * 40), person(0.31)]) == 0.35  # nobody is outvoted
    with pytest.raises(ValueError, match="no share up to"):
        choose_share([person(1.1)])
    with pytest.raises(ValueError, match="no share"):
        choose_share([])


def test_the_target_is_the_disc_in_white_noise():
    # A Gaussian of g pixels leaves white noise a standard deviation of 1 / (2 sqrt(pi) g); mean frequency 0.765 / (2 d)
    radius = 4.0 / 2 / 0.8
    expected = max(3 * (1 - np.exp(-(radius**2) / 2 / g**2)) * 2 * np.sqrt(np.pi) * g for g in (1, 1.5, 2.5, 4))
    assert target_of(white(), PIXEL) == pytest.approx(expected, rel=0.01)


def test_fine_noise_has_a_higher_threshold_than_coarse_noise():
    assert target_of(coarse(), PIXEL) < target_of(white(), PIXEL)
    assert threshold_at(0.5, white(), PIXEL) == pytest.approx(0.5 * target_of(white(), PIXEL))
    assert threshold_at(0.1, coarse(), PIXEL) == 4


def test_a_bundle_has_its_threshold_for_its_weights_and_modality(tmp_path):
    bundle = open_bundle(make_tiny_bundle(tmp_path), trust_bundle=True, configs=())
    own, noise = bundle.metadata["weights_sha256"], (white(), PIXEL)
    assert threshold_of(bundle, "CT", "", *noise) == threshold_of(None, "CT", "", *noise) == 5
    path = bundle.root / "docs" / "change.json"
    write_threshold(path, "CT", {"share": 0.5, "weights_sha256": own})
    write_threshold(path, "MR", {"share": 0.4, "weights_sha256": "0" * 64})
    expected = 0.5 * target_of(*noise)
    assert threshold_of(bundle, "CT", "", *noise) == threshold_of(bundle, "CT", own, *noise) == pytest.approx(expected)
    assert threshold_of(bundle, "CT") == 5  # the noise could not be measured
    assert threshold_of(bundle, "CT", "0" * 64, *noise) == threshold_of(bundle, "MR", "", *noise) == 5


def test_a_damaged_file_is_named_and_not_written_to(tmp_path):
    bundle = open_bundle(make_tiny_bundle(tmp_path), trust_bundle=True, configs=())
    path, own = bundle.root / "docs" / "change.json", bundle.metadata["weights_sha256"]
    for content in ('{"version": 9}', '{"version": 1, "modalities": {}}', "[1]", '{"version": 2, "modalities": [1]}'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"change\.json is damaged or of another version"):
            threshold_of(bundle, "CT", "", white(), PIXEL)
        with pytest.raises(DataError, match="damaged or of another version"):
            write_threshold(path, "CT", {"share": 0.5, "weights_sha256": own})
        assert path.read_text() == content
    for share in (0, -0.1, 1.01, float("nan"), float("inf"), "much", None):
        path.unlink()
        write_threshold(path, "CT", {"share": share, "weights_sha256": own})
        with pytest.raises(DataError, match="damaged or of another version"):
            threshold_of(bundle, "CT", "", white(), PIXEL)


def test_an_error_of_the_computation_is_not_taken_for_a_damaged_file(tmp_path):
    bundle = open_bundle(make_tiny_bundle(tmp_path), trust_bundle=True, configs=())
    share = {"share": 0.5, "weights_sha256": bundle.metadata["weights_sha256"]}
    write_threshold(bundle.root / "docs" / "change.json", "CT", share)
    with pytest.raises(TypeError):
        threshold_of(bundle, "CT", "", white(), None)
