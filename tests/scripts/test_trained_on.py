"""What a bundle was trained on goes into its metadata."""

import importlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from tiny_bundle import make_tiny_bundle

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "train"
NAME = "pet_synthesis_restore_rwkv"


def test_the_ranges_of_the_training_data_are_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    root = make_tiny_bundle(tmp_path / "bundles", NAME)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(tmp_path / "bundles"))
    sizes = {"a": (3.0, 3.0, 2.0), "b": (4.0, 4.0, 5.0), "c": (4.5, 4.5, 3.0)}
    for number, (patient, size) in enumerate(sizes.items()):
        volume = np.full((70, 66, 3 + number), 4.0, np.float32)
        volume[:5] = 0
        (tmp_path / "data" / "train" / patient).mkdir(parents=True)
        nib.save(nib.Nifti1Image(volume, np.diag([*size, 1.0])), tmp_path / "data" / "train" / patient / "PET.nii.gz")
    (tmp_path / "data" / "validation").mkdir()
    (tmp_path / "data" / "train" / "c").rename(tmp_path / "data" / "validation" / "c")
    script = importlib.import_module("trained_on")
    command = ["trained_on", NAME, "--data", str(tmp_path / "data"), "--overlays", "train_context", "--samples", "3"]
    monkeypatch.setattr("sys.argv", command)
    script.main()
    text = (root / "configs" / "metadata.json").read_text()
    found = json.loads(text)["trained_on"]
    assert found["modalities"] == ["PT"]
    assert (found["patients"], found["slices"]) == (2, 7)
    assert (found["pixel_mm"], found["distance_mm"]) == ([3.0, 4.0], [2.0, 5.0])  # c validates
    assert 0 < found["noise_level"][0] <= found["noise_level"][1] < 1
    fractions = found["intensity_histogram"]["fraction"]
    assert abs(sum(fractions) - 1) < 0.01
    assert fractions[script.EDGES.index(0.2)] + fractions[script.EDGES.index(0.1)] > 0.3  # SUV 4 is 0.2
    assert '"pixel_mm": [3.0, 4.0]' in text
