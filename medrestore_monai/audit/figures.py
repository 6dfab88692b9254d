"""One measured number with its unit and its method, or the reason why it was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DIGITS = 6


@dataclass(frozen=True)
class Figure:
    """One quantity, measured in the same place before and after.

    Args:
        name: what was measured.
        region: where it was measured.
        unit: of ``before``, ``after`` and ``ci95``; "1" for a ratio.
        method: how it was measured, in one sentence.
        before: the value in the source.
        after: the value in the restored image.
        n: how many regions, voxels or millimeters went into it; ``counted`` says which.
        counted: what ``n`` counts.
        ci95: 95 % interval of ``after``.
        not_measured: why there is no value; empty where there is one.
    """

    name: str
    region: str
    unit: str
    method: str
    before: float | None = None
    after: float | None = None
    n: int | None = None
    counted: str = ""
    ci95: tuple[float, float] | None = None
    not_measured: str = ""

    def __post_init__(self) -> None:
        if self.after is None and not self.not_measured:
            raise ValueError(f"{self.name} has no value after the restoration: say why in not_measured.")

    @property
    def change(self) -> float | None:
        """``after`` minus ``before``, where both were measured."""
        return None if self.before is None or self.after is None else self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as JSON values, with six significant digits."""
        return plain(vars(self))


def plain(value: Any) -> Any:
    """Turn arrays, NumPy numbers and tuples into JSON values; numbers that are not finite become ``None``."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, Sequence) or getattr(value, "ndim", None):
        return [plain(one) for one in value]
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float):
        return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None
    return number
