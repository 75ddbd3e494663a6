"""The processes in which trials run: one keeps the prepared rows, and every worker is a fork of it, so that all share them.

`python -m kfp_foundry.components.tuning.tune_model.local.worker FD PARENT` is the keeper. It prepares the rows once, on one thread of
every OpenMP library (a fork after such a library has started its threads would hang), and forks a worker for each socket that
comes through FD. A worker does trials one after another until its socket closes. All words on sockets are lines of JSON.

The kernel kills the keeper when the process that started it ends, and the workers when the keeper does, however they end.
"""

import gc
import importlib
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.learning.stopped import Stopped
from kfp_foundry.components.tuning.tune_model.local.limits import Limits
from kfp_foundry.components.tuning.tune_model.study import State

PR_SET_PDEATHSIG = 1  # prctl(2)


class Evaluates(Protocol):
    """What a recipe makes, such as an `objective.Objective`."""

    def value(self, params: Mapping[str, Any], report: Any) -> dict[str, float]:
        """Does a trial and gives its metrics."""
        ...


def main() -> None:
    """Keeps the rows and forks workers until the supervisor is gone."""
    die_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key press goes to all processes: the supervisor ends its own
    with socket.socket(fileno=int(sys.argv[1])) as control:
        recipe = json.loads(control.makefile("rb").readline())
        try:
            objective = _make(recipe)
        except FoundryError as error:
            told = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
            control.sendall(_line({"error": told}))
            return
        except Exception as error:
            what, remedy = f"unexpected {type(error).__name__}: {error}", "the traceback is in the log, please report it"
            control.sendall(_line({"error": {"kind": "FoundryError", "what": what, "where": "tuning", "remedy": remedy}}))
            raise
        control.sendall(_line({"ready": True}))
        gc.collect()
        gc.freeze()  # else a worker's first collection would write to all pages, and so copy them
        _fork_workers(control, objective)


def die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends; elsewhere than on Linux a closed socket is what ends it."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


def _make(recipe: Mapping[str, Any]) -> Evaluates:
    from threadpoolctl import threadpool_limits

    module, _, function = recipe["target"].partition(":")
    for name in recipe["preload"]:
        importlib.import_module(name)
    with threadpool_limits(1):
        made: Evaluates = getattr(importlib.import_module(module), function)(**recipe["arguments"])
    return made


def _fork_workers(control: socket.socket, objective: Evaluates) -> None:
    keeper = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a worker ended: its socket closes
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: those here belong to Polars, which no trial uses
            worker = os.fork()
        if worker == 0:
            _be_worker(control, socket.socket(fileno=sockets[0]), keeper, objective)
        os.close(sockets[0])


def _be_worker(control: socket.socket, channel: socket.socket, keeper: int, objective: Evaluates) -> None:
    code = 1
    try:
        die_with(keeper)
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.sendall(_line({"pid": os.getpid()}))
        for order in channel.makefile("rb"):
            channel.sendall(_line(run(objective, json.loads(order))))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:  # whatever it is, nothing of the keeper's may run in this process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(objective: Evaluates, order: Mapping[str, Any]) -> dict[str, Any]:
    """Does one trial.

    Args:
        objective: What a trial does.
        order: `number`, `params`, `metric`, `direction`, and as `limits` what ends it early, see `limits.Limits`.

    Returns:
        What a `study.Trial` holds, as plain values.
    """
    limits, reports, metrics = Limits(**order["limits"]), [], {}
    metric, started, clock = order["metric"], time.time(), time.perf_counter()

    def report(name: str, value: float) -> None:
        if name != metric:
            metrics[name] = float(value)
            return
        if not math.isfinite(value):
            return
        reports.append(float(value))
        if limits.reached(reports, order["direction"]):
            raise Stopped

    state, message = State.SUCCEEDED, ""
    try:
        metrics |= {name: float(value) for name, value in objective.value(order["params"], report).items()}
        reports.append(metrics.pop(metric, math.nan))
        if not math.isfinite(reports[-1]):
            state, message = State.METRICS_UNAVAILABLE, f"the trial gave no finite value of {metric!r}"
            reports.pop()
    except Stopped:
        state = State.EARLY_STOPPED
    except FoundryError as error:
        state, message = State.FAILED, str(error)
    except MemoryError:
        state, message = State.FAILED, "out of memory: run fewer trials at once, or give the step more"
    except Exception as error:  # a trial that breaks is a result; the traceback stands in the log
        traceback.print_exc()
        state, message = State.FAILED, f"unexpected {type(error).__name__}: {error}"
    finite = {name: value for name, value in sorted(metrics.items()) if math.isfinite(value)}
    seconds = time.perf_counter() - clock
    return {"state": state, "reports": reports, "metrics": finite, "started": started, "seconds": seconds, "message": " ".join(message.split())}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


if __name__ == "__main__":
    main()
