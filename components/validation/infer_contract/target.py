"""What is predicted, found from the target's values: the task, the classes, and which class is the positive one."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from kfp_foundry.components.common.contract import Scalar, Task, Type
from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.common.labels import find_positive, named
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.validation.infer_contract.profile import FEW, Profile

log = logging.getLogger(__name__)

MOST_CLASSES = 20  # different whole numbers up to which they count as classes
ROWS_PER_CLASS = 10


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        task: binary, multiclass or regression.
        positive: For a binary task: the label whose probability is predicted.
        why: How task and label were found, for people.
    """

    task: Task
    positive: Scalar | None
    why: str


def find_target(column: Profile, task: str = "auto", positive: str | Scalar = "") -> Target:
    """Finds task and positive label.

    Args:
        column: The target's profile, with its values counted.
        task: `auto`, or what the user says it is.
        positive: The positive label as the user wrote it; empty: found.

    Raises:
        UserError: An unknown task or label, or a task that does not fit the values.
        DataError: The target is missing everywhere, is constant, or has a class with a single row.
    """
    where = f"target {column.name!r}"
    _check_usable(column, where)
    chosen, why = _task(column, task, where)
    if chosen is Task.REGRESSION:
        if positive != "":
            raise UserError(f"positive is {positive!r}, but the task is regression", where=where, remedy="leave it empty, or set task=binary")
        return Target(chosen, None, why)
    _check_classes(column, chosen, where)
    why += _same_but_for_spelling(column.counts, where)
    if chosen is Task.MULTICLASS:
        if positive != "":
            raise UserError(f"positive is {positive!r}, but there are {column.distinct} classes", where=where, remedy="leave it empty")
        return Target(chosen, None, why)
    label, because = _positive(column.counts, positive, where)
    return Target(chosen, label, f"{why}; {label!r} is the positive label, {because}")


def _check_usable(column: Profile, where: str) -> None:
    if column.kind in (Type.ANY, Type.DATE, Type.DATETIME, Type.TIME):
        raise UserError(f"holds {column.dtype} values, which cannot be predicted", where=where, remedy="choose a class or a number as the target")
    if column.present == 0:
        raise DataError(f"all {column.rows:,} rows miss it", where=where, remedy="choose another target, or repair the column")
    only = next(iter(column.counts), column.least)
    if column.distinct == 1 or (column.is_number and column.least == column.most):
        raise DataError(f"has only one value, {only!r}", where=where, remedy="there is nothing to learn; choose another target or more rows")


def _task(column: Profile, task: str, where: str) -> tuple[Task, str]:
    known = ["auto", *(str(t) for t in Task)]
    if task not in known:
        raise UserError(f"task is {task!r}", where=where, remedy=close_names(task, known))
    found, why = _found_task(column)
    if task == "auto" or task == found:
        return found, why if task == "auto" else f"asked for by task={task}"
    if task == Task.BINARY:
        raise UserError(f"task is 'binary', but there are {column.distinct:,} different values", where=where, remedy="use task=auto")
    if task == Task.REGRESSION and not column.is_number:
        raise UserError(f"task is 'regression', but the values are no numbers ({column.kind})", where=where, remedy="use task=auto")
    if task == Task.MULTICLASS and column.distinct == 2:
        raise UserError("task is 'multiclass', but there are two different values", where=where, remedy="use task=binary or task=auto")
    return Task(task), f"asked for by task={task}"


def _found_task(column: Profile) -> tuple[Task, str]:
    if column.distinct == 2:
        return Task.BINARY, f"it has two different values, {' and '.join(repr(v) for v in sorted(column.counts, key=str))}"
    if column.kind is Type.STRING:
        return Task.MULTICLASS, f"it is a text with {column.distinct:,} different values"
    whole = all(float(value).is_integer() for value in column.counts) if column.counts else column.kind is Type.INTEGER
    if whole and column.distinct <= MOST_CLASSES and column.present >= ROWS_PER_CLASS * column.distinct:
        return (
            Task.MULTICLASS,
            f"it has {column.distinct} different whole numbers, at most {MOST_CLASSES} count as classes; task=regression says otherwise",
        )
    if whole:
        return Task.REGRESSION, f"it is a whole number with {human(column.distinct)} different values, more than {MOST_CLASSES} or few rows for each"
    return Task.REGRESSION, "it is a number with a fraction"


def _check_classes(column: Profile, task: Task, where: str) -> None:
    if column.distinct > FEW:
        raise DataError(
            f"has {column.distinct:,} different values, too many for classes",
            where=where,
            remedy="choose another target, or task=regression for a number",
        )
    if column.is_unique:
        remedy = "choose another target" + (", or task=regression" if column.is_number else "")
        raise DataError("is different in every row, so no class can be learnt", where=where, remedy=remedy)
    lonely = [value for value, rows in column.counts.items() if rows == 1]
    if lonely:
        more = f" (of {len(lonely)} such classes)" if len(lonely) > 1 else ""
        raise DataError(
            f"class {sorted(lonely, key=str)[0]!r} has a single row{more}",
            where=where,
            remedy="leave such rows out with `where`, join rare classes, or give more rows",
        )


def _same_but_for_spelling(counts: Mapping[Any, int], where: str) -> str:
    """Classes such as `Yes` and `yes`: they stay apart, since only people know whether they are the same, and it is said."""
    alike: dict[str, list[str]] = {}
    for label in sorted(counts, key=str):
        if isinstance(label, str):
            alike.setdefault(" ".join(label.casefold().split()), []).append(repr(label))
    found = "; ".join(" and ".join(labels) for labels in alike.values() if len(labels) > 1)
    if not found:
        return ""
    log.warning("%s: classes that differ only in case or spaces count as different: %s; write each class in one way", where, found)
    return f"; classes that differ only in case or spaces count as different: {found}"


def _positive(counts: Mapping[Any, int], wanted: str | Scalar, where: str) -> tuple[Scalar, str]:
    if wanted == "":
        label, because = find_positive(counts)
        return _scalar(label), because
    label = named(counts, wanted)
    if label is None:
        choice = ", ".join(repr(known) for known in sorted(counts, key=str))
        raise UserError(f"positive is {wanted!r}", where=where, remedy=f"choose one of {choice}")
    return _scalar(label), "as asked for"


def _scalar(label: Any) -> Scalar:
    return label if isinstance(label, get_args(Scalar)) else float(label)
