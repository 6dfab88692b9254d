"""Gray images become three equal channels and come back as one; pictures are distinguished from volumes."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.intensity import ToUnitRanged
from medrestore_monai.transforms import OriginalChannelsd, PictureModalityd, ThreeChannelsd


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (4, 3, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_and_back_is_the_same(shape, channels):
    image = MetaTensor(torch.rand(channels, *shape), affine=torch.diag(torch.tensor([2.0, 2, 5, 1])))
    before = image.clone()
    out = ThreeChannelsd("image")({"image": image, "name": "a"})
    assert out["image"].shape == (3, *shape)
    assert out["name"] == "a"
    torch.testing.assert_close(out["image"].as_tensor()[2], before.as_tensor()[-1], rtol=0, atol=0)
    back = OriginalChannelsd("pred", like="image")({**out, "pred": out["image"]})["pred"]
    torch.testing.assert_close(back.as_tensor(), before.as_tensor(), rtol=0, atol=1e-7)
    torch.testing.assert_close(back.affine, before.affine)
    assert image.shape == before.shape
    assert "channels_before" not in image.meta


def test_channels_that_differ_are_averaged():
    gray = ThreeChannelsd("image")({"image": MetaTensor(torch.zeros(1, 2, 2))})
    pred = torch.tensor([1.0, 2.0, 6.0])[:, None, None].expand(3, 2, 2)
    assert torch.equal(OriginalChannelsd()({**gray, "pred": pred})["pred"].as_tensor(), torch.full((1, 2, 2), 3.0))
    color = ThreeChannelsd("image")({"image": MetaTensor(torch.zeros(3, 2, 2))})
    assert torch.equal(OriginalChannelsd()({**color, "pred": pred})["pred"].as_tensor(), pred)


def test_without_a_note_an_image_counts_as_color():
    data = ThreeChannelsd("image", noted=False)({"image": MetaTensor(torch.zeros(1, 2, 2))})
    data = ThreeChannelsd("image")(data)  # and the first note stands
    assert OriginalChannelsd()({**data, "pred": torch.zeros(3, 2, 2)})["pred"].shape == (3, 2, 2)


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 4), (3,), (0, 4, 4)])
def test_other_numbers_of_channels_are_refused(shape):
    with pytest.raises(ValueError, match="'image' must have 1 channel or 3"):
        ThreeChannelsd("image")({"image": torch.zeros(shape)})


@pytest.mark.parametrize(("name", "shape", "dtype", "expected"), [
    ("a.png", (4, 5, 3), np.uint8, "RGB"), ("a.PNG", (4, 5), np.uint16, "GRAY"), ("a.jpg", (4, 5), np.uint8, "GRAY"),
])  # fmt: skip
def test_pictures_get_the_range_of_their_integers(tmp_path, name, shape, dtype, expected):
    Image.fromarray(np.full(shape, np.iinfo(dtype).max, dtype)).save(tmp_path / name)
    data = PictureModalityd("image")(LoadImageOrSeriesd("image")({"image": str(tmp_path / name)}))
    assert data["image"].meta["modality"] == expected
    scaled = ToUnitRanged("image", modality=None)(data)["image"]
    assert float(scaled.max()) == pytest.approx(1, abs=0.02)


def test_what_is_known_stays_and_volumes_get_nothing():
    said = MetaTensor(torch.zeros(1, 2, 2), meta={"source": "a.png", "modality": "CT"})
    assert PictureModalityd("image")({"image": said})["image"].meta["modality"] == "CT"
    volume = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"source": "a.nii.gz"})
    assert "modality" not in PictureModalityd("image")({"image": volume})["image"].meta


@pytest.mark.parametrize(
    ("source", "modality", "message"),
    [("ct/1.dcm", "CT", "1.dcm is CT: this model is for pictures"), ("a.nii.gz", None, "a.nii.gz is no picture")],
)
def test_a_model_for_pictures_alone_refuses_the_rest(source, modality, message):
    meta = {"source": source} | ({"modality": modality} if modality else {})
    with pytest.raises(ValueError, match=message):
        PictureModalityd("image", only=True)({"image": MetaTensor(torch.zeros(1, 2, 2), meta=meta)})
    picture = MetaTensor(torch.zeros(1, 2, 2), meta={"source": "a.tif"})
    assert PictureModalityd("image", only=True)({"image": picture})["image"].meta["modality"] == "GRAY"
