"""Slabs: the middle slice with its true neighbors, copies for those that are missing or left out."""

import pytest
import torch

from medrestore_monai.transforms import ContextChannelsd, RandPETLowCountd, RandSlabCropd

X, Y, Z = 13, 11, 6


def coded():
    """A volume whose voxels encode where they are: 100 z + 10 x + y, and a map of two channels on the same grid."""
    x, y, z = torch.meshgrid(torch.arange(X), torch.arange(Y), torch.arange(Z), indexing="ij")
    volume = (10000 * z + 100 * x + y).float()[None]
    return {"label": volume, "map": torch.cat([volume, -volume])}


def test_slices_are_true_neighbors_or_copies_of_the_middle():
    crop, seen = RandSlabCropd(["label", "map"], (5, 7), context=2), set()
    for seed in range(300):
        out = crop.set_random_state(seed)(coded())
        assert out["label"].shape == (1, 5, 7, 5)
        assert torch.equal(out["map"][0], out["label"][0])
        numbers = (out["label"][0, 0, 0] // 10000).int().tolist()
        assert numbers == out["slab"]
        middle = numbers[2]
        steps = [number - middle for number in numbers]
        forward = steps if max(steps[3:]) > 0 or min(steps[:2]) < 0 else steps[::-1]
        for offset, step in zip(range(-2, 3), forward, strict=True):
            assert step in (0, offset)
            assert step == 0 or 0 <= middle + offset < Z
        seen.add(tuple(steps))
        plane = out["label"][0, :, :, 2] % 10000  # in plane, a patch as it was
        assert torch.equal(plane - plane[0, 0], torch.arange(5)[:, None] * 100.0 + torch.arange(7.0))
    expected = {(-2, -1, 0, 1, 2), (2, 1, 0, -1, -2), (0, 0, 0, 0, 0), (0, 0, 0, 1, 2), (0, -1, 0, 1, 2)}
    assert expected <= seen


def test_every_slice_is_the_middle_of_some_slab_and_nothing_is_dropped_if_not_wished():
    crop = RandSlabCropd("label", (X, Y), context=1, drop_prob=0, flip_prob=0)
    slabs = {tuple(crop.set_random_state(seed)({"label": coded()["label"]})["slab"]) for seed in range(200)}
    assert slabs == {(max(z - 1, 0), z, min(z + 1, Z - 1)) for z in range(Z)}
    assert RandSlabCropd("label", (2, 2), 0)({"label": torch.zeros(1, 5, 5)})["label"].shape == (1, 2, 2, 1)


@pytest.mark.parametrize("size", [(0, 0), (0, 7), (X + 1, 7)])
def test_a_side_of_0_or_beyond_the_volume_is_whole(size):
    out = RandSlabCropd("label", size, 1, drop_prob=0, flip_prob=0)({"label": coded()["label"]})
    assert out["label"].shape == (1, X, size[1] or Y, 3)
    if size == (0, 0):
        assert torch.equal(out["label"], coded()["label"][..., out["slab"]])


def test_copies_get_the_noise_of_what_they_copy():
    image = torch.full((1, 20, 18, 1), 3.0)
    out = RandSlabCropd(["image"], (20, 18), 2)({"image": image})
    noisy = RandPETLowCountd("image", spacing=4.0).set_random_state(0)(out)["image"]
    assert all(torch.equal(noisy[..., place], noisy[..., 2]) for place in range(5))
    assert not torch.equal(noisy[..., 2], out["image"][..., 2])


def test_channels_are_the_slices_and_the_label_is_the_middle():
    slab = torch.arange(5.0).expand(1, 3, 4, 5)
    out = ContextChannelsd("image", "label")({"image": slab, "label": slab + 10})
    assert out["image"].shape == (5, 3, 4)
    assert out["image"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert out["label"].shape == (1, 3, 4)
    assert bool((out["label"] == 12).all())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="context not negative"):
        RandSlabCropd("label", (3, 3), -1)
    with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
        RandSlabCropd("label", (3, 3), 1, drop_prob=2)
    with pytest.raises(ValueError, match="must be of one size"):
        RandSlabCropd(["label", "map"], (3, 3), 1)({"label": torch.zeros(1, 5, 5, 2), "map": torch.zeros(1, 5, 6, 2)})
    with pytest.raises(ValueError, match="one channel"):
        ContextChannelsd("image", "image")({"image": torch.zeros(2, 3, 3, 5)})
    with pytest.raises(ValueError, match="must be a slab"):
        ContextChannelsd("image", "image")({"image": torch.zeros(1, 3, 3, 4)})
