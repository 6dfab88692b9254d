"""One page that lists the audits of many restorations, those that need a look first."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medrestore_monai.audit.verdict import GREEN, RED, YELLOW
from medrestore_monai.audit.writing import FIGURES, PAGE
from medrestore_monai.texts import printable

INDEX = "index.html"
_FAILED = "failed"
_ORDER = (_FAILED, RED, YELLOW, "no report", GREEN)


@dataclass(frozen=True)
class Listed:
    """One study of the page.

    Args:
        name: of the study.
        folder: of its audit, below that of the page; empty where there is none.
        reason: why the study failed; empty if it was restored.
        report: the content of its ``audit.json``.
    """

    name: str
    folder: str = ""
    reason: str = ""
    report: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def light(self) -> str:
        """The color of the audit, ``failed`` or ``no report``."""
        return _FAILED if self.reason else str(self.report.get("verdict", {}).get("light", "no report"))

    @property
    def reasons(self) -> list[str]:
        """Why the light has its color."""
        return [self.reason] if self.reason else list(self.report.get("verdict", {}).get("reasons", []))

    @property
    def link(self) -> str:
        """Address of the audit, relative to the page."""
        return quote(os.fsencode(f"{self.folder}/{PAGE}")) if self.report else ""

    @property
    def flags(self) -> int:
        """Number of regions that changed by more than noise explains."""
        return int(self.report.get("faithfulness", {}).get("count", 0))

    @property
    def largest(self) -> float:
        """Largest change over noise; 0 where it was not measured."""
        return self._figure("faithfulness", "largest change")[1] or 0.0

    @property
    def noise(self) -> float | None:
        """Noise after over before."""
        before, after = self._figure("noise", "noise SD")
        return after / before if before and after is not None else None

    @property
    def scope(self) -> str:
        """How the image lies to the training data."""
        return str(self.report.get("scope", {}).get("state", ""))

    @property
    def urgency(self) -> tuple[int, float, int, str]:
        """What the page is sorted by: the light, then the largest change, then how many reasons there are."""
        return _ORDER.index(self.light), -self.largest, -len(self.reasons), self.name

    def _figure(self, part: str, name: str) -> tuple[float | None, float | None]:
        figures = self.report.get(part, [])
        listed = figures.get("figures", []) if isinstance(figures, dict) else figures
        found: dict[str, Any] = next((one for one in listed if one["name"] == name), {})
        return found.get("before"), found.get("after")


def read_listed(root: Path, name: str, folder: str, reason: str = "") -> Listed:
    """Return a study with its audit, if there is one at ``root / folder``."""
    path = root / folder / FIGURES
    if reason or not path.is_file():
        return Listed(name, folder, reason)
    return Listed(name, folder, report=json.loads(path.read_text(encoding="utf-8")))


def render_index(listed: Sequence[Listed]) -> str:
    """Return the page as HTML: one row a study, sorted by what needs a look."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["printable"] = printable
    place = Path(__file__)
    template = environment.from_string(place.with_name("index.html.j2").read_text(encoding="utf-8"))
    rows = sorted(listed, key=lambda one: one.urgency)
    counts = {light: sum(one.light == light for one in rows) for light in _ORDER}
    css = Markup(place.with_name("page.css").read_text(encoding="utf-8"))
    return template.render(rows=rows, counts={light: count for light, count in counts.items() if count}, css=css)
