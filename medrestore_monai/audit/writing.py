"""Write an audit as a folder: ``audit.json`` and ``audit.html``; of a restoration that was just done, too."""

from __future__ import annotations

from pathlib import Path

from medrestore_monai.audit.audit import Audit, audit
from medrestore_monai.audit.maps import Map, write_map
from medrestore_monai.audit.page import render_page
from medrestore_monai.data.find import is_image_file, without_suffix
from medrestore_monai.files import UsageError, atomic_folder, require_writable
from medrestore_monai.restorer import Restorer

FIGURES, PAGE = "audit.json", "audit.html"
_SUV = {
    "suv_factor": "factor",
    "patient_weight": "weight",
    "injected_dose": "dose",
    "half_life": "half_life",
    "injection_time": "injection_time",
}


def check_output(output: Path, source: Path, restored: Path, overwrite: bool = False) -> None:
    """Refuse a folder that an audit must not replace, before any work is done for it.

    Args:
        output: where the audit is to go.
        source: the input, which must stay.
        restored: the restored image, which must stay.
        overwrite: replace an audit that exists.

    Raises:
        FileExistsError: there is something at ``output``, and not ``overwrite``, or it is no audit.
        UsageError: it cannot be written there, or holds one of the two images.
        OSError: it may not be written.
    """
    place = output.resolve()
    for image in (source.resolve(), restored.resolve()):
        if place == image or place in image.parents or image in place.parents:
            raise UsageError(f"the output {output} and the image {image} may not lie in one another.")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; name another folder, or give `overwrite`.")
    if output.exists() and not (output / FIGURES).is_file():
        raise FileExistsError(f"{output} is no audit: it is not overwritten.")
    require_writable(output)


def write_audit(audit: Audit, output: Path, overwrite: bool = False) -> None:
    """Write both files, the half-width of the intervals and the change map, to a new folder, whole or not at all.

    The maps are DICOM Parametric Maps where the source is DICOM and highdicom is installed, else NIfTI.

    Raises:
        OSError: the folder is there and not to be replaced, or cannot be written.
    """
    with atomic_folder(output, overwrite) as folder:
        (folder / FIGURES).write_text(audit.json(), encoding="utf-8")
        (folder / PAGE).write_text(render_page(audit), encoding="utf-8")
        for one in _maps(audit):
            write_map(folder, one, audit.source)


def _maps(audit: Audit) -> list[Map]:
    found = []
    if audit.interval.half_width is not None:
        half = audit.interval.half_width
        found.append(Map("interval", "half-width of the interval for a full scan", half, audit.source.unit))
    if audit.faithfulness.z.size:
        found.append(Map("change", "smoothed change over the noise of the source", audit.faithfulness.z, "1"))
    return found


def report_folder(output: Path) -> Path:
    """Return the folder beside a result that its report goes to: ``restored_report`` for ``restored.nii.gz``."""
    name = without_suffix(output.name) if is_image_file(output) else output.name
    return output.with_name(f"{name or output.name}_report")


def audit_restoration(restorer: Restorer, source: Path, restored: Path, series_uid: str = "") -> Audit:
    """Audit what a restorer made, with the settings that it was opened with.

    Args:
        restorer: made it.
        source: an image file or a DICOM series.
        restored: the result.
        series_uid: of the source, where there are several series.

    Raises:
        ValueError: one of the two cannot be read.
    """
    settings = restorer.settings
    suv = {field: settings[name] for name, field in _SUV.items() if settings.get(name) is not None}
    return audit(
        source,
        restored,
        bundle=restorer.bundle,
        settings=settings,
        weights_sha256=restorer.weights_sha256,
        modality=settings.get("modality"),
        series_uid=series_uid,
        hu_offset=settings.get("hu_offset"),
        suv=suv or None,
        stack=settings.get("stack") or 0,
        slice_axis=settings.get("slice_axis"),
    )
