"""Scans of one body with noise of a known level, texture and place, for the tests of adaptation."""

import numpy as np
import torch

from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, white_slices
from medrestore_monai.transforms.ct.noise import ct_noise_map, noise_spectrum, shape_noise, total_noise_std

SPACING = (1.5, 1.5, 3.0)


def ct_body(size=(161, 150)):
    """A slice of a CT in HU: fat around soft tissue, with a spine and vessels; shape ``(X, Y)``."""
    x, y = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    radius = np.hypot(x / 0.9, y / 0.7)
    slab = np.where(radius < 1, -90.0, -1000.0)
    slab[radius < 0.88] = 50.0
    slab[np.hypot(x, y - 0.4) < 0.1] = 500.0
    slab[np.hypot(x - 0.3, y + 0.1) < 0.03] = 180.0
    return slab


def ct_scan(std=25.0, cutoff=0.3, slices=3, correlation=0.0, seed=1):
    """A noisy scan ``(1, X, Y, Z)`` in HU, the scan without noise, and the standard deviation of its noise."""
    body = torch.from_numpy(ct_body()).float()[None]
    relative = ct_noise_map(body, SPACING[0])
    middle = total_noise_std(relative)[0][80, 60]
    size = (body.shape[1] + 16, body.shape[2] + 16)
    weights = axial_weights(axial_width(correlation, 1.0), 1.0)
    white = torch.from_numpy(white_slices(seed, range(slices), size, weights))
    spectrum = noise_spectrum(size, cutoff, SPACING[0])
    noise = [shape_noise(one, relative * std / middle, spectrum) for one in white]
    clean = body[..., None].expand(-1, -1, -1, slices)
    return clean + torch.stack(noise, dim=-1), clean, total_noise_std(relative)[..., None] * std / middle
