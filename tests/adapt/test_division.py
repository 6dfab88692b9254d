"""No person trains and is judged; of few people, no slice is near one of another part."""

from itertools import combinations, pairwise

import nibabel as nib
import numpy as np
import pytest
from phantoms import ct_series

from medrestore_monai.data import adaptation_part, divide


def write(root, slices, distance=5.0):
    """One folder a person, with one volume of so many slices."""
    for person, count in enumerate(slices):
        (root / f"p{person}").mkdir(parents=True)
        image = nib.Nifti1Image(np.full((9, 9, count), -1000, np.int16), np.diag([1.0, 1.0, distance, 1.0]))
        nib.save(image, root / f"p{person}" / "ct.nii.gz")
    return root


def people(slabs):
    return {slab["person"] for slab in slabs}


@pytest.mark.parametrize("count", [3, 4, 6, 7, 12, 30])
def test_people_are_apart(tmp_path, count):
    division = divide(write(tmp_path, [3] * count))
    parts = [people(slabs) for slabs in division.parts.values()]
    assert all(parts)
    assert all(not one & other for one, other in combinations(parts, 2))
    assert set.union(*parts) == set(range(count))
    assert sum(division.slices(part) for part in division.parts) == 3 * count
    if count >= 7:
        assert division.by == "people"
        assert division.units == len(parts[2]) >= 5


def test_blocks_of_people_who_did_not_train(tmp_path):
    division = divide(write(tmp_path, [40] * 6))
    assert "did not train" in division.by
    assert division.units == 3 * (40 * 5 // 20)


@pytest.mark.parametrize(("distance", "slices"), [(1.0, 200), (5.0, 61), (4.25, 24)])
def test_parts_of_one_person_are_apart(tmp_path, distance, slices):
    division = divide(write(tmp_path, [slices], distance))
    assert division.by == "blocks of slices"
    spans = {part: [(s["start"], s["stop"]) for s in slabs] for part, slabs in division.parts.items()}
    for one, other in combinations(spans.values(), 2):
        for start, stop in one:
            assert all(max(start, s) - min(stop, e) >= 10 / distance for s, e in other)
    middles = [distance * (start + stop) / 2 for start, stop in spans["verdict"]]
    assert all(b - a >= 19.9 for a, b in pairwise(middles))
    assert division.units == len(middles)


def test_a_patient_id_goes_before_the_folder(tmp_path):
    for folder in ("monday", "tuesday"):
        ct_series(tmp_path / folder, slices=8, series=folder)
    assert divide(tmp_path).people == 1


def test_another_seed_draws_others(tmp_path):
    write(tmp_path, [2] * 9)
    drawn = {tuple(sorted(people(divide(tmp_path, seed=seed).parts["verdict"]))) for seed in range(5)}
    assert len(drawn) > 1
    assert divide(tmp_path, seed=1).parts == divide(tmp_path, seed=1).parts


def test_a_part_is_shortened_evenly(tmp_path):
    write(tmp_path, [30, 2, 30, 30, 30, 30, 30, 30])
    whole = adaptation_part(tmp_path, "verdict")
    short = adaptation_part(tmp_path, "verdict", most=12)
    assert sum(s["stop"] - s["start"] for s in short) <= 12
    assert [s["name"] for s in short] == [s["name"] for s in whole]
    with pytest.raises(ValueError, match="part must be one of train, tune, verdict"):
        adaptation_part(tmp_path, "test")
