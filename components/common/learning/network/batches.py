"""Batches of a table that stands on the device, or streams to it when it does not fit; no row passes through Python.

Every epoch has one permutation, made where it is used, and every batch is one gather of whole rows. All batches have one shape: the
batch size is lowered until the rows fill whole batches almost evenly, and the few places left are filled from the permutation's start.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

RESIDENT = 0.5  # share of a GPU's free memory that the table may take
EVEN = 64  # batches at least this large are multiples of 8, which tensor cores want
STRIDE = 1_000_003  # between the seeds of two epochs, so that no rank of one has the seed of another rank in the next


def plan_batches(rows: int, wanted: int) -> tuple[int, int]:
    """Rows per batch and batches per epoch.

    Example:
        >>> plan_batches(1200, 256), plan_batches(5, 256)
        ((240, 5), (5, 1))
    """
    steps = -(-rows // max(1, wanted))
    size = -(-rows // steps)
    return (-(-size // 8) * 8 if EVEN <= size < rows else size), steps


class Batches:
    """The training rows of one rank, an epoch at a time.

    Args:
        cells: See `Table` [rows, columns], int32.
        device: Where batches are wanted.
        wanted: Rows per batch, at most.
        seed: Of the permutations.
        rank: Number of this rank: each has rows and an order of its own.
        resident: Whether the table stands on the device; None for where it fits.
    """

    def __init__(self, cells: np.ndarray, device: torch.device, wanted: int, seed: int, rank: int, resident: bool | None = None) -> None:
        self.rows = len(cells)
        self.size, self.steps = plan_batches(self.rows, wanted)
        self.device = device
        self._seed, self._rank = seed, rank
        host = torch.from_numpy(cells)
        self.resident = fits(host, device) if resident is None else resident
        self._cells = host.to(device) if self.resident else host
        self._order = torch.empty(0, dtype=torch.int64)
        self._stream = None if self.resident else _Stream(host, device, self.size)

    def shuffle(self, epoch: int, first: int = 0) -> None:
        """Begins an epoch, at its batch `first`."""
        where = self._cells.device
        generator = torch.Generator(device=where).manual_seed(self._seed + STRIDE * (epoch + 1) + self._rank)
        order = torch.randperm(self.rows, generator=generator, device=where)
        missing = self.size * self.steps - self.rows
        self._order = torch.cat([order, order[:missing]]) if missing else order
        if self._stream is not None and first < self.steps:
            self._stream.begin(self.index, first, self.steps)

    def index(self, step: int) -> torch.Tensor:
        """The rows of a batch [size]."""
        return self._order[step * self.size : (step + 1) * self.size]

    def take(self, step: int) -> torch.Tensor:
        """The cells [size, columns] of a batch, on the device; batches are taken in order."""
        if self._stream is not None:
            return self._stream.next(step)
        return self._cells.index_select(0, self.index(step))

    @property
    def cells(self) -> torch.Tensor:
        """The whole table where it stands."""
        return self._cells

    def close(self) -> None:
        """Ends the thread that streams."""
        if self._stream is not None:
            self._stream.close()


def fits(cells: torch.Tensor, device: torch.device) -> bool:
    """Whether a table of this size may stand on the device."""
    return device.type != "cuda" or cells.nbytes < RESIDENT * torch.cuda.mem_get_info(device)[0]


class _Stream:
    """Gathers batches on the host and copies them to the device, each while the one before it is computed on.

    Args:
        cells: The table, on the host.
        device: Where batches are wanted.
        size: Rows per batch.
    """

    def __init__(self, cells: torch.Tensor, device: torch.device, size: int) -> None:
        self._cells, self._cuda = cells, device.type == "cuda"
        shape = (size, cells.shape[1])
        self._staged = [torch.empty(shape, dtype=cells.dtype, pin_memory=self._cuda) for _ in range(2)]
        self._ready = [torch.empty(shape, dtype=cells.dtype, device=device) for _ in range(2)]
        cuda: Any = torch.cuda  # its streams and events have no types
        self._side = cuda.Stream(device) if self._cuda else None
        self._copied = [cuda.Event() for _ in range(2)] if self._cuda else []
        self._used = [cuda.Event() for _ in range(2)] if self._cuda else []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._index: Callable[[int], torch.Tensor] = lambda step: torch.empty(0)
        self._steps = 0
        self._ahead: Future[None] | None = None

    def begin(self, index: Callable[[int], torch.Tensor], first: int, steps: int) -> None:
        if self._ahead is not None:
            self._ahead.result()  # of an epoch that was left
        self._index, self._steps = index, steps
        for event in self._used:  # the last batch of the epoch before may be in either place
            event.record(torch.cuda.current_stream())
        self._ahead = self._pool.submit(self._fetch, first)

    def next(self, step: int) -> torch.Tensor:
        assert self._ahead is not None
        self._ahead.result()
        slot = step % 2
        if self._cuda:
            current = torch.cuda.current_stream()
            current.wait_event(self._copied[slot])
            self._used[1 - slot].record(current)  # all that computes on the other batch is queued before this point
        self._ahead = self._pool.submit(self._fetch, step + 1) if step + 1 < self._steps else None
        return self._ready[slot]

    def _fetch(self, step: int) -> None:
        slot = step % 2
        if self._cuda:
            self._copied[slot].synchronize()  # the staged rows of two batches ago have left; this thread waits, not the loop
        torch.index_select(self._cells, 0, self._index(step), out=self._staged[slot])
        if self._side is None:
            self._ready[slot].copy_(self._staged[slot])
            return
        with torch.cuda.stream(self._side):
            self._side.wait_event(self._used[slot])
            self._ready[slot].copy_(self._staged[slot], non_blocking=True)
            self._copied[slot].record(self._side)

    def close(self) -> None:
        self._pool.shutdown()
