"""Rows for ranks: the same rows, codes and intervals as one process would have, each rank its own stretch of them."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.learning import fit, fit_network
from kfp_foundry.components.common.learning.network import loop, survey
from kfp_foundry.components.common.learning.network.prepare import prepare
from kfp_foundry.components.common.learning.network.ranks import Ranks

SMALL = {"epochs": 3, "batch_size": 64, "width": 16, "blocks": 1, "bins": 8}
TARGETS = {"binary": ("late", "boolean"), "multiclass": ("tier", "integer"), "regression": ("minutes", "number")}


class Recorded(Ranks):
    """One of several ranks that are called one after the other: what rank 0 told, the others hear in the same order."""

    def __init__(self, rank: int, world: int, told: list) -> None:
        super().__init__(rank, world, rank, torch.device("cpu"))
        self._told, self._heard = told, 0

    def broadcast(self, value):
        if self.first:
            self._told.append(value)
        self._heard += 1
        return self._told[self._heard - 1]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """One thread, and stretches so short that every table has many."""
    monkeypatch.setattr(platform, "cpus", lambda: 1)
    monkeypatch.setattr(survey, "STRETCH", 97)


def trips(rows=500, seed=7):
    rng = np.random.default_rng(seed)
    minutes = rng.normal(size=rows) * 30
    table = pl.DataFrame(
        {
            "carrier": rng.choice(["AA", "BB", "CC", "rare"], rows, p=[0.4, 0.4, 0.195, 0.005]),
            "distance": rng.lognormal(6, 1, rows),
            "empty": pl.Series([None] * rows, dtype=pl.Float64),
            "left": pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 12, 1), eager=True, interval="1h")[:rows],
            "late": pl.Series(minutes > 20),
            "tier": np.digitize(minutes, [-20, 20]),
            "minutes": minutes,
            "weight": rng.random(rows) + 0.5,
        }
    )
    gaps = [pl.when(pl.Series(rng.random(rows) > 0.1)).then(pl.col(name)).alias(name) for name in ("carrier", "distance", "late", "tier", "minutes")]
    return table.with_columns(gaps)


def contract(task="binary", weight=False):
    name, kind = TARGETS[task]
    extra = "\n  - {name: weight, type: number, role: weight}" if weight else ""
    return Contract.parse(f"""
task: {task}
fields:
  - {{name: carrier, type: string}}
  - {{name: distance, type: number}}
  - {{name: empty, type: number}}
  - {{name: left, type: datetime}}
  - {{name: {name}, type: {kind}, role: target}}{extra}
""")


def of_ranks(table, held, words, world, **options):
    chosen = fit.Options(algorithm="residual_mlp", params=SMALL, **options)
    told: list = []
    return [prepare(table.lazy(), held.lazy(), words, chosen, Recorded(rank, world, told)) for rank in range(world)]


@pytest.mark.parametrize("task", list(TARGETS))
def test_one_rank_has_what_one_process_has_and_learns_the_same_bits(tmp_path, task):
    table = trips()
    sides = [DatasetFolder.write(tmp_path / name, rows.lazy(), source="trips") for name, rows in (("train", table[:400]), ("held", table[400:]))]
    options = fit.Options(algorithm="residual_mlp", params=SMALL)
    prepared = prepare(sides[0].scan(), sides[1].scan(), contract(task), options)
    alone = fit.prepare(*sides, contract(task), options)
    assert prepared.plan == alone.plan
    assert prepared.labels == alone.labels
    described = fit_network.describe(alone.job)
    assert prepared.network.layout == described.layout
    np.testing.assert_array_equal(prepared.network.train.cells, described.train.cells)
    np.testing.assert_array_equal(prepared.network.validation.cells, described.validation.cells)
    first, second = fit.finish(prepared, loop.train(prepared.network)), fit.finish(alone, fit.learn("residual_mlp", alone.job))
    assert first.onnx == second.onnx
    assert first.metrics == second.metrics
    assert first.importance == second.importance
    assert (len(first.train), first.train.dropped) == (len(second.train), second.train.dropped)
    assert first.train.dropped > 0


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_have_equally_many_rows_and_together_all_of_them(world):
    table, held = trips(), trips(101, seed=8)
    alone, *_ = of_ranks(table, held, contract(), 1)
    parts = of_ranks(table, held, contract(), world)
    for side in ("train", "validation"):
        cells = [getattr(part.network, side).cells for part in parts]
        assert len({len(rows) for rows in cells}) == 1
        whole = getattr(alone.network, side).cells
        assert {row.tobytes() for rows in cells for row in rows[:, :-1]} == {row.tobytes() for row in whole[:, :-1]}
    assert {part.network.layout.numbers.model_dump_json() for part in parts} == {alone.network.layout.numbers.model_dump_json()}
    assert len({part.network.identity() for part in [*parts, alone]}) == 1


@pytest.mark.parametrize("world", [2, 3, 40])
def test_a_validation_row_counts_once_however_many_ranks_there_are(world):
    table, held = trips(), trips(31, seed=8)
    alone, *_ = of_ranks(table, held, contract(), 1)
    weights = sum(float(part.network.validation.weights().sum()) for part in of_ranks(table, held, contract(), world))
    assert weights == pytest.approx(float(alone.network.validation.weights().sum()))


@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}])
@pytest.mark.parametrize("weight", [False, True])
def test_weights_are_those_of_one_process(tmp_path, weight, options):
    table, words = trips(), contract(weight=weight)
    parts = of_ranks(table[:400], table[400:], words, 2, **options)
    sides = [DatasetFolder.write(tmp_path / name, rows.lazy(), source="trips") for name, rows in (("train", table[:400]), ("held", table[400:]))]
    alone = fit_network.describe(fit.prepare(*sides, words, fit.Options(algorithm="residual_mlp", params=SMALL, **options)).job)
    found = np.concatenate([part.network.train.weights() for part in parts])[: len(alone.train)]
    np.testing.assert_allclose(np.sort(found), np.sort(alone.train.weights())[: len(found)], rtol=1e-6)
    assert found.mean() == pytest.approx(1.0, abs=0.02)


def test_only_rank_0_holds_the_validation_rows_as_they_are():
    first, second = of_ranks(trips(), trips(50, seed=8), contract(), 2)
    assert len(first.validation) > 0
    assert len(second.validation) == 0
    assert len(first.train) == len(second.train) == first.network.data["rows"][0]


def test_the_table_may_be_in_any_number_of_files(tmp_path):
    table, held = trips(), trips(60, seed=8)
    for number, part in enumerate(table.iter_slices(111)):
        part.write_parquet(tmp_path / f"{number}.parquet")
    options = fit.Options(algorithm="residual_mlp", params=SMALL)
    split = prepare(pl.scan_parquet(tmp_path / "*.parquet"), held.lazy(), contract(), options)
    whole = prepare(table.lazy(), held.lazy(), contract(), options)
    np.testing.assert_array_equal(split.network.train.cells, whole.network.train.cells)


def test_a_class_that_only_validation_has_is_left_out():
    held = trips(100, seed=8).with_columns(tier=pl.when(pl.int_range(pl.len()) > 89).then(99).otherwise(pl.lit(1)))
    prepared, *_ = of_ranks(trips(), held, contract("multiclass"), 1)
    assert prepared.labels == [0, 1, 2]
    assert len(prepared.network.validation) == len(prepared.validation) == 90


@pytest.mark.parametrize(
    ("change", "task", "message"),
    [
        ({"late": pl.lit(True)}, "binary", r"target 'late' is constant: True in all 500 training rows"),
        ({"late": pl.lit(None, pl.Boolean)}, "binary", r"target 'late' is missing in every training row"),
        (
            {"tier": pl.when(pl.int_range(pl.len()) == 5).then(9).otherwise("tier")},
            "multiclass",
            r"class 9 of target 'tier' has a single training row",
        ),
        ({"minutes": pl.lit(1.5)}, "regression", r"target 'minutes' is constant: 1\.5"),
        (
            {"minutes": pl.when(pl.int_range(pl.len()) == 5).then(math.inf).otherwise("minutes")},
            "regression",
            r"target 'minutes' holds infinite values",
        ),
        ({"weight": pl.lit(-1.0)}, "binary", r"rows have a missing, negative or infinite weight in 'weight'"),
        ({"weight": pl.lit(0.0)}, "binary", r"all weights in 'weight' are 0"),
        ({"distance": pl.lit("far")}, "binary", r"column 'distance' is String, not number"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused_as_by_one_process(change, task, message):
    with pytest.raises(DataError, match=message):
        of_ranks(trips().with_columns(**change), trips(50, seed=8), contract(task, weight=True), 2)


def test_absent_columns_and_wrong_options_are_refused():
    with pytest.raises(DataError, match=r"column 'distance' is not in the table; did you mean 'Distance'\?"):
        of_ranks(trips().rename({"distance": "Distance"}), trips(), contract(), 1)
    with pytest.raises(UserError, match="class_weight is 'equal'"):
        of_ranks(trips(), trips(), contract(), 1, class_weight="equal")
    with pytest.raises(UserError, match="class_weight is balanced, but the task is a regression"):
        of_ranks(trips(), trips(), contract("regression"), 1, class_weight="balanced")
