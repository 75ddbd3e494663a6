"""The processes of a run: one group that dies as a whole, whatever happens to the process that started it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kfp_foundry.components.common.masking import mask

GRACE = 2.0  # seconds between asking the steps to stop and killing them
SHELL_SIGNAL = 128  # a shell reports a child that signal N ended as 128 + N

# Reads from the pipe until the parent is gone, however it went, then kills its group, itself included.
_KEEPER = "trap '' HUP INT TERM; echo; read _; kill -KILL 0"
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


class ProcessGroup:
    """The process group of all steps of a run.

    Its first member, the keeper, waits on a pipe from this process. When this process ends, even by SIGKILL, the pipe closes and
    the keeper kills the group. A process that leaves the group on purpose, as a deployed server does, lives on.

    Example:
        >>> with ProcessGroup() as group:
        ...     code = await group.run(["python3", "step.py"], log, env)
    """

    def __init__(self) -> None:
        self._pipe = -1
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        reading, self._pipe = os.pipe()
        try:
            self._keeper = subprocess.Popen(_KEEPER, shell=True, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0)
            assert self._keeper.stdout is not None
            self._keeper.stdout.readline()  # from here on it is deaf to the signals that the group gets
        finally:
            os.close(reading)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signal(signal.SIGKILL)
        os.close(self._pipe)
        if self._keeper is not None:
            self._keeper.wait()
            if self._keeper.stdout is not None:
                self._keeper.stdout.close()

    def _signal(self, number: int) -> None:
        if self._keeper is not None and self._keeper.returncode is None:
            try:
                os.killpg(self._keeper.pid, number)
            except ProcessLookupError:
                return  # all of them are gone already

    def stop(self, grace: float = GRACE) -> None:
        """Asks all steps to end, and kills those that have not after the grace time; returns at once."""
        self._signal(signal.SIGTERM)
        timer = threading.Timer(grace, self._signal, [signal.SIGKILL])
        timer.daemon = True
        timer.start()

    async def run(self, command: list[str], log: IO[bytes], env: dict[str, str]) -> int:
        """Runs one command in the group and returns its exit code; -N or 128 + N when signal N ended it."""
        assert self._keeper is not None
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=asyncio.subprocess.STDOUT, env=env, process_group=self._keeper.pid
        )
        return await process.wait()


def signal_of(code: int) -> signal.Signals | None:
    """The signal that an exit code stands for, its shell's spelling included; None for an ordinary one."""
    number = -code if code < 0 else code - SHELL_SIGNAL
    try:
        return signal.Signals(number) if number > 0 else None
    except ValueError:
        return None


def environment(home: Path, run: Path, scratch: Path) -> dict[str, str]:
    """The environment of the steps: the caller's, with a temporary folder of the run's own and this Python as `python3`.

    Bytecode is cached even where PYTHONDONTWRITEBYTECODE is set: without it a step starts four times slower.
    """
    bin_folder = Path(sys.executable).parent
    if not (bin_folder / "python3").exists():
        bin_folder = scratch / "bin"
        bin_folder.mkdir(exist_ok=True)
        for name in ("python3", "python"):
            (bin_folder / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
            (bin_folder / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "FORCE_COLOR", "CLICOLOR_FORCE")}
    return env | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "KFP_FOUNDRY_HOME": str(home),
        "KFP_FOUNDRY_RUN": run.name,
    }


def clean_log(path: Path) -> None:
    """Takes terminal colours and the passwords of URLs out of a step's log."""
    before = path.read_bytes()
    text = before.decode("utf-8", errors="surrogateescape")
    after = mask(_ANSI.sub("", text)).encode("utf-8", errors="surrogateescape")
    if after != before:
        path.write_bytes(after)
