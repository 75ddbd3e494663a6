"""Numbers as a network takes them: each column is cut into intervals, and a value fills them from the left.

Reference: Gorishniy, Rubachev, Babenko, On Embeddings for Numerical Features in Tabular Deep Learning (NeurIPS 2022,
https://arxiv.org/abs/2203.05556), section 3.2, piecewise linear encoding with quantiles. A value in the third of four intervals,
half way through it, is encoded as (1, 1, 0.5, 0). Other than there a value outside all intervals counts as the nearest one
inside, so that an extreme value at serving cannot carry the network to where it never was.

The sum of these shares, here 2.5, is the value's position; it holds all that the encoding does in one float32 whatever the
column's unit, so that is what stands in the training's memory.
"""

import math
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

SAMPLE = 1_000_000  # rows at most that the intervals are found on
LARGE = 1e100  # numbers above it are divided by a power of two first
NARROW = 1e-300  # an interval narrower than this has no inside that float64 can tell


class Numbers(BaseModel):
    """How columns of numbers become positions.

    Example:
        >>> numbers = Numbers.fit([np.array([1.0, 2.0, 4.0, np.nan])], [True], bins=8)
        >>> numbers.positions(0, np.array([3.0, 99.0]))
        array([1.5, 2. ])
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: list[list[float]] = Field(description="Per column the ends of its intervals, rising; at most one for a column without a difference.")
    fills: list[float] = Field(description="Median of the training rows, put where a value is missing.")
    flags: list[int] = Field(description="Positions of the columns whose gaps are an input of their own: some training rows have one.")

    @classmethod
    def fit(cls, columns: list[np.ndarray], gaps: list[bool], bins: int) -> Self:
        """Finds the intervals: between all distinct values where there are few of them, else between quantiles.

        Args:
            columns: Values [rows], float64, NaN where missing; at most `SAMPLE` rows of the training's.
            gaps: Whether some training rows lack the column's value.
            bins: Most intervals per column.
        """
        known = [column[~np.isnan(column)] for column in columns]
        return cls(
            edges=[_edges(values, bins) for values in known],
            fills=[float(np.quantile(values, 0.5, method="inverted_cdf")) if values.size else 0.0 for values in known],
            flags=[position for position, values in enumerate(known) if gaps[position] and values.size],
        )

    @property
    def intervals(self) -> list[int]:
        """How many intervals each column has."""
        return [max(len(edges) - 1, 0) for edges in self.edges]

    @property
    def width(self) -> int:
        """How many inputs of a network all columns give together."""
        return sum(self.intervals) + len(self.flags)

    def units(self) -> list[float]:
        """Per column a power of two by which value and edges are divided first, so that no difference of two overflows."""
        return [_unit(edges) for edges in self.edges]

    def positions(self, column: int, values: np.ndarray) -> np.ndarray:
        """Positions [rows], float64, of a column's values [rows]; NaN stays NaN."""
        unit = self.units()[column]
        edges, scaled = np.array(self.edges[column]) / unit, values / unit
        if len(edges) < 2:
            return np.where(np.isnan(values), np.nan, 0.0)
        interval = np.clip(np.searchsorted(edges, scaled, side="right") - 1, 0, len(edges) - 2)
        low = edges[interval]
        with np.errstate(over="ignore"):
            return np.asarray(interval + np.clip((scaled - low) / (edges[interval + 1] - low), 0.0, 1.0))

    def filled(self) -> list[float]:
        """Per column the position that stands for a missing value."""
        return [float(self.positions(column, np.array([fill]))[0]) for column, fill in enumerate(self.fills)]


def spread(rows: int, limit: int = SAMPLE) -> np.ndarray:
    """Positions of at most `limit` rows, evenly spread over all of them; all rows where they are not more."""
    return np.arange(rows) if rows <= limit else (np.arange(limit) * (rows / limit)).astype(np.int64)


def _edges(values: np.ndarray, bins: int) -> list[float]:
    distinct = np.unique(values)
    if len(distinct) > bins + 1:
        distinct = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1), method="inverted_cdf"))
    edges = [float(value) for value in distinct]
    wide = np.diff(distinct / _unit(edges)) > NARROW
    return edges[:1] + [edge for edge, there in zip(edges[1:], wide, strict=True) if there]


def _unit(edges: list[float]) -> float:
    reach = max(map(abs, edges), default=0.0)
    return math.ldexp(1.0, math.frexp(reach)[1] - 1) if reach > LARGE else 1.0
