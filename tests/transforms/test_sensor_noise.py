import math

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.transforms import add_sensor_noise


def test_noise_is_white_gaussian_and_new_for_every_channel_and_slice():
    noise = add_sensor_noise(torch.zeros(2, 200, 150, 2), 7.0, seed=1)
    assert noise.std().item() == pytest.approx(7, rel=0.02)
    assert abs(noise.mean()) < 0.1
    assert ((noise.abs() < 7).float().mean() - math.erf(1 / math.sqrt(2))).abs() < 0.01
    images = noise.movedim(-1, 1).flatten(0, 1)
    others = torch.corrcoef(images.flatten(1)) - torch.eye(4)
    assert others.abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack([images[0, 1:].flatten(), images[0, :-1].flatten()]))[0, 1]) < 0.03


def test_noise_is_that_of_numpy_s_generator():
    import numpy as np

    expected = np.random.RandomState(5).normal(0, 2, (1, 9, 11))
    assert_close(add_sensor_noise(torch.zeros(1, 9, 11, dtype=torch.float64), 2.0, 5).numpy(), expected)


def test_a_sensor_s_range_is_kept_but_for_what_was_outside():
    image = torch.tensor([-50.0, 0.0, 128.0, 255.0, 300.0]).repeat(1, 40, 1)
    noisy = add_sensor_noise(image, 20.0, 0, lower=0.0, upper=255.0)
    inside = (image >= 0) & (image <= 255)
    assert noisy[inside].min() == 0
    assert noisy[inside].max() == 255
    assert noisy[image < 0].min() == -50
    assert noisy[image > 255].max() == 300


@pytest.mark.parametrize(
    ("options", "match"),
    [({"std": -1}, "std must be"), ({"std": math.nan}, "std must be"), ({"std": 1, "lower": 2, "upper": 2}, "below")],
)
def test_bad_input_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        add_sensor_noise(torch.zeros(1, 8, 8), seed=0, **options)
