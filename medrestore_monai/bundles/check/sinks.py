"""Arguments that become paths: what a call writes to, loads or imports must be a plain path inside the bundle.

Judged is the argument of the call, given or left to its default, whatever way its value took: a plain text, a
reference followed to where it stands, or a folder of the bundle and one plain text after it. What an expression
builds is known only when it runs, and is refused.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from medrestore_monai.bundles.check.expressions import REFERENCES, as_python
from medrestore_monai.bundles.check.names import resolve_targets
from medrestore_monai.bundles.check.paths import path_problem

#: Folders that a user sets, and whose content is the bundle's own business.
FOLDERS = ("output_dir", "dataset_dir", "bundle_root")
_PATHS = re.compile(
    r"(.*_)?(path|paths|pathname|dir|filename|folder|file|files|npzfile|checkpoint|prefix)|folder_layout|"
    r"output_name_formatter|output_postfix|output_ext|url|video_source"
)
_TABLES = ("CSVDataset", "CSVIterableDataset")  # which read ``src``
_OURS = ("source", "output", "root", "bundle")  # of functions of this package
_OF_THE_BUNDLE = "medrestore_monai.bundles.bundle_root"
_MOST_STEPS = 20

Definitions = Mapping[str, Sequence[Any]]


@cache
def path_parameters(target: str) -> tuple[str, ...]:
    """Return the parameters of a known class or function that become paths or addresses."""
    names: list[str] = []
    for parameters, ours in _signatures(target):
        more = _OURS if ours else ("src",) if target.rpartition(".")[2] in _TABLES else ()
        names += [name for name in parameters if _PATHS.fullmatch(name) or name in more]
    return tuple(dict.fromkeys(names))


@cache
def downloads_by_default(target: str) -> tuple[str, ...]:
    """Return the parameters ``pretrained...`` of a known class or function that are on where they are left out."""
    found = (parameters.items() for parameters, _ in _signatures(target))
    return tuple(
        name
        for items in found
        for name, parameter in items
        if name.startswith("pretrained") and parameter.default not in (None, False, "", parameter.empty)
    )


def has_sinks(target: str) -> bool:
    """Return whether a known class or function has arguments to judge."""
    return bool(path_parameters(target) or _pretrained(target))


def call_problems(target: str, given: Mapping[str, Any], definitions: Definitions) -> Iterator[tuple[str, str]]:
    """Judge the arguments of a ``_target_``.

    Args:
        target: a class or function that is known.
        given: the mapping with ``_target_`` and the arguments.
        definitions: all values of a configuration by their ids, of all files of the bundle.

    Yields:
        Name of the argument, and what is wrong.
    """
    for name in path_parameters(target):
        if name in given:
            reason = value_problem(given[name], definitions)
            if reason:
                yield name, reason
    for name in _pretrained(target):
        value = given.get(name, True if name in downloads_by_default(target) else None)
        if value not in (None, False, "", "false"):
            yield name, "downloads weights; a bundle brings its own" + ("" if name in given else f" (give {name})")
    if has_sinks(target) and "_args_" in given:
        yield "_args_", "arguments without names"


def expression_problems(definitions: Definitions, target: str, call: ast.Call | None) -> Iterator[str]:
    """Judge the arguments of a call in an expression; ``None`` stands for a name that is not called."""
    if not has_sinks(target):
        return
    if call is None:
        yield f"{target} takes paths, and must be called where it stands"
        return
    if any(isinstance(node, ast.Starred) for node in call.args) or any(word.arg is None for word in call.keywords):
        yield f"{target} with arguments that are known only when it runs"
        return
    for parameters, _ in _signatures(target):
        given = {word.arg: word.value for word in call.keywords if word.arg}
        given |= dict(zip(parameters, call.args, strict=False))
        for name in path_parameters(target):
            reason = _node_problem(given[name], definitions, 0) if name in given else ""
            if reason:
                yield f"{name} of {target}: {reason}"
        for name in _pretrained(target):
            node = given.get(name)
            off = isinstance(node, ast.Constant) and not node.value
            if not off and (node is not None or name in downloads_by_default(target)):
                yield f"{target} downloads weights; a bundle brings its own"


def value_problem(value: Any, definitions: Definitions, step: int = 0) -> str:
    """Say why a value must not become a path, or an empty text."""
    if step > _MOST_STEPS:
        return "a path that refers to itself"
    if isinstance(value, list):
        return next((reason for one in value if (reason := value_problem(one, definitions, step + 1))), "")
    if isinstance(value, dict):
        if value.get("_target_") == _OF_THE_BUNDLE or "_target_" not in value:
            return ""
        return f"a path that {str(value['_target_'])[:100]} makes; write the path itself"
    if not isinstance(value, str):
        return ""
    if value.startswith("@"):
        return _reference_problem(value[1:].replace("#", "::"), definitions, step)
    if value.startswith("$"):
        try:
            tree = ast.parse(as_python(value).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "an expression that cannot be read"
        return _node_problem(tree, definitions, step)
    if value.startswith("%"):
        return "a macro; write the path itself"
    return path_problem(value)


def _reference_problem(name: str, definitions: Definitions, step: int) -> str:
    found = definitions.get(name)
    if found is None:
        return "" if name in FOLDERS else f"@{name} is known only when it runs; write the path itself"
    if name == "dataset_dir" and all(isinstance(value, str) and not value.startswith(("$", "%")) for value in found):
        return ""  # of the user, and only read
    return next((reason for value in found if (reason := value_problem(value, definitions, step + 1))), "")


def _node_problem(node: ast.AST, definitions: Definitions, step: int) -> str:
    if isinstance(node, ast.Constant):
        return path_problem(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.List | ast.Tuple):
        return next((reason for one in node.elts if (reason := _node_problem(one, definitions, step))), "")
    name = _referred(node)
    if name is not None:
        return _reference_problem(name, definitions, step)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        base, end = _referred(node.left), node.right
        if base is not None and isinstance(end, ast.Constant) and isinstance(end.value, str):
            reason = path_problem(end.value.lstrip("/") if end.value[:1] == "/" else f"x{end.value}")
            return reason or _reference_problem(base, definitions, step)
    return "a path that an expression builds; write the path itself"


def _referred(node: ast.AST) -> str | None:
    """Return the id that a look-up of MONAI's references asks for, else ``None``."""
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(node.slice, ast.Constant)
    ):
        return str(node.slice.value)
    return None


@cache
def _pretrained(target: str) -> tuple[str, ...]:
    found = (name for parameters, _ in _signatures(target) for name in parameters)
    return tuple(dict.fromkeys(name for name in found if name.startswith("pretrained")))


@cache
def _signatures(target: str) -> tuple[tuple[dict[str, inspect.Parameter], bool], ...]:
    found = []
    for one in resolve_targets(target):
        try:
            parameters = dict(inspect.signature(one).parameters)
        except (TypeError, ValueError):
            continue
        found.append((parameters, str(getattr(one, "__module__", "")).startswith("medrestore_monai.")))
    return tuple(found)
