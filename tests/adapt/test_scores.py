"""Slices are scored where there is something to score."""

import math

import torch

from medrestore_monai.adapt.scores import _Collected

SPACING, WINDOW = (4.0, 4.0, 4.0), (0.0, 20.0)
STEPS = {"input": 0.2, "before": 0.1, "after": 0.05}


def test_a_constant_target_does_not_count():
    collected = _Collected()
    target = 5 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    for label in (target * 0, target, target * 0 + 30):
        images = {name: label + step * (label is target) for name, step in STEPS.items()}
        counts = collected.add(images, label, "PT", WINDOW, 3, SPACING)
        assert counts is (label is target)
    scores = collected.scores(0, "PT")
    assert (scores.slices, scores.person) == (1, 3)
    assert all(math.isfinite(value) for value in scores.psnr.values())
