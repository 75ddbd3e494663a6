"""The KFP face of `ingest_table`: types, defaults and documentation; the work is in core.py."""

from typing import List, NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def ingest_table(
    source: str,
    dataset: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    format: str = "auto",  # noqa: A002
    query: str = "",
    columns: List[str] = [],
    where: str = "",
    max_rows: int = 0,
    delimiter: str = "",
    encoding: str = "",
    decimal: str = "",
    null_values: List[str] = [],
    on_bad_rows: str = "stop",
) -> NamedTuple("Outputs", [("rows", int), ("bad_rows", int)]):
    """Reads a table from a file, a folder, the web, an object store or a database, and writes it as a Dataset.

    Types are decided over every row, not over a sample; a column that holds anything but numbers or dates stays text, and so do
    labels such as `01234`. A line that is not a row stops the step with its file, line number and text, or is put aside; no row
    is ever dropped silently. Memory does not grow with the table.

    Args:
        source: Path, folder or glob; `http(s)://`, `s3://` or `gs://` address; `sample://flights`; or `sqlite:///file.db` and `postgresql://host/name`
            together with `query`. Credentials come from the environment only (AWS_*, PGPASSWORD ...).
        dataset: The table, as Parquet.
        quarantine: The lines that are no rows, as JSON Lines with file, line, reason and text; empty if there are none.
        report: Columns, types and why, missing shares, and bad rows.
        format: `csv`, `jsonl`, `parquet`, `arrow`, `sql`, or `auto`: found from the content. Compressed files (gz, zst, bz2, zip) are unpacked.
        query: SQL query, for a database.
        columns: Columns to keep; all if empty. Their order stays that of the source.
        where: SQL condition on the rows to keep, such as `month <= 6 AND carrier = 'UA'`; applied before `columns` and `max_rows`.
        max_rows: Keep only the first rows; 0 keeps all.
        delimiter: CSV delimiter, one character or `tab`; found if empty.
        encoding: Encoding of a text file, such as `cp1252`; if empty UTF-8, or UTF-16 when the file starts with its mark.
        decimal: CSV decimal mark, `.` or `,`; found for each column if empty.
        null_values: CSV texts that mean "missing"; if empty NA, N/A, n/a, #N/A, <NA>, NaN, nan, NULL, null, None, ? and \\N. An empty
            value is always missing.
        on_bad_rows: `stop` at the first line that is not a row, or `quarantine` such lines and go on.

    Returns:
        rows: Rows of the table.
        bad_rows: Lines that are no rows and were put aside.
    """
    from kfp_foundry.components.ingestion.ingest_table import core

    return core.run(
        dataset, quarantine, report, source, format, query, columns, where, max_rows, delimiter, encoding, decimal, null_values, on_bad_rows
    )
