"""The header of a derived image: what it says of its source and of the software, and what it no longer may say.

Rules and their sections of the DICOM standard: PS3.3 C.7.6.1 (image type, derivation), C.8.2.1 (CT), C.8.3.1 (MR),
C.8.9.1 (PET), C.12.1 (contributing equipment, content qualification); PS3.16 CID 7203 (derivation), 7202, 7005.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medrestore_monai import __version__
from medrestore_monai.dicom.enhanced import FOR_SPLITTING
from medrestore_monai.dicom.stacks import StackName
from medrestore_monai.dicom.suv import PRIVATE

RESEARCH = "For research, not a medical device."
_CODES = {
    "denoise": ("113087", "Smoothing"),
    "deblur": ("113086", "Edge enhancement"),
    "super-resolution": ("113085", "Spatial resampling"),
}
_LOSSY_SYNTAXES = {"4.50", "4.51", "4.81", "4.91", "4.203"}
#: What is no longer true of new pixels: statistics, icon, signatures, authorization, who and what made the instance.
_OUTDATED = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "SOPInstanceStatus",
    "SOPAuthorizationDateTime",
    "SOPAuthorizationComment",
    "AuthorizationEquipmentCertificationNumber",
    "InstanceCreatorUID",
    "DataSetTrailingPadding",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)

#: How a description of ours begins, and what divides it from that of the source.
OWN_WORDS, EARLIER = f"{RESEARCH} medrestore-monai", " Before: "


@dataclass(frozen=True)
class Derivation:
    """How an image was made from its source, as the new header will record it.

    Attributes:
        description: what was done: ``denoise``, ``deblur``; other words are written without a DICOM code.
        series_suffix: appended to the description of the series; made from the above where it is empty.
        software_version: of this package.
        weights_sha256: 64 hexadecimal digits, or empty where no weights took part.
        parameters: anything that changes the result, such as the bundle and the strength.
        neighbors: how many slices on either side took part in each slice, as far as they were true neighbors, see
            :func:`~medrestore_monai.neighbors.neighbor_numbers`.
        neighbor_distance: range in mm of the distances of slices that take part; ``None`` for any.
    """

    description: str
    series_suffix: str = ""
    software_version: str = __version__
    weights_sha256: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    neighbors: int = 0
    neighbor_distance: Sequence[float] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "description": (1, 32),
            "series_suffix": (0, 62),
            "software_version": (1, 16),
            "weights_sha256": (0, 64),
        }
        for name, (least, most) in lengths.items():
            value = getattr(self, name)
            # printable ASCII without the backslash, which separates values in DICOM
            if not re.fullmatch(rf"[ -\[\]-~]{{{least},{most}}}", value):
                raise ValueError(
                    f"{name} must be {least} to {most} ASCII characters without a backslash, got {value!r}."
                )
        if self.neighbors < 0:
            raise ValueError(f"neighbors must be 0 or more, got {self.neighbors}.")

    @property
    def suffix(self) -> str:
        """What distinguishes the new series from its source, in brackets."""
        version = ".".join(self.software_version.split(".")[:2])
        return self.series_suffix or f"[MEDRESTORE {self.description} {version}, research]"[:62]

    @property
    def key(self) -> str:
        """One text for everything above: equal derivations have equal keys."""
        return json.dumps(vars(self), sort_keys=True, default=str)

    @property
    def text(self) -> str:
        """The same in words, at most 1024 characters."""
        weights = f", weights SHA-256 {self.weights_sha256}" if self.weights_sha256 else ""
        settings = json.dumps(dict(self.parameters), sort_keys=True, default=str) if self.parameters else ""
        words = f"{OWN_WORDS} {self.software_version}: {self.description}{weights} {settings}".strip()
        return words.encode("ascii", "replace").decode().replace("\\", "/")[:1024]


class Reference(NamedTuple):
    """One slice that took part.

    Attributes:
        sop_class: of its file.
        instance: SOPInstanceUID of its file.
        frame: of a multi-frame file, from 0.
    """

    sop_class: str
    instance: str
    frame: int | None = None


def identify(
    ds: Dataset, series_uid: str, uid: str, derivation: Derivation, now: datetime, stack: StackName | None = None
) -> None:
    """Make a header that of a new instance in a new series; acquisition and series times stay (PET decay reference).

    The name of a ``stack`` that becomes a series of its own goes into the description.
    """
    moment = now.astimezone(_offset(ds))  # else in local time
    ds.SeriesInstanceUID, ds.SOPInstanceUID = series_uid, uid
    ds.InstanceCreationDate = ds.ContentDate = moment.strftime("%Y%m%d")
    ds.InstanceCreationTime = ds.ContentTime = moment.strftime("%H%M%S.%f")
    ds.SeriesNumber = min(int(ds.get("SeriesNumber") or 0) + 1000, 2**31 - 1)
    old, suffix = str(ds.get("SeriesDescription") or "").strip(), derivation.suffix
    if stack is not None:
        ds.SeriesNumber += stack.number - 1
        suffix = f"{str(stack)[: max(0, 63 - len(suffix))]} {suffix}".strip()
    kept = old[: max(0, 63 - len(suffix))].strip()
    if f"{kept} {suffix}" == old:  # restored once before
        kept = kept[:-1]
    ds.SeriesDescription = f"{kept} {suffix}".strip()[:64]
    ds.ContentQualification = "RESEARCH"
    kind = [str(value) for value in ds.get("ImageType", None) or []][2:]
    if ds.Modality == "CT" and kind[:1] != ["AXIAL"]:
        kind.insert(0, "AXIAL")
    if ds.Modality == "MR" and not kind:
        kind = ["OTHER"]
    ds.ImageType = ["DERIVED", "PRIMARY" if ds.Modality == "PT" else "SECONDARY", *kind]


def _offset(ds: Dataset) -> timezone | None:
    """The time zone that the dates of a header are in, if it says so."""
    text = str(ds.get("TimezoneOffsetFromUTC") or "")
    with suppress(ValueError):
        minutes = int(text[:3]) * 60 + int(text[0] + text[3:]) if len(text) == 5 else None
        return None if minutes is None else timezone(timedelta(minutes=minutes))
    return None


def derive(ds: Dataset, sources: Sequence[Reference], derivation: Derivation, now: datetime) -> None:
    """Say from what, by what and how the slice was made; ``sources`` are the slices that took part."""
    earlier = str(ds.get("DerivationDescription") or "")
    ds.DerivationDescription = (derivation.text + (f"{EARLIER}{earlier}" if earlier else ""))[:1024]
    if derivation.description in _CODES:
        ds.DerivationCodeSequence = [*ds.get("DerivationCodeSequence", []), _code(*_CODES[derivation.description])]
    ds.SourceImageSequence = []
    for other in sources:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = other.sop_class, other.instance
        if other.frame is not None:
            item.ReferencedFrameNumber = other.frame + 1
        item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
        item.SpatialLocationsPreserved = "YES"
        ds.SourceImageSequence.append(item)
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = "medrestore-monai", derivation.description
    versions = [derivation.software_version, derivation.weights_sha256]
    equipment.SoftwareVersions = [version for version in versions if version]
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = derivation.text
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), equipment]
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax.rpartition("1.2.")[2] in _LOSSY_SYNTAXES and "LossyImageCompression" not in ds:
        ds.LossyImageCompression = "01"


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _private_of_suv(ds: Dataset) -> list[tuple[int, str, int, DataElement]]:
    found = []
    for group, creator, offset in PRIVATE:
        with suppress(KeyError):
            found.append((group, creator, offset, ds.private_block(group, creator)[offset]))
    return found


def drop_outdated(ds: Dataset, enhanced: bool = False) -> None:
    """Take out what was true of the source's pixels only, and private tags but for those that the SUV depends on.

    Of a frame of an ``enhanced`` file, also what a classic header has not.
    """
    for keyword in FOR_SPLITTING if enhanced else ():
        if keyword in ds:
            delattr(ds, keyword)
    kept = _private_of_suv(ds) if ds.Modality == "PT" else []
    ds.remove_private_tags()
    for group, creator, offset, element in kept:
        ds.private_block(group, creator, create=True).add_new(offset, element.VR, element.value)
    for keyword in _OUTDATED:
        if keyword in ds:
            delattr(ds, keyword)
    if ds.Modality == "PT" and "RealWorldValueMappingSequence" in ds:
        del ds.RealWorldValueMappingSequence  # it maps stored values, whose slope is a new one
    for tag in list(ds.keys()):
        stray = tag.group < 8  # belongs to the file, not to the image
        statistic = 0x6000 <= tag.group < 0x6100 and tag.element in (0x1302, 0x1303)  # of voxels under an overlay
        if stray or statistic:
            del ds[tag]
