"""Rows whose truth is known, and a model's predictions for them."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kfp_foundry.components.common.artifacts.model import Label, ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.errors import DataError, close_names
from kfp_foundry.components.common.metrics.scores import BinaryScores, Floats, MulticlassScores, RegressionScores, Scores

THREADS = 2
GROUPED = "Intervals take the rows of a group together, since they are not independent of each other."


@dataclass(frozen=True)
class Labelled:
    """Rows that can be judged.

    Args:
        frame: The rows.
        truth: Their target, in the form of a prediction.
        weights: Their weights by the contract's weight column; None: all the same.
        groups: Number of each row's group by the contract's group column; None: each for itself.
        missing: Rows left out because their target is missing.
        unknown: Labels that no model here was trained on, and how many rows were left out for each.
    """

    frame: pl.DataFrame
    truth: pl.Series
    weights: Floats | None
    groups: NDArray[np.int64] | None
    missing: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def left_out(self) -> list[str]:
        """What was left out, in words; one sentence per reason."""
        said = []
        if self.missing:
            said.append(f"{self.missing:,} row{_s(self.missing)} without a target {_was(self.missing)} left out.")
        for label, rows in sorted(self.unknown.items(), key=lambda item: (-item[1], item[0]))[:10]:
            said.append(
                f"{rows:,} row{_s(rows)} with the label {label!r} {_was(rows)} left out: no training row has it, so no prediction can match it."
            )
        return said


def judge(frame: pl.DataFrame, model: ModelFolder, labels: list[Label], where: str) -> Labelled:
    """Keeps the rows whose truth is known.

    Args:
        frame: Rows with the target.
        model: Its record says which column is the target and how its values are written.
        labels: The labels that can be predicted; not used for a regression.
        where: What the rows are called in an error.

    Raises:
        DataError: There is no target column, no row is left, or a weight is negative or missing.
    """
    target = model.record.target
    if target not in frame.columns:
        raise DataError(f"no target column {target!r}", where=where, remedy=close_names(target, frame.columns))
    truth = model.truth(frame)
    there = truth.is_not_null()
    if model.task is Task.REGRESSION:
        there = there & truth.is_finite().fill_null(value=False)
        unknown: dict[str, int] = {}
    else:
        known = truth.is_in(pl.Series(labels, dtype=truth.dtype).implode()).fill_null(value=False)
        counted = truth.filter(there & ~known).cast(pl.String).value_counts()
        unknown = dict(counted.rows())
        there = there & known
    missing = frame.height - int(there.sum()) - sum(unknown.values())
    if not there.any():
        reason = "every target is missing" if missing else "every label is one that the training rows do not have"
        raise DataError(
            f"none of {frame.height:,} rows can be judged: {reason}", where=f"{where}, column {target!r}", remedy="give rows with known outcomes"
        )
    rows = frame.filter(there)
    return Labelled(rows, truth.filter(there), _weights(rows, model.contract, where), _groups(rows, model.contract), missing, unknown)


def score(model: ModelFolder, rows: Labelled, threshold: float | None = None, labels: list[Label] | None = None) -> Scores:
    """Predicts the rows.

    Args:
        model: The model.
        rows: The rows.
        threshold: For a binary model: probability from which positive is predicted; None: 0.5.
        labels: For a multiclass model: the classes in order, those the model does not know among them; None: the model's.

    Raises:
        DataError: A feature is absent or of another type.
    """
    found = model.predict(rows.frame, threads=THREADS)
    if model.task is Task.REGRESSION:
        return RegressionScores(rows.truth.to_numpy(), found["prediction"].to_numpy(), rows.weights)
    if model.task is Task.BINARY:
        positive = (rows.truth == model.labels[1]).to_numpy()
        return BinaryScores(positive, found["probability"].to_numpy(), 0.5 if threshold is None else threshold, rows.weights)
    classes = model.labels if labels is None else labels
    own = {label: found[f"probability_{label}"].to_numpy() for label in model.labels}
    probability = np.stack([own.get(label, np.zeros(found.height)) for label in classes], axis=1)
    return MulticlassScores(_numbered(rows.truth, classes), probability, _numbered(found["prediction"], classes), rows.weights)


def _numbered(values: pl.Series, labels: list[Label]) -> NDArray[np.int64]:
    keys = pl.Series(labels, dtype=values.dtype)
    return values.replace_strict(keys, pl.Series(range(len(labels))), return_dtype=pl.Int64).to_numpy().astype(np.int64)


def _weights(rows: pl.DataFrame, contract: Contract, where: str) -> Floats | None:
    if contract.weight is None or contract.weight not in rows.columns:
        return None
    weights = rows[contract.weight].cast(pl.Float64)
    wrong = int((~(weights.is_finite() & (weights >= 0)).fill_null(value=False)).sum())
    if wrong:
        raise DataError(
            f"{wrong:,} weight{_s(wrong)} missing, negative or infinite",
            where=f"{where}, column {contract.weight!r}",
            remedy="give every row a weight of 0 or more",
        )
    if not weights.sum() > 0:
        raise DataError("all weights are 0", where=f"{where}, column {contract.weight!r}", remedy="give some rows a weight above 0")
    return weights.to_numpy()


def _groups(rows: pl.DataFrame, contract: Contract) -> NDArray[np.int64] | None:
    if contract.group is None or contract.group not in rows.columns:
        return None
    return rows[contract.group].rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
