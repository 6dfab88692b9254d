"""Is a result to be trusted: noise, sharpness, bias, scope and faithfulness, and a page that shows them.

- ``volume``, ``reading``: the two images; ``figures``: one measured number, or why it could not be measured.
- ``regions``, ``spectrum``, ``noise``: noise in flat regions that are found in the source.
- ``edges``, ``sharpness``, ``gain``: transfer functions at edges, and the signal gain.
- ``hot_regions``, ``bias``: what a restoration must not move.
- ``scope``: the source beside the training data; ``faithfulness``: changes that noise does not explain; ``limit``: a
  limit of these.
- ``verdict``, ``audit``: all of them together.
- ``display``, ``plots``, ``page``: one self-contained HTML file; ``index``: a page that lists many of them.
"""

from medrestore_monai.audit.audit import Audit, audit, scope_of
from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.limit import limit_change
from medrestore_monai.audit.scope import Scope, measure_scope
from medrestore_monai.audit.volume import Volume

__all__ = ["Audit", "Figure", "Scope", "Volume", "audit", "limit_change", "measure_scope", "scope_of"]
