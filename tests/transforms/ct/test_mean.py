"""The mean HU of a body: by how much it moved, worked out by hand, noted, and put back."""

import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medrestore_monai.intensity import FromUnitRanged, ToUnitRanged
from medrestore_monai.transforms import MeanHUd, body_mean_shift


def body(*sides):
    """Water in air, whole HU, of odd sides."""
    image = torch.full((1, *sides), -1000.0)
    image[:, 2:-3, 1:-2] = torch.from_numpy(
        np.random.default_rng(0).integers(-40, 90, image[:, 2:-3, 1:-2].shape)
    ).float()
    return image


@pytest.mark.parametrize("sides", [(21, 17), (21, 17, 3), (16, 24, 1)])
def test_the_shift_is_that_of_the_body_alone(sides):
    image = body(*sides)
    restored = image + 1.5
    restored[image < -500] -= 40  # of air
    assert torch.allclose(body_mean_shift(image, restored), torch.tensor(1.5, dtype=torch.float64))
    assert body_mean_shift(image, restored).shape == sides[2:]


def test_slices_are_measured_one_by_one_and_those_without_a_body_left_out():
    image = body(21, 17, 3)
    image[..., 2] = -1000
    restored = image + torch.tensor([1.0, -3.0, 50.0])
    assert torch.allclose(body_mean_shift(image, restored), torch.tensor([1.0, -3.0, 0.0], dtype=torch.float64))


def notes(transform, image, pred):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = transform({"image": image, "pred": pred})
    return out["pred"], [str(note.message) for note in caught]


def test_in_a_pipeline_it_checks_and_corrects():
    """With input and result scaled to [0, 1] and back, as in an inference.json."""
    image = MetaTensor(body(21, 17, 3), meta={"source": "/somewhere/ct"})
    scaled = ToUnitRanged("image", "CT")({"image": image})
    pred = scaled["image"] + torch.tensor([1.0, -3.0, 5.0]) / 4096
    item = FromUnitRanged("pred")({**scaled, "pred": pred})
    same, noted = notes(MeanHUd(), item["image"], item["pred"])
    assert same is item["pred"]
    assert noted == [
        "ct: the mean of the body moved by more than 2 HU in 2 of 3 slice(s), at most by +5.0 HU: "
        "check the result, or use `mean_hu=correct`."
    ]
    corrected, noted = notes(MeanHUd(mode="correct"), item["image"], item["pred"])
    assert "corrected" in noted[0]
    shift = body_mean_shift(image.as_tensor(), corrected.as_tensor())
    assert torch.allclose(shift, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-3)
    air = image.as_tensor() < -500
    assert torch.equal(corrected[air], item["pred"][air])
    assert corrected.meta == item["pred"].meta
    for quiet in (MeanHUd(mode="off"), MeanHUd(tolerance=6)):
        assert notes(quiet, item["image"], item["pred"])[1] == []


def test_what_only_takes_the_noise_away_is_within_the_tolerance():
    generator = torch.Generator().manual_seed(0)
    clean = body(65, 63, 4)
    noisy = clean + 30 * torch.randn(clean.shape, generator=generator)
    assert notes(MeanHUd(), noisy, clean)[1] == []
    assert body_mean_shift(noisy, clean).abs().max() < 2


def test_metal_is_left_out():
    image = body(21, 17)
    image[:, 8:14, 5:11] = 9000.0
    restored = torch.where(image > 3072, image, image + 5)
    assert float(body_mean_shift(image, restored)) == pytest.approx(5)
    corrected, texts = notes(MeanHUd(mode="correct"), image, restored)
    assert "at most by +5.0 HU: corrected" in texts[0]
    assert torch.equal(corrected[image > 3072], image[image > 3072])
    tissue = (image > -500) & (image <= 3072)
    torch.testing.assert_close(corrected[tissue], image[tissue], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: MeanHUd(mode="on"), "mean_hu must be check, correct or off, got 'on'"),
        (lambda: MeanHUd(tolerance=-1), "0 HU or more, got -1"),
        (lambda: body_mean_shift(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)), r"got \(1, 4, 4\) and \(1, 4, 5\)"),
        (lambda: body_mean_shift(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)), "two images of one shape"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
