"""Read a source and its restored image as the two volumes of an audit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset

from medrestore_monai.audit.maps import HEADERS
from medrestore_monai.audit.scope import UNKNOWN_TRACER
from medrestore_monai.audit.volume import Volume
from medrestore_monai.bundles import Bundle, list_bundles
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.data.find import is_image_file, is_picture
from medrestore_monai.dicom import XRAY, read_series, read_stacks
from medrestore_monai.dicom.derivation import EARLIER, OWN_WORDS
from medrestore_monai.files import UsageError

_GRID = 1e-3  # mm, by which two affines may differ
_LUMA = (0.299, 0.587, 0.114)
_FDG = r"FDG|des?oxy.{0,24}?glu[ck]ose"  # fluorodeoxyglucose, Fluordesoxyglukose, 2-deoxy-2-[18F]fluoro-D-glucose
_TRACERS = (
    r"PSMA|DOTATATE|DOTATOC|DOTANOC|FAPI|FLT|FET|F?DOPA|NaF|fluciclovine|choline|methionine|"
    r"florbeta\w{3,5}|flutemetamol|flortaucipir|rubidium|ammonia|water"
)
_INSTANCES, _MADE_FROM = "instances", "made from"  # SOPInstanceUIDs of its slices, and of those it was derived from
_WEIGHTS = re.compile(r"weights SHA-256 ([0-9a-f]{64})")


def read_pair(
    source: str | os.PathLike[str],
    restored: str | os.PathLike[str],
    *,
    modality: str | None = None,
    series_uid: str = "",
    hu_offset: float | None = None,
    suv: Mapping[str, Any] | None = None,
    stack: int = 0,
    slice_axis: int | None = None,
) -> tuple[Volume, Volume]:
    """Read both images in the unit of the source.

    Args:
        source: an image file or a DICOM series.
        restored: the result of a restoration, of the same kind and on the same grid.
        modality: of files without a DICOM header.
        series_uid: of the source, where its path holds several series.
        hu_offset: CT files: what to add to both to make them HU.
        suv: PET: see :class:`~medrestore_monai.dicom.SUVOptions`.
        stack: of a series of several, from 1; of the restored series, if that has several, too.
        slice_axis: of files: the axis that the slices of a volume lie across; by default as the headers say.

    Raises:
        ValueError: an image cannot be read, or the two are not on one grid.
    """
    first = read_volume(source, modality, series_uid, hu_offset, suv, stack, slice_axis)
    several = stack and not is_image_file(Path(restored)) and len(read_stacks(restored, allow_gaps=True)) > 1
    second = read_volume(restored, modality, "", hu_offset, suv, stack if several else 0, slice_axis)
    if (first.modality, first.unit) != (second.modality, second.unit):
        raise ValueError(
            f"the source is {first.modality} in {first.unit} and the restored image {second.modality} in "
            f"{second.unit}: give a restored image of the source."
        )
    if not set(first.about.get(_MADE_FROM, ())).isdisjoint(second.about.get(_INSTANCES, ())):
        raise ValueError(
            f"{Path(source).name} was made from {Path(restored).name} by its header: give the source first, then its "
            "result."
        )
    pair = first.like(second.array)
    if first.affine is not None and second.affine is not None and np.abs(first.affine - second.affine).max() > _GRID:
        raise ValueError(f"{restored} is not on the grid of {source}: their positions in space differ.")
    pair.about.update(second.about)
    return first, pair


def read_volume(
    path: str | os.PathLike[str],
    modality: str | None = None,
    series_uid: str = "",
    hu_offset: float | None = None,
    suv: Mapping[str, Any] | None = None,
    stack: int = 0,
    slice_axis: int | None = None,
) -> Volume:
    """Read one image or series as a volume; of a color picture, its luma. X-ray is a gray picture.

    Raises:
        UsageError: its modality is unknown.
        ValueError: it cannot be read.
    """
    path = Path(path)
    load = LoadImageOrSeriesd("image", modality, allow_gaps=True, hu_offset=hu_offset, suv=suv, slice_axis=slice_axis)
    image = load({"image": str(path), "series_uid": series_uid, "stack": stack})["image"]
    meta, array = image.meta, image.as_tensor()
    color = len(array) == 3 and array.ndim == 3
    if color:
        array = torch.einsum("c,cxy->xy", torch.tensor(_LUMA), array)[None]
    found = meta.get("modality") or ("RGB" if color else "GRAY" if is_picture(path) else None)
    found = "GRAY" if found in XRAY else found
    if found is None:
        raise UsageError(f"{path.name} does not state its modality: give `modality=CT`, MR or PT.")
    affine = np.asarray(meta["affine"], dtype=np.float64)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    no_size = is_image_file(path) and np.allclose(affine, np.eye(4))
    about: dict[str, Any] = {"name": path.name, "dtype": meta.get("original_dtype")}
    if not is_image_file(path):
        datasets = read_series(path, series_uid or None, allow_gaps=True, stack=stack).datasets
        about |= _header(datasets[0])
        about[_INSTANCES] = [str(one.get("SOPInstanceUID")) for one in datasets]
        about[_MADE_FROM] = [
            str(item.get("ReferencedSOPInstanceUID")) for item in datasets[0].get("SourceImageSequence") or ()
        ]
        if not any("NumberOfFrames" in one for one in datasets):
            about[HEADERS] = datasets
    unit = str(meta["unit"]) if meta.get("unit") and found in ("CT", "PT") else ""
    return Volume(
        array[0].numpy(),
        str(found),
        (float(steps[0]), float(steps[1]), float(steps[2])),
        unit,
        meta.get("suv_factor"),
        affine,
        "px" if no_size else "mm",
        about,
    )


def _header(ds: Dataset) -> dict[str, Any]:
    """Return what a DICOM header says of scanner and processing; nothing that names a person."""
    found: dict[str, Any] = {"series_uid": str(ds.SeriesInstanceUID)}
    for name, keyword, unit in (("tube voltage", "KVP", "kV"), ("field strength", "MagneticFieldStrength", "T")):
        if ds.get(keyword):
            found[name] = f"{float(ds[keyword].value):g} {unit}"
    for drug in ds.get("RadiopharmaceuticalInformationSequence") or ():
        codes = drug.get("RadiopharmaceuticalCodeSequence") or ()
        texts = [*(str(one.get("CodeMeaning") or "") for one in codes), str(drug.get("Radiopharmaceutical") or "")]
        if named := " ".join(filter(None, texts)):
            found["tracer"] = _tracer(named)
    if ds.get("DerivationDescription"):
        found["derivation"] = _own_words(str(ds.DerivationDescription))
        weights = _WEIGHTS.search(str(ds.DerivationDescription))
        if weights:
            found["weights_sha256"] = weights[1]
            found["settings"] = _settings(found["derivation"])
    return found


def _tracer(text: str) -> str:
    """The first well-known tracer that a text names, which may be anything; FDG has one name."""
    if re.search(_FDG, text, re.IGNORECASE):
        return "FDG"
    words = re.search(_TRACERS, text, re.IGNORECASE)
    return words[0] if words else UNKNOWN_TRACER


def _own_words(text: str) -> str:
    """What this package has written of a derivation; what stood there before may be anybody's."""
    own, _, _ = text.partition(EARLIER)
    return own if own.startswith(OWN_WORDS) else "by another program"


def _settings(derivation: str) -> dict[str, Any] | None:
    """Return the settings that our derivation ends with; ``None`` where the text was too long for them."""
    try:
        return dict(json.loads(derivation[derivation.index("{") :]))
    except ValueError:
        return None


def bundle_of(restored: Volume) -> Bundle | None:
    """Return the bundle whose weights the header of a restored DICOM series names, if it is installed."""
    weights = restored.about.get("weights_sha256")
    named = (one for one in list_bundles() if weights and one.metadata.get("weights_sha256") == weights)
    return next(named, None)
