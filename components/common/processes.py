"""Processes that this project starts and may end: known by their number and the moment they started, never by number alone."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
POLL_SECONDS = 0.02


def started_at(pid: int) -> str:
    """A token of the process's start, which no later process of the same number has; empty when there is no such process.

    Example:
        >>> started_at(os.getpid()) == started_at(os.getpid())
        True
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = BOOT.read_text().strip()[:8]
    except OSError:
        return ""
    dead = fields[0] in ("Z", "X")  # ended, but its parent has not asked for its exit code yet
    return "" if dead else f"{boot}-{fields[19]}"


def is_alive(pid: int, token: str) -> bool:
    """Whether the process that had this token still runs."""
    return bool(token) and started_at(pid) == token


def end(pid: int, token: str, grace: float) -> None:
    """Ends a process that leads its own session, and its group: SIGTERM, then SIGKILL after `grace` seconds.

    Nothing happens when the process is gone or its number belongs to another one by now.

    Args:
        pid: The process.
        token: What `started_at` said when it was started.
        grace: Seconds it gets to finish.
    """
    if not is_alive(pid, token):
        _reap(pid)
        return
    try:
        group = pid if os.getpgid(pid) == pid else 0
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:  # it ended in this moment, and its parent has asked for its exit code
        return
    if not _gone(pid, token, grace) and is_alive(pid, token):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL) if group else os.kill(pid, signal.SIGKILL)
        _gone(pid, token, 5.0)


def _gone(pid: int, token: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while is_alive(pid, token):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    _reap(pid)
    return True


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
