"""A copy of a bundle with a network of some ten thousand weights, drawn at random: it runs in no time."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medrestore_monai.networks import RestoreRWKV

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
NAME = "ct_denoise_restore_rwkv"
TINY = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}


def write_tiny_weights(path: Path, seed: int = 0, **shape: int) -> Path:
    """Save the state of a tiny network that changes images by some percent."""
    torch.manual_seed(seed)
    network = RestoreRWKV(**TINY, **shape)
    torch.nn.init.normal_(network.output.weight, std=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def make_tiny_bundle(folder: Path, name: str = NAME, **settings: Any) -> Path:
    """Copy a bundle to ``folder``, with the tiny network in its configurations, weights and their SHA-256.

    ``settings`` replace top values of the configurations that have them.
    """
    root = folder / name
    shutil.copytree(BUNDLES / name, root, ignore=shutil.ignore_patterns("models", "runs", "eval", "*.png"))
    for config in ("train", "inference", "evaluate"):
        edit_json(root / "configs" / f"{config}.json", lambda content: _make_tiny(content, settings))
    weights = root / "models" / "model.pt"
    if name == NAME and not settings.get("context"):
        write_tiny_weights(weights)
    else:
        _write_weights_of(root / "configs" / "inference.json", weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit_json(root / "configs" / "metadata.json", lambda metadata: _describe(metadata, digest, settings.get("context")))
    card = root / "docs" / "README.md"
    card.write_text("# Tiny bundle\nFor research, not a medical device.\n")
    return root


def _make_tiny(content, settings):
    if "network_def" in content:
        content["network_def"].update(TINY)
    content.update({name: value for name, value in settings.items() if name in content})
    if "mean_hu" in content:  # such a network moves every mean
        content["mean_hu"] = "off"


def _describe(metadata, digest, context):
    metadata["weights_sha256"] = digest
    if context:
        channels = {str(channel): f"slice {channel - context:+d}" for channel in range(2 * context + 1)}
        image = metadata["network_data_format"]["inputs"]["image"]
        image.update(num_channels=len(channels), channel_def={**channels, str(context): "image"})


def _write_weights_of(config: Path, path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(config))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    torch.nn.init.normal_(network.output.weight, std=0.02)
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)


def edit_json(path, change):
    """Let ``change`` edit the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=4))
