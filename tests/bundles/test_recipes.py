"""The values of every ``train.json`` are those of ``recipes.csv``, which quotes what the paper states.

A row that states nothing, or something else than the value, says what is ours.
"""

import csv
import fnmatch
import json
import os
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from tiny_bundle import BUNDLES

with (Path(__file__).parent / "recipes.csv").open(newline="", encoding="utf-8") as _file:
    ROWS = list(csv.DictReader(_file))
NAMES = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs" / "train.json").is_file())
# where the run reads and writes, how often it looks, what it keeps in memory: no paper has an opinion
OF_THE_RUN = {
    "cache_rate",
    "dataset_dir",
    "early_stop_patience",
    "held_back",
    "hu_offset",
    "num_workers",
    "output_dir",
    "patch_size",
    "seed",
    "training",
    "val_interval",
    "validation_size",
    "validation_slices",
}


def recipe(name):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "train.json"))
    return parser


def rows_of(name):
    return {row["key"]: row for row in ROWS if fnmatch.fnmatch(name, row["bundle"])}


def value_of(parser, key):
    if key == "steps":
        return parser["max_epochs"] * parser["epoch_length"]
    return parser[key]


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_the_table(name):
    parser = recipe(name)
    for key, row in rows_of(name).items():
        value = value_of(parser, key)
        assert (value if isinstance(value, str) else json.dumps(value)) == row["value"], key


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_recipe_is_in_the_table(name):
    content, listed = recipe(name).get(), set(rows_of(name))
    if "steps" in listed:
        listed |= {"max_epochs", "epoch_length"}
    plain = {key for key, value in content.items() if isinstance(value, int | float | str | list) and key != "run"}
    missing = plain - listed - OF_THE_RUN - {"imports", "initialize", "device", "amp", "network", "trained"}
    assert missing <= {"epoch_length"}
    if "epoch_length" in missing:
        assert content["epoch_length"] is None  # all pictures
    for part in ("optimizer", "scheduler"):
        own = {f"{part}#{key}" for key, value in content[part].items() if not str(value).startswith(("@", "$"))}
        assert own - listed <= {"scheduler#factor"}, part
    weights = {f"loss#{key}" for key, value in content["loss"].items() if isinstance(value, int | float)}
    assert weights <= listed
    assert any(key.startswith("loss#") and key.endswith("_target_") for key in listed) or weights


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['bundle']}-{row['key']}")
def test_what_no_paper_states_is_said_to_be_ours(row):
    assert row["states"] or row["note"].startswith("ours")
    if row["states"]:
        assert row["section"]
        assert row["quote"]
    assert any(fnmatch.fnmatch(name, row["bundle"]) for name in NAMES)
    assert len(row["quote"].split()) <= 12


def numbers(text):
    """The numbers in a text, with ``1e-4`` and ``30,000`` as one each."""
    found = []
    for word in text.replace(",", "").replace("x", " ").replace("[", " ").replace("]", " ").split():
        try:
            found.append(float(word))
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['bundle']}-{row['key']}")
def test_a_number_that_differs_from_the_papers_is_explained(row):
    stated, own = numbers(row["states"]), numbers(row["value"])
    if stated and own and not set(stated) & set(own):
        assert row["note"], row


@pytest.mark.parametrize("paper", sorted({row["paper"] for row in ROWS}))
def test_the_quotes_are_in_the_papers(paper):
    folder = os.environ.get("MEDRESTORE_SHARED")
    if not folder:
        pytest.skip("MEDRESTORE_SHARED is not set")
    text = " ".join((Path(folder) / "papers" / f"{paper}.txt").read_text(encoding="utf-8").split())
    for row in ROWS:
        if row["paper"] == paper:
            assert " ".join(row["quote"].split()) in text, row["key"]
