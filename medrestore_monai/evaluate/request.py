"""What a user asks to evaluate, and whether that can work at all."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medrestore_monai.aside import refuse_links
from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import BASELINES, Classical
from medrestore_monai.evaluate.cases import LAYOUTS, WITH_GAPS
from medrestore_monai.evaluate.models import Contestant, check_settings, parse_contestant, task_of
from medrestore_monai.layouts.parts import PARTS
from medrestore_monai.protocols import PROTOCOLS
from medrestore_monai.report import check_folder
from medrestore_monai.restore import check_options


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Args:
        bundles: names or folders; the first one of a modality degrades clean images.
        data: the data set; for several modalities, with a folder ``CT``, ``MR``, ... for each.
        output: the folder for the report.
        models: more contestants, see :func:`~medrestore_monai.evaluate.parse_contestant`.
        modality: evaluate on this one alone, of bundles of several.
        layout: one of :data:`~medrestore_monai.evaluate.LAYOUTS`.
        part: ``all``, ``train``, ``validation`` or ``test``.
        protocol: a key of :data:`~medrestore_monai.protocols.PROTOCOLS`.
        baselines: ``auto`` for those of the task, ``none``, or names of classical methods separated by commas.
        tuned: a file of ``scripts/tune_classical.py``.
        against: the method that p-values compare with.
        seed: of the fixed degradation and the intervals.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        limit: take this many slices, evenly spread.
        settings: values to change in the bundles' ``evaluate.json``.
        hu_offset: of CT, see :class:`~medrestore_monai.loading.LoadImageOrSeriesd`.
        allow_gaps: take DICOM series with missing slices, of pairs.
        skip_bad: leave out images that cannot be used, and list them; else the first one is an error.
        overwrite: replace a report that exists.
        worst: how many slices of each bundle to draw.
    """

    bundles: Sequence[str | Path]
    data: Path
    output: Path
    models: Sequence[str] = ()
    modality: str | None = None
    layout: str = "clean"
    part: str = "all"
    protocol: str = "standard"
    baselines: str = "auto"
    tuned: Path | None = None
    against: str = "input"
    seed: int = 0
    device: str = "auto"
    limit: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hu_offset: float | None = None
    allow_gaps: bool = False
    skip_bad: bool = False
    overwrite: bool = False
    worst: int = 3

    def check(self) -> None:
        """Refuse what cannot work whatever the images are.

        Raises:
            ValueError: something is unknown or out of its range.
            FileExistsError: there is something at ``output`` already.
            RuntimeError: a device or a package is not there.
        """
        for what, value, known in (
            ("layout", self.layout, LAYOUTS),
            ("protocol", self.protocol, tuple(PROTOCOLS)),
            ("part", self.part, ("all", *PARTS)),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
        if self.allow_gaps and self.layout not in WITH_GAPS:
            raise ValueError(f"gaps are allowed in the layouts {' and '.join(WITH_GAPS)}, not in {self.layout}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}.")
        groups = self.groups()
        for modality, group in groups.items():
            for one in group:
                check_settings(one, self.settings)
                check_options(one.bundle.config("evaluate"), self.device, **self.settings)
            task = partial(task_of, group[0].bundle, modality)
            classical = ["input", *choose_baselines(self.baselines, self.tuned, task)]
            names = [one.name for one in group]
            if set(classical) & set(names):
                raise ValueError(f"a model may not be called {' or '.join(sorted(set(classical) & set(names)))}.")
            if self.against not in classical + names:
                raise ValueError(f"p-values are against one of {', '.join(classical + names)}, got {self.against!r}.")
        if self.hu_offset is not None and "CT" not in groups:
            raise ValueError(f"hu_offset is for CT, not for {', '.join(groups)}.")
        missing = [modality for modality in groups if len(groups) > 1 and not (self.data / modality).is_dir()]
        if missing and self.data.is_dir():
            raise ValueError(
                f"{self.data} has no folder {', '.join(missing)}: give each modality its folder, or name one modality."
            )
        if self.data.resolve() in self.output.resolve().parents:
            raise ValueError(f"the report {self.output} may not lie in the data {self.data}.")
        check_folder(self.output, self.overwrite)
        self._keep_what_is_read(groups)

    def _keep_what_is_read(self, groups: Mapping[str, Sequence[Contestant]]) -> None:
        """Refuse to replace a report's folder that holds what is evaluated, or with."""
        contestants = [one for group in groups.values() for one in group]
        others = [path for one in contestants for path in (one.bundle.root, one.overlay, one.weights)]
        output = self.output.resolve()
        for path in (self.data, self.tuned, *others):
            if path is not None and output in (path.resolve(), *path.resolve().parents):
                raise ValueError(f"{path} may not lie in the folder {self.output}, which the report replaces.")
        if self.overwrite and self.output.exists() and self.data.exists():
            refuse_links(self.data, [self.output])

    def groups(self) -> dict[str, list[Contestant]]:
        """Sort the contestants by modality; bundles of several modalities join those of one.

        Raises:
            ValueError: there is no such bundle or model, a name comes twice, or one does not restore ``modality``.
        """
        found = [Contestant(bundle.name, bundle) for bundle in map(find_bundle, self.bundles)]
        found += [parse_contestant(text) for text in self.models]
        names = [one.name for one in found]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"name each bundle once, got {', '.join(names) or 'none'}.")
        alone = {one.bundle.modality for one in found if len(one.bundle.modalities) == 1}
        groups: dict[str, list[Contestant]] = {}
        for one in found:
            own = one.bundle.modalities
            if self.modality is not None and self.modality not in own:
                raise ValueError(f"{one.name} restores {', '.join(own)}, not {self.modality}.")
            wanted = {self.modality} if self.modality is not None else alone & set(own) or set(own)
            for modality in own:
                if modality in wanted:
                    groups.setdefault(modality, []).append(one)
        return groups


def choose_baselines(spec: str, tuned: Path | None, task: Callable[[], str]) -> dict[str, Classical]:
    """Choose the classical methods to compare with.

    Args:
        spec: see :class:`Request`.
        tuned: a JSON file with ``{"baselines": {method: {parameter: value}}}``, in place of the defaults.
        task: gives the task, asked for only where it decides.

    Raises:
        ValueError: a method is unknown, or the file is no such file.
        RuntimeError: a method needs a package that is not there.
    """
    better = _read_tuned(tuned) if tuned is not None else {}
    if spec == "none":
        return {}
    if spec == "auto":
        parameters = {**BASELINES[task()], **better}
    else:
        known = {name: values for defaults in BASELINES.values() for name, values in defaults.items()}
        known["bm3d"] = {"noise": 0.01}
        names = [name.strip() for name in spec.split(",")]
        parameters = {name: better.get(name, known.get(name, {})) for name in names}
    return {name: Classical(name, values) for name, values in parameters.items()}


def _read_tuned(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["baselines"]
        for name, values in content.items():
            Classical(name, values)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no file of tuned baselines: {error}.") from error
    return dict(content)
