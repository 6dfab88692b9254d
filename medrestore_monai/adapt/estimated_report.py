"""What a report says of an adaptation without targets, as plain values that name no image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medrestore_monai.adapt.decision import Decision, least_visible
from medrestore_monai.adapt.estimated_scores import EstimatedScores, plain
from medrestore_monai.adapt.measured import Recorruption
from medrestore_monai.adapt.unfit_noise import CHECKS

WEIGHTS = ("as shipped", "adapted")


def estimated_decision(scores: EstimatedScores) -> Decision:
    """Return the verdict of estimated errors in the words of those with targets."""
    verdict = scores.verdict
    errors = [[unit[name]["estimated_error"] for name in WEIGHTS] for unit in scores.units]
    gains = [10 * math.log10(before / after) for before, after in errors if min(before or 0, after or 0) > 0]
    visible = least_visible(float(np.std(gains, ddof=1)), len(gains)) if len(gains) > 1 else math.nan
    return Decision(verdict.adopt, verdict.reasons, verdict.gain, verdict.p_value, visible, verdict.units, True)


def estimated_part(
    noise: Sequence[Mapping[str, Any]], chosen: Recorruption, scores: EstimatedScores | None
) -> dict[str, Any]:
    """Return the part of a report that there is without targets only.

    Args:
        noise: of :func:`~medrestore_monai.adapt.unfit_noise.refuse_noise`.
        chosen: how pairs were made.
        scores: of the verdict; ``None`` where it did not come to one.
    """
    units = [] if scores is None else list(scores.units)
    guards = [] if scores is None else scores.guards
    return {
        "estimated_without_truth": True,
        "recorruption": {
            "alpha": chosen.alpha,
            "beta": round(chosen.beta, 4),
            "noise_kept_by_shipped": chosen.passed,
            "noise_kept_trained": round(chosen.kept, 4),
        },
        "checks_tried": list(CHECKS),
        "noise": [dict(one) for one in noise],
        "means": {name: _means(units, name) for name in WEIGHTS} if units else {},
        "units": units,
        "sensitivity_db": {} if scores is None else {n: plain(v) for n, v in scores.verdict.gains.items()},
        "guards": [
            {
                "name": guard.name,
                "as shipped": plain(guard.shipped),
                "adapted": plain(guard.adapted),
                "allowed": plain(guard.tolerance),
                "held": guard.held,
            }
            for guard in guards
        ],
    }


def _means(units: Sequence[Mapping[str, Any]], name: str) -> dict[str, float | None]:
    rows = [unit[name] for unit in units]
    return {
        key: plain(float(np.mean([row[key] if row[key] is not None else math.nan for row in rows]))) for key in rows[0]
    }
