import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from medrestore_monai.transforms import (
    KSpaceConsistencyd,
    KSpaceTruncationd,
    RandKSpaceTruncationd,
    RandMRAcquisitiond,
    acquire_kspace,
    keep_measured_kspace,
    smooth_phase,
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


@pytest.mark.parametrize("size", SIZES)
def test_an_acquisition_without_phase_or_noise_is_a_truncation(size):
    image = torch.rand(1, *size, dtype=torch.float64)
    assert_close(acquire_kspace(image, 0.4), truncate_kspace(image, 0.4))


@pytest.mark.parametrize("size", SIZES[:3])
def test_phase_and_noise_are_measured_with_the_image(size):
    random = np.random.RandomState(2)
    image, phase = random.rand(*size) + 1, random.rand(*size)
    noise = random.randn(*size) + 1j * random.randn(*size)
    measured = acquire_kspace(*tensors(image), 0.4, *tensors(phase, noise))
    k_space = np.fft.fftshift(np.fft.fft2(image * np.exp(1j * phase) + noise))
    kept = np.zeros_like(k_space)
    window = tuple(slice(s // 2 - round(0.4 * s) // 2, s // 2 - round(0.4 * s) // 2 + round(0.4 * s)) for s in size)
    kept[window] = k_space[window]
    assert_close(measured[0].numpy(), np.abs(np.fft.ifft2(np.fft.ifftshift(kept))))


def tensors(*arrays):
    return [torch.from_numpy(array)[None] for array in arrays]


def k_space_of_a_spike(**options):
    """Which samples are measured: all samples of a spike's k-space are 1, and a phase cancels the magnitude's fold."""
    spike = torch.zeros(1, 64, 48, dtype=torch.float64)
    spike[0, 0, 0] = 1
    offset = 1000.0  # keeps the magnitude from folding negative values up
    image = acquire_kspace(spike + offset, 0.5, **options) - offset
    return torch.fft.fftshift(torch.fft.fft2(image).real[0])


def test_an_ellipse_measures_less_than_its_rectangle():
    spectrum = k_space_of_a_spike(ellipse=True).numpy()
    x, y = np.meshgrid(np.arange(-32, 32) / 16, np.arange(-24, 24) / 12, indexing="ij")
    inner, outer = x**2 + y**2 < 0.9, x**2 + y**2 > 1.1
    assert np.all(spectrum[inner] > 0.4)
    assert np.all(np.abs(spectrum[outer]) < 0.01)


def test_partial_fourier_halves_what_has_no_partner():
    # of the 24 lines from -12 to 11, 18 are measured: from -6 on; a real image shows the mean with the partner
    spectrum = k_space_of_a_spike(partial_fourier=0.75).numpy()[32]
    np.testing.assert_allclose(spectrum[24 - 6 : 24 + 7][[0, 6, 12]], 1, atol=0.01)
    np.testing.assert_allclose(spectrum[[24 - 7, 24 - 11, 24 + 7, 24 + 11]], 0.5, atol=0.01)
    np.testing.assert_allclose(spectrum[[24 - 13, 24 + 13]], 0, atol=0.01)


def test_a_smooth_phase_is_its_polynomial():
    phase = smooth_phase((5, 3), [1, 2, 3, 4, 5, 6])
    assert phase.shape == (1, 5, 3)
    assert phase[0, 0, 0] == 1 - 2 - 3 + 4 + 5 + 6  # x = y = -1
    assert phase[0, 2, 1] == 1  # the middle
    assert phase[0, 4, 1] == 1 + 2 + 4  # x = 1, y = 0


def test_noise_of_the_magnitude_is_rician():
    size = (128, 127)
    transform = RandMRAcquisitiond("image", (1.0, 1.0), phase_prob=0, noise=0.1, ellipse_prob=0, partial_prob=0)
    transform.set_random_state(3)
    image = torch.zeros(1, *size)
    image[:, :64] = 100
    out = transform({"image": image})
    std = out["mr_acquisition"]["noise"] * 100
    background, bright = out["image"][:, 64:], out["image"][:, :64]
    assert background.mean().item() == pytest.approx(std * (np.pi / 2) ** 0.5, rel=0.03)  # Rayleigh
    assert bright.std().item() == pytest.approx(std, rel=0.05)


def test_drawn_acquisitions_repeat_by_seed_and_use_every_kind():
    image = {"image": torch.rand(1, 24, 33)}
    first, second = (RandMRAcquisitiond("image").set_random_state(1) for _ in range(2))
    drawn = []
    for _ in range(60):
        one, two = first(image), second(image)
        assert_close(one["image"], two["image"])
        drawn.append(one["mr_acquisition"])
    assert image["image"].shape == (1, 24, 33)
    assert 0 < sum(d["phase"] is not None for d in drawn) < 60
    assert 0 < sum(d["ellipse"] for d in drawn) < 60
    assert 0 < sum(d["partial_fourier"] < 1 for d in drawn) < 60
    assert all(0.25 <= d["fraction"] <= 0.5 and 0 <= d["noise"] <= 0.01 for d in drawn)


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
        (lambda: acquire_kspace(torch.zeros(1, 8, 8, 2), 0.5), "Expected slices"),
        (lambda: acquire_kspace(torch.zeros(1, 8, 8), 0.5, partial_fourier=0.4), "partial_fourier must lie in"),
        (lambda: smooth_phase((4, 4), [1, 2]), "6 coefficients"),
        (lambda: RandMRAcquisitiond("image", (0.5, 0.2)), "fraction must be a range"),
        (lambda: RandMRAcquisitiond("image", phase_prob=2), "phase_prob must lie in"),
        (lambda: RandMRAcquisitiond("image", noise=-1), "must not be negative"),
        (lambda: keep_measured_kspace(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9), 0.5), "differ in shape"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
