"""Batches: every row of an epoch, one shape, and the same rows whether the table is resident or streams."""

import numpy as np
import pytest
import torch

from kfp_foundry.components.common.learning.network.batches import Batches, plan_batches

CPU = torch.device("cpu")


def cells(rows):
    return np.arange(rows * 3, dtype=np.int32).reshape(rows, 3)


def rows_of(batches, epoch, first=0):
    batches.shuffle(epoch, first)
    taken = [batches.take(step).clone() for step in range(first, batches.steps)]
    assert {tuple(batch.shape) for batch in taken} <= {(batches.size, 3)}
    return [(batch[:, 0] // 3).tolist() for batch in taken]


@pytest.mark.parametrize("rows", [1, 5, 63, 64, 1000, 1023, 1024, 1025, 4096, 5001])
@pytest.mark.parametrize("wanted", [1, 7, 64, 1000, 10_000])
def test_batches_have_one_size_and_hardly_a_place_too_many(rows, wanted):
    size, steps = plan_batches(rows, wanted)
    assert size * steps >= rows
    assert size * steps - rows < 8 * steps
    assert size <= max(8 * -(-wanted // 8), 1)
    assert size * steps - rows <= rows


def test_an_epoch_has_every_row():
    batches = Batches(cells(1000), CPU, 96, seed=7, rank=0)
    seen = [row for batch in rows_of(batches, 0) for row in batch]
    assert set(seen) == set(range(1000))
    assert len(seen) - 1000 < 8 * batches.steps


def test_epochs_and_ranks_have_orders_of_their_own_and_the_seed_decides_them():
    orders = [rows_of(Batches(cells(200), CPU, 50, seed, rank), epoch) for seed, rank, epoch in [(7, 0, 0), (7, 0, 1), (7, 1, 0), (8, 0, 0)]]
    assert all(orders[0] != other for other in orders[1:])
    assert rows_of(Batches(cells(200), CPU, 50, 7, 0), 0) == orders[0]


def test_an_epoch_that_was_begun_earlier_goes_on_with_the_rows_that_are_left():
    whole = rows_of(Batches(cells(500), CPU, 64, 7, 0), 3)
    assert rows_of(Batches(cells(500), CPU, 64, 7, 0), 3, first=5) == whole[5:]


@pytest.mark.parametrize("rows", [64, 320, 321])
def test_a_table_that_streams_gives_the_same_batches(rows):
    resident, streaming = Batches(cells(rows), CPU, 64, 7, 0, resident=True), Batches(cells(rows), CPU, 64, 7, 0, resident=False)
    for epoch in range(3):
        assert rows_of(streaming, epoch) == rows_of(resident, epoch)
    streaming.shuffle(9)
    streaming.take(0)
    assert rows_of(streaming, 4) == rows_of(resident, 4)
    streaming.close()
