"""The report of a validation: what was decided, which rows broke a rule, and what each column holds."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.verdict import Check, Outcome, Verdict, worst
from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.validation.validate_table.questions import ROWS, Column

SAMPLE = 20_000  # rows that a plot is drawn from
MAX_PLOTS = 6


def write(verdict: Verdict, columns: list[Column], facts: Mapping[str, Any], folder: DatasetFolder, path: str) -> None:
    """Writes the HTML report.

    Args:
        verdict: The decision with its checks.
        columns: The columns that were checked.
        facts: What the pass measured.
        folder: The table, for plots of columns that broke a limit.
        path: The file to write.
    """
    rows = int(facts[ROWS])
    failed, warned = ([check for check in verdict.checks if check.outcome == outcome] for outcome in ("fail", "warn"))
    report = Report("Validation", f"{folder.facts.source}, {human(rows)} rows")
    report.verdict(verdict.outcome, verdict.reason)
    report.facts({"Rows": rows, "Columns": folder.facts.columns, "Checks": len(verdict.checks), "Failed": len(failed), "Warnings": len(warned)})
    if failed or warned:
        report.section("What does not hold", "The first rows that break each check; row 1 is the table's first.")
        report.table([_line(check) for check in failed + warned])
        report.table([row for check in failed + warned for row in _examples(check)], caption="Where", status="", limit=500)
        _plots(report, [check.name for check in failed + warned], columns, folder)
    report.section("Columns").table([_column(column, facts, verdict) for column in columns], bars=["missing %"])
    report.section("All checks", "In the order of the contract.").table([_line(check) for check in verdict.checks], limit=1000)
    report.save(path)


def _line(check: Check) -> dict[str, object]:
    return {"check": check.name, "outcome": check.outcome, "allowed": check.limit, "found": check.value, "in words": check.message}


def _examples(check: Check) -> list[dict[str, object]]:
    return [
        {"check": check.name, "row": row["row"], "values": ", ".join(f"{name}: {human(value)}" for name, value in row.items() if name != "row")}
        for row in check.examples
    ]


def _column(column: Column, facts: Mapping[str, Any], verdict: Verdict) -> dict[str, object]:
    rows = int(facts[ROWS])
    outcome: Outcome = worst(check.outcome for check in verdict.checks if check.name.startswith(f"{column.name}: "))
    return {
        "column": column.name,
        "outcome": outcome,
        "role": str(column.spec.role),
        "type": str(column.spec.type),
        "missing %": round(100 * int(column.get(facts, "missing")) / rows, 2) if rows else 0.0,
        "smallest": column.get(facts, "min"),
        "mean": column.get(facts, "mean"),
        "largest": column.get(facts, "max"),
    }


def _plots(report: Report, broken: list[str], columns: list[Column], folder: DatasetFolder) -> None:
    """Histograms of the number columns that broke a limit, from a sample of evenly spaced rows."""
    numbers = [column.name for column in columns if column.is_number and any(name.startswith(f"{column.name}: ") for name in broken)][:MAX_PLOTS]
    if not numbers:
        return
    from kfp_foundry.components.common.report import plots

    every = max(1, folder.facts.rows // SAMPLE)
    sample = folder.scan().select(pl.col(numbers).cast(pl.Float64)).gather_every(every).collect(engine="streaming")
    share = percent(sample.height / folder.facts.rows) if every > 1 else "all"
    report.section(
        "Distributions", f"Of the columns that broke a limit, from {human(sample.height)} rows ({share}); the outermost values are left out."
    )
    for name in numbers:
        values = sample[name].drop_nulls().drop_nans()
        finite = values.filter(values.is_finite())
        if len(finite):
            report.figure(plots.histogram(finite.to_numpy(), xlabel=name), name, alt=f"histogram of {name}")
