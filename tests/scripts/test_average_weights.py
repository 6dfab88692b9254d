import importlib
import sys

import pytest
import torch
from tiny_bundle import BUNDLES

sys.path.insert(0, str(BUNDLES.parent / "scripts" / "train"))
average_weights = importlib.import_module("average_weights")


def test_weights_lie_between_the_two(tmp_path):
    old = {"w": torch.tensor([0.0, 10.0]), "steps": torch.tensor(3)}
    new = {"w": torch.tensor([1.0, 20.0]), "steps": torch.tensor(7)}
    torch.save(old, tmp_path / "old.pt")
    torch.save(new, tmp_path / "new.pt")
    average_weights.main([str(tmp_path / name) for name in ("old.pt", "new.pt", "out.pt")] + ["--share", "0.25"])
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["w"].tolist() == [0.25, 12.5]
    assert found["steps"] == 7


def test_weights_without_neighbors_get_zeros_for_them():
    old, new = {"embed.weight": torch.ones(2, 1, 3, 3)}, {"embed.weight": torch.full((2, 5, 3, 3), 3.0)}
    found = average_weights.average(old, new, 0.5)["embed.weight"]
    assert found[:, :, 0, 0].tolist() == [[1.5, 1.5, 2, 1.5, 1.5]] * 2


def test_other_networks_and_shares_are_refused():
    with pytest.raises(ValueError, match="different networks"):
        average_weights.average({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(ValueError, match="share must lie"):
        average_weights.average({}, {}, 1.5)
