"""Images that nothing can be learned from without targets."""

import numpy as np
import pytest
from noisy_scans import SPACING, ct_scan
from scipy.ndimage import gaussian_filter, zoom
from skimage.restoration import denoise_nl_means

from medrestore_monai.adapt import refusals
from medrestore_monai.adapt.noise_check import LevelCheck
from medrestore_monai.audit.volume import Volume
from medrestore_monai.transforms.ct.noise import flat_soft_tissue

pytestmark = pytest.mark.slow

PIXEL = SPACING[:2]


@pytest.fixture(scope="module")
def scan():
    volume, clean, _ = ct_scan(slices=4)
    flat = np.stack([flat_soft_tissue(one[0], PIXEL[0]).numpy() for one in volume.unbind(-1)], axis=-1)
    return volume[0].numpy(), clean[0].numpy(), flat


def denoised(volume):
    slices = [denoise_nl_means(one, 5, 6, h=30.0, sigma=25.0) for one in np.moveaxis(volume, -1, 0)]
    return np.stack(slices, axis=-1).astype(np.float32)


def test_original_slices_pass(scan):
    volume, _, flat = scan
    found = refusals.measure_processing(volume, flat, PIXEL, "CT", "ORIGINAL\\PRIMARY\\AXIAL B30f")
    assert found.refusal is None
    assert found.words == ()


@pytest.mark.parametrize("kind", ["blurred", "interpolated"])
def test_filtered_slices_are_refused(scan, kind):
    volume, _, flat = scan
    if kind == "blurred":
        changed = gaussian_filter(volume, (1.2, 1.2, 0))
    else:
        changed = zoom(volume[::2, ::2], (2, 2, 1), order=3)[: volume.shape[0], : volume.shape[1]]
    found = refusals.measure_processing(changed, flat, PIXEL, "CT")
    assert "interpolated or filtered" in found.refusal


def test_denoised_slices_are_refused(scan):
    volume, _, flat = scan
    found = refusals.measure_processing(denoised(volume), flat, PIXEL, "CT")
    assert found.refusal is not None
    assert refusals.Processing(0.1, 0.5, 0.3).refusal is not None  # two weak signs
    assert refusals.Processing(0.1, 0.5, 0.1).refusal is None
    assert refusals.Processing(0.1, 0.3, 0.3, ("ADMIRE",)).refusal is not None
    # a header alone does not
    assert refusals.measure_processing(volume, flat, PIXEL, "CT", "ADMIRE").refusal is None


def test_windowed_slices_are_refused(scan):
    volume = scan[0]
    assert refusals.refuse_clipped(volume, PIXEL) is None
    assert "not windowed" in refusals.refuse_clipped(volume.clip(-160, 100), PIXEL)


@pytest.mark.parametrize(
    ("check", "word"),
    [
        (None, "Too little flat tissue"),
        (LevelCheck(1.0, (1, 1), 0.0, 0.05, 3), "Too little flat tissue"),
        (LevelCheck(1.1, (1, 1), 0.0, 0.05, 30), "level is 1.10"),
        (LevelCheck(1.0, (1, 1), 0.3, 0.05, 30), "30 % of the blocks"),
        (LevelCheck(1.0, (1, 1), 0.1, 0.25, 30), "from place to place"),
    ],
)
def test_failed_checks_are_refused(check, word):
    assert word in refusals.refuse_level(check)


def test_passed_check_is_not_refused():
    assert refusals.refuse_level(LevelCheck(1.0, (1, 1), 0.1, 0.1, 30)) is None


def test_overlapping_slices_are_refused():
    assert refusals.refuse_overlap(np.array([0.46, 0.05])) is None
    assert "overlap" in refusals.refuse_overlap(np.array([0.8, 0.4]))
    assert refusals.refuse_overlap(np.array([np.nan])) is None


def test_one_scan_in_two_kernels_is_found(scan):
    volume, clean, _ = scan
    soft = clean + gaussian_filter(volume - clean, (0.8, 0.8, 0)) + 3
    other = ct_scan(slices=4, seed=7)[0][0].numpy()
    moved = np.roll(soft[..., ::-1], (5, -3), axis=(0, 1))
    assert refusals.shared_noise(volume, moved, PIXEL, "CT") > 0.5
    assert "one scan" in refusals.refuse_shared(refusals.shared_noise(volume, soft, PIXEL, "CT"))
    assert refusals.shared_noise(volume, volume[:-1], PIXEL, "CT") == 0
    assert refusals.refuse_shared(0.05) is None
    noise = other - clean
    assert refusals.shared_noise(volume - clean + 50, noise + 50, PIXEL, "CT") < refusals.MOST_SHARED


def test_too_much_removed_noise_is_refused():
    assert refusals.refuse_removed([0.97, 1.02, 1.1]) is None
    assert "too strong" in refusals.refuse_removed([1.2, 1.3, 1.0])
    assert refusals.refuse_removed([]) is None


def test_images_far_from_the_training_are_refused(scan):
    volume = scan[0]
    known = {"unit": "HU", "pixel_mm": [0.5, 2.0], "noise_level": [0.004, 0.02]}
    source = Volume(volume, "CT", SPACING)
    assert refusals.refuse_scope(source, {"modalities": {"CT": known}}) is None
    weak = {**known, "noise_level": [0.05, 0.06]}
    assert "noise level" in refusals.refuse_scope(source, {"modalities": {"CT": weak}})
    assert "modality" in refusals.refuse_scope(source, {"modalities": {"PT": known}})
