"""The report: everything escaped, nothing loaded, the same bytes each time, numbers as people read them."""

import datetime as dt
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import polars as pl
import pytest

from kfp_foundry.components.common.errors import IntegrityError
from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.format import between, human, percent
from kfp_foundry.components.common.report.page import Report

EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """Reads a page as a tree, and refuses tags that do not match."""

    def __init__(self):
        super().__init__()
        self.tree = ET.TreeBuilder()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.tree.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag == "meta":
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.tree.end(tag)

    def handle_data(self, data):
        if self.open:
            self.tree.data(data)


def read(page: str) -> ET.Element:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader.tree.close()


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def whole_page() -> Report:
    report = Report(f"Title {EVIL}", f"subtitle {EVIL}")
    report.verdict("warn", f"reason {EVIL}").facts({EVIL: EVIL, "Rows": 327346}).text(EVIL)
    report.section(f"Section {EVIL}", EVIL)
    report.table([{EVIL: EVIL, "outcome": "fail"}, {EVIL: 3, "outcome": EVIL}], caption=EVIL)
    report.figure(plots.bars([EVIL, "pressure $x_1$"], [3.0, 1.0], EVIL), caption=EVIL, alt=EVIL, note=EVIL)
    report.figure(plots.lines({EVIL: ([0, 1], [1, 0])}, EVIL, EVIL, marks={EVIL: (0.5, 0.5)}, upright={EVIL: 0.3}))
    report.figure(plots.matrix([[1, 2], [3, 4]], [EVIL, "b"], [EVIL, "b"], EVIL, EVIL))
    report.code(EVIL, EVIL).links({EVIL: "https://example.org", "bad": "javascript:alert(1)"})
    return report


def test_names_and_values_cannot_become_markup():
    page = whole_page().html()
    assert "<script" not in page.lower()
    assert "alert(&#39;x&#39;)" in page


def test_a_link_that_runs_code_is_shown_as_text():
    assert "javascript:alert(1)" in whole_page().html()
    assert 'href="javascript' not in whole_page().html()


def test_nothing_is_loaded_from_anywhere():
    page = whole_page().html()
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')> ]+)""", page))
    assert all(address.startswith(("#", "https://example.org")) for address in addresses)
    assert "@import" not in page


def test_the_page_is_well_formed_and_names_each_part_once():
    page = read(whole_page().html())
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert page.findall(".//main/section//table")
    assert len(page.findall(".//main//svg[@role='img']")) == 3
    assert len(ids) == len(set(ids))


def test_the_same_calls_give_the_same_bytes_in_another_process():
    code = "import hashlib; from kfp_foundry.components.common.report import page, plots;"
    code += (
        "r = page.Report('a', 'b').figure(plots.histogram({'x': [1, 2, 3, 3], 'y': [2, 2, 5, 8]}, 'v'), 'c').figure(plots.scatter([1, 2], [3, 4]));"
    )
    code += "print(hashlib.sha256(r.html().encode()).hexdigest())"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(first.strip()) == 64


def test_figures_follow_the_colours_of_the_page():
    page = Report("a").figure(plots.bars(["x"], [1.0]), "b").html()
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert "var(--fig-1)" in svg
    assert "#3567a8" not in svg
    assert "DejaVu" not in svg
    assert "<style" not in svg


def test_matplotlib_is_imported_only_for_a_figure_and_pyplot_never():
    code = "import sys; from kfp_foundry.components.common.report import plots; from kfp_foundry.components.common.report.page import Report;"
    code += "r = Report('a').table([{'x': 1}]); r.html(); before = 'matplotlib' in sys.modules;"
    code += "r.figure(plots.bars(['x'], [1.0])); print(before, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "True", "False"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (327346, "327,346"),
        (0.73456789, "0.7346"),
        (1234567.8, "1,234,568"),
        (12.0, "12"),
        (-0.00001234, "-1.23e-05"),
        (True, "yes"),
        (None, "–"),
        ("", "–"),
        (float("nan"), "–"),
        (float("-inf"), "minus infinite"),
        (np.float32(0.5), "0.5"),
        (np.int64(1000), "1,000"),
        (np.bool_(False), "no"),
        (dt.date(2013, 1, 31), "2013-01-31"),
        (dt.datetime(2013, 1, 31, 5, 0), "2013-01-31 05:00:00"),
        ([1, 2000], "1, 2,000"),
        ({"a": 0.5}, "a: 0.5"),
    ],
)
def test_values_read_as_people_write_them(value, text):
    assert human(value) == text


def test_shares_and_intervals_read_as_people_write_them():
    assert percent(0.12345) == "12.3 %"
    assert between(0.7345, 0.72911, 0.74022) == "0.7345 (0.7291 to 0.7402)"
    assert between(0.7345, None, None) == "0.7345"


def test_a_frame_and_rows_give_the_same_table():
    frame = pl.DataFrame({"feature": ["a", "b"], "gain": [2.0, None]})
    assert Report("x").table(frame).html() == Report("x").table(frame.rows(named=True)).html()


def test_a_long_table_says_how_many_rows_it_leaves_out():
    page = Report("x").table([{"n": i} for i in range(1000)], limit=10).html()
    assert "The first 10 of 1,000 rows." in page
    assert page.count("<tr>") == 11


def test_rows_with_different_columns_share_a_table():
    page = read(Report("x").table([{"a": 1}, {"b": 2}]).html())
    assert [text(cell) for cell in page.iter("td")] == ["1", "–", "–", "2"]


def test_outcomes_are_badges_in_their_colours():
    page = read(Report("x").table([{"check": "a", "outcome": word} for word in ("pass", "warn", "fail", "other")]).html())
    assert [badge.get("class") for badge in page.findall(".//td/span")] == ["badge pass", "badge warn", "badge fail", "badge plain"]


def test_bars_are_shares_of_the_largest_value():
    page = read(Report("x").table([{"gain": 4.0}, {"gain": 1.0}, {"gain": None}], bars=["gain"]).html())
    assert [cell.get("style") for cell in page.iter("td")] == ["--share:100.0%", "--share:25.0%", None]


def test_an_empty_table_says_so():
    assert "No rows." in Report("x").table([]).html()


def test_a_saved_report_is_folded_into_another_one(tmp_path):
    inner = Report(f"Inner {EVIL}", "its rows").verdict("fail", "broken")
    inner.section("Checks").table([{"check": EVIL, "outcome": "fail"}])
    inner.save(tmp_path / "inner.html")
    outer = Report("Outer").section("Steps").page(tmp_path / "inner.html").page(inner, "Again")
    page = read(outer.html())
    assert "<script" not in outer.html()
    titles = [text(summary) for summary in page.iter("summary")]
    assert titles == [f"Inner {EVIL} its rows fail", "Again its rows fail"]
    assert len(page.findall(".//details//table")) == 2
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_what_is_no_report_of_ours_is_refused(tmp_path):
    (tmp_path / "other.html").write_text("<html><script>alert(1)</script></html>")
    with pytest.raises(IntegrityError, match="not a report that kfp-foundry wrote; give the HTML artifact"):
        Report("x").page(tmp_path / "other.html")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Report("x").page(tmp_path / "absent.html")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.bars([], []),
        lambda: plots.bars(["a"], [0.0]),
        lambda: plots.lines({}),
        lambda: plots.lines({"a": ([], [])}),
        lambda: plots.histogram([]),
        lambda: plots.histogram([float("nan")]),
        lambda: plots.histogram({"a": [1.0, 1.0]}),
        lambda: plots.scatter([], [], diagonal=True),
        lambda: plots.matrix([[0]], ["a"], ["a"]),
        lambda: plots.matrix(np.arange(900).reshape(30, 30), range(30), range(30)),
        lambda: plots.intervals([], [], [], []),
        lambda: plots.intervals(["a"], [1.0], [0.5], [1.5], reference=1.0, reference_name="all"),
    ],
)
def test_figures_of_little_or_much_are_drawn(draw):
    assert "</svg>" in Report("x").figure(draw(), "c").html()


@pytest.mark.parametrize("kind", ["lines", "course"])
def test_what_is_counted_has_whole_ticks(kind):
    curve = ([1, 2, 3], [0.3, 0.2, 0.1])
    drawn = plots.lines({"loss": curve}) if kind == "lines" else plots.course({"trial": curve}, curve)
    assert all(float(tick).is_integer() for tick in drawn.axes[0].get_xticks())


def test_labels_of_parallel_coordinates_have_7_points_at_least_at_the_width_of_the_page():
    drawn = plots.parallel([f"parameter {i}" for i in range(9)], [{0.0: "low", 1.0: "high"}] * 9, [[0.5] * 9], [1.0], 0)
    axes = drawn.axes[0]
    labels = [*axes.texts, *axes.get_xticklabels()]
    assert min(label.get_fontsize() for label in labels) * plots.WIDTH / drawn.get_figwidth() >= 7
