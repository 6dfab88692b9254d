"""Training pairs made of one noisy image."""

import pytest
import torch

from medrestore_monai.adapt.recorruption import kept_with_level_error, most_kept, recorrupt, target_weight

pytestmark = pytest.mark.slow


def colored(count, generator):
    """Noise of variance 1 whose neighbors correlate, and whose level changes from place to place."""
    white = torch.randn(count + 1, generator=generator, dtype=torch.float64)
    return (white[1:] + 0.8 * white[:-1]) / (1 + 0.8**2) ** 0.5 * torch.linspace(0.5, 2, count, dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "kept"), [(0.7, 0.0), (0.7, 0.25), (0.5, 0.6), (1.0, 0.5)])
@pytest.mark.parametrize("lag", [0, 1])
def test_target_noise_is_the_kept_share_of_input_noise(alpha, kept, lag):
    generator = torch.Generator().manual_seed(1)
    count = 3_000_001
    noise, drawn = colored(count, generator), colored(count, generator)
    given, target = recorrupt(noise, drawn, alpha, kept)
    first, second = given[lag:], (target - kept * given)[: count - lag]
    assert abs(float((first * second).mean() / given.square().mean())) < 0.002


@pytest.mark.parametrize(("power", "kept"), [(3.0, 0.0), (0.2, 0.25), (1.0, 0.4)])
def test_regression_teaches_the_estimate_plus_the_kept_rest(power, kept):
    # of a normal signal: the best estimate is w times the input, and what is taught w + kept (1 - w)
    alpha, generator = 0.7, torch.Generator().manual_seed(2)
    signal, noise, drawn = (torch.randn(2_000_000, generator=generator, dtype=torch.float64) for _ in range(3))
    signal = signal * power**0.5
    given, target = recorrupt(signal + noise, drawn, alpha, kept)
    slope = float((given * target).mean() / given.square().mean())
    best = power / (power + 1 + alpha**2)
    assert slope == pytest.approx(best + kept * (1 - best), abs=0.003)


@pytest.mark.parametrize(("level", "expected"), [(0.9, 0.14), (1.1, -0.13), (1.0, 0.0)])
def test_level_error_moves_the_kept_share(level, expected):
    assert kept_with_level_error(0.7, 0.0, level) == pytest.approx(expected, abs=0.006)
    generator = torch.Generator().manual_seed(3)
    noise, drawn = (torch.randn(2_000_000, generator=generator, dtype=torch.float64) for _ in range(2))
    given, target = recorrupt(noise, level * drawn, 0.7, 0.0)
    share = float((given * target).mean() / given.square().mean())
    assert share == pytest.approx(kept_with_level_error(0.7, 0.0, level), abs=0.003)


def test_named_special_cases():
    assert target_weight(0.5, 0.0) == pytest.approx(2.0)  # R2R: 1 / alpha
    assert target_weight(0.5, most_kept(0.5)) == pytest.approx(0.0)  # Noisier2Noise: the image itself


def test_bad_numbers_are_refused():
    image = torch.zeros(3)
    with pytest.raises(ValueError, match="alpha must be positive"):
        recorrupt(image, image, 0.0)
    with pytest.raises(ValueError, match="smaller alpha"):
        recorrupt(image, image, 1.0, 0.6)
    with pytest.raises(ValueError, match="one shape"):
        recorrupt(image, torch.zeros(4))
