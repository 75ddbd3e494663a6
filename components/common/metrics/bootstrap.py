"""Intervals by the bootstrap, at a bounded cost.

Poisson bootstrap: in each replicate a row counts Poisson(1) times, which is the multinomial bootstrap without its fixed sum
(Chamandy, Muralidharan, Najmi and Naidu 2012, "Estimating Uncertainty for Massive Data Streams"). Rows of one group (a
customer, a patient) share their count, since they are not independent of each other (cluster bootstrap). Above `SAMPLE` rows
a sample is resampled instead, and its deviations are shrunk by the root of the sampled share (Bickel, Goetze and van Zwet
1997, "Resampling Fewer Than n Observations").
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.metrics.scores import Floats, Scores

ROUNDS = 200
SAMPLE = 30_000  # rows resampled at most: more of them cost time and hardly change the width of an interval
CHUNK = 1_000_000  # weights held at once
MIN_ROUNDS = 0.5  # share of the replicates in which a metric must be defined for it to have an interval


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Replicates:
    """Metrics of one or more models, on all rows and in every replicate.

    Args:
        points: Per model: metric name to its value on all rows.
        draws: Per model: metric name to its values, shape (rounds,).
        shrink: What deviations of a draw from `centres` are multiplied by.
        centres: Per model: metric name to its value on the sampled rows.
    """

    points: list[dict[str, float]]
    draws: list[dict[str, Floats]]
    centres: list[dict[str, float]]
    shrink: float

    def around(self, name: str, model: int = 0) -> Floats:
        """The metric's draws, centred on its value on all rows."""
        return self.points[model][name] + self.shrink * (self.draws[model][name] - self.centres[model][name])


def replicate(models: list[Scores], seed: int, groups: NDArray[np.int64] | None = None, rounds: int = ROUNDS) -> Replicates:
    """Draws replicates; in each, every model sees the same rows.

    Args:
        models: Predictions for the same rows in the same order.
        seed: Seed of the draws.
        groups: Number of each row's group, shape (rows,); None: each row for itself.
        rounds: Number of replicates.
    """
    generator = np.random.default_rng(seed)
    points = [_first(model.metrics()) for model in models]
    members = np.arange(len(models[0])) if groups is None else np.unique(groups, return_inverse=True)[1]
    chosen, share = _sample(generator, members)
    sampled, centres = models, points
    if chosen is not None:
        sampled, members = [model.take(chosen) for model in models], np.unique(members[chosen], return_inverse=True)[1]
        centres = [_first(model.metrics()) for model in sampled]
    parts = [[model.metrics(counts) for model in sampled] for counts in _counts(generator, members, rounds, alone=groups is None)]
    draws = [{name: np.concatenate([part[i][name] for part in parts]) for name in points[i]} for i in range(len(models))]
    return Replicates(points, draws, centres, float(share**0.5))


def estimates(replicates: Replicates, confidence: float = 0.95, model: int = 0) -> dict[str, Estimate]:
    """Each metric with its percentile interval (Efron and Tibshirani 1993, chapter 13)."""
    return {
        name: Estimate(finite(point), *interval(replicates.around(name, model), confidence)) if np.isfinite(point) else Estimate(None)
        for name, point in replicates.points[model].items()
    }


def interval(draws: Floats, confidence: float) -> tuple[float | None, float | None]:
    """The middle part of the draws; none when too many of them are undefined."""
    there = draws[np.isfinite(draws)]
    if len(there) < max(1.0, MIN_ROUNDS * len(draws)):
        return None, None
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def finite(value: float) -> float | None:
    """The number, or None in place of NaN and infinities."""
    return float(value) if np.isfinite(value) else None


def _sample(generator: np.random.Generator, members: NDArray[np.int64]) -> tuple[NDArray[np.int64] | None, float]:
    """The rows of as many whole groups as fit into `SAMPLE`, and their share of the groups; None when all rows fit."""
    if len(members) <= SAMPLE:
        return None, 1.0
    sizes = np.bincount(members)
    order = generator.permutation(len(sizes))
    kept = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), SAMPLE, side="right")))]
    return np.flatnonzero(np.isin(members, kept)), len(kept) / len(sizes)


def _counts(generator: np.random.Generator, members: NDArray[np.int64], rounds: int, alone: bool) -> Iterator[Floats]:
    at_once = max(1, CHUNK // max(len(members), 1))
    groups = int(members.max(initial=-1)) + 1
    for start in range(0, rounds, at_once):
        counts = generator.poisson(1.0, (min(at_once, rounds - start), groups)).astype(np.float64)
        yield counts if alone else counts[:, members]


def _first(values: dict[str, Floats]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in values.items()}
