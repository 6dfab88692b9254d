"""Bundles and classical baselines on the same images: ``models`` opens bundles, ``cases`` gives images, ``run`` scores.

``request`` is what a user asks for. A bundle's ``evaluate.json`` is the only description of it: what stands there
before ``ToUnitRanged`` degrades clean images, in physical units; the rest scales, restores and brings back. Of several
bundles of a modality the first one degrades, so that all get the same images; a bundle of several joins them.
"""

from medrestore_monai.evaluate.cases import LAYOUTS, Source, known_psf, open_source
from medrestore_monai.evaluate.models import Contestant, Model, open_model, parse_contestant, task_of
from medrestore_monai.evaluate.request import Request, choose_baselines
from medrestore_monai.evaluate.run import evaluate
from medrestore_monai.restore import parse_settings

__all__ = [
    "LAYOUTS",
    "Contestant",
    "Model",
    "Request",
    "Source",
    "choose_baselines",
    "evaluate",
    "known_psf",
    "open_model",
    "open_source",
    "parse_contestant",
    "parse_settings",
    "task_of",
]
