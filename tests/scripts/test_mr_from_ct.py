"""MR drawn upon CT: anatomy where the body is, only the measured part of k-space, on the grid it says."""

import importlib
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "train"
SPACING = 1.1


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("mr_from_ct")


def abdomen(shape=(231, 200)):
    """A body of muscle with a fluid-filled organ; returned with the masks of both."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    body = ((x - 115) / 95) ** 2 + ((y - 100) / 70) ** 2 < 1
    organ = (x - 90) ** 2 + (y - 100) ** 2 < 25**2
    hu = np.where(body, 50.0, -1000.0)
    hu[organ] = 0
    return hu.astype(np.float32), body, organ


@pytest.mark.slow
def test_signal_is_where_the_body_is(drawing):
    hu, _, _ = abdomen()
    for seed in range(5):
        signal, pixel = drawing.mr_from_ct(hu, SPACING, np.random.RandomState(seed))
        assert drawing.PIXEL[0] <= pixel <= drawing.PIXEL[1]
        np.testing.assert_allclose(signal.shape, np.array(hu.shape) * SPACING / pixel, atol=0.51)
        scale = SPACING / pixel
        inside = signal[int(150 * scale), int(100 * scale)]
        outside = signal[: int(10 * scale), : int(20 * scale)].mean()
        assert signal.min() >= 0
        assert outside < 0.1 * inside


@pytest.mark.slow
def test_contrast_between_tissues_goes_both_ways(drawing):
    hu, _, _ = abdomen()
    ratios = []
    for seed in range(12):
        signal, pixel = drawing.mr_from_ct(hu, SPACING, np.random.RandomState(seed))
        scale = SPACING / pixel
        ratios.append(signal[int(90 * scale), int(100 * scale)] / signal[int(150 * scale), int(100 * scale)])
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25


def test_what_was_not_measured_is_zero(drawing, monkeypatch):
    """Without a magnitude to take, the periphery of k-space is empty: it is checked on a smooth positive picture."""
    monkeypatch.setattr(drawing, "MEASURED", (0.5, 0.5))
    monkeypatch.setattr(drawing, "NOISE", (0.0, 0.0))
    signal = 1 + 0.2 * np.random.RandomState(0).rand(41, 36)
    kspace = np.fft.fft2(drawing._measured(signal, np.random.RandomState(0)))
    original = np.fft.fft2(signal)
    x, y = np.meshgrid(np.abs(np.fft.fftfreq(41)), np.abs(np.fft.fftfreq(36)), indexing="ij")
    kept = (x <= 0.25) & (y <= 0.25)
    np.testing.assert_allclose(kspace[kept], original[kept], atol=1e-9)
    assert np.abs(kspace[~kept]).max() < 1e-9


def test_one_seed_gives_one_drawing_and_air_gives_none(drawing, monkeypatch):
    monkeypatch.setattr(drawing, "NOISE", (0.0, 0.0))
    hu, _, _ = abdomen()
    first, second, other = (drawing.mr_from_ct(hu, SPACING, np.random.RandomState(seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert first.shape != other.shape or not np.allclose(first, other)
    monkeypatch.setattr(drawing, "SIGNALS", [(-1000, (0.0, 0.0)), (0, (0.5, 1.0))])
    assert not drawing.mr_from_ct(np.full((31, 40), -1000.0), SPACING, np.random.RandomState(0))[0].any()
