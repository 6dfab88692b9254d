"""``medrestore bundles``: list, show, check and package bundles, and fetch their weights."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medrestore_monai.cli.documents import bundle_document, bundle_summary, setting_entries
from medrestore_monai.cli.modes import BAD_DATA, USAGE, console, fail, reporting, write_document
from medrestore_monai.cli.options import TrustOption, check_source, complete_bundle
from medrestore_monai.cli.output import RESEARCH, reported
from medrestore_monai.texts import printable

if TYPE_CHECKING:
    from medrestore_monai.bundles import Bundle

bundles_app = typer.Typer(
    help="List, show, check and package bundles, one trained model each; fetch their weights.", no_args_is_help=True
)
weights_app = typer.Typer(help="Fetch or verify the weights of a bundle.", no_args_is_help=True)
bundles_app.add_typer(weights_app, name="weights")

NameArgument = Annotated[
    str,
    typer.Argument(help="Name of the bundle, or its folder as a path: ./mine.", autocompletion=complete_bundle),
]


@bundles_app.command("list")
@reporting("json", name="bundles list")
def list_bundles() -> None:
    """List the bundles found.

    Examples:
      medrestore bundles list

      medrestore bundles list --json
    """
    with reported():
        from medrestore_monai.bundles import list_bundles as found

        table, bundles = Table("bundle", "version", "task", "weights"), found()
        for bundle in bundles:
            size = f"{bundle.weights.stat().st_size / 2**20:.1f} MiB" if bundle.weights.is_file() else "missing"
            words = (bundle.name, str(bundle.metadata["version"]), str(bundle.metadata["task"]))
            table.add_row(*(escape(printable(word)) for word in words), size)
        write_document("medrestore/bundles-list/1", {"bundles": [bundle_summary(bundle) for bundle in bundles]})
        console.print(table)


@bundles_app.command("show")
@reporting("json", name="bundles show")
def show_bundle(name: NameArgument, trust_bundle: TrustOption = False) -> None:
    """Show the card of one bundle, what can be set, and whether its weights are those of the card.

    Examples:
      medrestore bundles show ct_denoise_restore_rwkv

      medrestore bundles show ct_denoise_restore_rwkv --json
    """
    with reported(USAGE):
        from rich.markdown import Markdown

        from medrestore_monai.bundles import open_bundle, verify_weights

        bundle = open_bundle(name, trust_bundle, configs=())
    with reported():
        card = bundle.root / "docs" / "README.md"
        console.print(Markdown("\n".join(map(printable, card.read_text(encoding="utf-8").splitlines()))))
        console.print(_settings_table(bundle))
        console.print(printable(f"folder: {bundle.root}"), soft_wrap=True, markup=False)
        console.print(f"weights: verified, SHA-256 {verify_weights(bundle.weights, bundle.root)}", soft_wrap=True)
        write_document("medrestore/bundles-show/1", bundle_document(bundle))


def _settings_table(bundle: "Bundle") -> Table:
    """What can be set: what has an option of its own in ``restore``, what ``--set`` changes, and in ``evaluate``."""
    table = Table("setting", "takes", "default", "what it is")
    for entry in setting_entries(bundle):
        name, default = entry["option"].removeprefix("--set "), entry["default"]
        option = f"{entry['name']} (evaluate)" if entry["command"] == "evaluate" else name
        shown = "" if default is None else json.dumps(default).strip('"')
        about = f"{entry['modality']}: {entry['help']}" if entry["modality"] else entry["help"]
        table.add_row(*(escape(printable(text)) for text in (option, entry["takes"], shown, about)))
    return table


@bundles_app.command("check")
@reporting("json", name="bundles check")
def check(path: Annotated[Path, typer.Argument(help="A bundle from anywhere: its folder or zip file.")]) -> None:
    """Say whether it is safe to run somebody's bundle; nothing of it is run to find out.

    The configurations of a bundle are code to MONAI. Everything in it must be on a list of what is known to be
    harmless; what is not is printed, one line each, and the exit code is 3. Run this outside of the bundle's folder.

    Examples:
      medrestore bundles check downloads/some_bundle_v1.zip

      medrestore bundles check downloads/some_bundle_v1.zip --json
    """
    check_source(path)
    with reported():
        from medrestore_monai.bundles.check import check_bundle

        findings = check_bundle(path)
        content = {"bundle": str(path), "safe": not findings, "findings": [asdict(one) for one in findings]}
        write_document("medrestore/bundles-check/1", content)
    for finding in findings:
        console.print(printable(str(finding)), soft_wrap=True, markup=False, highlight=False, emoji=False)
    if findings:
        raise fail(
            f"{len(findings)} finding(s) in {path}: do not run it unless you know them to be harmless.", BAD_DATA
        )
    console.print(printable(f"{path}: nothing found."), soft_wrap=True, markup=False)


@bundles_app.command("package")
@reporting("quiet", name="bundles package")
def package(
    name: NameArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    weights_url: Annotated[
        str, typer.Option(help="Where the weights will be: they are left out and listed in large_files.yml.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier package.")] = False,
) -> None:
    """Write a bundle as model zoos take it: a folder that needs no medrestore-monai installed, and its zip.

    Example:
      medrestore bundles package ct_denoise_restore_rwkv -o zoo/
    """
    with reported(USAGE):
        from medrestore_monai.bundles import open_bundle
        from medrestore_monai.bundles.package import package_bundle

        bundle = open_bundle(name, configs=())
    with reported():
        for path in package_bundle(bundle, output, weights_url, overwrite):
            console.print(printable(f"{bundle.name} -> {path}"), soft_wrap=True, markup=False)
        console.print(RESEARCH, markup=False)


@weights_app.command("get")
@reporting("quiet", name="bundles weights get")
def get(
    name: NameArgument,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are wrong.")] = False,
    allow_file: Annotated[
        bool, typer.Option("--allow-file", help="Also take addresses of files of this machine, file:.")
    ] = False,
) -> None:
    """Fetch what large_files.yml lists and is missing; a transfer that was cut off is resumed.

    Example:
      medrestore bundles weights get ct_denoise_restore_rwkv
    """
    with reported(USAGE):
        from medrestore_monai.bundles import open_bundle
        from medrestore_monai.bundles.weights import get_weights

        bundle = open_bundle(name, configs=())
    with reported():
        report = partial(console.print, soft_wrap=True, markup=False)
        get_weights(bundle, overwrite, report, allow_file)


@weights_app.command("verify")
@reporting("quiet", name="bundles weights verify")
def verify(name: NameArgument) -> None:
    """Say whether the weights and large files of a bundle are there, with the digests of its card and list.

    Example:
      medrestore bundles weights verify ct_denoise_restore_rwkv
    """
    with reported(USAGE):
        from medrestore_monai.bundles import open_bundle
        from medrestore_monai.bundles.weights import verify_files

        bundle = open_bundle(name, configs=())
    with reported():
        states = verify_files(bundle)
    for path, state in states:
        console.print(printable(f"{path}: {state or 'verified'}"), soft_wrap=True, markup=False)
    wrong = [path for path, state in states if state]
    if wrong:
        raise fail(f"{', '.join(wrong)} of {bundle.name}: missing or wrong.", BAD_DATA)
