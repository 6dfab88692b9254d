"""A share of the items is degraded as before and marked; the same seed draws the same."""

import numpy as np
import pytest
from monai.data.utils import set_rnd
from monai.transforms import Compose, Identityd, RandScaleIntensityd

from medrestore_monai.transforms import AnchoredDegradationd


def site(low, high):
    return RandScaleIntensityd("image", factors=(low, high), prob=1.0)


def draw(share, count=200, seed=5):
    chain = Compose([AnchoredDegradationd(site(0.1, 0.2), site(2, 3), share)])
    found = []
    for number in range(count):
        set_rnd(chain, seed + number)
        found.append(chain({"image": np.ones((1, 2, 2), np.float32)}))
    return found


def test_a_share_is_degraded_as_before_and_marked():
    found = draw(0.3)
    anchors = [one["anchor"] for one in found]
    assert 0.2 < np.mean(anchors) < 0.4
    assert all((one["image"].max() > 2.5) == one["anchor"] for one in found)
    assert [one["anchor"] for one in draw(0.0)] == [False] * 200
    assert len({round(float(one["image"].max()), 6) for one in found}) > 150


def test_the_same_seed_draws_the_same():
    one, other = (np.stack([item["image"] for item in draw(0.3, 9)]) for _ in range(2))
    assert np.array_equal(one, other)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="share"):
        AnchoredDegradationd(site(1, 2), site(1, 2), 1.5)
    with pytest.raises(TypeError, match="draw at random"):
        AnchoredDegradationd(site(1, 2), Identityd("image"))
