"""`kfp-foundry endpoints`: what serves on this machine."""

import dataclasses
import datetime as dt
import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.errors import FoundryError, UserError
from kfp_foundry.components.common.inference import Client, curl, emptiest_row
from kfp_foundry.components.common.local_server import Row

STATES = {"serving": "[green]serving[/]", "candidate": "[yellow]candidate[/]", "dead": "[red]dead[/]", "stopped": "[dim]stopped[/]"}
FOLLOW_SECONDS = 0.3

app = typer.Typer(
    add_completion=False, help="Lists, inspects and stops the endpoints on this machine.", context_settings={"help_option_names": ["-h", "--help"]}
)

Name = Annotated[str, typer.Argument(help="The endpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        list_endpoints(as_json)


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """Lists the endpoints: who serves, where, and since when."""
    rows = local_server.list_all()
    if as_json:
        typer.echo(json.dumps([_record(row) for row in rows], indent=2))
        return
    console = Console()
    if not rows:
        console.print(
            "No endpoint on this machine. Deploy a model: kfp-foundry run train_and_deploy --set source=FILE --set target=COLUMN", markup=False
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("Name", "State", "Address", "Model", "Threshold", "Up"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        threshold = "" if row.threshold is None else f"{row.threshold:.4g}"
        digest = row.revision.removeprefix("sha256:")[:12]
        table.add_row(f"[bold]{escape(row.name)}[/]", STATES[row.state], row.url, digest, threshold, _age(row))
    console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
    console.print(table)
    if any(row.state == "dead" for row in rows):
        console.print("\nA dead one ended without being stopped; see: kfp-foundry endpoints logs NAME", markup=False)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Shows an endpoint: its servers, the model's inputs, the payload log, and a request to try."""
    rows = _rows(name)
    described = _describe(rows)
    if as_json:
        typer.echo(
            json.dumps({"servers": [_record(row) for row in rows], "payloads": str(local_server.payloads(name)), "model": described}, indent=2)
        )
        return
    console = Console()
    for row in rows:
        console.print(f"[bold]{escape(row.name)}[/]  {STATES[row.state]}  {row.url}", soft_wrap=True)
        for label, value in (("model", row.revision), ("threshold", row.threshold), ("process", row.pid), ("since", row.since), ("log", row.log)):
            if value not in (None, ""):
                console.print(f"  {label:<10} {escape(str(value))}", soft_wrap=True, highlight=False)
    console.print(f"  {'payloads':<10} {escape(str(local_server.payloads(name)))}", soft_wrap=True, highlight=False)
    if described:
        inputs = ", ".join(f"{tensor['name']} ({tensor['parameters']['type']})" for tensor in described["inputs"])
        console.print(f"\n[bold]Columns[/] {escape(inputs)}", highlight=False)
        url = next(row.url for row in rows if row.state in ("serving", "candidate"))
        command = curl(f"{url}/v1/models/{name}:predict", [emptiest_row(local_server.contract_of(name))])
        console.print(f"[bold]Try[/] {escape(command)}", soft_wrap=True, highlight=False)


@app.command()
def stop(
    names: Annotated[list[str] | None, typer.Argument(help="The endpoints.", metavar="[NAME]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop all of them.")] = False,
) -> None:
    """Stops endpoints; requests under way are finished, and the payload log is written."""
    known = sorted({row.name for row in local_server.list_all()})
    if not names and not everything:
        raise UserError("no endpoint named", where="endpoints stop", remedy="give a name, or --all")
    for name in known if everything else names or []:
        typer.echo(f"{name}: {'stopped' if local_server.stop(name) else 'was not running'}")


@app.command()
def logs(
    name: Name,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines, from the end.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
) -> None:
    """Prints the log of an endpoint's newest server."""
    with_log = [row.log for row in _rows(name) if row.log and row.log.exists()]
    if not with_log:
        raise UserError("no log: it was stopped", where=f"endpoint {name}", remedy="deploy a model first")
    with with_log[-1].open(encoding="utf-8", errors="replace") as file:
        typer.echo("".join(file.readlines()[-lines:]), nl=False)
        while follow:
            typer.echo(file.read(), nl=False)
            time.sleep(FOLLOW_SECONDS)


def _rows(name: str) -> list[Row]:
    local_server.find(name, must_exist=True)
    return [row for row in local_server.list_all() if row.name == name]


def _age(row: Row) -> str:
    if row.state not in ("serving", "candidate"):
        return ""
    seconds = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(row.since)).total_seconds()
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _record(row: Row) -> dict[str, object]:
    return dataclasses.asdict(row) | {"log": str(row.log) if row.log else None}


def _describe(rows: list[Row]) -> dict[str, list[dict[str, dict[str, str]]]]:
    alive = next((row for row in rows if row.state in ("serving", "candidate")), None)
    if alive is None:
        return {}
    try:
        with Client(alive.url, alive.name, timeout=5.0) as client:
            reply = client.get(f"/v2/models/{alive.name}")
    except FoundryError:
        return {}
    return reply.body if reply.status == 200 else {}
