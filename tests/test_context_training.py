"""Each bundle for volumes trains with neighboring slices by an overlay, and its configurations agree on them."""

import copy
import json

import numpy as np
import pytest
import torch
from miniatures import write_volumes
from monai.bundle import ConfigParser
from monai.data import set_track_meta
from monai.utils import set_determinism
from phantoms import ct_volume
from tiny_bundle import BUNDLES, make_tiny_bundle

from medrestore_monai.bundles import find_bundle
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.inferers import AutocastInferer

NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/train_context.json"))
QUICK = {"max_epochs": 1, "epoch_length": 2, "val_interval": 1, "batch_size": 2, "patch_size": [32, 32]}
each = pytest.mark.parametrize("name", NAMES)


def contents(root):
    return {path.stem: json.loads(path.read_text()) for path in (root / "configs").glob("*.json")}


def test_bundles_for_volumes_have_the_overlay():
    assert NAMES == [
        "all_in_one_restore_rwkv",
        "ct_denoise_restore_rwkv",
        "mri_superresolution_restore_rwkv",
        "pet_synthesis_restore_rwkv",
    ]


@each
def test_configurations_and_metadata_agree_on_the_neighbors(name):
    configs = contents(BUNDLES / name)
    context = configs["inference"]["context"]
    assert context in [configs[file]["context"] for file in ("train", "train_context")]
    assert len(configs["inference"]["context_distance"]) == 2
    channels = configs["metadata"]["network_data_format"]["inputs"]["image"]
    outputs = configs["metadata"]["network_data_format"]["outputs"]["pred"]
    assert channels["num_channels"] == len(channels["channel_def"]) == 2 * context + 1
    assert outputs["num_channels"] == len(outputs["channel_def"]) == 1
    for file in ("train", "inference"):
        parts = [configs[file][part] for part in ("network_def", "inferer")]
        assert [part["context"] for part in parts] == ["@context"] * 2
    assert configs["inference"]["load"]["context"] == "@context"  # slabs are read with neighbors
    for part in ("scaling", "unscaling"):
        names = [transform["_target_"] for transform in configs["inference"][part]["transforms"]]
        assert ("medrestore_monai.transforms.HaloCropd" in names[:1]) == (part == "unscaling")
    assert configs["inference"]["derivation"]["neighbors"] == "@context"
    assert configs["inference"]["derivation"]["parameters"]["context"] == "@context"


def write_parts(folder, modality):
    """Volumes, and among those for training a single slice that is smaller than a patch."""
    for part in ("train", "validation"):
        write_volumes(folder / part, modality)
    (folder / "train" / "single").mkdir()
    hu = ct_volume(1, (30, 41))[..., 0]
    np.save(folder / "train" / "single" / "slice.npy", hu if modality == "CT" else hu / 200 + 6)


def training(root, data, output):
    """The configuration of a training with neighbors of a tiny bundle, as the overlay lays it over."""
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / f"{name}.json") for name in ("train", "train_context")])
    places = {"dataset_dir": str(data), "output_dir": str(output), "num_workers": 0}
    parser.update({**QUICK, **places, "device": torch.device("cpu")})
    return parser


@pytest.mark.slow
@each
def test_a_training_with_neighbors_starts_from_the_weights_without(name, tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles", name)
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(root.parent))
    modalities = find_bundle(root).modalities
    for modality in modalities:
        write_parts(tmp_path / "data" / modality if len(modalities) > 1 else tmp_path / "data", modality)
    parser = training(root, tmp_path / "data", tmp_path / "out")
    seen = []
    try:
        with unwrapped():
            parser.get_parsed_content("initialize")
            network = parser.get_parsed_content("network")
            shipped = torch.load(root / "models" / "model.pt", weights_only=True)
            started = copy.deepcopy(network.state_dict())
            average = parser.get_parsed_content("average").ema_model
            average.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
            trainer = parser.get_parsed_content("train#trainer")
            items = list(parser.get_parsed_content("train#dataset"))
            parser.get_parsed_content("run")
    finally:
        set_track_meta(True)
        set_determinism(None)
    if shipped["embed.weight"].shape[1] == 1:  # the neighbors start at zero
        assert torch.equal(started["embed.weight"][:, 2:3], shipped["embed.weight"])
        assert not started["embed.weight"][:, [0, 1, 3, 4]].any()
    else:
        assert torch.equal(started["embed.weight"], shipped["embed.weight"])
    assert isinstance(trainer.inferer, AutocastInferer)
    assert len(items) == 4 * len(modalities)
    assert {(tuple(item["image"].shape), tuple(item["label"].shape)) for item in items} == {((5, 32, 32), (1, 32, 32))}
    assert all(image.shape[1] == 5 for image in seen)  # validation
    assert any(not torch.equal(image[:, 1:2], image[:, 2:3]) for image in seen)  # with true neighbors
    saved = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert saved.keys() == started.keys()
    trained = network.state_dict()
    assert any(not torch.equal(saved[key], trained[key]) for key in saved)  # the moving average
