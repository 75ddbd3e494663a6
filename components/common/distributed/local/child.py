"""Processes that the fork server started for a supervisor: their output line by line, their exit codes, and signals to them."""

import json
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kfp_foundry.components.common import processes
from kfp_foundry.components.common.distributed.local import forkserver
from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.files import unwritable

TAIL_LINES = 40
MOMENT = 0.1  # seconds that a killed process may take to be gone
LOST = 1  # the exit code of a child whose server ended before it could tell


@dataclass
class Child:
    """One process: a rank, or the torchrun that has the ranks.

    Args:
        name: Such as `rank 0`.
        file: Its whole output.
        pid: 0 until the server has told it.
        token: Tells it from a later process of that number.
        code: Its exit code, negative for a signal; None while it runs.
        asked: Whether it was signalled from here.
        lost: Whether its server ended before it could tell the exit code, and took it along.
        tail: Its last lines.
    """

    name: str
    file: Path
    pid: int = 0
    token: str = ""
    code: int | None = None
    asked: bool = False
    lost: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


class Children:
    """Those of one launch; whatever still runs at the end of the block is killed.

    Example:
        >>> with Children(print, folder) as children:
        ...     children.start("rank 0", command)
        ...     while children.running:
        ...         children.wait(1.0)
    """

    def __init__(self, on_line: Callable[[str, str], None], folder: Path) -> None:
        self.all: list[Child] = []
        self._on_line = on_line
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._outputs: dict[int, tuple[Child, IO[bytes], bytearray]] = {}
        self._statuses: dict[int, tuple[Child, bytearray]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop(0.0)
        finally:
            for fd in [*self._outputs]:
                self._read_output(fd)
                self._close_output(fd)
            for fd in [*self._statuses]:
                self._close_status(fd)
            self._selector.close()

    @property
    def running(self) -> list[Child]:
        """Those whose exit code is not known yet."""
        return [child for child in self.all if child.code is None]

    @property
    def failed(self) -> bool:
        """Whether one has ended badly."""
        return any(child.code not in (None, 0) for child in self.all)

    def start(self, name: str, command: forkserver.Command) -> None:
        """Starts one more.

        Raises:
            PlatformError: Its log cannot be written, or the fork server ended in this moment.
        """
        path = self._folder / f"{name.replace(' ', '-')}.log"
        try:
            file = path.open("wb")
        except OSError as error:
            raise unwritable(path, error) from error
        child = Child(name, path)
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._outputs[reading] = (child, file, bytearray())
        self._selector.register(reading, selectors.EVENT_READ)
        try:
            status = forkserver.shared().start(command, writing)
        except BrokenPipeError as error:
            raise PlatformError("the process that starts ranks has just ended", where=name, remedy="run again") from error
        finally:
            os.close(writing)
        os.set_blocking(status, False)
        self._statuses[status] = (child, bytearray())
        self._selector.register(status, selectors.EVENT_READ)
        self.all.append(child)

    def wait(self, seconds: float) -> None:
        """Reads what has come, waiting for it at most so long."""
        for key, _ in self._selector.select(seconds):
            if key.fd in self._outputs:
                self._read_output(key.fd)
            else:
                self._read_status(key.fd)

    def wait_for_all(self, seconds: float) -> bool:
        """Waits until all have ended, at most so long; returns whether they have."""
        until = time.monotonic() + seconds
        while self.running and (left := until - time.monotonic()) > 0:
            self.wait(left)
        return not self.running

    def stop(self, grace: float) -> None:
        """Asks those that run to end, and kills them when they have not after so many seconds."""
        if self.running:
            self.signal(signal.SIGTERM)
        while not self.wait_for_all(max(grace, MOMENT)):
            self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all that still run; SIGKILL also to what they started."""
        for child in self.running:
            if not processes.is_alive(child.pid, child.token):
                continue
            child.asked = True
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number) if number is signal.SIGKILL else os.kill(child.pid, number)

    def _read_output(self, fd: int) -> None:
        child, file, rest = self._outputs[fd]
        while True:
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                break
            if not data:
                self._close_output(fd)
                break
            with suppress(OSError):  # a full disk must not stop the training's output, which the caller gets all the same
                file.write(data)
                file.flush()
            *lines, left = bytes(rest + data).split(b"\n")
            rest[:] = left
            for line in lines:
                self._say(child, line)

    def _say(self, child: Child, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        child.tail.append(text)
        self._on_line(child.name, text)

    def _close_output(self, fd: int) -> None:
        if fd not in self._outputs:
            return
        child, file, rest = self._outputs.pop(fd)
        if rest:
            self._say(child, bytes(rest))
        self._selector.unregister(fd)
        os.close(fd)
        with suppress(OSError):
            file.close()

    def _read_status(self, fd: int) -> None:
        child, rest = self._statuses[fd]
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return
        *lines, left = bytes(rest + data).split(b"\n")
        rest[:] = left
        for fact in map(json.loads, lines):
            if "pid" in fact:
                child.pid, child.token = fact["pid"], processes.started_at(fact["pid"])
            else:
                child.code = fact["code"]
        if not data or child.code is not None:
            child.lost = child.code is None
            child.code = LOST if child.lost else child.code
            self._close_status(fd)

    def _close_status(self, fd: int) -> None:
        if self._statuses.pop(fd, None):
            self._selector.unregister(fd)
            os.close(fd)
