"""Is it safe to run somebody's bundle? A static check against a list of what is allowed.

- ``check``: the check as a whole, and its findings.
- ``files``: a bundle in a folder or a zip; links, paths, sizes.
- ``configs``, ``expressions``, ``names``: what the configurations would call.
- ``weights``, ``logging_conf``: pickles, TorchScript, and what ``logging.config`` evaluates.
"""

from medrestore_monai.bundles.check.check import SOURCES, Finding, check_bundle

__all__ = ["SOURCES", "Finding", "check_bundle"]
