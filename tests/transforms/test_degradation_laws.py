"""One list of all degradations, and what every one of them promises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Identityd
from phantoms import body_phantom
from torch.testing import assert_close

from medrestore_monai.transforms import (
    JPEG,
    AnisotropicGaussianBlur,
    BentMotionBlur,
    CTLowDose,
    CTNoiseMapd,
    DefocusBlur,
    DownSampling,
    FixedDegradationd,
    Gamma,
    GaussianBlur,
    LinearMotionBlur,
    MotionBlur,
    PublishedMotionBlur,
    RandAnisotropicGaussianBlurd,
    RandBentMotionBlurd,
    RandCTLowDosed,
    RandDefocusBlurd,
    RandDownSamplingd,
    RandGammad,
    RandGaussianBlurd,
    RandJPEGd,
    RandKSpaceTruncationd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandPublishedMotionBlurd,
    RandSensorNoised,
    RandVaryingBlurd,
    SensorNoise,
    VaryingBlur,
    insert_ct_noise,
    truncate_kspace,
)
from medrestore_monai.transforms.pet.low_count import PETLowCount, RandPETLowCountd, insert_pet_noise

SIZE = (97, 90)
HU = {"lower": -1024.0, "upper": 3071.0}


@dataclass(frozen=True)
class Case:
    """A degradation, how it changes nothing, its image from the drawn values, and what it refuses."""

    make: Callable[..., Any]
    zero: dict[str, Any]
    record: str
    replay: Callable[[dict, dict], torch.Tensor]
    bad: tuple[dict[str, Any], str]
    volumes: bool = True
    whole_numbers: bool = False  # two draws may be the same by chance


def from_values(kind):
    return lambda item, values: kind(**values)(item["image"])


def replay_ct(item, values):
    meta = item["noise_map"].meta
    cutoff, spacing = meta["ct_noise_cutoff"], meta["ct_noise_spacing"]
    return insert_ct_noise(
        item["image"].as_tensor(), item["noise_map"].as_tensor(), cutoff, spacing, CTLowDose(**values)
    )[0]


CASES = {
    "ct_low_dose": Case(
        lambda key="image", **o: RandCTLowDosed(key, **o),
        {"dose": (1.0, 1.0), "kernel_prob": 0.0, "thinning_prob": 0.0},
        "ct_low_dose",
        replay_ct,
        ({"dose": (0.5, 1.5)}, "dose must not exceed 1"),
        volumes=False,
    ),
    "mri_kspace": Case(
        lambda key="image", **o: RandKSpaceTruncationd(key, **{"fraction": (0.2, 0.7), **o}),
        {"fraction": 1.0},
        "kspace_truncation",
        lambda item, values: truncate_kspace(item["image"].as_tensor(), **values),
        ({"fraction": (0.5, 1.5)}, "fraction must lie in"),
    ),
    "pet_low_count": Case(
        lambda key="image", **o: RandPETLowCountd(key, noise_map_key="none", **o),
        {"drf": (1.0, 1.0), "smoothing_prob": 0.0},
        "pet_low_count",
        lambda item, values: insert_pet_noise(item["image"].as_tensor(), None, 2.2, PETLowCount(**values))[0],
        ({"drf": (0.5, 4)}, "drf and updates must be at least 1"),
        volumes=False,
    ),
    "motion_blur": Case(
        lambda key="image", **o: RandMotionBlurd(key, **o),
        {"length": 1},
        "motion_blur",
        from_values(MotionBlur),
        ({"length": (2.5, 4)}, "whole pixels"),
    ),
    "published_motion_blur": Case(
        lambda key="image", **o: RandPublishedMotionBlurd(key, **o),
        {"length": 1},
        "published_motion_blur",
        from_values(PublishedMotionBlur),
        ({"angle": (2, 1)}, "angle must be one number or a range"),
    ),
    "linear_motion_blur": Case(
        lambda key="image", **o: RandLinearMotionBlurd(key, **o),
        {"length": 1},
        "linear_motion_blur",
        from_values(LinearMotionBlur),
        ({"length": (0.5, 4)}, "length must be one number or a range"),
    ),
    "gaussian_blur": Case(
        lambda key="image", **o: RandGaussianBlurd(key, **o),
        {"sigma": 0},
        "gaussian_blur",
        from_values(GaussianBlur),
        ({"sigma": (2, 1)}, "sigma must be one number or a range"),
    ),
    "bent_motion_blur": Case(
        lambda key="image", **o: RandBentMotionBlurd(key, **o),
        {"length": 0},
        "bent_motion_blur",
        from_values(BentMotionBlur),
        ({"bend": (10, 200)}, "bend must be one number or a range"),
    ),
    "anisotropic_gaussian_blur": Case(
        lambda key="image", **o: RandAnisotropicGaussianBlurd(key, **o),
        {"prob": 0.0},
        "anisotropic_gaussian_blur",
        from_values(AnisotropicGaussianBlur),
        ({"sigma_across": (0.2, 1)}, "sigma_across must be one number or a range"),
    ),
    "defocus_blur": Case(
        lambda key="image", **o: RandDefocusBlurd(key, **o),
        {"radius": 0.5},
        "defocus_blur",
        from_values(DefocusBlur),
        ({"radius": -1}, "radius must be one number or a range"),
    ),
    "varying_blur": Case(
        lambda key="image", **o: RandVaryingBlurd(key, **o),
        {"width": 1},
        "varying_blur",
        from_values(VaryingBlur),
        ({"width": (0.5, 3)}, "width must be one number or a range"),
    ),
    "sensor_noise": Case(
        lambda key="image", **o: RandSensorNoised(key, **{"std": (5, 20), **HU, **o}),
        {"std": 0},
        "sensor_noise",
        from_values(SensorNoise),
        ({"std": -1}, "std must be one number or a range"),
    ),
    "down_sampling": Case(
        lambda key="image", **o: RandDownSamplingd(key, **{"factor": (2, 9), **o}),
        {"factor": 1},
        "down_sampling",
        from_values(DownSampling),
        ({"factor": 1.5}, "factor must be a whole number"),
        whole_numbers=True,
    ),
    "jpeg": Case(
        lambda key="image", **o: RandJPEGd(key, **{**HU, **o}),
        {"prob": 0.0},
        "jpeg",
        from_values(JPEG),
        ({"quality": (0, 50)}, "quality must be one number or a range"),
        whole_numbers=True,
    ),
    "gamma": Case(
        lambda key="image", **o: RandGammad(key, **{**HU, **o}),
        {"gamma": 1},
        "gamma",
        from_values(Gamma),
        ({"gamma": (0, 1)}, "gamma must be above 0"),
    ),
}

all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(scope="module")
def item():
    """A noisy CT slice with geometry, and its noise map, which only the CT simulation looks at."""
    random = np.random.RandomState(0)
    hu = body_phantom(SIZE) + random.normal(0, 15, SIZE)
    affine = torch.tensor([[0, 2.2, 0, 7], [-2.2, 0, 0, 8], [0, 0, 5, 9], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(torch.from_numpy(hu.clip(-1024).astype(np.float32))[None], affine=affine, meta={"unit": "HU"})
    return CTNoiseMapd("image")({"image": image, "name": "patient"})


@all_cases
def test_strength_zero_changes_nothing(case, item):
    for options in (case.zero, {"prob": 0.0}):
        out = case.make(**options).set_random_state(1)(item)
        assert_close(out["image"], item["image"], rtol=0, atol=0)


@all_cases
def test_same_seed_same_picture_and_another_seed_another(case, item):
    one, two, three = (case.make().set_random_state(seed)(item) for seed in (5, 5, 6))
    assert_close(one["image"], two["image"], rtol=0, atol=0)
    assert one[case.record] == two[case.record] != three[case.record]
    assert not torch.equal(one["image"], three["image"])
    assert not torch.equal(one["image"], item["image"])


@all_cases
def test_drawn_values_give_the_picture_again(case, item):
    out = case.make().set_random_state(3)(item)
    assert all(type(value) in (int, float) for value in out[case.record].values())  # so that JSON holds them
    replayed = case.replay(item, out[case.record])
    assert_close(torch.as_tensor(replayed), out["image"].as_tensor(), rtol=0, atol=0)


@all_cases
def test_geometry_is_kept_and_the_caller_s_item_left_alone(case, item):
    before, keys = item["image"].clone(), set(item)
    out = case.make().set_random_state(0)(item)
    assert_close(item["image"], before, rtol=0, atol=0)
    assert set(item) == keys
    assert isinstance(out["image"], MetaTensor)
    assert out["image"].shape == before.shape
    assert out["image"].dtype == torch.float32
    assert_close(out["image"].affine, before.affine, rtol=0, atol=0)
    assert out["image"].meta["unit"] == "HU"
    out["image"].meta["unit"] = "other"
    assert item["image"].meta["unit"] == "HU"


@all_cases
def test_global_random_state_is_left_alone(case, item):
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(3)
    torch.manual_seed(3)
    case.make().set_random_state(0)(item)
    assert (np.random.rand(), torch.rand(1)) == expected


def count_different(images):
    return len({image.numpy().tobytes() for image in images})


@pytest.mark.slow
def test_every_item_draws_its_own_in_workers_too(item):
    many = {**item, **{f"image_{name}": item["image"] for name in CASES}}
    transforms = Compose([case.make(key=f"image_{name}") for name, case in CASES.items()])
    transforms.set_random_state(0)
    batches = list(DataLoader(Dataset([many] * 4, transforms), batch_size=1, num_workers=2))
    for name, case in CASES.items():
        found = count_different([batch[f"image_{name}"].as_tensor() for batch in batches])
        assert found > 1 if case.whole_numbers else found == 4, name


@all_cases
def test_values_of_a_batch_are_collated_whether_drawn_or_not(case, item):
    transform = case.make(prob=0.5).set_random_state(0)
    batch = next(iter(DataLoader(Dataset([item] * 6, transform), batch_size=6)))
    assert all(len(values) == 6 for values in batch[case.record].values())


@all_cases
def test_fixed_draws_come_from_the_name(case, item):
    fixed = FixedDegradationd(case.make(), seed=1)
    items = [{**item, "slice": number} for number in range(3)]
    first = [fixed(one)["image"].as_tensor() for one in items]
    again = [FixedDegradationd(case.make(), seed=1)(one)["image"].as_tensor() for one in items[::-1]][::-1]
    assert_close(first, again, rtol=0, atol=0)
    other = [FixedDegradationd(case.make(), seed=2)(one)["image"].as_tensor() for one in items]
    found = count_different([*first, *other])
    assert found > 2 if case.whole_numbers else found == 6


@all_cases
def test_a_bad_range_is_refused(case, item):
    options, message = case.bad
    with pytest.raises(ValueError, match=message):
        case.make(**options)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 8, 8, 8), (1, 0, 8)])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.volumes])
def test_a_shape_without_channel_is_refused(name, shape):
    with pytest.raises(ValueError, match=r"\(C, X, Y\)"):
        CASES[name].make()({"image": torch.zeros(shape)})


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.volumes])
def test_volumes_are_degraded_slice_by_slice(name, item):
    image = item["image"].as_tensor()
    volume = torch.stack([image, image.flip(1), image], dim=-1)
    out = CASES[name].make().set_random_state(4)({"image": volume})
    assert out["image"].shape == volume.shape
    if name == "sensor_noise":  # new noise in every slice
        noise = out["image"] - volume
        assert abs(torch.corrcoef(noise[0].movedim(-1, 0).flatten(1))[0, 2]) < 0.05
        return
    for z, one in enumerate(volume.unbind(-1)):
        expected = CASES[name].replay({"image": MetaTensor(one)}, out[CASES[name].record])
        assert_close(out["image"][..., z], torch.as_tensor(expected))


def test_fixed_refuses_what_draws_nothing_and_an_item_without_name():
    with pytest.raises(TypeError, match="must draw at random"):
        FixedDegradationd(Identityd("image"))
    with pytest.raises(ValueError, match="the item needs a name"):
        FixedDegradationd(RandMotionBlurd("image"))({"image": torch.zeros(1, 8, 8)})


def test_draws_are_those_of_all_machines():
    """Other numbers here are other validation pictures for everybody: a change must be deliberate."""
    values = FixedDegradationd(RandMotionBlurd("image"), seed=0)({"image": torch.zeros(1, 8, 8), "name": "a"})
    assert values["motion_blur"] == {"length": 28, "angle": pytest.approx(24.70818045237516, abs=1e-12)}
