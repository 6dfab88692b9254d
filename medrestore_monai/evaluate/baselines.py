"""Which classical methods a bundle is compared with, and where their parameters come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medrestore_monai.bundles import Bundle
from medrestore_monai.classical import BASELINES, KNOWN, Classical, Parameters, constant, read_tuned

TUNED = Path("docs", "tuned.json")  # in a bundle


def tuned_parameters(bundle: Bundle, modality: str, tuned: Path | None) -> tuple[dict[str, Parameters], str]:
    """Return the tuned parameters for a modality by method, and where they are from.

    Args:
        bundle: its ``docs/tuned.json`` is read, if it has one.
        modality: of the images.
        tuned: another file, read instead.

    Returns:
        No parameters and ``defaults`` where there is no file, or none for the modality in the bundle's.

    Raises:
        ValueError: the file cannot be used, or ``tuned`` holds nothing for the modality.
    """
    path = bundle.root / TUNED if tuned is None else tuned
    if tuned is None and not path.is_file():
        return {}, "defaults"
    found = read_tuned(path)
    if tuned is not None and modality not in found:
        raise ValueError(f"{tuned} has no parameters for {modality}, only for {', '.join(found) or 'nothing'}.")
    if modality not in found:
        return {}, "defaults"
    return found[modality], tuned.name if tuned is not None else f"{bundle.name}/{TUNED.as_posix()}"


def choose_baselines(spec: str, tuned: Mapping[str, Parameters], task: str) -> dict[str, Parameters]:
    """Choose the classical methods to compare with.

    Args:
        spec: ``auto`` for those of the task, ``none``, or names separated by commas.
        tuned: parameters by method, in place of the defaults; methods of other tasks than this may be among them.
        task: a key of :data:`medrestore_monai.classical.BASELINES`.

    Returns:
        The parameters by method.

    Raises:
        ValueError: a method is unknown.
        RuntimeError: a method needs a package that is not there.
    """
    if spec == "none":
        return {}
    usual = {name: values for defaults in BASELINES.values() for name, values in defaults.items()}
    usual["bm3d"] = {"noise": 0.01}
    if spec == "auto":
        usual |= BASELINES[task]
        names = list(dict.fromkeys([*BASELINES[task], *tuned]))
    else:
        names = [name.strip() for name in spec.split(",")]
    chosen = {
        name: _complete(tuned[name], usual[name]) if name in tuned else constant(usual.get(name, {})) for name in names
    }
    for name, parameters in chosen.items():
        Classical(name, parameters.at(1.0))
    return chosen


def _complete(tuned: Parameters, usual: Mapping[str, float]) -> Parameters:
    """Add what is known from how an image was taken, which is not tuned."""
    known = {name: (usual[name],) * len(tuned.levels) for name in usual if name in KNOWN}
    return Parameters(tuned.levels, {**known, **tuned.values})
