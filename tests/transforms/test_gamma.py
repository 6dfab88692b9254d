import math

import numpy as np
import pytest
import torch
from skimage.exposure import adjust_gamma
from torch.testing import assert_close

from medrestore_monai.transforms import RandGammad, apply_gamma


@pytest.mark.parametrize("gamma", [0.5, 2.2])
def test_gamma_is_that_of_scikit_image(gamma):
    image = np.random.RandomState(0).rand(1, 13, 9)
    assert_close(apply_gamma(torch.from_numpy(image), gamma, 0.0, 1.0).numpy(), adjust_gamma(image, gamma))
    hu = apply_gamma(torch.from_numpy(image * 400 - 160), gamma, -160.0, 240.0)
    assert_close(hu.numpy(), adjust_gamma(image, gamma) * 400 - 160)


def test_the_ends_and_what_is_outside_stay():
    image = torch.tensor([-30.0, 0.0, 255.0, 400.0])[None, None]
    assert_close(apply_gamma(image, 1.7), image)


def test_brighter_is_as_likely_as_darker():
    transform = RandGammad("image", gamma=(0.5, 2.0)).set_random_state(0)
    drawn = [math.log(transform.draw().gamma) for _ in range(1000)]
    assert abs(np.mean(drawn)) < 0.05
    assert -math.log(2) <= min(drawn) < max(drawn) <= math.log(2)


@pytest.mark.parametrize("options", [{"gamma": 0}, {"gamma": math.inf}, {"gamma": 2, "lower": 300.0}])
def test_bad_input_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        apply_gamma(torch.zeros(1, 8, 8), **options)
