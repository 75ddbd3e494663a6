"""split_table: no leakage, the same rows whatever the order, and clear refusals."""

import subprocess
import sys
from datetime import datetime

import polars as pl
import pytest
from kfp import dsl
from polars.testing import assert_frame_equal

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, GateRefused, UserError
from kfp_foundry.components.features.split_table import core
from kfp_foundry.components.features.split_table.core import split, split_table

SHARES = {"validation": 0.1, "test": 0.2}
METHODS = ["time", "group", "stratified", "random"]


def collect(parts):
    return {name: rows.collect() for name, rows in parts.items()}


@pytest.fixture(scope="session")
def contract(flights_contract):
    return flights_contract.with_role("tailnum", "group")


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_in_exactly_one_part_in_its_old_order(flights, contract, method):
    numbered = flights.with_row_index("number")
    parts = collect(split(numbered.lazy(), contract, method, SHARES, seed=7))
    assert all(rows["number"].is_sorted() for rows in parts.values())
    assert_frame_equal(pl.concat(parts.values()).sort("number"), numbered)


@pytest.mark.parametrize("method", METHODS)
def test_the_shares_are_kept(flights, contract, method):
    sizes = split_table(flights.lazy(), contract, method, SHARES, seed=7).sizes
    assert sizes["validation"] / flights.height == pytest.approx(0.1, abs=0.01)
    assert sizes["test"] / flights.height == pytest.approx(0.2, abs=0.01)


def test_time_split_keeps_the_latest_rows_for_test(flights, flights_contract):
    parts = collect(split(flights.lazy(), flights_contract, "time", SHARES, seed=7))
    assert parts["train"]["time_hour"].max() < parts["validation"]["time_hour"].min()
    assert parts["validation"]["time_hour"].max() < parts["test"]["time_hour"].min()


def test_a_group_never_stands_on_two_sides(flights, contract):
    parts = collect(split(flights.lazy(), contract, "group", SHARES, seed=7))
    planes = [set(rows["tailnum"]) for rows in parts.values()]
    assert sum(len(some) for some in planes) == flights["tailnum"].n_unique()


def test_stratified_parts_have_the_same_share_of_each_class(flights, flights_contract):
    parts = collect(split(flights.lazy(), flights_contract, "stratified", SHARES, seed=7))
    for rows in parts.values():
        assert rows["late"].mean() == pytest.approx(flights["late"].mean(), abs=0.001)


@pytest.mark.parametrize("method", METHODS)
def test_row_order_does_not_matter(flights, contract, method):
    shuffled = flights.sample(fraction=1, shuffle=True, seed=1)
    first = collect(split(flights.lazy(), contract, method, SHARES, seed=7))
    again = collect(split(shuffled.lazy(), contract, method, SHARES, seed=7))
    assert_frame_equal(first["test"], again["test"], check_row_order=False)
    assert_frame_equal(first["validation"], again["validation"], check_row_order=False)


def test_equal_rows_stay_together(flights, flights_contract):
    doubled = pl.concat([flights, flights[:2000]])
    for method in ("random", "stratified"):
        parts = collect(split(doubled.lazy(), flights_contract, method, SHARES, seed=7))
        assert parts["test"].join(parts["train"], on=flights.columns, how="semi", nulls_equal=True).is_empty()


@pytest.mark.parametrize("method", ["stratified", "random"])
def test_a_table_of_few_different_rows_is_split_too(flights, flights_contract, method):
    few = flights.select("origin", "late")
    contract = Contract.parse("{task: binary, fields: [{name: origin, type: string}, {name: late, type: boolean, role: target}]}")
    done = split_table(few.lazy(), contract, method, SHARES, seed=7)
    assert done.sizes["test"] == pytest.approx(0.2 * few.height, abs=2)
    again = split(few.sample(fraction=1, shuffle=True, seed=1).lazy(), contract, method, SHARES, seed=7)
    assert_frame_equal(done.parts["test"].collect(), again["test"].collect(), check_row_order=False)


def test_the_seed_changes_the_rows_and_the_same_seed_does_not(flights, flights_contract):
    parts = [collect(split(flights.lazy(), flights_contract, "random", SHARES, seed=seed))["test"] for seed in (7, 7, 8)]
    assert parts[0].equals(parts[1])
    assert not parts[0].equals(parts[2])


def test_another_process_splits_alike(flights, flights_contract, tmp_path):
    flights.write_parquet(tmp_path / "flights.parquet")
    flights_contract.save(tmp_path / "contract.yaml")
    program = (
        "import polars as pl, sys\n"
        "from kfp_foundry.components.common.contract import Contract\n"
        "from kfp_foundry.components.features.split_table.core import split\n"
        "parts = split(pl.scan_parquet('flights.parquet'), Contract.load('contract.yaml'), 'random', {'validation': 0.1, 'test': 0.2}, 7)\n"
        "parts['test'].collect().write_parquet('test.parquet')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    here = split(flights.lazy(), flights_contract, "random", SHARES, 7)["test"].collect()
    assert here.equals(pl.read_parquet(tmp_path / "test.parquet"))


def test_a_category_column_splits_as_its_text_does(flights, flights_contract):
    as_text = collect(split(flights.lazy(), flights_contract, "random", SHARES, seed=7))
    as_category = collect(split(flights.lazy().with_columns(pl.col("carrier").cast(pl.Categorical)), flights_contract, "random", SHARES, seed=7))
    assert as_text["test"]["time_hour"].equals(as_category["test"]["time_hour"])


@pytest.mark.parametrize("method", METHODS)
def test_a_table_of_fifty_rows_works(flights, contract, method):
    few = flights.gather_every(flights.height // 50).head(50)
    sizes = split_table(few.lazy(), contract, method, SHARES, seed=7).sizes
    assert min(sizes.values()) >= 1
    assert sizes["train"] >= 30


def test_many_small_classes_leave_no_part_empty():
    table = pl.LazyFrame({"x": range(400), "y": [f"class {i % 200}" for i in range(400)]})
    contract = Contract.parse("{task: multiclass, fields: [{name: x, type: integer}, {name: y, type: string, role: target}]}")
    parts = collect(split(table, contract, "stratified", SHARES, seed=7))
    assert parts["train"]["y"].n_unique() == 200
    assert parts["validation"].height == pytest.approx(40, abs=20)


def test_rows_without_a_target_are_left_out(flights, flights_contract):
    holed = flights.with_columns(pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise("late").alias("late"))
    done = split_table(holed.lazy(), flights_contract, "auto", SHARES, seed=7)
    assert done.without_target == 655
    assert sum(rows.collect()["late"].null_count() for rows in done.parts.values()) == 0


def test_rows_without_a_time_are_in_train(flights, flights_contract):
    holed = flights.with_columns(pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise("time_hour").alias("time_hour"))
    done = split_table(holed.lazy(), flights_contract, "time", SHARES, seed=7)
    assert done.without_time == 655
    assert {name: rows.collect()["time_hour"].null_count() for name, rows in done.parts.items()} == {"train": 655, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("change", "method"),
    [([], "time"), ([("time_hour", "ignore"), ("tailnum", "group")], "group"), ([("time_hour", "ignore")], "stratified")],
)
def test_auto_takes_the_first_method_that_the_contract_allows(flights, flights_contract, change, method):
    contract = flights_contract
    for name, role in change:
        contract = contract.with_role(name, role)
    assert split_table(flights.lazy(), contract, "auto", SHARES, seed=7).method == method


def test_an_identifier_in_two_parts_is_refused(flights, flights_contract):
    with pytest.raises(DataError, match=r"the id column 'tailnum' stands in two parts, such as '\w+' .*give 'tailnum' the role group"):
        split(flights.lazy(), flights_contract.with_role("tailnum", "id"), "time", SHARES, seed=7)


def test_repeated_identifiers_stay_together_in_a_random_split(flights, flights_contract):
    parts = collect(split(flights.lazy(), flights_contract.with_role("tailnum", "id"), "random", SHARES, seed=7))
    assert not set(parts["train"]["tailnum"]) & set(parts["test"]["tailnum"])


def test_a_column_of_a_wider_key_may_repeat(flights, flights_contract):
    contract = flights_contract.with_role("tailnum", "id")
    contract.dataset.key = ["tailnum", "time_hour"]
    assert split(flights.lazy(), contract, "time", SHARES, seed=7)


def test_a_part_without_rows_is_refused(flights_contract):
    hours = [datetime(2013, 1, 1)] * 40 + [datetime(2013, 1, 2)] * 10
    table = pl.LazyFrame({"time_hour": hours, "late": [True, False] * 25})
    contract = Contract.parse("{task: binary, fields: [{name: time_hour, type: datetime, role: time}, {name: late, type: boolean, role: target}]}")
    with pytest.raises(DataError, match=r"part test has no row: 50 rows .* split by time 'time_hour'; give more rows"):
        split(table, contract, "time", SHARES, seed=7)


@pytest.mark.parametrize(
    ("method", "shares", "message"),
    [
        ("tme", SHARES, r"method is 'tme'.*choose one of auto, time"),
        ("group", SHARES, r"names no column for it.*give a column the role group"),
        ("random", {"validation": 0.1, "test": 0.9}, r"test_share is 0.9.*between 0 and 0.5"),
        ("random", {"validation": 0.0, "test": 0.2}, r"validation_share is 0.0.*between 0 and 0.5"),
        ("random", {"validation": 0.5, "test": 0.5}, r"the shares sum to 1.*leave at least 0.1 for train"),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(flights, flights_contract, method, shares, message):
    with pytest.raises(UserError, match=message):
        split(flights.lazy(), flights_contract, method, shares, seed=7)


def test_a_column_of_the_contract_that_is_not_there_is_named(flights, flights_contract):
    with pytest.raises(DataError, match=r"column 'time_hour' is not in the table; did you mean 'time_hours'"):
        split(flights.lazy().rename({"time_hour": "time_hours"}), flights_contract, "time", SHARES, seed=7)


def test_run_writes_three_datasets_with_their_facts(flights, flights_contract, artifact):
    dataset, contract = artifact("dataset", dsl.Dataset), artifact("contract")
    DatasetFolder.write(dataset, flights.lazy(), source="flights")
    flights_contract.save(contract.path)
    parts = {name: artifact(name, dsl.Dataset) for name in ("train", "validation", "test")}
    core.run(dataset, contract, parts, "auto", 0.1, 0.2, 7)
    assert sum(DatasetFolder.open(part).facts.rows for part in parts.values()) == flights.height
    assert parts["test"].metadata["method"] == "time"
    assert parts["test"].metadata["source"] == "flights"
    assert parts["train"].metadata["last_time"] < parts["validation"].metadata["first_time"] < parts["test"].metadata["first_time"]


def test_columns_of_any_type_can_be_hashed(flights_contract):
    table = pl.LazyFrame(
        {
            "tags": [["a"], ["b", "c"], None, []] * 25,
            "place": [{"x": n, "y": None} for n in range(100)],
            "blob": [b"x", None] * 50,
            "nothing": [None] * 100,
            "clock": pl.Series(range(100), dtype=pl.Duration("us")),
            "late": [True, False] * 50,
        }
    )
    contract = Contract.parse("{task: binary, fields: [{name: late, type: boolean, role: target}]}")
    assert split_table(table, contract, "random", SHARES, seed=7).sizes == {"train": 70, "validation": 10, "test": 20}


def test_a_split_by_time_counts_the_groups_that_it_tears(flights, flights_contract):
    by_plane = flights_contract.with_role("tailnum", "group")
    assert core.split_table(flights.lazy(), by_plane, "group", SHARES, seed=7).torn_groups == 0
    assert core.split_table(flights.lazy(), by_plane, "auto", SHARES, seed=7).torn_groups > 100


def test_a_verdict_that_says_no_stops_the_run_before_anything_is_split(flights, flights_contract, artifact):
    verdict = artifact("verdict")
    Verdict(gate="validate_table", checks=[Check(name="rows", outcome="fail", limit="at least 9", value=5)]).write(verdict)
    dataset, contract = artifact("dataset", dsl.Dataset), artifact("contract")
    parts = {name: artifact(name, dsl.Dataset) for name in ("train", "validation", "test")}
    with pytest.raises(GateRefused, match="validate_table: 1 check failed: rows"):
        core.run(dataset, contract, parts, "auto", 0.1, 0.2, 7, verdict)
