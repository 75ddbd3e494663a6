"""One node of a training on a cluster: `torchrun` for its ranks, told by the environment that the operator sets, and an exit code
that says whether another attempt could end better.

torchrun starts all ranks anew when one fails, and a cluster starts a pod anew. That is right for a node that went away and wrong
for a mistake: four attempts at importing PyTorch, times four pods, until somebody learns of a misspelt parameter.

| exit code | meaning | what a cluster does (`runtime-torch.yaml`, `pytorchjob.py`) |
|---|---|---|
| 0 | the ranks are done | |
| 64 | a rank has failed for a reason that will be there again | ends the training |
| 138 | anything else | starts the pod anew; the ranks go on from their last checkpoint |
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.distributed.ranks import failure
from kfp_foundry.components.common.distributed.request import FOLDER_VARIABLE, NODE_VARIABLE, WORKER

FINAL = 64
PASSING = 138
TICK_SECONDS = 0.2
# What a network, a disk, a device or a lost partner makes a rank raise; all other errors would be raised again.
MAY_PASS = (
    "PlatformError", "RuntimeError", "MemoryError", "OSError", "TimeoutError", "BrokenPipeError", "ConnectionError",
    "ConnectionAbortedError", "ConnectionRefusedError", "ConnectionResetError", "DistError", "DistBackendError", "DistNetworkError",
    "DistStoreError", "OutOfMemoryError", "AcceleratorError",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the ranks of this node; returns the exit code.

    Args:
        argv: The worker's words.
    """
    folder = Path(tempfile.mkdtemp(prefix="kfp-foundry-ranks-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    os.environ[NODE_VARIABLE] = str(os.getpid())
    threading.Thread(target=_end_on_mistake, args=(folder,), daemon=True).start()
    torchrun: Any = import_module("torch.distributed.run")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(["-m", WORKER, *argv]))
    except ChildFailedError:  # each rank has said in its own words what was wrong
        return FINAL if final(folder) else PASSING
    except SignalException as error:
        print(f"error: this node was asked to end ({error})", file=sys.stderr, flush=True)  # noqa: T201
        return PASSING
    return 0


def final(folder: Path) -> failure.Failure | None:
    """The failure of this node's ranks that another attempt would meet again; None if there is none."""
    return next((one for one in failure.load(folder) if not one.peer and one.kind not in MAY_PASS), None)


def _end_on_mistake(folder: Path) -> None:
    """Ends this node, and with it its ranks, as soon as one of them has failed for good."""
    while final(folder) is None:
        time.sleep(TICK_SECONDS)
    time.sleep(TICK_SECONDS)  # for its last lines
    sys.stdout.flush()
    sys.stderr.flush()
    for child in _children():  # torchrun may have started them anew by now
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os._exit(FINAL)


def _children() -> list[int]:
    return [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
