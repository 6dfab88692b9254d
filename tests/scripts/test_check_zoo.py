"""``scripts/check_zoo.py``: every bundle passes the checks of MONAI's model zoo, and each check can fail."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from script_loading import load_script
from tiny_bundle import edit_json, make_tiny_bundle

from medrestore_monai.bundles import find_bundle, list_bundles
from medrestore_monai.bundles.package import package_bundle

CARD = Path("docs", "README.md")


@pytest.fixture
def zoo(monkeypatch):
    script = load_script("check_zoo.py")
    if "MEDRESTORE_SHARED" not in os.environ:  # the schema would be downloaded
        monkeypatch.setattr(script, "wrong_metadata", lambda root, schema: "")
    return script


def problems(zoo, root):
    schema = Path(os.environ.get("MEDRESTORE_SHARED", ""), "schema", "meta_schema_20240725.json")
    return {name: text for name, text in zoo.check(root, schema).items() if text}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", list_bundles(), ids=lambda bundle: bundle.name)
def test_each_bundle_passes(bundle, tmp_path, zoo):
    folder, _ = package_bundle(bundle, tmp_path)
    assert problems(zoo, folder) == {}
    # the bundle's own card names the exclusion, which is needed
    assert zoo.wrong_torchscript(bundle.root) == ""
    with pytest.raises((RuntimeError, torch.jit.frontend.FrontendError)):
        torch.jit.script(zoo.read(folder, "inference").get_parsed_content("network_def"))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    root = make_tiny_bundle(tmp_path_factory.mktemp("bundles"))
    return package_bundle(find_bundle(root), tmp_path_factory.mktemp("zoo"))[0]


def config(name, change):
    return lambda root: edit_json(root / "configs" / f"{name}.json", change)


def without(text):
    return lambda root: (root / CARD).write_text((root / CARD).read_text().replace(text, ""))


CHANGES = {
    "license": (lambda root: (root / "LICENSE").unlink(), "files", "LICENSE is missing"),
    "size": (lambda root: (root / "docs" / "a.png").write_bytes(bytes(26 * 2**20)), "files", "a.png is larger than 25"),
    "version": (config("metadata", lambda c: c.update(version="9")), "version", "does not name version 9"),
    "schema": (config("metadata", lambda c: c.update(authors=3)), "metadata", "Error"),
    "shapes": (config("inference", lambda c: c["network_def"].update(out_channels=2)), "shapes", "channel"),
    "TorchScript": (without("exclude_verify_torchscript_list"), "TorchScript", "Error"),
    "a key": (config("train", lambda c: c["train"].pop("handlers")), "keys", "train.json lacks train::handlers"),
    "an inner key": (
        config("train", lambda c: c["validate"]["dataset"].pop("data")),
        "keys",
        "validate::dataset::data",
    ),
    "a place": (
        config("train", lambda c: c["train"]["dataset"].update(transform="@validate#preprocessing")),
        "keys",
        "train::dataset::transform of train.json is not @train::preprocessing",
    ),
    "a section": (without("## **Performance**"), "card", "has no section Performance"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_breaks_a_rule_is_found(change, packaged, tmp_path, zoo):
    act, name, message = CHANGES[change]
    if name == "metadata" and "MEDRESTORE_SHARED" not in os.environ:
        pytest.skip("MEDRESTORE_SHARED is not set")
    root = tmp_path / packaged.name
    shutil.copytree(packaged, root, ignore=shutil.ignore_patterns("medrestore_monai"))
    act(root)
    found = problems(zoo, root)
    assert found.keys() == {name}
    assert message in found[name]
