"""``logging.conf``: ``logging.config.fileConfig`` evaluates ``class``, ``args`` and ``kwargs`` as Python."""

import ast
import configparser
from collections.abc import Iterator

_HANDLERS = ("StreamHandler", "NullHandler", "logging.StreamHandler", "logging.NullHandler")
_FORMATTERS = ("Formatter", "logging.Formatter")
_STREAMS = ("sys.stdout", "sys.stderr")


def logging_problems(content: bytes) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a logging configuration.

    Args:
        content: the whole file.

    Yields:
        Key, such as ``handler_console::args``, and reason.
    """
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(content.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        yield "", f"cannot be read: {' '.join(str(error).split())[:200]}"
        return
    if parser.defaults():
        yield configparser.DEFAULTSECT, "has defaults, which reach every section"
    for section in parser.sections():
        for key, value in parser.items(section):
            reason = _reason_against(section, key, value.strip())
            if reason:
                yield f"{section}::{key}", f"{reason}: {' '.join(value.split())[:100]}"


def _reason_against(section: str, key: str, value: str) -> str:
    if key == "class" and value:
        allowed = _FORMATTERS if section.startswith("formatter") else _HANDLERS
        return "" if value in allowed else f"a class other than {', '.join(allowed[:2])}"
    if key in ("args", "kwargs") and value:
        if "%(" in value:
            return "text filled in from elsewhere and then evaluated"
        try:
            tree = ast.parse(value, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "cannot be read"
        return "" if _is_literal(tree) else "evaluates more than literals, sys.stdout and sys.stderr"
    return ""


def _is_literal(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in _STREAMS
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Tuple | ast.List):
        return all(_is_literal(child) for child in node.elts)
    if isinstance(node, ast.Dict):
        return all(child is not None and _is_literal(child) for child in (*node.keys, *node.values))
    return False
