"""The local engine: the ranks of one training on this machine, started together and ended together.

On CPUs and on one GPU ranks are forked from a process that has imported PyTorch already; on several GPUs, or when restarts are
asked for, `torchrun` starts them. Either way a rank gets the command line and the environment that it gets on a cluster.

The first rank that fails ends the rest (SIGTERM, which makes them say where they were; SIGKILL after `GRACE_SECONDS`), and its
error is the error of the training. Nothing survives this process, whatever ends it: see `forkserver`.
"""

import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.distributed.local import explain, forkserver
from kfp_foundry.components.common.distributed.local.child import Children
from kfp_foundry.components.common.distributed.request import DONE, FOLDER_VARIABLE, WORKER, Request
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.files import unwritable

GRACE_SECONDS = 10.0  # between asking ranks to end and killing them
AFTER_SUCCESS_SECONDS = 15.0  # what a rank may take to leave once the result is there; its work is done
TICK_SECONDS = 0.25
LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)

Line = Callable[[str, str], None]
Engine = Literal["forkserver", "torchrun"]


@dataclass(frozen=True)
class Finished:
    """A training that ended well: how many ranks, who started them, and how long it took."""

    ranks: int
    engine: Engine
    seconds: float


def gpus() -> int:
    """How many GPUs this process may use, found without a library that would touch them."""
    devices = [device for device in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", device.name)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices or visible is None:
        return len(devices)
    return len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1", "none", "void", "NoDevFiles")])


def placed(ranks: int, accelerators: int = 0, device: str = "auto") -> tuple[int, bool]:
    """How many ranks this machine gets, and whether they compute on GPUs.

    Args:
        ranks: As asked for; 0 for one per GPU, or one.
        accelerators: GPUs asked for; 0 for those that are there.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        PlatformError: A GPU is asked for that is not there.
        UserError: More ranks than GPUs.
    """
    there = 0 if device == "cpu" else gpus()
    wanted = accelerators or int(device == "cuda")
    if wanted > there:
        found = "none" if not there else str(there)
        remedy = "ask for none (accelerators=0), or run with target=kubeflow (training_target=kubeflow in train_and_deploy)"
        raise PlatformError(f"{_count(wanted)} asked for, this machine has {found}", where="train_distributed", remedy=remedy)
    usable = accelerators or there
    if ranks < 0:
        raise UserError(f"ranks_per_node is {ranks}", where="train_distributed", remedy="give 0 (one per GPU, or one), or more")
    if usable and ranks > usable:
        raise UserError(
            f"{ranks} ranks for {usable} {'GPU' if usable == 1 else 'GPUs'}",
            where="train_distributed",
            remedy=f"give ranks_per_node={usable}: a rank computes on a GPU of its own",
        )
    return ranks or usable or 1, usable > 0


def _count(gpus: int) -> str:
    return "1 GPU is" if gpus == 1 else f"{gpus} GPUs are"


def run(
    request: Request, ranks: int = 0, *, folder: Path, seconds: float = 0.0, accelerators: int = 0, restarts: int = 0, on_line: Line | None = None
) -> Finished:
    """Trains on this machine and returns when the result is at `request.output`.

    Args:
        request: The training.
        ranks: How many; 0 for one per GPU, or one.
        folder: For the ranks' logs and errors; what an earlier training left there is removed.
        seconds: After which it has failed; 0 for no limit.
        accelerators: GPUs that must be there; 0 for those that are.
        restarts: How often all ranks are started anew after a failure, from the last checkpoint.
        on_line: Gets each line that a rank writes, with the rank's name; they are logged by default.

    Raises:
        FoundryError: A rank failed: its own error, or what is known of its end.
        PlatformError: The ranks cannot be started as asked.
        UserError: The training cannot be placed as asked.
    """
    count, on_gpus = placed(ranks, accelerators, request.device)
    by_torchrun = restarts > 0 or (on_gpus and count > 1)
    engine: Engine = "torchrun" if by_torchrun else "forkserver"
    return launch(WORKER, request.argv(), count, engine, folder=folder, seconds=seconds, restarts=restarts, on_line=on_line)


def launch(
    module: str,
    words: Sequence[str],
    ranks: int,
    engine: Engine,
    *,
    folder: Path,
    seconds: float = 0.0,
    restarts: int = 0,
    on_line: Line | None = None,
) -> Finished:
    """Runs a module as several ranks to their end.

    Args:
        module: Run as `python -m`; when its work is done, rank 0 makes the file `DONE` in the folder that `FOLDER_VARIABLE` names.
        words: Its command line.
        ranks: How many.
        engine: `forkserver` or `torchrun`.
        folder: See `run`, as for the rest.
        seconds: After which it has failed.
        restarts: By torchrun.
        on_line: Gets each line.

    Raises:
        FoundryError: A rank failed.
        PlatformError: The folder cannot be written.
    """
    started = time.monotonic()
    _clear(folder)
    environment = _environment(ranks, folder)
    argv = [module, *words]
    commands = _torchrun(argv, ranks, restarts, environment) if engine == "torchrun" else _forks(argv, ranks, environment)
    with Children(on_line or _log_line, folder) as children:
        for name, command in commands.items():
            children.start(name, command)
        timed_out = _watch(children, folder, started + seconds if seconds > 0 else float("inf"))
    if not (folder / DONE).exists():
        raise explain.failure(children.all, folder, seconds if timed_out else 0.0)
    return Finished(ranks, engine, time.monotonic() - started)


def _watch(children: Children, folder: Path, deadline: float) -> bool:
    """Follows the ranks until one has failed or the result is there, and ends the rest; returns whether time ran out before that."""
    done = folder / DONE
    while children.running and not children.failed and not done.exists() and time.monotonic() < deadline:
        children.wait(TICK_SECONDS)
    late = bool(children.running) and not children.failed and not done.exists()
    if done.exists() and not children.wait_for_all(AFTER_SUCCESS_SECONDS):
        log.warning("%s did not leave after the training had ended, and is killed", ", ".join(child.name for child in children.running))
    children.stop(GRACE_SECONDS)
    return late


def _clear(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in [*folder.glob("rank-*"), *folder.glob("torchrun*.log"), folder / DONE]:
            file.unlink(missing_ok=True)
        shutil.rmtree(folder / "torchrun", ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _environment(ranks: int, folder: Path) -> dict[str, str]:
    own = {
        FOLDER_VARIABLE: str(folder.absolute()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, platform.cpus() // ranks)),
        "GLOO_SOCKET_IFNAME": "lo",  # the machine's own name may not resolve
        "PYTHONUNBUFFERED": "1",
    }
    return {name: value for name, value in os.environ.items() if name not in ("_KFP_RUNTIME", "RANK", "WORLD_SIZE", "LOCAL_RANK")} | own


def _forks(argv: Sequence[str], ranks: int, environment: Mapping[str, str]) -> dict[str, forkserver.Command]:
    shared = {
        **environment,
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(_free_port()),
    }
    here = str(Path.cwd())
    return {
        f"rank {rank}": forkserver.Command(argv, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, here, preloaded=True)
        for rank in range(ranks)
    }


def _torchrun(argv: Sequence[str], ranks: int, restarts: int, environment: Mapping[str, str]) -> dict[str, forkserver.Command]:
    words = ["--nnodes=1", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", "--monitor-interval=0.2"]
    words += ["--role=rank ", "--tee=3", f"--log-dir={environment[FOLDER_VARIABLE]}/torchrun"]
    words += [f"--master-addr={LOOPBACK}", f"--master-port={_free_port()}", "-m", *argv]
    return {"torchrun": forkserver.Command([sys.executable, "-m", "torch.distributed.run", *words], environment, str(Path.cwd()), preloaded=False)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _log_line(name: str, line: str) -> None:
    log.info("[%s] %s", name, line)
