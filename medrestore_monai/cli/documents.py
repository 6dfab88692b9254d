"""What ``--json`` prints of bundles: what one takes, what can be set, what it was trained on.

The documents of runs are made where the runs are: :mod:`medrestore_monai.studies`, :mod:`medrestore_monai.report`.
Each has a schema in ``schemas``; what changes the meaning of a field gets a new number.
"""

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from medrestore_monai.cli.output import EVALUATE_FLAGS, RESTORE_FLAGS

if TYPE_CHECKING:
    from medrestore_monai.bundles import Bundle


def bundle_summary(bundle: "Bundle") -> dict[str, Any]:
    """Return what a list of bundles has of one; without tasks and modalities where it declares none."""
    tasks: dict[str, str] = {}
    with suppress(ValueError):  # a bundle of an earlier version
        tasks = {modality: bundle.task(modality) for modality in bundle.modalities}
    there = bundle.weights.is_file()
    return {
        "name": bundle.name,
        "version": str(bundle.metadata["version"]),
        "title": str(bundle.metadata.get("name", bundle.name)),
        "task": str(bundle.metadata["task"]),
        "modalities": list(tasks),
        "tasks": tasks,
        "folder": str(bundle.root),
        "weights": {
            "file": str(bundle.weights),
            "present": there,
            "bytes": bundle.weights.stat().st_size if there else None,
            "sha256": bundle.metadata.get("weights_sha256"),
        },
    }


def bundle_document(bundle: "Bundle") -> dict[str, Any]:
    """Return what is shown of one bundle whose weights are those of its card."""
    metadata, channels = bundle.metadata, bundle.metadata["network_data_format"]
    texts = ("description", "intended_use", "data_source", "data_type", "image_classes", "pred_classes")
    return {
        **bundle_summary(bundle),
        **{name: str(metadata.get(name, "")) for name in texts},
        "references": list(metadata.get("references", [])),
        "inputs": channels.get("inputs", {}),
        "outputs": channels.get("outputs", {}),
        "settings": setting_entries(bundle),
        "trained_on": metadata.get("trained_on"),
    }


def setting_entries(bundle: "Bundle") -> list[dict[str, Any]]:
    """Return what can be set of a bundle, and how: by an option of its own, or by ``--set``."""
    files = [bundle.config(name) for name in ("inference", "evaluate")]
    read = [json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files]
    configurations = [content if isinstance(content, dict) else {} for content in read]
    entries = []
    for name, setting in bundle.settings.items():
        evaluated = setting.when == "evaluation"
        default = configurations[evaluated].get(setting.key)
        computed = isinstance(default, str) and default.startswith("$")
        entries.append(
            {
                "name": name,
                "command": "evaluate" if evaluated else "restore",
                "option": (EVALUATE_FLAGS if evaluated else RESTORE_FLAGS).get(name, f"--set {name}"),
                "kind": setting.kind,
                "takes": setting.expected,
                "choices": list(setting.choices),
                "range": setting.range,
                "default": None if computed else default,
                "modality": setting.modality or None,
                "help": setting.help,
            }
        )
    return entries
