"""From the scores of slices to means with intervals and p-values, and what they say in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from medrestore_monai.report.protocols import HIGHER_IS_BETTER, MEASURED, OF_BUNDLES
from medrestore_monai.report.significance import bootstrap_interval, paired_p_value

INPUT = "input"
_ORACLE = " (oracle)"
LEVEL = 0.05
_UNITS = ("patients", "volumes", "slices")


@dataclass(frozen=True)
class SliceScore:
    """The scores of one slice after one method.

    Args:
        modality: a key of ``INTENSITY_RANGES``.
        patient: who it is of.
        volume: the image it is of.
        slice: its number there.
        method: ``input``, a classical baseline or a bundle.
        region: where it was scored.
        values: by name of the score.
    """

    modality: str
    patient: str
    volume: str
    slice: int
    method: str
    region: str
    values: dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and the p-value of a paired test against the method named in the report."""

    mean: float
    lower: float
    upper: float
    p: float


@dataclass(frozen=True)
class SummaryRow:
    """One line of the table.

    Args:
        modality: see :class:`SliceScore`.
        region: see :class:`SliceScore`.
        method: see :class:`SliceScore`.
        average: what counts once: each ``slice``, or each ``volume`` with the mean of its slices.
        count: how many slices or volumes.
        patients: how many patients.
        unit: what was drawn for the intervals and tested: ``patients`` if there are two, else ``volumes``, else
            ``slices``, which of one volume are not independent.
        scores: by name of the score.
    """

    modality: str
    region: str
    method: str
    average: str
    count: int
    patients: int
    unit: str
    scores: dict[str, Estimate]


def summarize(scores: Sequence[SliceScore], against: str = INPUT, seed: int = 0) -> list[SummaryRow]:
    """Reduce scores to one row for each modality, region, kind of average and method, in the order they came in.

    A slice on which a score is infinite for one method, as the PSNR of an exact result is, does not count in that
    score of any; unless that leaves no slice.

    Args:
        scores: every method on the same slices in the same order.
        against: the method to test against.
        seed: of the intervals.

    Returns:
        Rows; without a p-value (NaN) where there is only one slice, and an interval where there are fewer than four.

    Raises:
        ValueError: there is no method ``against``.
    """
    if against not in {score.method for score in scores}:
        raise ValueError(f"there is no method {against!r} to compare with.")
    rows = []
    for here in _by_place(scores):
        slices = _without_infinite(here)
        for average in ("slice", "volume"):
            lists = slices if average == "slice" else {method: _per_volume(found) for method, found in slices.items()}
            rows += [_row(found, lists[against], average, seed) for found in lists.values()]
    return rows


def infinite(scores: Sequence[SliceScore]) -> list[str]:
    """Say how many slices :func:`summarize` leaves out of a score, as it is infinite there for one method."""
    said = []
    for here in _by_place(scores):
        first = next(iter(here.values()))[0]
        said += [
            f"{len(places)} slices are left out of {name}, which is infinite there for one method or more "
            f"({first.modality}, {first.region})."
            for name, places in _infinite(here).items()
        ]
    return said


def _by_place(scores: Sequence[SliceScore]) -> list[dict[str, list[SliceScore]]]:
    """Put the scores of each modality and region together, by method."""
    found: dict[tuple[str, str], dict[str, list[SliceScore]]] = {}
    for score in scores:
        found.setdefault((score.modality, score.region), {}).setdefault(score.method, []).append(score)
    return list(found.values())


def _infinite(lists: Mapping[str, Sequence[SliceScore]]) -> dict[str, set[int]]:
    """Return by score the places of slices where a method has no finite one; none of a score that is so everywhere."""
    found = {}
    for name in HIGHER_IS_BETTER:
        slices = list(enumerate(zip(*lists.values(), strict=True)))
        places = {at for at, slice_ in slices if not all(math.isfinite(one.values.get(name, 0.0)) for one in slice_)}
        if 0 < len(places) < len(slices):
            found[name] = places
    return found


def _without_infinite(lists: Mapping[str, Sequence[SliceScore]]) -> dict[str, list[SliceScore]]:
    """Replace by NaN, for all methods, the scores of slices that do not count."""
    left_out = _infinite(lists)

    def blank(at: int, one: SliceScore) -> SliceScore:
        kept = {name: math.nan if at in left_out.get(name, ()) else value for name, value in one.values.items()}
        return replace(one, values=kept)

    return {method: [blank(at, one) for at, one in enumerate(found)] for method, found in lists.items()}


def _row(scores: Sequence[SliceScore], baseline: Sequence[SliceScore], average: str, seed: int) -> SummaryRow:
    unit, groups = _groups(scores)
    estimates = {}
    for name in dict.fromkeys(name for score in scores for name in score.values):
        alone = name in OF_BUNDLES
        have = [at for at, one in enumerate(scores) if name in one.values and (alone or name in baseline[at].values)]
        if not have or (name not in MEASURED and len(have) < len(scores)):
            continue
        have = [at for at in have if not math.isnan(scores[at].values[name])] or have
        values, there = [scores[at].values[name] for at in have], [groups[at] for at in have]
        interval = bootstrap_interval(values, there, seed)
        same = scores[0].method == baseline[0].method
        p = float("nan") if same or alone else paired_p_value(values, [baseline[at].values[name] for at in have], there)
        estimates[name] = Estimate(fmean(values), *interval, p)
    first = scores[0]
    patients = len({score.patient for score in scores})
    return SummaryRow(first.modality, first.region, first.method, average, len(scores), patients, unit, estimates)


def _groups(scores: Sequence[SliceScore]) -> tuple[str, list[tuple[str, ...]]]:
    """Return the largest unit of which there are two or more, and that of each score."""
    groups: list[tuple[str, ...]] = []
    for keys in (1, 2, 3):
        groups = [(score.patient, score.volume, str(score.slice))[:keys] for score in scores]
        if len(set(groups)) > 1:
            break
    return _UNITS[keys - 1], groups


def _per_volume(scores: Sequence[SliceScore]) -> list[SliceScore]:
    """Mean scores of each volume."""
    volumes: dict[tuple[str, str], list[SliceScore]] = {}
    for score in scores:
        volumes.setdefault((score.patient, score.volume), []).append(score)
    return [
        SliceScore(
            *(first.modality, first.patient, first.volume, 0, first.method, first.region),
            values={
                name: _mean([one.values[name] for one in found if name in one.values])
                for name in dict.fromkeys(name for one in found for name in one.values)
                if name in MEASURED or all(name in one.values for one in found)
            },
        )
        for found in volumes.values()
        for first in found[:1]
    ]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that count, NaN if none does."""
    counted = [value for value in values if not math.isnan(value)]
    return fmean(counted) if counted else math.nan


def findings(rows: Sequence[SummaryRow], models: Sequence[str]) -> list[str]:
    """Say of each model, modality and score whether it beats its input, and the classical baselines or which one not.

    Baselines with the best parameters for each image are an upper mark: they are not compared with. Nothing is said of
    a score whose means are not all finite.

    Args:
        rows: from :func:`summarize`, tested against the input.
        models: names of the methods that are models.

    Returns:
        Sentences.
    """
    said = []
    for row in rows:
        if row.method not in models or row.average != "slice":
            continue
        others = [other for other in rows if _same_place(other, row) and _is_comparable(other.method, models)]
        for name, own in ((name, own) for name, own in row.scores.items() if name in HIGHER_IS_BETTER):
            sign = 1 if HIGHER_IS_BETTER[name] else -1
            place = f"{row.modality}, {row.region}, {name}"
            means = {other.method: other.scores[name].mean for other in others}
            if not np.isfinite([own.mean, *means.values()]).all():
                continue
            better = [method for method, mean in means.items() if sign * (mean - own.mean) >= 0]
            if INPUT in better:
                said.append(f"{row.method} does not beat its input ({place}).")
            elif not own.p < LEVEL:
                said.append(f"{row.method} is better than its input, but not significantly so ({place}).")
            said += [f"{row.method} is not better than {method} ({place})." for method in better if method != INPUT]
            classical = {method: mean for method, mean in means.items() if method != INPUT}
            if classical and not better:
                best = max(classical, key=lambda method: sign * classical[method])
                said.append(f"{row.method} is better than the best classical baseline, {best} ({place}).")
    return said


def oracle_name(method: str) -> str:
    """Return what a table calls a method with the best parameters for each image."""
    return f"{method}{_ORACLE}"


def _is_comparable(method: str, models: Sequence[str]) -> bool:
    return method not in models and not method.endswith(_ORACLE)


def _same_place(a: SummaryRow, b: SummaryRow) -> bool:
    return (a.modality, a.region, a.average) == (b.modality, b.region, b.average)
