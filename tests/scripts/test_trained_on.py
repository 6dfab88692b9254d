"""What a bundle was trained on goes into its metadata, and stands there wherever weights ship."""

import importlib
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from tiny_bundle import BUNDLES, make_tiny_bundle

from medrestore_monai.bundles import find_bundle
from medrestore_monai.intensity import INTENSITY_RANGES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "train"
NAME = "pet_synthesis_restore_rwkv"
ALL_IN_ONE = "all_in_one_restore_rwkv"
SHIPPED = sorted(path.parents[1].name for path in BUNDLES.glob("*/models/model.pt"))
RANGES = {"pixel_mm", "distance_mm", "kernel_cutoff_per_mm", "noise_level"}


def write_volume(path, size, slices, value, sides=(70, 66), air=0):
    volume = np.full((*sides, slices), value, np.float32)
    volume[:5] = air
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.diag([*size, 1.0])), path)


def run(monkeypatch, *options):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("trained_on")
    monkeypatch.setattr("sys.argv", ["trained_on", *(str(option) for option in options)])
    script.main()
    return script


@pytest.mark.parametrize("text", ["PT tracers", "PT voltage=100", "CT tube_voltage_kv=120", "PT tube_voltage_kv=high"])
def test_what_is_no_fact_of_a_scanner_is_refused(monkeypatch, text):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    with pytest.raises(ValueError, match=r"--scanner|could not convert"):
        importlib.import_module("trained_on").scanners([text], ["PT"])


@pytest.mark.slow
def test_the_ranges_of_the_training_data_are_written(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles", NAME)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    sizes = {"train/a": (3.0, 3.0, 2.0), "train/b": (4.0, 4.0, 5.0), "validation/c": (4.5, 4.5, 3.0)}
    for number, (place, size) in enumerate(sizes.items()):
        write_volume(tmp_path / "data" / place / "PET.nii.gz", size, 3 + number, 4.0)
    write_volume(tmp_path / "data" / "train" / "upon_b" / "drawn.nii.gz", (4.0, 4.0, 5.0), 2, 4.0)
    options = ["--data", tmp_path / "data", "--samples", 3, "--note", "by a test"]
    options += ["--scanner", "PT tracers=FDG,FLT", "--scanner", "PT tube_voltage_kv=140,100,120"]
    script = run(monkeypatch, NAME, *options, "--stage", "train_context")
    text = (root / "configs" / "metadata.json").read_text()
    found = json.loads(text)["trained_on"]
    assert found["measured"] == "by a test"
    assert list(found["modalities"]) == ["PT"]
    found = found["modalities"]["PT"]
    assert found["unit"] == "SUV"
    assert (found["tracers"], found["tube_voltage_kv"]) == (["FDG", "FLT"], [100.0, 140.0])
    assert (found["patients"], found["slices"], found["drawn_slices"]) == (2, 7, 2)
    assert (found["pixel_mm"], found["distance_mm"]) == ([3.0, 4.0], [2.0, 5.0])  # c validates
    assert 0 < found["noise_level"][0] <= found["noise_level"][1] < 1
    fractions = found["intensity_histogram"]["fraction"]
    assert abs(sum(fractions) - 1) < 0.01
    assert fractions[script.EDGES.index(0.2)] + fractions[script.EDGES.index(0.1)] > 0.3  # SUV 4 is 0.2
    assert '"pixel_mm": [3.0, 4.0]' in text


@pytest.mark.slow
def test_several_trainings_are_joined(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles", NAME)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    for place in ("train/a", "validation/b"):
        write_volume(tmp_path / "data" / place / "PET.nii.gz", (3.0, 3.0, 2.0), 3, 4.0)
    stages = ["--stage", "train_cpu", "--stage", "train_cpu,train_cpu_second"]
    run(monkeypatch, NAME, "--data", tmp_path / "data", "--samples", 1, *stages)
    found = json.loads((root / "configs" / "metadata.json").read_text())["trained_on"]["modalities"]["PT"]
    # counts of 30 to 200 in the first, 20 to 120 in the second; drf of 4 to 12 and 6 to 12
    assert found["degradations"]["counts"] == [20.0, 200.0]
    assert found["degradations"]["drf"] == [4.0, 12.0]
    assert found["slices"] == 3  # the same ones twice


def test_a_block_takes_the_place_of_an_earlier_one_and_all_else_stays(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("trained_on")
    text = '{\n    "name": "x",\n    "lines": ["kept as they are", {"a": 1}]\n}\n'
    once = script.with_block(text, {"modalities": {"CT": {"noise_level": [0.1, 0.2]}}})
    assert once.startswith(text.rstrip().removesuffix("}").rstrip() + ",\n")
    assert json.loads(once)["trained_on"] == {"modalities": {"CT": {"noise_level": [0.1, 0.2]}}}
    twice = script.with_block(once, {"measured": "again"})
    assert json.loads(twice) == {**json.loads(text), "trained_on": {"measured": "again"}}
    assert '"lines": ["kept as they are", {"a": 1}]' in twice


@pytest.mark.slow
def test_each_modality_of_a_bundle_has_its_own_entry(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles", ALL_IN_ONE)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    for folder, value, pixel, air in (("CT", 40.0, 0.7, -1000), ("MR", 900.0, 1.1, 0), ("PT", 4.0, 4.0, 0)):
        for place in ("train/a", "validation/b"):
            path = tmp_path / "data" / folder / place / "image.nii.gz"
            write_volume(path, (pixel, pixel, 2.0), 2, value, (100, 98), air)
    run(monkeypatch, ALL_IN_ONE, "--data", tmp_path / "data", "--samples", 1)
    found = json.loads((root / "configs" / "metadata.json").read_text())["trained_on"]
    assert found["started_from"] == "ct_denoise_restore_rwkv"
    assert {name: one["unit"] for name, one in found["modalities"].items()} == {
        "CT": "HU",
        "MR": "arbitrary units",
        "PT": "SUV",
    }
    assert [one["slices"] for one in found["modalities"].values()] == [2, 2, 2]
    assert [one["pixel_mm"] for one in found["modalities"].values()] == [[0.7, 0.7], [1.1, 1.1], [4.0, 4.0]]
    assert found["modalities"]["MR"]["degradations"]["kspace_fraction"] == [0.25, 0.25]
    assert found["modalities"]["CT"]["degradations"]["dose"] == [0.1, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/train_blur.json")))
def test_every_kind_of_blur_of_a_training_has_its_range(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("trained_on")
    parser = ConfigParser()
    places = [BUNDLES / name / "configs" / f"{stage}.json" for stage in ("train", "train_cpu", "train_blur")]
    parser.read_config([str(place) for place in places])
    found = script.degradations(SimpleNamespace(transform=parser.get_parsed_content("blur")))
    assert found == {
        "motion_px": [3.0, 31.0],
        "bent_motion_px": [3.0, 31.0],
        "gaussian_sigma_px": [0.5, 5.0],
        "along_sigma_px": [0.5, 5.0],
        "across_sigma_px": [0.5, 5.0],
        "defocus_radius_px": [1.5, 8.0],
        "varying_width_px": [3.0, 31.0],
        "noise_gray_levels": [0.0, 4.0],
        "jpeg_quality": [60.0, 95.0],
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_say_what_they_were_trained_on(name):
    bundle = find_bundle(str(BUNDLES / name))
    block = bundle.metadata["trained_on"]
    assert set(block) <= {"measured", "started_from", "modalities"}
    assert block["measured"].strip()
    assert (BUNDLES / block.get("started_from", name)).is_dir()
    assert tuple(block["modalities"]) == bundle.evaluated
    for modality, found in block["modalities"].items():
        assert found["unit"] == INTENSITY_RANGES[modality].unit
        assert found.get("pictures", 0) + found.get("patients", 0) > 0
        ranges = {key: value for key, value in found.items() if key in RANGES} | found["degradations"]
        for key, (lower, upper) in ranges.items():
            assert 0 <= lower <= upper, key
        assert found["degradations"]
        assert ("noise_level" in found) == ("intensity_histogram" in found)  # both were measured, or neither
        if "intensity_histogram" in found:
            edges, fractions = found["intensity_histogram"]["edges"], found["intensity_histogram"]["fraction"]
            assert all(lower < upper for lower, upper in pairwise(edges))
            assert len(fractions) == len(edges) - 1
            assert sum(fractions) == pytest.approx(1, abs=0.01)


def test_shipped_weights_were_found():
    assert NAME in SHIPPED
