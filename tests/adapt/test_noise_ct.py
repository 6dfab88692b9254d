"""The measured noise of CT, against noise that was put in."""

import numpy as np
import pytest
import torch
from noisy_scans import SPACING, ct_body, ct_scan

from medrestore_monai.adapt.noise_model import measure_noise
from medrestore_monai.adapt.refusals import refuse_level
from medrestore_monai.audit.spectrum import spectrum_of_squares
from medrestore_monai.transforms.ct.noise import NoFlatTissueError

pytestmark = pytest.mark.slow

INSIDE = (slice(20, 140), slice(30, 80))  # soft tissue


@pytest.fixture(scope="module")
def scan():
    volume, clean, std = ct_scan(slices=7, correlation=0.4)
    return volume, clean, std, measure_noise(volume, SPACING, "CT")


def test_level_and_place_are_those_put_in(scan):
    _, _, std, model = scan
    assert model.check.held
    assert refuse_level(model.check) is None
    ratio = (model.std / std)[0][INSIDE]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.06)
    assert float(ratio.std()) < 0.04


def test_drawn_noise_has_the_level_that_is_stated(scan):
    model = scan[3]
    drawn = torch.stack([model.draw(torch.Generator().manual_seed(seed)) for seed in range(6)])
    ratio = drawn.square().mean(dim=0)[0][INSIDE].mean() / model.std.square()[0][INSIDE].mean()
    assert float(ratio) == pytest.approx(1, abs=0.04)


def test_drawn_noise_has_the_spectrum_of_the_scan(scan):
    volume, clean, _, model = scan
    squares = [(slice(20, 84), slice(20, 84), z) for z in range(7)] + [
        (slice(70, 134), slice(20, 84), z) for z in range(7)
    ]
    generator = torch.Generator().manual_seed(4)
    own = spectrum_of_squares((volume - clean)[0].numpy(), squares, SPACING[:2])
    drawn = spectrum_of_squares(model.draw(generator)[0].numpy(), squares, SPACING[:2])
    assert drawn.mean_frequency == pytest.approx(own.mean_frequency, rel=0.05)
    assert np.sqrt(drawn.area / own.area) == pytest.approx(1, abs=0.06)


def test_drawn_slices_correlate_as_those_of_the_scan(scan):
    drawn = scan[3].draw(torch.Generator().manual_seed(2))[0].numpy()[INSIDE]
    found = np.corrcoef(drawn[..., 1:].ravel(), drawn[..., :-1].ravel())[0, 1]
    assert found == pytest.approx(0.4, abs=0.08)


def test_same_generator_same_noise_and_parts_fit(scan):
    model = scan[3]
    first, second = (model.draw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    part = model.cropped((slice(10, 75), slice(20, 91), slice(1, 3)))
    assert part.draw(torch.Generator().manual_seed(3)).shape == (1, 65, 71, 2)
    # how much of the spectrum a size shows differs a little
    torch.testing.assert_close(part.std, model.std[:, 10:75, 20:91, 1:3], rtol=0.01, atol=0)


def test_other_level_and_other_spectrum(scan):
    model = scan[3]
    torch.testing.assert_close(model.scaled(1.1).std, 1.1 * model.std)
    assert float(model.of_family().std.mean()) == pytest.approx(float(model.std.mean()), rel=1e-3)


def test_what_cannot_be_measured_is_refused():
    air = torch.full((1, 64, 64, 2), -1000.0)
    with pytest.raises(NoFlatTissueError):
        measure_noise(air, SPACING, "CT")
    body = torch.from_numpy(ct_body()).float()[None, ..., None]
    with pytest.raises(ValueError, match="CT and PT"):
        measure_noise(body, SPACING, "MR")
    with pytest.raises(ValueError, match="square"):
        measure_noise(body, (1.0, 2.0, 3.0), "CT")
    with pytest.raises(ValueError, match="three spacings"):
        measure_noise(body[0], SPACING, "CT")
    with pytest.raises(ValueError, match="finite"):
        measure_noise(body * float("nan"), SPACING, "CT")
