"""How ranks find each other in a store that may remember an earlier attempt.

torchrun's static rendezvous keeps one store over all restarts, on the machine of rank 0. A rank that was started anew may read there
the address of a partner that is dead (torch 2.15), and the counts of restarts of two machines may differ, so they tell no attempts
apart. Here every process brings a number of its own; rank 0 offers a name for the attempt together with the numbers it has seen, and
the attempt begins when all have accepted that offer. A dead process accepts nothing.
"""

import json
import time
import uuid
from typing import Any, Protocol

POLL_SECONDS = 0.01


class Store(Protocol):
    """The part of `torch.distributed.Store` that is used."""

    def set(self, key: str, value: str) -> None:
        """Writes a key."""

    def get(self, key: str) -> bytes:
        """Reads a key that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether keys are there."""


def meet(store: Store, rank: int, world: int, seconds: float) -> str:
    """Waits until every rank of this attempt is there.

    Args:
        store: Shared by all; may hold what earlier attempts wrote.
        rank: Of this process.
        world: How many there are.
        seconds: How long to wait.

    Returns:
        A name for this attempt, the same on every rank and never used before.

    Raises:
        TimeoutError: Some did not come; the message names them on rank 0.
    """
    until = time.monotonic() + seconds
    return _lead(store, world, until) if rank == 0 else _follow(store, rank, until)


def _lead(store: Store, world: int, until: float) -> str:
    others = [str(rank) for rank in range(1, world)]
    name, offered = "", None
    while True:
        here = {rank: number for rank in others if (number := _read(store, f"hello/{rank}")) is not None}
        if here != offered:
            name, offered = uuid.uuid4().hex, here
            store.set("offer", json.dumps({"name": name, "ranks": here}))
        if len(here) == len(others) and all(_read(store, f"accept/{rank}") == [name, number] for rank, number in here.items()):
            store.set("begin", json.dumps(name))
            return name
        absent = [rank for rank in others if _read(store, f"accept/{rank}") != [name, here.get(rank)]]
        _pause(until, f"rank {', '.join(absent)} did not come")


def _follow(store: Store, rank: int, until: float) -> str:
    number, accepted = uuid.uuid4().hex, ""
    store.set(f"hello/{rank}", json.dumps(number))
    while True:
        offer = _read(store, "offer")
        if offer and offer["ranks"].get(str(rank)) == number and offer["name"] != accepted:
            accepted = str(offer["name"])
            store.set(f"accept/{rank}", json.dumps([accepted, number]))
        if accepted and _read(store, "begin") == accepted:
            return accepted
        _pause(until, "rank 0 has not begun")


def _read(store: Store, key: str) -> Any:
    return json.loads(store.get(key)) if store.check([key]) else None


def _pause(until: float, why: str) -> None:
    if time.monotonic() > until:
        raise TimeoutError(why)
    time.sleep(POLL_SECONDS)
