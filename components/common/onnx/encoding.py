"""How raw columns become the numbers that a model was fitted on: one plan, applied in numpy for training and in the graph.

Rules, the same in both forms:
- A category is a code from the training rows' vocabulary. Missing has a code of its own if it was seen in training. Rare
  categories share the code `other`, and an unseen one gets it too; without rare ones an unseen category is NaN.
- `None`, `nan` and `<NA>` count as missing unless the training rows held such a text as a real category: they are what ONNX
  Runtime makes of Python's missing values, which MLflow users pass.
- An infinite number is missing, and so is a date that no calendar holds.
- A date gives its calendar parts. Never the running time itself: what it holds beyond the parts is "later than all of
  training", which a model cannot have learned.
"""

from typing import Literal

import numpy as np
import polars as pl
from onnx import numpy_helper
from pydantic import BaseModel, ConfigDict, Field

from kfp_foundry.components.common.onnx.dates import CYCLES, PARTS, parts
from kfp_foundry.components.common.onnx.graph import DOUBLE, ML, STRING, Graph, string_tensor

MISSING_TEXTS = ("", "None", "nan", "<NA>")
LAST_SECOND = 1e12  # about the year 33,000
FAR = 1e6  # standard deviations; more than any training row can lie away, and small enough that no sum overflows


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Category(_Frozen):
    """A column of texts and the code of each."""

    name: str
    codes: dict[str, int] = Field(description="Text to code, from 0 without gaps; the empty text is a missing value.")
    other: int | None = Field(description="Code of rare and unseen texts; None leaves them NaN.")

    @property
    def width(self) -> int:
        """How many codes there are."""
        return max([*self.codes.values(), -1 if self.other is None else self.other], default=-1) + 1

    @property
    def _default(self) -> float:
        return np.nan if self.other is None else float(self.other)

    def _table(self) -> dict[str, float]:
        missing = float(self.codes[""]) if "" in self.codes else np.nan
        return dict.fromkeys(MISSING_TEXTS, missing) | {text: float(code) for text, code in self.codes.items()}

    def encode(self, texts: np.ndarray) -> np.ndarray:
        """Codes [rows] of texts [rows], as float64."""
        table = self._table()
        series = pl.Series(texts, dtype=pl.String)
        return series.replace_strict(list(table), list(table.values()), default=self._default, return_dtype=pl.Float64).to_numpy()

    def emit(self, graph: Graph, texts: str) -> str:
        """The same in a graph."""
        table = self._table()
        return graph.op(
            "LabelEncoder",
            texts,
            domain=ML,
            keys_tensor=string_tensor("keys", list(table)),
            values_tensor=numpy_helper.from_array(np.array(list(table.values())), "values"),
            default_tensor=numpy_helper.from_array(np.array([self._default]), "default"),
        )


class Scaling(_Frozen):
    """What a linear model needs of its numbers: no gaps, and one unit for all."""

    fill: list[float] = Field(description="Median of the training rows, put where a value is missing.")
    mean: list[float]
    scale: list[float] = Field(description="Standard deviation; 1 for a constant column.")
    flags: list[int] = Field(description="Positions of the columns that get a second one, saying where a value was missing.")


class Plan(_Frozen):
    """What the columns of the matrix are: categories, then numbers, then the parts of dates."""

    categories: list[Category] = Field(default_factory=list)
    numbers: list[str] = Field(default_factory=list)
    moments: dict[str, list[Literal["year", "month", "day", "weekday", "hour"]]] = Field(default_factory=dict)
    one_hot: bool = Field(False, description="One column of 0 and 1 per code, month, weekday and hour, instead of the code itself.")
    scaling: Scaling | None = Field(None, description="Applied to the numbers and the parts that are not one-hot.")

    @property
    def sources(self) -> list[str]:
        """For each column of the matrix the raw column that it comes from."""
        ones = [category.name for category in self.categories for _ in range(category.width if self.one_hot else 1)]
        ones += [name for name, part in self._cyclic for _ in CYCLES[part]]
        numeric = [*self.numbers, *(name for name, _ in self._straight)]
        flags = [numeric[position] for position in self.scaling.flags] if self.scaling else []
        return ones + numeric + flags

    @property
    def numeric(self) -> list[str]:
        """Names of the numbers and the parts that are not one-hot, which stand together behind all others."""
        return [*self.numbers, *(f"{part} of {name}" for name, part in self._straight)]

    @property
    def columns(self) -> list[str]:
        """Names of the matrix's columns, for people."""
        ones: list[str] = []
        for category in self.categories:
            texts = {code: text or "(missing)" for text, code in category.codes.items()}
            codes = [f"{category.name}={texts.get(code, '(other)')}" for code in range(category.width)]
            ones += codes if self.one_hot else [category.name]
        ones += [f"{part} of {name}={value}" for name, part in self._cyclic for value in CYCLES[part]]
        flags = [f"{self.numeric[position]} is missing" for position in self.scaling.flags] if self.scaling else []
        return ones + self.numeric + flags

    @property
    def _cyclic(self) -> list[tuple[str, str]]:
        return [(name, part) for name, chosen in self.moments.items() for part in chosen if self.one_hot and part in CYCLES]

    @property
    def _straight(self) -> list[tuple[str, str]]:
        return [(name, part) for name, chosen in self.moments.items() for part in chosen if (name, part) not in self._cyclic]

    def matrix(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """The matrix [rows, columns] of a feed (see `common.rows.feed`), as float64."""
        with np.errstate(all="ignore"):  # dates out of range pass through the calendar before they are dropped
            dates = {name: parts(_in_range(feed[name])) for name in self.moments}
        ones = [hot for category in self.categories for hot in self._codes(category.encode(feed[category.name]), category.width)]
        ones += [hot for name, part in self._cyclic for hot in _equal(dates[name][part], CYCLES[part])]
        numbers = [np.where(np.isinf(feed[name]), np.nan, feed[name]) for name in self.numbers]
        numbers += [dates[name][part] for name, part in self._straight]
        if self.scaling and numbers:
            numbers = self._scaled(np.column_stack(numbers), self.scaling)
        return np.ascontiguousarray(np.column_stack([*ones, *numbers]), dtype=np.float64)

    def _codes(self, codes: np.ndarray, width: int) -> list[np.ndarray]:
        return _equal(codes, tuple(range(width))) if self.one_hot else [codes]

    def _scaled(self, numbers: np.ndarray, scaling: Scaling) -> list[np.ndarray]:
        missing = np.isnan(numbers)
        with np.errstate(over="ignore"):
            standard = (np.where(missing, scaling.fill, numbers) - np.array(scaling.mean)) / np.array(scaling.scale)
        return [*np.clip(standard, -FAR, FAR).T, *missing[:, scaling.flags].T.astype(np.float64)]

    def emit(self, graph: Graph, inputs: list[str]) -> str:
        """The same matrix in a graph.

        Args:
            graph: Takes the nodes.
            inputs: Names of all raw columns, in the order in which the graph shall have them; one that the plan does not use
                becomes an input all the same, so that a served row has every feature of the contract.
        """
        texts = {category.name for category in self.categories}
        raw = {name: graph.input(name, STRING if name in texts else DOUBLE) for name in inputs}
        blocks = []
        for category in self.categories:
            codes = graph.column(category.emit(graph, raw[category.name]))
            blocks.append(_emit_equal(graph, codes, tuple(range(category.width))) if self.one_hot else codes)
        dates = {name: parts(graph.value(_emit_in_range(graph, raw[name]))) for name in self.moments}
        for name, part in self._cyclic:
            blocks.append(_emit_equal(graph, graph.column(dates[name][part].name), CYCLES[part]))
        numeric = [graph.column(raw[name]) for name in self.numbers] + [graph.column(dates[name][part].name) for name, part in self._straight]
        if numeric:
            numbers = graph.beside(numeric)
            numbers = graph.op("Where", graph.op("IsInf", numbers), graph.doubles(np.nan), numbers)
            blocks.append(self._emit_scaled(graph, numbers, self.scaling) if self.scaling else numbers)
        return graph.beside(blocks)

    def _emit_scaled(self, graph: Graph, numbers: str, scaling: Scaling) -> str:
        missing = graph.op("IsNaN", numbers)
        filled = graph.op("Where", missing, graph.doubles([scaling.fill]), numbers)
        standard = graph.op("Div", graph.op("Sub", filled, graph.doubles([scaling.mean])), graph.doubles([scaling.scale]))
        near = graph.op("Clip", standard, graph.doubles(-FAR), graph.doubles(FAR))
        if not scaling.flags:
            return near
        flags = graph.op("Gather", missing, graph.integers(scaling.flags), axis=1)
        return graph.beside([near, graph.op("Cast", flags, to=DOUBLE)])


def date_parts(is_date: bool) -> list[str]:
    """The calendar parts that a column gives: a date has no hour."""
    return [part for part in PARTS if not (is_date and part == "hour")]


def _equal(values: np.ndarray, wanted: tuple[int, ...]) -> list[np.ndarray]:
    return [(values == value).astype(np.float64) for value in wanted]


def _emit_equal(graph: Graph, column: str, wanted: tuple[int, ...]) -> str:
    return graph.op("Cast", graph.op("Equal", column, graph.doubles([wanted])), to=DOUBLE)


def _in_range(seconds: np.ndarray) -> np.ndarray:
    return np.where(np.abs(seconds) > LAST_SECOND, np.nan, seconds)


def _emit_in_range(graph: Graph, seconds: str) -> str:
    outside = graph.op("Greater", graph.op("Abs", seconds), graph.doubles(LAST_SECOND))
    return graph.op("Where", outside, graph.doubles(np.nan), seconds)
