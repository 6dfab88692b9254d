"""Noise of low-dose CT along the axis: level and correlation as asked, the same for slice, slab and volume."""

import math
from dataclasses import replace

import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from medrestore_monai.transforms import (
    CTLowDose,
    CTNoise,
    CTNoiseMapd,
    RandCTLowDosed,
    SimulateCTLowDosed,
    insert_ct_noise,
)
from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, correlation_of
from medrestore_monai.transforms.ct.noise import NoFlatTissueError
from medrestore_monai.transforms.degradation import SLAB
from medrestore_monai.transforms.fixed import FixedDegradationd

SPACING = 1.5
SIZE = (97, 110)  # odd sides, too
AFFINE = torch.diag(torch.tensor([SPACING, SPACING, 3.0, 1.0], dtype=torch.float64))


def correlation(volume, lag=1):
    first, second = volume[..., lag:].flatten(), volume[..., :-lag].flatten()
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


@pytest.fixture(scope="module")
def volume():
    """Elliptic body of water with noise of its own in six slices, shape (1, X, Y, Z)."""
    x, y = ((torch.arange(side) - (side - 1) / 2) * SPACING for side in SIZE)
    body = (x[:, None] / 70) ** 2 + (y[None] / 75) ** 2 < 1
    generator = torch.Generator().manual_seed(0)
    noise = 8 * torch.randn(1, *SIZE, 6, generator=generator)
    return torch.where(body[None, ..., None], 40.0, -1000.0) + noise


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0.0, 0.3, 0.8])
def test_inserted_noise_has_the_level_and_the_correlation(asked):
    zero, noise_map = torch.zeros(1, 65, 70, 30), torch.full((4, 65, 70, 30), 10.0)
    scan = CTLowDose(0.5, thinning=3.0, axial_correlation=asked, seed=3)
    low, routine = insert_ct_noise(zero, noise_map, 0.4, 0.8, scan, lower=None)
    weights = axial_weights(axial_width(asked, 1.0), 1.0)
    for noise, std in ((routine, math.sqrt(2) * 10), (low - routine, math.sqrt(3) * 10)):
        assert noise.std().item() == pytest.approx(std, rel=0.05)
        for lag in (1, 2):
            assert correlation(noise, lag) == pytest.approx(correlation_of(weights, lag), abs=0.04)
    other = insert_ct_noise(zero, noise_map, 0.4, 0.8, replace(scan, seed=4), lower=None)[1]
    assert abs(torch.corrcoef(torch.stack([routine.flatten(), other.flatten()]))[0, 1]) < 0.04
    together = torch.corrcoef(torch.stack([routine.flatten(), (low - routine).flatten()]))[0, 1]
    assert abs(together) < 0.04  # what the label has on top is drawn apart from what is inserted


@pytest.mark.parametrize("scan", [CTLowDose(0.25, seed=5), CTLowDose(0.25, thinning=2.0, cutoff=0.9, seed=5)])
def test_slices_of_a_slab_are_those_of_the_volume(volume, scan):
    noise_map = torch.full_like(volume, 6.0).repeat(2, 1, 1, 1)
    whole = insert_ct_noise(volume, noise_map, 0.4, SPACING, scan, numbers=range(10, 16))
    slab = insert_ct_noise(volume[..., 2:5], noise_map[..., 2:5], 0.4, SPACING, scan, numbers=[12, 13, 14])
    alone = insert_ct_noise(volume[..., 3], noise_map[..., 3], 0.4, SPACING, scan, numbers=[13])
    for expected, part, one in zip(whole, slab, alone, strict=True):
        assert torch.equal(part, expected[..., 2:5])
        assert torch.equal(one, expected[..., 3])
    copies = insert_ct_noise(volume[..., [3, 3, 4]], noise_map[..., :3], 0.4, SPACING, scan, numbers=[13, 13, 14])[0]
    assert torch.equal(copies, whole[0][..., [3, 3, 4]])
    with pytest.raises(ValueError, match="need as many numbers"):
        insert_ct_noise(volume, noise_map, 0.4, SPACING, scan, numbers=[1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_low_dose_ct_agrees_for_slice_slab_and_volume(volume, exact):
    volume = volume[..., :3] if exact else volume
    degrade = FixedDegradationd(SimulateCTLowDosed("image", exact=exact), seed=1)

    def run(values, degrade=degrade, **more):
        out = degrade({"image": MetaTensor(values, affine=AFFINE), "name": "a", **more})
        assert out["ct_low_dose"]["axial_correlation"] == (0.0 if exact else 0.3)
        return out["image"].as_tensor()

    whole = run(volume)
    assert whole.shape == volume.shape
    assert torch.equal(run(volume[..., 1:3], start=1, stop=3), whole[..., 1:3])
    assert torch.equal(run(volume[..., 2], slice=2), whole[..., 2])
    assert torch.equal(run(volume[..., [1, 1, 2]], **{SLAB: [1, 1, 2]}), whole[..., [1, 1, 2]])
    for other in (
        run(volume, name="b"),
        run(volume, FixedDegradationd(SimulateCTLowDosed("image", exact=exact), seed=2)),
    ):
        both = torch.stack([(other - volume).flatten(), (whole - volume).flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1
    inside = (whole - volume)[:, 30:70, 30:80]
    assert correlation(inside) == pytest.approx(0.0 if exact else 0.3, abs=0.08)


@pytest.mark.slow
def test_a_volume_has_one_kernel_and_a_level_for_each_slice(volume):
    louder = volume.clone()
    louder[..., 4] = torch.where(volume[..., 4] > -500, 40 + 3 * (volume[..., 4] - 40), volume[..., 4])
    louder[..., 1] = -1000.0  # no tissue
    out = CTNoiseMapd("image")({"image": MetaTensor(louder, affine=AFFINE)})
    noise_map = out["noise_map"]
    assert noise_map.shape == (4, *SIZE, 6)
    assert out["ct_noise"] == {"cutoff": noise_map.meta["ct_noise_cutoff"], "spacing": pytest.approx(SPACING)}
    cutoffs = [
        CTNoiseMapd("image")({"image": MetaTensor(louder[..., n], affine=AFFINE)})["ct_noise"]["cutoff"]
        for n in (0, 2, 3, 4, 5)
    ]
    assert out["ct_noise"]["cutoff"] == sorted(cutoffs)[2]
    middle = noise_map.as_tensor()[:, 40:57, 45:65].square().mean(dim=(0, 1, 2)).sqrt()
    assert middle[4] > 2 * middle[0]
    assert middle[0] == pytest.approx(float(middle[3]), rel=0.2)
    assert 0.1 * middle[0] < middle[1] < middle[0]  # the level of the others, in a slice without attenuation


@pytest.mark.slow
def test_slices_without_tissue_take_the_fallback_where_no_other_has_any(volume):
    air = MetaTensor(torch.full_like(volume, -1000.0), affine=AFFINE)
    with pytest.raises(NoFlatTissueError, match="none of 6 slices"):
        CTNoiseMapd("image")({"image": air})
    with pytest.raises(NoFlatTissueError):
        FixedDegradationd(SimulateCTLowDosed("image"))({"image": air, "name": "a"})
    known = CTNoise(std=20, scale=1.3, cutoff=0.5)
    noise_map = CTNoiseMapd("image", fallback=known)({"image": air})["noise_map"]
    assert noise_map.meta["ct_noise_cutoff"] == 0.5
    half = volume.clone()
    half[..., 2] = -1000.0
    out = FixedDegradationd(SimulateCTLowDosed("image"))({"image": MetaTensor(half, affine=AFFINE), "name": "a"})[
        "image"
    ]
    assert 0 < (out - half)[..., 2].std() < (out - half)[:, 40:57, 45:65, 3].std()


@pytest.mark.slow
def test_random_low_dose_takes_slabs_and_draws_the_correlation(volume):
    item = CTNoiseMapd("image")({"image": MetaTensor(volume, affine=AFFINE)})
    item = {
        "image": item["image"][..., [3, 3, 4]],
        "noise_map": item["noise_map"][..., [3, 3, 4]],
        "ct_noise": item["ct_noise"],
    }
    item |= {SLAB: [3, 3, 4], "label": item["image"].clone()}
    draw = RandCTLowDosed("image", "label", axial_correlation=(0.2, 0.5), kernel_prob=1.0, thinning_prob=1.0)
    drawn = []
    for seed in range(40):
        draw.set_random_state(seed).randomize()
        drawn.append(draw.scan.axial_correlation)
    assert 0.2 <= min(drawn) < 0.25
    assert 0.45 < max(drawn) <= 0.5
    out = draw.set_random_state(0)(item)
    assert out["image"].shape == (1, *SIZE, 3)
    assert torch.equal(out["image"][..., 0], out["image"][..., 1])
    scan = CTLowDose(**out["ct_low_dose"])
    assert 0.2 <= scan.axial_correlation <= 0.5
    plain = (item["image"].as_tensor(), item["noise_map"].as_tensor())
    low, routine = insert_ct_noise(*plain, item["ct_noise"]["cutoff"], SPACING, scan, numbers=[3, 3, 4])
    assert_close(out["image"].as_tensor(), low, rtol=0, atol=0)
    assert_close(out["label"].as_tensor(), routine, rtol=0, atol=0)
    alone = {"image": item["image"][..., 0], "noise_map": item["noise_map"][..., 0], "ct_noise": item["ct_noise"]}
    assert RandCTLowDosed("image").set_random_state(0)(alone)["ct_low_dose"]["axial_correlation"] == 0


@pytest.mark.parametrize("wrong", [-0.1, 0.96, math.nan])
def test_a_correlation_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"axial_correlation must be in 0\.\.0\.95"):
        CTLowDose(0.5, axial_correlation=wrong)
    with pytest.raises(ValueError, match=r"axial_correlation must be in 0\.\.0\.95"):
        SimulateCTLowDosed("image", axial_correlation=wrong)
    with pytest.raises(ValueError, match="axial_correlation must be one number or a range"):
        RandCTLowDosed("image", axial_correlation=(wrong, wrong))
