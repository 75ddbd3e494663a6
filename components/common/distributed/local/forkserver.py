"""A process that has imported PyTorch once and forks ranks from itself: a launch after the first costs a fork, not 6 s of imports.

It only imports: no CUDA call and no second thread, so that forking is safe. Each rank leads a session of its own. When the process
that asked for them is gone, however it went, the server kills their sessions and ends; when the server is killed, the kernel kills
the ranks. `multiprocessing` has a fork server too, but one per process, shared with everybody who forks from it; its children run
the caller's main module again, have the environment of the first call, and live on when the caller is killed.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# The heavy imports of a rank. DDP and AdamW import torch._dynamo when they are made: 3 CPU seconds.
PRELOAD = (
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "torch.nn.parallel",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.checkpoint.hf_storage",
    "safetensors.torch",
    "kfp_foundry.components.common.learning.network.ranks",
    "onnx",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pandas",
    "pydantic",
    "matplotlib.figure",
    "jinja2",
    "fsspec",
)
# With these an import starts no thread. Polars and ONNX Runtime start some whatever one says, so they are left to the ranks.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PARENT_SECONDS = 1.0  # how often the server looks whether its parent lives, besides being told by the socket
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Command:
    """What a child is to do.

    Args:
        argv: A program with its words; for `preloaded` a Python module with its words.
        env: The whole environment.
        folder: Where to run.
        preloaded: Whether to run the module in a fork of the server, or the program as it is.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    folder: str
    preloaded: bool


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal, 0 for none, when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


class Forkserver:
    """The caller's side; one server per process is enough, see `shared`.

    Example:
        >>> status = shared().start(Command(["my.module", "--x=1"], dict(os.environ), "/tmp", True), log=pipe)
        >>> os.read(status, 100)  # one JSON line with the pid, later one with the exit code; both may come at once
        b'{"pid": 4711}\\n'
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | SINGLE_THREADED,
            )
        self._control = ours
        self._lock = threading.Lock()
        self._owner = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether it runs, and belongs to this process, not to the one that this was forked from."""
        return self._owner == os.getpid() and self.process.poll() is None

    def start(self, command: Command, log: int) -> int:
        """Starts a child whose output goes to the file `log`; returns the file that tells of it: `{"pid": ...}`, then `{"code": ...}`.

        Raises:
            BrokenPipeError: The server has just ended.
        """
        reading, writing = os.pipe()
        try:
            body = json.dumps({"argv": [*command.argv], "env": {**command.env}, "folder": command.folder, "preloaded": command.preloaded}).encode()
            with self._lock:
                socket.send_fds(self._control, [len(body).to_bytes(8, "big")], [log, writing])
                self._control.sendall(body)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return reading

    def close(self) -> None:
        """Ends the server and all that it started."""
        self._control.close()
        self.process.wait()


_shared: Forkserver | None = None
_guard = threading.Lock()


def shared() -> Forkserver:
    """The server of this process, started when first asked for."""
    global _shared
    with _guard:
        if _shared is None or not _shared.usable:
            _shared = Forkserver()
        return _shared


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.parent = os.getppid()
        self.status: dict[int, int] = {}  # of each child: where its exit code goes
        self.loaded = False
        self.wake, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)

    def serve(self) -> None:
        while os.getppid() == self.parent:
            ready, _, _ = select.select([self.control.fileno(), self.wake], [], [], PARENT_SECONDS)
            if self.wake in ready:
                os.read(self.wake, 4096)
                self.reap()
            if self.control.fileno() in ready and not self.answer():
                break
        for pid in self.status:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def answer(self) -> bool:
        """Does one request; false at the end of them."""
        header, fds, _, _ = socket.recv_fds(self.control, 8, 2)
        if not header:
            return False
        body = b""
        while len(body) < int.from_bytes(header, "big"):
            piece = self.control.recv(int.from_bytes(header, "big") - len(body))
            if not piece:
                return False
            body += piece
        command = Command(**json.loads(body))
        if command.preloaded and not self.loaded:
            self.load()
            if os.getppid() != self.parent:  # it was killed meanwhile
                return False
        log, status = fds
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            self.become(command, log, status, server)
        self.status[pid] = status
        os.close(log)
        self.tell(pid, {"pid": pid})
        return True

    def load(self) -> None:
        die_with_parent()  # seconds in which nobody looks at the socket
        for name in PRELOAD:
            with suppress(ImportError):  # the rank imports it again, and says what is missing
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # a collection in a child then leaves the shared pages alone
        die_with_parent(0)  # a thread may end before its process does
        self.loaded = True

    def become(self, command: Command, log: int, status: int, server: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            if os.getppid() != server:  # it was killed before that could be said
                os._exit(code)
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            for fd in (log, status, self.control.fileno(), self.wake, *self.status.values()):
                os.close(fd)
            os.chdir(command.folder)
            os.environ.clear()
            os.environ.update(command.env)
            code = _run_module(command.argv) if command.preloaded else os.execvpe(command.argv[0], list(command.argv), dict(command.env))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self) -> None:
        for pid in list(self.status):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                with suppress(ProcessLookupError):  # what it left running; its number is its own until waitpid
                    os.killpg(pid, signal.SIGKILL)
                self.tell(pid, {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
                os.close(self.status.pop(pid))

    def tell(self, pid: int, fact: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(self.status[pid], json.dumps(fact).encode() + b"\n")


def _run_module(argv: Sequence[str]) -> int:
    """Runs a module as `python -m` does: the folder and PYTHONPATH come first on the path."""
    extra = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path]
    sys.path[:] = [str(Path.cwd()), *extra, *(entry for entry in sys.path if entry)]
    sys.argv = list(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


if __name__ == "__main__":
    _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    os._exit(0)  # libraries that were only imported have nothing to tell at the end, and some do
