"""The error of a restoration without the truth, against the truth."""

import math

import pytest
import torch

from medrestore_monai.adapt.risk import Risk, kept_share, measure_risk

SIZE = (97, 120)


class Colored:
    """Noise of a known spectrum; ``white`` replaces its probes by white ones of the same level."""

    def __init__(self, level, white=False):
        fx, fy = torch.fft.fftfreq(SIZE[0])[:, None], torch.fft.rfftfreq(SIZE[1])[None, :]
        self.radius = torch.sqrt(fx**2 + fy**2).double()
        gain = torch.ones_like(self.radius) if white else self.radius.sqrt() * torch.exp(-((self.radius / 0.25) ** 2))
        field = torch.fft.irfft2(gain, s=SIZE)
        self.gain = gain / field.square().sum().sqrt()  # the variance of filtered white noise is 1
        self.level = level
        self.power = torch.fft.fft2(torch.fft.irfft2(self.gain, s=SIZE)).abs().square()

    @property
    def std(self):
        return torch.full((1, *SIZE, 3), float(self.level))

    def draw(self, generator=None):
        white = torch.randn(3, *SIZE, generator=generator, dtype=torch.float64)
        drawn = torch.fft.irfft2(torch.fft.rfft2(white) * self.gain, s=SIZE) * self.level
        return drawn.permute(1, 2, 0)[None]


def lowpass(cutoff):
    fx, fy = torch.fft.fftfreq(SIZE[0])[:, None], torch.fft.fftfreq(SIZE[1])[None, :]
    gain = torch.exp(-(fx**2 + fy**2).double() / cutoff**2)

    def restore(volume):
        slices = [torch.fft.ifft2(torch.fft.fft2(one) * gain).real for one in volume.double().unbind(-1)]
        return torch.stack(slices, dim=-1)

    return restore, gain


def truth(seed=5):
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, *SIZE, 3, generator=generator, dtype=torch.float64)
    return lowpass(0.05)[0](rough) * 300


@pytest.mark.parametrize("kept", [0.0, 0.25, 0.6])
def test_estimate_is_the_error_for_a_linear_filter(kept):
    noise, (restore, gain) = Colored(20.0), lowpass(0.15)
    everywhere = torch.ones(1, *SIZE, 3, dtype=torch.bool)
    clean, estimates, errors = truth(), [], []
    for seed in range(8):
        own = noise.draw(torch.Generator().manual_seed(100 + seed))
        risks = measure_risk(restore, clean + own, noise, everywhere, seed=seed)
        estimates.append(sum(one.error(kept) for one in risks) / 3)
        errors.append(float((restore(clean + own) - clean - kept * own).square().mean()))
    assert sum(estimates) / 8 == pytest.approx(sum(errors) / 8, rel=0.02)
    passed = float((gain * noise.power).sum() / noise.power.sum())  # closed form
    assert risks[0].passed == pytest.approx(passed, abs=0.01)


def test_white_probes_would_be_wrong():
    noise, white, (restore, _) = Colored(20.0), Colored(20.0, white=True), lowpass(0.15)
    everywhere = torch.ones(1, *SIZE, 3, dtype=torch.bool)
    own = noise.draw(torch.Generator().manual_seed(7))
    passed = [measure_risk(restore, truth() + own, one, everywhere)[0].passed for one in (noise, white)]
    assert passed[1] < 0.6 * passed[0]


def test_soft_threshold_in_white_noise_matches_its_closed_form():
    # Donoho and Johnstone: the divergence is the count of values above the threshold
    noise = Colored(20.0, white=True)
    volume = truth() + noise.draw(torch.Generator().manual_seed(9))

    def restore(values):
        return values.sign() * (values.abs() - 25).clamp(min=0)

    everywhere = torch.ones(1, *SIZE, 3, dtype=torch.bool)
    risks = measure_risk(restore, volume, noise, everywhere, probes=4)
    closed = (volume.abs() > 25).double().mean(dim=(0, 1, 2))
    for one, share in zip(risks, closed, strict=True):
        assert one.passed == pytest.approx(float(share), abs=0.02)
        sure = one.change - 2 * (1 - one.passed) * 400 + 400
        assert one.error() == pytest.approx(sure)


def test_a_reference_of_its_own_noise_is_farther_away():
    # routine dose shares a quarter of the variance of quarter-dose noise, and has as much itself
    noise, (restore, _) = Colored(20.0), lowpass(0.15)
    everywhere = torch.ones(1, *SIZE, 3, dtype=torch.bool)
    clean, kept, estimates, errors = truth(), 0.25, [], []
    for seed in range(8):
        full, added = (noise.draw(torch.Generator().manual_seed(10 * seed + part)) for part in (1, 2))
        low, reference = clean + full / 2 + added * math.sqrt(0.75), clean + full / 2
        risks = measure_risk(restore, low, noise, everywhere, seed=seed)
        estimates.append(sum(one.error_of_reference(kept) for one in risks) / 3)
        errors.append(float((restore(low) - reference).square().mean()))
    assert sum(estimates) / 8 == pytest.approx(sum(errors) / 8, rel=0.02)


def test_own_share_is_where_the_strength_is_right():
    # w y + kept (1 - w) y with the Wiener filter w of signal and noise
    noise = Colored(20.0, white=True)
    generator = torch.Generator().manual_seed(11)
    clean = torch.randn(1, *SIZE, 3, generator=generator, dtype=torch.float64) * 10
    weight, kept = 100 / (100 + 400), 0.3
    everywhere = torch.ones(1, *SIZE, 3, dtype=torch.bool)
    volume = clean + noise.draw(torch.Generator().manual_seed(12))
    risks = measure_risk(lambda values: (weight + kept * (1 - weight)) * values, volume, noise, everywhere)
    assert kept_share(risks) == pytest.approx(kept, abs=0.02)
    assert risks[0].passed == pytest.approx(weight + kept * (1 - weight))  # more than it keeps on purpose
    stronger = [
        Risk(t**2 * one.change, 1 - t * (1 - one.passed), one.variance).error(kept)
        for one in risks[:1]
        for t in (0.9, 1.0, 1.1)
    ]
    assert min(stronger) == stronger[1]


def test_removed_correlation_knows_no_strength():
    weak, strong = (Risk(t**2 * 50.0, 1 - t * 0.6, 80.0) for t in (0.5, 1.3))
    assert weak.removed_correlation == pytest.approx(strong.removed_correlation)
    assert Risk(0.0, 1.0, 80.0).removed_correlation == 0.0


def test_mask_limits_what_counts():
    noise, (restore, _) = Colored(20.0), lowpass(0.15)
    half = torch.zeros(1, *SIZE, 3, dtype=torch.bool)
    half[:, 20:60, 30:90, :2] = True
    volume = truth() + noise.draw(torch.Generator().manual_seed(1))
    changed = volume.clone()
    changed[:, 80:] += 500  # far from the mask
    first, second = (measure_risk(restore, one, noise, half) for one in (volume, changed))
    assert first[0].change == pytest.approx(second[0].change, rel=0.01)
    assert first[2] == Risk(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        measure_risk(restore, volume, noise, half[..., :2])
