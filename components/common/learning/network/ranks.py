"""The processes of one training that work together, each a rank: joining them, what they exchange, and how they part.

Parting has an order. A process group that is destroyed while the DDP module is still referenced hangs one launch in six (gloo:
the main thread holds the interpreter's lock in ~Reducer and waits for a thread that wants it). So `leave` destroys the group only
when every wrapped module is gone, which it checks, and otherwise leaves that to the end of the process, which is safe.
"""

import datetime as dt
import gc
import json
import os
import socket
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kfp_foundry.components.common.errors import PlatformError, UserError, close_names
from kfp_foundry.components.common.learning.network import meeting

Strategy = Literal["auto", "ddp", "fsdp"]
STRATEGIES = ("auto", "ddp", "fsdp")
JOIN_SECONDS = 300.0  # a headless service's name may resolve minutes after the first pod runs
COLLECTIVE_SECONDS = 600.0  # the others give a rank that hangs up after that long; one that dies is noticed at once
COLLECTIVE_VARIABLE = "KFP_FOUNDRY_COLLECTIVE_SECONDS"
BYTES_PER_PARAMETER = 16  # float32 weight and gradient, and two moments of AdamW
FITS = 0.6  # share of a device's memory that parameters may take under DDP; activations and the table want the rest
BUCKET_MB = 50

T = TypeVar("T")


class Ranks:
    """One rank's view of the training it belongs to.

    Args:
        rank: Number of this process, 0 to `world` - 1.
        world: How many processes train together.
        local_rank: Number of this process on its machine.
        device: Where it computes.

    Example:
        >>> with Ranks.joined() as ranks:
        ...     module = ranks.wrap(network)
        ...     loss = ranks.mean(loss_of(module))
    """

    def __init__(self, rank: int, world: int, local_rank: int, device: torch.device) -> None:
        self.rank = rank
        self.world = world
        self.local_rank = local_rank
        self.device = device
        self._wrapped: list[weakref.ReferenceType[nn.Module]] = []
        self._checkpoint_group: dist.ProcessGroup | None = None

    @classmethod
    def single(cls, device: str = "auto") -> Self:
        """A training in this process alone.

        Args:
            device: `auto` (a GPU if there is one), `cpu` or `cuda`.

        Raises:
            PlatformError: A GPU is asked for and there is none.
        """
        return cls(0, 1, 0, _device(device, 0, 1))

    @classmethod
    def join(cls, device: str = "auto") -> Self:
        """Joins the ranks that the environment names, as `torchrun` and our own engine set it; without it, a training alone.

        Args:
            device: `auto`, `cpu` or `cuda`.

        Raises:
            PlatformError: The others do not appear, or a GPU is missing.
            UserError: The environment is not whole.
        """
        if "OMP_NUM_THREADS" in os.environ:  # a forked process has read it before it was set
            torch.set_num_threads(max(1, _number("OMP_NUM_THREADS")))
        if "WORLD_SIZE" not in os.environ:
            return cls.single(device)
        rank, world, local = _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")
        here = _device(device, local, _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else world)
        ranks = cls(rank, world, local, here)
        if world > 1:
            _meet(ranks)
        return ranks

    @classmethod
    @contextmanager
    def joined(cls, device: str = "auto") -> Iterator[Self]:
        """`join`, and `leave` at the end of the block; after a failure the group is left to the end of the process."""
        ranks = cls.join(device)
        yield ranks
        ranks.leave()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    def wrap(self, module: nn.Module, strategy: str = "auto", static: bool = False) -> nn.Module:
        """Makes a module train on all ranks: gradients are averaged, parameters start as rank 0's.

        Args:
            module: On any device; it is moved to this rank's.
            strategy: `ddp` (every rank has all parameters), `fsdp` (each has a part of each), or `auto`: `ddp` where they fit.
            static: Whether every step uses the same parameters in the same order, which spares DDP some work.

        Returns:
            What to call in the loop. Drop it, the optimizer and the loss before `leave`.

        Raises:
            UserError: Another word.
        """
        if strategy not in STRATEGIES:
            raise UserError(f"strategy is {strategy!r}", where="training", remedy=close_names(strategy, list(STRATEGIES)))
        if self.world == 1:
            return module.to(self.device)
        placed = module.to(self.device)
        for buffer in placed.buffers():
            dist.broadcast(buffer.data, src=0)
        wrapped = self._shard(placed) if self.chosen(module, strategy) == "fsdp" else self._replicate(placed, static)
        self._wrapped.append(weakref.ref(wrapped))
        return wrapped

    def chosen(self, module: nn.Module, strategy: str) -> Literal["ddp", "fsdp"]:
        """What `wrap` makes of `auto`: FSDP on a GPU whose memory the parameters, gradients and moments would not leave enough of."""
        if strategy != "auto":
            return "fsdp" if strategy == "fsdp" and self.world > 1 else "ddp"
        if self.world == 1 or self.device.type != "cuda":
            return "ddp"
        needed = BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in module.parameters())
        return "fsdp" if needed > FITS * torch.cuda.get_device_properties(self.device).total_memory else "ddp"

    def _replicate(self, placed: nn.Module, static: bool) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # 2.15 renames broadcast_buffers; 2.10 has only this name
            return nn.parallel.DistributedDataParallel(
                placed,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                static_graph=static,
                bucket_cap_mb=BUCKET_MB,
                broadcast_buffers=False,
            )

    def _shard(self, placed: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        for parameter in placed.parameters():
            dist.broadcast(parameter.data, src=0)  # DDP does so itself
        mesh = init_device_mesh(self.device.type, (self.world,))
        gpu = self.device.type == "cuda"
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if gpu else MixedPrecisionPolicy()
        for stack in [child for child in placed.modules() if isinstance(child, nn.ModuleList)]:
            for block in stack:
                fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(placed, mesh=mesh, mp_policy=policy, reshard_after_forward=True)  # a look at the parameters finds the parts after any pass
        return placed

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks, in place, the same bits on each; for numbers of a step, not for gradients."""
        return self.sum(tensor).div_(self.world) if self.world > 1 else tensor

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in place, the same bits on each."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank.

        Args:
            value: Bytes, or what JSON can hold (a tuple arrives as a list): nothing is unpickled. Only rank 0's matters.

        Example:
            >>> labels = ranks.broadcast(find_labels(target) if ranks.first else [])
        """
        if self.world == 1:
            return value
        mine = _packed(value) if self.first else b""
        size = torch.tensor([len(mine)], dtype=torch.int64)
        dist.broadcast(size, src=0)
        return _unpacked(self._sent(mine, int(size)))  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank; of the kinds that `broadcast` takes."""
        if self.world == 1:
            return [value]
        mine = _packed(value)
        sizes = torch.zeros(self.world, dtype=torch.int64)
        sizes[self.rank] = len(mine)
        self.sum(sizes)
        return [_unpacked(self._sent(mine, int(size), source)) for source, size in enumerate(sizes)]

    def _sent(self, mine: bytes, size: int, source: int = 0) -> bytes:
        """The bytes of one rank, on all: over gloo, which every group has, since they are small and on the CPU."""
        buffer = torch.frombuffer(bytearray(mine), dtype=torch.uint8) if self.rank == source else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(buffer, src=source)
        return buffer.numpy().tobytes()

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))  # over gloo: a barrier of NCCL would need a device

    def checkpoint_group(self) -> "dist.ProcessGroup | None":
        """A gloo group of its own for saving beside the training, None when alone; every rank asks for it at the same place.

        A save in the background plans with collectives; on the training's own group they collide with it.
        """
        if self.world > 1 and self._checkpoint_group is None:
            self._checkpoint_group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_patience()))
        return self._checkpoint_group

    def leave(self) -> None:
        """Ends the ranks' work together; the caller has dropped the wrapped module, the optimizer and the loss by now."""
        if self.world == 1 or not dist.is_initialized():
            return
        gc.collect()
        self._checkpoint_group = None
        if all(reference() is None for reference in self._wrapped):
            dist.destroy_process_group()


def _device(wanted: str, local_rank: int, local_world: int) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {wanted!r}", where="training", remedy="choose auto, cpu or cuda")
    there = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not there):
        return torch.device("cpu")
    if not there:
        reason = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
        raise PlatformError(f"a GPU is asked for, but {reason}", where="training", remedy="ask for none, or run where `nvidia-smi` lists one")
    if local_world > there:
        remedy = f"ask for {there} ranks per node, or more GPUs; two ranks on one GPU are slower than one"
        raise PlatformError(f"{local_world} ranks for {there} GPUs", where="training", remedy=remedy)
    torch.cuda.set_device(local_rank)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", local_rank)


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError) as error:
        given = os.environ.get(name, "not set")
        raise UserError(f"{name} is {given}", where="environment of a rank", remedy="start it with torchrun or through train_distributed") from error


def _meet(ranks: Ranks) -> None:
    host, port, place = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", ""), f"rank {ranks.rank} of {ranks.world}"
    _await_name(host, time.monotonic() + JOIN_SECONDS, place)
    cuda = ranks.device.type == "cuda"
    try:
        store = next(rendezvous("env://", ranks.rank, ranks.world, timeout=_patience()))[0]
        attempt = PrefixStore(meeting.meet(store, ranks.rank, ranks.world, _patience().total_seconds()), store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=attempt,
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=_patience(),
            device_id=ranks.device if cuda else None,
        )
    except (RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0]
        remedy = "look at the logs of the other ranks: one of them did not start, or a network policy stands between them"
        raise PlatformError(f"the ranks did not meet at {host}:{port}: {reason}", where=place, remedy=remedy) from error


def _patience() -> dt.timedelta:
    return dt.timedelta(seconds=_number(COLLECTIVE_VARIABLE) if COLLECTIVE_VARIABLE in os.environ else COLLECTIVE_SECONDS)


def _await_name(host: str, until: float, place: str) -> None:
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > until:
                raise PlatformError(
                    f"the name of rank 0's host, {host!r}, does not resolve: {error.strerror}",
                    where=place,
                    remedy="see whether the pod of rank 0 runs, and whether the headless service of the job exists",
                ) from error
            time.sleep(min(1.0, max(0.05, until - time.monotonic())))


def _packed(value: Any) -> bytes:
    return b"b" + value if isinstance(value, bytes) else b"j" + json.dumps(value, ensure_ascii=False).encode()


def _unpacked(data: bytes) -> Any:
    return data[1:] if data[:1] == b"b" else json.loads(data[1:])
