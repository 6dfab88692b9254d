"""Copies of the bundles for deblurring with networks of some thousand weights, drawn at random."""

import hashlib
import shutil
from pathlib import Path

import torch
from miniatures import AFF_NAME, MED_NAME, MLFF_NAME
from tiny_bundle import BUNDLES, edit_json

from medrestore_monai.networks import AFFUNetRWKV, MedDeblur, MLFFUNet

TINY = {
    AFF_NAME: (AFFUNetRWKV, {"channels": [8, 8, 8, 8]}),
    MLFF_NAME: (MLFFUNet, {"channels": [16, 16, 16, 16], "growth": 8}),
    MED_NAME: (MedDeblur, {"channels": [16, 16, 16]}),
}


def make_tiny_deblurring(folder: Path, name: str) -> Path:
    """Copy a bundle to ``folder``, with a tiny network that changes pictures by some percent."""
    kind, options = TINY[name]
    root = folder / name
    shutil.copytree(BUNDLES / name, root, ignore=shutil.ignore_patterns("models", "runs", "eval", "docs"))
    for config in ("train", "inference"):
        edit_json(root / "configs" / f"{config}.json", lambda content: content["network_def"].update(options))
    torch.manual_seed(0)
    network = kind(**options)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith(("output.weight", "decoder.0.2.pointwise.weight")):
            torch.nn.init.normal_(parameter, std=0.06)
    (root / "models").mkdir()
    weights = root / "models" / "model.pt"
    torch.save(network.state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edit_json(root / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=digest))
    return root
