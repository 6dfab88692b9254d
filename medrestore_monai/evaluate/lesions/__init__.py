"""Known lesions in clean test images: are they still there after restoring, and is anything there that was not?

``kinds`` says which lesions, ``sphere`` what one looks like, ``sites`` where there is room for one, and ``planting``
puts them into clean images before these are degraded. ``pairs``, ``recovery`` and ``observer`` compare each place with
and without its lesion; ``inventions`` counts what is in lesion-free results and not in the reference. ``run`` does it
for the input, classical methods and bundles, and ``summary`` and ``table`` make the report.
"""

from medrestore_monai.evaluate.lesions.kinds import KINDS, LesionKind
from medrestore_monai.evaluate.lesions.run import check_lesions, evaluate_lesions

__all__ = ["KINDS", "LesionKind", "check_lesions", "evaluate_lesions"]
