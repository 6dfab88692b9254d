"""One self-contained HTML file of an audit: it opens without a network, and asks for nothing."""

from __future__ import annotations

import base64
import functools
import gzip
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.audit.audit import Audit
from medrestore_monai.audit.display import Z_RANGE, Display, make_display
from medrestore_monai.audit.display_volume import VolumeDisplay, is_volume, make_volume_display
from medrestore_monai.audit.interval import Interval
from medrestore_monai.audit.plots import Curve, Plot

_LIGHTS = {
    "green": "Green: nothing speaks against the result",
    "yellow": "Yellow: look at this before you use it",
    "red": "Red: do not rely on this result",
}
_NOISE = "Flat regions were found in the source; the same ones were measured before and after."
_SHARPNESS = (
    "Transfer functions at edges say how sharp strong edges are. After a network, low contrasts may be less sharp: the "
    "signal gain compares the structure of all patches, 1 where it is kept."
)
_BIAS = "What a restoration must not move, measured in the same voxels before and after."
_INTERVAL = "Where a full scan would lie, voxel by voxel: only of bundles that were calibrated for it."
_CONFORMAL = (
    "Conformal: it holds at least {level:.0f} % of the voxels, on average over patients like the {patients} of the "
    "calibration. Nothing is promised for one patient, one tissue or another scanner."
)
_EMPIRICAL = (
    "Empirical, without a guarantee: it comes from {patients} patients, of whom it holds about {level:.0f} % of the "
    "voxels. It may hold fewer of this one."
)
_FAITHFULNESS = (
    "Where the result differs from the source by more than noise explains, structure was added or removed. Details "
    "under three noise grains cannot be judged this way."
)
_SCRIPTS = ("page.js", "plain_view.js", "volume_view.js")
_VIEWS = {
    "source": "Source",
    "restored": "Restored",
    "difference": "Difference",
    "change": "Change over noise",
    "interval": "Interval, half-width",
}


def render_page(audit: Audit) -> str:
    """Return the page of an audit as HTML; with 40 slices of 512 x 512 under 15 MB."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    display: Display | VolumeDisplay
    if is_volume(audit.source):
        display = make_volume_display(audit.source, audit.restored, audit.faithfulness.z, audit.interval.half_width)
        maps = [name for name in ("change", "interval") if name in display.copies]
    else:
        display = make_display(audit.source, audit.restored, audit.faithfulness.z)
        maps = ["change"] * bool(display.change)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    return environment.from_string(_part("page.html.j2")).render(
        report=audit.as_dict(),
        lights=_LIGHTS,
        display=display,
        start=_start(audit, display),
        views={name: _VIEWS[name] for name in ("source", "restored", "difference", *maps)},
        sections=_sections(audit),
        provenance=_provenance(audit),
        z_range=f"{Z_RANGE:g}",
        data=_data(audit, display),
        css=Markup(_part("page.css")),
        script=Markup("\n".join(map(_part, _SCRIPTS))),
        viewer=_viewer() if isinstance(display, VolumeDisplay) else "",
        viewer_licenses=_part("niivue/LICENSES.txt"),
    )


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@functools.cache
def _viewer() -> str:
    """Return NiiVue as base64 of its gzip."""
    return base64.b64encode(gzip.compress(_part("niivue/niivue.umd.js").encode(), 9, mtime=0)).decode("ascii")


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _start(audit: Audit, display: Display | VolumeDisplay) -> int:
    """Return the index of the slice that the page opens with: that of the strongest flag, else the middle one."""
    if audit.faithfulness.flags:
        away = np.abs(np.array(display.numbers) - audit.faithfulness.flags[0].slice)
        return int(away.argmin())
    return len(display.numbers) // 2


def _data(audit: Audit, display: Display | VolumeDisplay) -> dict[str, Any]:
    found = {
        "numbers": display.numbers,
        "window": display.window,
        "threshold": audit.faithfulness.threshold,
        "zRange": Z_RANGE,
    }
    if isinstance(display, Display):
        pictures = {"source": display.source, "restored": display.restored, "change": display.change}
        return {**found, "pictures": {name: slices for name, slices in pictures.items() if slices}}
    flags = audit.faithfulness.flags
    return {
        **found,
        "volumes": display.copies,
        "width": display.size[0],
        "shape": audit.source.array.shape,
        "flips": display.flips,
        "flag": {"x": flags[0].x, "y": flags[0].y, "slice": flags[0].slice} if flags else None,
        "toMm": display.affine.tolist(),
        "toVoxel": np.linalg.inv(display.affine).tolist(),
        # NiiVue's numbers of axial, coronal and sagittal, by the axis that slices are stacked along
        "plane": 2 - int(np.abs(display.affine[:3, 2]).argmax()),
    }


def _sections(audit: Audit) -> list[dict[str, Any]]:
    parts: list[tuple[str, str, list[Plot], list[Any], list[Any]]] = [
        ("Noise", _NOISE, _noise_plots(audit), audit.noise.figures, []),
        ("Sharpness", _SHARPNESS, _sharpness_plots(audit), [*audit.sharpness.figures, *audit.gain.figures], []),
        ("Bias", _BIAS, [], audit.bias, []),
        ("Interval", _interval_text(audit.interval), [], audit.interval.figures, []),
        ("Faithfulness", _FAITHFULNESS, [], audit.faithfulness.figures, audit.faithfulness.flags),
    ]
    names = ("title", "text", "plots", "figures", "flags")
    return [dict(zip(names, part, strict=True)) for part in parts]


def _interval_text(interval: Interval) -> str:
    one = interval.calibration
    if one is None:
        return _INTERVAL
    kind = _CONFORMAL if one.kind == "conformal" else _EMPIRICAL
    about = f"The result plus or minus the half-width is an interval for {one.label}. It is only for {one.images}."
    return f"{about} {kind.format(level=100 * one.level, patients=one.patients)}"


def _noise_plots(audit: Audit) -> list[Plot]:
    if not audit.noise.curves:
        return []
    curves = [Curve(name, *curve) for name, curve in audit.noise.curves.items()]
    length = audit.source.length
    unit = "1" if audit.source.modality == "PT" else audit.source.unit
    label = f"power (({unit})\u00b2 {length}\u00b2)"
    return [Plot("Noise power spectrum", f"frequency (1/{length})", label, curves)]


def _sharpness_plots(audit: Audit) -> list[Plot]:
    label = f"frequency (1/{audit.source.length})"
    plots = []
    for name, pair in audit.sharpness.curves.items():
        curves = [Curve(when, one.frequency, one.gain) for when, one in zip(("before", "after"), pair, strict=True)]
        plots.append(Plot(f"Transfer function, {name}", label, "gain", curves))
    if len(audit.gain.frequency) > 1:
        plots.append(Plot("Signal gain", label, "gain", [Curve("after", audit.gain.frequency, audit.gain.gain)]))
    return plots


def _provenance(audit: Audit) -> list[tuple[str, str]]:
    about = audit.provenance
    rows = [
        ("bundle", about["bundle"] or "unknown"),
        ("weights SHA-256", about["weights_sha256"] or "unknown"),
        ("settings", _pairs(about["settings"])),
        ("derivation in the header", about["derivation"] or "none"),
        ("series of the source", audit.source.about.get("series_uid", "no DICOM series")),
        ("series of the result", audit.restored.about.get("series_uid", "no DICOM series")),
        ("versions", _pairs(about["versions"])),
        ("time of the audit", _pairs({name: f"{seconds:.1f} s" for name, seconds in audit.timing.items()})),
        ("not in this version", "planted lesions"),
    ]
    return [(name, str(value)) for name, value in rows]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
