"""What is evaluated together: the images of one modality, the models that restore them, and classical methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medrestore_monai.classical import Parameters
from medrestore_monai.evaluate.baselines import choose_baselines, tuned_parameters
from medrestore_monai.evaluate.cases import Source, open_source
from medrestore_monai.evaluate.models import Model, open_model
from medrestore_monai.evaluate.request import Request


@dataclass(frozen=True)
class Group:
    """One modality of an evaluation.

    Args:
        source: its images.
        models: the candidates, open; the first one degrades clean images.
        baselines: parameters of the classical methods by name.
        origin: where these are from.
    """

    source: Source
    models: list[Model]
    baselines: Mapping[str, Parameters]
    origin: str

    @property
    def modality(self) -> str:
        """Of the images."""
        return self.source.modality


def open_groups(request: Request, wishes: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Group]:
    """Open the modalities of a request, one after the other.

    Args:
        request: what to evaluate.
        wishes: by modality, settings of a bundle that has them.

    Raises:
        ValueError: a setting or an image cannot be used.
    """
    groups = request.groups
    candidates = {one.name: one for group in groups.values() for one in group}
    opened = {name: one.open(request.device, request.settings) for name, one in candidates.items()}
    for modality, group in groups.items():
        data = request.data / modality if len(groups) > 1 else request.data
        offset = request.hu_offset if modality == "CT" else None
        wanted = {
            "seed": request.seed,
            "part": request.part,
            "hu_offset": offset,
            **(wishes or {}).get(modality, {}),
        }
        models = [
            open_model(one, modality, data, request.device, request.settings, wanted, opened[one.name]) for one in group
        ]
        tuned, origin = tuned_parameters(group[0].bundle, modality, request.tuned)
        chosen = choose_baselines(request.baselines, tuned, group[0].bundle.task(modality))
        source = open_source(models[0], data, request.layout, request.part, request.allow_gaps, request.limit, offset)
        yield Group(source, models, chosen, origin)
