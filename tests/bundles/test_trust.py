"""A bundle from elsewhere runs only if it is one of ours with other plain values; hostile ones run nothing."""

import json
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from serialized import scripted, torch_file
from tiny_bundle import BUNDLES, NAME, edit_json, make_tiny_bundle, write_tiny_weights
from typer.testing import CliRunner

from medrestore_monai.bundles import (
    UntrustedBundleError,
    find_bundle,
    open_bundle,
    open_config,
    open_overlay,
    read_config,
    sha256,
)
from medrestore_monai.cli import app
from medrestore_monai.restorer import Restorer, restore

PET = "pet_synthesis_restore_rwkv"
SHIPPED = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/metadata.json"))
TOUCH = "__import__('pathlib').Path('CANARY').touch()"  # what every attack tries to run
CALL = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["CANARY"]}}
PARTIAL = {"_target_": "builtins.eval", "source": TOUCH}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def tiny_pet(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"), PET)


@pytest.fixture
def guest(tiny, tmp_path, monkeypatch):
    root = tmp_path / "guest"
    shutil.copytree(tiny, root)
    monkeypatch.chdir(tmp_path)  # where a canary would land
    np.save("a.npy", np.random.default_rng(0).normal(40, 20, (16, 16)).astype(np.float32))
    return root


def medrestore(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inference(**entries):
    return lambda root: edit_json(root / "configs" / "inference.json", lambda content: content.update(entries))


def inside(change, config="inference"):
    return lambda root: edit_json(root / "configs" / f"{config}.json", change)


def text(path, content):
    def write(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)

    return write


def appended(config, before, after):
    def change(root):
        path = root / "configs" / config
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after, 1))

    return change


class Touch:
    """An object whose pickle runs something as soon as it is loaded."""

    def __reduce__(self):
        return eval, (TOUCH,)


def weights(content):
    return lambda root: (root / "models" / "model.pt").write_bytes(content())


def link(path):
    def change(root):
        target = root.parent / f"elsewhere-{Path(path).name}"
        shutil.move(root / path, target)
        (root / path).symlink_to(target)

    return change


def call(content):
    content["scaling"]["transforms"].append({"_target_": "Lambdad", "keys": "image", "func": f"${TOUCH}"})


HOSTILE = {
    "expression in run": inference(run=[f"${TOUCH}"]),
    "expression in initialize": inference(initialize=[f"${TOUCH}"]),
    "one more in run": inside(lambda c: c["run"].insert(0, f"${TOUCH}")),
    "import": inside(lambda c: c["imports"].append("$import evil")),
    "import of os": inference(imports=["$import monai", "$import torch", "$import os"]),
    "finalize": inference(finalize=[f"${TOUCH}"]),
    "expression for a number": inference(strength=f"${TOUCH}"),
    "expression after a blank": inference(strength=f" ${TOUCH}"),
    "expression for the device": inference(device=f"${TOUCH}"),
    "expression for the weights": inference(weights=f"${TOUCH}"),
    "expression longer than ours": inference(weights=f"$@bundle_root + '/models/model.pt' if {TOUCH} else 1"),
    "comment in an expression": inference(device=f"$torch.device('cpu') # \n or {TOUCH}"),
    "eval": inference(network_def=PARTIAL),
    "call of a method": inference(network_def=CALL),
    "call in a new key": inference(extra=CALL),
    "call in a plain mapping": inside(lambda c: c["derivation"]["parameters"].update(extra=CALL)),
    "call in a list": inference(extra=[1, [CALL]]),
    "call for a plain value": inference(tile=PARTIAL),
    "call within the network": inside(lambda c: c["network_def"].update(dim=PARTIAL)),
    "another class": inside(lambda c: c["network_def"].update(_target_="subprocess.Popen")),
    "another class by a key": inference(**{"network_def::_target_": "subprocess.Popen"}),
    "another class by an old key": inference(**{"network_def#_target_": "subprocess.Popen"}),
    "another class by a merging key": inference(**{"+network_def": {"_target_": "subprocess.Popen"}}),
    "transform by a key": inference(**{"scaling::transforms::0": PARTIAL}),
    "target by reference": inside(lambda c: c["network_def"].update(_target_="@evil")),
    "one more transform": inside(call),
    "one transform less": inside(lambda c: c["unscaling"]["transforms"].pop()),
    "transforms in another order": inside(lambda c: c["unscaling"]["transforms"].reverse()),
    "called later": inside(lambda c: c["inferer"].update(_mode_="callable")),
    "debugger": inside(lambda c: c["inferer"].update(_mode_="debug")),
    "disabled": inside(lambda c: c["unscaling"]["transforms"][2].update(_disabled_=True)),
    "required first": inside(lambda c: c["inferer"].update(_requires_=[f"${TOUCH}"])),
    "an argument of no bundle": inside(lambda c: c["dataloader"].update(worker_init_fn=f"${TOUCH}")),
    "a plain argument of no bundle": inside(lambda c: c["dataloader"].update(multiprocessing_context="spawn")),
    "a reference to another object": inside(lambda c: c["evaluator"].update(network="@inferer")),
    "an output elsewhere": inside(lambda c: c["datalist"].update(output="elsewhere")),
    "overwriting unasked": inside(lambda c: c["datalist"].update(overwrite=True)),
    "no provenance": inside(lambda c: c["save"].update(derivation=None)),
    "other weights": inference(weights="model"),
    "a reference upward": inference(strength="@##strength"),
    "the card's place": inference(_meta_={"x": f"${TOUCH}"}),
    "macro": inference(tile="%/tmp/evil.json::x"),
    "macro of a neighbor": inside(lambda c: c["network_def"].update(dim="%configs/train.json::run")),
    "the card, with a call": inside(lambda c: c.update(extra=CALL), "metadata"),
    "the card, with code": inside(lambda c: c.update(extra=f"${TOUCH}"), "metadata"),
    "the card, with a macro": inside(lambda c: c.update(extra="%/tmp/evil.json"), "metadata"),
    "a key twice": appended("inference.json", '"run":', '"run": ["$@evaluator.run()"], "run":'),
    "a key twice, deeper": appended("inference.json", '"in_channels": 1', '"_target_": "os.system", "in_channels": 1'),
    "pickled weights": weights(lambda: torch_file({"a": Touch()})),
    "a plain pickle": weights(lambda: pickle.dumps(Touch())),
    "a pickle of protocol 0": weights(lambda: pickle.dumps(Touch(), 0)),
    "TorchScript": weights(scripted),
    "a module that MONAI imports": text("nibabel.py", TOUCH),
    "a package that we import": text("scipy/__init__.py", TOUCH),
    "a compiled module": text("onnxruntime.pyc", TOUCH),
    "a library": text("triton.so", TOUCH),
    "our package, changed": text("medrestore_monai/__init__.py", TOUCH),
    "configuration by a link": link("configs/inference.json"),
    "card by a link": link("configs/metadata.json"),
    "weights by a link": link("models/model.pt"),
    "all configurations by a link": link("configs"),
    "path out of the bundle": inference(extra="../../secret"),
    "absolute path": inference(extra="/etc/passwd"),
    "address": inference(extra="http://198.51.100.7/x"),
    "a fork bomb": inside(lambda c: c["dataloader"].update(num_workers=100_000)),
    "a network without end": inside(lambda c: c["network_def"].update(num_blocks=[10**9] * 4)),
    "too many levels": inside(lambda c: c["network_def"].update(num_blocks=[1] * 10_000)),
    "not a number": inference(strength=float("inf")),
    "nested": inference(extra=json.loads("[" * 90 + "]" * 90)),
    "not a mapping": text("configs/inference.json", "[]"),
    "not JSON": text("configs/inference.json", "{"),
    "another graph": inference(evaluator={"_target_": "SupervisedTrainer"}),
    "no graph": text("configs/inference.json", json.dumps({"run": [f"${TOUCH}"]})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bundles_are_not_opened(guest, name):
    HOSTILE[name](guest)
    with pytest.raises(ValueError, match=r"trust_bundle"):
        open_bundle(guest)
    assert not Path("CANARY").exists()


#: One attack of each kind: every command opens a bundle by the same function, which knows them all.
OF_EACH_KIND = [
    "expression in run",
    "import",
    "eval",
    "another class by a key",
    "one more transform",
    "macro",
    "a key twice",
]
OF_EACH_KIND += ["pickled weights", "TorchScript", "a module that MONAI imports", "our package, changed"]
OF_EACH_KIND += [
    "configuration by a link",
    "weights by a link",
    "a fork bomb",
    "a network without end",
    "not a mapping",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_no_command_runs_anything_of_hostile_bundles(guest, name):
    HOSTILE[name](guest)
    medrestore("bundles", "weights", "verify", guest)
    for command in (
        ("restore", "a.npy", "-o", "b.npy", "--bundle", "./guest", "--set", "mean_hu=off"),
        ("export", "-o", "b.onnx", "--bundle", guest),
        ("evaluate", "--data", ".", "-o", "report", "--bundle", guest, "--baselines", "none"),
        ("evaluate", "--data", ".", "-o", "report", "--model", f"x={guest},unet.json", "--baselines", "none"),
    ):
        result = medrestore(*command)
        assert result.exit_code == 3, (command, result.output)
        assert "trust_bundle" in result.stderr or "is no JSON object" in result.stderr
        assert not Path("CANARY").exists()
    for run in (restore_by, lambda config: Restorer(config.parents[1])):
        with pytest.raises(ValueError, match=r"trust_bundle"):
            run(guest / "configs" / "inference.json")
    assert not any(Path(made).exists() for made in ("CANARY", "b.npy", "b.onnx", "report"))


def restore_by(config, **options):
    return restore("a.npy", "b.npy", config.parents[1], device="cpu", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["expression in run", "expression for a number", "one more transform", "one more in run"]
)
def test_hostile_bundles_would_run_if_they_were_trusted(guest, name):
    HOSTILE[name](guest)
    with pytest.raises(UntrustedBundleError):
        restore_by(guest / "configs" / "inference.json")
    with pytest.warns(UserWarning, match="runs as you trust it, with [12] finding"):
        open_bundle(guest, trust_bundle=True)
    with suppress(Exception):  # some attacks leave a pipeline that fails
        restore_by(guest / "configs" / "inference.json", trust_bundle=True)
    assert Path("CANARY").exists()


@pytest.mark.parametrize("name", ["the card, with a call", "the card, with code", "card by a link"])
def test_a_card_from_elsewhere_is_checked_before_it_is_shown(guest, name):
    assert medrestore("bundles", "show", guest).exit_code == 0
    HOSTILE[name](guest)
    for command in (("bundles", "show", guest), ("audit", "a.npy", "a.npy", "-o", "report", "--bundle", guest)):
        result = medrestore(*command)
        assert (result.exit_code, "trust_bundle" in result.stderr) == (3, True), result.output
    result = medrestore("bundles", "show", guest, "--trust-bundle")
    assert result.exit_code == 0, result.output
    assert "runs as you trust it" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_the_command_line_trusts_with_an_option_and_a_note(guest):
    HOSTILE["one more in run"](guest)
    result = medrestore("restore", "a.npy", "-o", "b.npy", "--bundle", guest, "--trust-bundle", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "runs as you trust it" in " ".join(result.stderr.split())
    assert Path("CANARY").exists()


EVALUATIONS = {
    "expression in run": inside(lambda c: c.update(run=[f"${TOUCH}"]), "evaluate"),
    "call for the seed": inside(lambda c: c.update(seed=PARTIAL), "evaluate"),
    "call in a new key": inside(lambda c: c.update(extra=CALL), "evaluate"),
    "another network": inside(lambda c: c.update({"network_def::_target_": "os.system"}), "evaluate"),
    "transform": inside(lambda c: c.update({"preprocessing::transforms::0": PARTIAL}), "evaluate"),
    "key twice": appended("evaluate.json", "{", '{"seed": {"_target_": "os.system"},'),
}


def test_trust_holds_for_each_configuration(guest):
    EVALUATIONS["expression in run"](guest)
    HOSTILE["expression in run"](guest)
    with pytest.warns(UserWarning, match="runs as you trust it"):
        open_bundle(guest, trust_bundle=True, configs=("inference", "evaluate"))
    for name in ("inference", "evaluate"):
        assert read_config(guest / "configs" / f"{name}.json").get("run") == [f"${TOUCH}"]
        other = guest.parent / f"other {name}"
        shutil.copytree(guest, other)
        with pytest.raises(UntrustedBundleError):  # of this one, nothing was said
            read_config(other / "configs" / f"{name}.json")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_hostile_evaluation_is_refused(guest, name):
    EVALUATIONS[name](guest)
    result = medrestore("evaluate", "--data", ".", "-o", "report", "--bundle", guest, "--baselines", "none")
    assert (result.exit_code, "configs/evaluate.json" in result.stderr) == (3, True), result.output
    assert not Path("CANARY").exists()
    open_bundle(guest)  # which restores all the same


OVERLAYS = {
    "call": {"network_def": PARTIAL},
    "expression": {"network_def": f"${TOUCH}"},
    "expression within": {"network_def::dim": f"${TOUCH}"},
    "call within": {"network_def#dim": PARTIAL},
    "class": {"network_def::_target_": "os.system"},
    "class in a network": {"network_def::network::_target_": "os.system"},
    "reference": {"network_def": "@weights"},
    "macro": {"network_def::dim": "%/tmp/evil.json"},
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_hostile_overlay_is_refused(guest, name):
    Path("other.json").write_text(json.dumps(OVERLAYS[name]))
    with pytest.raises(UntrustedBundleError, match=r"the overlay other\.json was not run"):
        open_overlay(Path("other.json"))
    model = f"x={NAME},./other.json"
    result = medrestore("evaluate", "--data", ".", "-o", "report", "--model", model, "--baselines", "none")
    assert result.exit_code == 3, result.output
    assert not Path("CANARY").exists()


def test_an_overlay_of_a_known_network_passes_from_anywhere(tmp_path):
    for number, content in enumerate(
        [
            {"network_def": {**json.loads((BUNDLES / NAME / "configs" / "train.json").read_text())["network_def"]}},
            {"network_def::dim": 24, "network_def#num_blocks": [1, 1, 1, 2], "run": f"${TOUCH}"},
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(content))
        assert open_overlay(path) == path


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_shipped_bundles_and_copies_of_them_pass(root, tmp_path):
    roles = ("inference", "evaluate")
    assert open_bundle(root, configs=roles).root == root
    copy = tmp_path / "another name"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*.png", "*.jpg"))
    assert open_bundle(copy, configs=roles).root == copy


ADAPTED = {
    "sizes": inside(lambda c: c["network_def"].update(dim=48, num_blocks=[4, 6, 6, 8], num_refinement_blocks=4)),
    "strength": inference(strength=0.5, self_ensemble=4),
    "tile": inference(tile=256, halo=32, slab=16),
    "words": inference(mean_hu="correct", precision="bfloat16", backend="onnx"),
    "offset": inference(hu_offset=-1024),
    "paths of the user": inference(dataset_dir="/home/me/scans"),
    "device": inference(device="cuda:1"),
    "number in place of an expression": inside(lambda c: c["inferer"].update(bytes_per_pixel=None)),
    "an argument of the network": inside(
        lambda c: c["network_def"].update(context=1, head_bias=None) or c["network_def"].pop("head_bias")
    ),
    "a value of one's own": inference(site="Ward 7", scanners=["A", "B"], noise={"std": 20.5, "cutoff": None}),
    "a value left out": inside(lambda c: c.pop("series_uid") and None),
    "sizes by keys": inference(**{"network_def::dim": 24}),
    "the card": inside(lambda c: c.update(version="1.2.0", adapted_from={"bundle": NAME, "images": 12}), "metadata"),
    "the recipe": inside(lambda c: c.update(run=["$1"], extra=CALL), "train"),
    "outputs beside": text("eval/table.csv", "a,b"),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_adapted_bundles_pass_without_an_option(guest, name):
    ADAPTED[name](guest)
    assert open_bundle(guest, configs=("inference", "evaluate")).root == guest


@pytest.mark.slow
def test_a_retrained_bundle_restores_without_an_option(guest):
    write_tiny_weights(guest / "models" / "model.pt", seed=3)
    digest = sha256(guest / "models" / "model.pt")
    edit_json(guest / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=digest))
    inference(strength=0.5, tile=256)(guest)
    result = medrestore("restore", "a.npy", "-o", "b.npy", "--bundle", guest, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert not np.array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.parametrize("context", [0, 1, 2])
def test_a_bundle_with_other_context_passes(tiny_pet, tmp_path, context):
    shutil.copytree(tiny_pet, tmp_path / "pet")
    inference(context=context, context_distance=[1.5, 6], strength=0.9)(tmp_path / "pet")
    open_bundle(tmp_path / "pet", configs=("inference", "evaluate"))


def test_a_bundle_is_looked_at_again_as_soon_as_it_changes(guest):
    open_bundle(guest)
    open_bundle(guest)
    HOSTILE["eval"](guest)
    with pytest.raises(UntrustedBundleError):
        open_bundle(guest)


def test_nothing_in_the_working_folder_goes_before_the_package(guest, monkeypatch):
    HOSTILE["one more in run"](guest)
    planted = guest.parent / NAME
    shutil.copytree(guest, planted)
    shutil.copytree(guest, guest.parent / "bundles" / NAME)
    assert find_bundle(NAME).root == BUNDLES / NAME
    for value in (".", "bundles"):
        monkeypatch.setenv("MEDRESTORE_BUNDLES", value)
        assert find_bundle(NAME).root == BUNDLES / NAME
    assert open_bundle(NAME).root == BUNDLES / NAME
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(planted.parent))  # asked for, and checked as any other
    with pytest.raises(UntrustedBundleError):
        open_bundle(NAME)


def test_a_configuration_is_trusted_where_it_lies_and_not_where_a_link_lies(guest):
    target = BUNDLES / NAME / "configs" / "inference.json"
    (guest / "configs" / "mine.json").symlink_to(target)
    assert open_config(guest / "configs" / "mine.json") == target
    HOSTILE["eval"](guest)
    (guest.parent / "link").symlink_to(guest)
    with pytest.raises(UntrustedBundleError):
        open_bundle(guest.parent / "link")
