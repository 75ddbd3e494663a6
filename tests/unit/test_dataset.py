"""Dataset: the same rows give the same bytes and fingerprint; a half-written one never appears."""

import datetime as dt
import shutil
import subprocess

import polars as pl
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import dsl

from kfp_foundry.components.common.artifacts.dataset import PART, DatasetFolder, describe, fingerprint
from kfp_foundry.components.common.errors import DataError, IntegrityError, PlatformError

EVERY_TYPE = pl.DataFrame(
    {
        "text": ["a", None, "", "d\n,"],
        "whole": [1, None, 3, -4],
        "number": [1.5, float("nan"), None, float("inf")],
        "flag": [True, None, False, True],
        "day": [dt.date(2020, 2, 29), None, dt.date(1900, 1, 1), dt.date(2100, 12, 31)],
        "moment": [dt.datetime(2020, 2, 29, 12, 30), None, dt.datetime(1900, 1, 1), dt.datetime(2100, 12, 31)],
        "clock": [dt.time(12, 30), None, dt.time(0, 0), dt.time(23, 59, 59)],
        "nothing": pl.Series([None] * 4, dtype=pl.String),
    }
)


def digest(table: pl.DataFrame, folder, rows_per_file: int, row_group: int) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, part in enumerate(table.iter_slices(rows_per_file)):
        part.write_parquet(folder / f"part-{number:05}.parquet", row_group_size=row_group)
    return describe(folder, "test").fingerprint


def test_rows_come_back_as_they_were_written(artifact, flights):
    DatasetFolder.write(artifact("flights", dsl.Dataset), flights.lazy(), source="test")
    assert DatasetFolder.open(artifact("flights", dsl.Dataset)).scan().collect().equals(flights)


def test_the_same_rows_give_the_same_bytes(tmp_path, flights):
    folders = [DatasetFolder.write(tmp_path / name, flights.lazy(), source="test").path for name in ("first", "again")]
    assert (folders[0] / PART).read_bytes() == (folders[1] / PART).read_bytes()


@pytest.mark.parametrize("table", ["flights", "every_type"])
def test_how_rows_are_cut_into_files_leaves_no_trace_in_the_fingerprint(tmp_path, flights, table):
    rows = flights.head(1000) if table == "flights" else EVERY_TYPE
    assert len({digest(rows, tmp_path / "d", per_file, group) for per_file, group in [(10_000, 10_000), (317, 100), (2, 1)]}) == 1


@pytest.mark.parametrize(
    "change",
    [
        pl.col("text").reverse(),
        pl.col("text").fill_null(""),
        pl.col("whole").fill_null(0),
        pl.col("flag").fill_null(False),
        pl.col("whole").cast(pl.Float64),
        pl.col("number").fill_nan(None),
    ],
)
def test_any_change_of_order_value_type_or_missingness_changes_the_fingerprint(tmp_path, change):
    EVERY_TYPE.write_parquet(tmp_path / "before.parquet")
    EVERY_TYPE.with_columns(change).write_parquet(tmp_path / "after.parquet")
    assert fingerprint(ds.dataset(tmp_path / "before.parquet")) != fingerprint(ds.dataset(tmp_path / "after.parquet"))


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=2, max_size=6), cut=st.integers(1, 5))
def test_texts_that_join_alike_are_told_apart_and_cuts_are_not(tmp_path_factory, texts, cut):
    folder = tmp_path_factory.mktemp("texts")
    table = pl.DataFrame({"t": pl.Series(texts, dtype=pl.String)})
    joined = pl.DataFrame({"t": pl.Series(["".join(t or "" for t in texts), *[""] * (len(texts) - 1)], dtype=pl.String)})
    whole = digest(table, folder / "d", 100, 100)
    assert whole == digest(table, folder / "d", cut, 1)
    assert (whole == digest(joined, folder / "d", 100, 100)) == table.equals(joined)


def test_metadata_are_scalars_that_a_kfp_backend_takes(artifact, flights):
    made = artifact("flights", dsl.Dataset)
    DatasetFolder.write(made, flights.lazy(), source="flights.csv")
    assert made.metadata["rows"] == len(flights)
    assert made.metadata["source"] == "flights.csv"
    assert all(isinstance(value, (str, int, float)) for value in made.metadata.values())


def test_a_dataset_made_of_another_keeps_its_source(artifact, flights):
    whole, part = artifact("whole", dsl.Dataset), artifact("part", dsl.Dataset)
    DatasetFolder.write(whole, flights.lazy(), source="flights.csv")
    DatasetFolder.write(part, DatasetFolder.open(whole).scan().head(5), source=whole)
    assert part.metadata["source"] == "flights.csv"


def test_no_rows_are_refused_and_nothing_is_left(tmp_path, flights):
    with pytest.raises(DataError, match="no row is left to write"):
        DatasetFolder.write(tmp_path / "empty", flights.lazy().head(0), source="test")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_whole_dataset_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(IntegrityError, match=r"no readable dataset.json; run the step that wrote it again"):
        DatasetFolder.open(tmp_path / "x")


def test_a_place_that_cannot_be_written_is_named(tmp_path, flights):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlatformError, match=r"file.*cannot be written: Not a directory; choose a folder that you may write to"):
        DatasetFolder.write(tmp_path / "file" / "dataset", flights.lazy(), source="test")


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tiny], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let the test mount a disk of its own")
    try:
        rows = pl.select(pl.int_range(1_000_000).hash().alias("x")).lazy()
        with pytest.raises(PlatformError, match="cannot be written: No space left on device; free some space"):
            DatasetFolder.write(tiny / "dataset", rows, source="test")
        assert list(tiny.iterdir()) == []
    finally:
        subprocess.run(["umount", tiny], check=True)


def test_columns_whose_names_hold_dots_are_told_apart(tmp_path):
    rows = pl.DataFrame({"a": [1, 2], **{f"a.b{i}": [i, i] for i in range(40)}})
    first = DatasetFolder.write(tmp_path / "first", rows.lazy(), source="test").facts.fingerprint
    other = DatasetFolder.write(tmp_path / "other", rows.with_columns(pl.col("a.b39") + 1).lazy(), source="test").facts.fingerprint
    assert first != other
