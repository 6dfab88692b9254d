"""The ``$`` expressions of MONAI's configurations, read as syntax trees and never evaluated.

MONAI writes ``#`` as ``::`` and ``@id`` as a look-up in a dictionary before Python sees an expression. The same is
done here first: what is checked must be what would run.
"""

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from medrestore_monai.bundles.check.names import NAMES, is_module, reason_against, takes_names

Judge = Callable[[str, ast.Call | None], Iterable[str]]

REFERENCES = "__local_refs"
_REFERENCE = re.compile(r"@\w*(?:::\w*)*")
_LONGEST = 4000

_BUILTINS = (
    "abs all any bool dict enumerate filter float int isinstance len list map max min range reversed round set slice "
    "sorted str sum tuple zip"
)
# of objects that nobody knows before they are there: methods and attributes without a way to files, modules or frames
_ATTRIBUTES = (
    "ITERATION_COMPLETED abs add append argmax argmin astype attach batch batch_size best bool bottleneck clamp clip "
    "clone contiguous copy count cpu cuda data dataset datasets detach device difference double dtype ema_model "
    "encoder endswith epoch epoch_length eval expand exportable extend flatten float half head in_channels index int "
    "intersection is_cuda item items iteration join keys label_key long lower lr lstrip max max_epochs max_iters mean "
    "median merged metrics min module modules named_parameters ndim network numel numpy optimizer out_channels output "
    "param_groups parameters permute pop prod replace requires_grad_ reshape rounds rstrip run sampler shape sigmoid "
    "size softmax split squeeze startswith state state_dict std strip sum t to tolist train transforms transpose type "
    "union unsqueeze update upper values var view zfill"
)
BUILTINS = frozenset(_BUILTINS.split())
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Store, ast.Attribute, ast.Call, ast.keyword, ast.Starred),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Tuple, ast.Dict, ast.Set),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Subscript, ast.Slice),
    *(ast.Lambda, ast.arguments, ast.arg, ast.JoinedStr, ast.FormattedValue),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def as_python(text: str) -> str:
    """Return an expression as MONAI hands it to Python, without the leading ``$``."""
    text = text.replace("#", "::")
    for item in sorted(set(_REFERENCE.findall(text)), key=lambda item: (-len(item), item)):
        text = text.replace(item, f"{REFERENCES}['{item[1:]}']")
    return text[1:]


def parse_import(text: str) -> tuple[str, str] | str | None:
    """Read an import of a configuration.

    Args:
        text: such as ``$import torch.distributed as dist``.

    Returns:
        The name it binds and the module or the name it stands for; a text that says why it is refused; ``None`` where
        ``text`` is no import.
    """
    try:
        statements = ast.parse(as_python(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not statements or not isinstance(statements[0], ast.Import | ast.ImportFrom):
        return None
    first = statements[0]
    if len(statements) > 1 or len(first.names) > 1:
        return "more than one import in one text"
    alias = first.names[0]
    bound = alias.asname or alias.name
    if isinstance(first, ast.ImportFrom):
        if first.level:
            return "a relative import"
        target = f"{first.module}.{alias.name}"
    else:
        target = alias.name
    if not is_module(target) and reason_against(target):
        return f"imports {target}, which is not among the known modules"
    if bound in BUILTINS or bound == REFERENCES or bound.startswith("_"):
        return f"an import takes the name {bound}"
    return bound, target


def problems(text: str, imported: Mapping[str, str], judge: Judge | None = None) -> Iterator[str]:
    """Say what is wrong with one expression.

    Args:
        text: with its leading ``$``; not an import.
        imported: name to module or full name, as the bundle's imports bind them.
        judge: says what is wrong with the arguments of a call of a known name, or with the name where it is not called.

    Yields:
        One reason each; none for an expression that is known to be harmless.
    """
    if len(text) > _LONGEST:
        yield f"an expression of {len(text)} characters, more than {_LONGEST}"
        return
    try:
        tree = ast.parse(as_python(text).lstrip(" \t"), mode="eval")
        yield from sorted(set(_Checker(imported, judge).reasons(tree)))
    except (SyntaxError, ValueError):
        yield "not an expression that can be read"
    except (RecursionError, MemoryError):
        yield "an expression nested too deeply"


class _Checker:
    """Goes through one syntax tree; everything that is not known is a reason."""

    def __init__(self, imported: Mapping[str, str], judge: Judge | None = None) -> None:
        self.imported, self.judge = imported, judge
        self.bound: set[str] = set()

    def reasons(self, tree: ast.Expression) -> Iterator[str]:
        for node in ast.walk(tree):
            names = [node.arg] if isinstance(node, ast.arg) else []
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names = [node.id]
            for name in names:
                self.bound.add(name)
                # a name bound in one place counts as bound everywhere, so it must not be one that is found without
                if name in self.imported or name in dir(builtins) or "__" in name:
                    yield f"gives the name {name} another meaning"
        yield from self.check(tree)

    def check(self, node: ast.AST) -> Iterator[str]:
        if not isinstance(node, _NODES):
            yield f"{type(node).__name__} is not allowed in an expression"
            return
        known = self.known_name(node.func if isinstance(node, ast.Call) else node)
        if known is not None and isinstance(node, ast.Call):
            yield from known
            yield from self.judged(node.func, node)
            for child in (*node.args, *node.keywords):
                yield from self.check(child)
            return
        if known is not None:
            yield from known
            yield from self.judged(node, None)
            return
        yield from self.check_node(node)
        for child in ast.iter_child_nodes(node):
            yield from self.check(child)

    def known_name(self, node: ast.AST) -> list[str] | None:
        """Return the reasons against a chain of names that begins with an import or a look-up, else ``None``."""
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id == REFERENCES
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            return []
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imported or node.id in self.bound:
            return None
        parts = [*self.imported[node.id].split("."), *chain]
        least = len(parts) - len(chain)
        reason = ""
        for end in range(len(parts), max(least, 1) - 1, -1):
            why = reason_against(".".join(parts[:end]))
            if not why and ".".join(parts[:end]) not in NAMES and takes_names(".".join(parts[:end])):
                return [f"{'.'.join(parts[:end])} looks a name up, and belongs into a _target_"]
            if not why:  # what follows a known name is asked of an object
                return [f"the attribute {attr} is not among the known ones" for attr in parts[end:] if not _plain(attr)]
            reason = reason or why
        return [reason]

    def judged(self, name: ast.AST, call: ast.Call | None) -> Iterator[str]:
        """Yield what the judge has against a known name; of a chain, the longest known part counts."""
        chain: list[str] = []
        while isinstance(name, ast.Attribute):
            chain.insert(0, name.attr)
            name = name.value
        if self.judge is None or not isinstance(name, ast.Name):
            return
        parts = [*self.imported[name.id].split("."), *chain]
        for end in range(len(parts), 0, -1):
            if not reason_against(".".join(parts[:end])):
                yield from self.judge(".".join(parts[:end]), call if end == len(parts) else None)
                return

    def check_node(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Attribute) and not _plain(node.attr):
            yield f"the attribute {node.attr} is not among the known ones"
        elif isinstance(node, ast.Name) and node.id not in self.bound and node.id not in BUILTINS:
            yield f"the name {node.id} is not among the known ones"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and "__" in str(node.value):
            yield "a text with two underscores"


def _plain(attribute: str) -> bool:
    return attribute in ATTRIBUTES
