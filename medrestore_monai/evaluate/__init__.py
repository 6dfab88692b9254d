"""Bundles and classical baselines on the same images: ``models`` opens bundles, ``cases`` gives images, ``run`` scores.

``volumes`` puts the slices of an image together, degraded one by one, and ``restorations`` lets each method see them as
it needs: methods in 3D whole, networks in 2D one slice at a time. ``baselines`` chooses classical methods.

``request`` is what a user asks for. A bundle's ``evaluate.json`` says how clean images are loaded and degraded, in
physical units; it is laid over ``inference.json``, which alone says how they are restored. Of several
bundles of a modality the first one degrades, so that all get the same images; a bundle of several joins them.
"""

from medrestore_monai.bundles.settings import parse_settings
from medrestore_monai.evaluate.baselines import choose_baselines, tuned_parameters
from medrestore_monai.evaluate.cases import LAYOUTS, Source, known_psf, open_source
from medrestore_monai.evaluate.models import Candidate, Model, open_model, parse_candidate
from medrestore_monai.evaluate.request import Request
from medrestore_monai.evaluate.run import evaluate
from medrestore_monai.evaluate.volumes import Volume, load_volume

__all__ = [
    "LAYOUTS",
    "Candidate",
    "Model",
    "Request",
    "Source",
    "Volume",
    "choose_baselines",
    "evaluate",
    "known_psf",
    "load_volume",
    "open_model",
    "open_source",
    "parse_candidate",
    "parse_settings",
    "tuned_parameters",
]
