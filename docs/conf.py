"""Sphinx: pages in Markdown, notebooks, the cards of the bundles, commands from ``--help``, the API from docstrings."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

from medrestore_monai import __version__

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
# pages that lie elsewhere in the repository, and their place in the site
COPIED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "medrestore_monai/label_app/README.md": "label_app.md",
}

project, author, release = "medrestore-monai", "medrestore-monai contributors", __version__
copyright = "medrestore-monai contributors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme, html_title = "furo", f"medrestore-monai {__version__}"
exclude_patterns = ["_build"]
highlight_language = "none"
myst_heading_anchors = 3
# notebooks run at every build, and a cell that fails fails the build
nb_execution_mode, nb_execution_raise_on_error, nb_execution_timeout = "force", True, 300
nb_execution_show_tb, nb_merge_streams = True, True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_use_rtype = False


def write_commands() -> None:
    """Write a page of all commands, made of their help."""
    command = [sys.executable, "-m", "typer", "medrestore_monai.cli", "utils", "docs", "--name", "medrestore"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"^Examples?:\n((?:[ \n]*(?:medrestore|torchrun) .*\n)+)", _code_block, text, flags=re.MULTILINE)
    title = "# Commands\n\n`medrestore --help` and `medrestore COMMAND --help` print the same.\n\n"
    (GENERATED / "commands.md").write_text(title + re.sub(r"^# ", "## ", text, flags=re.MULTILINE), encoding="utf-8")


def _code_block(found: re.Match[str]) -> str:
    lines = "\n".join(line.strip() for line in found[1].splitlines() if line.strip())
    return f"Examples:\n\n```console\n{lines}\n```\n"


def gather(_: Sphinx) -> None:
    """Copy the cards and other pages of the repository into the site, and write the commands."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir()
    for folder in sorted((ROOT / "bundles").glob("*/docs")):
        shutil.copytree(folder, GENERATED / "bundles" / folder.parent.name / "docs")
    for source, target in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (GENERATED / target).write_text(text.replace("](docs/", "](../"), encoding="utf-8")
    write_commands()


def link_copies(_: Sphinx, page: str, content: list[str]) -> None:
    """Let links to the repository, as a reader of the files needs them, lead to the copies."""
    if page.startswith("generated/"):
        return
    place = "../" * page.count("/") + "generated/"
    text = re.sub(r"\]\((?:\.\./)+(bundles/)", rf"]({place}\1", content[0])
    for source, target in COPIED.items():
        text = re.sub(rf"\]\((?:\.\./)+{re.escape(source)}", f"]({place}{target}", text)
    content[0] = text


def setup(app: Sphinx) -> None:
    """Gather before pages are looked for."""
    app.connect("builder-inited", gather)
    app.connect("source-read", link_copies)
