"""The supervisor's side of the processes in which trials run."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from kfp_foundry.components.common import errors, processes
from kfp_foundry.components.common.errors import FoundryError, PlatformError

WORKER = "kfp_foundry.components.tuning.tune_model.local.worker"
STARTS = 3  # of the keeper in a row without a single trial done
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Recipe:
    """How the keeper of the rows makes the objective.

    Args:
        target: `module:function` that gives an object with `value(params, report)`.
        arguments: The function's, as plain values.
        preload: Modules to import before processes are forked.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preload: Sequence[str] = ()


@dataclass
class Worker:
    """One process that does trials."""

    channel: socket.socket
    pid: int = 0
    token: str = ""
    heard: bytearray = field(default_factory=bytearray)
    busy: bool = False


class Crew:
    """The keeper of the rows and its workers; all of them end with the block, and with this process however it ends.

    Args:
        recipe: How the objective is made.
        size: How many workers.

    Example:
        >>> with Crew(recipe, 2) as crew:
        ...     crew.give(0, {"number": 0, "params": {}, "metric": "loss", "direction": "minimize", "limits": {}})
        ...     answers = crew.wait(1.0)
    """

    def __init__(self, recipe: Recipe, size: int) -> None:
        self._recipe = recipe
        self._workers: list[Worker | None] = [None] * size
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for slot in range(len(self._workers)):
            self.dismiss(slot)
        self._end_keeper()
        self._selector.close()

    def give(self, slot: int, order: Mapping[str, Any]) -> None:
        """Has a worker do a trial; its answer comes from `wait`.

        Raises:
            FoundryError: The objective cannot be made; the error is the one that it gave.
            PlatformError: The processes cannot be started, or end again and again.
        """
        line = json.dumps(order).encode() + b"\n"
        worker = self._workers[slot] or self._hire(slot)
        worker.busy = True
        with suppress(BrokenPipeError, ConnectionResetError):  # it is gone: `wait` says so
            worker.channel.sendall(line)

    def wait(self, seconds: float | None) -> list[tuple[int, dict[str, Any] | None]]:
        """What workers have answered, by slot; None from one that ended without an answer. It waits at most so long for the first."""
        found: list[tuple[int, dict[str, Any] | None]] = []
        for key, _ in self._selector.select(seconds):
            slot: int = key.data
            found += [(slot, answer) for answer in self._read(slot)]
        return found

    def dismiss(self, slot: int) -> None:
        """Kills a worker and what it does."""
        worker = self._workers[slot]
        if worker is None:
            return
        self._workers[slot] = None
        with suppress(KeyError):
            self._selector.unregister(worker.channel)
        worker.channel.close()
        if processes.is_alive(worker.pid, worker.token):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _read(self, slot: int) -> Iterator[dict[str, Any] | None]:
        worker = self._workers[slot]
        if worker is None:
            return
        try:
            words = worker.channel.recv(1 << 16)
        except ConnectionResetError:
            words = b""
        worker.heard += words
        while b"\n" in worker.heard:
            line, _, rest = worker.heard.partition(b"\n")
            worker.heard = rest
            worker.busy = False
            self._starts = 0
            yield json.loads(line)
        if not words:
            busy = worker.busy
            self.dismiss(slot)
            if busy:
                yield None

    def _hire(self, slot: int) -> Worker:
        for _ in range(STARTS):
            mine, theirs = socket.socketpair()
            with theirs:
                try:
                    socket.send_fds(self._open(), [b"w"], [theirs.fileno()])
                except (BrokenPipeError, ConnectionResetError):  # the keeper was killed
                    mine.close()
                    self._end_keeper()
                    continue
            line = _readline(mine)
            if line:
                worker = Worker(mine, json.loads(line)["pid"])
                worker.token = processes.started_at(worker.pid)
                self._workers[slot] = worker
                self._selector.register(mine, selectors.EVENT_READ, slot)
                return worker
            mine.close()
            self._end_keeper()
        raise PlatformError("the processes of the trials end as soon as they start", where="tuning", remedy="give the step more memory")

    def _open(self) -> socket.socket:
        """The socket to the keeper, which is started when there is none."""
        if self._control is not None:
            return self._control
        self._starts += 1
        if self._starts > STARTS:
            remedy = "give the step more memory, or see its log"
            raise PlatformError(f"the process that keeps the rows ended {STARTS} times", where="tuning", remedy=remedy)
        mine, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", WORKER, str(theirs.fileno()), str(os.getpid())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._keeper = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        self._control = mine
        told = {"target": self._recipe.target, "arguments": dict(self._recipe.arguments), "preload": list(self._recipe.preload)}
        with suppress(BrokenPipeError, ConnectionResetError):
            mine.sendall(json.dumps(told).encode() + b"\n")
        answer = _readline(mine)
        if not answer:  # killed while it read the rows
            self._end_keeper()
            return self._open()
        _raise(json.loads(answer).get("error"))
        return mine

    def _end_keeper(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait(STOP_SECONDS)
        self._control = self._keeper = None


def _readline(channel: socket.socket) -> bytes:
    """One line, read byte by byte so that nothing of a later one is taken; empty when the other side is gone."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            byte = channel.recv(1)
        except ConnectionResetError:
            return b""
        if not byte:
            return b""
        line += byte
    return bytes(line)


def _raise(told: Mapping[str, str] | None) -> None:
    if told:
        kind: type[FoundryError] = getattr(errors, told["kind"], FoundryError)
        raise kind(told["what"], where=told["where"], remedy=told["remedy"])
