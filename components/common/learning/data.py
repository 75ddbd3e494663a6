"""From Dataset and contract to what a learner takes: features, target, weights."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from kfp_foundry.components.common import rows
from kfp_foundry.components.common.artifacts.model import Label, as_labels
from kfp_foundry.components.common.contract import Contract, Task, Type
from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.common.labels import find_positive, named

NUMBERS = (Type.INTEGER, Type.NUMBER, Type.BOOLEAN)
CLASSES = (Type.STRING, *NUMBERS)


@dataclass(frozen=True)
class Part:
    """The rows of one Dataset that have a target.

    Args:
        frame: The features, in the contract's types.
        feed: The same as arrays, see `rows.feed`.
        target: Positions in `labels` [rows] for a class, values for a regression.
        weights: Sample weights [rows] from the contract, or None.
        dropped: Rows left out, for want of a target or with a class that the training rows do not have.
    """

    frame: pl.DataFrame
    feed: dict[str, np.ndarray]
    target: np.ndarray
    weights: np.ndarray | None
    dropped: int

    def __len__(self) -> int:
        return self.frame.height


def target_of(contract: Contract) -> str:
    """The target's name, once it is clear that a model can be trained.

    Raises:
        UserError: The contract names no target or no feature, or a target of a type that does not suit the task.
    """
    if contract.target is None or contract.task is None:
        raise UserError(
            "the contract names no target", where="training", remedy="give `target` when the contract is inferred, or a field the role target"
        )
    kind = contract.field(contract.target).type
    allowed = CLASSES if contract.is_classification else NUMBERS
    if kind not in allowed:
        remedy = f"choose a column of another type ({', '.join(allowed)}), or another task"
        raise UserError(f"target {contract.target!r} is a {kind}, the task is {contract.task}", where="training", remedy=remedy)
    if not contract.features:
        raise UserError("no column has the role feature", where="training", remedy="give at least one column of the contract the role feature")
    return contract.target


def read(table: pl.LazyFrame, contract: Contract, where: str) -> tuple[pl.DataFrame, pl.Series]:
    """Reads the features, weights and target of a table.

    Args:
        table: All rows.
        contract: Says the roles.
        where: What the table is called in an error.

    Returns:
        The rows with the features and the weight column; and their target in the form of `as_labels`, null where missing.

    Raises:
        DataError: A column is absent; the message says the close names.
    """
    target, *columns = columns_of(table, contract, where)
    frame = table.select(*columns, target).collect()
    return rows.conform(frame, contract, columns, where), as_labels(frame[target], contract)


def columns_of(table: pl.LazyFrame, contract: Contract, where: str) -> list[str]:
    """The columns that a training reads: the target, the features, and the weight if there is one.

    Raises:
        DataError: A column is absent; the message says the close names.
    """
    target, known = target_of(contract), table.collect_schema().names()
    columns = contract.features + ([contract.weight] if contract.weight else [])
    for name in [target, *columns]:
        if name not in known:
            role = "target" if name == target else "column"
            raise DataError(f"{role} {name!r} is not in the table", where=where, remedy=close_names(name, known))
    return [target, *columns]


def find_labels(target: pl.Series, contract: Contract) -> list[Label]:
    """The classes in the training rows: the negative and the positive one, or all of them, sorted; empty for a regression.

    Raises:
        DataError: There is no target value, only one, a class of a single row, or more than two classes for a binary task.
    """
    name, known = target.name, target.drop_nulls()
    if contract.is_classification:
        return labels_of(name, {row[0]: row[1] for row in known.value_counts().sort(name).iter_rows()}, contract)
    check_spread(name, len(known), known.min(), known.max())
    check_finite(name, bool(known.is_finite().all()))
    return []


def check_finite(name: str, finite: bool) -> None:
    """Refuses a regression's target that is not.

    Raises:
        DataError: It is not finite.
    """
    if not finite:
        raise DataError(f"target {name!r} holds infinite values", where="train_model", remedy="remove these rows with `where` when ingesting")


def check_spread(name: str, rows: int, low: object, high: object) -> None:
    """Refuses a target that tells nothing.

    Args:
        name: The target.
        rows: How many rows have one.
        low: The smallest value.
        high: The largest.

    Raises:
        DataError: No row has a value, or all have the same.
    """
    where = "train_model"
    if not rows:
        raise DataError(f"target {name!r} is missing in every training row", where=where, remedy="choose another target or repair the column")
    if low == high:
        raise DataError(
            f"target {name!r} is constant: {low!r} in all {rows:,} training rows", where=where, remedy="choose another target or more rows"
        )


def labels_of(name: str, counts: dict[Label, int], contract: Contract) -> list[Label]:
    """The classes of a target, from how many training rows have each, sorted.

    Raises:
        DataError: As `find_labels`.
    """
    where = "train_model"
    check_spread(name, sum(counts.values()), next(iter(counts), None), next(reversed(counts), None))
    lonely = [label for label, count in counts.items() if count == 1]
    if lonely:
        raise DataError(
            f"class {lonely[0]!r} of target {name!r} has a single training row",
            where=where,
            remedy="remove the class, join it to another, or add rows",
        )
    labels: list[Label] = list(counts)
    if contract.task is not Task.BINARY:
        return labels
    if len(labels) > 2:
        raise DataError(
            f"target {name!r} has {len(labels)} classes, but the task is binary", where=where, remedy="set task: multiclass in the contract"
        )
    positive = _positive(counts, contract)
    return [label for label in labels if label != positive] + [positive]


def _positive(counts: dict[Label, int], contract: Contract) -> Label:
    if contract.positive is None:
        return find_positive(counts)[0]
    label = named(counts, contract.positive)
    if label is None:
        raise DataError(
            f"the positive label {contract.positive!r} is not in the training rows",
            where="training",
            remedy=f"set positive to one of {', '.join(repr(known) for known in counts)}",
        )
    return label


def part(frame: pl.DataFrame, target: pl.Series, contract: Contract, labels: list[Label], where: str) -> Part:
    """The rows that can be learned from.

    Raises:
        DataError: A weight is missing, negative or infinite, or all are 0.
    """
    positions = target.replace_strict(labels, list(range(len(labels))), default=None, return_dtype=pl.Int64) if labels else target
    usable = positions.is_not_null()
    kept = frame.filter(usable)
    features = kept.select(contract.features)
    return Part(
        frame=features,
        feed=rows.feed(features, contract),
        target=positions.filter(usable).to_numpy(),
        weights=_weights(kept[contract.weight], where) if contract.weight else None,
        dropped=frame.height - kept.height,
    )


def weights_of(values: pl.Series, where: str) -> np.ndarray:
    """Sample weights [rows] of a column.

    Raises:
        DataError: One is missing, negative or infinite.
    """
    weights = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise DataError(
            f"{int(bad.sum()):,} rows have a missing, negative or infinite weight in {values.name!r}",
            where=where,
            remedy="repair the column or give it another role",
        )
    return np.asarray(weights)


def refuse_nothing(total: float, name: str, where: str) -> None:
    """Refuses weights of which none is above 0.

    Raises:
        DataError: Their sum is 0.
    """
    if total <= 0:
        raise DataError(f"all weights in {name!r} are 0", where=where, remedy="repair the column or give it another role")


def _weights(values: pl.Series, where: str) -> np.ndarray:
    weights = weights_of(values, where)
    refuse_nothing(float(weights.any()), values.name, where)
    return weights


def check_balance(class_weight: str, is_class: bool) -> None:
    """Refuses a `class_weight` that cannot be.

    Raises:
        UserError: It is another word than `balanced`, or the target is no class.
    """
    if class_weight not in ("", "balanced"):
        raise UserError(f"class_weight is {class_weight!r}", where="training", remedy="choose balanced, or leave it empty")
    if class_weight and not is_class:
        raise UserError("class_weight is balanced, but the task is a regression", where="training", remedy="leave class_weight empty")


def balance(part: Part, class_weight: str, classes: int) -> np.ndarray | None:
    """Weights [rows] for fitting: the contract's, times the inverse of the class's frequency if `class_weight` is `balanced`.

    Raises:
        UserError: Another word, or a regression.
    """
    check_balance(class_weight, classes > 0)
    if not class_weight:
        return part.weights
    own = np.ones(len(part)) if part.weights is None else part.weights
    totals = np.bincount(part.target, weights=own, minlength=classes)
    return np.asarray(own * (own.sum() / (classes * totals))[part.target])
