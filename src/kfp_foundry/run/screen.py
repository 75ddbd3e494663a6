"""What a run shows while it goes on: a live table in a terminal, one line per change elsewhere."""

import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kfp_foundry.run.record import RunFolder

Record = dict[str, Any]

STYLES = {
    "waiting": ("·", "dim"),
    "running": ("›", "bold cyan"),
    "done": ("✓", "green"),
    "cached": ("✓", "blue"),
    "resumed": ("✓", "blue"),
    "skipped": ("-", "dim"),
    "failed": ("✗", "bold red"),
    "interrupted": ("✗", "yellow"),
}
MARGIN = 6  # lines of the terminal that the table leaves free


class LiveScreen:
    """A table of steps that is drawn again and again: state, time, and what was taken from earlier runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._steps: dict[str, Record] = {}
        self._since: dict[str, float] = {}

    def start(self, folder: "RunFolder") -> None:
        """Shows the table."""
        self._console.print(_headline(folder), style="bold", highlight=False)
        self._steps = folder.record["steps"]
        self._live.start()
        self.tick()

    def changed(self, name: str, step: Record) -> None:
        """Draws the table anew."""
        if step["state"] == "running":
            self._since.setdefault(name, time.monotonic())
        self.tick()

    def tick(self) -> None:
        """Draws the table anew, with the time that has passed."""
        self._live.update(self._table(self._console.height - MARGIN), refresh=True)

    def end(self) -> None:
        """Leaves the whole table on the screen."""
        self._live.stop()
        self._console.print(self._table(len(self._steps) + 1))

    def _table(self, most: int) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        names = list(self._steps)
        hidden = _hidden(names, self._steps, max(3, most))
        if hidden:
            table.add_row("", Text(f"{len(hidden)} more", style="dim"), "", "")
        for name in names:
            if name not in hidden:
                table.add_row(*self._row(name, self._steps[name]))
        return table

    def _row(self, name: str, step: Record) -> tuple[Text, Text, Text, Text]:
        sign, style = STYLES[step["state"]]
        seconds = step.get("seconds")
        if step["state"] == "running":
            seconds = time.monotonic() - self._since.get(name, time.monotonic())
        attempts = f", attempt {step['attempts']}" if step.get("attempts", 1) > 1 else ""
        state = Text(step["state"] + attempts, style=style)
        return (
            Text(sign, style=style),
            Text(name, style="dim" if style == "dim" else ""),
            state,
            Text(_seconds(seconds), style="dim", justify="right"),
        )


class PlainScreen:
    """One line per step that starts or ends, for logs and pipes; what is skipped is not told."""

    def start(self, folder: "RunFolder") -> None:
        """Says which run this is."""
        say(_headline(folder))

    def changed(self, name: str, step: Record) -> None:
        """Says what changed."""
        if step["state"] not in ("waiting", "skipped"):
            attempt = f" (attempt {step['attempts']})" if step["state"] == "running" and step.get("attempts", 1) > 1 else ""
            seconds = _seconds(step.get("seconds")) if step["state"] == "done" else ""
            say(f"{datetime.now():%H:%M:%S}  {step['state'] + attempt:<11}  {name}  {seconds}".rstrip())

    def tick(self) -> None:
        """Nothing: lines that were written stay."""

    def end(self) -> None:
        """Nothing."""


def say(line: str) -> None:
    """Prints a line; when the reader has gone, as `head` does, the run goes on in silence."""
    try:
        print(line, flush=True)  # noqa: T201 (this is the screen)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _headline(folder: "RunFolder") -> str:
    record = folder.record
    if not record["resumed"]:
        return f"{record['pipeline']}: run {record['run']}"
    kept = sum(step["state"] in ("done", "cached", "resumed") for step in record["steps"].values())
    return f"{record['pipeline']}: going on with run {record['run']}, {kept} finished steps are kept"


def _seconds(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _hidden(names: list[str], steps: dict[str, Record], most: int) -> set[str]:
    """The steps that find no room: first those long finished, then those that wait."""
    surplus = len(names) - most
    if surplus <= 0:
        return set()
    finished = [name for name in names if steps[name]["state"] not in ("running", "waiting", "failed")]
    waiting = [name for name in reversed(names) if steps[name]["state"] == "waiting"]
    return set((finished + waiting)[: surplus + 1])
