"""Slices with their neighbors: which ones the network gets, and that slabs, tiles and batches change nothing."""

import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from torch import nn
from torch.testing import assert_close

from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.neighbors import HALO, SLICE_STEPS


class Mean(nn.Module):
    """The weighted mean of a slab: shows which slices it was given."""

    def __init__(self, context):
        super().__init__()
        self.weights = torch.arange(1.0, 2 * context + 2)

    def forward(self, x):
        weights = self.weights[None, :, None, None]
        return (x * weights).sum(dim=1, keepdim=True) / weights.sum()


class Local(nn.Module):
    """Two 3x3 convolutions over a slab, of radius 2, for tiles."""

    def __init__(self, context):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2 * context + 1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1)
        )

    def forward(self, x):
        return self.layers(x)


def volume(slices=7, steps=3.0, size=(13, 9), **meta):
    torch.manual_seed(1)
    steps = np.full(slices - 1, steps) if np.isscalar(steps) else np.asarray(steps)
    known = {} if steps is None else {SLICE_STEPS: steps}
    return MetaTensor(torch.rand(1, *size, slices), meta={**known, **meta})


def expected(values, numbers, context):
    slabs = torch.stack([values[0, ..., row].movedim(-1, 0) for row in numbers])
    return Mean(context)(slabs)[:, 0].movedim(0, -1)[None]  # (1, X, Y, Z)


def test_neighbors_of_a_volume_by_hand():
    image = volume(5, [3, 3, 6, 3])
    numbers = [[0, 0, 0, 1, 2], [1, 0, 1, 2, 1], [0, 1, 2, 2, 2], [3, 3, 3, 4, 3], [4, 3, 4, 4, 4]]
    restored = SliceWiseInferer(context=2, slice_batch_size=2)(image[None], Mean(2))[0]
    assert isinstance(restored, MetaTensor)
    assert_close(restored.as_tensor(), expected(image.as_tensor(), numbers, 2))


def test_collated_volumes_have_neighbors_of_their_own():
    images = [volume(4, 3.0), volume(4, [3, 9, 3])]
    batch = list_data_collate([{"image": image} for image in images])["image"]
    restored = SliceWiseInferer(context=1)(batch, Mean(1))
    for one, image in zip(restored, images, strict=True):
        assert_close(one.as_tensor(), SliceWiseInferer(context=1)(image[None], Mean(1))[0].as_tensor())
    assert not torch.equal(restored[0][..., 1] - images[0][..., 1], restored[1][..., 1] - images[1][..., 1])


def test_single_images_fill_and_slabs_as_channels_are_taken():
    image = torch.rand(3, 1, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(SliceWiseInferer(context=2)(image, Mean(2)), image)  # the mean of copies
        slab = torch.rand(3, 5, 6, 5)
        restored = SliceWiseInferer(context=2, slice_batch_size=2)(slab, Mean(2))
    assert restored.shape == (3, 1, 6, 5)
    assert_close(restored, Mean(2)(slab))
    one = volume(1)
    assert_close(SliceWiseInferer(context=2)(one[None], Mean(2))[0].as_tensor(), one.as_tensor())
    with pytest.raises(ValueError, match="images of one channel, got 3"):
        SliceWiseInferer(context=2)(torch.rand(1, 3, 6, 5), Mean(2))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (MetaTensor(torch.rand(1, 4, 5, 3)), "the distance of its slices is unknown"),
        (volume(3, 9.0), "its slices are 9 mm apart, where the network knows 1 to 5 mm"),
    ],
)
def test_a_volume_without_neighbors_is_noted(image, reason):
    with pytest.warns(UserWarning, match=f"restored without its neighbors: {reason}"):
        restored = SliceWiseInferer(context=1, context_distance=(1, 5))(image[None], Mean(1))
    assert_close(restored[0].as_tensor(), image.as_tensor())


@pytest.mark.parametrize("self_ensemble", [1, 8])
def test_slabs_with_halo_batches_and_tiles_change_nothing(self_ensemble):
    image, options = volume(9, [3, 3, 3, 6, 3, 3, 3, 3], size=(37, 41)), {"context": 2, "self_ensemble": self_ensemble}
    with torch.inference_mode():
        whole = SliceWiseInferer(**options)(image[None], Local(2))[0].as_tensor()
        for start, stop in ((0, 4), (4, 7), (7, 9)):
            low, high = max(0, start - 2), min(9, stop + 2)
            steps = image.meta[SLICE_STEPS][low : high - 1]
            halo = np.array([start - low, high - stop])
            part = MetaTensor(image.as_tensor()[..., low:high], meta={SLICE_STEPS: steps, HALO: halo})
            restored = SliceWiseInferer(slice_batch_size=3, **options)(part[None], Local(2))[0].as_tensor()
            inner = slice(halo[0], restored.shape[-1] - halo[1])
            assert_close(restored[..., inner], whole[..., start:stop], rtol=0, atol=1e-6)
            assert_close(restored[..., : halo[0]], part.as_tensor()[..., : halo[0]], rtol=0, atol=0)  # as it was
        tiled = SliceWiseInferer(tile=(16, 20), halo=2, **options)(image[None], Local(2))[0].as_tensor()
    assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_strength_and_what_was_clipped_are_of_the_middle_slice():
    image = volume(3)
    image[..., 1] += 5  # clipped to 1 for the network
    whole = SliceWiseInferer(context=1)(image[None], Mean(1))[0].as_tensor()
    half = SliceWiseInferer(context=1, strength=0.5)(image[None], Mean(1))[0].as_tensor()
    assert_close(half, (whole + image.as_tensor()) / 2)
    flat = volume(3)
    flat[..., 1] = 0.25
    assert bool((SliceWiseInferer(context=1)(flat[None], Mean(1))[0][..., 1] == 0.25).all())


def test_automatic_tiles_probe_with_neighbors():
    image = volume(3, size=(40, 32))
    restored = SliceWiseInferer(context=1, tile="auto")(image[None], Local(1).eval())
    assert_close(restored, SliceWiseInferer(context=1)(image[None], Local(1)))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="context must be at least 0 and context_distance a range"):
        SliceWiseInferer(context=-1)
    with pytest.raises(ValueError, match="context_distance a range"):
        SliceWiseInferer(context=1, context_distance=(3, 1))
