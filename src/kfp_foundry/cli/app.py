"""The commands of `kfp-foundry`, each imported only when it is called: the help stays fast, and needs no kfp."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kfp_foundry.components.common.images import VERSION

NAME = "kfp-foundry"


@dataclass(frozen=True)
class Entry:
    """One command: where it is, and its line in the help."""

    name: str
    module: str
    attribute: str
    panel: str
    help: str


COMMANDS = [
    Entry("demo", "demo", "demo", "Pipelines", "Trains, registers, serves and checks a model on real flights."),
    Entry("run", "run", "run", "Pipelines", "Runs a pipeline on this machine, without Docker or Kubernetes."),
    Entry("compile", "compile", "compile_pipelines", "Pipelines", "Compiles pipelines to YAML, or checks that the committed YAML is current."),
    Entry("lint", "lint", "lint", "Pipelines", "Finds what compiles, but fails or differs here or on a cluster."),
    Entry("list", "catalog", "list_all", "Catalogue", "Lists the components and the pipelines."),
    Entry("show", "catalog", "show", "Catalogue", "Shows a component's or a pipeline's inputs, outputs and an example."),
    Entry("predict", "predict", "predict", "Models", "Scores a table with a model."),
    Entry("serve", "serve", "serve", "Models", "Serves a model over HTTP."),
    Entry("endpoints", "endpoints", "app", "Models", "Lists, inspects and stops the endpoints on this machine."),
    Entry("doctor", "doctor", "doctor", "Project", "Says what this machine has, what it lacks, and what to do."),
    Entry("docs", "docs", "docs", "Project", "Writes the pages that are generated from the code, or checks them."),
]


class LazyGroup(TyperGroup):
    """A group that imports a command's module when the command is called, and knows its name and help line before."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command that the words name, and loads it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


def load(name: str) -> Any:
    """Imports a command's module and makes the command."""
    entry = next(entry for entry in COMMANDS if entry.name == name)
    target = getattr(importlib.import_module(f"kfp_foundry.cli.{entry.module}"), entry.attribute)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    single = typer.Typer(add_completion=False)
    single.command(name)(target)
    return typer.main.get_command(single)


app = typer.Typer(
    name=NAME,
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The whole life of a model as Kubeflow Pipelines: the same compiled YAML runs on a laptop and on any cluster.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    if version:
        typer.echo(f"{NAME} {VERSION}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _placeholder() -> None:
    """Stands for a command in the help; `LazyGroup` puts the real one in its place."""


for _entry in COMMANDS:
    app.command(_entry.name, help=_entry.help, rich_help_panel=_entry.panel)(_placeholder)

# Wrong usage: the base of `BadParameter` is the public face of it, in every release of typer.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


def call(words: list[str]) -> int:
    """Runs one command line and returns its exit code; a wrong one is told in one line, with where to read on."""
    try:
        code = typer.main.get_command(app).main(args=words, prog_name=NAME, standalone_mode=False)
    except UsageError as error:
        return _usage(error)
    except typer.Abort as abort:
        raise KeyboardInterrupt from abort
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    sys.stdout.flush()
    message = " ".join(error.format_message().split())
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        path = error.ctx.command_path if error.ctx else NAME
        print(f"error: {message[:1].lower()}{message[1:]}\nsee: {path} --help", file=sys.stderr)
    return int(error.exit_code)
