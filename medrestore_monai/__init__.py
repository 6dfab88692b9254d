"""Medical image restoration as MONAI bundles.

A picture flows one way: read, degrade (training), network, infer, write, report.

- ``restorer``: an opened bundle, :class:`Restorer`; ``degrader``: the same for the degradations.
- ``intensity``: what a voxel value means; to the range [0, 1] and back without loss.
- ``dicom``, ``images``: read a series or an image file and check it; write the same kind on the same grid.
- ``data``: which images there are, how one is read, and where a result is written; ``files``: whole or not at all.
- ``transforms``: the degradations, as MONAI transforms.
- ``ops``, ``networks``: tensor operators PyTorch lacks, and the networks built from them.
- ``inferers``, ``losses``, ``metrics``, ``engines``: what MONAI and Ignite lack.
- ``bundles``: find, check and package bundles, and load their weights.
- ``studies``: restore many studies; ``demo``: the real series that ships, and what it shows; ``adapt``: fit a bundle
  to one's own scanner.
- ``audit``: is one result to be trusted; ``evaluate``, ``report``: score many, and show the scores.
- ``cli``: the ``medrestore`` command; ``label_app``: MONAI Label.

Importing this package imports nothing heavy, compiles nothing and prints nothing.
For research only: not a medical device.

Examples:
    >>> from medrestore_monai import list_bundles
    >>> "ct_denoise_restore_rwkv" in [bundle.name for bundle in list_bundles()]
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrestore_monai.adapt import adapt as adapt_bundle
    from medrestore_monai.bundles import list_bundles
    from medrestore_monai.degrader import degrade
    from medrestore_monai.restorer import Restored, Restorer, restore

__all__ = ["Restored", "Restorer", "__version__", "adapt_bundle", "degrade", "list_bundles", "restore"]
__version__ = "0.2.0"

_PLACES = {
    "Restored": ("restorer", "Restored"),
    "Restorer": ("restorer", "Restorer"),
    "restore": ("restorer", "restore"),
    "adapt_bundle": ("adapt", "adapt"),  # a function may not have the name of a module
    "degrade": ("degrader", "degrade"),
    "list_bundles": ("bundles", "list_bundles"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: PyTorch and MONAI load only when they are used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
