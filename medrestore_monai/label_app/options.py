"""What a client may set for one request, and nothing else.

MONAI runs a text in a configuration that starts with ``$`` as code and follows references, and whoever reaches the
server can send any text. So numbers come in as numbers, choices as one of the choices, and unknown names not at all.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DTYPES = ("float32", "int16")
# for CT without a value below 0: refused, already HU, stored values
HU_OFFSETS = ("auto", "0", "-1024")
EXTENSIONS = (".nii.gz", ".nii")
MODALITIES = ("CT", "MR", "PT")
_PRECISIONS = ("float32", "bfloat16")
_AUTO = "auto"
# values of an inference.json that are the app's own business, or that change nothing in the result
_NOT_OFFERED = {"amp", "overwrite", "progress", "slice_batch_size", "slab", "halo"}
_NOT_OFFERED |= {"dataset_dir", "output_dir", "bundle_root", "weights", "backend", "precision", "modality", "tile"}
_NOT_OFFERED.add("allow_gaps")  # the answer is one NIfTI file, whose grid knows no gaps
_WORD = r"[a-z][a-z_]{0,31}"  # of a bundle's own choices; holds nothing that MONAI would run
#: What MONAI Label and its clients put into a request beside the options of a task.
_OF_MONAI_LABEL = {
    "model",
    "image",
    "images",
    "image_path",
    "label",
    "labels",
    "label_tag",
    "save_label",
    "description",
    "logging",
    "client_id",
    "session",
    "session_id",
    "restore_label_idx",
    "timeout",
    "multi_gpu",
    "gpus",
    "max_workers",
    "max_batch_size",
    "result_compress",
    "result_write_to_file",
    "_id",
    "_image_id",
}


@dataclass(frozen=True)
class Wanted:
    """What one request asks for, checked.

    Args:
        device: of :func:`medrestore_monai.restorer.restore`.
        dtype: of the volume that goes back, one of :data:`DTYPES`.
        extension: of its file, one of :data:`EXTENSIONS`.
        write_back: store the restored series in the DICOMweb store.
        overrides: values of the bundle's configuration.
    """

    device: str
    dtype: str = "float32"
    extension: str = ".nii.gz"
    write_back: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)


def offered_options(config: Path, devices: Sequence[str], write_back: bool) -> dict[str, Any]:
    """Return the options of a bundle with their defaults; a list holds choices, the default first.

    Args:
        config: the bundle's ``inference.json``. Offered are its numbers, switches and plain words, and the tile,
            precision, modality, offset to HU and SUV factor (0: from the header) where it has them.
        devices: that can be used, the best first.
        write_back: whether there is a DICOMweb store to write to.

    Raises:
        ValueError: the configuration is no JSON object.
    """
    values = json.loads(config.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{config} is no JSON object.")
    options: dict[str, Any] = {"device": list(devices)}
    for name, value in values.items():
        plain = isinstance(value, bool | int | float) or (isinstance(value, str) and re.fullmatch(_WORD, value))
        if plain and name not in _NOT_OFFERED:
            options[name] = value
    if "precision" in values:
        options["precision"] = [values["precision"], *(word for word in _PRECISIONS if word != values["precision"])]
    if "modality" in values:
        options["modality"] = [_AUTO, *MODALITIES]
    if "suv" in values:
        options["suv_factor"] = 0.0
    if "hu_offset" in values:
        options["hu_offset"] = list(HU_OFFSETS)
    if "tile" in values:
        options["tile"] = _AUTO
    options["result_dtype"] = list(DTYPES)
    options["result_extension"] = list(EXTENSIONS)
    if write_back:
        options["write_back"] = False
    return options


def read_request(request: Mapping[str, Any], offered: Mapping[str, Any]) -> Wanted:
    """Check a request against what is offered.

    Args:
        request: of a client; values may be texts, as from a form.
        offered: see :func:`offered_options`.

    Raises:
        ValueError: an unknown option, or a value that an option cannot have.
    """
    unknown = sorted(set(request) - set(offered) - _OF_MONAI_LABEL)
    if "write_back" in unknown:
        raise ValueError("write_back needs a DICOMweb store, and this server has none.")
    if unknown:
        raise ValueError(f"there is no option {', '.join(unknown)}; this task has {', '.join(offered)}.")
    values = {name: _checked(name, request.get(name), default) for name, default in offered.items()}
    own = {name: values.pop(name) for name in ("device", "result_dtype", "result_extension")}
    write_back = values.pop("write_back", False)
    # what was not given stays as the bundle has it
    overrides = {name: value for name, value in values.items() if request.get(name) is not None}
    overrides = {name: value for name, value in overrides.items() if value != _AUTO}
    if "hu_offset" in overrides:
        overrides["hu_offset"] = float(overrides["hu_offset"])
    factor = overrides.pop("suv_factor", 0.0)
    if factor:
        overrides["suv"] = {"factor": factor}
    return Wanted(own["device"], own["result_dtype"], own["result_extension"], write_back, overrides)


def _checked(name: str, value: Any, default: Any) -> Any:
    if value is None:
        return default[0] if isinstance(default, list) else default
    if isinstance(default, list):
        return _choice(name, value, default)
    if name == "tile":
        return _tile(value)
    if isinstance(default, bool):
        return _switch(name, value)
    if isinstance(default, str):
        return _word(name, value)
    return _number(name, value, whole=isinstance(default, int))


def _choice(name: str, value: Any, choices: Sequence[str]) -> str:
    value = value[0] if isinstance(value, list) and value else value  # a client may send the choices back as they came
    if str(value) not in choices:
        hint = " Restored images are no label maps." if name == "result_dtype" else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{hint}")
    return str(value)


def _tile(value: Any) -> int | str:
    if value == _AUTO or re.fullmatch(r"\s*", str(value)):
        return _AUTO
    return int(_number("tile", value, whole=True))


def _switch(name: str, value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).strip().lower() not in known:
        raise ValueError(f"{name} must be true or false, got {value!r}.")
    return known[str(value).strip().lower()]


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_WORD, value):
        raise ValueError(f"{name} must be one word of small letters, got {value!r}.")
    return value  # the bundle knows which words it takes


def _number(name: str, value: Any, whole: bool) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (whole and number != int(number)):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}.")
    return int(number) if whole else number
