"""The payload log: every prediction as one row of Parquet, written off the request path.

Layout: `<folder>/date=YYYY-MM-DD/<time>-<process>-<number>.parquet`, dates in UTC. A file appears whole or not at all. Rows of a
process that is killed outright are lost back to its last flush (`seconds`); a stop by SIGTERM loses none.

Columns:
    id: Request and row, `<request>-<row>`.
    request, row: The same, apart. The request is the caller's own id where it gave one, which lets late labels be joined.
    time: When it was answered, UTC.
    model, version, digest: Who answered.
    protocol: v1 or v2.
    features: The row as the model took it, as JSON: a model's columns change over its life, the log's do not.
    prediction: The label, or the number of a regression, as text.
    value: The number of a regression.
    probability: Of the positive class; of several classes, of the predicted one.
    probabilities: Of all classes in the model's order; several classes only.
    threshold: Probability from which the positive class is predicted; two classes only.
"""

import datetime as dt
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kfp_foundry.components.common.artifacts.model import Label
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.files import unwritable

SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "request": pl.String(),
        "row": pl.Int32(),
        "time": pl.Datetime("us", "UTC"),
        "model": pl.String(),
        "version": pl.String(),
        "digest": pl.String(),
        "protocol": pl.String(),
        "features": pl.String(),
        "prediction": pl.String(),
        "value": pl.Float64(),
        "probability": pl.Float64(),
        "probabilities": pl.List(pl.Float64()),
        "threshold": pl.Float64(),
    }
)
STALE_SECONDS = 3600  # a draft that old belongs to a process that was killed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """Who answers: the same in every row of one server's log."""

    model: str
    version: str
    digest: str
    task: Task
    labels: list[Label]
    threshold: float | None


@dataclass(frozen=True)
class Limits:
    """When rows are written, and how many may wait."""

    rows: int = 10_000
    seconds: float = 10.0
    queued_rows: int = 100_000


@dataclass(frozen=True)
class _Entry:
    request: str
    time: dt.datetime
    protocol: str
    features: pl.DataFrame
    scored: pl.DataFrame


class PayloadLog:
    """Takes answered requests and writes them in the background.

    Args:
        folder: Where the Parquet files go.
        served: Who answers.
        limits: When to write, and how many rows may wait.
        count: Called with an outcome (`written`, `dropped`, `failed`) and a number of rows.

    Raises:
        PlatformError: The folder cannot be written.

    Example:
        >>> payloads = PayloadLog(Path("payloads"), served)
        >>> payloads.put("4f1c", "v1", features, scored)
        >>> payloads.close()
    """

    def __init__(
        self, folder: Path, served: Served, limits: Limits | None = None, count: Callable[[str, int], None] = lambda _outcome, _rows: None
    ) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self._served = served
        self._count = count
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._files = 0
        self._prepare()
        self._thread = threading.Thread(target=self._work, name="payload-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are not on disk yet."""
        return self._waiting

    def put(self, request: str, protocol: str, features: pl.DataFrame, scored: pl.DataFrame) -> None:
        """Queues an answered request; drops it, and counts it, when too many rows wait. Never blocks."""
        with self._lock:
            full = self._waiting + features.height > self.limits.queued_rows
            if not full:
                self._waiting += features.height
        if full:
            self._count("dropped", features.height)
            return
        self._queue.put(_Entry(request, dt.datetime.now(dt.UTC), protocol, features, scored))

    def close(self) -> None:
        """Writes what waits and ends the background thread."""
        self._queue.put(None)
        self._thread.join()

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".{os.getpid()}.tmp"
            probe.touch()
            probe.unlink()
            for draft in self.folder.glob("date=*/.*.tmp"):
                if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _work(self) -> None:
        entries: list[_Entry] = []
        oldest = 0.0
        open_ = True
        while open_:
            wait = max(0.0, oldest + self.limits.seconds - time.monotonic()) if entries else None
            try:
                entry = self._queue.get(timeout=wait)
            except queue.Empty:
                self._flush(entries)
                entries = []
                continue
            if entry is None:
                open_ = False
            else:
                oldest = oldest if entries else time.monotonic()
                entries.append(entry)
            if not open_ or sum(e.features.height for e in entries) >= self.limits.rows:
                self._flush(entries)
                entries = []

    def _flush(self, entries: list[_Entry]) -> None:
        rows = sum(entry.features.height for entry in entries)
        try:
            for day in sorted({entry.time.date() for entry in entries}):
                self._write(day, [entry for entry in entries if entry.time.date() == day])
            outcome = "written"
        except (OSError, pl.exceptions.PolarsError) as error:
            log.error("payload log %s: %d rows are lost: %s", self.folder, rows, error)  # serving goes on
            outcome = "failed"
        with self._lock:
            self._waiting -= rows
        if rows:
            self._count(outcome, rows)

    def _write(self, day: dt.date, entries: list[_Entry]) -> None:
        partition = self.folder / f"date={day.isoformat()}"
        partition.mkdir(parents=True, exist_ok=True)
        self._files += 1
        name = f"{entries[0].time:%H%M%S%f}-{os.getpid()}-{self._files:06d}.parquet"
        draft = partition / f".{name}.tmp"
        try:
            pl.concat([rows_of(entry, self._served) for entry in entries]).write_parquet(draft, compression="zstd")
            draft.rename(partition / name)
        finally:
            draft.unlink(missing_ok=True)


def rows_of(entry: _Entry, served: Served) -> pl.DataFrame:
    """One request's rows in the log's columns."""
    scored, binary, several = entry.scored, served.task is Task.BINARY, served.task is Task.MULTICLASS
    chances = [f"probability_{label}" for label in served.labels] if several else []
    probability = pl.max_horizontal(chances) if several else pl.col("probability") if binary else pl.lit(None)
    text = pl.col("prediction").cast(pl.String)
    answered = scored.select(
        text.alias("prediction"),
        (pl.lit(None) if served.labels else pl.col("prediction")).cast(pl.Float64).alias("value"),
        probability.cast(pl.Float64).alias("probability"),
        (pl.concat_list(chances) if several else pl.lit(None)).cast(pl.List(pl.Float64)).alias("probabilities"),
    )
    numbers = pl.int_range(scored.height, dtype=pl.Int32, eager=True)
    who = pl.DataFrame({"row": numbers, "features": _as_json(entry.features)})
    return who.hstack(answered).select(
        pl.format("{}-{}", pl.lit(entry.request), "row").alias("id"),
        pl.lit(entry.request).alias("request"),
        "row",
        pl.lit(entry.time).dt.cast_time_unit("us").alias("time"),
        pl.lit(served.model).alias("model"),
        pl.lit(served.version).alias("version"),
        pl.lit(served.digest).alias("digest"),
        pl.lit(entry.protocol).alias("protocol"),
        "features",
        "prediction",
        "value",
        "probability",
        "probabilities",
        pl.lit(served.threshold, dtype=pl.Float64).alias("threshold"),
    )


def _as_json(features: pl.DataFrame) -> pl.Series:
    iso = features.with_columns(
        pl.col(pl.Date).dt.to_string("iso:strict"),
        pl.col(pl.Time).dt.to_string("iso:strict"),
        pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f"),
    )
    return iso.select(pl.struct(pl.all()).struct.json_encode().alias("features"))["features"]
