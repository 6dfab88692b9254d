"""Which texts of a source its result gets: those that are technical and can be checked to be nothing else.

A result goes further than its source, and free texts may name who was imaged. So none is carried into a NIfTI, PNG,
TIFF or JPEG result: not NIfTI's ``descrip``, ``aux_file``, ``intent_name``, ``db_name`` and header extensions, not the
texts and EXIF entries of PNG, TIFF and JPEG. Kept are sizes, units and orders of axes that a TIFF description holds in
the words of ImageJ, OME or tifffile, the color profile, and the name of the array in a NumPy archive. The pages of a
result lie in the order of its slices, so the map of pages of an OME description is replaced by one that says so.
A derived DICOM series keeps the header of its source: it belongs to the same study of the same patient.
"""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np

__all__ = ["linear_calibration", "technical_description"]

_NUMBER = r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?"
_COUNT = r"[0-9]{1,9}"
_UNIT = r"(\\u00B5|µ|u|n|c|m)?m|micron|inch|pixel|s|ms|sec"
_IMAGEJ = {
    "ImageJ": r"[0-9.a-z]{1,12}",
    **dict.fromkeys(("images", "channels", "slices", "frames", "spacing", "min", "max", "finterval", "fps"), _NUMBER),
    **dict.fromkeys(("c0", "c1", "c2", "c3", "c4"), _NUMBER),  # of the calibration
    "cf": "[0-9]{1,2}",
    "vunit": r"Gray Value|HU|SUV|Bq/ml|OD|a\.u\.",
    **dict.fromkeys(("hyperstack", "loop", "zeroclip"), "true|false"),
    "mode": "grayscale|color|composite",
    **dict.fromkeys(("unit", "yunit", "zunit"), _UNIT),
}
_POLYNOMIALS, _NO_CALIBRATION, _UNCALIBRATED_OD = ("0", "1", "2", "3"), "20", "21"  # ImageJ's "cf"
_OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
_OME_ELEMENTS = {_OME + name for name in ("OME", "Image", "Pixels", "Channel", "LightPath")}
_OME_ATTRIBUTES = {
    "ID": r"[A-Z][A-Za-z]{1,20}(:[0-9]{1,9}){1,3}",
    "DimensionOrder": r"XY[CZT]{3}",
    "Type": r"u?int(8|16|32)|float|double",
    "Interleaved": "true|false",
    "BigEndian": "true|false",
    **{f"PhysicalSize{axis}": _NUMBER for axis in "XYZ"},
    **{f"PhysicalSize{axis}Unit": _UNIT for axis in "XYZ"},
    **dict.fromkeys(("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT", "SamplesPerPixel"), _COUNT),
    "SignificantBits": _COUNT,
    "Creator": r"tifffile\.py [0-9.]{1,20}",
    "{http://www.w3.org/2001/XMLSchema-instance}schemaLocation": r"[-A-Za-z0-9:/._ ]{1,200}",
    "Name": r"Image[0-9]{1,9}",
}


def technical_description(text: str) -> str:
    """The technical part of the description of a TIFF; empty if it has none.

    Args:
        text: of tag 270.
    """
    if text.startswith("ImageJ="):
        # ImageJ heeds a calibration only where it has a unit
        text = re.sub(rf"^vunit=(?!({_IMAGEJ['vunit']})$).*$", "vunit=Gray Value", text, flags=re.MULTILINE)
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if _is_technical(*line.strip().partition("=")[::2]))
    if text.lstrip().startswith("{"):
        return _shape(text)
    if text.rstrip().endswith("</OME>"):
        return _ome(text)
    return ""


def linear_calibration(text: str) -> tuple[float, float] | None:
    """Slope and intercept of the calibration by ImageJ in the description of a TIFF; ``None`` if it is not linear.

    Args:
        text: of tag 270.

    Returns:
        1 and 0 where there is none.

    Raises:
        ValueError: a coefficient is no number.
    """
    if not text.startswith("ImageJ="):
        return 1.0, 0.0
    noted = dict(line.strip().partition("=")[::2] for line in text.splitlines())
    function, values = noted.get("cf", _NO_CALIBRATION), [float(noted.get(f"c{place}", "nan")) for place in range(5)]
    if function == _NO_CALIBRATION or (function != _UNCALIBRATED_OD and np.isnan(values[:2]).any()):
        return 1.0, 0.0
    bent = function not in _POLYNOMIALS or np.nan_to_num(values[2:]).any()
    is_clipped = noted.get("zeroclip") == "true" and values[:2] != [0.0, 1.0]
    return None if bent or is_clipped else (values[1], values[0])


def _is_technical(key: str, value: str) -> bool:
    return re.fullmatch(_IMAGEJ.get(key, "(?!)"), value) is not None


def _shape(text: str) -> str:
    """What tifffile writes: the shape that the pages have together."""
    try:
        shape = json.loads(text)["shape"]
        return json.dumps({"shape": [int(side) for side in shape]})
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _ome(text: str) -> str:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return ""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return ""
    pixels = [one for one in root.iter(_OME + "Pixels") if one.find(_OME + "TiffData") is not None]
    if root.tag not in _OME_ELEMENTS or not pixels:
        return ""
    _strip(root)
    for one in pixels:
        ElementTree.SubElement(one, _OME + "TiffData")  # all pages, in order
    ElementTree.register_namespace("", _OME[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _strip(element: ElementTree.Element) -> None:
    """Take away what is not technical."""
    for child in [child for child in element if child.tag not in _OME_ELEMENTS]:
        element.remove(child)
    for name, value in list(element.attrib.items()):
        if not re.fullmatch(_OME_ATTRIBUTES.get(name, "(?!)"), value):
            del element.attrib[name]
    element.text = element.tail = None
    for child in element:
        _strip(child)
