"""Holding a table to its contract: one pass answers every question, a second one shows rows where an answer was no."""

import datetime as dt
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw

from kfp_foundry.components.common import scan
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.step import step
from kfp_foundry.components.validation.validate_table import page
from kfp_foundry.components.validation.validate_table.questions import Column, Question, overview, questions

log = logging.getLogger(__name__)

GATE = "validate_table"
MAX_SHOWN = 40  # checks whose rows are looked for; beyond that nobody reads on


@dataclass(frozen=True)
class Validation:
    """What was found.

    Args:
        verdict: Every check with its outcome.
        columns: The columns that were checked.
        facts: What the pass measured, by name.
    """

    verdict: Verdict
    columns: list[Column]
    facts: Mapping[str, Any]


@step
def run(dataset: Artifact, contract: Artifact, verdict: Artifact, report: Artifact, engine: str, examples: int) -> tuple[str]:
    """Reads table and contract, validates, writes the verdict and its report, and returns the outcome."""
    folder, agreed = DatasetFolder.open(dataset), Contract.load(contract.path)
    table = scan.open_scan(sorted(folder.path.glob("*.parquet")), engine)
    found = validate(table, agreed, examples)
    found.verdict.write(verdict)
    page.write(found.verdict, found.columns, found.facts, folder, report.path)
    log.info("%s: %s", found.verdict.outcome, found.verdict.reason)
    return (found.verdict.outcome,)


def validate(table: Any, contract: Contract, examples: int = 5, now: dt.datetime | None = None) -> Validation:
    """Holds a table to a contract.

    All questions are answered in one pass of streamed aggregates. Where some row breaks a rule, a second pass counts such
    rows and takes the first few of them, with their numbers.

    Args:
        table: A Polars LazyFrame, a DuckDB relation, or a Narwhals LazyFrame over one of them.
        contract: What the table must satisfy; columns with the role `ignore` are not looked at.
        examples: Rows to show per failing check; 0 shows none.
        now: The time against which freshness is measured; default: the present.

    Raises:
        UserError: A pattern of the contract is no regular expression.

    Example:
        >>> validate(pl.scan_parquet("flights.parquet"), contract).verdict.outcome
        'pass'
    """
    rows = table if isinstance(table, nw.LazyFrame) else nw.from_native(table)
    asked, columns = questions(contract, rows.collect_schema(), now or dt.datetime.now(dt.UTC))
    measures = overview(columns)
    for question in asked:
        measures |= question.measures
    facts = scan.aggregate(rows, measures)
    answered = [(question, question.check(facts)) for question in asked]
    broken = [(question, check) for question, check in answered if check.outcome != "pass"]
    _count(rows, broken)
    if examples > 0:
        _show(rows, broken[:MAX_SHOWN], contract.ids, examples)
    checks = [check for _, check in answered]
    return Validation(Verdict(gate=GATE, checks=checks, reason=_reason(checks)), columns, facts)


def _reason(checks: list[Check]) -> str:
    failed, warned = ([check.name for check in checks if check.outcome == outcome] for outcome in ("fail", "warn"))
    if failed:
        return f"{len(failed)} of {len(checks)} checks failed: {_some(failed)}"
    if warned:
        return f"no check failed, {len(warned)} of {len(checks)} warn: {_some(warned)}"
    return f"all {len(checks)} checks hold"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _count(rows: nw.LazyFrame[Any], broken: list[tuple[Question, Check]]) -> None:
    """Adds to each message how many rows break the check, where the first pass did not count them."""
    uncounted = {question.name: (question.broken, check) for question, check in broken if question.broken is not None and not question.measures}
    counts = scan.aggregate(rows, {name: condition.cast(nw.Int64).sum() for name, (condition, _) in uncounted.items()})
    for name, (_, check) in uncounted.items():
        count = int(counts[name] or 0)
        check.message += f" ({count:,} {'row' if count == 1 else 'rows'})"


def _show(rows: nw.LazyFrame[Any], broken: list[tuple[Question, Check]], ids: list[str], limit: int) -> None:
    """Puts the first failing rows into their checks."""
    table, known = scan.numbered(rows), set(rows.collect_schema().names())
    selections, shown = [], []
    for question, check in broken:
        if question.broken is not None:
            names = dict.fromkeys([scan.ROW, *(name for name in ids if name in known), *question.columns])
            selections.append(table.filter(question.broken).select(*names))
            shown.append(check)
    for check, found in zip(shown, scan.first_rows(selections, limit), strict=True):
        check.examples = [_example(row) for row in found]
    for question, check in broken:
        if question.repeated:
            check.examples = _repeated(table, question.repeated, limit)


def _repeated(table: nw.LazyFrame[Any], names: tuple[str, ...], limit: int) -> list[dict[str, Any]]:
    """The first values that stand in several rows, each with its first row and how often it stands there."""
    times, row = "times" if "times" not in names else "times over", scan.ROW
    present = table.filter(~nw.all_horizontal(*(nw.col(name).is_null() for name in names), ignore_nulls=False))
    grouped = present.group_by(*names).agg(nw.len().alias(times), nw.col(row).min())
    return [_example(item) for item in scan.first_rows([grouped.filter(nw.col(times) > 1).sort(row)], limit)[0]]


def _example(found: dict[str, Any]) -> dict[str, Any]:
    """A row to show: its number as `row`, then its values; a column of that name is told apart."""
    values = {name if name != "row" else "row (column)": _plain(value) for name, value in found.items() if name != scan.ROW}
    return {"row": found[scan.ROW]} | values


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; infinities and dates as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else human(value)
