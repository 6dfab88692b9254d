"""Voxels outside of the networks' range come out with their stored value, whatever a restoration does."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from phantoms import ct_series, ct_volume, pet_series
from tiny_bundle import BUNDLES, NAME, edit_json, make_tiny_bundle

from medrestore_monai.dicom import read_series
from medrestore_monai.intensity import FromUnitRanged, ToUnitRanged
from medrestore_monai.restorer import restore
from medrestore_monai.transforms import KeepOutsided, KeepTotalActivityd, NoteOutsided

SIZE = (44, 36)


def metal_and_padding(slices=3, fraction=0.0):
    """A CT with a circle of padding, a metal clip, and values just at the ends of the range; the mask of both."""
    volume = ct_volume(slices, SIZE)
    x, y = np.meshgrid(*(np.linspace(-1, 1, side) for side in SIZE), indexing="ij")
    volume[x**2 + y**2 > 1.2] = -3024 - fraction
    volume[20:24, 15:18] = 12000 + fraction
    volume[25, 15:18] = 3900 + fraction / 3  # where scaling loses the last bit
    volume[26, 15:17], volume[27, 15:17] = 3072, -1024
    volume = volume.astype(np.float32)
    return volume, (volume < -1024) | (volume > 3072)


def test_what_is_noted_passes_a_loader_and_comes_back_bit_by_bit():
    volume, outside = metal_and_padding(fraction=0.37)
    image = MetaTensor(volume[None], meta={"modality": "CT"})
    noted = NoteOutsided()({"image": image})
    assert noted["outside"]["mask"].sum() == outside.sum() > 100
    scaled = ToUnitRanged("image", "CT")(noted)
    (item,) = decollate_batch(next(iter(DataLoader(Dataset([scaled]), batch_size=1))))
    back = FromUnitRanged("pred")({**item, "pred": item["image"]})
    assert (np.asarray(back["pred"][0])[outside] != volume[outside]).any()  # what scaling alone would lose
    before = back["pred"].clone()
    kept = KeepOutsided()({**back, "pred": back["pred"] + 5})
    np.testing.assert_array_equal(np.asarray(kept["pred"][0])[outside], volume[outside])
    assert torch.equal(kept["pred"][0].as_tensor()[~outside], before[0].as_tensor()[~outside] + 5)
    assert torch.equal(back["pred"].as_tensor(), before.as_tensor())
    assert kept["pred"].meta == back["pred"].meta


@pytest.mark.parametrize(
    "meta",
    [
        {"modality": "PT", "unit": "Bq/ml"},
        {"modality": "PT", "unit": "Bq/ml", "suv_factor": 1e-3},
        {"modality": "MR"},
        {},
    ],
)
def test_what_has_no_range_or_lies_in_it_is_not_noted(meta):
    item = {"image": MetaTensor(torch.full((1, 3, 3), 5000.0), meta=meta), "pred": torch.zeros(1, 3, 3)}
    assert NoteOutsided()(item).keys() == item.keys()
    assert KeepOutsided()(item)["pred"] is item["pred"]


def test_a_result_of_another_shape_is_refused():
    note = {"mask": torch.ones(1, 2, 2, dtype=torch.bool), "values": torch.zeros(4)}
    with pytest.raises(
        ValueError, match=r"'pred' has the shape \(1, 3, 2\), where that of the noted image, \(1, 2, 2\)"
    ):
        KeepOutsided()({"pred": torch.zeros(1, 3, 2), "outside": note})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Tiny bundles that restore CT, with weights that move every voxel, the mean of the body among them."""
    folder = tmp_path_factory.mktemp("bundles")
    roots = {name: make_tiny_bundle(folder, name) for name in (NAME, "all_in_one_restore_rwkv")}
    for root in roots.values():
        edit_json(
            root / "configs" / "inference.json", lambda config: config.update(mean_hu="correct", mean_hu_tolerance=0.0)
        )
    return roots


WRITERS = {
    "int.nii.gz": lambda path, volume: nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4)), path),
    "float.nii": lambda path, volume: nib.save(nib.Nifti1Image(volume, np.eye(4)), path),
    "double.nii": lambda path, volume: nib.save(nib.Nifti1Image(volume.astype(np.float64) - 1e-9, np.eye(4)), path),
    "int.tif": lambda path, volume: tifffile.imwrite(path, volume.astype(np.int16).T, photometric="minisblack"),
    "float.tif": lambda path, volume: tifffile.imwrite(path, volume.T, photometric="minisblack"),
    "int.npy": lambda path, volume: np.save(path, volume.astype(np.int16)),
    "double.npy": lambda path, volume: np.save(path, volume.astype(np.float64) + 1e-9),
    "double.npz": lambda path, volume: np.savez(path, image=volume.astype(np.float64) + 1e-9),
}


def stored_values(path):
    if path.name.endswith((".nii", ".nii.gz")):
        return np.asarray(nib.load(path).dataobj)
    if path.suffix == ".tif":
        return tifffile.imread(path).T
    loaded = np.load(path)
    return loaded if path.suffix == ".npy" else loaded["image"]


SETTINGS = [{}, {"strength": 0.5, "self_ensemble": 2}, {"tile": 16, "halo": 0, "mean_hu": "off"}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bundle", [NAME, "all_in_one_restore_rwkv"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", WRITERS)
def test_every_file_format_keeps_the_stored_value(tmp_path, bundles, bundle, settings, name):
    volume, outside = metal_and_padding(fraction=0.0 if name.startswith("int") else 0.37)
    WRITERS[name](tmp_path / name, volume)
    modality = {"modality": "CT"} if bundle != NAME else {}
    restore(tmp_path / name, tmp_path / f"out-{name}", bundles[bundle], **settings, **modality)
    before, after = stored_values(tmp_path / name), stored_values(tmp_path / f"out-{name}")
    assert before.dtype == after.dtype
    np.testing.assert_array_equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).mean() > 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bundle", [NAME, "all_in_one_restore_rwkv"])
@pytest.mark.parametrize("settings", [*SETTINGS, {"slab": 2}], ids=str)
def test_a_series_keeps_the_stored_value(tmp_path, bundles, bundle, settings):
    volume, outside = metal_and_padding(5)
    ct_series(tmp_path / "in", volume=volume, signed=True, bits_stored=16)
    restore(tmp_path / "in", tmp_path / "out", bundles[bundle], **settings)
    before, after = read_series(tmp_path / "in"), read_series(tmp_path / "out")
    np.testing.assert_array_equal(after.array[outside], volume[outside])
    assert all((before.stored(z) != after.stored(z)).mean() > 0.5 for z in range(5))


def test_the_deblurring_network_for_ct_keeps_it_too(tmp_path):
    volume, outside = metal_and_padding(1)
    np.save(tmp_path / "a.npy", volume[..., 0].astype(np.int16))
    bundle = BUNDLES / "multimodal_deblur_meddeblur"
    restore(tmp_path / "a.npy", tmp_path / "out.npy", bundle, modality="CT")
    after = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(after[outside[..., 0]], volume[..., 0][outside[..., 0]])
    assert (after != volume[..., 0]).mean() > 0.3


TRAINED = {"pet_synthesis_restore_rwkv": 100, "all_in_one_restore_rwkv": 20}  # SUV
HOT = 90000.0  # Bq/ml; the untrained network may make others four times as hot as they were


def hot_pet(slices=5):
    """PET in Bq/ml with a bladder above 20000, noise below zero, and the mask of the former."""
    volume = (ct_volume(slices, SIZE) + 1024).clip(0) * 8 - 100
    volume[20:26, 15:20] = HOT + 7 * np.arange(slices)
    volume[26, 15] = np.nextafter(np.float32(20000), np.float32(3e4))  # the least above
    return volume.astype(np.float32), volume > 20000


@pytest.fixture(scope="module")
def pet_bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pet_bundles")
    names = ("pet_synthesis_restore_rwkv", "all_in_one_restore_rwkv")
    return {name: make_tiny_bundle(folder, name) for name in names}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bundle", ["pet_synthesis_restore_rwkv", "all_in_one_restore_rwkv"])
@pytest.mark.parametrize("name", ["float.nii", "double.nii", "int.nii.gz", "double.npy"])
def test_pet_files_keep_what_is_above_the_range(tmp_path, pet_bundles, bundle, name):
    volume, outside = hot_pet(2)
    WRITERS[name](tmp_path / name, volume)
    modality = {"modality": "PT"} if bundle.startswith("all") else {}
    factor = TRAINED[bundle] / 20000
    restore(tmp_path / name, tmp_path / f"out-{name}", pet_bundles[bundle], suv_factor=factor, **modality)
    before, after = stored_values(tmp_path / name), stored_values(tmp_path / f"out-{name}")
    outside &= before > 20000  # of whole numbers, the least above is the limit itself
    np.testing.assert_array_equal(after[outside], before[outside])
    assert (after[~outside] != before[~outside]).mean() > 0.5
    kept = np.where(outside, 0, before).sum(axis=(0, 1)) / np.where(outside, 0, after).sum(axis=(0, 1))
    np.testing.assert_allclose(kept, 1, atol=2e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"slab": 2}, {"strength": 0.5}], ids=str)
def test_a_pet_series_keeps_what_is_above_the_range(tmp_path, pet_bundles, settings):
    volume, outside = hot_pet()
    pet_series(tmp_path / "in", volume=volume)
    config = pet_bundles["pet_synthesis_restore_rwkv"]
    restore(tmp_path / "in", tmp_path / "out", config, suv_factor=100 / 20000, **settings)
    before, after = read_series(tmp_path / "in").array, read_series(tmp_path / "out").array
    hot = outside & (before > 20000)
    assert hot.sum() >= 5 * 30
    np.testing.assert_array_equal(after[hot], before[hot])
    assert (after[~hot] != before[~hot]).mean() > 0.5
    inside = [np.where(hot, 0, array).sum(axis=(0, 1), dtype=np.float64) for array in (before, after)]
    np.testing.assert_allclose(inside[1], inside[0], rtol=1e-3)


def test_activity_is_kept_among_the_voxels_that_change():
    image = torch.tensor([[[40.0, 4.0], [6.0, 30.0]]])
    restored = torch.tensor([[[39.0, 4.0], [1.0, 31.0]]])
    note = {"mask": image > 20, "values": image[image > 20]}
    item = {"image": image / 20, "pred": restored / 20, "outside": note}
    kept = KeepOutsided()({**item, "pred": KeepTotalActivityd("pred")(item)["pred"] * 20})["pred"]
    torch.testing.assert_close(kept, torch.tensor([[[40.0, 8.0], [2.0, 30.0]]]))


def test_slices_that_were_read_for_context_only_are_not_noted():
    image = MetaTensor(torch.zeros(1, 2, 2, 5), meta={"modality": "CT", "halo": np.array([1, 2])})
    image[..., 0], image[0, 1, 0, 2], image[..., 4] = -3000, 4000, 5000
    note = NoteOutsided()({"image": image})["outside"]
    assert note["mask"].shape == (1, 2, 2, 2)
    assert note["mask"].nonzero().tolist() == [[0, 1, 0, 1]]
    assert note["values"].tolist() == [4000]
