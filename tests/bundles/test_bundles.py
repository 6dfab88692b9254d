"""Bundles are found, their cards hold what they must, and their weights are the right ones or an error."""

import copy
import json
import math
import re
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from miniatures import write_volumes
from monai.bundle import ConfigParser
from monai.data import set_track_meta
from monai.utils import set_determinism
from phantoms import ct_volume
from tiny_bundle import BUNDLES, NAME, TINY, edit_json, make_tiny_bundle, write_tiny_weights

from medrestore_monai.bundles import (
    bundle_root,
    find_bundle,
    list_bundles,
    load_network,
    load_weights,
    start_from,
    verify_weights,
)
from medrestore_monai.bundles.settings import recorded_settings
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.inferers import AutocastInferer
from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.networks import RestoreRWKV, RestoreRWKVRouting

SHIPPED = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/metadata.json"))
EXPERIMENTS = BUNDLES.parent / "scripts" / "experiments"

TEXT = {"type": "string", "minLength": 1}
FORMAT = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
        "properties": {
            "type": {"enum": ["image"]},
            "num_channels": {"type": "integer", "minimum": 1},
            "spatial_shape": {"type": "array", "minItems": 2},
            "value_range": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}},
            "is_patch_data": {"type": "boolean"},
            "channel_def": {"type": "object"},
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": [
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "name"),
        *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
        *("data_source", "intended_use", "references"),
    ],
    "properties": {
        **dict.fromkeys(("name", "task", "description", "authors", "copyright", "data_source"), TEXT),
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "monai_version": {"type": "string", "pattern": r"^\d+\.\d+"},
        "changelog": {"type": "object", "additionalProperties": TEXT},
        "required_packages_version": {"type": "object", "additionalProperties": TEXT},
        "intended_use": {"type": "string", "pattern": "Not a medical device"},
        "weights_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": FORMAT, "outputs": FORMAT},
        },
    },
}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "elsewhere")
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(root.parent))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_the_card_of_a_shipped_bundle_is_complete(root):
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, SCHEMA)
    assert metadata["version"] in metadata["changelog"]
    for key in SCHEMA["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in metadata.items() if k != key}, SCHEMA)
    files = ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"]
    files += [f"configs/{name}.json" for name in ("train", "inference", "evaluate", "multi_gpu_train")]
    assert [name for name in files if not (root / name).is_file()] == []
    assert not list(root.rglob("*.py"))
    assert "Not a medical device" in " ".join((root / "docs" / "README.md").read_text().split())


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_a_bundle_declares_modalities_that_have_a_range(root):
    modalities = find_bundle(root).modalities
    assert modalities
    assert set(modalities) <= set(INTENSITY_RANGES)
    assert len(set(modalities)) == len(modalities)
    assert set(find_bundle(root).evaluated) <= set(modalities)


@pytest.mark.slow
@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_shipped_weights_are_those_of_the_card(root):
    weights = find_bundle(root).weights
    assert re.fullmatch("[0-9a-f]{64}", verify_weights(weights, root))
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    load_weights(parser.get_parsed_content("network_def"), weights, root)


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_the_configurations_of_a_bundle_agree(root):
    configs = {path.stem: json.loads(path.read_text()) for path in (root / "configs").glob("*.json")}
    networks = [
        {k: v for k, v in configs[name]["network_def"].items() if k != "use_checkpoint"}
        for name in ("train", "inference")
    ]
    assert networks[0] == networks[1]
    for name in ("train", "inference"):
        assert configs[name]["bundle_root"]["name"] == root.name
    assert "run" in configs["inference"]
    assert "inference" in configs["inference"]
    assert "training" in configs["train"]


# parameters, merged for inference, of the light network and of base.json, as our cards list them
COUNTS = {"RestoreRWKV": {None: 1.19e6, "base": 27.91e6}, "RestoreRWKVRouting": {None: 1.38e6, "base": 24.90e6}}


def network_overlays(root):
    """``None`` and the configurations that change the network."""
    overlays = [
        path.stem for path in sorted((root / "configs").glob("*.json")) if '"bundle_root"' not in path.read_text()
    ]
    of_networks = [name for name in overlays if "network_def" in (root / "configs" / f"{name}.json").read_text()]
    return [None, *(name for name in of_networks if name not in ("metadata", "multi_gpu_train", "train_cpu"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("root", "overlay"),
    [(root, overlay) for root in SHIPPED for overlay in network_overlays(root)],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_network_of_a_configuration_can_be_built(root, overlay):
    parser = ConfigParser()
    names = ["train", *([overlay] if overlay else [])]
    parser.read_config([str(root / "configs" / f"{name}.json") for name in names])
    network = parser.get_parsed_content("network_def").eval()
    expected = COUNTS.get(type(network).__name__, {}).get("base" if overlay == "base" else None)
    if expected is not None:
        count = sum(parameter.numel() for parameter in network.merged().parameters())
        assert count == pytest.approx(expected, rel=0.005)
    channels = parser.get("network_def").get("in_channels", 1)
    image = torch.rand(1, getattr(network, "in_channels", channels), 17, 12)
    with torch.no_grad():
        assert network(image).shape == (1, channels, 17, 12)


@pytest.mark.slow
def test_the_plain_network_for_all_three_modalities_has_the_size_of_the_paper():
    train = BUNDLES / "all_in_one_restore_rwkv" / "configs" / "train.json"
    plain = EXPERIMENTS / "all_in_one_restore_rwkv" / "plain.json"
    parser = ConfigParser()
    parser.read_config([str(place) for place in (train, plain, BUNDLES / NAME / "configs" / "base.json")])
    merged = parser.get_parsed_content("network_def").merged()
    assert sum(parameter.numel() for parameter in merged.parameters()) == pytest.approx(27.91e6, rel=0.005)


QUICK = {"max_epochs": 1, "epoch_length": 1, "val_interval": 1, "batch_size": 2, "patch_size": [32, 32]}
MEDICAL = [root for root in SHIPPED if set(find_bundle(root).modalities) <= {"CT", "MR", "PT"}]


RWKV = [root for root in SHIPPED if "restore_rwkv" in root.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("root", "overlay"),
    [*((root, None) for root in MEDICAL), *((root, "train_bfloat16") for root in RWKV)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_training_step_is_made_and_validated(root, overlay, tmp_path):
    modalities = find_bundle(root).modalities
    for modality in modalities:
        write_volumes(tmp_path / "data" / modality if len(modalities) > 1 else tmp_path / "data", modality)
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / f"{name}.json") for name in ("train", overlay) if name])
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "num_workers": 0}
    network = {f"network_def::{name}": value for name, value in TINY.items()}
    parser.update({**QUICK, **places, **network, "device": torch.device("cpu"), "held_back": 0.34})
    before = copy.deepcopy(parser.get_parsed_content("network").state_dict())
    try:
        with unwrapped():
            parser.get_parsed_content("initialize")
            inferers = [parser.get_parsed_content(name).inferer for name in ("train#trainer", "validate#evaluator")]
            parser.get_parsed_content("run")
    finally:
        set_track_meta(True)
        set_determinism(None)
    assert [isinstance(one, AutocastInferer) for one in inferers] == [overlay == "train_bfloat16", False]
    after = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert math.isfinite(json.loads((tmp_path / "out" / "model.json").read_text())["PSNR"])


@pytest.mark.slow
def test_ct_trains_on_pairs_of_ones_own(tmp_path):
    """Low dose is 10 HU more everywhere here, so that a pair cropped or turned apart would show."""
    for patient in range(3):
        clean = ct_volume(2, (45, 41)) + 20 * patient
        for name, volume in (("LQ", clean + 10), ("HQ", clean)):
            (tmp_path / "data" / name / f"p{patient}").mkdir(parents=True)
            np.save(tmp_path / "data" / name / f"p{patient}" / "a.npy", volume.astype(np.float32))
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / NAME / "configs" / f"{name}.json") for name in ("train", "train_pairs")])
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "num_workers": 0}
    network = {f"network_def::{name}": value for name, value in TINY.items()}
    parser.update({**QUICK, **places, **network, "device": torch.device("cpu")})
    try:
        with unwrapped():
            parser.get_parsed_content("initialize")
            batches = [next(iter(parser.get_parsed_content(f"{part}#dataloader"))) for part in ("train", "validate")]
            parser.get_parsed_content("run")
    finally:
        set_track_meta(True)
        set_determinism(None)
    assert [tuple(batch["image"].shape) for batch in batches] == [(2, 1, 32, 32), (1, 1, 45, 41)]
    for batch in batches:
        torch.testing.assert_close((batch["image"] - batch["label"]) * 4096, torch.full_like(batch["label"], 10))
    assert math.isfinite(json.loads((tmp_path / "out" / "model.json").read_text())["PSNR"])


def test_a_bundle_is_found_by_name_by_folder_and_from_inside(bundle, monkeypatch, tmp_path):
    assert find_bundle(NAME).root == bundle  # the environment variable goes before the checkout
    assert bundle_root(NAME) == str(bundle)
    copy = tmp_path / "renamed"
    bundle.rename(copy)
    assert find_bundle(copy).root == copy
    assert find_bundle(NAME).root == BUNDLES / NAME
    monkeypatch.chdir(copy)
    assert find_bundle(".").root == copy
    monkeypatch.chdir(tmp_path)
    assert find_bundle("./renamed").root == copy


@pytest.mark.parametrize("place", ["bundles", ".", "inside"])
def test_a_bundle_in_the_working_folder_is_not_taken_for_an_installed_one(place, monkeypatch, tmp_path):
    planted = tmp_path / place / NAME
    shutil.copytree(BUNDLES / NAME / "configs", planted / "configs")
    shutil.copytree(planted, planted.with_name("stranger"))
    monkeypatch.chdir(planted if place == "inside" else tmp_path)
    assert find_bundle(NAME).root == BUNDLES / NAME
    assert NAME in {bundle.name for bundle in list_bundles()} >= {"all_in_one_restore_rwkv"}
    assert all(BUNDLES in bundle.root.parents for bundle in list_bundles())
    monkeypatch.chdir(planted.parent)
    with pytest.raises(ValueError, match=r"no bundle 'stranger'; .* run one that you trust by its path, \./stranger\."):
        find_bundle("stranger")
    assert find_bundle(f"./{NAME}").root == planted
    assert find_bundle(planted).root == planted


@pytest.mark.parametrize(
    "given", ["--config_file={}", "--config-file {}", "--config_file ['{}','train_cpu.json']", "--config_file ('{}',)"]
)
def test_a_copy_run_through_monai_uses_its_own_folder(given, monkeypatch, tmp_path):
    copy = tmp_path / "renamed"
    shutil.copytree(BUNDLES / NAME / "configs", copy / "configs")
    config = str(copy / "configs" / "inference.json")
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "training", *given.format(config).split(" ")])
    assert bundle_root(NAME) == str(copy)
    assert bundle_root("pet_synthesis_restore_rwkv") == str(BUNDLES / "pet_synthesis_restore_rwkv")
    monkeypatch.setattr(sys, "argv", ["python"])
    assert bundle_root(NAME) == str(BUNDLES / NAME)
    monkeypatch.chdir(copy)
    assert bundle_root(NAME) == str(copy)


def test_the_list_has_each_name_once(bundle):
    found = list_bundles()
    assert [item.name for item in found] == sorted({item.name for item in found})
    (ours,) = [item for item in found if item.name == NAME]
    assert (ours.root, ours.modalities) == (bundle, ("CT",))


def test_an_unknown_bundle_is_refused_with_those_there_are(bundle):
    with pytest.raises(ValueError, match=f"no bundle 'nothing'; found here: .*{NAME}"):
        find_bundle("nothing")


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}", '{"version": "1", "task": "x"}', "\xff"])
def test_a_broken_card_is_named(bundle, content):
    (bundle / "configs" / "metadata.json").write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=r"metadata\.json (is no JSON object|lacks)"):
        find_bundle(NAME)


def test_missing_weights_are_an_error(bundle):
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(ValueError, match=r"weight file .*model\.pt is missing"):
        load_network(RestoreRWKV(**TINY), bundle / "models" / "model.pt", NAME)


def test_other_weights_than_in_the_card_are_an_error(bundle):
    write_tiny_weights(bundle / "models" / "model.pt", seed=1)
    with pytest.raises(ValueError, match="is not the file of the bundle's card: SHA-256"):
        load_network(RestoreRWKV(**TINY), bundle / "models" / "model.pt", NAME)
    edit_json(bundle / "configs" / "metadata.json", lambda metadata: metadata.pop("weights_sha256"))
    with pytest.raises(ValueError, match="expected None"):
        verify_weights(bundle / "models" / "model.pt", NAME)


@pytest.mark.slow
def test_weights_of_ones_own_need_not_be_those_of_the_card(bundle, tmp_path):
    own = write_tiny_weights(tmp_path / "own.pt", seed=1)
    network = load_weights(RestoreRWKV(**TINY), own, NAME)
    assert not network.training
    torch.testing.assert_close(dict(network.state_dict()), dict(torch.load(own, weights_only=True)), rtol=0, atol=0)


def state_without(name):
    return OrderedDict((k, v) for k, v in RestoreRWKV(**TINY).state_dict().items() if k != name)


WRONG_STATES = {
    "another network": torch.nn.Linear(2, 2).state_dict(),
    "one missing": state_without("output.weight"),
    "one too many": {**RestoreRWKV(**TINY).state_dict(), "more": torch.zeros(1)},
    "another shape": {**RestoreRWKV(**TINY).state_dict(), "output.weight": torch.zeros(1, 1, 3, 3)},
    "not numbers": dict.fromkeys(RestoreRWKV(**TINY).state_dict(), "text"),
    "a list": [torch.zeros(1)],
    "a training state": {"network": RestoreRWKV(**TINY).state_dict(), "best": {"score": 1.0}},
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_states_that_do_not_fit_are_refused(tmp_path, name):
    torch.save(WRONG_STATES[name], tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=r"wrong\.pt does not hold the weights of RestoreRWKV"):
        load_weights(RestoreRWKV(**TINY), tmp_path / "wrong.pt")


@pytest.mark.parametrize("damage", ["empty", "text", "zeros", "half", "a little", "code"])
def test_damaged_weight_files_are_refused(tmp_path, damage):
    path = write_tiny_weights(tmp_path / "wrong.pt")
    whole = path.read_bytes()
    content = {"empty": b"", "text": b"hello", "zeros": bytes(5000), "half": whole[: len(whole) // 2]}
    path.write_bytes({**content, "a little": whole[:-30]}.get(damage, whole))
    if damage == "code":
        torch.save({"output.weight": Path("any object")}, path)  # a pickle that would call a constructor
    with pytest.raises(ValueError, match=r"wrong\.pt (does not hold the weights|is no file of weights)"):
        load_weights(RestoreRWKV(**TINY), path)


@pytest.mark.slow
def test_a_network_starts_from_what_it_shares_with_a_bundle(bundle):
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    network = RestoreRWKVRouting(**TINY)
    own = {name: values.clone() for name, values in network.state_dict().items()}
    shared = [name for name in weights if name in own and own[name].shape == weights[name].shape]
    assert start_from(network, NAME) == len(shared) > 0
    for name, values in network.state_dict().items():
        torch.testing.assert_close(values, weights[name] if name in shared else own[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"Linear and the weights of .* have nothing in common"):
        start_from(torch.nn.Linear(2, 2), NAME)


@pytest.mark.slow
def test_a_network_with_context_starts_from_a_bundle_without(bundle):
    network, image = RestoreRWKV(**TINY, context=2).eval(), torch.rand(1, 5, 9, 12)
    start_from(network, NAME)
    single = load_weights(RestoreRWKV(**TINY), bundle / "models" / "model.pt", NAME)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), single(image[:, 2:3]), rtol=0, atol=1e-6)


def test_weights_with_context_load_into_a_network_without(tmp_path):
    network, image = RestoreRWKV(**TINY, context=2).eval(), torch.rand(1, 1, 9, 12)
    torch.nn.init.normal_(network.output.weight, std=0.1)
    torch.save(network.state_dict(), tmp_path / "context.pt")
    single = load_weights(RestoreRWKV(**TINY), tmp_path / "context.pt")
    with torch.inference_mode():
        torch.testing.assert_close(single(image), network(image.expand(1, 5, 9, 12)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_loaded_network_is_merged_and_computes_the_same(bundle):
    plain = load_weights(RestoreRWKV(**TINY), bundle / "models" / "model.pt", NAME)
    ready = load_network(RestoreRWKV(**TINY), bundle / "models" / "model.pt", NAME)
    assert len(dict(ready.named_parameters())) < len(dict(plain.named_parameters()))
    image = torch.rand(1, 1, 24, 17)
    with torch.no_grad():
        torch.testing.assert_close(ready(image), plain(image), rtol=0, atol=1e-5)


OVERLAYS = sorted(EXPERIMENTS.glob("*/*.json"))
TO_COMPARE = [path for path in OVERLAYS if path.stem in ("unet", "restormer", "srn", "deblurgan", "plain")]
FROM_START = [path for path in OVERLAYS if path.stem.endswith("_from_start")]
OVER_BLUR = [path for path in OVERLAYS if '"shares"' in path.read_text()]  # laid over train_blur.json, too
LATER_STAGES = [path for path in OVERLAYS if path not in TO_COMPARE + FROM_START + OVER_BLUR]


def read_with_overlays(overlay, *before):
    """The training of a bundle on a CPU, and over it one experiment's configuration."""
    parser = ConfigParser()
    configs = BUNDLES / overlay.parent.name / "configs"
    parser.read_config([str(path) for path in (configs / "train.json", configs / "train_cpu.json", *before, overlay)])
    parser["device"] = "$torch.device('cpu')"
    return parser


@pytest.mark.parametrize("overlay", TO_COMPARE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_network_to_compare_with_starts_on_its_own(overlay):
    """Our networks may start from the weights of another bundle, which fit no other network."""
    parser = read_with_overlays(overlay)
    if overlay.stem != "plain":
        parser.get_parsed_content("initialize")
    network = parser.get_parsed_content("network")
    assert type(network) is not type(find_network(overlay.parent.name))


@pytest.mark.parametrize("overlay", FROM_START, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_network_with_neighbors_starts_on_its_own(overlay):
    parser = read_with_overlays(overlay, BUNDLES / overlay.parent.name / "configs" / "train_context.json")
    parser.get_parsed_content("initialize")
    network, images = parser.get_parsed_content("network").eval(), torch.rand(1, 5, 64, 48)
    with torch.no_grad():
        assert network(images).shape == (1, 1, 64, 48)
        swapped = network(images[:, [4, 1, 2, 3, 0]])
        assert not torch.equal(swapped, network(images))


@pytest.mark.parametrize("overlay", OVER_BLUR, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_training_on_more_kinds_of_blur_starts(overlay):
    root = BUNDLES / overlay.parent.name
    parser = read_with_overlays(overlay, root / "configs" / "train_blur.json")
    parser.get_parsed_content("initialize")
    network = parser.get_parsed_content("network")
    shipped = torch.load(root / "models" / "model.pt", weights_only=True)
    if overlay.stem == "wide":  # another network, from random weights
        count = sum(one.numel() for one in network.parameters())
        assert count > 3 * sum(one.numel() for one in shipped.values())
    else:
        for name, values in network.state_dict().items():
            torch.testing.assert_close(values, shipped[name])
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 48, 35)).shape == (1, 3, 48, 35)
    picture = torch.rand(3, 48, 35) * 255
    blurred = parser.get_parsed_content("blur")({"image": picture})["image"]
    assert blurred.shape == picture.shape
    assert blurred.std() < picture.std()


def find_network(name):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "train.json"))
    return parser.get_parsed_content("network_def")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", LATER_STAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_later_stage_starts_from_the_weights_of_the_one_before(overlay, tmp_path):
    before = [path for path in LATER_STAGES if path.parent == overlay.parent and path.stem < overlay.stem]
    parser = read_with_overlays(overlay, *before)
    torch.save(find_network(overlay.parent.name).state_dict(), tmp_path / "model.pt")
    assert parser.get_parsed_content("first_weights").startswith(str(BUNDLES / overlay.parent.name / "runs"))
    parser["first_weights"] = str(tmp_path / "model.pt")
    parser.get_parsed_content("initialize")
    expected = torch.load(tmp_path / "model.pt", weights_only=True)
    for name, values in parser.get_parsed_content("network").state_dict().items():
        torch.testing.assert_close(values, expected[name])


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("sides", [(24, 24), (200, 180)])
def test_small_images_and_those_of_air_alone_train_too(tmp_path, modality, sides):
    name = {"CT": "ct_denoise", "MR": "mri_superresolution", "PT": "pet_synthesis"}[modality] + "_restore_rwkv"
    image = np.full((*sides, 1), -1000 if modality == "CT" else 0, np.float32)
    if sides == (24, 24):
        image[5:18, 7:] = 30 if modality == "CT" else 500 if modality == "MR" else 3
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / patient / "image.nii.gz")
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "train.json"))
    parser.update({"dataset_dir": str(tmp_path), "held_back": 0.5, "device": torch.device("cpu")})
    patch = parser.get_parsed_content("train#dataset")[0]
    sides = tuple(parser.get_parsed_content("patch_size"))
    assert patch["image"].shape == (2 * parser.get("context", 0) + 1, *sides)
    assert patch["label"].shape == (1, *sides)
    assert bool(torch.isfinite(patch["image"]).all())


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))
def test_the_derivation_records_the_settings_that_change_a_result(name):
    bundle = find_bundle(BUNDLES / name)
    config = json.loads(bundle.config("inference").read_text())
    recorded = recorded_settings(bundle.settings)
    assert {"strength", "tile"} <= set(recorded.values())
    parameters = {key: value for key, value in config["derivation"]["parameters"].items() if key != "bundle"}
    assert parameters == {key: f"@{name}" for key, name in recorded.items()}


@pytest.mark.parametrize("file", ["inference", "evaluate"])
@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))
def test_the_number_of_orientations_reaches_the_inferer(name, file):
    files = [str(BUNDLES / name / "configs" / f"{one}.json") for one in dict.fromkeys(("inference", file))]
    parser = ConfigParser()
    parser.read_config(files)
    assert parser.get_parsed_content("inferer").self_ensemble == 1
    parser.read_config(files)
    parser.update({"self_ensemble": 8})
    assert parser.get_parsed_content("inferer").self_ensemble == 8
