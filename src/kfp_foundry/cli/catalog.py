"""`kfp-foundry list` and `kfp-foundry show`."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kfp_foundry.catalog import components, examples, pipelines
from kfp_foundry.catalog.components import ArtifactPort, Component, Parameter
from kfp_foundry.catalog.pipelines import Pipeline
from kfp_foundry.components.common.errors import UserError, close_names

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
UNCOMPILED = "not compiled yet: kfp-foundry compile"


def list_all(as_json: AsJson = False) -> None:
    """Lists the components by area, and the pipelines."""
    if as_json:
        typer.echo(_json({"components": [record(each) for each in components.every()], "pipelines": [record(each) for each in pipelines.every()]}))
        return
    console = Console()
    table = _table("Pipelines", "Name", "What it does")
    for pipeline in pipelines.every():
        table.add_row(f"[bold]{pipeline.name}[/]", escape(pipeline.summary))
    console.print(table)
    table = _table("Components", "Area", "Name", "What it does", "Stability", "Needs")
    area = ""
    for each in components.every():
        row = [f"[bold]{each.name}[/]", escape(each.summary), each.stability, escape(", ".join(each.needs)) or "-"]
        table.add_row(each.area if each.area != area else "", *row)
        area = each.area
    console.print(table)
    console.print("\n[dim]Details: kfp-foundry show NAME[/]")


def show(name: Annotated[str, typer.Argument(help="A component or a pipeline.")], as_json: AsJson = False) -> None:
    """Shows a component's or a pipeline's inputs, outputs, needs, and an example."""
    found = find(name)
    if as_json:
        typer.echo(_json(record(found)))
    elif isinstance(found, Component):
        _show_component(found)
    else:
        _show_pipeline(found)


def find(name: str) -> Component | Pipeline:
    """The component or the pipeline of that name.

    Raises:
        UserError: There is none; the message says the close names.
    """
    known: dict[str, Component | Pipeline] = {each.name: each for each in components.every()}
    known |= {each.name: each for each in pipelines.every()}
    word = name.replace("-", "_")
    if word not in known:
        raise UserError(f"no component or pipeline {name!r}", where="show", remedy=close_names(word, list(known)))
    return known[word]


def record(item: Component | Pipeline) -> dict[str, Any]:
    """A component or a pipeline as plain data."""
    content = dataclasses.asdict(item)
    del content["folder"]
    return content | {"kind": type(item).__name__.lower(), "module": item.module}


def _show_component(component: Component) -> None:
    console = Console()
    _head(console, component.name, f"component, {component.area}, {component.stability}", component.summary, component.description)
    _ports(console, "Input artifacts", component.inputs)
    _parameters(console, "Parameters", component.parameters)
    _ports(console, "Output artifacts", component.outputs)
    if component.results:
        table = _table("Output parameters", "Name", "Type", "Meaning")
        for result in component.results:
            table.add_row(f"[bold]{result.name}[/]", escape(result.type), escape(result.doc))
        console.print(table)
    if component.raises:
        table = _table("Errors", "Class", "When")
        for error, text in component.raises:
            table.add_row(error, escape(text))
        console.print(table)
    for need, what in component.needs.items():
        console.print(f"[bold]Needs[/] {escape(need)}: {escape(', '.join(map(str, what)) if isinstance(what, list) else str(what))}")
    console.print(f"\n[bold]Runs on[/] {', '.join(component.runs_on)}\n\n[bold]Example[/]")
    source = examples.example(component, components.every(), pipelines.every())
    console.print(source, soft_wrap=True, markup=False, highlight=False)


def _show_pipeline(pipeline: Pipeline) -> None:
    console = Console()
    _head(console, pipeline.name, f"pipeline {pipeline.title}", pipeline.summary, pipeline.description)
    _parameters(console, "Parameters", pipeline.parameters)
    if pipeline.yaml.exists():
        table = _table("Steps", "Step", "After")
        for step in pipeline.steps():
            table.add_row(f"[bold]{step.name}[/]", ", ".join(step.after))
        console.print(table)
        console.print(f"\n[bold]File[/] {escape(str(pipeline.yaml))}", soft_wrap=True)
    else:
        console.print(f"\n[bold]File[/] {UNCOMPILED} {pipeline.name}")
    console.print(f"[bold]Run[/] kfp-foundry run {pipeline.name} --set NAME=VALUE")


def _head(console: Console, name: str, kind: str, summary: str, description: str) -> None:
    console.print(f"[bold]{name}[/] [dim]({escape(kind)})[/]\n{escape(summary)}")
    if description:
        console.print("\n" + escape(" ".join(description.split())))


def _parameters(console: Console, title: str, parameters: Sequence[Parameter]) -> None:
    if not parameters:
        return
    table = _table(title, "Name", "Type", "Default", "Meaning")
    for parameter in parameters:
        default = "[bold]required[/]" if parameter.default is None else escape(parameter.default)
        table.add_row(f"[bold]{parameter.name}[/]", escape(parameter.type), default, escape(parameter.doc))
    console.print(table)


def _ports(console: Console, title: str, ports: Sequence[ArtifactPort]) -> None:
    if not ports:
        return
    table = _table(title, "Name", "Type", "Meaning")
    for port in ports:
        table.add_row(f"[bold]{port.name}[/]", escape(port.type) + (" (optional)" if port.optional else ""), escape(port.doc))
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("Area", "Stability"))
    return table


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
