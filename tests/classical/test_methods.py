import numpy as np
import pytest
import torch
from phantoms import body_phantom
from scipy.ndimage import convolve, gaussian_filter
from scipy.signal.windows import tukey
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch.testing import assert_close

from medrestore_monai.classical import BASELINES, GRIDS, KNOWN, METHODS, Classical
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.transforms.blur.kernels import linear_motion_kernel
from medrestore_monai.transforms.mri_kspace import keep_measured_kspace, truncate_kspace

DEFAULTS = {name: values for one in BASELINES.values() for name, values in one.items()}


def picture(size=(45, 38), channels=1):
    """Shape (1, C, X, Y), 0 to 1; every channel is different."""
    plane = (body_phantom(size).clip(-200, 300) + 200) / 500
    return torch.from_numpy(np.stack([plane, plane[::-1], plane**2][:channels]))[None].float()


def noisy(clean, sigma=0.08):
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def psnr(image, clean):
    return peak_signal_noise_ratio(clean.numpy(), image.numpy(), data_range=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_method_keeps_shape_and_type_and_its_input_and_repeats(name, channels):
    image = noisy(picture(channels=channels)).expand(2, -1, -1, -1).clone()
    before = image.clone()
    method = Classical(name, DEFAULTS[name])
    restored = method(image)
    assert restored.shape == image.shape
    assert restored.dtype == torch.float32
    assert torch.isfinite(restored).all()
    assert torch.equal(image, before)
    assert torch.equal(restored, method(image))
    assert torch.equal(restored[0], restored[1])


@pytest.mark.parametrize("name", DEFAULTS)
def test_parameters_have_a_grid(name):
    assert all(min(GRIDS[p]) <= value <= max(GRIDS[p]) for p, value in DEFAULTS[name].items() if p not in KNOWN)


def test_filters_are_those_of_the_libraries():
    image = noisy(picture())
    plane = image[0, 0].double().numpy()
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    expected = {
        ("gaussian", 1.3): gaussian_filter(plane, 1.3, mode="nearest"),
        ("total_variation", 0.1): denoise_tv_chambolle(plane, weight=0.1),
        ("non_local_means", 0.1): denoise_nl_means(plane, h=0.1, **options),
    }
    for (name, value), result in expected.items():
        (parameter,) = DEFAULTS[name]
        ours = Classical(name, {parameter: value})(image)[0, 0].numpy()
        np.testing.assert_allclose(ours, result, atol=1e-6, err_msg=name)
    ours = Classical("unsharp_masking", {"sigma": 1.3, "amount": 2.0})(image)[0, 0].numpy()
    np.testing.assert_allclose(ours, 3 * plane - 2 * expected["gaussian", 1.3], atol=1e-5)


def test_median_takes_a_disk_and_bilateral_what_is_alike():
    image = picture((13, 9))
    plane = image[0, 0].double().numpy()
    framed = np.pad(plane, 1, mode="edge")
    cross = np.stack([framed[1:-1, 1:-1], framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]])
    median = Classical("median", {"radius": 1.3})(image)[0, 0].numpy()
    np.testing.assert_allclose(median, np.median(cross, axis=0), atol=1e-6)
    # where every value counts as alike, the plain average: a Gaussian cut off after two standard deviations
    smooth = Classical("bilateral", {"sigma": 1.0, "spread": 1e3})(image - 0.5)[0, 0].numpy()
    weights = np.exp(-np.add.outer(*[np.arange(-2, 3) ** 2] * 2) / 2)
    expected = convolve(plane - 0.5, weights / weights.sum(), mode="nearest")
    np.testing.assert_allclose(smooth, expected, atol=1e-6)
    sharp = Classical("bilateral", {"sigma": 1.0, "spread": 1e-4})(image)[0, 0].numpy()
    np.testing.assert_allclose(sharp, plane, atol=1e-4)


def test_apodization_is_a_tukey_window_on_the_measured_lines():
    image = picture((40, 27))
    coarse = truncate_kspace(image[0], 0.4)[None]
    # an even and an odd count of lines: 16 of 40 and 11 of 27
    windows = [tukey(17, 0.5)[:-1], tukey(23, 0.5)[1::2]]
    full = np.zeros((40, 27))
    full[20 - 8 : 20 + 8, 13 - 5 : 13 + 6] = np.outer(*windows)
    expected = np.fft.ifft2(np.fft.fft2(coarse[0, 0].numpy()) * np.fft.ifftshift(full)).real
    ours = Classical("apodization", {"fraction": 0.4, "taper": 0.5})(coarse)[0, 0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (61, 50)])
def test_pocs_keeps_the_measured_kspace_and_comes_closer(size):
    clean = picture(size)
    coarse = truncate_kspace(clean[0], 0.5)[None]
    restored = Classical("pocs_total_variation", {"fraction": 0.5, "weight": 0.003})(coarse)
    assert psnr(restored, clean) > psnr(coarse, clean) + 0.3
    assert_close(restored[0], keep_measured_kspace(restored[0], coarse[0], 0.5), rtol=0, atol=1e-6)
    assert (restored - coarse).abs().max() > 0.01


def test_denoising_beats_the_noise():
    clean = picture((64, 51))
    image = noisy(clean)
    for name, values in (
        ("gaussian", {"sigma": 0.7}),
        ("total_variation", {"weight": 0.1}),
        ("non_local_means", {"h": 0.08}),
    ):
        assert psnr(Classical(name, values)(image), clean) > psnr(image, clean) + 2, name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("wiener", {"sigma": 1.0, "balance": 1e-3}),
        ("unsupervised_wiener", {"sigma": 1.0}),
        ("richardson_lucy", {"sigma": 1.0, "iterations": 30}),
    ],
)
def test_deconvolution_undoes_a_known_blur_without_a_shift(name, values):
    clean = picture((64, 51))
    kernel = linear_motion_kernel(7, 30)
    blurred = torch.from_numpy(convolve(clean[0, 0].numpy(), kernel, mode="mirror"))[None, None]
    blurred = noisy(blurred, 0.003)
    restored = Classical(name, values)(blurred, psf=kernel)
    assert psnr(restored, clean) > psnr(blurred, clean) + 3
    shifted = max(psnr(restored.roll(step, axis), clean) for step in (-1, 1) for axis in (2, 3))
    assert psnr(restored, clean) > shifted


def test_counts_are_restored_without_a_bias():
    rng = np.random.default_rng(0)
    clean = torch.full((1, 1, 64, 64), 0.02)
    counts = torch.from_numpy(rng.poisson(clean.numpy() / 0.01) * 0.01).float()  # two counts a pixel
    restored = Classical("anscombe_non_local_means", {"gain": 0.01, "h": 2.0})(counts)
    assert float(restored.mean()) == pytest.approx(0.02, rel=0.05)
    assert float(restored.std()) < float(counts.std()) / 3


def test_bicubic_keeps_what_is_smooth():
    x, y = np.meshgrid(np.linspace(0, 3, 60), np.linspace(0, 3, 44), indexing="ij")
    smooth = torch.from_numpy(np.sin(x) * np.cos(y))[None, None].float()
    restored = Classical("bicubic", {"factor": 4})(smooth)
    np.testing.assert_allclose(restored[..., 8:-8, 8:-8], smooth[..., 8:-8, 8:-8], atol=0.01)


def test_stands_where_a_network_stands():
    volume = noisy(picture())[..., None].repeat(1, 1, 1, 1, 3)
    method = Classical("gaussian", {"sigma": 1.0})
    restored = SliceWiseInferer(clip_range=None)(volume, method, psf=np.ones((3, 3)))
    assert torch.equal(restored[..., 1], method(volume[..., 1]))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sharpen", {}, "one of gaussian, unsharp_masking"),
        ("gaussian", {}, "gaussian takes sigma, got nothing"),
        ("wiener", {"sigma": 1.0}, "wiener takes sigma, balance, got sigma"),
        ("gaussian", {"sigma": 0.0}, "must be a number above 0"),
        ("gaussian", {"sigma": float("inf")}, "must be a number above 0"),
        ("gaussian", {"sigma": "1"}, "must be a number above 0"),
    ],
)
def test_bad_parameters_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        Classical(name, values)


def test_bm3d_only_where_its_package_is(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "bm3d" in METHODS
    with pytest.raises(RuntimeError, match="package bm3d"):
        Classical("bm3d", {"noise": 0.01})
