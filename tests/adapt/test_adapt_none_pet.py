"""Noisy PET alone: its noise is relative and goes on from slice to slice, and the network sees neighbors."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from noisy_site import QUICK, make_open_bundle

from medrestore_monai.adapt import adapt
from medrestore_monai.adapt.recorrupted import MeasuredNoised, RandRecorruptd
from medrestore_monai.transforms.pet import low_count

pytestmark = pytest.mark.slow

SPACING = (4.0, 4.0, 4.0)
COUNTS, WIDTH, AXIAL = 60.0, 7.0, 6.0


def pet_person(person, slices=8):
    """A noisy volume in SUV, shape ``(1, X, Y, Z)``, of a person whose shape is his own."""
    rng = np.random.default_rng(person)
    x, y = np.mgrid[-1:1:91j, -1:1:80j]
    body = np.where(np.hypot(x / rng.uniform(0.8, 0.95), y / rng.uniform(0.7, 0.85)) < 1, 1.0, 0.0)
    at = rng.uniform(-0.4, 0.4, 2)
    body = body + 3.0 * (np.hypot(x - at[0], y - at[1]) < 0.12)
    clean = torch.from_numpy(body).float()[None, ..., None].expand(-1, -1, -1, slices)
    scan = low_count.PETLowCount(2.0, COUNTS, WIDTH, axial_width=AXIAL, seed=person)
    return low_count.insert_pet_noise(clean, None, SPACING[0], scan, distance=SPACING[2])[0]


def test_pet_alone_adapts_and_is_judged(tmp_path):
    for person in range(7):
        path = tmp_path / "data" / f"p{person}" / "pet.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(pet_person(person)[0].numpy(), np.diag([-4.0, -4.0, 4.0, 1.0])), path)
    bundle = make_open_bundle(tmp_path / "bundles", name="pet_synthesis_restore_rwkv")
    done = adapt(tmp_path / "data", tmp_path / "mine", bundle, targets="none", steps=2, settings=QUICK)
    report = json.loads((done.report / "report.json").read_text())
    assert "estimated without truth" in done.decision.line
    noise = report["estimated"]["noise"]
    assert len(noise) == 7
    assert np.median([one["grain_mm"] for one in noise]) == pytest.approx(WIDTH, abs=1.5)
    assert np.median([one["axial_width_mm"] for one in noise]) == pytest.approx(AXIAL, abs=1.5)
    assert all(one["unit"] == "SUV" for one in noise)
    assert report["estimated"]["recorruption"]["alpha"] == 0.7  # under 30 % of relative noise


def test_drawn_noise_follows_the_numbers_of_the_slices():
    item = MeasuredNoised("image", "PT")({"image": _image(pet_person(0))})
    chosen = [3, 3, 4]
    slab = {name: item[name][..., chosen] for name in ("image", "noise_map")}
    made = RandRecorruptd("image", alpha=0.7, kept=0.2).set_random_state(seed=1)({**item, **slab, "slab": chosen})
    drawn = torch.as_tensor(made["image"] - slab["image"]) / 0.7
    assert torch.equal(drawn[..., 0], drawn[..., 1])
    inside = drawn[0, 30:60, 30:50]
    correlation = np.corrcoef(inside[..., 1].ravel(), inside[..., 2].ravel())[0, 1]
    assert 0.3 < correlation < 0.95  # neighbors, not copies
    assert float((slab["image"] + drawn).min()) >= -1e-6


def _image(volume):
    return MetaTensor(volume, affine=np.diag([*SPACING, 1.0]))
