"""What a user asks to evaluate, and whether that can work at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medrestore_monai.bundles import open_bundle
from medrestore_monai.bundles.shared_settings import MODALITY
from medrestore_monai.data.parts import PARTS
from medrestore_monai.evaluate.baselines import choose_baselines, tuned_parameters
from medrestore_monai.evaluate.cases import LAYOUTS, WITH_GAPS
from medrestore_monai.evaluate.models import Candidate, check_settings, parse_candidate
from medrestore_monai.files import refuse_links
from medrestore_monai.report import check_folder, oracle_name
from medrestore_monai.report.protocols import PROTOCOLS


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Args:
        bundles: names or folders; the first one of a modality degrades clean images.
        data: the data set; for several modalities, with a folder ``CT``, ``MR``, ... for each.
        output: the folder for the report.
        models: more candidates, see :func:`~medrestore_monai.evaluate.parse_candidate`.
        modality: evaluate on this one alone, of bundles of several.
        layout: one of :data:`~medrestore_monai.evaluate.LAYOUTS`.
        part: ``all`` or one of :data:`~medrestore_monai.data.parts.PARTS`.
        protocol: a key of :data:`~medrestore_monai.report.protocols.PROTOCOLS`.
        baselines: ``auto`` for those of the task, ``none``, or names of classical methods separated by commas.
        tuned: a file of ``scripts/calibrate/tune_classical.py``; ``None`` for the bundle's own, ``docs/tuned.json``.
        oracle: score each classical method also with the parameters that are best for each image by its reference:
            the upper mark of what tuning can reach. It takes some 10 to 50 times as long as the method itself.
        against: the method that p-values compare with.
        seed: of the fixed degradation and the intervals.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        limit: restore and score this many slices, evenly spread. Of volumes that have one of them, all slices are read
            and degraded where a method needs neighbors or the noise level, and methods in 3D restore them whole.
        settings: values to change in the bundles' ``evaluate.json`` and ``inference.json``.
        hu_offset: of CT, see :class:`~medrestore_monai.data.LoadImageOrSeriesd`.
        allow_gaps: take DICOM series with missing slices, of pairs.
        skip_bad: leave out images that cannot be used, and list them; else the first one is an error.
        overwrite: replace a report that exists.
        trust_bundle: run bundles and overlays whatever they hold, see
            :func:`~medrestore_monai.bundles.open_bundle`.
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
    oracle: bool = False
    against: str = "input"
    seed: int = 0
    device: str = "auto"
    limit: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hu_offset: float | None = None
    allow_gaps: bool = False
    skip_bad: bool = False
    overwrite: bool = False
    trust_bundle: bool = False
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
        groups = self.groups
        for modality, group in groups.items():
            for one in group:
                check_settings(one, self.device, self.settings)
            tuned, _ = tuned_parameters(group[0].bundle, modality, self.tuned)
            chosen = choose_baselines(self.baselines, tuned, group[0].bundle.task(modality))
            classical = ["input", *chosen, *(oracle_name(name) for name in chosen if self.oracle)]
            names = [one.name for one in group]
            if set(classical) & set(names):
                raise ValueError(f"a model may not be called {' or '.join(sorted(set(classical) & set(names)))}.")
            if self.against not in classical + names:
                raise ValueError(f"p-values are against one of {', '.join(classical + names)}, got {self.against!r}.")
        if self.hu_offset is not None and "CT" not in groups:
            raise ValueError(f"`hu_offset` is for CT, not for {', '.join(groups)}.")
        missing = [modality for modality in groups if len(groups) > 1 and not (self.data / modality).is_dir()]
        if missing and self.data.is_dir():
            raise ValueError(
                f"{self.data} has no folder {', '.join(missing)}: give each modality its folder, or name one modality."
            )
        if self.data.resolve() in self.output.resolve().parents:
            raise ValueError(f"the report {self.output} may not lie in the data {self.data}.")
        check_folder(self.output, self.overwrite)
        self._keep_what_is_read(groups)

    def _keep_what_is_read(self, groups: Mapping[str, Sequence[Candidate]]) -> None:
        """Refuse to replace a report's folder that holds what is evaluated, or with."""
        candidates = [one for group in groups.values() for one in group]
        others = [path for one in candidates for path in (one.bundle.root, one.overlay, one.weights)]
        output = self.output.resolve()
        for path in (self.data, self.tuned, *others):
            if path is not None and output in (path.resolve(), *path.resolve().parents):
                raise ValueError(f"{path} may not lie in the folder {self.output}, which the report replaces.")
        if self.overwrite and self.output.exists() and self.data.exists():
            refuse_links(self.data, [self.output])

    @cached_property
    def groups(self) -> Mapping[str, Sequence[Candidate]]:
        """The candidates by modality, each one object; bundles of several modalities join those of one.

        Raises:
            ValueError: there is no such bundle or model, a name comes twice, or one does not restore ``modality``.
        """
        opened = [open_bundle(name, self.trust_bundle, ("inference", "evaluate")) for name in self.bundles]
        found = [Candidate(bundle.name, bundle) for bundle in opened]
        found += [parse_candidate(text, self.trust_bundle) for text in self.models]
        names = [one.name for one in found]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"name each bundle once, got {', '.join(names) or 'none'}.")
        alone = {one.bundle.evaluated[0] for one in found if len(one.bundle.evaluated) == 1}
        asked = None if self.modality is None else MODALITY.check(self.modality)
        groups: dict[str, list[Candidate]] = {}
        for one in found:
            own = one.bundle.evaluated
            if asked is not None and asked not in own:
                raise ValueError(f"{one.name} restores {', '.join(own)}, not {asked}.")
            wanted = {asked} if asked is not None else alone & set(own) or set(own)
            for modality in own:
                if modality in wanted:
                    groups.setdefault(modality, []).append(one)
        return groups
