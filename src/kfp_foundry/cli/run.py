"""`kfp-foundry run`: runs a compiled pipeline on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.run.api import RunResult, Screen, run_pipeline
from kfp_foundry.run.parameters import read_file, read_settings
from kfp_foundry.run.screen import LiveScreen, PlainScreen, say
from kfp_foundry.run.spec import Pipeline, find_pipeline
from kfp_foundry.run.summary import summary

USAGE = 2


def run(
    pipeline: Annotated[str, typer.Argument(help="Path of a compiled pipeline, or the name of one of ours, such as train_and_deploy.")],
    params: Annotated[Path | None, typer.Option(help="File of parameters, YAML or JSON.", metavar="FILE")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One parameter; wins over the file.", metavar="NAME=VALUE")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of runs, cache and registry.  [default: .kfp-foundry]", metavar="DIR")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Runs a pipeline on this machine, without Docker or Kubernetes.

    Steps whose code and inputs have not changed are taken from the cache. A run that was interrupted is taken up where it
    stopped. Exit codes: 0 ok, 1 a step failed, 2 wrong usage, 3 a gate said no, 130 or 143 interrupted.
    """
    try:
        path = find_pipeline(pipeline)
        arguments = read_file(params) if params else {}
        arguments |= read_settings(set_ or [], Pipeline.load(path).inputs)
        result = run_pipeline(path, arguments, home, fresh=fresh, screen=None if quiet else screen())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(USAGE) from error
    if result.error:
        print(f"error: {result.error}", file=sys.stderr)
    if not quiet:
        tell(result)
    raise typer.Exit(result.exit_code)


def screen() -> Screen:
    """A live table when a person looks on, plain lines otherwise."""
    console = Console()
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen()


def tell(result: RunResult) -> None:
    """Prints how a run ended and where everything is."""
    states = list(result.states().values())
    kept = ", ".join(f"{states.count(state)} {word}" for state, word in (("cached", "from the cache"), ("resumed", "resumed")) if state in states)
    lines = [("state", f"{result.state}{f' ({kept})' if kept else ''}"), *summary(result)]
    width = max(len(title) for title, _ in lines)
    say("\n".join(["", *(f"{title:<{width}}  {text}" for title, text in lines)]))
