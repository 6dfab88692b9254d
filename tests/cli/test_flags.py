"""Only the command line knows the names of its options: the library speaks of data and fields."""

import ast
import re
from pathlib import Path

import pytest
import typer

import medrestore_monai
from medrestore_monai.cli.main import app
from medrestore_monai.cli.output import EVALUATE_FLAGS, FLAGS, RESTORE_FLAGS, with_flags

PACKAGE = Path(medrestore_monai.__file__).parent


def commands(command):
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from commands(child)


ALL = list(commands(typer.main.get_command(app)))
OPTIONS = {option for command in ALL for one in command.params for option in one.opts if option.startswith("--")}


def texts(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and isinstance(getattr(node, "value", None), str)
    ]


@pytest.mark.slow
def test_no_text_of_the_library_names_an_option():
    assert {"--suv-factor", "--overwrite", "--set"} <= OPTIONS
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] != "cli":
            for line, text in texts(path):
                named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) & OPTIONS
                found += [f"{path.relative_to(PACKAGE)}:{line} {option}" for option in sorted(named)]
    assert found == []


@pytest.mark.parametrize(("name", "flags"), [("restore", RESTORE_FLAGS), ("evaluate", EVALUATE_FLAGS), (None, FLAGS)])
def test_every_option_in_a_table_is_one(name, flags):
    options = {option for one in ALL if name in (None, one.name) for x in one.params for option in x.opts}
    assert set(flags.values()) <= options


@pytest.mark.parametrize(
    ("flags", "message", "expected"),
    [
        (FLAGS, "give `suv_factor`, or use `overwrite`.", "give --suv-factor, or use --overwrite."),
        (RESTORE_FLAGS, "use `mean_hu=correct`.", "use --set mean_hu=correct."),
        (RESTORE_FLAGS, "its `modality`, by its `series_uid`", "its --modality, by its --series"),
        (EVALUATE_FLAGS, "give `suv_factor`.", "give --set suv_factor=VALUE."),
        (FLAGS, "`no_field` of `A file`", "`no_field` of `A file`"),
    ],
)
def test_a_message_names_the_options_of_the_command(flags, message, expected):
    assert with_flags(message, flags) == expected
