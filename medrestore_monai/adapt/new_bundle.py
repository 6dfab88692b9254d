"""Write an adapted bundle: a copy with other weights, and a card that says from what, on how much, and the verdict.

Nothing of the images goes into it: no path, no name, no header.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medrestore_monai.adapt.report import number
from medrestore_monai.bundles import WEIGHTS, Bundle, sha256
from medrestore_monai.files import atomic_folder
from medrestore_monai.intensity import INTENSITY_RANGES

KEPT = ("LICENSE", "configs", "docs/data_license.txt", "docs/tuned.json")
_VERSION = "0.1.0"


def write_bundle(
    source: Bundle, weights: Path, output: Path, about: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write the bundle, whole or not at all.

    Args:
        source: what it was adapted from.
        weights: a plain state dict.
        output: the new folder.
        about: the summary of the report; no value of it may name an image.
        overwrite: replace a bundle that is there.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_folder(output, overwrite) as folder:
        for name in KEPT:
            _copy(source.root / name, folder / name)
        (folder / WEIGHTS).parent.mkdir()
        shutil.copyfile(weights, folder / WEIGHTS)
        metadata = _metadata(source, sha256(folder / WEIGHTS), about)
        text = json.dumps(metadata, indent=4, allow_nan=False) + "\n"
        (folder / "configs" / "metadata.json").write_text(text, encoding="utf-8")
        (folder / "docs").mkdir(exist_ok=True)
        (folder / "docs" / "README.md").write_text(_card(source, metadata, about, output.name), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    elif source.is_file():
        shutil.copyfile(source, target)


def _metadata(source: Bundle, digest: str, about: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(source.metadata)
    name, version = str(metadata.get("name", source.name)), metadata["version"]
    metadata |= {
        "version": _VERSION,
        "changelog": {_VERSION: f"adapted from {source.name} {version}"},
        "name": f"{name.removesuffix(', adapted')}, adapted",
        "weights_sha256": digest,
        "adapted": about,
    }
    return metadata


def _card(source: Bundle, metadata: Mapping[str, Any], about: Mapping[str, Any], folder: str) -> str:
    verdict, data, training = about["verdict"], about["data"], about["training"]
    settings = ", ".join(f"{name} {value}" for name, value in training["settings"].items()) or "those of adapt.json"
    limits = "Other scanners, tissues and degradations than those of the site and of the first training were not seen."
    return f"""# {metadata["name"]}

{metadata.get("description", "")}

Adapted from `{source.name}` {source.metadata["version"]} (weights {about["from"]["weights_sha256"][:12]})
to images of one site by `medrestore adapt`. **For research only. Not a medical device, not for diagnosis.**

## Use

    from medrestore_monai import Restorer
    Restorer("./{folder}").restore_file("scans/abdomen", "restored")

Every command of `medrestore` takes it by its folder, and MONAI Label offers it.

## Training

Kind of targets: {about["targets"]}. {data["people"]} people: {data["train"]["slices"]} slices trained,
{data["tune"]["slices"]} tuned, and {data["verdict"]["slices"]} were held back for the verdict on {data["judged_by"]}.
{training["steps"]} steps of {training["planned"]} planned, seed {training["seed"]}, {training["trained"]} parameters.
The weights lie {training["step_size"]:g} of the way from the first ones to those of step {training["best_step"]}.
Settings: {settings}.

The first weights were trained on the data of `docs/data_license.txt`. No image of the site is in this bundle.

## Results

{verdict["line"]}

{_table(about)}

## Limits

{limits} One verdict on one site's images is no validation.
"""


def _table(about: Mapping[str, Any]) -> str:
    units = about["verdict"]["units"]
    if "estimated" in about:
        unit = INTENSITY_RANGES[about["modality"]].unit
        rows = [
            f"| {name} | {values['estimated_error']:.4g} | {values['noise_kept']:.3f} |"
            for name, values in about["estimated"]["means"].items()
        ]
        head = f"| {units} units, estimated without truth | error, {unit}² | part of the noise kept |"
    else:
        rows = [
            f"| {name} | {number(values['psnr_db'], '.2f')} | {number(values['ssim'], '.4f')} |"
            for name, values in about["scores"].items()
        ]
        head = f"| {units} units | PSNR, dB | SSIM |"
    return "\n".join([head, "|---|---|---|", *rows])
