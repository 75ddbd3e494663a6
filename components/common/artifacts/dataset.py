"""Dataset: a folder of Parquet parts with a fingerprint of its content."""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.errors import DataError, IntegrityError
from kfp_foundry.components.common.files import new_folder, write_json

RECORD = "dataset.json"
PART = "part-00000.parquet"
BATCH = 65_536  # rows
COLUMNS_READ = 16  # at once, for the fingerprint
ROW_GROUP = 262_144  # rows; fixed, so that the same rows give the same bytes


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset says of itself: numbers and texts only, since KFP metadata must be scalars."""

    rows: int
    columns: int
    bytes: int
    fingerprint: str
    source: str


class DatasetFolder:
    """A Dataset artifact's folder.

    Example:
        >>> table = DatasetFolder.open(dataset).scan()
        >>> DatasetFolder.write(train, table.filter(pl.col("month") < 9), source=dataset)
    """

    def __init__(self, path: Path, facts: DatasetFacts) -> None:
        self.path = path
        self.facts = facts

    @classmethod
    def open(cls, artifact: Artifact | str | Path) -> "DatasetFolder":
        """Opens a Dataset for reading.

        Raises:
            IntegrityError: The folder is not a whole Dataset.
        """
        path = Path(artifact if isinstance(artifact, (str, Path)) else artifact.path)
        try:
            facts = DatasetFacts(**json.loads((path / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise IntegrityError(f"no readable {RECORD}", where=f"dataset {path}", remedy="run the step that wrote it again") from error
        if not any(path.glob("*.parquet")):
            raise IntegrityError("no Parquet part", where=f"dataset {path}", remedy="run the step that wrote it again")
        return cls(path, facts)

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily, in the order in which they were written."""
        return pl.scan_parquet(sorted(self.path.glob("*.parquet")))

    @classmethod
    def write(cls, artifact: Artifact | str | Path, rows: pl.LazyFrame, source: Artifact | str, empty: bool = False) -> "DatasetFolder":
        """Writes rows as a Dataset, streaming, and fills the artifact's metadata.

        Args:
            artifact: The output artifact, or a path.
            rows: The rows; their order is kept.
            source: Where they come from: a text, or the artifact they were made of.
            empty: Whether there may be no row.

        Raises:
            DataError: There is no row.
            PlatformError: The place cannot be written, or is full; nothing is left behind.
        """
        path = Path(artifact if isinstance(artifact, (str, Path)) else artifact.path)
        origin = source if isinstance(source, str) else str(source.metadata.get("source", source.uri))
        with new_folder(path) as draft:
            _sink(rows, draft / PART)
            facts = describe(draft, origin)
            if facts.rows == 0 and not empty:
                raise DataError("no row is left to write", where=origin, remedy="check the filter and the source")
            write_json(draft / RECORD, asdict(facts))
        if not isinstance(artifact, (str, Path)):
            artifact.metadata.update(asdict(facts))
        return cls(path, facts)


def _sink(rows: pl.LazyFrame, path: Path) -> None:
    try:
        # Level 1 makes files 3 % larger than the usual 3, and takes a sixth off the time of reading a CSV file and writing it.
        rows.sink_parquet(path, compression="zstd", compression_level=1, statistics=True, row_group_size=ROW_GROUP, maintain_order=True)
    except pl.exceptions.ComputeError as error:
        # Polars reports a full disk as a faulty Parquet file, with the system's error number in the text.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def describe(folder: Path, source: str) -> DatasetFacts:
    """Counts and fingerprints the Parquet parts of a folder."""
    parts = sorted(folder.glob("*.parquet"))
    table = ds.dataset(parts, format="parquet")
    return DatasetFacts(
        rows=table.count_rows(),
        columns=len(table.schema.names),
        bytes=sum(part.stat().st_size for part in parts),
        fingerprint=fingerprint(table),
        source=source,
    )


def fingerprint(table: ds.Dataset) -> str:
    """SHA-256 over names, types and values, row order included; how the rows are cut into files and batches does not matter.

    Each column has a digest of its values (a missing one counts as zero or empty), of the rows in which they are missing, and of
    the lengths of texts; each runs over the whole column, so that batches leave no trace.
    """
    names = table.schema.names
    footers = {file: pq.read_metadata(file) for file in table.files}
    size = max(1, min(COLUMNS_READ, (len(names) + 1) // 2))  # a scan has a price of its own, which a wide table must not pay for each column
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        columns = [digest for digests in pool.map(lambda group: _digests(footers, group), groups) for digest in digests]
    whole = hashlib.sha256()
    for field, digest in zip(table.schema, columns, strict=True):
        whole.update(json.dumps([field.name, str(field.type)]).encode())
        whole.update(digest)
    return whole.hexdigest()


def _digests(footers: dict[str, pq.FileMetaData], names: list[str]) -> list[bytes]:
    columns = [_ColumnDigest() for _ in names]
    for file, footer in footers.items():
        # Mapped and not read ahead: touching fresh memory takes as long as hashing.
        part = pq.ParquetFile(file, metadata=footer, memory_map=True, pre_buffer=False)
        for batch in part.iter_batches(batch_size=BATCH, columns=names, use_threads=False):
            for column, name in zip(columns, names, strict=True):
                column.add(_plain(batch.column(name)))  # by name: asked for `a`, Arrow gives `a.b` too
    return [column.digest() for column in columns]


class _ColumnDigest:
    def __init__(self) -> None:
        self.values, self.missing, self.lengths = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.rows = 0

    def add(self, array: pa.Array) -> None:
        if array.null_count:
            self.missing.update((np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False)) + self.rows).tobytes())
        self.rows += len(array)
        if pa.types.is_large_string(array.type):
            texts = array.fill_null("") if array.null_count else array
            self.lengths.update(pc.binary_length(texts).to_numpy(zero_copy_only=False))
            self.values.update(_text(texts))
        else:
            self.values.update(_numbers(array))

    def digest(self) -> bytes:
        return self.values.digest() + self.missing.digest() + self.lengths.digest()


def _plain(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_string_view(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.large_string())
    return array


def _text(array: pa.LargeStringArray) -> memoryview:
    _, offsets, data = array.buffers()
    if data is None:
        return memoryview(b"")
    ends = memoryview(offsets).cast("B").cast("q")
    return memoryview(data)[ends[array.offset] : ends[array.offset + len(array)]]


def _numbers(array: pa.Array) -> memoryview:
    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    filled = array.fill_null(0) if array.null_count else array
    return memoryview(filled.to_numpy(zero_copy_only=False))
