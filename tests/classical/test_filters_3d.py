"""3D filters are those of SciPy and scikit-image, in mm where they say so, and on one slice those in 2D."""

import numpy as np
import pytest
import torch
from phantoms import body_phantom
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from medrestore_monai.classical import Classical
from medrestore_monai.classical.filters_3d import gaussian_3d, non_local_means_3d, total_variation_3d

IN_2D = {
    "gaussian_3d": ("gaussian", {"sigma_mm": 3.0}, {"sigma": 1.5}),
    "total_variation_3d": ("total_variation", {"weight": 0.1}, {"weight": 0.1}),
    "non_local_means_3d": ("non_local_means", {"h": 0.08}, {"h": 0.08}),
}
SPACING = (2.0, 2.0, 5.0)


def stack(slices=5, size=(37, 29), noise=0.06):
    """Shape (1, X, Y, Z), 0.3 to 0.7: a body that changes slowly along Z, and the same with independent noise."""
    plane = 0.3 + 0.4 * (body_phantom(size).clip(-200, 300) + 200) / 500
    clean = np.stack([plane * (1 - 0.01 * z) for z in range(slices)], axis=-1)[None].astype(np.float32)
    noisy = clean + noise * np.random.default_rng(0).standard_normal(clean.shape)
    return clean, noisy.astype(np.float32)


def test_gaussian_is_isotropic_in_mm_and_repeats_the_borders():
    _, noisy = stack()
    ours = gaussian_3d(noisy, (1.5, 1.2, 4.0), sigma_mm=3.0)
    expected = gaussian_filter(noisy[0], (2.0, 2.5, 0.75), mode="nearest")
    np.testing.assert_allclose(ours[0], expected, atol=1e-6)
    # 5 mm of a whole scanner's filter, on cubes of 1 mm: one voxel spreads to half its peak 2.5 mm away
    point = np.zeros((1, 31, 31, 31))
    point[0, 15, 15, 15] = 1
    spread = gaussian_3d(point, (1.0, 1.0, 1.0), sigma_mm=5 / 2.3548)
    profile = spread[0, 15, 15]
    assert np.interp(17.5, np.arange(31), profile) / profile[15] == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_total_variation_and_non_local_means_are_those_of_scikit_image():
    _, noisy = stack()
    expected = denoise_tv_chambolle(noisy[0], weight=0.1)
    np.testing.assert_allclose(total_variation_3d(noisy, 0.1)[0], expected, atol=1e-5)
    # far from the ends of the stack, where scikit-image mirrors and we repeat
    _, noisy = stack(15)
    expected = denoise_nl_means(noisy[0], patch_size=3, patch_distance=3, h=0.08, fast_mode=True)
    ours = non_local_means_3d(noisy, 0.08)
    np.testing.assert_allclose(ours[0, ..., 5:-5], expected[..., 5:-5], atol=1e-5)
    assert np.abs(ours[0, ..., 0] - expected[..., 0]).max() > 1e-3


@pytest.mark.slow
def test_the_ends_of_a_stack_are_repeated():
    """A slice that lies between copies of itself is restored as a stack of such copies is, also at its ends."""
    _, noisy = stack(1)
    same = np.repeat(noisy, 9, axis=-1)
    for name, (_, values, _) in IN_2D.items():
        restored = Classical(name, values)(torch.from_numpy(same)[None], spacing=SPACING)[0].numpy()
        atol = 2e-3 if name == "total_variation_3d" else 1e-6  # it stops when it changes little
        np.testing.assert_allclose(restored, np.repeat(restored[..., 4:5], 9, axis=-1), atol=atol, err_msg=name)


@pytest.mark.parametrize("name", IN_2D)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stack_of_one_slice_is_restored_as_in_2d(name, channels):
    _, noisy = stack(channels)
    image = torch.from_numpy(np.moveaxis(noisy, -1, 1).copy())  # slices as channels, (1, C, X, Y)
    in_2d, values, values_2d = IN_2D[name]
    expected = Classical(in_2d, values_2d)(image)
    method = Classical(name, values)
    for batch in (image, image[..., None]):
        ours = method(batch, spacing=SPACING)
        assert ours.shape == batch.shape
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.slow
def test_neighbors_with_noise_of_their_own_help():
    clean, noisy = stack(9, (41, 32))

    def psnr(name, values):
        volume = torch.from_numpy(noisy)
        if name.endswith("3d"):
            restored = Classical(name, values).restore_volume(volume, (1.0, 1.0, 1.0))[0].numpy()
        else:
            batch = volume[0].movedim(-1, 0)[:, None]
            restored = Classical(name, values)(batch)[:, 0].movedim(0, -1).numpy()
        return peak_signal_noise_ratio(clean[0], restored, data_range=1)

    def best(name, parameter, grid):
        return max(psnr(name, {parameter: value}) for value in grid)

    grid = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    assert best("gaussian_3d", "sigma_mm", grid) > best("gaussian", "sigma", grid) + 1
    grid = (0.03, 0.05, 0.1, 0.15, 0.2)
    assert best("total_variation_3d", "weight", grid) > best("total_variation", "weight", grid) + 1
    assert best("non_local_means_3d", "h", grid) > best("non_local_means", "h", grid) + 0.5


def test_values_outside_of_the_range_and_slices_of_one_value_stay():
    _, noisy = stack(4)
    volume = torch.from_numpy(noisy)
    volume[0, 20, 20, 1] = 3.0  # metal
    volume[..., 3] = 0.25
    restored = Classical("gaussian_3d", {"sigma_mm": 4.0}).restore_volume(volume, SPACING)
    clipped = volume.clamp(0, 1)
    expected = gaussian_filter(clipped[0].numpy(), (2.0, 2.0, 0.8), mode="nearest") + (volume - clipped)[0].numpy()
    np.testing.assert_allclose(restored[0, ..., :3], expected[..., :3], atol=1e-6)
    assert torch.equal(restored[..., 3], volume[..., 3])


def test_volumes_are_for_methods_that_see_neighbors():
    with pytest.raises(ValueError, match=r"gaussian takes a batch \(N, C, X, Y\), got the shape \(1, 1, 8, 8, 3\)"):
        Classical("gaussian", {"sigma": 1.0})(torch.zeros(1, 1, 8, 8, 3))
