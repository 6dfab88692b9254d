import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from medrestore_monai.intensity import FromUnitRanged, ToUnitRanged
from medrestore_monai.ops.radon import parallel_backproject, parallel_project, view_angles
from medrestore_monai.transforms import (
    FixedDegradationd,
    KeepTotalActivityd,
    PETLowCount,
    PETNoiseMapd,
    PETScan,
    RandPETLowCountd,
    SimulatePETLowCountd,
    insert_pet_noise,
    keep_total_activity,
    pet_noise_map,
    scan_pet,
    simulate_pet_low_count,
)
from medrestore_monai.transforms.pet.noise import gaussian_gain, pet_noise
from medrestore_monai.transforms.pet.scan import Acquisition, osem

SIZE, SPACING = (75, 64), 5.0
AFFINE = torch.diag(torch.tensor([SPACING, SPACING, 3.0, 1.0], dtype=torch.float64))


def ellipse(x_radius, y_radius, x=0.0, y=0.0):
    """Mask of an ellipse, in mm from the middle."""
    mm = [(torch.arange(side) - (side - 1) / 2) * SPACING for side in SIZE]
    return ((mm[0][:, None] - x) / x_radius) ** 2 + ((mm[1][None] - y) / y_radius) ** 2 < 1


@pytest.fixture(scope="module")
def regions():
    body = ellipse(150, 100)
    lung, liver, tumor = ellipse(40, 40, -70), ellipse(45, 50, 70), ellipse(14, 14, 0, -50)
    return {"lung": lung, "liver": liver, "tumor": tumor, "rest": body & ~lung & ~liver & ~tumor}


@pytest.fixture(scope="module")
def suv(regions):
    """Elliptic body of 30 x 20 cm in SUV, as sharp as a PET image is, shape (1, X, Y)."""
    image = torch.zeros(1, *SIZE)
    for name, value in {"lung": 0.4, "liver": 2.0, "tumor": 9.0, "rest": 0.9}.items():
        image[0, regions[name]] = value
    smooth = torch.fft.irfft2(torch.fft.rfft2(image) * gaussian_gain(SIZE, 10.0, SPACING), s=SIZE)
    return smooth * (smooth > 1e-3)


def spread(images, mask):
    """Standard deviation over repetitions, root mean square over the masked pixels."""
    return images.std(dim=0)[mask].square().mean().sqrt().item()


def radial(noise):
    """Radial mean of the power spectrum of the middle, and the mean frequency in cycles/pixel."""
    window = torch.outer(torch.hann_window(32), torch.hann_window(32))
    power = torch.fft.fft2(noise[:, 22:54, 16:48] * window).abs().square().sum(dim=0)
    f = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.fftfreq(32)[None])
    ring = (f * 32).round().long().flatten().numpy()
    profile = np.bincount(ring, power.flatten().numpy()) / np.bincount(ring)
    return profile[:16], ((power * f).sum() / power.sum()).item()


@pytest.mark.parametrize(("drf", "width", "subsets"), [(4, 6.0, 8), (12, 9.0, 4)])
def test_fast_matches_exact(suv, regions, drf, width, subsets):
    repeats = 20
    scan = PETScan(SPACING, width=width, subsets=subsets, views=48)
    random = np.random.RandomState(0)
    exact = torch.cat([simulate_pet_low_count(suv, drf, scan, random) for _ in range(repeats)]) - suv
    noise_map = pet_noise_map(suv, SPACING)
    values = {"drf": drf, "width": width, "updates": scan.updates}
    fast = (
        torch.cat([insert_pet_noise(suv, noise_map, SPACING, PETLowCount(**values, seed=s))[0] for s in range(repeats)])
        - suv
    )
    for name, mask in regions.items():
        ratio = spread(fast, mask) / spread(exact, mask)
        # chance alone: 4 % in the tumor, of 24 pixels that are not independent, 2 % elsewhere
        assert 0.9 < ratio < 1.1 if name != "tumor" else 0.85 < ratio < 1.15, name
    (exact_profile, exact_mean), (fast_profile, fast_mean) = radial(exact), radial(fast)
    assert np.corrcoef(exact_profile, fast_profile)[0, 1] > 0.95
    assert fast_mean == pytest.approx(exact_mean, rel=0.08)
    # long tails to the top in both, as of a log-normal distribution, and the mean stays
    for noise in (exact, fast):
        relative = noise[:, regions["rest"]] / suv[0, regions["rest"]]
        assert (relative**3).mean() / (relative**2).mean() ** 1.5 > 0.25
        assert noise.sum().abs() < 0.02 * repeats * suv.sum()


def test_osem_is_the_formula():
    # matrices column by column, float64: x <- x / (B a) * B (a y / (a A x + b)), subset by subset
    scan = PETScan(4.0, iterations=2, subsets=2, views=6)
    size, angles = (7, 6), view_angles(6)
    random = np.random.RandomState(0)
    survival, constant, counts = (random.uniform(0.5, 2, (1, 1, 6, 10)) for _ in range(3))
    known = Acquisition(scan, angles, *(torch.from_numpy(part).float() for part in (survival, constant)))
    start = torch.ones(1, 1, *size)
    image = osem(torch.from_numpy(counts).float(), known, start)[0, 0].numpy()

    pixels = torch.eye(42).reshape(42, 1, *size)
    forward = parallel_project(pixels, angles, 4.0, 10)[:, 0].double().numpy()  # (pixels, views, detectors)
    rays = torch.eye(60).reshape(60, 1, 6, 10)
    x = np.ones(42)
    for _ in range(2):
        for part in (slice(0, None, 2), slice(1, None, 2)):
            back = (
                parallel_backproject(
                    rays.reshape(6, 10, 1, 6, 10)[part].reshape(-1, 1, 6, 10)[:, :, part], angles[part], size, 4.0
                )[:, 0]
                .double()
                .numpy()
                .reshape(-1, 42)
            )
            a, b, y = (array[0, 0, part].ravel() for array in (survival, constant, counts))
            ratio = y / (a * (x @ forward[:, part].reshape(42, -1)) + b)
            x = x * ((a * ratio) @ back) / (a @ back)
    np.testing.assert_allclose(image.ravel(), x, rtol=1e-4)


def test_many_counts_give_the_object_back(suv, regions):
    scan = PETScan(SPACING, counts=1e7, width=0.0, iterations=20, views=48)
    low, full = scan_pet(suv, 2, scan, np.random.RandomState(0))
    for name in ("liver", "rest", "lung"):
        inner = regions[name] & (torch.stack(torch.gradient(suv[0])).abs().sum(dim=0) < 0.02)
        assert_close(full[0, inner].mean(), suv[0, inner].mean(), rtol=0.02, atol=0.0)
        assert_close(low[0, inner].mean(), suv[0, inner].mean(), rtol=0.02, atol=0.0)


def test_decimated_counts_have_the_variance_of_their_number(suv, regions):
    scan, random = PETScan(SPACING, counts=2000.0, views=48, iterations=2), np.random.RandomState(2)
    low, full = (torch.cat(images) for images in zip(*(scan_pet(suv, 4, scan, random) for _ in range(20)), strict=True))
    body = regions["rest"] | regions["liver"]
    assert spread(low, body) / spread(full, body) == pytest.approx(2, rel=0.1)
    # the kept counts are a part of all: full and low share noise; what is between them is (4 - 1) times the full's
    assert spread(low - full, body) / spread(full, body) == pytest.approx(3**0.5, rel=0.1)
    assert_close(low.mean(dim=0)[body].mean(), full.mean(dim=0)[body].mean(), rtol=0.02, atol=0.0)
    assert low.min() >= 0
    assert full.min() >= 0


def test_inserted_noise_fits_decimated_counts(suv, regions):
    scan, random = PETScan(SPACING, views=48), np.random.RandomState(3)
    pairs = [scan_pet(suv, 4, scan, random) for _ in range(14)]
    exact = torch.cat([low - full for low, full in pairs])
    fast = [
        insert_pet_noise(full, None, SPACING, PETLowCount(4, seed=s))[0] - full for s, (_, full) in enumerate(pairs)
    ]
    for name in ("rest", "liver"):
        assert spread(torch.cat(fast), regions[name]) / spread(exact, regions[name]) == pytest.approx(1, abs=0.12)


def test_reported_deviation_is_that_of_the_noise(suv, regions):
    random = np.random.RandomState(0)
    noise_map = pet_noise_map(suv, SPACING)
    white = torch.from_numpy(random.standard_normal((60, 96, 80)).astype(np.float32))
    drawn = [pet_noise(one, suv, noise_map, SPACING, 32, 6.0) for one in white]
    noise, std = torch.cat([n for n, _ in drawn]), drawn[0][1][0]
    for mask in regions.values():
        assert spread(noise, mask) / std[mask].square().mean().sqrt() == pytest.approx(1, abs=0.08)


def test_values_stay_what_they_can_be(suv):
    scan = PETLowCount(12, counts=20.0, seed=1)
    low, full = insert_pet_noise(suv, None, SPACING, scan)
    assert full is suv
    assert low.min() >= 0
    assert torch.equal(low[suv == 0], suv[suv == 0])
    shifted = suv - 0.01  # some scanners store negative values in air
    assert torch.equal(insert_pet_noise(shifted, None, SPACING, scan)[0][shifted <= 0], shifted[shifted <= 0])
    exact = simulate_pet_low_count(suv, 12, PETScan(SPACING, 20.0, views=24, iterations=1), np.random.RandomState(0))
    assert exact.min() >= 0


def test_nothing_at_full_count_and_the_same_for_the_same_values(suv):
    assert torch.equal(insert_pet_noise(suv, None, SPACING, PETLowCount(1))[0], suv)
    scan = PETScan(SPACING, views=24, iterations=1)
    assert torch.equal(simulate_pet_low_count(suv, 1, scan, np.random.RandomState(0)), suv)
    for seed, same in ((5, True), (6, False)):
        again = insert_pet_noise(suv, None, SPACING, PETLowCount(4, seed=seed))[0]
        assert torch.equal(again, insert_pet_noise(suv, None, SPACING, PETLowCount(4, seed=5))[0]) == same
        exact = simulate_pet_low_count(suv, 4, scan, np.random.RandomState(seed))
        assert torch.equal(exact, simulate_pet_low_count(suv, 4, scan, np.random.RandomState(5))) == same


def test_every_value_has_its_effect(suv, regions):
    def noise(**values):
        scans = [PETLowCount(**{"drf": 2, "counts": 4000, "width": 6.0, **values}, seed=s) for s in range(8)]
        return torch.cat([insert_pet_noise(suv, noise_map, SPACING, scan)[0] for scan in scans]) - suv

    noise_map, rest = pet_noise_map(suv, SPACING), regions["rest"]
    usual = spread(noise(), rest)
    assert spread(noise(counts=16000), rest) == pytest.approx(usual / 2, rel=0.02)
    assert spread(noise(drf=5), rest) == pytest.approx(usual * 2, rel=0.02)
    assert spread(noise(updates=64), rest) > 1.2 * usual
    assert spread(noise(width=12.0), rest) < 0.7 * usual
    grain = {
        name: radial(noise(**values))[1]
        for name, values in {"usual": {}, "wide": {"width": 12.0}, "small pixels": {"spacing": 2.5}}.items()
    }
    assert grain["wide"] < 0.8 * grain["usual"]
    assert grain["small pixels"] < 0.8 * grain["usual"]  # the same grain in mm has more pixels


def test_smoothing_is_of_image_and_label(suv):
    draw = RandPETLowCountd("image", "label", drf=(1.0001, 1.0001), smoothing_prob=1.0, smoothing=(12.0, 12.0))
    item = {"image": MetaTensor(suv, affine=AFFINE), "label": MetaTensor(suv, affine=AFFINE)}
    out = draw.set_random_state(0)(item)
    assert out["label"].max() < 0.95 * suv.max()
    assert_close(out["image"].as_tensor(), out["label"].as_tensor(), atol=0.1, rtol=0.05)
    assert out["label"].sum().item() == pytest.approx(suv.sum().item(), rel=1e-3)
    assert torch.equal(item["label"].as_tensor(), suv)


@pytest.mark.parametrize("size", [(26, 31), (64, 64), (33, 128)])
def test_patches_of_any_size(size):
    body = torch.full((1, *size), 1.5)
    low, _ = insert_pet_noise(body, None, 4.0, PETLowCount(4))
    assert low.shape == body.shape
    assert 0.05 < (low / 1.5 - 1).std() < 0.6


def test_a_patch_has_the_noise_of_the_slice_it_is_from(suv, regions):
    item = PETNoiseMapd("image")({"image": MetaTensor(suv, affine=AFFINE)})
    part = (slice(None), slice(14, 62), slice(14, 50))
    patch, patch_map = suv[part], item["noise_map"].as_tensor()[part]
    assert item["pet_spacing"] == SPACING
    scans = [PETLowCount(2, counts=4000, seed=s) for s in range(16)]
    whole = torch.cat([insert_pet_noise(suv, None, SPACING, scan)[0] for scan in scans])[part]
    cut = torch.cat([insert_pet_noise(patch, patch_map, SPACING, scan)[0] for scan in scans])
    alone = torch.cat([insert_pet_noise(patch, None, SPACING, scan)[0] for scan in scans])
    rest = regions["rest"][part[1:]]
    assert spread(cut, rest) == pytest.approx(spread(whole, rest), rel=0.06)
    assert spread(alone, rest) == pytest.approx(spread(whole, rest), rel=0.25)  # it has to guess what is around


def test_drawn_values_replay_with_a_map(suv):
    item = PETNoiseMapd("image")({"image": MetaTensor(suv, affine=AFFINE), "label": MetaTensor(suv, affine=AFFINE)})
    out = RandPETLowCountd("image", "label").set_random_state(3)(item)
    values = out["pet_low_count"]
    assert 4 <= values["drf"] <= 12
    again = insert_pet_noise(suv, item["noise_map"].as_tensor(), SPACING, PETLowCount(**values))
    assert torch.equal(out["image"].as_tensor(), again[0])
    assert torch.equal(out["image"].affine, AFFINE)


@pytest.mark.parametrize("exact", [False, True])
def test_fixed_noise_comes_from_the_name(suv, exact):
    degrade = FixedDegradationd(SimulatePETLowCountd("image", drf=4, exact=exact), seed=1)
    another = FixedDegradationd(SimulatePETLowCountd("image", drf=4, exact=exact), seed=2)
    small = MetaTensor(suv[:, 20:44, 20:44], affine=AFFINE)

    def run(transform=degrade, **name):
        return transform({"image": small, "name": "a", "slice": 3, **name})

    first = run()
    assert torch.equal(first["image"], run()["image"])
    for other in (run(slice=4), run(name="b"), run(another)):
        assert not torch.equal(first["image"], other["image"])
    assert first["pet_low_count"]["drf"] == 4
    if not exact:
        scan = PETLowCount(**first["pet_low_count"])
        again = insert_pet_noise(small.as_tensor(), None, SPACING, scan, [3], float(AFFINE[2, 2]))[0]
        assert torch.equal(first["image"].as_tensor(), again)
    with pytest.raises(ValueError, match="needs a name"):
        degrade({"image": small})


def test_total_activity_by_hand():
    image = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])[..., None].repeat(1, 1, 1, 4)  # sums of 8
    restored = torch.stack([torch.full((1, 2, 2), v) for v in (1.0, 4.0, 0.0, -1.0)], dim=-1)
    kept = keep_total_activity(image, restored)
    assert kept[0, 0, 0].tolist() == [2.0, 2.0, 0.0, -1.0]  # without activity a slice stays as it is
    assert keep_total_activity(image[..., 0], restored[..., 1])[0, 0, 0] == 2.0
    assert torch.equal(keep_total_activity(torch.zeros(1, 2, 2), restored[..., 0]), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="one shape"):
        keep_total_activity(image, restored[..., :2])


def test_what_passed_by_the_network_is_not_scaled():
    image = torch.tensor([[[40.0, 4.0], [6.0, -1.0]]])  # in [0, 20]: 20, 4, 6, 0
    restored = torch.tensor([[[39.0, 4.0], [1.0, -1.0]]])  # of which the network gave 19, 4, 1, 0
    kept = keep_total_activity(image, restored, (0, 20))
    torch.testing.assert_close(kept, torch.tensor([[[19 * 1.25 + 20, 5.0], [1.25, -1.0]]]))
    assert kept.sum() == image.sum()
    item = KeepTotalActivityd("pred")({"image": image / 20, "pred": restored / 20})
    torch.testing.assert_close(item["pred"] * 20, kept)
    assert torch.equal(keep_total_activity(image, image, (0, 20)), image)


def test_total_activity_in_postprocessing(suv):
    item = ToUnitRanged("image", "PT")({"image": MetaTensor(suv)})
    item["pred"] = item["image"] * 0.9 + 0.001
    back = FromUnitRanged("pred", like="image")
    on, off = (back(KeepTotalActivityd("pred", enabled=flag)(item))["pred"].sum().item() for flag in (True, False))
    assert on == pytest.approx(suv.sum().item(), rel=1e-5)
    assert abs(off / suv.sum().item() - 1) > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PETLowCount(0.5), "at least 1, got 0.5"),
        (lambda: PETLowCount(4, counts=0), "counts must be positive"),
        (lambda: PETScan(0.0), "spacing"),
        (lambda: PETScan(4.0, subsets=7), "subsets divide views"),
        (lambda: RandPETLowCountd("image", drf=(12, 4)), "drf must be a range"),
        (lambda: RandPETLowCountd("image", drf=(0.5, 4)), "at least 1"),
        (lambda: PETNoiseMapd(["a", "b"]), "one key"),
        (lambda: SimulatePETLowCountd("image", drf=0), "at least 1"),
        (lambda: pet_noise_map(torch.rand(1, 8, 8), 4.0, directions=3), "divide 20"),
        (lambda: pet_noise_map(torch.rand(8, 8), 4.0), "one slice"),
        (lambda: insert_pet_noise(torch.rand(1, 8, 8), torch.rand(5, 7, 8), 4.0, PETLowCount(4)), "do not fit"),
        (
            lambda: simulate_pet_low_count(torch.rand(1, 8, 8), 0.1, PETScan(4.0), np.random.RandomState(0)),
            "at least 1",
        ),
        (lambda: RandPETLowCountd("image")({"image": torch.rand(1, 8, 8)}), "spacing of a plain tensor"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_of_any_bytes_and_exact_slices_without_neighbors():
    affine = torch.diag(torch.tensor([4.0, 4.0, 3.3, 1.0], dtype=torch.float64))
    item = {"image": MetaTensor(torch.full((1, 41, 38, 1), 2.0), affine=affine), "name": "not UTF-8 \udcff"}
    assert FixedDegradationd(SimulatePETLowCountd("image"))(item)["pet_low_count"]["axial_width"] == 5
    exact = FixedDegradationd(SimulatePETLowCountd("image", exact=True))
    assert exact(item)["pet_low_count"]["axial_width"] == 0  # what was simulated
