"""`kfp-foundry doctor`."""

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kfp_foundry.doctor import State, examine

SIGNS = {State.OK: "[green]ok     [/]", State.ABSENT: "[dim]absent [/]", State.PROBLEM: "[bold red]problem[/]"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Says what this machine has, what it lacks, and what to do.

    The exit code is 1 when there is a problem. What is absent is optional.
    """
    findings = list(examine())
    problems = [finding for finding in findings if finding.state is State.PROBLEM]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        console = Console()
        for finding in findings:
            console.print(f"{SIGNS[finding.state]} [bold]{escape(finding.name)}[/]: {escape(finding.found)}", soft_wrap=True, highlight=False)
            if finding.remedy:
                console.print(f"        [green]do:[/] {escape(finding.remedy)}", soft_wrap=True, highlight=False)
        told = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: {', '.join(finding.name for finding in problems)}"
        console.print(escape(told) if problems else "All is well.", soft_wrap=True, highlight=False)
    if problems:
        raise typer.Exit(1)
