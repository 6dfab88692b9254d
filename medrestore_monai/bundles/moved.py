"""Names of this package that configurations have and that have moved."""

import re
from collections.abc import Iterator
from typing import Any

_TRANSFORMS = (
    "ct_low_dose ct_mean ct_noise ct_noise_measure ct_scan pet_activity pet_fixed pet_low_count pet_noise pet_scan"
)
# modules that earlier configurations name, and where their classes and functions are now
MOVED = {
    **{f"medrestore_monai.{name}": "medrestore_monai.data" for name in ("layouts", "loading", "saving")},
    **{f"medrestore_monai.transforms.{name}": "medrestore_monai.transforms" for name in _TRANSFORMS.split()},
}
# classes that are now the transform of a FixedDegradationd, and their names there
WRAPPED = {"CTLowDosed": "SimulateCTLowDosed", "PETLowCountd": "SimulatePETLowCountd"}
_OLD_CLASS = re.compile(rf"\bmedrestore_monai\.transforms\.(?:\w+\.)*({'|'.join(WRAPPED)})\b")
_OLD_NAME = re.compile(rf"\b({'|'.join(map(re.escape, MOVED))})\b((?:\.\w+)*)")


def reason_moved(text: str) -> str:
    """Say where the first class, function or module of a text is now that has moved; empty if none has.

    Args:
        text: of a configuration, such as a ``_target_`` or an expression.
    """
    if found := _OLD_CLASS.search(text):
        place = "medrestore_monai.transforms"
        return f"{found[0]} is now {place}.FixedDegradationd with the transform {place}.{WRAPPED[found[1]]}"
    found = _OLD_NAME.search(text)
    if found is None:
        return ""
    name = found[2].rpartition(".")[2]
    return f"{found[0]} is now {MOVED[found[1]]}{'.' * bool(name)}{name}"


def texts(content: Any) -> Iterator[str]:
    """Yield every text of a configuration but keys."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for child in content.values() if isinstance(content, dict) else content:
            yield from texts(child)
