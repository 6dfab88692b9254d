"""Adapt a bundle to the images of one site, and judge it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medrestore_monai.adapt.decision import Decision, decide, too_few
from medrestore_monai.adapt.estimated_report import estimated_decision, estimated_part
from medrestore_monai.adapt.estimated_scores import EstimatedScores, score_without_targets
from medrestore_monai.adapt.measured import Recorruption, measured_recorruption, measured_settings
from medrestore_monai.adapt.new_bundle import write_bundle
from medrestore_monai.adapt.report import summary, write_report
from medrestore_monai.adapt.request import Request
from medrestore_monai.adapt.scores import Shown, UnitScores, score_units
from medrestore_monai.adapt.training import Trained, train
from medrestore_monai.adapt.unfit import refuse_unfit
from medrestore_monai.adapt.unfit_noise import refuse_noise
from medrestore_monai.bundles import DEFAULT_BUNDLE
from medrestore_monai.data import Division, divide
from medrestore_monai.data.adaptation import LEAST_UNITS
from medrestore_monai.files import UsageError, atomic_file, lock_file
from medrestore_monai.notes import Notes, note

_REQUEST, _LOCK, _NOISE = "request.json", "lock", "noise.json"


@dataclass(frozen=True)
class Adapted:
    """What came of :func:`adapt`.

    Attributes:
        adopted: whether a bundle was written.
        output: the folder of the bundle; ``None`` where the shipped weights are to be kept.
        report: the folder with ``report.json`` and ``report.html``.
        decision: the verdict.
        about: what ``report.json`` says in its head.
        notes: what a user should know of the images.
    """

    adopted: bool
    output: Path | None
    report: Path
    decision: Decision
    about: Mapping[str, Any]
    notes: tuple[str, ...]


def adapt(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
    *,
    progress: bool = False,
    **options: Any,
) -> Adapted:
    """Fine-tune a bundle on the images of one site, judge it on images that did not train, and write what was adopted.

    Images are divided by people. The verdict is used once: adapted weights are adopted only if they are better beyond
    chance, by 0.05 dB or more, with mean and sharpness kept. A run that was killed goes on when it is repeated.

    Args:
        data: see :class:`~medrestore_monai.adapt.Request`.
        output: see there.
        bundle: see there.
        progress: show bars on the standard error stream.
        options: the other fields of :class:`~medrestore_monai.adapt.Request`.

    Returns:
        What came of it; no bundle is written where the shipped weights are to be kept.

    Raises:
        ValueError: an image or an option cannot be used.
        FileExistsError: there is something at ``output``.
        RuntimeError: the device is not available.
        OSError: nothing can be written.

    Examples:
        >>> from medrestore_monai.adapt import adapt
        >>> done = adapt("scans", "my_bundle", minutes=30)  # doctest: +SKIP
        >>> done.decision.line  # doctest: +SKIP
    """
    chosen = os.fspath(bundle)
    return run_request(Request(Path(data), Path(output), chosen, **options), progress)


@dataclass(frozen=True)
class _Outcome:
    """What a report tells: the verdict, and what led to it as far as it went."""

    decision: Decision
    trained: Trained | None = None
    units: Sequence[UnitScores] = ()
    shown: Shown | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    estimated: Mapping[str, Any] | None = None


def run_request(request: Request, progress: bool = False) -> Adapted:
    """Do what is asked for; see :func:`adapt`."""
    request.check()
    with Notes() as notes:
        channels = None if request.of_modality == "RGB" else 1
        division = divide(request.data, request.targets, request.seed, channels, request.allow_gaps)
        refuse_unfit(request, division)
        if division.units < LEAST_UNITS:
            outcome = _Outcome(too_few(division.units))
            about, report = _reported(request, division, outcome)
        else:
            with _working_folder(request, division) as place:
                judge = _without_targets if request.targets == "none" else _with_targets
                outcome = judge(request, division, place, progress)
                about, report = _reported(request, division, outcome)
                if outcome.decision.adopt and outcome.trained is not None:
                    write_bundle(request.opened, outcome.trained.weights, request.output, about, request.overwrite)
    for message in notes.messages:
        note(message)
    decision = outcome.decision
    output = request.output if decision.adopt else None
    return Adapted(decision.adopt, output, report, decision, about, tuple(notes.messages))


def _reported(request: Request, division: Division, outcome: _Outcome) -> tuple[dict[str, Any], Path]:
    decision, trained, units = outcome.decision, outcome.trained, outcome.units
    about = summary(request, division, decision, trained, units, outcome.measured, outcome.estimated)
    return about, write_report(request, about, trained, units, outcome.shown, outcome.estimated)


def _with_targets(request: Request, division: Division, place: Path, progress: bool) -> _Outcome:
    settings = measured_settings(request, division)
    measured = settings.training
    trained = train(request, division, place, measured, progress)
    if not trained.step_size:
        decision = Decision(False, (_why_none(trained),), units=division.units)
        return _Outcome(decision, trained, measured=measured)
    slabs = division.parts["verdict"]
    units, shown = score_units(request, slabs, trained.weights, settings.verdict)
    return _Outcome(decide(units, request.of_modality), trained, units, shown, measured)


def _without_targets(request: Request, division: Division, place: Path, progress: bool) -> _Outcome:
    noise, chosen = _noise_of(request, division, place)
    measured = {"alpha": chosen.alpha, "kept": chosen.kept}
    trained = train(request, division, place, measured, progress)
    scores: EstimatedScores | None = None
    if trained.step_size:
        scores = score_without_targets(request, division, trained.weights, chosen.passed)
        decision = estimated_decision(scores)
    else:
        decision = Decision(False, (_why_none(trained),), units=division.units, estimated=True)
    shown = scores.shown if scores else None
    return _Outcome(decision, trained, shown=shown, measured=measured, estimated=estimated_part(noise, chosen, scores))


def _noise_of(request: Request, division: Division, place: Path) -> tuple[list[dict[str, Any]], Recorruption]:
    """Measure the noise of all images, or take what a run that was killed has measured."""
    noted = place / _NOISE
    if noted.is_file():
        content = json.loads(noted.read_text(encoding="utf-8"))
        return content["noise"], Recorruption(**content["recorruption"])
    noise = refuse_noise(request, division)
    chosen = measured_recorruption(request, division, noise)
    with atomic_file(noted, single_writer=True) as file:
        file.write(json.dumps({"noise": noise, "recorruption": asdict(chosen)}).encode())
    return noise, chosen


def _why_none(trained: Trained) -> str:
    if not trained.best_step:
        return "the time did not suffice for one validation, so give more minutes"
    return "no step of the training was better on the slices that tune"


@contextmanager
def _working_folder(request: Request, division: Division) -> Iterator[Path]:
    """Give the folder in which a killed run goes on; it is removed when all is done.

    Raises:
        UsageError: another run works there, or an earlier one had other images or settings.
    """
    folder = request.output.with_name(f".{request.output.name}.adapting")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    asked = {"request": request.fingerprint(division)}
    with (folder / _LOCK).open("ab") as lock:
        if lock_file(lock) is False:
            raise UsageError(f"another run adapts to {request.output}: wait for it.")
        noted = folder / _REQUEST
        if noted.is_file() and json.loads(noted.read_text(encoding="utf-8")) != asked:
            raise UsageError(
                f"{folder} holds an adaptation with other images or settings that was not finished: repeat that "
                "command, or remove the folder."
            )
        noted.write_text(json.dumps(asked), encoding="utf-8")
        try:
            yield folder
        except (ValueError, RuntimeError):
            if not (folder / "state.pt").is_file():  # nothing to go on from
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
