"""Bundles and classical baselines on the same images: ``models`` opens bundles, ``cases`` gives images, ``run`` scores.

``request`` is what a user asks for. A bundle's ``evaluate.json`` is the only description of it: what stands there
before ``ToUnitRanged`` degrades clean images, in physical units; the rest scales, restores and brings back. Of several
bundles the first one degrades, so that all get the same images.
"""

from medrestore_monai.evaluate.cases import LAYOUTS, Source, known_psf, open_source
from medrestore_monai.evaluate.models import Model, open_model, parse_settings, task_of
from medrestore_monai.evaluate.request import Request, choose_baselines
from medrestore_monai.evaluate.run import evaluate

__all__ = [
    "LAYOUTS",
    "Model",
    "Request",
    "Source",
    "choose_baselines",
    "evaluate",
    "known_psf",
    "open_model",
    "open_source",
    "parse_settings",
    "task_of",
]
