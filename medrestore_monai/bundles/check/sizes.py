"""Loops and sizes: what would not end, or takes more memory than a machine has."""

import ast
import math
import re
from collections.abc import Iterator
from typing import Any

from medrestore_monai.bundles.check.expressions import as_python

LARGEST = 10**7  # of one number
_LARGEST_PRODUCT = 10**9  # of numbers that one call takes, or that are multiplied
_LARGEST_SEED = 2**32
_MOST_LOOPS = 3
_CHANGES = ("append", "extend", "add", "update", "insert")
_LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_WIDE = re.compile(r"\d{5,}|\*")  # a width in a format


def number_problems(key: str, value: Any) -> Iterator[str]:
    """Say why a number of a configuration is invalid or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    most = _LARGEST_SEED if key.rpartition("::")[2].endswith("seed") else LARGEST
    if not math.isfinite(value):
        yield f"{value} is not a number"
    elif isinstance(value, int) and abs(value) > most:
        yield f"the number {value} is larger than {most}"


def call_problems(value: dict[str, Any]) -> Iterator[str]:
    """Say why the numbers that a ``_target_`` takes together make something too large."""
    numbers = [one for name, argument in value.items() if not name.endswith("seed") for one in _numbers(argument)]
    product = math.prod(sorted(numbers)[-2:])
    if product > _LARGEST_PRODUCT and max(numbers) <= LARGEST:
        yield f"sizes whose product is {product}"


def _numbers(value: Any) -> list[int]:
    found = value if isinstance(value, list) else [value]
    return [abs(one) for one in found if isinstance(one, int) and not isinstance(one, bool)]


def expression_problems(text: str) -> Iterator[str]:
    """Say what in an expression would not end, or becomes too large.

    Args:
        text: with its leading ``$``.
    """
    try:
        tree = ast.parse(as_python(text).lstrip(" \t"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # reported already
    nodes = list(ast.walk(tree))
    loops = [node for node in nodes if isinstance(node, ast.comprehension)]
    if len(loops) > _MOST_LOOPS:
        yield f"{len(loops)} loops in one expression"
    if math.prod(_length(loop.iter) for loop in loops) > LARGEST:
        yield "loops within loops that go on too long"
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        yield from _node_problems(node, bound)
        if isinstance(node, _LOOPS) and any(_changes(one) for one in ast.walk(node)):
            yield "a loop that changes what it goes through"


def _changes(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in _CHANGES


def _node_problems(node: ast.AST, bound: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > LARGEST:
        yield f"a number larger than {LARGEST}"
    elif isinstance(node, ast.BinOp):
        yield from _operation_problems(node)
    elif isinstance(node, ast.FormattedValue) and node.format_spec is not None:
        parts = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else [node.format_spec]
        if any(not isinstance(one, ast.Constant) or _WIDE.search(str(one.value)) for one in parts):
            yield "a format of any width"
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Lambda) or (isinstance(node.func, ast.Name) and node.func.id in bound):
            yield "calls a function that is known only when it runs"
        numbers = [abs(one.value) for one in ast.walk(node) if isinstance(one, ast.Constant) and type(one.value) is int]
        if math.prod(number for number in numbers if number > 1) > _LARGEST_PRODUCT:
            yield "sizes whose product is too large"


def _operation_problems(node: ast.BinOp) -> Iterator[str]:
    if isinstance(node.op, ast.Pow | ast.LShift):
        base, exponent = (_value(side) for side in (node.left, node.right))
        if exponent is None:
            yield "a power whose exponent is not a number"
        elif abs(exponent) > 64:
            yield "a power with a large exponent"
        elif isinstance(node.op, ast.LShift) or (base is not None and abs(base) > 1):
            bits = exponent if base is None or isinstance(node.op, ast.LShift) else exponent * math.log2(abs(base))
            if bits > math.log2(LARGEST) and not isinstance(base, float):
                yield f"a power larger than {LARGEST}"
    elif isinstance(node.op, ast.Mult):
        leaves = list(_factors(node))
        numbers = [value for value in map(_value, leaves) if value is not None]
        if math.prod(abs(value) for value in numbers if abs(value) > 1) > _LARGEST_PRODUCT:
            yield "a product that is too large"
        if any(_is_sequence(leaf) for leaf in leaves) and (len(leaves) > 2 or math.prod(numbers) > LARGEST):
            yield "a sequence that is repeated too often"
    elif isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant) and _WIDE.search(str(node.left.value)):
        yield "a format of any width"


def _factors(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _factors(node.left)
        yield from _factors(node.right)
    else:
        yield node


def _is_sequence(node: ast.AST) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return text or isinstance(node, ast.List | ast.Tuple | ast.JoinedStr | ast.ListComp)


def _value(node: ast.AST) -> float | None:
    """Return the number that a node is, folded where that is small; else ``None``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _value(node.left), _value(node.right)
        small = base is not None and exponent is not None and abs(exponent) <= 64 and 0 < abs(base) < LARGEST
        return abs(float(base)) ** float(exponent) if small and base is not None and exponent is not None else None
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    return None


def _length(node: ast.AST) -> int:
    """Return how long a loop over ``range(...)`` of plain numbers goes on, else 1."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"):
        return 1
    numbers = [abs(value) for value in map(_value, node.args) if value is not None]
    return max(1, int(max(numbers, default=1)))
