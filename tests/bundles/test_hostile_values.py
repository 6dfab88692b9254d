"""Bundles from elsewhere with odd cards, lists, sizes and values: one sentence, no traceback, and an end in time."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import edit_json, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.bundles import UntrustedBundleError, find_bundle, open_bundle, open_overlay
from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.bundles.check.configs import read
from medrestore_monai.bundles.weights import large_files
from medrestore_monai.cli import app
from medrestore_monai.label_app.options import offered_bundles, offered_settings
from medrestore_monai.restorer import restore


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def guest(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.random.default_rng(0).normal(40, 20, (16, 16)).astype(np.float32))
    return shutil.copytree(tiny, tmp_path / "guest")


def medrestore(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def card(change):
    return lambda root: edit_json(root / "configs" / "metadata.json", change)


def block(**entries):
    return card(lambda content: content["medrestore"].update(entries))


def setting(name, **entry):
    return card(lambda content: content["medrestore"]["settings"].update({name: {"help": "x", **entry}}))


def written(path, text):
    return lambda root: (root / path).write_text(text)


DEEP = "[" * 100_000
KEYS = ["version", "task", "network_data_format"]
CARDS = {
    "a list": written("configs/metadata.json", json.dumps(KEYS)),
    "nested": written("configs/metadata.json", DEEP),
    "a block that is a list": card(lambda content: content.update(medrestore=["task", "modalities", "settings"])),
    "modalities that are a number": block(modalities=3),
    "modalities that are lists": block(modalities=[["CT"]]),
    "evaluated modalities that are a number": block(evaluated=1),
    "settings that are a list": block(settings=["strength"]),
    "a setting that is a text": block(settings={"odd": "kind help"}),
    "a setting of an unknown kind": setting("odd", kind=["int"]),
    "choices that are a number": setting("odd", kind="choice", choices=3),
    "choices that are calls": setting("odd", kind="choice", choices=[{"x": 1}]),
    "a range that is a number": setting("odd", kind="int", range=3),
    "a help that is a mapping": setting("odd", kind="int", help={"a": 1}),
    "a setting of the target": setting("network_def::_target_", kind="text", served=True),
    "a setting of what is run": setting("run", kind="text", served=True),
    "a setting of the imports": setting("imports", kind="text", served=True),
    "a setting of the output": setting("output_dir", kind="path", served=True),
    "another meaning of a shared setting": setting("weights", kind="path", served=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_odd_cards_give_one_sentence(guest, name, monkeypatch):
    CARDS[name](guest)
    for command in (
        ("restore", "a.npy", "-o", "b.npy", "--bundle", guest, "--device", "cpu"),
        ("evaluate", "--data", ".", "-o", "../report", "--bundle", guest, "--baselines", "none"),
        ("bundles", "show", guest),
    ):
        result = medrestore(*command)
        assert (result.exit_code in (2, 3), result.stderr.count("Error:")) == (True, 1), result.output
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(guest.parent))
    with pytest.raises(ValueError, match=r"metadata\.json|setting"):
        [offered_settings(one, ["cpu"], False) for one in offered_bundles()[0]]
    assert not Path("b.npy").exists()


def test_a_damaged_scope_of_the_training_gives_one_sentence(guest):
    for trained_on in (
        [1],
        {"modalities": {"CT": 3}},
        {"modalities": {"CT": {"pixel_mm": ["a"]}}},
        *({"modalities": {"CT": {"scope_scores": [0.5, one]}}} for one in (float("nan"), float("inf"), "nan", "a")),
        {"modalities": {"CT": {"appearance": 3}}},
        *(
            {"modalities": {"CT": {"appearance": {"background": one}}}}
            for one in ([float("nan"), 1], [0.1], 3, "01", [-5, 7], [0.9, 0.1], [], None, [True, True])
        ),
    ):
        card(lambda content, value=trained_on: content.update(trained_on=value))(guest)
        result = medrestore("audit", "a.npy", "a.npy", "-o", "audit", "--bundle", guest)
        assert result.exit_code == 3, result.output


def test_an_audit_trusts_with_an_option_and_a_note(guest):
    card(lambda content: content.update(extra="$1"))(guest)
    audit = ("audit", "a.npy", "a.npy", "-o", "audit", "--bundle", guest)
    assert (medrestore(*audit).exit_code, Path("audit").exists()) == (3, False)
    result = medrestore(*audit, "--trust-bundle")
    assert result.exit_code == 0, result.output
    assert "runs as you trust it" in " ".join(result.stderr.split())


def inference(change):
    return lambda root: edit_json(root / "configs" / "inference.json", change)


ODD_VALUES = {
    "a text for a number of the network": inference(lambda c: c["network_def"].update(dim="8")),
    "a mapping for numbers of the network": inference(lambda c: c["network_def"].update(num_blocks={"a": 1})),
    "a negative size": inference(lambda c: c["network_def"].update(dim=-8)),
    "a text for the strength": inference(lambda c: c.update(strength="much")),
    "a strength above 1": inference(lambda c: c.update(strength=7)),
    "a list for the tile": inference(lambda c: c.update(tile=[1])),
    "a negative tile": inference(lambda c: c.update(tile=-8)),
    "no turns": inference(lambda c: c.update(self_ensemble=0)),
    "a text for the slab": inference(lambda c: c.update(slab="a")),
}


@pytest.mark.parametrize("name", ODD_VALUES)
def test_odd_values_give_one_sentence(guest, name):
    ODD_VALUES[name](guest)
    with pytest.raises((ValueError, RuntimeError), match=r"must|cannot be used|negative"):
        restore("a.npy", "b.npy", guest, device="cpu")
    assert not Path("b.npy").exists()


HUGE = {
    "wide and deep": {"dim": 4096, "num_blocks": [64] * 4},
    "wide": {"dim": 2048},
    "deep": {"dim": 512, "num_blocks": [32] * 4},
}


@pytest.mark.parametrize("name", HUGE)
def test_a_network_larger_than_a_machine_is_a_finding(guest, name):
    inference(lambda c: c["network_def"].update(HUGE[name]))(guest)
    with pytest.raises(UntrustedBundleError, match="larger than most machines hold"):
        open_bundle(guest)
    Path("x.json").write_text(json.dumps({f"network_def::{key}": value for key, value in HUGE[name].items()}))
    with pytest.raises(UntrustedBundleError, match="larger than most machines hold"):
        open_overlay(Path("x.json"))


OVERLAYS = {
    "entries of another mapping": ("<<: {network_def: {_target_: os.system, command: id}}\nx: 1\n", "the key <<"),
    "the same, deeper": ("network_def: {<<: {_target_: os.system}}\n", "the key <<"),
    "a size": ("network_def::dim: 1_000_000\n", "larger than"),
    "a size by base": ("network_def::dim: 0xFFFFF\n", "larger than"),
    "no number": ("network_def::dropout: .inf\n", "is not a number"),
    "an alias": ("a: &a [1]\nnetwork_def: *a\n", "the alias"),
    "an object": ("network_def: !!python/object/apply:os.system [id]\n", "the tag"),
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_yaml_is_judged_as_it_is_loaded(tmp_path, name):
    text, reason = OVERLAYS[name]
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UntrustedBundleError, match=reason):
        open_overlay(tmp_path / "x.yaml")


def test_yaml_is_read_as_yaml_reads_it():
    import yaml

    text = "a: 1_000\nb: 0x10\nc: 1.5\nd: yes\ne: ~\nf: 'no'\ng: {h: [1, -2, .5]}\n1: x\n"
    expected = {str(key): value for key, value in yaml.safe_load(text).items()}
    assert read("a.yaml", text.encode()) == expected
    assert read("a.yaml", b"day: 2020-01-02\n") == {"day": "2020-01-02"}  # a text as in JSON


SLOW = {
    "a key many times": lambda text: text.replace("{", "{" + '"a": 1, ' * 500_000, 1),
    "a long key above many values": lambda text: text.replace(
        "{", '{"' + "n" * 10**6 + '": [' + "0," * 10**5 + "0],", 1
    ),
    "nested": lambda text: text.replace("{", '{"a": ' + "[" * 900 + "]" * 900 + ",", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_check_ends_in_time(guest, name):
    path = guest / "configs" / "inference.json"
    path.write_text(SLOW[name](path.read_text()))
    began = time.process_time()
    with pytest.raises(UntrustedBundleError):
        open_bundle(guest)
    assert check_bundle(guest)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "name", ["medrestore_monai/networks/losses.py", "medrestore_monai/__pycache__/x.cpython-311.pyc", "a/b/c.SO"]
)
def test_programs_are_found_at_any_depth(guest, name):
    open_bundle(guest)
    (guest / name).parent.mkdir(parents=True)
    (guest / name).write_bytes(b"x")
    edit_json(guest / "configs" / "inference.json", lambda content: content.update(strength=0.5))
    with pytest.raises(UntrustedBundleError, match="a program"):
        open_bundle(guest)


def test_a_linked_folder_is_found(guest):
    (guest / "scipy").symlink_to(guest.parent)
    with pytest.raises(UntrustedBundleError, match="scipy: a link"):
        open_bundle(guest)


LISTS = {
    "entries that grow": "a: &a [x, x]\nlarge_files: [{path: *a, url: *a}]\n",
    "an object": "large_files: !!python/object/apply:os.system [id]\n",
    "a number": "large_files: 3\n",
    "no path": "large_files: [{url: https://example.org/x}]\n",
    "nested": "large_files: " + DEEP,
}


@pytest.mark.parametrize("name", LISTS)
def test_odd_lists_of_large_files_give_one_sentence(guest, name):
    (guest / "large_files.yml").write_text(LISTS[name])
    with pytest.raises(ValueError, match="is no list of large files"):
        large_files(find_bundle(guest))


@pytest.mark.parametrize(
    "name", ["..", ".", "", "~", "a\0b", "x" * 5000, "./" + "x" * 5000, "$HOME", "{}/../guest.zip"]
)
def test_odd_names_of_bundles_give_one_sentence(guest, name):
    result = medrestore("restore", "a.npy", "-o", "b.npy", "--bundle", name.format(guest), "--device", "cpu")
    assert (result.exit_code, result.stderr.count("Error:")) == (2, 1), result.output


def test_a_bundle_is_shown_without_a_mapping_for_its_evaluation(guest):
    (guest / "configs" / "evaluate.json").write_text("[1]")
    assert medrestore("bundles", "show", guest).exit_code == 0


def test_keys_do_not_become_pictures(guest):
    inference(lambda content: content.update({"x": {"x": "$1"}}))(guest)
    result = medrestore("restore", "a.npy", "-o", "b.npy", "--bundle", guest)
    assert result.exit_code == 3
    assert "inference.json:x::x: code" in result.stderr
