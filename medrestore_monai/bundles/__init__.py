"""Bundles: one trained model each, as configurations, a card and weights in a folder.

- ``find``: by name or folder; ``config``: their configurations are read.
- ``settings``, ``shared_settings``, ``kinds``: what can be set, declared and checked.
- ``network``: a network with the weights of a bundle; ``onnx``: the same as an ONNX file.
- ``weights``: files that are fetched from elsewhere; ``check``: may a bundle of somebody else run?
- ``package``, ``card``: the zoo form.

Configurations name what stands here, such as ``medrestore_monai.bundles.load_network``.
"""

from medrestore_monai.bundles.config import read_config, require_inference
from medrestore_monai.bundles.find import (
    DEFAULT_BUNDLE,
    WEIGHTS,
    Bundle,
    bundle_root,
    find_bundle,
    is_path,
    list_bundles,
    name_with_copy,
    search_path,
)
from medrestore_monai.bundles.network import (
    BACKENDS,
    PRECISIONS,
    WeightsError,
    check_backend,
    export_bundle,
    load_network,
    load_weights,
    sha256,
    start_from,
    verify_weights,
)

__all__ = [
    "BACKENDS",
    "Bundle",
    "DEFAULT_BUNDLE",
    "PRECISIONS",
    "WEIGHTS",
    "WeightsError",
    "bundle_root",
    "check_backend",
    "export_bundle",
    "find_bundle",
    "is_path",
    "list_bundles",
    "load_network",
    "load_weights",
    "name_with_copy",
    "read_config",
    "require_inference",
    "search_path",
    "sha256",
    "start_from",
    "verify_weights",
]
