"""Encoded rows as they stand in a training's memory: whole codes, positions of numbers, target and weight."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from kfp_foundry.components.common.learning.network.numbers import Numbers

FLOAT_CELL = np.float32  # every cell is four bytes wide, so that a row is one stretch of memory


@dataclass(frozen=True)
class Layout:
    """Which rows of an embedding table belong to which column, and how numbers become positions.

    Args:
        widths: How many codes each category has.
        numbers: The columns of numbers, which stand behind the categories in the matrix.
    """

    widths: tuple[int, ...]
    numbers: Numbers

    @property
    def offsets(self) -> np.ndarray:
        """Where each category's codes begin in the embedding table [categories]."""
        return np.concatenate([[0], np.cumsum(self.widths)])[: len(self.widths)].astype(np.int64)

    @property
    def unknown(self) -> np.ndarray:
        """Where the row for an unknown text of each category is [categories]: behind all codes."""
        return np.asarray(sum(self.widths) + np.arange(len(self.widths), dtype=np.int64))

    def codes(self, matrix: np.ndarray) -> np.ndarray:
        """Rows of the embedding table [rows, categories], int32, for the codes in a plan's matrix (NaN: unknown)."""
        given = matrix[:, : len(self.widths)]
        return np.where(np.isnan(given), self.unknown, np.nan_to_num(given) + self.offsets).astype(np.int32)

    def positions(self, matrix: np.ndarray, kind: type = np.float64) -> np.ndarray:
        """Positions [rows, numbers] for the numbers in a plan's matrix; found in float64, kept as `kind`."""
        first = len(self.widths)
        found: np.ndarray = np.empty((len(matrix), len(self.numbers.edges)), dtype=kind)
        for column in range(found.shape[1]):
            found[:, column] = self.numbers.positions(column, matrix[:, first + column])
        return found


@dataclass(frozen=True)
class Table:
    """Encoded rows.

    Args:
        cells: [rows, categories + numbers + 2], int32; the numbers, the target of a regression and the weight are the bits of a float32.
        categories: How many columns of codes stand in front.
        is_class: Whether the target is a class.
    """

    cells: np.ndarray
    categories: int
    is_class: bool

    @classmethod
    def empty(cls, rows: int, layout: Layout, is_class: bool) -> Self:
        """A table to be filled part by part."""
        width = len(layout.widths) + len(layout.numbers.edges) + 2
        return cls(np.zeros((rows, width), dtype=np.int32), len(layout.widths), is_class)

    def fill(self, start: int, layout: Layout, matrix: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> None:
        """Encodes rows of a plan's matrix into the table, from row `start`; without weights each row weighs 1."""
        rows = slice(start, start + len(matrix))
        numbers = layout.positions(matrix, FLOAT_CELL)
        self.cells[rows, : self.categories] = layout.codes(matrix)
        self.cells[rows, self.categories : -2] = numbers.view(np.int32)
        self.cells[rows, -2] = target if self.is_class else np.asarray(target, dtype=FLOAT_CELL).view(np.int32)
        self.cells[rows, -1] = (np.ones(len(matrix), FLOAT_CELL) if weights is None else np.asarray(weights, dtype=FLOAT_CELL)).view(np.int32)

    def __len__(self) -> int:
        return len(self.cells)

    def weights(self) -> np.ndarray:
        """The rows' weights [rows], float32."""
        return self.cells[:, -1].view(FLOAT_CELL)

    def weigh(self, factor: float, start: int = 0, stop: int | None = None) -> None:
        """Multiplies the weights of some rows."""
        self.weights()[start:stop] *= FLOAT_CELL(factor)


@dataclass(frozen=True)
class Batch:
    """Rows on a device, each column a view of the same cells.

    Args:
        codes: [rows, categories], int32: rows of the embedding table.
        numbers: [rows, numbers], float32: positions, NaN where missing.
        target: [rows], int32 for a class, float32 for a regression.
        weights: [rows], float32.
    """

    codes: torch.Tensor
    numbers: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, cells: torch.Tensor, table: Table) -> Self:
        """The columns of a table's cells [rows, columns], without a copy."""
        target = cells[:, -2]
        return cls(
            codes=cells[:, : table.categories],
            numbers=cells[:, table.categories : -2].view(torch.float32),
            target=target if table.is_class else target.view(torch.float32),
            weights=cells[:, -1].view(torch.float32),
        )
