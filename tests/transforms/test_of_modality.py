"""Steps for one modality leave the images of others alone, and need to know which is which."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandFlipd

from medrestore_monai.transforms import OfModalityd

DOUBLE = Lambdad("image", lambda image: 2 * image)


def item(**meta):
    return {"image": MetaTensor(torch.ones(1, 2, 2), meta=meta)}


def test_only_images_of_the_modality_are_changed():
    step = OfModalityd("MR", DOUBLE)
    for modality, value in (("MR", 2), ("CT", 1), ("PT", 1)):
        data = item(modality=modality)
        assert float(step(data)["image"].mean()) == value
        assert float(data["image"].mean()) == 1


def test_an_image_of_no_modality_is_refused():
    with pytest.raises(ValueError, match=r"brain\.nii names no modality: give its `modality`: CT, MR or PT"):
        OfModalityd("MR", DOUBLE)(item(source="brain.nii"))
    with pytest.raises(ValueError, match="the image 'image' has the modality US"):
        OfModalityd("MR", DOUBLE)(item(modality="US"))
    with pytest.raises(ValueError, match="the image 'label' names no modality"):
        OfModalityd("MR", DOUBLE, like="label")({"label": torch.ones(1, 2, 2)})


@pytest.mark.parametrize("random", [RandFlipd("image"), Compose([DOUBLE, RandFlipd("image")])])
def test_what_draws_at_random_is_refused(random):
    with pytest.raises(TypeError, match="must not draw at random"):
        OfModalityd("MR", random)
