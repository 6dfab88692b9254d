"""The signal gain against blurs that are known."""

import numpy as np
import pytest
from noise_fields import blurred, correlated_noise

from medrestore_monai.audit.gain import measure_gain
from medrestore_monai.audit.volume import Volume

PIXEL = 0.7


def structured(shape=(320, 320, 6), seed=0):
    """Tissue with structure in one half of each slice, and next to none in the other."""
    rng = np.random.default_rng(seed)
    texture = blurred(rng.standard_normal(shape).astype(np.float32), PIXEL, 0.55)
    texture *= 150 / texture.std()
    envelope = blurred((np.arange(shape[0]) < shape[0] // 2)[:, None, None] * np.ones(shape, np.float32), PIXEL, 4.0)
    return 40 + texture * np.clip(envelope, 0, 1)


def gains(source, restored):
    found = measure_gain(Volume(source, "CT", (PIXEL, PIXEL, 2.0)), Volume(restored, "CT", (PIXEL, PIXEL, 2.0)))
    return found.frequency, found.gain, found


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.4, 0.7])
def test_the_gain_of_a_known_blur(sigma):
    clean = structured()
    noise, _, _ = correlated_noise(clean.shape, PIXEL, 0.5, 20.0, seed=1)
    frequency, gain, _ = gains(clean + noise, blurred(clean, PIXEL, sigma))
    assert len(frequency) > 8
    assert gain == pytest.approx(np.exp(-2 * (np.pi * sigma * frequency) ** 2), abs=0.02)


@pytest.mark.slow
def test_denoising_without_blur_has_the_gain_1():
    clean = structured(seed=2)
    noise, _, _ = correlated_noise(clean.shape, PIXEL, 0.5, 20.0, seed=3)
    _, gain, found = gains(clean + noise, clean)
    assert gain == pytest.approx(np.ones_like(gain), abs=0.04)
    assert all(figure.after == pytest.approx(1, abs=0.03) for figure in found.figures if figure.after is not None)


def test_without_structure_there_is_nothing_to_measure():
    noise, _, _ = correlated_noise((256, 256, 4), PIXEL, 0.5, 20.0, seed=4)
    frequency, _, found = gains(40 + noise, 40 + 0.2 * noise)
    assert len(frequency) == 0
    assert all("nothing to measure" in figure.not_measured for figure in found.figures)


def test_a_small_image_has_too_few_patches():
    found = measure_gain(Volume(np.full((20, 30), 40.0), "CT"), Volume(np.full((20, 30), 40.0), "CT"))
    assert "patches" in found.figures[0].not_measured
