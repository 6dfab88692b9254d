"""Fit a bundle to the images of one site, and say whether it helped.

``request`` is what a user asks for, ``run`` does it. ``unfit`` and ``pairs`` refuse images that would mislead,
``measured`` measures their noise. ``training`` fine-tunes by MONAI's bundle engine, with the bundle's ``train.json``
and ``adapt.json``; ``scores`` restores the slices that are judged, before and after, and ``decision`` says whether to
adopt. ``new_bundle`` and ``report`` write.

Without targets, ``unfit_noise`` measures the noise of all images and refuses, ``recorrupted`` makes the training items
and ``probed`` the metric of the validation, which ``adapt_none.json`` names; ``estimated_scores`` estimates the error
of both weights, and ``estimated_verdict`` decides.
"""

from medrestore_monai.adapt.request import Request
from medrestore_monai.adapt.run import Adapted, adapt, run_request

__all__ = ["Adapted", "Request", "adapt", "run_request"]
