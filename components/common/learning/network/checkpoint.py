"""Where a training stands, on disk: written whole or not at all, checked when read, and nothing in it is unpickled.

A checkpoint is a folder `step-<number>` with tensors (safetensors), facts (JSON) and a digest of every file. The last two are kept:
one that is cut short or damaged is noticed by its digests, and the one before it is taken.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from kfp_foundry.components.common.errors import IntegrityError, UserError
from kfp_foundry.components.common.files import sha256, unwritable, write_json

log = logging.getLogger(__name__)

TENSORS = "tensors.safetensors"
FACTS = "facts.json"
DIGESTS = "digests.json"
SHARE = 20  # a checkpoint may cost one part in so many of the time that it saves


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Args:
        step: Steps done.
        identity: Digest of what decides the training; a checkpoint of another one is refused.
        tensors: Name to tensor; of any device when saved, on the CPU when loaded.
        facts: All else, as JSON.
        folder: Where it was read from, for who has put more files there.
    """

    step: int
    identity: str
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]
    folder: Path | None = None


class Mirror(Protocol):
    """A second place for checkpoints, such as an object store, for a machine that comes back without its disk."""

    def push(self, folder: Path) -> None:
        """Brings the place to what the folder holds: new checkpoints are copied, and those that the folder no longer has are removed."""

    def pull(self, folder: Path) -> None:
        """Copies the place's checkpoints into the folder, those that it lacks."""


@dataclass
class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: Where they are.
        mirror: Where they are copied to; None for nowhere.
        keep: How many stay.
        every_steps: Saves after so many steps; 0 for by time alone.
        every_seconds: Saves within an epoch when the last one is older. At the end of an epoch the last one need only be as old as
            twenty times what it cost.

    Example:
        >>> checkpoints = Checkpoints(Path("checkpoints"))
        >>> checkpoints.save(State(100, identity, tensors, {"epoch": 2}))
        >>> checkpoints.load(identity).step
        100
    """

    folder: Path
    mirror: Mirror | None = None
    keep: int = 2
    every_steps: int = 0
    every_seconds: float = 300.0
    _pool: ThreadPoolExecutor | None = field(default=None, repr=False)
    _running: "Future[None] | None" = field(default=None, repr=False)
    _last: float = field(default_factory=time.monotonic, repr=False)
    _cost: float = field(default=0.0, repr=False)

    def due(self, step: int, epoch_ends: bool = False) -> bool:
        """Whether to save after this step."""
        if self.every_steps and step % self.every_steps == 0:
            return True
        age = time.monotonic() - self._last
        return age > (self._cost * SHARE if epoch_ends else self.every_seconds)

    def save(self, state: State) -> None:
        """Writes a checkpoint in the background; the one before it is done then.

        Args:
            state: Its tensors are copied before this returns.

        Raises:
            PlatformError: The place cannot be written, or is full, as this save or the one before found; earlier checkpoints stay.
        """
        self.wait()
        started = time.monotonic()
        copied = {name: _plain(tensor) for name, tensor in state.tensors.items()}
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running = self._pool.submit(self._write, state, copied, started)

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            PlatformError: It failed.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Waits for the save under way and ends the thread that writes.

        Raises:
            PlatformError: The save failed.
        """
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def draft(self, step: int) -> Path:
        """An empty folder to write a checkpoint's files into, for who writes them from several ranks; `publish` makes it one.

        Raises:
            PlatformError: The place cannot be written.
        """
        place = self.folder / f".{_name(step)}.tmp"
        try:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        except OSError as error:
            raise unwritable(place, error) from error
        return place

    def publish(self, draft: Path, state: State) -> None:
        """Makes a draft the newest checkpoint, once all its other files are there: facts, digests, then one rename.

        Raises:
            PlatformError: The place cannot be written, or is full; the draft is removed and earlier checkpoints stay.
        """
        final = self.folder / _name(state.step)
        try:
            facts = {"step": state.step, "identity": state.identity, "facts": dict(state.facts)}
            (draft / FACTS).write_text(json.dumps(facts, sort_keys=True) + "\n", encoding="utf-8")
            files = sorted(file for file in draft.rglob("*") if file.is_file())
            write_json(draft / DIGESTS, {file.relative_to(draft).as_posix(): sha256(file) for file in files})
            for file in [*files, draft / DIGESTS, draft]:
                _flush(file)
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            _flush(self.folder)
        except OSError as error:
            raise unwritable(final, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        if self.mirror is not None:
            self.mirror.push(self.folder)

    def load(self, identity: str) -> State | None:
        """The newest whole checkpoint; None when there is none.

        Args:
            identity: Of the training that goes on.

        Raises:
            UserError: The folder holds checkpoints of another training.
        """
        if self.mirror is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.mirror.pull(self.folder)
        for place in self.folder.glob(".step-*.tmp"):  # of a process that was killed
            shutil.rmtree(place, ignore_errors=True)
        for place in reversed(self._steps()):
            try:
                state = _read(place)
            except IntegrityError as error:
                log.warning("%s", error)
                continue
            if state.identity != identity:
                raise UserError(
                    f"{place.name} is of another training: other parameters, columns, rows or seed",
                    where=f"checkpoints {self.folder}",
                    remedy="give this training a folder of its own, or empty that one",
                )
            self._last = time.monotonic()
            return state
        return None

    def _write(self, state: State, tensors: dict[str, torch.Tensor], started: float) -> None:
        from safetensors.torch import save

        draft = self.draft(state.step)
        try:
            (draft / TENSORS).write_bytes(save(tensors))
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise unwritable(self.folder / _name(state.step), error) from error
        self.publish(draft, state)
        self._last = time.monotonic()
        self._cost = self._last - started

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU that the loop will not write to."""
    copied = tensor.detach().to("cpu", copy=True)
    return copied.contiguous()


def _flush(path: Path) -> None:
    """Has the system write a file or folder to disk: a rename that outlives a power cut must not name an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(place: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        digests = json.loads((place / DIGESTS).read_text(encoding="utf-8"))
        damaged = next((name for name, digest in digests.items() if sha256(place / name) != digest), "")
        if damaged:
            raise IntegrityError(f"{damaged} is damaged", where=f"checkpoint {place}", remedy="the one before it is taken")
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
        tensors = load_file(place / TENSORS) if (place / TENSORS).exists() else {}
        return State(int(facts["step"]), str(facts["identity"]), tensors, facts["facts"], place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise IntegrityError(f"not a whole checkpoint: {error}", where=f"checkpoint {place}", remedy="the one before it is taken") from error
