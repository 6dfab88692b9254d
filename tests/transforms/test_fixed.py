"""One rule for what a fixed degradation draws: seed, name as bytes, and numbers of slices."""

import os
import zlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from phantoms import ct_volume

from medrestore_monai.transforms import (
    FixedDegradationd,
    RandMotionBlurd,
    RandSensorNoised,
    SensorNoise,
    SimulateCTLowDosed,
    SimulatePETLowCountd,
)

AFFINE = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
KINDS = {
    "ct_low_dose": lambda: SimulateCTLowDosed("image"),
    "pet_low_count": lambda: SimulatePETLowCountd("image"),
    "sensor_noise": lambda: RandSensorNoised("image", 3.0),
}
each_kind = pytest.mark.parametrize(("record", "make"), KINDS.items(), ids=KINDS)


@pytest.fixture(scope="module")
def slices():
    """A volume whose values serve as HU and as SUV: a body with tissue, 3 slices."""
    return torch.from_numpy(ct_volume(3, (90, 96)))[None].float()


def image_of(slices, record):
    values = (slices + 1024).clamp(min=0) / 200 if record == "pet_low_count" else slices
    return MetaTensor(values, affine=AFFINE)


@pytest.mark.parametrize("record", ["ct_low_dose", "pet_low_count"])
def test_the_seed_of_numbered_noise_is_that_of_the_volume(record, slices):
    image = image_of(slices[..., 1], record)
    item = {"image": image, "name": "p/a b.nii", "series_uid": "1.2", "slice": 7}
    out = FixedDegradationd(KINDS[record](), seed=5)(item)
    assert out[record]["seed"] == zlib.crc32(b"5/p/a b.nii/1.2")
    assert FixedDegradationd(KINDS[record](), seed=5)({**item, "slice": 8})[record] == out[record]


def test_the_seed_of_a_random_transform_has_the_slice_in_it():
    transform, image = RandMotionBlurd("image"), torch.zeros(1, 8, 8)

    def drawn(item, **options):
        return FixedDegradationd(transform, 3, **options)({"image": image, **item})["motion_blur"]

    def expected(text):
        known = RandMotionBlurd("image").set_random_state(zlib.crc32(text))
        return known({"image": image})["motion_blur"]

    item = {"name": "a", "series_uid": "9", "slice": 4}
    assert drawn(item) == expected(b"3/a/9/4")
    assert drawn(item, per_slice=False) == expected(b"3/a/9")
    assert drawn(item, name_keys="name") == expected(b"3/a/4")
    assert drawn({"name": "a", "start": 4, "stop": 6}) == expected(b"3/a//4")  # a slab
    assert drawn({"name": "a"}) == expected(b"3/a//")  # a volume, or a picture


@each_kind
def test_names_are_bytes(record, make, slices):
    image = image_of(slices[..., 1], record)
    names = [os.fsdecode(b"g\xff.nii"), os.fsdecode(b"g\xfe.nii"), "gü.nii", "gü.nii"]
    outs = [FixedDegradationd(make())({"image": image, "name": name})["image"].numpy() for name in names]
    assert len({out.tobytes() for out in outs}) == 3
    seeds = [FixedDegradationd(make())({"image": image, "name": name})[record]["seed"] for name in names[:1]]
    if record != "sensor_noise":
        assert seeds == [zlib.crc32(b"0/g\xff.nii/")]


@each_kind
@pytest.mark.parametrize("item", [{}, {"slice": 3}, {"name": "", "series_uid": None}])
def test_an_item_without_a_name_is_refused(record, make, item, slices):
    with pytest.raises(ValueError, match=r"needs a name to draw from: none of name, series_uid has a value\.$"):
        FixedDegradationd(make())({"image": image_of(slices[..., 0], record), **item})


@pytest.mark.parametrize("record", ["ct_low_dose", "pet_low_count"])
def test_a_slice_is_the_same_alone_in_a_slab_and_in_its_volume(record, slices):
    volume, fixed = image_of(slices, record), FixedDegradationd(KINDS[record]())
    whole = fixed({"image": volume, "name": "a"})["image"]
    slab = fixed({"image": volume[..., 1:], "name": "a", "start": 1, "stop": 3})["image"]
    alone = fixed({"image": volume[..., 2], "name": "a", "slice": 2})["image"]
    np.testing.assert_array_equal(slab.numpy(), whole[..., 1:].numpy())
    np.testing.assert_array_equal(alone.numpy(), whole[..., 2].numpy())


@pytest.mark.parametrize("record", ["ct_low_dose", "pet_low_count"])
def test_numbered_noise_without_a_seed_is_no_transform(record, slices):
    with pytest.raises(TypeError, match="seed"):
        KINDS[record]()({"image": image_of(slices, record), "name": "a"})


def test_compositions_draw_together_and_are_left_as_they_are():
    both = Compose([RandMotionBlurd("image", length=(3, 9)), RandSensorNoised("image", 2.0)]).set_random_state(1)
    before = both.R.get_state()[1].copy()
    item = {"image": torch.rand(1, 30, 31) * 100, "name": "a"}
    out, again = FixedDegradationd(both)(item), FixedDegradationd(both)(item)
    assert torch.equal(out["image"], again["image"])
    np.testing.assert_array_equal(both.R.get_state()[1], before)
    blurred = RandMotionBlurd("image", **out["motion_blur"])({"image": item["image"]})["image"]
    assert torch.equal(SensorNoise(**out["sensor_noise"])(blurred), out["image"])


def test_the_slice_is_no_part_of_the_name():
    with pytest.raises(ValueError, match="leave slice out, and set per_slice instead"):
        FixedDegradationd(RandMotionBlurd("image"), name_keys=("name", "slice"))
