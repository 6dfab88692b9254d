"""One audit: all measurements of a source and its restored image, and what follows from them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from medrestore_monai import __version__
from medrestore_monai.audit.bias import measure_bias
from medrestore_monai.audit.faithfulness import Faithfulness, measure_faithfulness
from medrestore_monai.audit.figures import Figure, plain
from medrestore_monai.audit.gain import Gain, measure_gain
from medrestore_monai.audit.interval import Interval, measure_interval, read_calibration, settings_of_result
from medrestore_monai.audit.noise import Noise, measure_noise
from medrestore_monai.audit.reading import bundle_of, read_pair
from medrestore_monai.audit.scope import OUT, Scope, measure_scope
from medrestore_monai.audit.sharpness import Sharpness, measure_sharpness
from medrestore_monai.audit.threshold import threshold_of
from medrestore_monai.audit.verdict import Verdict, judge
from medrestore_monai.audit.volume import Volume
from medrestore_monai.bundles import Bundle, foreign_values_explained, open_bundle

SCHEMA = 1
_PACKAGES = ("numpy", "scipy", "scikit-image", "monai", "pydicom")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Audit:
    """All that was measured.

    Args:
        source: the input.
        restored: the output.
        noise: magnitude and spectrum of the noise.
        sharpness: transfer functions at edges.
        gain: the signal gain.
        bias: means, activity or k-space.
        scope: how the source lies to the training data.
        faithfulness: changes that noise does not explain.
        interval: for the value that a full scan would have.
        verdict: the light and its reasons.
        provenance: bundle, weights, settings and versions.
        timing: seconds by measurement.
    """

    source: Volume
    restored: Volume
    noise: Noise
    sharpness: Sharpness
    gain: Gain
    bias: list[Figure]
    scope: Scope
    faithfulness: Faithfulness
    interval: Interval
    verdict: Verdict
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``audit.json``."""
        faithfulness = {
            "threshold": self.faithfulness.threshold,
            "count": self.faithfulness.count,
            "figures": [one.as_dict() for one in self.faithfulness.figures],
            "flags": [one.as_dict() for one in self.faithfulness.flags],
        }
        return {
            "schema": SCHEMA,
            "source": _described(self.source),
            "restored": _described(self.restored),
            "provenance": plain(dict(self.provenance)),
            "verdict": self.verdict.as_dict(),
            "scope": self.scope.as_dict(),
            "noise": [one.as_dict() for one in self.noise.figures],
            "sharpness": [one.as_dict() for one in (*self.sharpness.figures, *self.gain.figures)],
            "bias": [one.as_dict() for one in self.bias],
            "interval": self.interval.as_dict(),
            "faithfulness": faithfulness,
            "timing_s": {name: round(seconds, 2) for name, seconds in self.timing.items()},
        }

    def json(self) -> str:
        """Return ``audit.json`` as a text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def audit(
    source: Volume | str | os.PathLike[str],
    restored: Volume | str | os.PathLike[str],
    *,
    bundle: Bundle | str | None = None,
    threshold: float | None = None,
    settings: Mapping[str, Any] | None = None,
    weights_sha256: str = "",
    modality: str | None = None,
    series_uid: str = "",
    hu_offset: float | None = None,
    suv: Mapping[str, Any] | None = None,
    stack: int = 0,
    slice_axis: int | None = None,
    trust_bundle: bool = False,
) -> Audit:
    """Measure how a restored image differs from its source, and whether the difference can be trusted.

    Args:
        source: an image in memory, or the path of an image file or DICOM series.
        restored: the result, of the same kind and on the same grid.
        bundle: what restored it, for its training data; by default the one whose weights a DICOM header names.
        threshold: of the change map, above which a region is flagged; by default the bundle's own, or else 5.
        settings: of the restoration, as far as they differ from the bundle's; by default those that a DICOM header has.
            Without them there are no intervals.
        weights_sha256: of the weights; by default what a DICOM header has, or else the bundle's own.
        modality: for paths: CT, MR, PT, RGB or GRAY of files without a DICOM header.
        series_uid: for paths: of the source, where there are several series.
        hu_offset: for paths: CT, what to add to the numbers of both to make them HU.
        suv: for paths: PET, see :class:`~medrestore_monai.dicom.SUVOptions`.
        stack: for paths: of a DICOM series of several stacks, from 1.
        slice_axis: for paths of files: the axis (0, 1 or 2) that the slices of a volume lie across; by default as the
            headers say.
        trust_bundle: show a bundle from elsewhere whatever its card holds, see
            :func:`~medrestore_monai.bundles.open_bundle`.

    Raises:
        ValueError: an image cannot be used, the two do not belong together, or an option is out of its range.
    """
    timing: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = function()
        timing[name] = time.perf_counter() - start
        return result

    found = open_bundle(bundle, trust_bundle, configs=()) if isinstance(bundle, str) else bundle
    single = found.modalities[0] if found is not None and len(found.modalities) == 1 else None
    first, second = timed(
        "reading",
        lambda: _pair(
            source,
            restored,
            modality=modality or single,
            series_uid=series_uid,
            hu_offset=hu_offset,
            suv=suv,
            stack=stack,
            slice_axis=slice_axis,
        ),
    )
    if weights_sha256:
        second.about["weights_sha256"] = weights_sha256
    found = found or bundle_of(second)
    weights = second.about.get("weights_sha256", "")
    noise = timed("noise", lambda: measure_noise(first, second))
    if threshold is None:
        threshold = threshold_of(found, first.modality, weights, noise.of_source, first.pixel)
    sharpness = timed("sharpness", lambda: measure_sharpness(first, second))
    gain = timed("gain", lambda: measure_gain(first, second))
    bias = timed("bias", lambda: measure_bias(first, second))
    scope = timed("scope", lambda: scope_of(first, found))
    faithfulness = timed("faithfulness", lambda: measure_faithfulness(first, second, noise, threshold))
    interval = timed("interval", lambda: _interval(first, second, noise, found, settings, scope))
    verdict = judge(noise.figures, sharpness.figures, gain.figures, bias, scope, faithfulness)
    provenance = _provenance(second, found, threshold)
    measured = (noise, sharpness, gain, bias, scope, faithfulness, interval)
    return Audit(first, second, *measured, verdict, provenance, dict(timing))


def _interval(
    source: Volume,
    restored: Volume,
    noise: Noise,
    bundle: Bundle | None,
    settings: Mapping[str, Any] | None,
    scope: Scope,
) -> Interval:
    calibration = None if bundle is None else read_calibration(bundle, source.modality)
    if bundle is None or calibration is None:
        return measure_interval(source, restored, noise, None)
    given = restored.about.get("settings") if settings is None else settings
    known = None if given is None else settings_of_result(bundle, given)
    weights = restored.about.get("weights_sha256") or bundle.metadata.get("weights_sha256", "")
    void = calibration.why_void(weights, known)
    if not void and scope.state == OUT:
        void = "the image is out of the scope of the training"
    return measure_interval(source, restored, noise, calibration, void)


def scope_of(source: Volume, bundle: Bundle | None) -> Scope:
    """Compare an image with the training data of a bundle; "unknown" without one.

    :attr:`~medrestore_monai.audit.scope.Scope.line` of the result is a note for people.
    """
    if bundle is None:
        return measure_scope(source, {})
    config = json.loads(bundle.config("inference").read_text(encoding="utf-8"))
    neighbors = config.get("context", 0)
    trained_on = bundle.metadata.get("trained_on", {})
    with foreign_values_explained(bundle.root):
        return measure_scope(source, trained_on, isinstance(neighbors, int) and neighbors > 0)


def _pair(
    source: Volume | str | os.PathLike[str], restored: Volume | str | os.PathLike[str], **options: Any
) -> tuple[Volume, Volume]:
    if isinstance(source, Volume) != isinstance(restored, Volume):
        raise TypeError("give two volumes or two paths, not one of each.")
    if isinstance(source, Volume) and isinstance(restored, Volume):
        pair = source.like(restored.array)
        pair.about.update(restored.about)
        return source, pair
    return read_pair(source, restored, **options)  # type: ignore[arg-type]


def _described(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.about.get("name", "in memory"),
        "series_uid": volume.about.get("series_uid", ""),
        "modality": volume.modality,
        "unit": volume.unit,
        "shape": list(volume.array.shape),
        "spacing": plain(volume.spacing),
        "length": volume.length,
    }


def _provenance(restored: Volume, bundle: Bundle | None, threshold: float) -> dict[str, Any]:
    versions = {"medrestore-monai": __version__}
    for name in _PACKAGES:
        versions[name] = importlib.metadata.version(name)
    weights = restored.about.get("weights_sha256") or (bundle.metadata.get("weights_sha256", "") if bundle else "")
    return {
        "bundle": f"{bundle.name} {bundle.metadata['version']}" if bundle else "",
        "weights_sha256": weights,
        "settings": {"threshold of the change map": threshold},
        "derivation": restored.about.get("derivation", ""),
        "versions": versions,
    }
