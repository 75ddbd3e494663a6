"""Reading a table from anywhere, and writing it as a Dataset: nothing is lost, nothing is guessed from the first rows only."""

import datetime
import errno
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.files import unwritable
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.step import step
from kfp_foundry.components.ingestion.ingest_table import columnar, delimited, kinds, plain, sql
from kfp_foundry.components.ingestion.ingest_table.bad_rows import Quarantine
from kfp_foundry.components.ingestion.ingest_table.page import chunk_statistics, missing_counts, page
from kfp_foundry.components.ingestion.ingest_table.request import Request, Table, Workplace
from kfp_foundry.components.ingestion.ingest_table.sources import fetch, is_database

log = logging.getLogger(__name__)

READERS = {"csv": delimited.read, "jsonl": columnar.read_json_lines, "parquet": columnar.read_parquet, "arrow": columnar.read_arrow}


@step
def run(
    dataset: Artifact,
    quarantine: Artifact,
    report: Artifact,
    source: str,
    format: str = "auto",  # noqa: A002
    query: str = "",
    columns: Sequence[str] = (),
    where: str = "",
    max_rows: int = 0,
    delimiter: str = "",
    encoding: str = "",
    decimal: str = "",
    null_values: Sequence[str] = (),
    on_bad_rows: str = "stop",
) -> tuple[int, int]:
    """Reads the source, writes the dataset, the bad rows and the report; returns the numbers of rows and of bad rows."""
    request = Request(source, format, query, tuple(columns), where, int(max_rows), delimiter, encoding, tuple(null_values), decimal)
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder, Quarantine(quarantine.path, on_bad_rows) as bad:
        try:
            table, written = ingest(request, Workplace(Path(folder), bad), dataset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise unwritable(Path(folder), error) from error
            raise
        page(table, written, missing_counts(written), bad, request).save(report.path)
    dataset.metadata.update(format=table.format, files=table.files, bad_rows=bad.count)
    quarantine.metadata.update(rows=bad.count)
    _say(table, written, bad)
    return written.facts.rows, bad.count


def ingest(request: Request, place: Workplace, dataset: Artifact | str | Path) -> tuple[Table, DatasetFolder]:
    """Reads a source and writes it as a Dataset.

    Args:
        request: What to read.
        place: Scratch folder and receiver of bad rows.
        dataset: The artifact or folder to write.

    Returns:
        What was found out about the columns, and the Dataset.

    Raises:
        DataError: The data cannot be read.
        PlatformError: A place cannot be reached or written.
        UserError: A parameter is wrong.
    """
    table = read(request, place)
    for last in (table.exact is None, True):
        try:
            written = DatasetFolder.write(dataset, table.chosen(request).rows, source=mask_address(request.source))
            problem = _unproved(table, written, request)
        except pl.exceptions.PolarsError as error:
            problem = str(error).splitlines()[0]
        if not problem:
            return _looked_at(table.chosen(request), written), written
        if last:
            raise DataError(
                f"cannot be read as {table.format}: {problem}", where=mask_address(request.source), remedy="write the file again, or set format"
            )
        log.info("a sample of the rows misled (%s): types are decided over every row", problem)
        assert table.exact is not None
        table = table.exact()
    raise AssertionError("unreachable")


def read(request: Request, place: Workplace) -> Table:
    """Opens a source as a table, whatever it is; raises as `ingest`."""
    request.check()
    plain.check_format(request.format)
    if is_database(request.source):
        return sql.read_query(request, place)
    if request.format == "sql":
        raise UserError(
            f"source is {mask_address(request.source)!r}",
            where="ingest_table",
            remedy="for format=sql give sqlite:///file.db or postgresql://host/name",
        )
    if request.query:
        raise UserError("query is only for databases", where="ingest_table", remedy="use where and columns, or give a database as source")
    pieces = [plain.plain(piece, place.scratch, request.encoding) for piece in fetch(request.source, place.scratch)]
    formats = {plain.format_of(piece, request.format): piece.name for piece in pieces}
    if len(formats) > 1:
        raise DataError(
            f"files of several formats: {', '.join(f'{name} is {kind}' for kind, name in formats.items())}",
            where=mask_address(request.source),
            remedy="give a glob such as data/*.csv",
        )
    return READERS[next(iter(formats))](pieces, request, place)


def _unproved(table: Table, written: DatasetFolder, request: Request) -> str:
    """Why what was written cannot be trusted; empty if it can."""
    if request.whole and table.read is not None and written.facts.rows != table.read:
        return f"{table.read:,} rows were counted, but {written.facts.rows:,} were read"
    for name, (low, high) in _extremes(written).items():
        if isinstance(low, datetime.date) and low.year < kinds.EARLIEST_YEAR and table.columns[name].type.startswith(("date, ", "datetime, ")):
            return "a year has two digits"
        if table.exact is not None and _is_infinite(low, high):
            return f"column {name!r} holds infinite numbers, or numbers too large"
    return ""


def _is_infinite(*ends: Any) -> bool:
    return any(isinstance(end, float) and math.isinf(end) for end in ends)


def _looked_at(table: Table, written: DatasetFolder) -> Table:
    """The table with a warning at each column that holds infinite numbers."""
    infinite = [name for name, ends in _extremes(written).items() if _is_infinite(*ends)]
    if not infinite:
        return table
    counts = written.scan().select(pl.col(name).is_infinite().sum() for name in infinite).collect(engine="streaming").row(0, named=True)
    found = {name: replace(table.columns[name], warning=f"{count:,} values are infinite") for name, count in counts.items()}
    return replace(table, columns=table.columns | found)


def _extremes(written: DatasetFolder) -> dict[str, tuple[Any, Any]]:
    """The smallest and the largest value of each column, as the Parquet parts themselves say."""
    ends: dict[str, tuple[Any, Any]] = {}
    for name, statistics in chunk_statistics(written):
        if statistics is not None and statistics.has_min_max:
            low, high = ends.get(name, (statistics.min, statistics.max))
            ends[name] = (min(low, statistics.min), max(high, statistics.max))
    return ends


def _say(table: Table, written: DatasetFolder, bad: Quarantine) -> None:
    log.info("%s: %s rows, %s columns, %s bad rows", written.facts.source, f"{written.facts.rows:,}", written.facts.columns, f"{bad.count:,}")
    for note in table.notes:
        log.warning("%s: %s", written.facts.source, note)
    for name, column in table.columns.items():
        if column.warning:
            log.warning("column %r: %s", name, column.warning)
