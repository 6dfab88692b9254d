"""What a client may set for one request, and nothing else.

MONAI runs a text in a configuration that starts with ``$`` as code and follows references, and anyone who reaches
the server can send any text. So numbers come in as numbers, choices as one of the choices, and unknown
names not at all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medrestore_monai.bundles import Bundle, UntrustedBundleError, list_bundles, open_bundle
from medrestore_monai.bundles.settings import Setting, check_values, settings_in

DTYPES = ("float32", "int16")
EXTENSIONS = (".nii.gz", ".nii")
MODALITIES = ("CT", "MR", "PT")
_AUTO = "auto"  # as the bundle has it, or the image's header
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
        overrides: settings of the bundle.
    """

    device: str
    dtype: str = "float32"
    extension: str = ".nii.gz"
    write_back: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)


def offered_bundles(trust_bundle: bool = False) -> tuple[list[Bundle], dict[str, str]]:
    """Return the bundles that may run, and why the others may not, by their names.

    Args:
        trust_bundle: offer bundles from elsewhere whatever they hold, see
            :func:`~medrestore_monai.bundles.open_bundle`.
    """
    offered, refused = [], {}
    for bundle in list_bundles():
        try:
            offered.append(open_bundle(bundle.root, trust_bundle))
        except UntrustedBundleError as error:
            refused[bundle.name] = str(error)
    return offered, refused


def offered_settings(bundle: Bundle, devices: Sequence[str], write_back: bool) -> dict[str, Setting]:
    """Return what a client may set: what the bundle declares for clients, and what becomes of the result.

    Args:
        bundle: the bundle.
        devices: that can be used, the best first.
        write_back: whether there is a DICOMweb store to write to.

    Raises:
        ValueError: the bundle declares no settings.
    """
    settings = settings_in(bundle.settings, _configuration(bundle))
    offered = {name: one for name, one in settings.items() if one.served}
    if len(bundle.modalities) == 1:
        del offered["modality"]
    offered["device"] = replace(offered["device"], kind="choice", choices=tuple(devices))
    own = [
        Setting("result_dtype", "choice", "of the volume that goes back; it is no label map", choices=DTYPES),
        Setting("result_extension", "choice", "of its file", choices=EXTENSIONS),
    ]
    if write_back:
        own.append(Setting("write_back", "bool", "store the restored series in the DICOMweb store"))
    return offered | {one.name: one for one in own}


def shown_options(bundle: Bundle, offered: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the options of a task with their defaults, as MONAI Label shows them: choices with the default first.

    Args:
        bundle: the bundle.
        offered: of :func:`offered_settings`.
    """
    configuration, shown = _configuration(bundle), dict[str, Any]()
    for name, setting in offered.items():
        default = None if name == "device" else configuration.get(setting.key)
        if setting.kind == "choice":
            first = [_AUTO] if name == "modality" else [default] if default is not None else []
            shown[name] = [*first, *(one for one in setting.choices if one != default)]
        else:
            shown[name] = False if name == "write_back" else _AUTO if default is None else default
    return shown


def _configuration(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads(bundle.config("inference").read_text(encoding="utf-8")))


def read_request(request: Mapping[str, Any], offered: Mapping[str, Setting]) -> Wanted:
    """Check a request against what is offered.

    Args:
        request: of a client; values may be texts, as from a form.
        offered: of :func:`offered_settings`.

    Raises:
        ValueError: a setting is unknown, or cannot have the value.
    """
    if "write_back" in request and "write_back" not in offered:
        raise ValueError("write_back needs a DICOMweb store, and this server has none.")
    # a client may send the choices back as they came
    given = {name: value[0] if isinstance(value, list) and value else value for name, value in request.items()}
    given = {name: value for name, value in given.items() if name not in _OF_MONAI_LABEL and value not in ("", _AUTO)}
    values = check_values(offered, given, of_network=False)
    return Wanted(
        values.pop("device", offered["device"].choices[0]),
        values.pop("result_dtype", DTYPES[0]),
        values.pop("result_extension", EXTENSIONS[0]),
        values.pop("write_back", False),
        values,
    )
