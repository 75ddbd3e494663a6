"""`kfp-foundry docs`."""

import difflib
from typing import Annotated

import typer

from kfp_foundry.components.common.files import write_text
from kfp_foundry.docs import pages

SHOWN = 12  # lines of a difference


def docs(check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a file is not what the code says.")] = False) -> None:
    """Writes the pages that are generated from the code, or checks them.

    These are the page of every component and pipeline, their list in docs/components.md, the schema of contracts, and the
    names that `kfp_foundry.components` gives. Text below a page's marker is yours and stays.
    """
    root = pages.checkout()
    stale = 0
    files = pages.every(root)
    for path, text in files.items():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if old == text:
            continue
        stale += 1
        place = path.relative_to(root)
        if not check:
            write_text(path, text)
            typer.echo(f"{place}: written")
            continue
        typer.echo(f"{place}: {'differs from what the code says' if old else 'does not exist'}", err=True)
        changes = list(difflib.unified_diff(old.splitlines(), text.splitlines(), "committed", "generated", n=0, lineterm=""))
        for line in changes[2 : SHOWN + 2] if old else []:
            typer.echo(f"  {line[:160]}", err=True)
    if check and stale:
        typer.echo("write them with: kfp-foundry docs", err=True)
        raise typer.Exit(1)
    typer.echo(f"{len(files)} generated files, {stale} written" if stale else f"{len(files)} generated files are current")
