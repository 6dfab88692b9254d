import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from medrestore_monai.ops.radon import FanBeam
from medrestore_monai.transforms import (
    CTLowDose,
    CTNoiseMapd,
    CTScan,
    RandCTLowDosed,
    ct_noise_map,
    estimate_ct_noise,
    insert_ct_noise,
    scan_ct,
    simulate_ct_low_dose,
)
from medrestore_monai.transforms.ct.low_dose import rekernel
from medrestore_monai.transforms.ct.noise import log_variance, noise_spectrum, shape_noise, total_noise_std

SIZE, SPACING = 160, 2.2
BLOCK = 16


def body(scale=1.0):
    x = (torch.arange(SIZE) - (SIZE - 1) / 2) * SPACING
    return (x[:, None] / (150 * scale)) ** 2 + (x[None] / (100 * scale)) ** 2 < 1


@pytest.fixture(scope="module")
def slice_hu():
    """Elliptic body of 30 x 20 cm, 40 HU, with a piece of bone, shape (1, X, Y)."""
    hu = torch.full((1, SIZE, SIZE), -1000.0)
    hu[0, body()] = 40.0
    hu[0, 100:112, 74:86] = 400.0
    return hu


def blocks(noise):
    """Standard deviation in every block inside the body."""
    inside = body(0.95)
    starts = range(0, SIZE - BLOCK + 1, BLOCK // 2)
    squares = [(slice(x, x + BLOCK), slice(y, y + BLOCK)) for x in starts for y in starts]
    return torch.stack([noise[..., a, b].square().mean().sqrt() for a, b in squares if inside[a, b].all()])


def spectrum(noises):
    """Power in a tile in the middle, shape (T, T), and the frequencies in cycles/pixel."""
    window = torch.outer(torch.hann_window(64), torch.hann_window(64))
    power = sum(torch.fft.fft2(noise[0, 48:112, 48:112] * window).abs().square() for noise in noises)
    f = torch.fft.fftfreq(64)
    return power, f[:, None].expand(64, 64), f[None].expand(64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("cutoff", [0.12, 0.5])  # pixels of 2.2 mm: a soft and a sharp kernel
@pytest.mark.parametrize("geometry", [None, FanBeam(595.0, 440, 0.9)])
def test_fast_matches_exact(slice_hu, cutoff, geometry):
    repeats = 12  # fewer leave the mean frequency to chance by 4 %
    scan = CTScan(SPACING, photons=1e5, cutoff=cutoff, geometry=geometry, views=180)
    noise_map = ct_noise_map(slice_hu, SPACING) * scan.noise_scale()
    random = np.random.RandomState(0)
    exact = [simulate_ct_low_dose(slice_hu, 0.25, scan, random) - slice_hu for _ in range(repeats)]
    fast = [
        insert_ct_noise(slice_hu, noise_map, cutoff, SPACING, CTLowDose(0.25, seed=seed), lower=None)[0] - slice_hu
        for seed in range(repeats)
    ]
    ratio = blocks(torch.stack(fast)) / blocks(torch.stack(exact))
    assert 0.9 < ratio.median() < 1.1
    assert (ratio.log() - ratio.log().median()).std() < 0.06  # place by place; chance alone gives 0.03

    exact_power, fx, fy = spectrum(exact)
    fast_power, _, _ = spectrum(fast)
    frequency = torch.hypot(fx, fy)
    # 3 to 5 % of this is real: the fast spectrum has the low-frequency floor of scanners, which pure FBP has not
    assert_close(
        (fast_power * frequency).sum() / fast_power.sum(),
        (exact_power * frequency).sum() / exact_power.sum(),
        rtol=0.07,
        atol=0,
    )
    # the body is wide along x: views along it are the noisy ones, their noise varies along y
    along_y = fy.abs() > 2 * fx.abs()
    along_x = fx.abs() > 2 * fy.abs()
    for power in (exact_power, fast_power):
        assert power[along_y].sum() > 1.5 * power[along_x].sum()


def test_noise_level_of_exact_simulation_is_the_formula(slice_hu):
    # in the middle of a water cylinder every ray through the pixel has the same length: worked out by hand
    hu = torch.full((1, 128, 128), -1000.0)
    x = (torch.arange(128) - 63.5) * 2.0
    hu[0, x[:, None] ** 2 + x[None] ** 2 < 100**2] = 0.0
    scan = CTScan(2.0, photons=1e5, cutoff=0.15, views=180, bowtie_radius=None, modulation=0.0)
    random = np.random.RandomState(1)
    noise = torch.stack([simulate_ct_low_dose(hu, 0.5, scan, random) - hu for _ in range(12)])
    expected = scan.noise_scale() * math.sqrt(math.exp(0.0192 * 200))
    assert noise[..., 58:70, 58:70].std().item() == pytest.approx(expected, rel=0.08)


def test_textbook_scan_has_the_same_noise_and_keeps_values(slice_hu):
    scan = CTScan(SPACING, photons=3e6, cutoff=0.3, views=240)
    images = [scan_ct(slice_hu, 0.5, scan, np.random.RandomState(s)) for s in range(4)]
    quiet = scan_ct(slice_hu, 1.0, CTScan(SPACING, photons=1e12, cutoff=0.3, views=240), np.random.RandomState(0))
    assert quiet[0, 60:90, 70:90].mean().item() == pytest.approx(40, abs=4)
    inserted = [simulate_ct_low_dose(slice_hu, 0.5, scan, np.random.RandomState(s)) - slice_hu for s in range(4)]
    counted = blocks(torch.stack(images) - quiet).median() / math.sqrt(2)  # half the dose: twice the variance
    assert_close(counted, blocks(torch.stack(inserted)).median(), rtol=0.08, atol=0)


def test_directions_of_the_map_are_those_of_the_views():
    # a long body at 45 degrees looks the same from 0 and 90 degrees, and is thickest along 45 degrees: views of angle
    # 135 degrees have their rays along it (a ray of view t runs along (-sin t, cos t))
    x = (torch.arange(128) - 63.5) * 2.5
    along, across = (x[:, None] + x[None]) / math.sqrt(2), (x[None] - x[:, None]) / math.sqrt(2)
    hu = torch.where((along / 140) ** 2 + (across / 60) ** 2 < 1, 0.0, -1000.0)[None]
    at_0, at_45, at_90, at_135 = ct_noise_map(hu, 2.5, bowtie_radius=None, modulation=0.0)[:, 60:68, 60:68].mean(
        dim=(1, 2)
    )
    assert_close(at_0, at_90, rtol=0.02, atol=0)
    assert at_135 > 1.5 * at_0 > 1.5 * at_45


def test_electronic_noise_adds(slice_hu):
    clean, noisy = (CTScan(SPACING, photons=1e5, electronic_noise=s, views=60) for s in (0.0, 20.0))
    stds = [
        (simulate_ct_low_dose(slice_hu, 0.25, s, np.random.RandomState(0)) - slice_hu).std() for s in (clean, noisy)
    ]
    assert stds[1] > 1.1 * stds[0]


@pytest.mark.parametrize("cutoff", [0.36, 0.8])
@pytest.mark.parametrize("level", [10.0, 40.0])
def test_estimate_finds_level_and_kernel(cutoff, level):
    spacing, size = 0.75, 400
    x = (torch.arange(size) - 199.5) * spacing
    hu = torch.full((1, size, size), -1000.0)
    hu[0, (x[:, None] / 140) ** 2 + (x[None] / 100) ** 2 < 1] = 50.0
    hu[0, 180:220, 120:150] = 700.0
    relative = ct_noise_map(hu, spacing)
    scale = level / float(total_noise_std(relative)[0, 200, 200])
    noisy, _ = insert_ct_noise(hu, relative * scale, cutoff, spacing, CTLowDose(0.5, seed=3), lower=None)
    noise = estimate_ct_noise(noisy, spacing)
    assert noise.scale == pytest.approx(scale, rel=0.1)
    assert noise.cutoff == pytest.approx(cutoff, rel=0.2)


@pytest.mark.parametrize("size", [(64, 64), (65, 48), (33, 47)])
def test_spectrum_keeps_variance(size):
    white = torch.randn(200, *size)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * noise_spectrum(size, 0.4, 0.8), s=size)
    assert noise.std().item() == pytest.approx(1.0, rel=0.02)


def test_sharper_kernel_makes_more_noise_of_the_same_data():
    # sqrt of the ratio of the integrals of f^2 exp(-2 (f / c)^2), c^3 apart, where the pixels do not limit
    gains = [noise_spectrum((256, 256), cutoff, 0.4, reference=0.2).square().mean() for cutoff in (0.2, 0.4)]
    assert math.sqrt(gains[1] / gains[0]) == pytest.approx(2**1.5, rel=0.05)


def test_directions_carry_the_stated_variance():
    noise_map = torch.tensor([1.0, 2.0, 3.0, 2.0])[:, None, None].expand(4, 128, 128)
    white = torch.randn(20, 144, 144)
    gain = noise_spectrum((144, 144), 0.4, 0.8)
    noise = torch.stack([shape_noise(w, noise_map, gain) for w in white])
    assert noise.std().item() == pytest.approx(total_noise_std(noise_map)[0, 0, 0].item(), rel=0.05)


def test_patch_noise_does_not_wrap_around():
    noise_map = torch.ones(1, 64, 64)
    edges = []
    for seed in range(200):
        low, _ = insert_ct_noise(torch.zeros(1, 64, 64), noise_map, 0.36, 0.8, CTLowDose(0.5, seed=seed))
        edges.append((low[0, 0] * low[0, -1]).mean())
    assert abs(torch.stack(edges).mean()) < 0.1  # of a variance of 1; next to each other it is 0.7


def test_softer_kernel_filters_image_and_noise_alike():
    image, noise_map = torch.randn(1, 96, 96) * 5, torch.full((1, 96, 96), 5.0)
    low, routine = insert_ct_noise(image, noise_map, 1.0, 0.8, CTLowDose(0.5, cutoff=0.4))
    assert routine.std() < 0.6 * image.std()
    assert (low - routine).std() < 0.6 * 5
    flat = torch.full((1, 96, 96), 30.0)
    assert_close(insert_ct_noise(flat, noise_map * 0, 1.0, 0.8, CTLowDose(0.5, cutoff=0.4))[1], flat)


def test_sharper_kernel_makes_the_routine_noise_whole():
    # a label whose own noise has a soft kernel ends with the noise of the sharp one, in the right proportion
    size = 128
    noise_map = torch.full((1, size, size), 10.0)
    zero = torch.zeros(1, size, size)
    own, inserted = [], []
    for seed in range(20):
        label, _ = insert_ct_noise(zero, noise_map, 0.41, 0.8, CTLowDose(0.5, seed=1000 + seed), lower=None)
        low, routine = insert_ct_noise(label, noise_map, 0.41, 0.8, CTLowDose(0.5, cutoff=1.2, seed=seed), lower=None)
        own.append(routine)
        inserted.append(low - routine)
    own, inserted = torch.stack(own), torch.stack(inserted)
    assert own.std().item() == pytest.approx(inserted.std().item(), rel=0.05)
    assert own.std() > 20
    f = torch.fft.fftfreq(size)
    rings = (torch.hypot(f[:, None], f[None]) * 40).long().flatten()
    own_power, inserted_power = (
        torch.bincount(rings, torch.fft.fft2(n).abs().square().mean(dim=(0, 1)).flatten()) for n in (own, inserted)
    )
    assert_close(own_power[2:24], inserted_power[2:24], rtol=0.15, atol=0)


def test_thinning_makes_label_and_image_noisier():
    zero, noise_map = torch.zeros(1, 128, 128), torch.full((1, 128, 128), 10.0)
    low, routine = insert_ct_noise(zero, noise_map, 0.41, 0.8, CTLowDose(0.25, thinning=5.0, seed=1))
    assert routine.std().item() == pytest.approx(20, rel=0.1)  # sqrt(5 - 1) * 10
    assert (low - routine).std().item() == pytest.approx(math.sqrt(3 * 5) * 10, rel=0.1)


def test_full_dose_changes_nothing(slice_hu):
    noise_map = ct_noise_map(slice_hu, SPACING) * 5
    low, routine = insert_ct_noise(slice_hu, noise_map, 0.4, SPACING, CTLowDose(1.0))
    assert_close(low, slice_hu)
    assert_close(routine, slice_hu)


def test_results_stay_in_the_stored_range():
    hu = torch.tensor([-1024.0, -3024.0, 0.0]).repeat(1, 48, 16)
    low, _ = insert_ct_noise(hu, torch.full((1, 48, 48), 50.0), 0.4, 0.8, CTLowDose(0.1))
    assert low[hu > -3000].min() == -1024
    assert low[hu < -3000].min() == -3024


@pytest.fixture
def item(slice_hu):
    random = np.random.RandomState(0)
    noisy = slice_hu + torch.from_numpy(random.normal(0, 10, slice_hu.shape).astype(np.float32))
    label = MetaTensor(noisy, affine=torch.diag(torch.tensor([SPACING, SPACING, 5.0, 1.0])))
    return CTNoiseMapd("label")({"label": label, "image": label.clone()})


def test_noise_map_goes_along_with_a_crop(item):
    from monai.transforms import RandSpatialCropd

    noise_map = item["noise_map"]
    assert noise_map.shape == (4, SIZE, SIZE)
    assert noise_map.meta["ct_noise_spacing"] == pytest.approx(SPACING)
    keys = ["image", "label", "noise_map"]
    patch = RandSpatialCropd(keys, (64, 48), random_size=False).set_random_state(0)(item)
    out = RandCTLowDosed("image", label_key="label").set_random_state(0)(patch)
    assert out["image"].shape == (1, 64, 48)
    assert isinstance(out["image"], MetaTensor)
    assert out["image"].pixdim[0] == pytest.approx(SPACING)


def test_same_seed_same_picture_and_replay(item):
    before = item["image"].clone()
    first, second, other = (RandCTLowDosed("image", "label").set_random_state(s)(item) for s in (5, 5, 6))
    assert_close(first["image"], second["image"], rtol=0, atol=0)
    assert not torch.equal(first["image"], other["image"])
    assert_close(item["image"], before, rtol=0, atol=0)  # the caller's picture is left alone
    meta = item["noise_map"].meta
    low, routine = insert_ct_noise(
        item["image"].as_tensor(),
        item["noise_map"].as_tensor(),
        meta["ct_noise_cutoff"],
        meta["ct_noise_spacing"],
        CTLowDose(**first["ct_low_dose"]),
    )
    assert_close(first["image"].as_tensor(), low, rtol=0, atol=0)
    assert_close(first["label"].as_tensor(), routine, rtol=0, atol=0)


def test_global_random_state_is_left_alone(item):
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(3)
    torch.manual_seed(3)
    RandCTLowDosed("image").set_random_state(0)(item)
    assert (np.random.rand(), torch.rand(1)) == expected


def test_drawn_values_stay_in_their_ranges(item):
    transform = RandCTLowDosed("image", kernel_prob=0.5, thinning_prob=0.5).set_random_state(0)
    scans = []
    for _ in range(300):
        transform.randomize(None)
        scans.append(transform.scan)
    assert 0.1 <= min(s.dose for s in scans) < 0.12
    assert 0.45 < max(s.dose for s in scans) <= 0.5
    assert 0.4 < np.mean([s.cutoff > 0 for s in scans]) < 0.6
    assert 0.4 < np.mean([s.thinning > 1 for s in scans]) < 0.6
    assert all(s.cutoff == 0 or 0.36 <= s.cutoff <= 2.0 for s in scans)


def test_probability_zero_changes_nothing(item):
    out = RandCTLowDosed("image", prob=0.0)(item)
    assert_close(out["image"], item["image"], rtol=0, atol=0)
    assert out["ct_low_dose"]["dose"] == 1.0


def test_whole_slice_needs_no_map(item):
    with_map = RandCTLowDosed("image", kernel_prob=0).set_random_state(1)(item)
    without = RandCTLowDosed("image", kernel_prob=0).set_random_state(1)({"image": item["image"]})
    assert_close(with_map["image"], without["image"])


def test_rekernel_keeps_the_mean_and_is_undone():
    there, back = rekernel((64, 64), 0.8, 0.5, 0.8), rekernel((64, 64), 0.5, 0.8, 0.8)
    assert there[0, 0] == back[0, 0] == 1
    gentle = back < 3
    assert_close((there * back)[gentle], torch.ones(int(gentle.sum())))


def test_log_variance_of_air_is_one_in_the_middle():
    assert_close(log_variance(torch.zeros(1, 1, 8, 65), 5.0)[0, 0, :, 32], torch.ones(8))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CTLowDose(0.0), "dose"),
        (lambda: CTLowDose(0.5, thinning=0.5), "thinning"),
        (lambda: RandCTLowDosed("image", dose=(0.5, 1.5)), "exceed 1"),
        (lambda: RandCTLowDosed("image", level=(1.0, 0.5)), "level must be a range"),
        (lambda: CTNoiseMapd(["image", "label"]), "one key"),
        (lambda: CTNoiseMapd("image")({"image": torch.zeros(1, 32, 32)}), "spacing"),
        (lambda: CTScan(0.8, photons=0), "positive"),
        (lambda: estimate_ct_noise(torch.full((1, 64, 64), -1000.0), 0.8), "too little"),
        (lambda: ct_noise_map(torch.zeros(2, 64, 64), 0.8), "one slice"),
        (lambda: ct_noise_map(torch.zeros(1, 64, 64), 0.8, directions=7), "divide"),
        (lambda: insert_ct_noise(torch.zeros(1, 8, 9), torch.ones(1, 9, 8), 0.4, 0.8, CTLowDose(0.5)), "differ"),
        (lambda: simulate_ct_low_dose(torch.zeros(1, 8, 8), 2.0, CTScan(0.8), np.random.RandomState(0)), "dose"),
        (lambda: shape_noise(torch.zeros(8, 8), torch.ones(1, 16, 16), torch.ones(8, 5)), "surround"),
        (lambda: noise_spectrum((8, 8), -0.4, 0.8), "positive"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def read_pair(path):
    import pydicom

    slices = [pydicom.dcmread(p) for p in (path, str(path).replace("full_", "quarter_"))]
    hu = [torch.from_numpy(s.pixel_array.astype(np.float32).T.copy())[None] - 1024 for s in slices]
    return *hu, float(slices[0].PixelSpacing[0])


@pytest.mark.parametrize("kernel", ["B30", "D45"])
def test_inserted_noise_is_like_that_of_real_pairs(shared_data, kernel):
    # patient L192: the constants were fitted on the other one
    ratios = []
    for path in sorted((shared_data / "ct_lowdose_pairs" / "L192" / f"full_3mm_{kernel}").glob("*.IMA"))[1:4]:
        full, quarter, spacing = read_pair(path)
        noise_map = ct_noise_map(full, spacing)
        noise = estimate_ct_noise(full, spacing, noise_map)
        predicted = (total_noise_std(noise_map) * noise.scale * math.sqrt(3))[0]
        smooth = torch.nn.functional.avg_pool2d(full[None], 9, stride=1, padding=4)[0, 0]
        inside = (smooth > 0) & (smooth < 150)
        real = (quarter - full)[0]
        ratios.append((predicted[inside].square().mean() / real[inside].square().mean()).sqrt())
    assert torch.stack(ratios).mean().item() == pytest.approx(1.0, abs=0.12)


def test_phantom_at_three_doses(shared_data):
    arrays = np.load(shared_data / "ct_phantom_lcd" / "fbp_multidose.npz")
    full = arrays["dose_100_signal_absent"].astype(np.float32) - 1000
    real = arrays["dose_010_signal_absent"].astype(np.float32)[:, 96:160, 96:160].std(axis=0, ddof=1).mean()
    simulated = []
    for seed, stored in enumerate(full):
        data = CTNoiseMapd("image", spacing=0.75)({"image": torch.from_numpy(stored)[None]})
        noise_map = data["noise_map"]
        low, _ = insert_ct_noise(
            data["image"], noise_map.as_tensor(), noise_map.meta["ct_noise_cutoff"], 0.75, CTLowDose(0.1, seed=seed)
        )
        simulated.append(low[0, 96:160, 96:160])
    assert torch.stack(simulated).std(dim=0).mean().item() == pytest.approx(float(real), rel=0.1)
