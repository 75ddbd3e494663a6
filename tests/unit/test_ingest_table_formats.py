"""ingest_table on other formats, folders, archives and databases."""

import bz2
import datetime as dt
import gzip
import sqlite3
import zipfile
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from kfp_foundry.components.common import patience
from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError, UserError

CSV = "a,b\n1,x\n2,y\n"
ROWS = [(1, "x"), (2, "y")]


def zst(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def test_flights_survive_every_format_unchanged(ingest, flights, tmp_path):
    flights.write_parquet(tmp_path / "f.parquet")
    flights.write_ipc(tmp_path / "f.arrow")
    flights.write_ipc_stream(tmp_path / "f.stream")
    flights.write_ndjson(tmp_path / "f.jsonl")
    flights.write_csv(tmp_path / "f.csv")
    for name in ("f.parquet", "f.arrow", "f.stream", "f.jsonl", "f.csv"):
        frame, _, _ = ingest(source=tmp_path / name)
        assert_frame_equal(frame, flights)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zst])
def test_packed_files_are_unpacked_whatever_their_name(ingest, pack):
    assert ingest(pack(CSV.encode()), name="table")[0].rows() == ROWS


def test_an_archive_with_one_file_is_unpacked_and_another_refused(ingest, tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", CSV)
    assert ingest(source=tmp_path / "t.zip")[0].rows() == ROWS
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as archive:
        archive.writestr("u.csv", CSV)
    with pytest.raises(DataError, match="the archive holds 2 files; unpack it and give the folder"):
        ingest(source=tmp_path / "t.zip")


def test_a_packed_file_that_was_cut_is_refused(ingest):
    text = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(20_000))
    with pytest.raises(DataError, match=r"t.csv.gz: the compressed file is damaged or cut off"):
        ingest(gzip.compress(text.encode())[:-2_000], name="t.csv.gz")


def test_a_parquet_file_cut_in_half_is_refused(ingest, flights, tmp_path):
    flights.write_parquet(tmp_path / "f.parquet")
    half = (tmp_path / "f.parquet").read_bytes()[: (tmp_path / "f.parquet").stat().st_size // 2]
    with pytest.raises(DataError, match=r"half.parquet: not a whole Parquet file \(cut off or damaged\)"):
        ingest(half, name="half.parquet")


def test_a_parquet_file_damaged_inside_is_refused(ingest, flights, tmp_path):
    flights.write_parquet(tmp_path / "f.parquet")
    data = bytearray((tmp_path / "f.parquet").read_bytes())
    data[4:9_000] = b"\xff" * 8_996
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        ingest(bytes(data), name="damaged.parquet")
    assert not (tmp_path / "dataset").exists()


def test_an_arrow_file_cut_in_half_is_refused(ingest, flights, tmp_path):
    flights.write_ipc(tmp_path / "f.arrow")
    with pytest.raises(DataError, match="Arrow"):
        ingest((tmp_path / "f.arrow").read_bytes()[:40_000], name="half.arrow")


@pytest.mark.parametrize("source", ["data", "data/*.csv", "data/**/*.csv", "file://{here}/data"])
def test_a_folder_or_a_glob_is_one_table_in_order_of_names(ingest, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "2.csv").write_text("a,b\n3,z\n")
    (tmp_path / "data" / "1.csv").write_text(CSV)
    (tmp_path / "data" / "_SUCCESS").write_text("")
    assert ingest(source=source.format(here=tmp_path))[0].rows() == [*ROWS, (3, "z")]


def test_files_of_one_table_decide_a_type_together(ingest, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text("zip\n12345\n")
    (tmp_path / "d" / "2.csv").write_text("zip\n01234\n")
    assert ingest(source=tmp_path / "d")[0]["zip"].to_list() == ["12345", "01234"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("a,c\n1,2\n", r"2.csv: unexpected columns c; missing columns b; give files with the same columns"),
        ("b,a\n1,2\n", r"2.csv: the same columns in another order"),
        ("a,b\n1\n", r"2.csv, line 2: expected 2 fields, found 1"),
    ],
)
def test_the_file_at_fault_is_named(ingest, tmp_path, second, message):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text(CSV)
    (tmp_path / "d" / "2.csv").write_text(second)
    with pytest.raises(DataError, match=message):
        ingest(source=tmp_path / "d")


def test_files_of_several_formats_are_refused(ingest, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.csv").write_text(CSV)
    (tmp_path / "d" / "2.jsonl").write_text('{"a": 1, "b": "x"}\n')
    with pytest.raises(DataError, match=r"files of several formats: .*1.csv is csv, .*2.jsonl is jsonl; give a glob"):
        ingest(source=tmp_path / "d")


def test_a_name_with_brackets_is_a_name(ingest):
    for name in ("t[1].csv", "t[1].jsonl"):
        content = CSV if name.endswith("csv") else '{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n'
        assert ingest(content, name=name)[0].rows() == ROWS


def test_types_that_no_later_step_knows_become_those_it_knows(ingest, tmp_path):
    when = dt.datetime(2013, 1, 5, 10, 11, 12)
    frame = pl.DataFrame(
        {
            "void": [None, None],
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
            "price": [Decimal("1.50"), Decimal("2.25")],
            "zoned": pl.Series([when, None]).dt.replace_time_zone("Europe/Berlin"),
            "nano": pl.Series([when, None]).cast(pl.Datetime("ns")),
            "span": [dt.timedelta(seconds=90), None],
            "list": [[1, 2], None],
            "struct": [{"p": 1}, {"p": 2}],
            "nan": [1.5, float("nan")],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    found, _, _ = ingest(source=tmp_path / "t.parquet")
    assert found.rows(named=True)[0] == {
        "void": None, "kind": "x", "price": 1.5, "zoned": when - dt.timedelta(hours=1), "nano": when, "span": 90.0,
        "list": "[1,2]", "struct": '{"p":1}', "nan": 1.5,
    }  # fmt: skip
    assert found["nan"].null_count() == found["list"].null_count() == 1
    assert found.schema["void"] == pl.String


def test_bytes_are_refused_until_they_are_left_out(ingest, tmp_path):
    pl.DataFrame({"a": [1], "image": [b"\x00"]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column 'image' holds Binary values, .*leave it out with the parameter columns"):
        ingest(source=tmp_path / "t.parquet")
    assert ingest(source=tmp_path / "t.parquet", columns=["a"])[0].rows() == [(1,)]


def test_json_lines_take_their_types_from_every_line(ingest):
    lines = ['{"n": 1, "t": "x", "when": "2013-01-05"}'] * 2_000
    text = "\n".join([*lines, '{"n": 2.5, "t": null, "when": "2013-01-06", "late": true}'])
    frame, _, _ = ingest(text, name="t.jsonl")
    assert frame.schema == {"n": pl.Float64, "t": pl.String, "when": pl.Date, "late": pl.Boolean}
    assert frame.row(-1) == (2.5, None, dt.date(2013, 1, 6), True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1,', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"a": 1} {"a": 2}', "not JSON"),
        ('{"a": Infinity}', "not JSON"),
        (b'{"a": "\xe9"}', "not UTF-8: byte 0xe9"),
    ],
)
def test_a_bad_json_line_is_named_or_put_aside(ingest, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    text = b'{"a": 1}\n' + line + b'\n\n{"a": 3}\n'
    with pytest.raises(DataError, match=f"t.jsonl, line 2: {reason}"):
        ingest(text, name="t.jsonl")
    frame, bad, _ = ingest(text, name="t.jsonl", on_bad_rows="quarantine")
    assert frame.rows() == [(1,), (3,)]
    assert bad[0]["line"] == 2


def test_json_with_mixed_and_nested_values_stays_text(ingest):
    frame, _, _ = ingest('{"m": true, "n": {"x": [1]}}\n{"m": 1, "n": null}\n{"m": NaN}\n', name="t.jsonl")
    assert frame.schema == {"m": pl.String, "n": pl.String}
    assert frame["m"].null_count() == 1


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE customers (id INTEGER, name TEXT, since TEXT, spent, mixed)")
        rows = [(i, f"n{i}", f"2013-01-{i % 28 + 1:02d}", i * 1.5, i) for i in range(70_000)]
        database.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    return path


def test_a_sqlite_query_is_a_table(ingest, shop):
    frame, _, _ = ingest(source=f"sqlite:///{shop}", query="SELECT * FROM customers WHERE id < 5", columns=["id", "since"], where="id > 2")
    assert frame.rows() == [(3, dt.date(2013, 1, 4)), (4, dt.date(2013, 1, 5))]


def test_a_late_text_in_a_sqlite_column_makes_it_text(ingest, shop):
    with sqlite3.connect(shop) as database:
        database.execute("INSERT INTO customers VALUES (70000, NULL, '2013-02-01', 7, 'many')")
    database.close()
    frame, _, _ = ingest(source=f"sqlite:///{shop}", query="SELECT * FROM customers")
    assert frame.height == 70_001
    assert frame.schema == {"id": pl.Int64, "name": pl.String, "since": pl.Date, "spent": pl.Float64, "mixed": pl.String}
    assert frame.row(-1) == (70_000, None, dt.date(2013, 2, 1), 7.0, "many")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "a database needs a query; set query, such as"),
        ("SELECT * FROM nobody", "the query failed: .*no such table: nobody"),
        ("DELETE FROM customers", "the query failed: .*readonly"),
        ("SELECT * FROM customers WHERE id < 0", "no row is left"),
    ],
)
def test_a_query_that_fails_says_the_databases_own_words(ingest, shop, query, message):
    with pytest.raises(FoundryError, match=message):
        ingest(source=f"sqlite:///{shop}", query=query)


def test_a_database_that_is_not_there_is_not_made(ingest, tmp_path):
    with pytest.raises(DataError, match="there is no such database"):
        ingest(source=f"sqlite:///{tmp_path}/nope.db", query="SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_not_in_an_error(ingest, monkeypatch):
    monkeypatch.setattr(patience, "ATTEMPTS", 1)
    with pytest.raises(PlatformError) as caught:
        ingest(source="postgresql://ann:hidden@127.0.0.1:1/shop", query="SELECT 1")
    assert "hidden" not in str(caught.value)
    assert "postgresql://***@127.0.0.1:1/shop" in str(caught.value)
