"""The layout of the checkpoints that the authors' code of MedDeblur writes, and its conversion to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["from_published"]

STATE = "stateDictEG"  # the network among what the checkpoint holds
# what is refined by RD-SAM: where the authors have it, and where MedDeblur
_REFINED = {
    "inblock": "encoder.0",
    "eblock1": "encoder.1",
    "eblock2": "encoder.2",
    "dblock1": "decoder.2",
    "dblock2": "decoder.1",
    "outblock": "decoder.0",
}
_ATTENTION = {
    "ver_conv": "vertical",
    "hor_conv": "horizontal",
    "convCat": "places",
    "square_conv": "overall",
    "depth.fc.0": "excite.0",
    "depth.fc.2": "excite.2",
}
_OTHERS = {
    "inblock.conv.0": "down.0",
    "eblock1.conv.0": "down.1",
    "eblock2.conv.0": "down.2",
    "convlstm.conv": "lstm.gates",
    "dblock1.deconv.0": "up.1",
    "dblock2.deconv.0": "up.0",
    "outblock.conv.0": "output",
}


def from_published(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Turn a checkpoint of the authors' code into a state dict of ``MedDeblur(attention="published", residual=False)``.

    Their convolutional LSTM is taken to order its gates as ours does: input, forget, output, candidate.

    Args:
        checkpoint: what their code saves, or its ``stateDictEG`` alone.

    Returns:
        The weights under our names, on the device and in the type they have.

    Raises:
        ValueError: the names are not those of that code; the message gives some of them.
    """
    state = checkpoint.get(STATE, checkpoint)
    names = _names()
    missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or unknown:
        parts = [f"{what} {', '.join(some[:3])}" for what, some in (("lacks", missing), ("has", unknown)) if some]
        raise ValueError(f"this is no checkpoint of the authors' MedDeblur: it {' and '.join(parts)}.")
    converted = {f"networks.0.{ours}": state[theirs] for theirs, ours in names.items()}
    # their squeeze and excitation is of linear layers, ours of 1x1 convolutions
    return {name: value[:, :, None, None] if ".excite." in name else value for name, value in converted.items()}


def _names() -> dict[str, str]:
    """The authors' names with ours."""
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _OTHERS.items() for kind in ("weight", "bias")}
    for theirs, ours in _REFINED.items():
        for block in range(3):
            before, after = f"{theirs}.resblock_stack.{block}", f"{ours}.blocks.{block}"
            names[f"{before}.conv_1x1.weight"] = f"{after}.fuse.weight"
            for layer in range(3):
                names[f"{before}.dense_layers.{layer}.conv.weight"] = f"{after}.layers.{layer}.weight"
        for part, name in _ATTENTION.items():
            for kind in ("weight",) if part.startswith("depth") else ("weight", "bias"):
                names[f"{theirs}.sam.multikernelconv1.{part}.{kind}"] = f"{ours}.attention.{name}.{kind}"
    return names
