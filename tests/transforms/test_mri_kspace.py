import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from medrestore_monai.transforms import (
    KSpaceConsistencyd,
    KSpaceTruncationd,
    RandKSpaceTruncationd,
    keep_measured_kspace,
    truncate_kspace,
)

SIZES = [(64, 64), (65, 48), (33, 47), (6, 5)]


def truncated_by_hand(image, fraction):
    """The same with NumPy's shifted transform: cut the middle out of k-space and put it into zeros."""
    k_space = np.fft.fftshift(np.fft.fft2(image))
    kept = np.zeros_like(k_space)
    window = []
    for size in image.shape:
        count = max(1, round(fraction * size))
        start = size // 2 - count // 2
        window.append(slice(start, start + count))
    kept[tuple(window)] = k_space[tuple(window)]
    return np.abs(np.fft.ifft2(np.fft.ifftshift(kept)))


def smooth_image(size):
    """Positive magnitudes without noise, double precision."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")
    return 1000 * np.exp(-4 * ((x - 0.1) ** 2 + 1.3 * (y + 0.2) ** 2)) + 40


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.77])
@pytest.mark.parametrize("size", SIZES)
def test_truncation_is_the_middle_of_the_shifted_transform(size, fraction):
    image = np.random.RandomState(0).rand(*size) * 900
    expected = truncated_by_hand(image, fraction)
    assert_close(truncate_kspace(torch.from_numpy(image)[None], fraction)[0].numpy(), expected)
    single = truncate_kspace(torch.from_numpy(image)[None].float(), fraction)
    assert single.dtype == torch.float32
    assert_close(single[0].double().numpy(), expected, rtol=1e-4, atol=1e-2)


def test_a_quarter_of_the_lines_is_a_sixteenth_of_the_samples():
    spike = torch.zeros(1, 64, 48)
    spike[0, 0, 0] = 1  # all samples of its k-space are 1
    kept = torch.fft.fft2(truncate_kspace(spike.double(), 0.25)).abs()
    image = truncate_kspace(spike.double(), 0.25)
    assert image.max().item() == pytest.approx(1 / 16)  # the mean of what is kept
    assert kept[0, 0, 0] > 0


def test_waves_below_the_edge_stay_and_above_vanish():
    x = torch.arange(64, dtype=torch.float64)
    for cycles, remains in ((5, True), (7, True), (9, False), (20, False)):  # 16 of 64 lines: -8 to 7
        wave = (3 + torch.cos(2 * torch.pi * cycles * x / 64))[None, :, None].expand(1, 64, 64)
        expected = wave if remains else torch.full_like(wave, 3.0)
        assert_close(truncate_kspace(wave, 0.25), expected)


def test_slices_of_a_volume_are_independent_and_meta_data_stay():
    image = MetaTensor(torch.rand(1, 21, 34, 3), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    out = KSpaceTruncationd("image", 0.4)({"image": image})
    assert_close(out["image"].affine, image.affine)
    assert out["kspace_truncation"] == {"fraction": 0.4}
    for z in range(3):
        expected = truncate_kspace(image[..., z].as_tensor(), 0.4)
        assert_close(out["image"][..., z].as_tensor(), expected)


def test_drawn_fractions_fill_the_range():
    transform = RandKSpaceTruncationd("image", fraction=(0.2, 0.5)).set_random_state(0)
    drawn = [transform({"image": torch.ones(1, 4, 4)})["kspace_truncation"]["fraction"] for _ in range(200)]
    assert 0.2 <= min(drawn) < 0.22
    assert 0.48 < max(drawn) <= 0.5


def shared_frequencies(size, fraction):
    """Which frequencies lie, with their negative, in the center that was measured; order of the FFT."""
    inside = []
    for side in size:
        count = max(1, round(fraction * side))
        first = np.arange(side) - side // 2
        kept = set(first[(first >= -(count // 2)) & (first < count - count // 2)].tolist())
        inside.append(np.fft.ifftshift([f in kept and -f in kept for f in first]))
    return inside[0][:, None] & inside[1][None, :]


@pytest.mark.parametrize("fraction", [0.25, 0.4])
@pytest.mark.parametrize("size", SIZES)
def test_consistency_takes_the_center_from_the_measured_and_the_rest_from_the_restored(size, fraction):
    random = np.random.RandomState(1)
    restored, measured = random.rand(*size), random.rand(*size)
    result = keep_measured_kspace(torch.from_numpy(restored)[None], torch.from_numpy(measured)[None], fraction)
    k_result, k_restored, k_measured = (np.fft.fft2(i) for i in (result[0].numpy(), restored, measured))
    center = shared_frequencies(size, fraction)
    np.testing.assert_allclose(k_result[center], k_measured[center], atol=1e-9)
    np.testing.assert_allclose(k_result[~center], k_restored[~center], atol=1e-9)


@pytest.mark.parametrize("size", SIZES[:3])
def test_a_perfect_restoration_of_a_smooth_image_is_left_alone(size):
    clean = torch.from_numpy(smooth_image(size))[None]
    measured = truncate_kspace(clean, 0.4)
    assert_close(keep_measured_kspace(clean, measured, 0.4), clean, rtol=0, atol=1.0)  # of 1040


def test_consistency_can_be_switched_off():
    item = {"pred": torch.rand(1, 8, 8), "image": torch.rand(1, 8, 8)}
    assert KSpaceConsistencyd(fraction=0)(item)["pred"] is item["pred"]
    assert_close(KSpaceConsistencyd(fraction=1)(item)["pred"], item["image"])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: truncate_kspace(torch.zeros(1, 8, 8), 0.0), "fraction must lie in"),
        (lambda: truncate_kspace(torch.zeros(1, 8, 8), 1.5), "got 1.5"),
        (lambda: truncate_kspace(torch.zeros(8, 8), 0.5), "got \\(8, 8\\)"),
        (lambda: KSpaceTruncationd("image", 0.0), "fraction must lie in"),
        (lambda: RandKSpaceTruncationd("image", (0.5, 0.2)), "fraction must lie in"),
        (lambda: KSpaceConsistencyd(fraction=2.0), "fraction must lie in"),
        (lambda: keep_measured_kspace(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9), 0.5), "differ in shape"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
