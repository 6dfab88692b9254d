"""The transfer function at edges against discs whose blur is known."""

import numpy as np
import pytest
from noise_fields import blurred, correlated_noise
from scipy.special import erf

from medrestore_monai.audit.edges import find_edge
from medrestore_monai.audit.sharpness import edge_transfer, measure_sharpness
from medrestore_monai.audit.volume import Volume

PIXEL = 0.6


def disc(shape, radius, sigma, low, high, seed=0, center=(0.13, -0.31)):
    """Slices with a disc whose edge has the standard deviation ``sigma`` mm, the pixel's included."""
    x, y = np.indices(shape[:2])
    away = np.hypot(*((axis - size / 2 - c) * PIXEL for axis, size, c in zip((x, y), shape, center, strict=False)))
    level = low + (high - low) * (0.5 - 0.5 * erf((away - radius) / (np.sqrt(2) * sigma)))
    return np.repeat(level[..., None], shape[2], axis=2).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_the_50_percent_frequency_of_a_disc(sigma):
    shape, contrast, sd = (160, 151, 4), 300.0, 20.0  # CNR 15 over 450 mm: 320
    noise, _, _ = correlated_noise(shape, PIXEL, 0.6, sd, seed=1)
    image = disc(shape, 18.0, sigma, 0, contrast) + noise
    edge = find_edge(image, (PIXEL, PIXEL), 150.0)
    found = edge_transfer(edge, image, (PIXEL, PIXEL))
    assert edge.length == pytest.approx(4 * 2 * np.pi * 18, rel=0.05)
    assert found.strength == pytest.approx(15 * np.sqrt(edge.length), rel=0.15)
    assert found.at(0.5) == pytest.approx(0.1874 / sigma, rel=0.03)
    assert found.at(0.1) == pytest.approx(0.3415 / sigma, rel=0.06)


def body(sigma, shape=(200, 181, 3)):
    return disc(shape, 44.0, sigma, -1000, 40)


@pytest.mark.slow
def test_blur_after_the_restoration_is_seen_at_the_skin():
    noise, _, _ = correlated_noise((200, 181, 3), PIXEL, 0.6, 20.0, seed=2)
    source = Volume(body(0.6) + noise, "CT", (PIXEL, PIXEL, 2.0))
    found = measure_sharpness(source, source.like(blurred(body(0.6), PIXEL, 0.6)))
    by_name = {(one.name, one.region.split(",")[0]): one for one in found.figures}
    fifty = by_name["50 % frequency", "skin to air"]
    assert fifty.before == pytest.approx(0.1874 / 0.6, rel=0.03)
    assert fifty.after == pytest.approx(0.1874 / np.hypot(0.6, 0.6), rel=0.03)
    ratio = by_name["50 % frequency, after over before", "skin to air"]
    assert ratio.ci95[0] < np.sqrt(0.5) < ratio.ci95[1] < 0.8
    assert "nothing to measure" in by_name["50 % frequency", "soft tissue to bone"].not_measured
    assert set(found.curves) == {"skin to air"}


def test_an_edge_too_weak_for_its_noise_is_not_reported():
    noise, _, _ = correlated_noise((120, 120, 1), PIXEL, 0.6, 40.0, seed=3)
    image = disc((120, 120, 1), 14.0, 0.6, -90, 30) + noise
    found = measure_sharpness(Volume(image, "CT", (PIXEL, PIXEL, 2.0)), Volume(image, "CT", (PIXEL, PIXEL, 2.0)))
    assert all(figure.after is None for figure in found.figures)
    assert any("38 is needed" in figure.not_measured or "flat sides" in figure.not_measured for figure in found.figures)


def test_other_modalities_have_the_signal_gain_instead():
    image = Volume(np.zeros((40, 40, 2)), "MR")
    assert "signal gain" in measure_sharpness(image, image).figures[0].not_measured
