"""Write what an adaptation did: ``report.json`` with every figure, and one page that opens without a network.

Neither names an image: units and people have numbers.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from medrestore_monai import __version__
from medrestore_monai.adapt.decision import LEAST_GAIN, Decision
from medrestore_monai.adapt.probed import SCORE
from medrestore_monai.adapt.request import REPORT, Request
from medrestore_monai.adapt.scores import AFTER, BEFORE, INPUT, Shown, UnitScores
from medrestore_monai.adapt.training import Trained
from medrestore_monai.data import ADAPTATION_PARTS, Division
from medrestore_monai.files import atomic_folder
from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.report import draw_panels

SCHEMA = "medrestore/adapt/1"
PAGE, PICTURE = "report.html", "slice.png"
_NAMES = {INPUT: "input", BEFORE: "as shipped", AFTER: "adapted"}


def summary(
    request: Request,
    division: Division,
    decision: Decision,
    trained: Trained | None,
    units: Sequence[UnitScores],
    measured: Mapping[str, Any],
    estimated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a card and a report say, as plain values without any name of an image.

    Args:
        request: what was asked for.
        division: of the images.
        decision: the verdict.
        trained: what came of the training.
        units: scores with a target.
        measured: values of ``adapt.json``.
        estimated: of :func:`~medrestore_monai.adapt.estimated_report.estimated_part`, without targets.
    """
    source = request.opened
    verdict = {
        "adopt": decision.adopt,
        "line": decision.line,
        "gain_db": _plain(decision.gain),
        "p_value_one_sided": _plain(decision.p_value),
        "least_visible_gain_db": _plain(decision.least_visible),
        "least_gain_asked_db": LEAST_GAIN,
        "units": decision.units,
        "estimated_without_truth": request.targets == "none",
    }
    parts = {part: {"slices": division.slices(part)} for part in ADAPTATION_PARTS}
    about: dict[str, Any] = {
        "from": {
            "bundle": source.name,
            "version": str(source.metadata["version"]),
            "weights_sha256": str(source.metadata["weights_sha256"]),
        },
        "targets": request.targets,
        "modality": request.of_modality,
        "data": {"people": division.people, "judged_by": division.by, "units": division.units, **parts},
        "measured": dict(measured),
        "verdict": verdict,
        "scores": _means(units),
    }
    if estimated is not None:
        about["estimated"] = {name: estimated[name] for name in ("recorruption", "means")}
    if trained is not None:
        about["training"] = {
            "trained": trained.trained,
            "steps": trained.steps,
            "planned": trained.planned,
            "best_step": trained.best_step,
            "step_size": trained.step_size,
            "seed": request.seed,
            "minutes": None if request.steps is not None else request.minutes,
            "settings": {**measured, **(request.settings or {})},
        }
    return about


def write_report(
    request: Request,
    about: Mapping[str, Any],
    trained: Trained | None,
    units: Sequence[UnitScores],
    shown: Shown | None,
    estimated: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report beside the bundle, whole or not at all; the arguments are those of :func:`summary`.

    Returns:
        Its folder.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "medrestore-monai": __version__,
        **about,
        **_json(_training(trained, request.targets == "none")),
        "units": [_unit(one) for one in units],
        **({} if estimated is None else {"estimated": _json(estimated)}),
    }
    with atomic_folder(request.report, request.overwrite) as folder:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        (folder / REPORT).write_text(text, encoding="utf-8")
        picture = ""
        if shown is not None:
            unit = INTENSITY_RANGES[request.of_modality].unit
            panels = {_NAMES.get(name, name): image for name, image in shown.images.items()}
            if estimated is None:
                draw_panels(folder / PICTURE, panels, "target", _NAMES[AFTER], shown.window, unit)
            else:
                reference, name = _NAMES[BEFORE], "adapted - shipped"
                draw_panels(folder / PICTURE, panels, reference, _NAMES[AFTER], shown.window, unit, name)
            picture = base64.b64encode((folder / PICTURE).read_bytes()).decode()
        (folder / PAGE).write_text(_page(content, picture), encoding="utf-8")
    return request.report


def _training(trained: Trained | None, is_estimated: bool) -> dict[str, Any]:
    """Return tuning and curve; minus the estimated error, which is the score without targets, as the error."""
    tuning = dict(trained.tuning) if trained else {}
    curve = [dict(row) for row in trained.curve] if trained else []
    if not is_estimated:
        return {"tuning_psnr_db": tuning, "curve": curve}
    for row in curve:
        if SCORE in row:
            row["estimated_error"] = -row.pop(SCORE)
    return {"tuning_estimated_error": {size: -score for size, score in tuning.items()}, "curve": curve}


def number(value: float | None, form: str = ".4g") -> str:
    """Format a value of a report, which is ``None`` where it is not finite."""
    return "" if value is None else format(value, form)


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _json(content: Any) -> Any:
    """Copy nested values with ``None`` for numbers that JSON does not know, so that no report fails at the end."""
    if isinstance(content, Mapping):
        return {name: _json(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _means(units: Sequence[UnitScores]) -> dict[str, dict[str, float | None]]:
    names = (INPUT, BEFORE, AFTER) if units else ()
    return {
        _NAMES[name]: {
            "psnr_db": _plain(float(np.mean([unit.psnr[name] for unit in units]))),
            "ssim": _plain(float(np.mean([unit.ssim[name] for unit in units]))),
        }
        for name in names
    }


def _unit(one: UnitScores) -> dict[str, Any]:
    scores = {"psnr_db": one.psnr, "ssim": one.ssim, "mean_shift": one.mean, "signal_gain": one.gain}
    rounded = {
        score: {_NAMES[name]: _plain(value) for name, value in values.items()} for score, values in scores.items()
    }
    return {"unit": one.unit + 1, "person": one.person + 1, "slices": one.slices, **rounded}


def _page(content: Mapping[str, Any], picture: str) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["number"] = number
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    square = f"{INTENSITY_RANGES[content['modality']].unit}²"
    return environment.from_string(template).render(report=content, picture=picture, square=square)
