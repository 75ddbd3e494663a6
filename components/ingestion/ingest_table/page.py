"""The report of an ingested table."""

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.ingestion.ingest_table.bad_rows import Quarantine
from kfp_foundry.components.ingestion.ingest_table.request import Request, Table


def page(table: Table, folder: DatasetFolder, missing: dict[str, int], bad: Quarantine, request: Request) -> Report:
    """Columns with their types and why, missing shares, bad rows, and what a person should look at."""
    facts = folder.facts
    warned = {name: column.warning for name, column in table.columns.items() if column.warning}
    report = Report("Ingested table", f"{mask_address(request.source)}, {facts.rows:,} rows")
    if bad.count or warned or table.notes:
        report.verdict("warn", _summary(bad.count, len(warned), len(table.notes)))
    else:
        report.verdict("pass", "Every line is a row, and nothing is doubtful.")
    report.facts({"Rows": facts.rows, "Columns": facts.columns, "Bad rows": bad.count, "Files": table.files, "Bytes": facts.bytes})
    report.text(f"Read as {table.format}. Types were decided over every row of the source. Fingerprint of the content: {facts.fingerprint[:16]}.")
    if not request.whole and table.read is not None:
        report.text(f"The source has {table.read:,} rows; {facts.rows:,} are left after {_asked(request)}.")
    for note in table.notes:
        report.text(note[0].upper() + note[1:] + ".")
    report.section("Columns", "What each column was found to be, and why.")
    report.table(_rows(table, missing, facts.rows), status="look", limit=2_000)
    if bad.count:
        report.section("Bad rows", f"{bad.count:,} lines are no rows of the table; all are in the quarantine artifact. The first ones:")
        report.table([{"file": row.file, "line": row.line, "reason": row.reason, "text": row.text[:200]} for row in bad.shown])
    return report


def missing_counts(folder: DatasetFolder) -> dict[str, int]:
    """Number of missing values by column, as the Parquet parts themselves say."""
    counts: dict[str, int] = {}
    for name, statistics in chunk_statistics(folder):
        counts[name] = counts.get(name, 0) + statistics.null_count
    return counts


def chunk_statistics(folder: DatasetFolder) -> Iterator[tuple[str, Any]]:
    """The statistics that Parquet keeps for each column of each row group, with the column's name."""
    for part in sorted(folder.path.glob("*.parquet")):
        found = pq.read_metadata(part)
        for group in range(found.num_row_groups):
            for at in range(found.num_columns):
                column = found.row_group(group).column(at)
                yield column.path_in_schema, column.statistics


def _rows(table: Table, missing: dict[str, int], rows: int) -> list[dict[str, object]]:
    return [
        {
            "column": name,
            "type": column.type,
            "missing": f"{missing[name] / rows:.1%}" if missing[name] else "none",
            "look": "warn" if column.warning else "ok",
            "why": column.warning or column.why,
        }
        for name, column in table.columns.items()
    ]


def _summary(bad: int, warned: int, notes: int) -> str:
    parts = [f"{bad:,} bad rows were put aside" if bad else "", f"{warned} columns deserve a look" if warned else ""]
    parts.append(f"{notes} notes on the file" if notes else "")
    return "; ".join(part for part in parts if part) + "."


def _asked(request: Request) -> str:
    parts = [f"the condition {request.where}" if request.where else "", f"the limit of {request.max_rows:,} rows" if request.max_rows else ""]
    return " and ".join(part for part in parts if part)
