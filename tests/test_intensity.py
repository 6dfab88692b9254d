import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from torch.testing import assert_close

from medrestore_monai.intensity import (
    INTENSITY_RANGES,
    FromUnitRanged,
    IntensityRange,
    ToUnitRanged,
    ToWindowd,
    choose_range,
    scale_from_unit,
    scale_to_unit,
)


def test_every_whole_hu_comes_back_bit_by_bit():
    hu = torch.arange(-32768, 65536, dtype=torch.float32)
    assert torch.equal(scale_from_unit(scale_to_unit(hu, INTENSITY_RANGES["CT"]), INTENSITY_RANGES["CT"]), hu)


def test_scaling_by_hand():
    hu = np.array([-1024, 0, 1024, 3072, 7168], dtype=np.int16)
    scaled = scale_to_unit(hu, INTENSITY_RANGES["CT"])
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert scale_to_unit(torch.tensor([5.0, 40.0]), INTENSITY_RANGES["PT"]).tolist() == [0.25, 2.0]


@pytest.mark.parametrize("upper", [255, 1000, 4095, 30000, 65535])
def test_whole_gray_levels_come_back_after_rounding(upper):
    levels = torch.arange(65536, dtype=torch.float32)
    intensity = IntensityRange("MR", "arbitrary units", 0, upper, (0, upper))
    assert torch.equal(scale_from_unit(scale_to_unit(levels, intensity), intensity).round(), levels)


@pytest.mark.parametrize("largest", [1024, 4095])
def test_mr_that_fits_keeps_its_range(largest):
    assert choose_range(torch.linspace(0, largest, 1000), "MR").upper == 4095


@pytest.mark.parametrize("largest", [100, 1000, 5000, 30000])
def test_mr_that_does_not_fit_is_scaled_by_its_percentile(largest):
    volume = np.linspace(0, largest, 4001, dtype=np.float32).reshape(1, -1)
    assert choose_range(volume, "MR").upper == pytest.approx(0.999 * largest)


def test_mr_of_background_only():
    assert choose_range(torch.zeros(100), "MR").upper == 4095
    nearly = torch.zeros(10000)
    nearly[0] = 7
    assert choose_range(nearly, "MR").upper == 7


@pytest.mark.parametrize(
    ("dtype", "largest", "upper"),
    [
        (None, 1.0, 255),
        ("uint8", 1.0, 255),
        ("float32", 1.0, 1),
        ("float64", 1.2, 1),
        ("uint16", 65535.0, 65535),
        ("uint16", 32768.0, 65535),
        ("uint16", 4095.0, 4095),  # a camera of 12 bit
        ("uint16", 4096.0, 8191),
        ("uint16", 3.0, 255),
        ("int16", 32767.0, 32767),
    ],
)
def test_pictures_use_the_range_of_their_type(dtype, largest, upper):
    intensity = choose_range(torch.tensor([0.0, largest]), "GRAY", dtype)
    assert (intensity.lower, intensity.upper, intensity.window) == (0, upper, (0, upper))


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("float32", [0.0, 255.0], "of type float32 have values from 0 to 1, got 0 to 255"),
        ("float32", [-1024.0, 1.0], "values from 0 to 1, got -1024 to 1"),
        ("int16", [-1024.0, 3000.0], "no value below 0, got int16 from -1024"),
        ("int32", [0.0, 200.0], "8 or 16 bit and no value below 0, got int32"),
    ],
)
def test_what_is_no_picture_is_refused(dtype, values, message):
    with pytest.raises(ValueError, match=message):
        choose_range(torch.tensor(values), "RGB", dtype)


def test_gray_levels_and_labels_are_no_ct():
    with pytest.raises(ValueError, match="do not fit into 8 bit: these are gray levels or labels"):
        choose_range(torch.tensor([0.0, 255.0]), "CT", "uint8")
    assert choose_range(torch.tensor([-1024.0, 1000.0]), "CT", "uint8").unit == "HU"  # with slope and intercept
    doubtful = MetaTensor(torch.rand(1, 4, 4) * 1000, meta={"original_dtype": "int16", "filename_or_obj": "a.nii"})
    with pytest.warns(UserWarning, match="a.nii has no value below 0, though air has -1000 HU"):
        ToUnitRanged("image", "CT")({"image": doubtful})


def test_transforms_keep_meta_data_and_input():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.tensor([[[-1024.0, 0.0], [40.0, 30000.0]]]), affine=affine, meta={"note": "kept"})
    before, meta_before = image.clone(), dict(image.meta)
    data = {"image": image, "other": 1}

    scaled = ToUnitRanged("image", "CT")(data)
    assert scaled["image"].meta["intensity_range"] == [-1024.0, 3072.0]
    assert scaled["image"].meta["note"] == "kept"
    assert float(scaled["image"].max()) > 7  # not clipped
    assert set(image.meta) == set(meta_before)
    assert torch.equal(image, before)

    scaled["pred"] = scaled["image"].clone()
    restored = FromUnitRanged()(scaled)
    assert torch.equal(restored["pred"], image)
    assert "intensity_range" not in restored["pred"].meta
    assert "intensity_range" in restored["image"].meta
    assert_close(restored["pred"].affine, affine)


def test_pairs_share_the_range_of_the_first_key():
    data = {"image": torch.linspace(0, 8000, 101)[None], "label": torch.linspace(0, 9000, 101)[None]}
    scaled = ToUnitRanged(["image", "label"], "MR")(data)
    assert_close(scaled["label"] * 8000 / 9000, scaled["image"], check_dtype=False)
    restored = FromUnitRanged(["image", "label"])(scaled)
    for key, value in data.items():
        assert_close(restored[key].as_tensor(), value, rtol=1e-6, atol=1e-3)


def test_range_survives_batching():
    items = [{"image": torch.linspace(0, top, 11)[None]} for top in (8000.0, 100.0)]
    batch = next(iter(DataLoader(Dataset(items, ToUnitRanged("image", "MR")), batch_size=2)))
    batch["pred"] = batch["image"].clone()
    for item, original in zip(decollate_batch(batch), items, strict=True):
        restored = FromUnitRanged("pred")(item)["pred"]
        assert_close(restored.as_tensor(), original["image"], rtol=1e-6, atol=1e-3)


def test_recorded_range_of_a_whole_volume_is_used():
    slab = MetaTensor(torch.tensor([[0.0, 100.0]]), meta={"intensity_range": [0.0, 8000.0]})
    scaled = ToUnitRanged("image", "MR")({"image": slab})["image"]
    assert float(scaled.max()) == pytest.approx(100 / 8000)


def test_missing_label_may_be_allowed():
    data = {"image": torch.rand(1, 4)}
    assert set(ToUnitRanged(["image", "label"], "CT", allow_missing_keys=True)(data)) == {"image"}
    with pytest.raises(KeyError):
        ToUnitRanged(["image", "label"], "CT")(data)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_values_are_refused_by_file_name(value):
    image = MetaTensor(torch.tensor([[1.0, value]]), meta={"filename_or_obj": "head.nii"})
    with pytest.raises(ValueError, match=r"head\.nii has 1 NaN or infinite"):
        ToUnitRanged("image", "CT")({"image": image})


def test_bad_ranges_are_refused():
    with pytest.raises(ValueError, match="modality must be one of"):
        ToUnitRanged("image", "US")
    with pytest.raises(ValueError, match="PT values in Bq/ml need their SUV per unit"):
        ToUnitRanged("image", "PT")({"image": MetaTensor(torch.rand(1, 4), meta={"unit": "Bq/ml"})})
    with pytest.raises(ValueError, match="values up to 300"):
        choose_range(torch.tensor([300.0]), "GRAY")
    with pytest.raises(ValueError, match="lower must be below upper"):
        IntensityRange("CT", "HU", 1, 1, (0, 1))
    with pytest.raises(ValueError, match="no intensity_range"):
        FromUnitRanged()({"image": torch.rand(1, 4), "pred": torch.rand(1, 4)})


@pytest.mark.parametrize(("modality", "upper"), [("CT", 3072), ("PT", 20), ("MR", 4095)])
def test_the_modality_of_the_image_chooses_its_range(modality, upper):
    image = MetaTensor(torch.tensor([[0.0, 2000.0 if modality == "MR" else 10.0]]), meta={"modality": modality})
    scaled = ToUnitRanged("image", None)({"image": image})["image"]
    assert scaled.meta["intensity_range"][1] == upper
    assert torch.equal(scaled, ToUnitRanged("image", modality)({"image": image})["image"])


def test_an_image_without_a_modality_is_refused():
    with pytest.raises(ValueError, match=r"head\.nii names no modality: give its `modality`: CT, MR or PT"):
        ToUnitRanged("image", None)({"image": MetaTensor(torch.rand(1, 4), meta={"source": "head.nii"})})
    with pytest.raises(ValueError, match="the image 'image' has the modality US"):
        ToUnitRanged("image", None)({"image": MetaTensor(torch.rand(1, 4), meta={"modality": "US"})})


@pytest.mark.parametrize(
    ("modality", "values", "expected"),
    [
        ("CT", [-360.0, -160.0, 40.0, 240.0], [-0.5, 0, 0.5, 1]),
        ("PT", [0.0, 10.0, 30.0], [0, 0.5, 1.5]),
        ("MR", [0.0, 4095.0], [0, 1]),
        ("MR", [0.0, 100.0, 100.0], [0, 1, 1]),  # scaled by its own range
    ],
)
def test_the_window_of_a_modality_becomes_0_to_1(modality, values, expected):
    scaled = ToUnitRanged("image", modality)({"image": torch.tensor([values])})
    out = ToWindowd(["image"], names=["shown"])(scaled)
    assert_close(out["shown"], torch.tensor([expected]).float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(out["image"], scaled["image"])
    assert torch.equal(ToWindowd("image")(scaled)["image"], out["shown"])
    physical = ToWindowd("pred", scaled=False)({**scaled, "pred": torch.tensor([values])})
    assert_close(physical["pred"], torch.tensor([expected]).float(), rtol=1e-4, atol=1e-5)
    assert "intensity_window" not in FromUnitRanged("image")(scaled)["image"].meta


def test_windows_need_a_name_for_each_key_and_a_scaled_image():
    with pytest.raises(ValueError, match="a name for each of 2 keys, got 1"):
        ToWindowd(["image", "label"], names=["shown"])
    with pytest.raises(ValueError, match="'image' has no intensity_window"):
        ToWindowd("image")({"image": torch.rand(1, 4)})
