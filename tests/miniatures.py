"""Data for the trainings of the shipped bundles, as small as they may be."""

import nibabel as nib
import numpy as np
from phantoms import ct_volume
from PIL import Image

AFF_NAME, MLFF_NAME, MED_NAME = "rgb_deblur_aff_unet_rwkv", "rgb_deblur_mlff_unet", "multimodal_deblur_meddeblur"


def write_volumes(folder, modality):
    """Three patients with two slices each, as NIfTI files in the unit of the modality."""
    hu = ct_volume(2, 96)
    values = {"CT": hu, "MR": (hu + 1024).clip(0) * 2, "PT": (hu + 1024).clip(0) / 200}[modality]
    for patient in ("p1", "p2", "p3"):
        (folder / patient).mkdir(parents=True)
        image = nib.Nifti1Image(values.astype(np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
        nib.save(image, folder / patient / "image.nii.gz")


def pixels(*shape, dtype=np.uint8, seed=0):
    """A smooth picture with its full range in use."""
    noise = np.random.default_rng(seed).random(shape)
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(4))
    unit = (noise - noise.min()) / (noise.max() - noise.min())
    return np.rint(unit * np.iinfo(dtype).max).astype(dtype)


def write_clean(folder, sides=(96, 101)):
    """Two collections of unequal size, color and gray."""
    for part, count in (("train", 3), ("validation", 1), ("test", 1)):
        for number in range(count):
            for patient, shape in (("blood_1", (*sides, 3)), ("mr_2", sides))[: 1 if number else 2]:
                path = folder / part / patient / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(*shape, seed=number)).save(path)
    return folder


def write_recipe_data(name, folder):
    """Data as the paper of the bundle has them, in miniature."""
    if name == AFF_NAME:
        arrays = {f"{part}_images": pixels(28, 28, 9)[None].repeat(3, 0)[..., :3] for part in ("train", "val", "test")}
        np.savez(folder / "pathmnist.npz", **arrays)
    elif name == MLFF_NAME:
        for scene in ("GOPR1", "GOPR2", "GOPR3"):
            for side in ("blur", "sharp"):
                path = folder / "train" / scene / side / "000001.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(pixels(260, 300, 3)).save(path)
    else:
        write_clean(folder, (140, 90))
    return folder
