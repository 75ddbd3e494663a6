"""Parquet, Arrow and JSON Lines files as a table, and any table's types made those that every later step knows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.ingestion.ingest_table.bad_rows import BadRow, readable
from kfp_foundry.components.ingestion.ingest_table.dialect import check_names
from kfp_foundry.components.ingestion.ingest_table.kinds import decide_dates, typed
from kfp_foundry.components.ingestion.ingest_table.request import Column, Request, Table, Workplace
from kfp_foundry.components.ingestion.ingest_table.sources import Piece

DAMAGED = "write or fetch the file again"


def read_parquet(pieces: list[Piece], request: Request, place: Workplace) -> Table:
    """Reads Parquet files as one table.

    Raises:
        DataError: A file is cut off or damaged, or files do not have the same columns.
    """
    for piece in pieces:
        try:
            pq.read_metadata(piece.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError("not a whole Parquet file (cut off or damaged)", where=piece.name, remedy=DAMAGED) from error
    rows = _joined([pl.scan_parquet(piece.path, glob=False, hive_partitioning=False) for piece in pieces], pieces)
    count = sum(pq.read_metadata(piece.path).num_rows for piece in pieces)
    return normal(rows, "Parquet", len(pieces), request, count)


def read_arrow(pieces: list[Piece], request: Request, place: Workplace) -> Table:
    """Reads Arrow IPC files (Feather 2 too) or streams as one table; raises as `read_parquet`."""
    return normal(_joined([_scan_arrow(piece, place) for piece in pieces], pieces), "Arrow", len(pieces), request)


def _scan_arrow(piece: Piece, place: Workplace) -> pl.LazyFrame:
    try:
        with piece.path.open("rb") as file:
            streamed = file.read(6) != b"ARROW1"
        if not streamed:
            with pa.OSFile(str(piece.path)) as source:
                pa.ipc.open_file(source)
            return pl.scan_ipc(_literal(piece.path, place), hive_partitioning=False)
        with pa.OSFile(str(piece.path)) as source, pa.ipc.open_stream(source) as batches:
            return pl.scan_parquet(spill(batches, place.scratch / f"{piece.path.name}.parquet"))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError("not a whole Arrow file (cut off or damaged)", where=piece.name, remedy=DAMAGED) from error


def _literal(path: Path, place: Workplace) -> Path:
    """The file under a name that Polars does not take for a pattern."""
    if not any(mark in str(path) for mark in "*?["):
        return path
    link = place.scratch / f"file-{len(list(place.scratch.iterdir())):05d}"
    link.symlink_to(path.absolute())
    return link


def spill(batches: pa.RecordBatchReader, target: Path) -> Path:
    """Writes a stream of Arrow batches to a scratch Parquet file, one batch in memory at a time."""
    schema = pa.schema([pa.field(f.name, f.type.storage_type if isinstance(f.type, pa.BaseExtensionType) else f.type) for f in batches.schema])
    with pq.ParquetWriter(target, schema, compression="lz4") as writer:
        for batch in batches:
            if batch.num_rows:
                columns = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in batch.columns]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return target


def _joined(scans: list[pl.LazyFrame], pieces: list[Piece]) -> pl.LazyFrame:
    """Several files as one table: the same columns; types may differ where one holds the other, such as int32 and int64."""
    first = scans[0].collect_schema()
    for scan, piece in zip(scans[1:], pieces[1:], strict=True):
        names = scan.collect_schema().names()
        if names != first.names():
            odd = sorted(set(names) ^ set(first.names())) or ["their order"]
            raise DataError(
                f"the columns differ from {pieces[0].name}: {', '.join(odd[:5])}", where=piece.name, remedy="give files with the same columns"
            )
    if len(scans) == 1:
        return scans[0]
    joined = pl.concat(scans, how="vertical_relaxed")
    try:
        joined.collect_schema()
    except pl.exceptions.PolarsError as error:
        said = str(error).splitlines()[0]
        raise DataError(f"the files have different types: {said}", where=f"{pieces[0].name} ...", remedy="write them with the same types") from error
    return joined


def normal(rows: pl.LazyFrame, format_: str, files: int, request: Request, read: int | None = None) -> Table:
    """A table whose types every later step knows: integers, floats, booleans, texts, dates, times; NaN is missing.

    Raises:
        UserError: A column that is needed holds bytes or objects.
    """
    schema = rows.collect_schema()
    check_names(schema.names(), mask_address(request.source))
    needed = request.needed(schema.names())
    columns = {name: _plain(name, schema[name]) for name in needed}
    return Table(
        rows=rows.select(expr for expr, _ in columns.values()), columns={name: column for name, (_, column) in columns.items()},
        format=format_, files=files, read=read,
    )  # fmt: skip


def _plain(name: str, dtype: pl.DataType) -> tuple[pl.Expr, Column]:
    column = pl.col(name)
    own = str(dtype)
    if dtype.is_float():
        return column.fill_nan(None), Column(own)
    if dtype == pl.Null:
        return column.cast(pl.String), Column("text", "no value at all", "every value is missing")
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return column.cast(pl.String), Column("text", f"was {own}")
    if dtype.is_decimal():
        return column.cast(pl.Float64), Column("number", f"was {own}")
    if isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if dtype.time_zone else column
        why = f"was {own}; now in UTC" if dtype.time_zone else ""
        return utc.dt.cast_time_unit("us"), Column("datetime", why or (f"was {own}" if dtype.time_unit != "us" else ""))
    if isinstance(dtype, pl.Duration):
        return (column.dt.total_microseconds() / 1e6).alias(name), Column("number", f"was {own}; now in seconds")
    if dtype.is_nested():
        # A struct of the one column is encoded, and its braces and name are cut off: lists have no encoder of their own.
        text = pl.struct(column.alias("v")).struct.json_encode().str.slice(5).str.head(-1)
        return pl.when(column.is_not_null()).then(text).alias(name), Column("text", f"was {own}; now JSON text")
    if dtype in (pl.Int128, pl.UInt128):
        return column.cast(pl.String), Column("text", f"was {own}: whole numbers of more than 64 bits are labels")
    if dtype in (pl.Binary, pl.Object) or dtype == pl.Unknown:
        raise UserError(
            f"column {name!r} holds {own} values, which no model takes", where="ingest_table", remedy="leave it out with the parameter columns"
        )
    return column, Column(own)


def dated(table: Table, request: Request) -> Table:
    """The table with texts that are dates in every row made dates: JSON and SQLite have no type for them."""
    schema = table.rows.collect_schema()
    found = decide_dates(table.rows, [name for name, dtype in schema.items() if dtype == pl.String])
    columns = {name: Column(kind.name, kind.why, kind.warning) for name, kind in found.items()}
    rows = table.rows.with_columns(typed(pl.col(name), kind).alias(name) for name, kind in found.items())
    return replace(table, rows=rows, columns=table.columns | columns)


def read_json_lines(pieces: list[Piece], request: Request, place: Workplace) -> Table:
    """Reads JSON Lines as one table: keys are columns, nested values stay JSON text, texts that are all dates become dates.

    Polars reads strictly and takes types from every line; only when it refuses, each line is looked at, to name those at fault.

    Raises:
        DataError: A line is not a JSON object.
    """
    paths = [_literal(piece.path, place) for piece in pieces]
    try:
        found = dict(pl.scan_ndjson(paths, infer_schema_length=None).collect_schema())
    except pl.exceptions.PolarsError:
        paths, found = _objects(pieces, place)
    schema = {name: pl.String() if dtype.is_nested() else dtype for name, dtype in found.items()}
    rows = pl.scan_ndjson(paths, schema=schema)
    table = normal(rows, "JSON Lines", len(pieces), request)
    for name in table.columns:
        if found[name].is_nested():
            table.columns[name] = Column("text", "nested values are kept as JSON text")
    return dated(table, request)


def _objects(pieces: list[Piece], place: Workplace) -> tuple[list[Path], dict[str, pl.DataType]]:
    """Looks at each line: clean copies of the files, and the type of each key."""
    kinds: dict[str, set[type]] = {}
    paths = []
    for number, piece in enumerate(pieces):
        clean = place.scratch / f"clean-{number:05d}.jsonl"
        with piece.path.open("rb") as source, clean.open("w", encoding="utf-8") as target:
            for line, text in enumerate(source, start=1):
                if not text.strip():
                    continue
                value, reason = _object(text)
                if reason:
                    place.bad.add(BadRow(piece.name, line, reason, readable(text), "write one JSON object per line"))
                    continue
                for key, item in value.items():
                    kinds.setdefault(key, set()).add(type(item))
                target.write(json.dumps(value, ensure_ascii=False) + "\n")
        paths.append(clean)
    if not kinds:
        raise DataError("no row is left: no line is a JSON object", where=pieces[0].name, remedy="check how the file was written")
    return paths, {key: _json_type(types - {type(None)}) for key, types in kinds.items()}


def _object(text: bytes) -> tuple[dict[str, Any], str]:
    def constant(word: str) -> None:
        if word != "NaN":
            raise ValueError(f"{word} is no JSON number")

    try:
        value = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8: byte 0x{error.object[error.start]:02x}"
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON ({error})"
    return (value, "") if isinstance(value, dict) else ({}, "not a JSON object")


def _json_type(types: set[type]) -> pl.DataType:
    if types == {bool}:
        return pl.Boolean()
    if types == {int}:
        return pl.Int64()
    if types and types <= {int, float}:
        return pl.Float64()
    return pl.String()
