"""The pictures of ``scripts/experiments/before_after.py``: which images, which part of them, which gray levels."""

import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from script_loading import load_script
from tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def script():
    return load_script("experiments/before_after.py")


def test_the_middle_of_those_that_match(script):
    items = [{"label": f"{name}/{i}.png", "patient": name} for name in ("blood", "nuclei") for i in range(5)]
    assert [one["label"] for one in script.chosen(items, ["nuclei", "blood"])] == ["nuclei/2.png", "blood/2.png"]
    assert [one["label"] for one in script.chosen(items, [])] == ["blood/1.png", "blood/4.png", "nuclei/3.png"]
    assert len(script.chosen(items[:2], [])) == 3
    with pytest.raises(ValueError, match="'skin'"):
        script.chosen(items, ["skin"])


def test_middle_has_rows_first(script):
    image = torch.arange(2 * 5 * 7.0).reshape(2, 5, 7)
    np.testing.assert_array_equal(script.middle(image, 3), image.numpy()[:, 1:4, 2:5].transpose(2, 1, 0))
    assert script.middle(image[..., None].repeat(1, 1, 1, 3), 100).shape == (7, 5, 2)


@pytest.mark.slow
def test_a_picture_of_a_degraded_slice(script, tmp_path, monkeypatch):
    bundle = make_tiny_bundle(tmp_path, "mri_superresolution_restore_rwkv")
    values = np.zeros((40, 33, 2), np.int16)
    values[10:30, 12:22] = 2000
    (tmp_path / "data" / "patient").mkdir(parents=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "data" / "patient" / "t1.nii.gz")
    arguments = ["--bundle", bundle, "--data", tmp_path / "data", "--part", "all", "--show", "t1", "--side", "33"]
    options = [*arguments, "--size", "33", "--window", "0", "2000", "-o", tmp_path / "out.png"]
    monkeypatch.setattr(sys, "argv", ["before_after", *map(str, options)])
    script.main()
    tiles = np.asarray(Image.open(tmp_path / "out.png"))
    assert tiles.shape == (33 + 4, 3 * (33 + 4), 3)
    clean = tiles[:33, 2 * 37 : 2 * 37 + 33]
    np.testing.assert_array_equal(clean[..., 0], np.where(values[3:36, :, 0].T, 255, 0))
    degraded = tiles[:33, :33, 0].astype(float)
    assert 10 < np.abs(degraded - clean[..., 0]).mean() < 60

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--vary", "kspace_fraction=0.25", "--vary", "kspace_fraction=0.9"])
    script.main()
    rows = np.asarray(Image.open(tmp_path / "out.png")).astype(float)
    np.testing.assert_array_equal(rows[:37], tiles)
    lost = [np.abs(one[:33, :33, 0] - clean[..., 0]).mean() for one in (rows[:37], rows[37:])]
    assert 0 < 3 * lost[1] < lost[0]
