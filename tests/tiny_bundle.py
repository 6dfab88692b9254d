"""A copy of a bundle with a network of some ten thousand weights, drawn at random: it runs in no time."""

import hashlib
import json
import shutil
from pathlib import Path

import torch

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


def make_tiny_bundle(folder: Path) -> Path:
    """Copy the bundle to ``folder``, with the tiny network in its configurations, weights and their SHA-256."""
    root = folder / NAME
    shutil.copytree(BUNDLES / NAME, root, ignore=shutil.ignore_patterns("models", "runs", "eval", "*.png"))
    for name in ("train", "inference", "evaluate"):
        edit_json(root / "configs" / f"{name}.json", lambda config: config["network_def"].update(TINY))
    weights = write_tiny_weights(root / "models" / "model.pt")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit_json(root / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=digest))
    card = root / "docs" / "README.md"
    card.write_text("# Tiny bundle\nFor research, not a medical device.\n")
    return root


def edit_json(path, change):
    """Let ``change`` edit the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=4))
