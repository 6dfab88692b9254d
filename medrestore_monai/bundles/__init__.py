"""Bundles: one trained model each, as configurations, a card and weights in a folder.

- ``find``: by name or folder; ``trust``: may one from elsewhere run? ``config``: their configurations are read;
  ``moved``: names that earlier ones have.
- ``settings``, ``shared_settings``, ``kinds``: what can be set, declared and checked.
- ``network``: a network with the weights of a bundle; ``onnx``: the same as an ONNX file.
- ``weights``: files that are fetched from elsewhere; ``check``: is a bundle of somebody else harmless?
- ``package``, ``card``: the zoo form.

Configurations name what stands here, such as ``medrestore_monai.bundles.load_network``.
"""

from medrestore_monai.bundles.config import foreign_values_explained, read_config, require_inference
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
from medrestore_monai.bundles.trust import UntrustedBundleError, open_bundle, open_config, open_overlay

__all__ = [
    "BACKENDS",
    "Bundle",
    "DEFAULT_BUNDLE",
    "PRECISIONS",
    "UntrustedBundleError",
    "WEIGHTS",
    "WeightsError",
    "bundle_root",
    "check_backend",
    "export_bundle",
    "find_bundle",
    "foreign_values_explained",
    "is_path",
    "list_bundles",
    "load_network",
    "load_weights",
    "name_with_copy",
    "open_bundle",
    "open_config",
    "open_overlay",
    "read_config",
    "require_inference",
    "search_path",
    "sha256",
    "start_from",
    "verify_weights",
]
