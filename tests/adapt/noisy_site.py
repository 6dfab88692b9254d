"""A site of a few people whose CT has noise of a known level, and a bundle that knows no limits of its training."""

import nibabel as nib
import numpy as np
import torch
from adapt_site import SECRET
from scipy.ndimage import gaussian_filter
from tiny_bundle import edit_json, make_tiny_bundle

from medrestore_monai.transforms.ct.noise import ct_noise_map, noise_spectrum, shape_noise, total_noise_std

PIXEL = 1.5
QUICK = {
    "patch_size": [32, 32],
    "batch_size": 2,
    "epoch_length": 2,
    "val_interval": 1,
    "scheduler#warmup_steps": 1,
    "average#momentum": 0.5,
}


def clean_body(person, size=(161, 150)):
    """A slice of a person, whose shape and vessels are his own; shape ``(X, Y)``, HU."""
    rng = np.random.default_rng(person)
    x, y = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    wide, high, turn = rng.uniform(0.8, 0.95), rng.uniform(0.65, 0.8), rng.uniform(-0.4, 0.4)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    radius = np.hypot(x / wide, y / high)
    body = np.where(radius < 1, -90.0, -1000.0)
    body[radius < rng.uniform(0.85, 0.92)] = 50.0
    body[np.hypot(x, (y - 0.4) / rng.uniform(0.7, 1.3)) < 0.1] = 500.0
    for _ in range(3):
        at = rng.uniform(-0.4, 0.3, 2)
        body[np.hypot(x - at[0], y - at[1]) < 0.04] = rng.uniform(100, 200)
    return gaussian_filter(body, 0.5)


def noisy_person(person, slices=4, std=25.0, cutoff=0.3, body=clean_body):
    """Return a noisy volume of a person in HU and the same without noise, both of shape ``(X, Y, Z)``."""
    clean = torch.from_numpy(body(person)).float()[None]
    relative = ct_noise_map(clean, PIXEL)
    relative = relative * std / total_noise_std(relative)[0, 80, 60]
    size = (clean.shape[1] + 16, clean.shape[2] + 16)
    generator = torch.Generator().manual_seed(100 + person)
    spectrum = noise_spectrum(size, cutoff, PIXEL)
    noise = [shape_noise(torch.randn(size, generator=generator), relative, spectrum)[0] for _ in range(slices)]
    repeated = clean[0][..., None].expand(-1, -1, slices)
    return (repeated + torch.stack(noise, dim=-1)).numpy(), repeated.numpy()


def save(path, hu):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-PIXEL, -PIXEL, 3.0, 1.0])
    nib.save(nib.Nifti1Image(hu.astype(np.float32), affine), path)


def write_noisy_site(root, people=7, change=None, **options):
    """One folder a person; ``change`` is done to each volume."""
    for person in range(people):
        volume = noisy_person(person, **options)[0]
        save(root / f"{SECRET}{person}" / "ct.nii.gz", volume if change is None else change(volume))
    return root


def make_open_bundle(folder, **settings):
    """A tiny bundle whose card does not say what it was trained on."""
    root = make_tiny_bundle(folder, **settings)
    edit_json(root / "configs" / "metadata.json", lambda metadata: metadata.pop("trained_on", None))
    return root
