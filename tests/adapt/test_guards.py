"""What must not get worse where no target says so."""

import pytest
from noisy_scans import SPACING, ct_scan
from scipy.ndimage import gaussian_filter

from medrestore_monai.adapt.guards import Guard, failed, guard_kept, measure_guards
from medrestore_monai.audit.volume import Volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images():
    volume, clean, _ = ct_scan(slices=3)
    noise = (volume - clean)[0].numpy()
    clean = clean[0].numpy()
    return clean, noise, Volume(clean + noise, "CT", SPACING), Volume(clean + 0.3 * noise, "CT", SPACING)


def test_the_same_result_holds_every_guard(images):
    _, _, source, shipped = images
    guards = measure_guards(source, shipped, shipped)
    assert failed(guards) == []
    names = " ".join(guard.name for guard in guards)
    assert "mean of soft tissue" in names
    assert "mean frequency" in names
    assert "regions changed" in names


def test_shifted_means_and_coarser_noise_are_found(images):
    clean, noise, source, shipped = images
    shifted = Volume(shipped.array + 1.5, "CT", SPACING)
    assert all("mean of" in reason for reason in failed(measure_guards(source, shipped, shifted, flags=False)))
    assert failed(measure_guards(source, shipped, shifted, flags=False))
    coarse = Volume(clean + gaussian_filter(noise, (1, 1, 0)), "CT", SPACING)
    assert any("mean frequency" in reason for reason in failed(measure_guards(source, shipped, coarse, flags=False)))


def test_kept_share():
    assert guard_kept(0.25, 0.29).held
    assert not guard_kept(0.25, 0.31).held
    assert failed([Guard("unknown", float("nan"), 1.0, 0.1)]) == []
