"""The change map: unit variance for noise, the closed form for planted discs, and few false flags."""

import numpy as np
import pytest
from noise_fields import correlated_noise

from medrestore_monai.audit.faithfulness import WIDTHS, measure_faithfulness, noise_map
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.volume import Volume

PIXEL, SD = 0.7, 20.0
SHAPE = (256, 245, 4)


@pytest.fixture(scope="module")
def noisy():
    noise, _, _ = correlated_noise(SHAPE, PIXEL, 0.5, SD, seed=1)
    source = Volume(40 + noise, "CT", (PIXEL, PIXEL, 2.0))
    return source, noise


def measured(source, restored, **options):
    restored = source.like(restored)
    return measure_faithfulness(source, restored, measure_noise(source, restored), **options)


@pytest.mark.slow
def test_the_map_of_removed_noise_is_standard_normal_at_each_width(noisy, monkeypatch):
    source, noise = noisy
    for width in WIDTHS:
        monkeypatch.setattr("medrestore_monai.audit.faithfulness.WIDTHS", (width,))
        assert measured(source, source.array - noise).z.std() == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_the_noise_map_has_the_level_of_each_place(noisy):
    source, noise = noisy
    louder = source.like(40 + noise * np.linspace(0.6, 1.4, SHAPE[0])[:, None, None])
    found = measure_noise(louder, louder)
    local = noise_map(louder, found, found.spectra["before"])
    assert local[60].mean() / local[190].mean() == pytest.approx(
        (0.6 + 0.8 * 60 / 255) / (0.6 + 0.8 * 190 / 255), rel=0.1
    )


def discs(count, diameter, level, seed):
    """Discs of ``level`` at random places in slices of their own, and where they are."""
    rng = np.random.default_rng(seed)
    x, y = np.indices(SHAPE[:2])
    planted, places = np.zeros(SHAPE, np.float32), []
    for number in range(count):
        at = rng.uniform(30, np.array(SHAPE[:2]) - 30)
        index = number % SHAPE[2]
        planted[..., index][np.hypot(x - at[0], y - at[1]) * PIXEL <= diameter / 2] = level
        places.append((index, *at))
    return planted, places


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_of_25_inventions_and_25_erasures_of_3_noise_deviations_and_5_mm_most_are_flagged(noisy, sign):
    source, noise = noisy
    planted, places = discs(25, 5.0, 3 * SD, seed=2)
    found = measured(source, source.array - 0.4 * noise + sign * planted)
    hits = 0
    for index, x, y in places:
        near = [flag for flag in found.flags if flag.slice == index and np.hypot(flag.x - x, flag.y - y) * PIXEL < 4]
        hits += any(np.sign(flag.z) == sign for flag in near)
    assert hits >= 20


@pytest.mark.slow
def test_ordinary_denoising_has_no_flag(noisy):
    source, noise = noisy
    assert measured(source, source.array - 0.6 * noise).count == 0


@pytest.mark.slow
def test_a_planted_disc_has_the_height_of_the_closed_form(noisy, monkeypatch):
    monkeypatch.setattr("medrestore_monai.audit.faithfulness.WIDTHS", (2.5,))
    source, noise = noisy
    x, y = np.indices(SHAPE[:2])
    disc = (np.hypot(x - 128, y - 120) <= 6)[..., None]
    z = measured(source, source.array + 3 * SD * disc).z[128, 120, 0]
    axes = [np.fft.fftfreq(size) for size in SHAPE[:2]]
    squared = np.add.outer(axes[0] ** 2, axes[1] ** 2)
    power = np.abs(np.fft.fft2(noise[..., 0])) ** 2
    rho = np.sqrt((power * np.exp(-4 * (np.pi * 2.5) ** 2 * squared)).sum() / power.sum())
    assert z == pytest.approx(3 * (1 - np.exp(-(6**2) / (2 * 2.5**2))) / rho, rel=0.15)


def test_without_noise_there_is_nothing_to_compare_with():
    source = Volume(np.full((64, 64, 2), -1000.0), "CT")
    assert "noise of the source" in measured(source, source.array).figures[0].not_measured
    with pytest.raises(ValueError, match="must be above 0"):
        measured(source, source.array, threshold=0)
