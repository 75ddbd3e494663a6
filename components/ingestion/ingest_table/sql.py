"""A query's result as a table, streamed through ADBC into a scratch file, one batch in memory at a time."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import polars as pl
import pyarrow as pa

from kfp_foundry.components.common.errors import DataError, PlatformError, UserError
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.patience import ATTEMPTS, Passing, patient
from kfp_foundry.components.ingestion.ingest_table.columnar import dated, normal, spill
from kfp_foundry.components.ingestion.ingest_table.request import Column, Request, Table, Workplace
from kfp_foundry.components.ingestion.ingest_table.sources import scheme

BATCH = 65_536  # rows
OPAQUE = b"ARROW:extension:metadata"


def read_query(request: Request, place: Workplace) -> Table:
    """Runs the query and reads its result. The session may only read.

    Raises:
        DataError: The database is not there, or the query fails; the message is the database's own.
        PlatformError: The server cannot be reached, or the driver is not installed.
        UserError: There is no query.
    """
    if not request.query.strip():
        raise UserError("a database needs a query", where=mask_address(request.source), remedy='set query, such as "SELECT * FROM customers"')
    target = place.scratch / "query.parquet"
    try:
        if scheme(request.source).startswith("sqlite"):
            return dated(normal(_sqlite(request, target), "SQLite query", 1, request), request)
        return _postgresql(request, target)
    except ImportError as error:
        raise PlatformError(
            "the database's driver is not installed", where=mask_address(request.source), remedy="pip install 'kfp-foundry[sql]'"
        ) from error


def _sqlite(request: Request, target: Path) -> pl.LazyFrame:
    path = Path(unquote(urlsplit(request.source).path.removeprefix("/")))
    if not path.is_file():
        absolute = Path("/") / path
        path = absolute if absolute.is_file() else path
    if not path.is_file():
        raise DataError("there is no such database", where=str(path), remedy="check the path (sqlite:///relative.db, sqlite:////absolute.db)")
    address = f"file:{path.absolute().as_posix()}?mode=ro"
    try:
        return _adbc_sqlite(address, request.query, target)
    except _Mismatch:
        return _typed_sqlite(address, request.query, target)


class _Mismatch(Exception):
    """A SQLite column holds values of several types; ADBC takes the type of the first rows."""


def _adbc_sqlite(address: str, query: str, target: Path) -> pl.LazyFrame:
    import adbc_driver_manager
    import adbc_driver_sqlite.dbapi as driver

    try:
        with driver.connect(address) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH)})
            cursor.execute(query)
            return pl.scan_parquet(spill(cursor.fetch_record_batch(), target))
    except adbc_driver_manager.Error as error:
        raise _refused(query, error) from error
    except (OSError, pa.ArrowException) as error:
        if "Type mismatch" in str(error):
            raise _Mismatch from error
        raise _refused(query, error) from error


def _typed_sqlite(address: str, query: str, target: Path) -> pl.LazyFrame:
    """Asks SQLite for the types of every value first, and reads with the type that holds them all."""
    with sqlite3.connect(address, uri=True) as connection:
        names = [str(item[0]) for item in connection.execute(f"SELECT * FROM ({query}) LIMIT 0").description]
        quoted = ['"' + name.replace('"', '""') + '"' for name in names]
        asked = ", ".join(f"group_concat(DISTINCT typeof({name}))" for name in quoted)
        types = [set((text or "").split(",")) - {"null", ""} for text in connection.execute(f"SELECT {asked} FROM ({query})").fetchone()]
        fields = [pa.field(name, _sqlite_type(found)) for name, found in zip(names, types, strict=True)]
        schema = pa.schema(fields)
        batches = _batches(connection.execute(query), schema)
        return pl.scan_parquet(spill(pa.RecordBatchReader.from_batches(schema, batches), target))


def _sqlite_type(found: set[str]) -> pa.DataType:
    if found == {"integer"}:
        return pa.int64()
    if found and found <= {"integer", "real"}:
        return pa.float64()
    return pa.binary() if found == {"blob"} else pa.large_string()


def _batches(cursor: sqlite3.Cursor, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while rows := cursor.fetchmany(BATCH):
        columns = zip(*rows, strict=True)
        yield pa.record_batch([_array(list(values), field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_large_string(kind):
        values = [value if value is None or isinstance(value, str) else str(value) for value in values]
    return pa.array(values, type=kind)


def _postgresql(request: Request, target: Path) -> Table:
    import adbc_driver_manager
    import adbc_driver_postgresql.dbapi as driver

    address = request.source.replace("postgresql+psycopg2://", "postgresql://").replace("postgresql+psycopg://", "postgresql://")

    @patient
    def connected() -> Any:
        try:
            return driver.connect(address)
        except adbc_driver_manager.Error as error:
            said = str(error).lower()
            if "password" in said or "authentication" in said or "does not exist" in said or "role" in said:
                raise PlatformError(
                    f"the database refuses: {_said(error)}", where=mask_address(request.source), remedy="set PGUSER and PGPASSWORD in the environment"
                ) from error
            raise Passing(_said(error)) from error

    try:
        connection = connected()
    except Passing as error:
        raise PlatformError(
            f"could not connect after {ATTEMPTS} attempts: {error}",
            where=mask_address(request.source),
            remedy="check that the server runs and the address",
        ) from error
    with connection, connection.cursor() as cursor:
        try:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute(request.query)
            batches = cursor.fetch_record_batch()
            numeric = [f.name for f in batches.schema if _is_numeric(f)]
            rows = pl.scan_parquet(spill(batches, target))
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, pa.ArrowException):
                raise
            raise _refused(request.query, error) from error
    return _with_numbers(normal(rows, "PostgreSQL query", 1, request), numeric)


def _is_numeric(field: pa.Field) -> bool:
    """PostgreSQL's `numeric` comes as text of any precision, marked as opaque."""
    kind = field.type
    if isinstance(kind, pa.OpaqueType):
        return bool(kind.type_name == "numeric")
    return b'"numeric"' in (field.metadata or {}).get(OPAQUE, b"")


def _with_numbers(table: Table, numeric: list[str]) -> Table:
    present = [name for name in numeric if name in table.columns]
    rows = table.rows.with_columns(pl.col(name).cast(pl.Float64).fill_nan(None) for name in present)
    columns = table.columns | {name: Column("number", "was numeric") for name in present}
    return Table(rows=rows, columns=columns, format=table.format, files=table.files, read=table.read, notes=table.notes)


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return mask_address(" ".join(lines[:2]))[:300]


def _refused(query: str, error: Exception) -> DataError:
    shown = query if len(query) <= 100 else query[:100] + "..."
    return DataError(f"the query failed: {_said(error)}", where=f"query {shown!r}", remedy="try the query in the database's own shell")
