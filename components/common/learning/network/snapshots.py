"""Checkpoints of any module and its optimizer, taken up on as many ranks, on fewer or on more.

What ranks hold in parts (FSDP) is written by all of them at once, in the background, over a process group of its own: a save plans
with collectives, and on the training's group they collide with it (torch.distributed.checkpoint, `async_save`). What every rank
holds whole is written by rank 0. The files are safetensors either way, so that reading one runs no code.
"""

import os
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.learning.network.checkpoint import Checkpoints, State
from kfp_foundry.components.common.learning.network.ranks import Ranks


class Snapshots:
    """The checkpoints of one training on ranks; every rank calls every method.

    Args:
        checkpoints: Where they are; rank 0's decides what is read, and for FSDP on several machines all must see the same folder.
        ranks: Those that train.
        identity: Digest of what decides the training.

    Example:
        >>> facts = snapshots.load(module, optimizer) or {"epoch": 0}
        >>> snapshots.save(module, optimizer, step=100, facts={"epoch": 1})
    """

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks, identity: str) -> None:
        self._checkpoints, self._ranks, self._identity = checkpoints, ranks, identity
        self._saving: _Saving | None = None

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint in the background, once the one before it is done.

        Args:
            module: As `Ranks.wrap` gave it.
            optimizer: Of its parameters.
            step: Grows with every checkpoint.
            facts: What else is needed to go on, as JSON.

        Raises:
            PlatformError: The place cannot be written, or is full, as this save or the one before found; earlier ones stay.
        """
        self.wait()
        tensors, scalars = _flat(module, optimizer)
        for rank, state in enumerate(self._ranks.gather(_random(self._ranks.device).numpy().tobytes())):
            tensors[f"random.{rank}"] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
        held = {"facts": dict(facts), "optimizer": scalars, "world": self._ranks.world, "device": self._ranks.device.type}
        if any(hasattr(tensor, "full_tensor") for tensor in tensors.values()):
            self._saving = _Saving(self._checkpoints, self._ranks, tensors, State(step, self._identity, {}, held))
        elif self._ranks.first:
            self._checkpoints.save(State(step, self._identity, tensors, held))

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Puts module, optimizer and random numbers back; returns the facts, None when there is no checkpoint.

        Raises:
            UserError: The checkpoints are of another training.
        """
        state = self._checkpoints.load(self._identity) if self._ranks.first else None
        said: Any = [str(state.folder), dict(state.facts)] if state else None
        found = self._ranks.broadcast(said)
        if found is None:
            return None
        folder: str = found[0]
        held: dict[str, Any] = found[1]
        tensors, _ = _flat(module, optimizer)
        same = (held["world"], held["device"]) == (self._ranks.world, self._ranks.device.type)
        random = _random(self._ranks.device)
        if same:
            tensors |= {f"random.{rank}": torch.zeros_like(random) for rank in range(self._ranks.world)}
        self._read(folder, tensors)
        _put(module, optimizer, tensors, held["optimizer"])
        if same:
            _put_random(tensors[f"random.{self._ranks.rank}"], self._ranks.device)
        return dict(held["facts"])

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            PlatformError: It failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.wait()
        self._checkpoints.wait()

    def close(self) -> None:
        """Waits for the save under way and ends what writes.

        Raises:
            PlatformError: The save failed.
        """
        self.wait()
        self._checkpoints.close()

    def _read(self, folder: str, tensors: dict[str, torch.Tensor]) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        spread = any(hasattr(tensor, "full_tensor") for tensor in tensors.values())
        if spread and not Path(folder).is_dir():
            raise _not_shared(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process reads alone is meant
            if spread:
                load(tensors, storage_reader=HuggingFaceStorageReader(folder), process_group=self._ranks.checkpoint_group())
                return
            if self._ranks.first:
                load(tensors, storage_reader=HuggingFaceStorageReader(folder), no_dist=True)
        if self._ranks.world > 1:
            for tensor in tensors.values():
                dist.broadcast(tensor, src=0)


class _Saving:
    """A save by all ranks under way; when it is done, rank 0 makes it the newest checkpoint."""

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks, tensors: dict[str, torch.Tensor], state: State) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        several = os.environ.get("LOCAL_WORLD_SIZE", str(ranks.world)) != str(ranks.world)
        if several and checkpoints.mirror is not None:
            raise _not_shared(str(checkpoints.folder))
        self._first = ranks.first
        self._error: PlatformError | None = None
        self._done = threading.Event()
        self._draft = Path(ranks.broadcast(str(checkpoints.draft(state.step)) if ranks.first else ""))
        writer = HuggingFaceStorageWriter(str(self._draft), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            saving: Any = async_save(tensors, storage_writer=writer, process_group=ranks.checkpoint_group(), no_dist=ranks.world == 1)
        self._future: Future[Any] = saving
        if ranks.first:  # whose part ends when all parts have: it writes the list of them
            self._future.add_done_callback(lambda future: self._publish(checkpoints, state))

    def _publish(self, checkpoints: Checkpoints, state: State) -> None:
        try:
            if self._future.exception() is None:
                checkpoints.publish(self._draft, state)
        except PlatformError as error:
            self._error = error
        finally:
            self._done.set()

    def wait(self) -> None:
        try:
            self._future.result()
        except Exception as error:
            raise PlatformError(
                f"a checkpoint could not be written: {' '.join(str(error).split())}",
                where=str(self._draft),
                remedy="see whether the disk is full, or choose another folder",
            ) from error
        if self._first:
            self._done.wait()
        if self._error is not None:
            raise self._error


def _flat(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by name, and what of the optimizer is none; an optimizer that has not stepped gets its first state here."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    weights, moments = get_state_dict(module, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    named = {f"module.{name}": value for name, value in weights.items()} | {f"optimizer.{name}": value for name, value in moments.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in named.items() if name not in tensors}


def _put(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    named = {**tensors, **scalars}
    parts = [{name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)} for prefix in ("module.", "optimizer.")]
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    set_state_dict(module, optimizer, model_state_dict=parts[0], optim_state_dict=parts[1], options=options)


def _random(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _put_random(state: torch.Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _not_shared(folder: str) -> PlatformError:
    return PlatformError(
        "ranks on several machines hold parts of the parameters, and this folder is not one that all of them see",
        where=f"checkpoints {folder}",
        remedy="give checkpoint_uri a pvc:// address of a volume that all pods mount",
    )
