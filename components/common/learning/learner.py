"""What every algorithm is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.onnx.graph import Graph
from kfp_foundry.components.common.onnx.heads import Link


@dataclass(frozen=True)
class Examples:
    """Encoded rows: matrix [rows, columns], target [rows] and weights [rows] or None."""

    matrix: np.ndarray
    target: np.ndarray
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.target)


# Called after each round or epoch with its number, from 1, and a function that gives the predictions for the validation rows at this
# moment: probabilities or values [rows], or probabilities [rows, classes]. It only looks, or raises
# `stopped.Stopped`: the model does not change.
Watch = Callable[[int, Callable[[], np.ndarray]], None]


@dataclass(frozen=True)
class Job:
    """All that decides a fit.

    Args:
        task: What is predicted.
        classes: How many classes; 0 for a regression.
        train: Rows to fit on.
        validation: Rows for early stopping and the learning curve; may be empty.
        categorical: Positions of the matrix's columns that hold codes.
        monotone: One of -1, 0, 1 per column of the matrix; empty for no constraint.
        params: In the library's own words, checked and completed.
        early_stopping_rounds: Rounds without gain after which fitting ends; 0 for none.
        seed: Of every random choice.
        threads: CPUs to use; the result does not depend on it.
        watch: Looks on while rounds or epochs go by, where there are validation rows and the library lets somebody look; or None.
        shared: What fits on the same rows keep for each other, such as binned columns; None to keep nothing.
    """

    task: Task
    classes: int
    train: Examples
    validation: Examples
    categorical: list[int]
    monotone: list[int]
    params: dict[str, Any]
    early_stopping_rounds: int
    seed: int
    threads: int
    watch: Watch | None = None
    shared: dict[Any, Any] | None = None

    @property
    def stops_early(self) -> bool:
        """Whether validation rows decide when to stop."""
        return self.early_stopping_rounds > 0 and len(self.validation) > 0


@dataclass(frozen=True)
class Fitted:
    """A fitted model, as its library computes it and as a graph.

    Args:
        scores: Matrix to raw scores [rows] or [rows, classes], computed from `native` by the library itself where it can.
        emit: Adds the same to a graph: the matrix's tensor to raw scores [rows, outputs].
        link: What turns scores into probabilities or values.
        native: The library's own form, file name to content.
        importance: Weight of each column of the matrix; not negative.
        curve: Loss after each round, by the name of the rows; empty for a model fitted in one go.
        loss: What `curve` shows.
        rounds: Boosting rounds kept; 0 for a linear model.
        notes: What a person should know, such as that the solver stopped before it converged.
    """

    scores: Callable[[np.ndarray], np.ndarray]
    emit: Callable[[Graph, str], str]
    link: Link
    native: Mapping[str, bytes]
    importance: np.ndarray
    curve: Mapping[str, list[float]] = field(default_factory=dict)
    loss: str = ""
    rounds: int = 0
    notes: tuple[str, ...] = ()
