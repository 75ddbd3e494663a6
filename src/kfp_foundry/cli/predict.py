"""`kfp-foundry predict`: scores a table with a model folder, a registered model or an endpoint of this machine."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import polars as pl
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kfp_foundry.components.common import local_server, rows, tracking
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, FieldSpec, Role, Task, Type
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError, close_names
from kfp_foundry.components.common.files import unwritable
from kfp_foundry.components.common.inference import Client, tensors
from kfp_foundry.components.ingestion.ingest_table import core as ingest_table
from kfp_foundry.components.ingestion.ingest_table.bad_rows import Quarantine
from kfp_foundry.components.ingestion.ingest_table.request import Request, Workplace

BATCH = 65_536  # rows in memory at once
REQUEST = 1_000  # rows per request to an endpoint
ROW = "row"  # the column that stands for ids where the table has none: 1, 2, 3 ...
FORMATS = (".parquet", ".csv")

_DTYPES: dict[str, pl.DataType] = {"BOOL": pl.Boolean(), "INT64": pl.Int64(), "FP64": pl.Float64(), "BYTES": pl.String()}


@dataclass(frozen=True)
class ModelScorer:
    """A model folder in this process."""

    title: str
    model: ModelFolder
    threshold: float | None

    @property
    def contract(self) -> Contract:
        """The contract of the training rows."""
        return self.model.contract

    def score(self, frame: pl.DataFrame, where: str) -> pl.DataFrame:
        """Predictions of typed rows, in the columns of `ModelFolder.predict`; `where` names the rows in an error."""
        return self.model.predict(frame, self.threshold)  # with one thread, as a server: the same to the last bit


@dataclass(frozen=True)
class EndpointScorer:
    """A model server, asked over HTTP."""

    title: str
    client: Client
    contract: Contract

    def score(self, frame: pl.DataFrame, where: str) -> pl.DataFrame:
        """As `ModelScorer.score`."""
        return pl.concat(self._ask(part, where) for part in frame.iter_slices(REQUEST))

    def _ask(self, part: pl.DataFrame, where: str) -> pl.DataFrame:
        reply = self.client.v2(tensors(part, self.contract))
        if reply.status != 200:
            raise DataError(f"the endpoint refused them: {reply.error}", where=where, remedy="correct the table")
        outputs: list[dict[str, Any]] = reply.body["outputs"]
        return pl.DataFrame({each["name"]: pl.Series(each["data"], dtype=_DTYPES[each["datatype"]]) for each in outputs})


Scorer = ModelScorer | EndpointScorer


def predict(
    table: Annotated[str, typer.Argument(help="CSV, Parquet, JSON Lines or Arrow: a path, a glob, or an address such as s3://bucket/file.parquet.")],
    model: Annotated[str, typer.Option(help="A Model folder, models:/NAME@champion or models:/NAME/3.", metavar="MODEL")] = "",
    endpoint: Annotated[str, typer.Option(help="Name of an endpoint on this machine, instead of a model.", metavar="NAME")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write, .parquet or .csv; else the first rows are shown.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Probability from which the positive class is predicted.  [default: the registered one, else 0.5]"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A further column to keep beside the predictions; may be repeated.", metavar="COLUMN")
    ] = None,
    head: Annotated[int, typer.Option("--rows", min=1, help="How many rows to show.")] = 10,
    delimiter: Annotated[str, typer.Option(help="CSV delimiter, one character or `tab`; else found.", metavar="CHARACTER")] = "",
    encoding: Annotated[str, typer.Option(help="Encoding of a text file, such as cp1252; else UTF-8 or UTF-16.", metavar="NAME")] = "",
    decimal: Annotated[str, typer.Option(help="CSV decimal mark, . or ,; else found for each column.", metavar="MARK")] = "",
    null_value: Annotated[
        list[str] | None, typer.Option(help='A CSV text that means "missing", instead of NA, NULL and the like; may be repeated.', metavar="TEXT")
    ] = None,
) -> None:
    """Scores a table with a model.

    The columns that identify rows are kept; a table without any gets row numbers. The whole table is read with the care of
    ingest_table, scored in batches and written at once or not at all.
    """
    if bool(model) == bool(endpoint):
        raise UserError("give one of --model and --endpoint", where="predict", remedy="such as --model models:/NAME@champion")
    if output is not None and output.suffix not in FORMATS:
        raise UserError(f"--output {output} is neither .parquet nor .csv", where="predict", remedy="choose one of the two endings")
    started = time.monotonic()
    with _scorer(model, endpoint, threshold) as scorer, tempfile.TemporaryDirectory(prefix="predict-") as scratch:
        request = Request(
            table, max_rows=0 if output else head, delimiter=delimiter, encoding=encoding, decimal=decimal, null_values=tuple(null_value or ())
        )
        source = _read(request, Path(scratch))
        kept = _kept(source, scorer.contract, keep or [])
        check_columns(source, scorer.contract, table)
        scored = _batches(source, scorer, kept, table)
        if output is None:
            _show(pl.concat(scored), scorer.title)
            return
        count = _write(scored, output)
    typer.echo(f"{count:,} rows scored with {scorer.title} in {time.monotonic() - started:.1f} s: {output}")


@contextmanager
def _scorer(model: str, endpoint: str, threshold: float | None) -> Iterator[Scorer]:
    if model:
        yield _model(model, threshold)
        return
    if threshold is not None:
        raise UserError("--threshold is for --model: an endpoint has its own", where="predict", remedy="leave it out, or deploy with another one")
    found = local_server.find(endpoint)
    if found is None:
        names = sorted({row.name for row in local_server.list_all()})
        if endpoint in names:
            raise PlatformError("the endpoint does not run", where=f"endpoint {endpoint}", remedy="deploy the model again")
        raise UserError(f"no endpoint {endpoint!r}", where="predict", remedy=close_names(endpoint, names) if names else "deploy a model first")
    with Client(found.url, found.name) as client:
        reply = client.get(f"/v2/models/{found.name}")
        if reply.status != 200:
            raise PlatformError(f"the endpoint does not describe its model: {reply.error}", where=found.url, remedy="see `kfp-foundry endpoints`")
        yield EndpointScorer(f"endpoint {found.name} ({found.revision[:19]})", client, _described(reply.body))


def _model(model: str, threshold: float | None) -> ModelScorer:
    path = Path(model)
    title = model
    if model.startswith("models:"):
        info = tracking.resolve(model)
        path, title = info.path, f"{info.name} version {info.version}"
        threshold = info.threshold if threshold is None else threshold
    elif not path.is_dir():
        raise UserError("no such folder", where=f"model {model}", remedy="give a Model folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    opened = ModelFolder.open(path)
    if threshold is not None and opened.task is not Task.BINARY:
        raise UserError(f"--threshold is for binary models, this one is {opened.task}", where="predict", remedy="leave it out")
    return ModelScorer(f"{title} ({opened.digest[:19]})", opened, threshold)


def _described(metadata: dict[str, Any]) -> Contract:
    """The columns that an endpoint's metadata names, as a contract."""
    fields = [
        FieldSpec(name=each["name"], type=Type(each["parameters"]["type"]), constraints={"required": each["parameters"]["required"]})
        for each in metadata["inputs"]
    ]
    return Contract(name=metadata["name"], fields=fields)


def _read(request: Request, scratch: Path) -> pl.LazyFrame:
    with Quarantine(scratch / "bad.jsonl", "stop") as bad:
        _, written = ingest_table.ingest(request, Workplace(scratch, bad), scratch / "table")
    return DatasetFolder.open(written.path).scan()


def _kept(source: pl.LazyFrame, contract: Contract, asked: list[str]) -> list[str]:
    """The columns that go along: ids, and those asked for."""
    names = source.collect_schema().names()
    for name in asked:
        if name not in names:
            raise UserError(f"--keep {name} is not a column", where="predict", remedy=close_names(name, names))
    ids = [field.name for field in contract.fields if field.role is Role.ID and field.name in names]
    return [name for name in names if name in ids or name in asked]


def check_columns(source: pl.LazyFrame, contract: Contract, where: str) -> None:
    """Refuses a table that lacks a column of the model, or in which a text column no longer is one.

    Raises:
        DataError: The message names the column, and the close names.
    """
    schema = source.collect_schema()
    absent = [name for name in contract.features if name not in schema]
    if absent:
        more = f" and {len(absent) - 1} more of the model's columns" if len(absent) > 1 else ""
        raise DataError(f"no column {absent[0]!r}{more}", where=where, remedy=close_names(absent[0], schema.names()))
    for field in contract.feature_fields:
        # "1.10" read as a number and written as a text again would be "1.1": another category, and nobody would know.
        found = schema[field.name]
        if field.type is Type.STRING and not (found in (pl.String, pl.Null) or found.is_integer()):
            remedy = "give the table as Parquet, with that column as text"
            raise DataError(f"column {field.name!r} is text for the model, but reads as {found} here", where=where, remedy=remedy)


def _batches(source: pl.LazyFrame, scorer: Scorer, kept: list[str], where: str) -> Iterator[pl.DataFrame]:
    start = 0
    for batch in source.collect_batches(chunk_size=BATCH, maintain_order=True):
        place = f"{where}, rows {start + 1:,} to {start + batch.height:,}"
        typed = rows.conform(batch, scorer.contract, scorer.contract.features, place)
        scored = scorer.score(typed, place)
        beside = batch.select(kept) if kept else pl.DataFrame({ROW: pl.int_range(start + 1, start + batch.height + 1, eager=True)})
        twice = sorted(set(beside.columns) & set(scored.columns))
        if twice:
            raise UserError(f"the table's column {twice[0]!r} has the name of a prediction", where=where, remedy="rename it, or do not keep it")
        yield pl.concat([beside, scored], how="horizontal")
        start += batch.height


def _write(batches: Iterator[pl.DataFrame], output: Path) -> int:
    """Writes the batches to a draft that gets its name at the end; returns the number of rows."""
    draft = output.with_name(f".{output.name}.tmp")
    write = _write_parquet if output.suffix == ".parquet" else _write_csv
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            count = write(batches, file)
        draft.replace(output)
    except OSError as error:
        raise unwritable(output, error) from error
    finally:
        if draft.parent.is_dir():
            draft.unlink(missing_ok=True)
    return count


def _write_parquet(batches: Iterator[pl.DataFrame], file: IO[bytes]) -> int:
    count = 0
    writer: pq.ParquetWriter | None = None
    for batch in batches:
        table = batch.to_arrow()
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        count += batch.height
    if writer is not None:
        writer.close()
    return count


def _write_csv(batches: Iterator[pl.DataFrame], file: IO[bytes]) -> int:
    count = 0
    for batch in batches:
        batch.write_csv(file, include_header=count == 0)
        count += batch.height
    return count


def _show(scored: pl.DataFrame, title: str) -> None:
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, dtype in scored.schema.items():
        table.add_column(escape(name), justify="right" if dtype.is_numeric() else "left")
    for row in scored.rows():
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else escape("" if value is None else str(value)) for value in row))
    console.print(table)
    console.print(f"\nThe first rows, by {title}. All of them: --output FILE.parquet", markup=False, highlight=False, soft_wrap=True)
