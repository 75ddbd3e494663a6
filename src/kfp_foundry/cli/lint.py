"""`kfp-foundry lint`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kfp_foundry.catalog import pipelines
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.ir import Compiled
from kfp_foundry.lint.check import check
from kfp_foundry.lint.finding import Finding, Level

COLOURS = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "dim"}


def lint(
    files: Annotated[list[str], typer.Argument(metavar="FILE.yaml|NAME...", help="Compiled pipelines.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Finds what compiles, but fails or differs here or on a cluster.

    error: a run fails on a cluster, or somewhere silently takes a wrong value. warning: a run fails on some platform, or
    cannot be reproduced. note: good to know. The exit code is 1 when there is an error.
    """
    found = {file: check(Compiled.load(_path(file))) for file in files}
    if as_json:
        typer.echo(json.dumps({file: [dataclasses.asdict(finding) for finding in findings] for file, findings in found.items()}, indent=2))
    else:
        for file, findings in found.items():
            _print(file, findings)
    if any(finding.level is Level.ERROR for findings in found.values() for finding in findings):
        raise typer.Exit(1)


def _path(word: str) -> Path:
    if word.endswith(".py"):
        raise UserError("is source, not a compiled pipeline", where=word, remedy=f"compile it first: kfp-foundry compile {word}")
    path = Path(word)
    return path if path.suffix or path.exists() else pipelines.find(word).yaml


def _print(file: str, findings: list[Finding]) -> None:
    console = Console()
    for finding in findings:
        console.print(
            f"[{COLOURS[finding.level]}]{finding.level}[/] [bold]{escape(finding.place)}[/] ({finding.rule})", soft_wrap=True, highlight=False
        )
        console.print(f"    {escape(finding.why)}", soft_wrap=True, highlight=False)
        console.print(f"    [green]do:[/] {escape(finding.remedy)}", soft_wrap=True, highlight=False)
    counts = [(sum(finding.level is level for finding in findings), level) for level in Level]
    told = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count)
    console.print(f"{escape(file)}: {told or 'nothing to say'}", soft_wrap=True, highlight=False)
