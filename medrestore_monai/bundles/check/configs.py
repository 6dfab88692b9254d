"""Configurations of a bundle: every text of every JSON and YAML file, wherever it stands.

MONAI can take any of them for its configuration: by a ``%`` macro, and ``metadata.json`` as ``_meta_``.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from medrestore_monai.bundles.check import sinks, sizes
from medrestore_monai.bundles.check.expressions import parse_import, problems
from medrestore_monai.bundles.check.names import (
    LOCATED,
    reason_against_located,
    reason_against_target,
    target_takes_names,
)
from medrestore_monai.bundles.check.paths import ABSOLUTE, UP, path_problem

DEFAULT_IMPORTS = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}  # MONAI's own
LARGEST, LARGEST_YAML = 5_000_000, 500_000  # bytes; YAML is slow to read
_MOST_ITEMS = 200_000
_LONGEST_NAME = 1000  # characters
_LONGEST_IDS = 10**8  # characters of all ids, which repeat the names above them
_DEEPEST = 100
_MODES = ("default", "callable")
_SAFE: dict[str, tuple[Any, ...]] = {"allow_pickle": (False, "false"), "weights_only": (True, "true")}
# as MONAI splits a macro into file and id
_MACRO_FILE = re.compile(r"(.*\.(?:json|yaml|yml))(?=::|$)", re.IGNORECASE)
_CARD = "metadata.json"
_LARGE_FILES = ("large_files.json", "large_files.yml", "large_files.yaml")

Item = tuple[str, Any]  # the key with ``::`` between its parts, and the value
Report = Callable[[str, str], None]  # takes a key and a reason


class Repeated(dict[str, Any]):
    """A mapping of which a key stood twice in the file."""

    names: tuple[str, ...] = ()


def read(name: str, content: bytes) -> Any:
    """Parse a configuration; nothing is built but dictionaries, lists, texts and numbers.

    Raises:
        ValueError: the content is damaged, too large, nested too deeply, or has a YAML tag.
    """
    is_json = name.lower().endswith(".json")
    if len(content) > (LARGEST if is_json else LARGEST_YAML):
        raise ValueError(f"{len(content)} bytes, more than a configuration has")
    try:
        text = content.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_pairs) if is_json else _read_yaml(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"cannot be read: {' '.join(str(error).split())[:200]}") from error
    level = [found]
    for _ in range(_DEEPEST):
        level = [child for value in level if isinstance(value, dict | list) for child in _children(value)]
    if level:
        raise ValueError("nested too deeply")
    return found


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    if not isinstance(value, dict):
        return value
    if max(map(len, value), default=0) > _LONGEST_NAME:
        raise ValueError(f"a key of more than {_LONGEST_NAME} characters")
    return value.values()


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = Repeated(pairs)
    found.names = tuple(_repeated(key for key, _ in pairs))
    return found


def _read_yaml(text: str) -> Any:
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # before the parser, whose work grows with the depth, goes on
                raise ValueError("nested too deeply")
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise ValueError(f"the tag {tag}")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"the alias *{event.anchor}")
        return _plain(yaml.compose(text, Loader=yaml.SafeLoader), yaml)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _plain(node: Any, yaml: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _pairs([(str(_plain(key, yaml)), _plain(value, yaml)) for key, value in node.value])
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, yaml) for value in node.value]
    if node is None:
        return None
    if node.tag == "tag:yaml.org,2002:merge":
        raise ValueError("the key <<, which puts the entries of another mapping here")
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    # numbers and switches as MONAI's loader makes them: what is judged must be what runs
    return yaml.SafeLoader("").construct_object(node)


def items(value: Any, key: str = "") -> Iterator[Item]:
    """Yield a configuration and all that it holds, keys with ``::`` between their parts."""
    yield key, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in pairs:
        inner = str(name).lstrip("+").replace("#", "::")
        yield from items(child, f"{key}::{inner}" if key else inner)


def all_items(content: Any) -> list[Item]:
    """Return what :func:`items` yields, if it is not too much.

    Raises:
        ValueError: it is.
    """
    found, length = [], 0
    for item in items(content):
        found.append(item)
        length += len(item[0])
        if len(found) > _MOST_ITEMS or length > _LONGEST_IDS:
            raise ValueError(f"more than {_MOST_ITEMS} entries, or too long names")
    return found


def collect_imports(found: list[Item], imported: dict[str, str], report: Report) -> None:
    """Add the names that a configuration imports to ``imported``; report those that are refused."""
    for key, value in found:
        parsed = parse_import(value) if isinstance(value, str) and value.startswith("$") else None
        if isinstance(parsed, str):
            report(key, parsed)
        elif parsed is not None:
            name, target = parsed
            if imported.setdefault(name, target) != target:
                report(key, f"imports {target} as {name}, which stands for {imported[name]} elsewhere")


def collect_definitions(found: list[Item], definitions: dict[str, list[Any]]) -> None:
    """Add every value of a configuration to ``definitions``, by its id."""
    for key, value in found:
        definitions.setdefault(key, []).append(value)


def repeated_keys(found: list[Item]) -> list[str]:
    """Return keys that stand twice in one configuration, as ``a::b`` and as ``b`` within ``a``."""
    return _repeated(key for key, _ in found)


def check_items(
    name: str,
    found: list[Item],
    imported: dict[str, str],
    files: set[str],
    report: Report,
    definitions: sinks.Definitions,
) -> None:
    """Check every entry of one configuration.

    Args:
        name: the file's path in the bundle.
        found: its entries.
        imported: the names that all configurations of the bundle import.
        files: the paths of all files of the bundle.
        report: called for each finding.
        definitions: the values of all configurations of the bundle by their ids.
    """
    for key in repeated_keys(found):
        report(key, "the key stands there twice")
    file = PurePosixPath(name).name.lower()
    for key, value in found:
        for repeated in getattr(value, "names", ()):
            report(f"{key}::{repeated}" if key else repeated, "the key stands there twice")
        _check_key(key, value, report)
        if isinstance(value, dict):
            _check_call(key, value, report, definitions)
        if file != _CARD:
            for reason in sizes.number_problems(key, value):
                report(key, reason)
        if isinstance(value, str):
            _check_code(key, value, imported, files, report, definitions)
            if file != _CARD and not value.startswith("$"):  # the card's texts are for readers
                reason = path_problem(value, ("https://", "http://") if file in _LARGE_FILES else ("env://",))
                if reason:
                    report(key, reason)


def _check_call(key: str, value: dict[str, Any], report: Report, definitions: sinks.Definitions) -> None:
    target = value.get("_target_")
    if not isinstance(target, str) or reason_against_target(target):
        return  # reported already
    if value.get("_mode_", "default") != "default":
        if target_takes_names(target):
            report(key, f"{target} looks a name up, and must not be left to be called later")
        elif sinks.has_sinks(target):
            report(key, f"{target} takes paths, and must not be left to be called later")
    for name, reason in sinks.call_problems(target, value, definitions):
        report(f"{key}::{name}" if key else name, reason)
    for reason in sizes.call_problems(value):
        report(key, reason)


def _check_key(key: str, value: Any, report: Report) -> None:
    last = key.rpartition("::")[2]
    if last == "_target_":
        if not isinstance(value, str):
            report(key, f"is {type(value).__name__}, not the name of a class or function")
        elif value.startswith(("$", "@", "%")):
            report(key, f"{value[:80]!r} is known only when it runs; write the name itself")
        else:
            reason = reason_against_target(value)
            if reason:
                report(key, reason)
    elif last == "_mode_" and value not in _MODES:
        report(key, f"{value!r} is none of {', '.join(_MODES)}")
    elif last in LOCATED:
        for name in value if isinstance(value, list) else [value]:
            reason = reason_against_located(name)
            if reason:
                report(key, reason)
    elif last == "_debug_":
        report(key, "starts a debugger")
    elif last in _SAFE and value not in _SAFE[last]:
        report(key, "loads pickles")


def _check_code(
    key: str,
    value: str,
    imported: dict[str, str],
    files: set[str],
    report: Report,
    definitions: sinks.Definitions,
) -> None:
    if value.startswith("%"):
        _check_macro(key, value, files, report)
    elif value.startswith("$"):
        if parse_import(value) is None:
            judge = partial(sinks.expression_problems, definitions)
            for reason in (*problems(value, imported, judge), *sizes.expression_problems(value)):
                report(key, f"{reason}: {' '.join(value.split())[:100]}")
        if UP.search(value.replace("'", "/").replace('"', "/")):
            report(key, "a path leaves the bundle by '..'")
        literal = value[1:].strip()
        if literal[:1] in ("'", '"') and ABSOLUTE.match(literal[1:]):
            report(key, "an absolute path")


def _check_macro(key: str, value: str, files: set[str], report: Report) -> None:
    match = _MACRO_FILE.match(value[1:].replace("#", "::"))
    if match is None:
        return  # an id of the same configuration
    path = match.group(1)
    if ABSOLUTE.match(path) or UP.search(path) or path.removeprefix("./") not in files:
        report(key, f"takes its content from {path!r}, which is no file of the bundle")
