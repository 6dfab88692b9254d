"""The pictures for MedDeblur: all modalities, whole patients in one part, windows as stated."""

import importlib
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medrestore_monai.data import training_slices

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "train"
NAME = "prepare_multimodal_training_data"
MR = (
    "mri_brain_t1_studyforrest",
    "mri_breast_dce",
    "mri_thorax_seg3d",
    "mri_brain_t1gd_vsseg",
    "mri_abdomen_t2_cmbcrc",
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module(NAME)
    for name in (NAME, "prepare_mri_training_data", "prepare_rgb_training_data", "preparing"):
        sys.modules.pop(name, None)


@pytest.fixture
def source(tmp_path):
    root, random = tmp_path / "in", np.random.default_rng(0)
    for folder in ("rgb_histology_histolab", "rgb_nuclei_dsb2018", "rgb_blood_bccd", "xray_pneumoniamnist", *MR):
        (root / folder).mkdir(parents=True)
    for number in range(5):
        pixels = random.integers(0, 256, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).save(root / "rgb_histology_histolab" / f"t{number}-level0.png")
        Image.fromarray(pixels).save(root / "rgb_blood_bccd" / f"b{number}.jpg")
        Image.fromarray(np.repeat(pixels[..., :1], 3, axis=2)).save(root / "rgb_nuclei_dsb2018" / f"n{number}.png")
    thumbnails = random.integers(0, 256, (6, 28, 28), np.uint8)
    np.savez(root / "xray_pneumoniamnist" / "pneumoniamnist_28_trainval.npz", train_images=thumbnails)
    (root / "ct_lung_tcga").mkdir()
    stored = np.zeros((10, 6, 8), np.int16)
    stored[:, 1, 2] = 1024 + 40  # the middle of the soft tissue window
    np.savez(
        root / "ct_lung_tcga" / "ct_slices.npz", stored=stored, rescale_slope=[1.0] * 10, rescale_intercept=[-1024] * 10
    )
    cards = [{"patient": f"P{number // 2}"} for number in range(10)]
    (root / "ct_lung_tcga" / "meta.json").write_text(json.dumps(cards))
    for folder in MR:
        volume = random.integers(200, 300, (8, 6, 5)).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), root / folder / "v.nii.gz")
    return root


def test_every_modality_is_in_every_part_and_no_patient_in_two(script, source, tmp_path):
    out = tmp_path / "out"
    script.main([str(source), str(out), "--slices", "3", "--xray", "6"])
    parts = {part: training_slices(out, part) for part in ("train", "validation", "test")}
    groups = {part: {item["patient"] for item in items} for part, items in parts.items()}
    for found in groups.values():
        assert {group.split("_")[0] for group in found} == {"histology", "nuclei", "blood", "xray", "ct", "mr"}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    assert not groups["validation"] & groups["test"]
    assert len(list(out.rglob("mr_*/*.png"))) == 5 * 3
    windows = {part: {path.stem[-4:] for path in (out / part).glob("ct_*/*.png")} for part in parts}
    assert windows == {"train": {"soft", "wide"}, "validation": {"soft"}, "test": {"soft"}}


def test_pictures_hold_what_the_source_held(script, source, tmp_path):
    script.main([str(source), str(tmp_path / "out"), "--xray", "6"])
    soft = np.asarray(Image.open(next((tmp_path / "out").rglob("ct_*/*_soft.png"))))
    expected = np.zeros((6, 8))
    expected[1, 2] = 128  # (40 + 160) / 400 of 255, rounded to even
    np.testing.assert_array_equal(soft, expected)
    assert Image.open(next((tmp_path / "out").rglob("xray_*/*.png"))).size == (112, 112)
    assert Image.open(next((tmp_path / "out").rglob("nuclei_*/*.png"))).mode == "L"
    assert Image.open(next((tmp_path / "out").rglob("blood_*/*.png"))).mode == "RGB"


def test_the_papers_size_of_the_test_part_alone(script, source, tmp_path):
    script.main([str(source), str(tmp_path / "out"), "--side", "128", "--test-only"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test"]
    assert {Image.open(path).size for path in (tmp_path / "out").rglob("*.png")} == {(128, 128)}


def test_more_people_and_pictures_train_and_leave_the_other_parts_alone(script, source, tmp_path):
    """Of folders by part: who trains there, is not among the collections' people and was not drawn upon CT."""
    random = np.random.default_rng(1)
    for folder, names in {"ct": ("P0", "C9"), "mr": ("studyforrest-02", "M9", "upon_P1")}.items():
        for name in names:
            volume = random.integers(-100, 100, (7, 5, 9)).astype(np.int16)
            (tmp_path / folder / "train" / name).mkdir(parents=True)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / folder / "train" / name / "v.nii.gz")
    (source / "micro_cellprofiler").mkdir()
    stain = random.integers(0, 3000, (9, 7)).astype(np.uint16)
    Image.fromarray(stain).save(source / "micro_cellprofiler" / "cells.tif")
    arguments = [str(source), "--slices", "3", "--xray", "6"]
    script.main([*arguments, str(tmp_path / "few")])
    more = ["--ct", str(tmp_path / "ct"), "--mr", str(tmp_path / "mr"), "--fluorescence"]
    script.main([*arguments, str(tmp_path / "out"), *more])

    def pixels(name):
        return {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}

    few, many = pixels("few"), pixels("out")
    assert few.items() <= many.items()
    added = sorted(str(path) for path in many.keys() - few.keys())
    slices = [f"v_00{number}" for number in (0, 4, 8)]
    expected = [f"train/ct_C9/{name}_{window}.png" for name in slices for window in ("soft", "wide")]
    expected += ["train/fluorescence_cells/cells.png", *(f"train/mr_M9/{name}.png" for name in slices)]
    assert added == sorted(expected)
    last = np.asarray(Image.open(tmp_path / "out" / "train" / "ct_C9" / "v_008_soft.png"))
    hu = np.asarray(nib.load(tmp_path / "ct" / "train" / "C9" / "v.nii.gz").dataobj)[..., 8]
    np.testing.assert_allclose(last, ((hu + 160) / 400 * 255).T, atol=0.5)


def test_a_folder_without_parts_is_named(script, source, tmp_path):
    (tmp_path / "ct").mkdir()
    with pytest.raises(ValueError, match="make it with --split"):
        script.main([str(source), str(tmp_path / "out"), "--xray", "6", "--ct", str(tmp_path / "ct")])
    assert not (tmp_path / "out").exists()
