"""Trainings on ranks of this machine, on a few flights; as a program it is the supervisor that a test may kill.

python rank_training.py FOLDER RANKS [MODULE ARGS_JSON]
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

SUPPORT = Path(__file__).parent
PARAMS = {"epochs": 4, "width": 16, "blocks": 1, "batch_size": 256, "bins": 8}


def write_tables(folder: Path, flights, contract, rows: int = 4000) -> None:
    """Writes `train`, `validation` and `contract.yaml`."""
    from kfp_foundry.components.common.artifacts.dataset import DatasetFolder

    DatasetFolder.write(folder / "train", flights[:rows].lazy(), "test")
    DatasetFolder.write(folder / "validation", flights[rows : rows + 1000].lazy(), "test")
    contract.save(folder / "contract.yaml")


def request(folder: Path, module: str = "", args: dict | None = None, work: str = "work", strategy: str = "auto", **options):
    from kfp_foundry.components.common.distributed.request import Request
    from kfp_foundry.components.common.learning.fit import Options

    given = {"params": {} if module else PARAMS, **options}
    return Request(
        train=str(folder / "train"),
        validation=str(folder / "validation"),
        contract=str(folder / "contract.yaml"),
        checkpoints=str(folder / work / "checkpoints"),
        output=str(folder / work / "output"),
        options=Options(algorithm="residual_mlp", **given),
        strategy=strategy,
        module=module,
        module_args=args or {},
    )


def train(folder: Path, ranks: int = 1, module: str = "", args: dict | None = None, work: str = "work", how: dict | None = None, **options) -> dict:
    """Trains to the end; gives the digest, the metrics, and the lines that the ranks wrote."""
    from kfp_foundry.components.common.distributed.local import supervise

    os.environ["PYTHONPATH"] = _path()
    lines: list[str] = []
    asked = request(folder, module, args, work, **options)
    finished = supervise.run(asked, ranks, folder=folder / work / "ranks", on_line=lambda name, line: lines.append(f"[{name}] {line}"), **(how or {}))
    return {**result(folder, work), "lines": lines, "engine": finished.engine, "ranks": finished.ranks}


def result(folder: Path, work: str = "work") -> dict:
    summary = json.loads((folder / work / "output" / "outcome.json").read_text())
    return {"digest": summary["metadata"]["digest"], "metrics": summary["metrics"]}


def faulty(folder: Path, epochs: int = 3, **fault) -> dict:
    """Arguments of `user_training`, with a fault that happens once."""
    (folder / "faults.json").write_text(json.dumps(fault))
    return {"epochs": epochs, "faults": str(folder / "faults.json")}


class Supervisor:
    """A process of its own that trains; all that it starts bears its mark."""

    def __init__(self, folder: Path, ranks: int, module: str = "", args: dict | None = None, **env: str) -> None:
        self.mark = f"TEST_TRAINING={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        words = [str(folder), str(ranks), *([module, json.dumps(args or {})] if module else [])]
        environment = {**os.environ, **env, name: value, "PYTHONPATH": _path()}
        self.log = folder / "supervisor.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, __file__, *words], stdout=log, stderr=subprocess.STDOUT, env=environment)

    def family(self) -> list[int]:
        """Every process that it started and that still runs, itself included."""
        return [pid for pid in _processes() if self.mark in _environment(pid) and not _is_dead(pid)]

    def ranks(self) -> list[int]:
        """The ranks, the first one first: children of the fork server."""
        family = self.family()
        parents = {pid: _parent(pid) for pid in family}
        servers = [pid for pid, parent in parents.items() if parent == self.process.pid]
        return sorted(pid for pid, parent in parents.items() if parent in servers)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=60)


def until(what: Callable[[], object], seconds: float = 60.0) -> object:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def _path() -> str:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(SUPPORT), *filter(None, given)]))


def _processes() -> Iterable[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def _is_dead(pid: int) -> bool:
    return _stat(pid)[0] in ("Z", "X")


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


if __name__ == "__main__":
    place, count = Path(sys.argv[1]), int(sys.argv[2])
    extra = {"module": sys.argv[3], "args": json.loads(sys.argv[4])} if len(sys.argv) > 3 else {}
    try:
        print(json.dumps(train(place, count, **extra)["metrics"]))
    except Exception as error:
        sys.exit(f"error: {error}")
