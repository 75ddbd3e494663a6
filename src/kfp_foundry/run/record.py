"""The folder of a run: `run.json`, one folder per step, and the lock that says the run is alive."""

import fcntl
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.files import unwritable, write_json
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.run import fingerprint
from kfp_foundry.run.spec import Pipeline

RECORD = "run.json"
LOCK = ".lock"
FINISHED = ("done", "cached", "resumed")
RECENT = 50  # runs that are looked through for an interrupted one


def now() -> str:
    """The time, as it stands in `run.json`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class RunFolder:
    """One run on disk. `record` is what `run.json` holds; `save` writes it in one step, at each change of a step's state.

    The lock is held by the living process and let go by the kernel when it dies, so a run whose record says `running` and
    whose lock is free was killed.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def create(cls, home: Path, pipeline: Pipeline, arguments: dict[str, Any], code: str) -> "RunFolder":
        """Makes the folder of a new run.

        Raises:
            PlatformError: The home folder cannot be written, or is full.
        """
        started = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = home / "runs" / f"{pipeline.name}-{started}-{uuid.uuid4().hex[:4]}"
        try:
            path.mkdir(parents=True)
            lock = _lock(path)
        except OSError as error:
            raise unwritable(home, error) from error
        record = {
            "pipeline": pipeline.name,
            "run": path.name,
            "id": str(uuid.uuid4()),
            "yaml": str(pipeline.path.absolute()),
            "inputs": json.loads(mask_address(json.dumps(arguments))),
            "same_run": _identity(pipeline, arguments, code),
            "code": code,
            "yaml_sha256": pipeline.sha256,
            "versions": _versions(),
            "steps": {name: {"state": "waiting"} for name in pipeline.steps()},
            "outputs": {},
            "resumed": 0,
            "started": now(),
        }
        return cls(path, record, lock)

    @classmethod
    def resumable(cls, home: Path, pipeline: Pipeline, arguments: dict[str, Any], code: str) -> "RunFolder | None":
        """The latest run of the same YAML, parameters, files and code, if it was interrupted and is not alive; None otherwise."""
        same = _identity(pipeline, arguments, code)
        for path in _latest_first(home, pipeline.name):
            record = read(path)
            if record is None or record.get("same_run") != same:
                continue
            if record.get("state") not in ("running", "interrupted"):
                return None
            try:
                lock = _lock(path)
            except OSError:  # alive, or not ours to write
                return None
            record["resumed"] += 1
            return cls(path, record, lock)
        return None

    def begin(self) -> None:
        """Marks the run as running, in this process."""
        for name in ("ended", "error", "failed_step", "exit_code"):
            self.record.pop(name, None)
        self.record |= {"state": "running", "pid": os.getpid()}
        self.save()

    def save(self) -> None:
        """Writes `run.json`.

        Raises:
            PlatformError: It cannot be written.
        """
        write_json(self.path / RECORD, self.record)

    def step(self, name: str) -> Path:
        """The folder of a step."""
        return self.path / "steps" / name

    def update(self, name: str, **changes: Any) -> None:
        """Changes what is known of a step, and saves it."""
        self.record["steps"].setdefault(name, {"state": "waiting"}).update(changes)
        self.save()

    @property
    def scratch(self) -> Path:
        """The temporary folder of the steps."""
        return self.path / "tmp"

    def close(self) -> None:
        """Removes the temporary folder and lets the lock go."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._lock)


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a run's folder; None when there is no readable one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _latest_first(home: Path, name: str) -> Iterator[Path]:
    folders = sorted((path for path in (home / "runs").glob(f"{name}-[0-9]*-[0-9]*-*")), key=lambda path: path.name, reverse=True)
    yield from folders[:RECENT]


def _lock(folder: Path) -> int:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _identity(pipeline: Pipeline, arguments: dict[str, Any], code: str) -> str:
    """What must be equal for an interrupted run to be taken up again; a file that a parameter names counts with size and time."""
    files = [fingerprint.local_files(value) for _, value in sorted(arguments.items())]
    return fingerprint.digest([pipeline.sha256, arguments, files, code])


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in ("kfp-foundry", "kfp"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
