"""Package every bundle and check it as MONAI's model zoo does; prints one line a bundle, exit code 1 if one fails.

    python scripts/check_zoo.py
    python scripts/check_zoo.py ct_denoise_restore_rwkv --schema meta_schema_20240725.json

Programs of the zoo check files, version, metadata, the shapes of input and output, and TorchScript, from which a bundle
is excluded if its card says so; reviewers check the keys of the configurations and the sections of the card. The schema
of the metadata is downloaded unless a file is given.
"""

import argparse
import json
import logging
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig
from rich.console import Console
from rich.table import Table

from medrestore_monai.bundles import find_bundle, list_bundles
from medrestore_monai.bundles.package import LARGEST, package_bundle
from medrestore_monai.bundles.weights import large_files

FILES = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md")
SECTIONS = ("Data", "Performance", "Limitations")
# what the zoo's contributing guide asks for beyond MONAI's own tables of properties
_TRAIN = ("trainer", "trainer::max_epochs", "dataset", "dataset::data", "handlers", "inferer", "key_metric")
_VALIDATE = ("evaluator", "handlers", "dataset", "dataset::data", "inferer", "postprocessing", "key_metric")
TRAIN_KEYS = ("output_dir", *(f"train::{key}" for key in _TRAIN), *(f"validate::{key}" for key in _VALIDATE))
INFERENCE_KEYS = ("output_dir", "preprocessing", "postprocessing", "inferer", "network_def", "dataset", "evaluator")


def missing_files(root: Path) -> str:
    """Files that must be there or be listed as large ones, and those too large to be there."""
    listed = {entry.path for entry in large_files(find_bundle(root))}
    missing = [name for name in FILES if not (root / name).is_file() and name not in listed]
    large = [path for path in root.rglob("*") if path.is_file() and path.stat().st_size > LARGEST]
    problems = [f"{name} is missing" for name in missing]
    return ", ".join(problems + [f"{path.name} is larger than {LARGEST >> 20} MiB" for path in large])


def wrong_version(root: Path) -> str:
    """A version that the changelog does not name."""
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    named = metadata["version"] in metadata.get("changelog", {})
    return "" if named else f"the changelog does not name version {metadata['version']}"


def wrong_metadata(root: Path, schema: Path | None) -> str:
    """What the schema of the zoo refuses."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "schema.json")
        if schema is not None:
            shutil.copyfile(schema, copy)  # where it is, MONAI downloads nothing
        verify_metadata(meta_file=str(root / "configs" / "metadata.json"), filepath=str(copy))
    return ""


def wrong_shapes(root: Path) -> str:
    """A network that does not give what the metadata say, for the smallest input."""
    configs = root / "configs"
    meta, inference = str(configs / "metadata.json"), str(configs / "inference.json")
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=inference, p=1, n=1, any=1)
    return ""


def wrong_torchscript(root: Path) -> str:
    """A network that ``torch.jit.script`` refuses though the card does not exclude it."""
    card = (root / "docs" / "README.md").read_text(encoding="utf-8")
    excluded = re.search(rf"`{re.escape(root.name)}` belongs to\s+`exclude_verify_torchscript_list`", card)
    if not excluded:
        torch.jit.script(read(root, "inference").get_parsed_content("network_def"))
    return ""


def missing_keys(root: Path) -> str:
    """Keys that a configuration must have, and those that stand elsewhere than MONAI looks for them."""
    problems = []
    for name, table, more in (("train", TrainProperties, TRAIN_KEYS), ("inference", InferProperties, INFERENCE_KEYS)):
        parser = read(root, name)
        needed = [one[BundlePropertyConfig.ID] for one in table.values() if one[BundleProperty.REQUIRED]]
        problems += [f"{name}.json lacks {key}" for key in dict.fromkeys([*needed, *more]) if not has(parser, key)]
        for one in table.values():
            place, key = one.get(BundlePropertyConfig.REF_ID), one[BundlePropertyConfig.ID]
            used = parser.get(place) if place and has(parser, place) else None
            if used is not None and not str(used).startswith("$") and str(used).replace("#", "::") != f"@{key}":
                problems.append(f"{place} of {name}.json is not @{key}")
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    needed = [one[BundlePropertyConfig.ID] for one in MetaProperties.values() if one[BundleProperty.REQUIRED]]
    keys = [key.split("::")[-1] for key in needed]
    return ", ".join(problems + [f"metadata.json lacks {key}" for key in keys if key not in metadata])


def missing_sections(root: Path) -> str:
    """Sections that the template of a card has, and the license of the data."""
    card = (root / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [name for name in SECTIONS if not re.search(rf"^## (\*\*)?{name}\b", card, re.MULTILINE)]
    problems = [f"docs/README.md has no section {name}" for name in missing]
    return ", ".join(problems + ["docs/data_license.txt is missing"] * (not (root / "docs/data_license.txt").is_file()))


def read(root: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / f"{name}.json"))
    return parser


def has(parser: ConfigParser, key: str) -> bool:
    """Return whether a configuration has a key, at its place or by a reference on the way to it."""
    place: Any = parser.get()
    for part in key.split("::"):
        if isinstance(place, str) and place.startswith("@"):
            place = parser.get(place[1:])
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True


def check(root: Path, schema: Path | None) -> dict[str, str]:
    """Return what is wrong with the zoo form of a bundle, by check; an empty text where nothing is."""
    checks: dict[str, Callable[[], str]] = {
        "files": lambda: missing_files(root),
        "version": lambda: wrong_version(root),
        "metadata": lambda: wrong_metadata(root, schema),
        "shapes": lambda: wrong_shapes(root),
        "TorchScript": lambda: wrong_torchscript(root),
        "keys": lambda: missing_keys(root),
        "card": lambda: missing_sections(root),
    }
    found = {}
    for name, one in checks.items():
        try:
            found[name] = one()
        except Exception as error:  # whatever a program of the zoo would stop at
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", help="names or folders (default: all)")
    parser.add_argument("--schema", type=Path, help="file of the metadata's schema")
    options = parser.parse_args()
    bundles = [find_bundle(name) for name in options.bundles] or list_bundles()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table, problems = Table("bundle", "result"), 0
    with tempfile.TemporaryDirectory() as folder:
        for bundle in bundles:
            root, _ = package_bundle(bundle, folder)
            wrong = [f"{name}: {text}" for name, text in check(root, options.schema).items() if text]
            problems += bool(wrong)
            table.add_row(bundle.name, "; ".join(wrong) or "pass")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print(f"{len(bundles) - problems} of {len(bundles)} pass")
    sys.exit(problems > 0)


if __name__ == "__main__":
    main()
