"""ingest_table on CSV: every line is a row or is named, and types hold for every row."""

import csv
import datetime as dt
import gzip
import io
import subprocess
import tempfile

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError, UserError
from kfp_foundry.components.ingestion.ingest_table import core, structure
from kfp_foundry.components.ingestion.ingest_table.bad_rows import Quarantine
from kfp_foundry.components.ingestion.ingest_table.dialect import Dialect


def column(*values):
    return "x,y\n" + "".join(f"{value},1\n" for value in values)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["1", "-2", "3"], pl.Int64, [1, -2, 3]),
        (["1", "2.5", "1e3"], pl.Float64, [1.0, 2.5, 1000.0]),
        (["1.5", "inf", "-Infinity"], pl.Float64, [1.5, float("inf"), float("-inf")]),
        (["1.5", "NaN", "2"], pl.Float64, [1.5, None, 2.0]),
        (["+1.5", "-2.5"], pl.Float64, [1.5, -2.5]),
        (["01234", "98765"], pl.String, ["01234", "98765"]),
        (["-01", "5"], pl.String, ["-01", "5"]),
        (["+4930", "+331"], pl.String, ["+4930", "+331"]),
        (["0", "0.5", "10"], pl.Float64, [0.0, 0.5, 10.0]),
        (["12345678901234567890", "1"], pl.String, ["12345678901234567890", "1"]),
        (["true", "False", "TRUE"], pl.Boolean, [True, False, True]),
        (["true", "1"], pl.String, ["true", "1"]),
        (["yes", "no"], pl.String, ["yes", "no"]),
        (["1", "NA", "", "?", "None", "null"], pl.Int64, [1, None, None, None, None, None]),
        (["a", "NA", "", "N/A"], pl.String, ["a", None, None, None]),
        (["", "NA"], pl.String, [None, None]),
        (["2013-01-05", "2013-12-31"], pl.Date, [dt.date(2013, 1, 5), dt.date(2013, 12, 31)]),
        (["05.01.2013", "31.12.2013"], pl.Date, [dt.date(2013, 1, 5), dt.date(2013, 12, 31)]),
        (["05/01/2013", "31/12/2013"], pl.Date, [dt.date(2013, 1, 5), dt.date(2013, 12, 31)]),
        (["05/01/2013", "12/31/2013"], pl.Date, [dt.date(2013, 5, 1), dt.date(2013, 12, 31)]),
        (["5 Jan 2013", "31 December 2013"], pl.Date, [dt.date(2013, 1, 5), dt.date(2013, 12, 31)]),
        (["01/02/2013", "03/04/2013"], pl.String, ["01/02/2013", "03/04/2013"]),
        (["1/2/13", "31/4/13"], pl.String, ["1/2/13", "31/4/13"]),
        (["2013-01-05", "05.01.2013"], pl.String, ["2013-01-05", "05.01.2013"]),
        (["2013-01-05 10:11:12", "2013-01-05 00:00:00"], pl.Datetime("us"), [dt.datetime(2013, 1, 5, 10, 11, 12), dt.datetime(2013, 1, 5)]),
        (
            ["2013-01-05T10:11:12.5Z", "2013-01-05T10:11:12Z"],
            pl.Datetime("us"),
            [dt.datetime(2013, 1, 5, 10, 11, 12, 500_000), dt.datetime(2013, 1, 5, 10, 11, 12)],
        ),
        (["2013-01-05T10:11:12+02:00"], pl.Datetime("us"), [dt.datetime(2013, 1, 5, 8, 11, 12)]),
        (["1/5/2013 1:05 PM", "12/31/2013 11:00 AM"], pl.Datetime("us"), [dt.datetime(2013, 1, 5, 13, 5), dt.datetime(2013, 12, 31, 11)]),
        (["10:11", "9:05"], pl.Time, [dt.time(10, 11), dt.time(9, 5)]),
        (["10.0.0.1", "10.0.0.2"], pl.String, ["10.0.0.1", "10.0.0.2"]),
        (['"1,5"', '"2,25"'], pl.Float64, [1.5, 2.25]),
        (['"1,234"', '"5,678"'], pl.String, ["1,234", "5,678"]),
        (['"1,5"', '"1.5"'], pl.String, ["1,5", "1.5"]),
        (['"1,234.5"', '"12"', '"1,234,567"'], pl.Float64, [1234.5, 12.0, 1234567.0]),
        (['"1.234,5"', '"12"', '"1.234.567,25"'], pl.Float64, [1234.5, 12.0, 1234567.25]),
        (['"1,234.5"', '"1,23"'], pl.String, ["1,234.5", "1,23"]),
        (["192.168.100.200", "10.0.0.1"], pl.String, ["192.168.100.200", "10.0.0.1"]),
        (["12e4567", "1e5"], pl.String, ["12e4567", "1e5"]),
        ([" 5", "6 ", "\t7"], pl.Int64, [5, 6, 7]),
        ([" a", '" b "'], pl.String, ["a", "b"]),
        (["1", "two"], pl.String, ["1", "two"]),
    ],
)
def test_a_column_gets_the_type_that_holds_every_value(ingest, values, dtype, expected):
    frame, _, _ = ingest(column(*values))
    assert frame.schema["x"] == dtype
    assert frame["x"].to_list() == expected


@pytest.mark.parametrize(
    ("usual", "late", "dtype"),
    [
        ("7", "text", pl.String),
        ("7", "7.5", pl.Float64),
        ("7", "007", pl.String),
        ("7", "NA", pl.Int64),
        ("7.5", "NAN", pl.Float64),
        ("7.5", "12e4567", pl.String),
        ("7.5", "inf", pl.Float64),
        ('"1,234.5"', '"1,23"', pl.String),
        ('"1,5"', '"1.234,5"', pl.Float64),
        ("", "3", pl.Int64),
        ("true", "yes", pl.String),
        ("true", "1", pl.String),
        ("2013-01-05", "2013-13-05", pl.String),
        ("2013-01-05", "05.01.2013", pl.String),
        ("01/02/2013", "31/02/2013", pl.String),
        ("01/02/2013", "25/02/2013", pl.Date),
        ("31/12/2013", "1/2/13", pl.String),
        ('"1,5"', "1.5", pl.String),
        ("7", " 8 ", pl.Int64),
        (" true", " 1", pl.String),
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_rows": 10}, {"where": "y = 1"}])
def test_one_late_value_decides_whatever_the_sample_said(ingest, usual, late, dtype, options, monkeypatch):
    monkeypatch.setattr(structure, "SAMPLE_FIRST", 50)
    monkeypatch.setattr(structure, "SAMPLE_LATER", 1)
    frame, _, _ = ingest(column(*[usual] * 3_000, late, *[usual] * 50), **options)
    assert frame.schema["x"] == dtype
    assert frame.height == (10 if "max_rows" in options else 3_051)


VALUES = ["1", "-7", "0", "007", "+3", "2.5", "1e3", "inf", "nan", "NA", "", " 4", "true", "False", "yes", '"1,5"', '"1,234"', '"1,234.5"', "12e4567",
          "2013-01-05", "05.01.2013", "31/12/2013", "1/2/2013", "2013-01-05 10:00:00", "10:30", "99999999999999999999", "x", '"a ""b"""']  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).flatmap(lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=30))
)
def test_a_sample_of_one_row_gives_the_same_table_as_a_look_at_all(ingest, values):
    results = []
    for first in (1, 1_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(structure, "SAMPLE_FIRST", first)
            results.append(ingest(column(*values))[0])
    assert_frame_equal(results[0], results[1])


def test_column_order_and_row_order_are_kept(ingest):
    frame, _, _ = ingest("z,a,m\n" + "".join(f"{i},{i % 7},t{i}\n" for i in range(50_000)))
    assert frame.columns == ["z", "a", "m"]
    assert frame["z"].to_list() == list(range(50_000))


def test_the_same_file_gives_the_same_bytes(ingest, tmp_path):
    text = "a,b,c\n" + "".join(f"{i},{i / 7},k{i % 50}\n" for i in range(20_000))
    ingest(text)
    first = (tmp_path / "dataset" / "part-00000.parquet").read_bytes()
    ingest(text)
    assert (tmp_path / "dataset" / "part-00000.parquet").read_bytes() == first


@pytest.mark.parametrize("block", [64, 1 << 18])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a,b\n1,"x\ny"\n2,z\n', [(1, "x\ny"), (2, "z")]),
        ('a,b\r\n1,"x\r\ny"\r\n2,"z"\r\n', [(1, "x\r\ny"), (2, "z")]),
        ('a,b\n1,"say ""hi"""\n2,""""\n', [(1, 'say "hi"'), (2, '"')]),
        ('a,b\n1,5" disc\n2,3" disc\n', [(1, '5" disc'), (2, '3" disc')]),
        ('a,b\n1, "x, y"\n2,z\n', [(1, "x, y"), (2, "z")]),
        ("a,b\n1,x\n\n2,y\n\n\n", [(1, "x"), (2, "y")]),
        ("a,b\n1,x\n2,y", [(1, "x"), (2, "y")]),
        ("\ufeffa,b\n1,x\n2,y\n", [(1, "x"), (2, "y")]),
        ('\ufeff"a","b"\n1,x\n', [(1, "x")]),
        ("\n\n a , b \n1,x\n", [(1, "x")]),
        ("a;b\n1;x,y\n2;z\n", [(1, "x,y"), (2, "z")]),
        ("sep=;\na;b\n1;x,y\n2;z\n", [(1, "x,y"), (2, "z")]),
        ("a\tb\n1\tx y\n2\t\n", [(1, "x y"), (2, None)]),
        ("a|b\n1|x\n", [(1, "x")]),
        ("a,b\r1,x\r2,y\r", [(1, "x"), (2, "y")]),
        ("a,b\n1,Zoë\n2,日本\n", [(1, "Zoë"), (2, "日本")]),
        ('a,b\n1,""\n2,x\n', [(1, None), (2, "x")]),
    ],
)
def test_what_csv_writers_write_is_read(ingest, text, expected, block, monkeypatch):
    monkeypatch.setattr(structure, "BLOCK", block)
    frame, _, _ = ingest(text)
    assert frame.columns == ["a", "b"]
    assert frame.rows() == expected


def test_one_column_is_a_table_too(ingest):
    frame, _, _ = ingest("name\nann\n\nbob\n")
    assert frame.rows() == [("ann",), ("bob",)]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a,b,c\n1,2,3\n4,5\n6,7,8\n", 3, "expected 3 fields, found 2"),
        ("a,b,c\n1,2,3\n4,5,6,7\n6,7,8\n", 3, "expected 3 fields, found 4"),
        ('a,b\n"x\ny",2\n3\n4,5\n', 4, "expected 2 fields, found 1"),
        ('a,b\n1,2\n"x,3\n4,5\n', 3, "a quoted field that does not end properly"),
        ('a,b\n1,2\n"x"y,3\n4,5\n', 3, "a quoted field that does not end properly"),
        (b"a,b\n1,2\n\xe9t\xe9,3\n4,5\n", 3, "not UTF-8: byte 0xe9 at offset 8 of the file"),
        (b'a,b\n1,2\n"\xe9t"\xe9,3\n4,5\n', 3, "not UTF-8: byte 0xe9 at offset 9 of the file"),
    ],
)
def test_a_bad_line_is_named_or_put_aside_and_never_lost(ingest, text, line, reason, tmp_path):
    with pytest.raises(DataError, match=f"table.csv, line {line}: {reason}: .*quarantine"):
        ingest(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv"]
    frame, bad, page = ingest(text, on_bad_rows="quarantine")
    lines = (text.encode() if isinstance(text, str) else text).splitlines()
    assert [(row["file"], row["line"], row["reason"]) for row in bad] == [("table.csv", line, reason)]
    assert bad[0]["text"] == lines[line - 1].decode(errors="backslashreplace")
    assert frame.height in (2, 3)
    assert "1 bad rows were put aside" in page


CELL = (
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=("Cs",)), max_size=6)
    | st.integers().map(str)
    | st.floats().map(str)
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=20), cut=st.integers(0, 3), block=st.sampled_from([8, 50, 1 << 18]))
def test_the_scan_agrees_with_pythons_csv_module(rows, cut, block, tmp_path_factory):
    rows = [row for row in rows if any(cell.strip() for cell in row)] or [["x", "", ""]]
    short = rows[:cut] and [row[:2] for row in rows[:cut] if any(cell.strip() for cell in row[:2])]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([*rows, *short])
    folder = tmp_path_factory.mktemp("scan")
    (folder / "t.csv").write_bytes(buffer.getvalue().encode())
    usual, structure.BLOCK = structure.BLOCK, block
    try:
        with Quarantine(folder / "bad", "quarantine") as bad:
            found = structure.check(folder / "t.csv", "t.csv", Dialect(",", ["a", "b", "c"], 0, 1), bad, folder / "clean.csv")
    finally:
        structure.BLOCK = usual
    assert found.rows == len(rows)
    assert bad.count == len(short)
    schema = dict.fromkeys("abc", pl.String())
    read = pl.read_csv(found.path, has_header=False, schema=schema)
    assert [[cell or "" for cell in row] for row in read.rows()] == rows


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"table.csv: the file is empty"),
        ("\n\n", {}, r"table.csv: the file is empty"),
        ("a,b\n", {}, r"table.csv: has a header and no rows"),
        ("*,b\n1,2\n", {}, r"a column is called '\*', which stands for a pattern of names; rename the column"),
        ("My report\na,b\n1,2\n", {}, r"line 2: expected 1 field, found 2: 'a,b'; remove lines that stand before the header"),
        ('"a","b"\n"1",1,2\n', {}, r"line 2: expected 2 fields, found 3: .*; check whether the header lacks a name"),
        ("<!DOCTYPE html>\n<html>login</html>\n", {}, r"this is a web page or XML, not a table"),
        ("a,b,a\n1,2,3\n", {}, r"columns with the same name: 'a' at positions 1, 3; give every column its own name"),
        ("a;b\n1;2\n", {"delimiter": ","}, r"delimiter ',' gives a single column 'a;b'; ';' looks right"),
        ("a,b\n1,2\n", {"delimiter": ",,"}, r"delimiter is ',,'; give one character"),
        ("a,b\n1,2\n", {"columns": ["a", "B2"]}, r"columns names 'B2', which is not a column; did you mean 'b'\?|choose one of: a, b"),
        ("carrier,b\n1,2\n", {"columns": ["carier"]}, r"did you mean 'carrier'\?"),
        ("month,b\n1,2\n", {"where": "mnth > 1"}, r"where names 'mnth', which is not a column; did you mean 'month'\?"),
        ("a,b\n1,2\n", {"where": "a >"}, r"where 'a >' is not a condition: .*write a SQL condition"),
        ("a,b\n1,2\n", {"where": "a + 1"}, r"where 'a \+ 1' does not fit the columns: filter predicate must be of type `Boolean`"),
        ("a,b\n1,2\n", {"where": "a = 'x'"}, r"does not fit the columns: cannot compare string with numeric type.*a is Int64"),
        ("a,b\n2013-01-05,2\n", {"where": "a < '2013-06-01'"}, r"does not fit the columns: .*a is Date; a date is written DATE '2013-12-31'"),
        ("a,b\n1,2\n", {"where": "a > 5"}, r"no row is left"),
        ("a,b\n1,2\n", {"format": "parket"}, r"format is 'parket'; did you mean 'parquet'\?"),
        ("a,b\n1,2\n", {"encoding": "utf-99"}, r"encoding is 'utf-99'; did you mean"),
        ("a,b\n1,2\n", {"on_bad_rows": "skip"}, r"on_bad_rows is 'skip'; choose one of: stop, quarantine"),
        ("a,b\n1,2\n", {"max_rows": -1}, r"max_rows is -1"),
        ("a,b\n1,2\n", {"query": "SELECT 1"}, r"query is only for databases"),
        ("a,b\n1,2\n", {"decimal": ";"}, r"decimal is ';'"),
        ("a,b\n1,2\n", {"columns": ["a", "a"]}, r"columns names 'a' twice"),
        ("a,b\n1\n2\n", {"on_bad_rows": "quarantine"}, r"no row is left: every line is bad"),
        (b"PK\x03\x04 nothing", {}, r"the compressed file is damaged or cut off"),
        ('[{"a": 1}]', {"name": "t.json"}, r"this is one JSON array; write one object per line"),
        ("a\0,\0b\0\n\x001\0,\x002\0\n\0", {}, r'looks like UTF-16; set encoding="utf-16-le"'),
    ],
)
def test_refusals_are_one_clear_line_and_leave_nothing_behind(ingest, text, options, message, tmp_path):
    options = dict(options)
    name = options.pop("name", "table.csv")
    with pytest.raises(FoundryError, match=message) as caught:
        ingest(text, name=name, **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.csv", "nowhere.csv: there is no such file; check the path"),
        ("custommers.csv", r"there is no such file; did you mean 'customers.csv'\?"),
        ("other", "no data file in this folder"),
        ("nothing/*.csv", "no file matches"),
        ("gopher://x/y.csv", r"unknown kind of address 'gopher'"),
        ("", "source is empty"),
    ],
)
def test_a_source_that_is_not_there_is_refused(ingest, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "customers.csv").write_text("a\n1\n")
    (tmp_path / "other").mkdir()
    with pytest.raises(FoundryError, match=message):
        ingest(source=source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["customers.csv", "other"]


def test_an_output_that_cannot_be_made_is_refused(artifact, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "wall").write_text("")
    outputs = [artifact(f"wall/{name}") for name in ("dataset", "quarantine", "report")]
    with pytest.raises(PlatformError, match=r"cannot be written: .*; choose a folder that you may write to"):
        core.run(*outputs, str(tmp_path / "t.csv"))


@pytest.fixture
def tiny_disk(tmp_path):
    place = tmp_path / "tiny"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("full", ["the output", "the scratch folder"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(artifact, tmp_path, tiny_disk, monkeypatch, full):
    (tmp_path / "t.csv").write_bytes(gzip.compress(("a,b\n" + "".join(f"{i},{i * i * 2654435761 % 2**61}\n" for i in range(300_000))).encode()))
    folder = "tiny" if full == "the output" else "."
    if full == "the scratch folder":
        monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    outputs = [artifact(f"{folder}/{name}") for name in ("dataset", "quarantine", "report")]
    with pytest.raises(PlatformError, match="cannot be written: No space left on device; free some space"):
        core.run(*outputs, str(tmp_path / "t.csv"))
    assert list(tiny_disk.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "tiny"]


def test_latin_text_is_read_with_its_encoding_and_refused_without(ingest):
    text = "name,town\nJosé,Málaga\nJürgen,Köln\n".encode("cp1252")
    with pytest.raises(DataError, match=r'line 2: not UTF-8: byte 0xe9 at offset 13 .*set encoding="cp1252"'):
        ingest(text)
    frame, _, _ = ingest(text, encoding="cp1252")
    assert frame.rows() == [("José", "Málaga"), ("Jürgen", "Köln")]


def test_utf_16_with_its_mark_is_read(ingest):
    frame, _, _ = ingest("name,n\nJosé,1\n".encode("utf-16"))
    assert frame.rows() == [("José", 1)]


def test_five_thousand_categories_stay_texts(ingest):
    frame, _, _ = ingest("c,n\n" + "".join(f"k{i},{i}\n" for i in range(5_000)))
    assert frame["c"].n_unique() == 5_000


def test_columns_where_and_max_rows_work_together_in_that_order_of_the_source(ingest):
    text = "a,b,c\n" + "".join(f"{i},{i % 3},t{i}\n" for i in range(100))
    frame, _, page = ingest(text, columns=["c", "a"], where="b = 1 AND a > 10", max_rows=3)
    assert frame.rows() == [(13, "t13"), (16, "t16"), (19, "t19")]
    assert "The source has 100 rows; 3 are left after the condition b = 1 AND a &gt; 10 and the limit of 3 rows" in page


def test_own_null_markers_replace_the_default_ones(ingest):
    frame, _, _ = ingest(column("NA", "missing", "x", ""), null_values=["missing"])
    assert frame["x"].to_list() == ["NA", None, "x", None]


def test_a_decimal_mark_that_was_given_settles_what_is_ambiguous(ingest):
    text = "x;y\n1,234;1\n5,678;2\n"
    assert ingest(text)[0].schema["x"] == pl.String
    assert ingest(text, decimal=",")[0]["x"].to_list() == [1.234, 5.678]
    assert ingest(text, decimal=".")[0]["x"].to_list() == [1234.0, 5678.0]


def test_columns_without_a_name_get_one_and_the_first_is_the_row_label(ingest):
    frame, _, page = ingest(",a,\n0,1,\n1,2,\n")
    assert frame.columns == ["index", "a", "column_3"]
    assert "without a name in the header are called index, column_3" in page


def test_the_report_says_what_deserves_a_look(ingest):
    text = "zip,when,mixed,void,hot\n01234,01/02/2013,1,,1.5\n99999,03/04/2013,abc,,inf\n"
    _, _, page = ingest(text)
    for words in (
        "numbers with leading zeros, such as &#39;01234&#39;, are labels",
        "day and month cannot be told apart in any value (%d/%m/%Y or %m/%d/%Y)",
        "numbers and texts are mixed: 1 of 2 values are numbers, 1 are not, such as &#39;abc&#39;",
        "every value is missing",
        "1 values are infinite",
        "4 columns deserve a look",
    ):
        assert words in page


def test_bytes_and_metadata_are_recorded_as_scalars(artifact, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n")
    dataset, quarantine = artifact("dataset"), artifact("quarantine")
    core.run(dataset, quarantine, artifact("report"), str(tmp_path / "t.csv"), on_bad_rows="quarantine")
    assert dataset.metadata["rows"] == 1
    assert dataset.metadata["bad_rows"] == quarantine.metadata["rows"] == 1
    assert all(isinstance(value, (str, int, float)) for value in dataset.metadata.values())


def test_user_errors_are_told_from_data_errors(ingest):
    with pytest.raises(UserError):
        ingest("a,b\n1,2\n", columns=["c"])
