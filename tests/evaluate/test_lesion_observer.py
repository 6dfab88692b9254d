"""The observer of planted lesions against the closed form: Gaussian noise of known covariance, a known signal."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import eval_laguerre
from scipy.stats import norm

from medrestore_monai.evaluate.lesions.observer import CHANNELS, auc_of, laguerre_gauss, observe

SIDE, WIDTH = 21, 6.0


def truth(amplitude, sigma):
    """The root of the channels' covariance, their response, and d: in closed form, for filtered white noise."""
    channels = laguerre_gauss(SIDE, WIDTH).reshape(CHANNELS, -1)
    steps = np.arange(SIDE) - SIDE // 2
    disc = ((steps[:, None] ** 2 + steps**2) <= 16).astype(float)
    signal = amplitude * gaussian_filter(disc, 1).ravel()
    impulses = np.eye(SIDE * SIDE).reshape(-1, SIDE, SIDE)
    root = np.stack([gaussian_filter(one, sigma, mode="wrap").ravel() for one in impulses])  # symmetric
    covariance = channels @ root @ root.T @ channels.T
    response = channels @ signal
    return np.linalg.cholesky(covariance), response, float(np.sqrt(response @ np.linalg.solve(covariance, response)))


def test_channels_are_laguerre_gauss_and_see_no_constant():
    channels = laguerre_gauss(31, 8.0)
    assert channels.shape == (CHANNELS, 31, 31)
    np.testing.assert_allclose(channels.sum(axis=(1, 2)), 0, atol=1e-9)
    radius = 3 / 8.0
    shape = np.exp(-np.pi * radius**2) * eval_laguerre(2, 2 * np.pi * radius**2)
    middle = 1.0 * eval_laguerre(2, 0)
    ratio = (channels[2, 15, 18] - channels[2, 0, 0]) / (channels[2, 15, 15] - channels[2, 0, 0])
    assert ratio == pytest.approx(shape / middle, abs=2e-3)  # the corner holds the mean that was taken off


@pytest.mark.parametrize("amplitude", [0.35, 0.12])
def test_auc_is_that_of_the_closed_form_and_its_interval_holds_it(amplitude):
    root, response, d = truth(amplitude, sigma=1.2)
    rng = np.random.default_rng(0)
    aucs, held, repeats, shape = [], 0, 200, (56, CHANNELS)
    for _ in range(repeats):
        absent = rng.standard_normal(shape) @ root.T
        # with the same noise, but for what a method that is not linear does to it
        changed = 0.1 * rng.standard_normal(shape) @ root.T
        found = observe(absent + changed + response, absent)
        aucs.append(found.auc)
        held += found.low <= auc_of(d) <= found.high
    assert np.mean(aucs) == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.01)
    assert 0.91 <= held / repeats <= 0.985


def test_images_give_what_the_channels_are_said_to():
    root, _, d = truth(0.25, sigma=1.2)
    channels, rng = laguerre_gauss(SIDE, WIDTH), np.random.default_rng(2)
    noise = gaussian_filter(rng.standard_normal((500, SIDE, SIDE)), (0, 1.2, 1.2), mode="wrap")
    steps = np.arange(SIDE) - SIDE // 2
    signal = 0.25 * gaussian_filter(((steps[:, None] ** 2 + steps**2) <= 16).astype(float), 1)
    present, absent = (np.tensordot(images, channels, ((1, 2), (1, 2))) for images in (noise + signal, noise))
    np.testing.assert_allclose(np.cov(absent, rowvar=False), root @ root.T, atol=0.15 * np.trace(root @ root.T) / 5)
    assert observe(present, absent).detectability == pytest.approx(d, rel=0.1)


def test_no_signal_is_chance_and_a_clear_one_is_certain():
    rng = np.random.default_rng(1)
    absent = rng.standard_normal((60, 5))
    nothing = observe(absent + 1e-4 * rng.standard_normal((60, 5)), absent)
    assert nothing.low == pytest.approx(0.5, abs=1e-3)
    assert nothing.auc < 0.51
    clear = observe(absent + 20, absent)
    assert clear.auc == clear.high == pytest.approx(1)
    assert clear.low > 0.999


def test_too_few_pairs_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="5 channels need at least 9 pairs, got 8"):
        observe(np.zeros((8, 5)), np.zeros((8, 5)))
    with pytest.raises(ValueError, match="one shape"):
        observe(np.zeros((20, 5)), np.zeros((19, 5)))
