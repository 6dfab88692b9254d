"""Classical restorations to compare networks with, through scikit-image and SciPy.

Each is a function of one picture ``(C, X, Y)``, or in 3D of one volume ``(C, X, Y, Z)``, scaled to [0, 1] as the
networks see it; :class:`Classical` runs it on batches, so that it stands where a network stands. No parameter here is
learned: ``scripts/calibrate/tune_classical.py`` chooses them on training data, as a function of the noise level
(:func:`noise_level`), measured in the image itself, and bundles ship what it found (:func:`read_tuned`).

``filters`` and ``deconvolution`` are 2D, ``filters_3d`` sees the neighbors of a slice; ``methods`` lists them all;
``noise`` measures the level, ``tuned`` holds parameters by level, ``search`` finds the best ones.
"""

from medrestore_monai.classical.methods import BASELINES, GRIDS, KNOWN, METHODS, Classical, parameters_of
from medrestore_monai.classical.noise import noise_level
from medrestore_monai.classical.search import Search, best_monotone
from medrestore_monai.classical.tuned import Parameters, constant, read_tuned

__all__ = [
    "BASELINES",
    "GRIDS",
    "KNOWN",
    "METHODS",
    "Classical",
    "Parameters",
    "Search",
    "best_monotone",
    "constant",
    "noise_level",
    "parameters_of",
    "read_tuned",
]
