"""A site of a few people, and a training of a tiny bundle that takes seconds."""

import nibabel as nib
import numpy as np
from phantoms import ct_volume

SECRET = "Muster_Anna"
# the network is drawn at random, so that a few large steps help a lot
QUICK = {
    "patch_size": [32, 32],
    "batch_size": 2,
    "epoch_length": 4,
    "val_interval": 1,
    "parameters": "all",
    "learning_rate": 0.01,
    "scheduler#warmup_steps": 1,
    "average#momentum": 0.5,
}


def save(path, hu):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu.astype(np.float32), np.diag([-0.75, -0.75, 2.5, 1.0])), path)


def write_site(root, people=7, slices=4, size=49, empty=0):
    """One folder a person, the name of which is nobody's business; the first slices of each may be empty."""
    for person in range(people):
        volume = ct_volume(slices, size) + 3 * person
        volume[..., :empty] = -1000
        save(root / f"{SECRET}{person}" / "ct.nii.gz", volume)
    return root


def write_pairs(root, people=7, slices=4, size=49, shift=0):
    """The same as pairs; the degraded images are noisy, and shifted by some pixels."""
    rng = np.random.default_rng(0)
    for person in range(people):
        clean = ct_volume(slices, size) + 3 * person
        save(root / f"{SECRET}{person}" / "HQ" / "ct.nii.gz", clean)
        noisy = np.roll(clean, shift, axis=0) + rng.normal(0, 20, clean.shape)
        save(root / f"{SECRET}{person}" / "LQ" / "ct.nii.gz", noisy)
    return root
