"""Who trains, validates and tests: by a file, by folders or by a draw; never on two sides."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrestore_monai.data import PatientSplit, read_split, split_by_patient, training_slices

ITEMS = [{"patient": f"p{number % 10}", "path": str(number)} for number in range(50)]
EXPECTED = {"p1": "train", "p 2": "validation", "p3": "test", "p4": "unused"}


def patients(items):
    return {item["patient"] for item in items}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "patient,part\np1,train\np 2,val\np3,test\np4,unused\n"),
        ("b.csv", "age,Part,Patient\n50,Training,p1\n60,valid,p 2\n70,testing,p3\n80,unused,p4\n"),
        ("c.csv", "p1,train\n\n# a note\np 2,validation\np3,test\np4,unused\n"),
        ("d.txt", "p1 train\np 2\tval\np3  test\np4 unused\n"),
        ("e.json", json.dumps(EXPECTED)),
        ("f.json", json.dumps({"train": ["p1"], "val": ["p 2"], "test": ["p3"], "unused": ["p4"]})),
    ],
)
def test_every_form_of_a_split_file_says_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_split(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "p1,train\np2,hold-out\n", "part of p2 must be one of"),
        ("b.txt", "p1 train\np1 test\n", "p1 is in train and in test"),
        ("c.csv", "p1\n", "a patient and a part in every line, got 'p1'"),
        ("d.json", "[1]", "expected {patient: part}"),
        ("e.json", "{", "expected {patient: part}"),
        ("f.txt", "", "names no patient"),
    ],
)
def test_split_files_with_mistakes_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / name)


def test_a_file_decides_and_unused_patients_stay_out(tmp_path):
    lines = [f"p{number} {'train' if number < 6 else 'val' if number < 8 else 'test'}" for number in range(9)]
    (tmp_path / "split.txt").write_text("\n".join([*lines, "p9 unused", "elsewhere train"]))
    split = PatientSplit(tmp_path / "split.txt")
    assert patients(split.choose(ITEMS, "train")) == {f"p{number}" for number in range(6)}
    assert patients(split.choose(ITEMS, "validation")) == {"p6", "p7"}
    assert patients(split.choose(ITEMS, "test")) == {"p8"}
    assert patients(split.choose(ITEMS, "all")) == {f"p{number}" for number in range(9)}
    (tmp_path / "split.txt").write_text("p1 train\np2 val")
    with pytest.raises(ValueError, match=r"no part for p0, p3, p4, p5, p6, p7, p8, p9; .* called 'unused'"):
        split.choose(ITEMS, "train")


@pytest.mark.parametrize(
    ("validation", "test", "counts"), [(0.1, 0.2, (7, 1, 2)), (3, 1, (6, 3, 1)), (0.01, 0, (9, 1, 0))]
)
def test_a_draw_by_fractions_or_numbers(validation, test, counts):
    split = PatientSplit(validation=validation, test=test, seed=3)
    parts = split.parts_of(patients(ITEMS))
    assert tuple(list(parts.values()).count(part) for part in ("train", "validation", "test")) == counts
    assert split.parts_of(sorted(patients(ITEMS), reverse=True)) == parts
    assert any(PatientSplit(None, validation, test, seed).parts_of(patients(ITEMS)) != parts for seed in range(3))


def test_the_draw_for_validation_is_the_one_bundles_were_trained_with():
    """Weights that are out there were trained on exactly these patients."""
    _, held_back = split_by_patient([{"patient": f"P{number:02d}"} for number in range(41)], fraction=0.1, seed=0)
    # random.Random(0).sample of 41 sorted names, 4 of them: written down once, with Python 3.11
    assert sorted(patients(held_back)) == ["P02", "P16", "P24", "P26"]


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="validation must be a fraction in"):
        PatientSplit(validation=1.5)
    with pytest.raises(ValueError, match="test must be a fraction"):
        PatientSplit(test=-1)
    with pytest.raises(ValueError, match=r"leave none for training.*11 patients or more, got 10"):
        PatientSplit(validation=5, test=5).parts_of(patients(ITEMS))
    with pytest.raises(ValueError, match="no patient in the part 'test'"):
        PatientSplit().choose(ITEMS, "test")


def test_folders_named_after_parts_are_the_parts(tmp_path):
    for name in ("train/a", "train/b", "train/c", "Val/d", "test/e"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / name / "1.png")
    found = {part: patients(training_slices(tmp_path, part)) for part in ("train", "validation", "test", "all")}
    assert found == {"train": {*"abc"}, "validation": {"d"}, "test": {"e"}, "all": {*"abcde"}}
    (tmp_path / "Val").rename(tmp_path / "other")  # now validation is drawn from training
    drawn = {part: patients(training_slices(tmp_path, part)) for part in ("train", "validation")}
    assert len(drawn["validation"]) == 1
    assert drawn["train"] | drawn["validation"] == {*"abc"}
    split = PatientSplit(validation=1, test=1)  # a test folder is there: nobody is drawn for it
    assert len(patients(training_slices(tmp_path, "train", split=split))) == 2
    (tmp_path / "test").rename(tmp_path / "more")
    with pytest.raises(ValueError, match="has no part 'test', only train"):
        training_slices(tmp_path, "test")
    (tmp_path / "Training").mkdir()
    with pytest.raises(ValueError, match="two folders for train"):
        training_slices(tmp_path, "train")


def test_calibration_and_adaptation_are_parts_of_their_own(tmp_path):
    text = "patient,part,note\np0,train,\np1,calibration,x\np2,adaptation,\np3,unused,\n"
    (tmp_path / "split.csv").write_text(text)
    items, split = [{"patient": f"p{number}"} for number in range(4)], PatientSplit(tmp_path / "split.csv")
    assert patients(split.choose(items, "calibration")) == {"p1"}
    assert patients(split.choose(items, "adaptation")) == {"p2"}
    assert patients(split.choose(items, "all")) == {"p0", "p1", "p2"}
    with pytest.raises(ValueError, match="part must be 'train', 'validation', 'calibration', 'adaptation', 'test' or"):
        training_slices(tmp_path, "adapt")


def test_the_split_of_the_shipped_weights_names_everybody_once():
    path = Path(__file__).resolve().parents[2] / "scripts" / "train" / "splits.csv"
    rows = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")]
    people = [row[0] for row in rows[1:]]
    assert len(people) == len(set(people)) == len(read_split(path))
    for part in ("calibration", "adaptation", "train", "validation", "test"):
        modalities = {modality for row in rows[1:] if row[1] == part for modality in row[2].split()}
        assert modalities == {"CT", "MR", "PT"}
