"""infer_contract: roles, task and limits from the rows; tolerant to what is natural, clear about what is not."""

import datetime as dt
import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kfp import dsl

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract, Role, Task, Type
from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError, UserError
from kfp_foundry.components.validation.infer_contract import core
from kfp_foundry.components.validation.infer_contract.core import infer, load, model_name, table_name
from kfp_foundry.components.validation.infer_contract.profile import profile
from kfp_foundry.components.validation.infer_contract.roles import Wishes
from kfp_foundry.components.validation.validate_table.core import validate

N = 400


@pytest.fixture(scope="module")
def people() -> pl.DataFrame:
    """400 customers with most of what tables have."""
    random = np.random.default_rng(3)
    cities = np.array(["Ulm", "Bonn", "Jena", "Köln"])[random.integers(0, 4, N)]
    return pl.DataFrame(
        {
            "customerID": [f"C{n:05d}" for n in random.permutation(N)],
            "Unnamed: 0": range(N),
            "age": random.integers(18, 90, N),
            "income": random.lognormal(10, 0.5, N),
            "city": cities,
            "ticket": [f"T{n}" for n in random.integers(0, 350, N)],
            "remark": [f"customer number {n} wrote a long and quite unique remark about service, price and delivery" for n in range(N)],
            "birth_date": [dt.date(1950, 1, 1) + dt.timedelta(days=int(d)) for d in random.integers(0, 15000, N)],
            "signed": [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(h)) for h in np.sort(random.integers(0, 9000, N))],
            "country": ["DE"] * N,
            "empty": pl.Series([None] * N, dtype=pl.Float64),
            "tags": [["a", "b"]] * N,
            "big": pl.Series(2**60 + random.integers(0, 50, N)),
            "member": random.random(N) < 0.5,
            "score": pl.Series([None if n % 5 == 0 else float(n % 37) for n in range(N)]),
            "Churn": np.where(random.random(N) < 0.3, "Yes", "No"),
        },
        strict=False,
    )


def contract_of(table: pl.DataFrame, target: str = "", **wishes) -> Contract:
    return infer(table.lazy(), Wishes(target=target, **wishes)).contract


@pytest.mark.parametrize(
    ("column", "role", "kind"),
    [
        ("customerID", "id", "string"),
        ("Unnamed: 0", "id", "integer"),
        ("age", "feature", "integer"),
        ("income", "feature", "number"),
        ("city", "feature", "string"),
        ("ticket", "ignore", "string"),
        ("remark", "ignore", "string"),
        ("birth_date", "feature", "date"),
        ("signed", "time", "datetime"),
        ("country", "ignore", "string"),
        ("empty", "ignore", "number"),
        ("tags", "ignore", "any"),
        ("big", "ignore", "integer"),
        ("member", "feature", "boolean"),
        ("score", "feature", "number"),
        ("Churn", "target", "string"),
    ],
)
def test_roles_and_types_are_found(people, column, role, kind):
    field = contract_of(people, "Churn").field(column)
    assert (field.role, field.type) == (Role(role), Type(kind))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("country", r"holds one value only, 'DE'"),
        ("empty", r"All its values are missing"),
        ("tags", r"type List\(String\) is no plain value"),
        ("big", r"more digits than a model can tell apart"),
        ("remark", r"Free text"),
        ("ticket", r"Almost every row has a text of its own"),
        ("customerID", r"different in every row"),
        ("signed", r"only column with dates of events"),
    ],
)
def test_a_column_that_is_no_feature_says_why(people, column, reason):
    assert pl.Series([contract_of(people, "Churn").field(column).description]).str.contains(reason).item()


def test_the_contract_of_a_table_passes_on_that_table(people, flights):
    for table, target in ((people, "Churn"), (flights, "late"), (people, "")):
        verdict = validate(table.lazy(), contract_of(table, target)).verdict
        assert verdict.outcome == "pass", verdict.reason


def test_the_first_half_of_a_year_accepts_the_second(all_flights):
    half = all_flights.height // 2
    verdict = validate(all_flights[half:].lazy(), contract_of(all_flights[:half], "late")).verdict
    assert not verdict.failed(), verdict.reason


FAULTS = {
    "distance: range": pl.when(pl.int_range(pl.len()) == 7).then(-999).otherwise("distance").alias("distance"),
    "temp: mean": (pl.col("temp") * 100).alias("temp"),
    "pressure: finite": pl.when(pl.int_range(pl.len()) == 7).then(float("inf")).otherwise("pressure").alias("pressure"),
    "carrier: required": pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("carrier").alias("carrier"),
    "humid: missing": pl.when(pl.int_range(pl.len()) % 2 == 0).then(None).otherwise("humid").alias("humid"),
    "dest: distinct": pl.format("{}-{}", "dest", pl.int_range(pl.len())).alias("dest"),
    "wind_dir: type": pl.col("wind_dir").cast(pl.String),
    "late: distinct": pl.lit(True).alias("late"),
    "rows": pl.col("late").filter(pl.int_range(pl.len()) < 10),
}


@pytest.mark.parametrize("check", FAULTS)
def test_an_injected_fault_fails(flights, check):
    table = flights.head(10) if check == "rows" else flights.with_columns(FAULTS[check])
    failed = [found.name for found in validate(table.lazy(), contract_of(flights, "late")).verdict.failed()]
    assert check in failed


@pytest.mark.parametrize(("column", "new"), [("origin", "ZRH"), ("visib", 11.0)])
def test_what_is_merely_new_warns(flights, column, new):
    contract = contract_of(flights, "late")
    if column == "visib":
        new = contract.field("visib").limits.usual_range[1] + 0.5
    changed = flights.with_columns(pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(new)).otherwise(column).alias(column))
    assert validate(changed.lazy(), contract).verdict.outcome == "warn"


@pytest.mark.parametrize(
    ("values", "task", "positive"),
    [
        ([True, False, False, None], Task.BINARY, True),
        ([0, 1, 0, 0], Task.BINARY, 1),
        ([0.0, 1.0, 1.0, None], Task.BINARY, 1.0),
        ([-1, 1, 1, 1], Task.BINARY, 1),
        (["no", "yes", "yes", "yes"], Task.BINARY, "yes"),
        (["good", "bad", "good", "good"], Task.BINARY, "bad"),
        (["a", "b", "a", "b"], Task.BINARY, "b"),
        (["a", "b", "c", "a"], Task.MULTICLASS, None),
        ([3, 4, 5, 6, 7], Task.MULTICLASS, None),
        (list(range(40)), Task.REGRESSION, None),
        ([0.5, 1.5, 2.5, 3.5], Task.REGRESSION, None),
        ([1.0, 2.0, 3.0, float("nan")], Task.MULTICLASS, None),
    ],
)
def test_task_and_positive_label_are_found(values, task, positive):
    table = pl.DataFrame({"x": pl.Series(range(len(values) * 30)) % 13, "y": values * 30}, strict=False)
    contract = contract_of(table, "y")
    assert (contract.task, contract.positive) == (task, positive)
    assert type(contract.positive) is type(positive)


@pytest.mark.parametrize(
    ("values", "wanted", "label"),
    [([True, False], "false", False), ([0, 1], "0", 0), ([0.0, 1.0], "0", 0.0), (["Yes", "No"], "No", "No"), ([1, 2], "2", 2)],
)
def test_the_positive_label_is_taken_as_a_person_writes_it(values, wanted, label):
    table = pl.LazyFrame({"x": pl.Series(range(100)) % 7, "y": values * 50})
    positive = infer(table, Wishes(target="y"), positive=wanted).contract.positive
    assert positive == label
    assert type(positive) is type(label)


def test_a_task_can_be_asked_for():
    table = pl.LazyFrame({"x": pl.Series(range(100)) % 7, "y": pl.Series(range(100)) % 5})
    assert infer(table, Wishes(target="y")).contract.task is Task.MULTICLASS
    agreed = infer(table, Wishes(target="y"), task="regression")
    assert agreed.contract.task is Task.REGRESSION
    assert agreed.task_why == "asked for by task=regression"


@pytest.mark.parametrize(
    ("target", "task", "positive", "error", "message"),
    [
        ("chrun", "auto", "", UserError, r"target: 'chrun' is not a column of the table; did you mean 'Churn'"),
        ("country", "auto", "", DataError, r"target 'country': has only one value, 'DE'"),
        ("empty", "auto", "", DataError, r"target 'empty': all 400 rows miss it"),
        ("signed", "auto", "", UserError, r"target 'signed': holds Datetime.* which cannot be predicted"),
        ("customerID", "auto", "", DataError, r"target 'customerID': is different in every row, .*; choose another"),
        ("Churn", "ordinal", "", UserError, r"task is 'ordinal'; choose one of: auto, binary"),
        ("Churn", "regression", "", UserError, r"task is 'regression', but the values are no numbers"),
        ("Churn", "multiclass", "", UserError, r"task is 'multiclass', but there are two different values"),
        ("age", "binary", "", UserError, r"task is 'binary', but there are 70 different values"),
        ("income", "multiclass", "", DataError, r"target 'income': is different in every row, .* or task=regression"),
        ("Churn", "auto", "Maybe", UserError, r"positive is 'Maybe'; choose one of 'No', 'Yes'"),
        ("income", "auto", "Yes", UserError, r"positive is 'Yes', but the task is regression"),
        ("", "binary", "", UserError, r"target is empty, though a task"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(people, target, task, positive, error, message):
    with pytest.raises(error, match=message) as caught:
        infer(people.lazy(), Wishes(target=target), task, positive)
    assert "\n" not in str(caught.value)


def test_a_class_with_a_single_row_is_refused(people):
    rare = people.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("Perhaps")).otherwise("Churn").alias("Churn"))
    with pytest.raises(DataError, match=r"target 'Churn': class 'Perhaps' has a single row; leave such rows out with `where`"):
        infer(rare.lazy(), Wishes(target="Churn"))


def test_several_classes_with_a_single_row_are_counted(people):
    rare = people.with_columns(
        pl.when(pl.int_range(pl.len()) < 2).then(pl.format("class {}", pl.int_range(pl.len()))).otherwise("Churn").alias("Churn")
    )
    with pytest.raises(DataError, match=r"class 'class 0' has a single row \(of 2 such classes\)"):
        infer(rare.lazy(), Wishes(target="Churn"))


def test_five_thousand_classes_are_refused():
    table = pl.LazyFrame({"x": pl.Series(range(20000)) % 7, "y": [f"c{n % 5000}" for n in range(20000)]})
    with pytest.raises(DataError, match="5,000 different values, too many for classes"):
        infer(table, Wishes(target="y"))


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"time": "signd"}, r"time_column: 'signd' is not a column of the table; did you mean 'signed'"),
        ({"time": "city"}, r"time_column: 'city' holds string values such as '\w+', not dates; write the column as ISO dates"),
        ({"time": "age"}, r"time_column: 'age' holds integer values"),
        ({"weight": "city"}, r"weight_column: 'city' holds string values; give a column of numbers"),
        ({"weight": "score"}, r"weight_column: 'score' has 80 missing values"),
        ({"ids": ["agee"]}, r"id_columns: 'agee' is not a column"),
        ({"ignore": ["age"], "sensitive": ["age"]}, r"sensitive_columns: 'age' is named in ignore_columns too"),
        ({"ignore": ["Churn"]}, r"ignore_columns: 'Churn' is named in target too"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused(people, wishes, message):
    with pytest.raises(UserError, match=message):
        contract_of(people, "Churn", **wishes)


def test_wishes_are_fulfilled(people):
    contract = contract_of(people, "Churn", time="birth_date", group="city", weight="income", ids=["ticket"], ignore=["score"], sensitive=["age"])
    roles = {name: str(contract.field(name).role) for name in ("birth_date", "city", "income", "ticket", "score", "age", "signed")}
    assert roles == {
        "birth_date": "time", "city": "group", "income": "weight", "ticket": "id", "score": "ignore", "age": "sensitive", "signed": "feature"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "time"),
    [
        ({"day": [dt.date(2024, 1, 1) + dt.timedelta(days=n) for n in range(N)]}, "day"),
        ({"dateOfBirth": [dt.date(2000, 1, 1) + dt.timedelta(days=n) for n in range(N)]}, None),
        ({"date": [dt.date(1967, 1, 1) + dt.timedelta(days=40 * n) for n in range(N)]}, "date"),
        ({"founded": [dt.date(1900, 1, 1) + dt.timedelta(days=60 * n) for n in range(N)]}, None),
        ({name: [dt.date(2024, 1, 1) + dt.timedelta(days=n) for n in range(N)] for name in ("ordered", "delivered")}, None),
    ],
)
def test_time_is_the_only_column_of_event_dates(people, columns, time):
    table = people.select("age", "Churn").with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    assert contract_of(table, "Churn").time == time


def test_no_time_is_found_where_a_group_is_named(people):
    assert contract_of(people, "Churn", group="city").time is None


def test_an_identifier_that_repeats_becomes_the_group(people):
    for name, values in (("user_id", pl.int_range(N) % 150 + 5_000_000), ("orderId", pl.format("O-{}", pl.int_range(N) // 2))):
        assert contract_of(people.select("age", "Churn").with_columns(values.alias(name)), "Churn").group == name


def test_quantities_and_codes_stay_features():
    random = np.random.default_rng(1)
    table = pl.DataFrame({"price_cents": random.choice(10**7, N, replace=False), "station_id": random.integers(0, 20, N), "y": random.normal(size=N)})
    assert contract_of(table, "y").features == ["price_cents", "station_id"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["customerID", "country", "Churn"], r"from; give another column, or repair one: 'customerID' is id \(its text .*\), 'country' is ignore \("),
        (["Churn"], r"from; give another column, or repair one: the table has no other"),
    ],
)
def test_a_table_without_a_feature_is_refused(people, columns, message):
    with pytest.raises(DataError, match=f"no column is left to predict 'Churn' {message}"):
        contract_of(people.select(columns), "Churn")


@pytest.mark.parametrize("rows", [400, 2988, 3000, 5000])
def test_running_numbers_are_ids_though_their_distinct_values_are_estimated_too_low(rows):
    table = pl.DataFrame({"step": range(rows), "x": np.random.default_rng(1).normal(size=rows), "y": [0, 1] * (rows // 2)})
    assert contract_of(table, "y").field("step").role is Role.ID


def test_years_counted_one_by_one_are_a_feature():
    table = pl.DataFrame({"year": range(1500, 1800), "wool": np.random.default_rng(1).normal(size=300)})
    assert contract_of(table, "wool").features == ["year"]


@pytest.mark.parametrize(
    ("texts", "role", "why"),
    [
        ([f"{n}.5" if n % 20 else "abc" for n in range(N)], "ignore", "mixed: 380 of 400 texts are numbers, others are not, such as 'abc'"),
        ([f"{n}.5" if n else " " for n in range(N)], "ignore", "mixed: 399 of 400 texts are numbers, others are not, such as ' '"),
        ([f"{n:06d}" for n in range(N)], "id", "its text is different in every row"),
        ([f"{n % 3}" if n % 20 else "many" for n in range(N)], "feature", None),
    ],
    ids=["stray words", "one blank", "codes", "few categories"],
)
def test_a_column_of_numbers_and_texts_says_that_it_is_mixed(people, texts, role, why):
    found = infer(people.select("age", "Churn").with_columns(mixed=pl.Series(texts)).lazy(), Wishes(target="Churn"))
    assert (str(found.contract.field("mixed").role), found.why.get("mixed")) == (role, why)


def test_a_date_that_is_all_there_is_to_predict_from_is_a_feature():
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=n) for n in range(N)]
    assert contract_of(pl.DataFrame({"date": days, "sales": np.random.default_rng(1).normal(size=N)}), "sales").features == ["date"]


def test_classes_that_differ_only_in_spelling_are_named(people, caplog):
    table = people.select("age", y=pl.Series(["Yes", "No", "yes ", "NO", "maybe"] * (N // 5)))
    found = infer(table.lazy(), Wishes(target="y"))
    assert found.contract.task is Task.MULTICLASS
    assert "count as different: 'NO' and 'No'; 'Yes' and 'yes '" in found.task_why
    assert "write each class in one way" in caplog.text


def test_a_contract_without_a_target_has_no_task(people):
    contract = contract_of(people)
    assert (contract.task, contract.target) == (None, None)
    assert contract.field("Churn").role is Role.FEATURE


def test_few_rows_require_nothing_of_a_feature(people):
    small = contract_of(people, "Churn").field("age")
    assert not small.constraints.required
    assert small.limits.max_missing == 0.1
    assert contract_of(pl.concat([people] * 3), "Churn").field("age").constraints.required


def test_infinities_do_not_spoil_the_limits(people):
    table = people.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(float("inf")).otherwise("income").alias("income"))
    contract = contract_of(table, "Churn")
    assert contract.field("income").constraints.maximum < 1e7
    assert [check.name for check in validate(table.lazy(), contract).verdict.failed()] == ["income: finite", "income: range", "income: mean"]


def test_counters_have_no_upper_bound():
    table = pl.DataFrame(
        {"epoch": pl.Series(range(1_700_000_000, 1_700_000_000 + 60 * N, 60)) + pl.Series([0, 7] * (N // 2)), "y": [0.5, 1.5] * (N // 2)}
    )
    field = contract_of(table, "y").field("epoch")
    assert (field.constraints.maximum, field.limits.mean) == (None, None)


def test_columns_of_every_type_are_described():
    table = pl.DataFrame(
        {
            "category": pl.Series(["a", "b", None] * 20, dtype=pl.Categorical),
            "money": pl.Series(["1.50", "2.50", "3.50"] * 20).cast(pl.Decimal(10, 2)),
            "clock": [dt.time(h) for h in (1, 2, 3)] * 20,
            "zoned": pl.Series([dt.datetime(2024, 1, d) for d in (1, 2, 3)] * 20).dt.replace_time_zone("Europe/Berlin"),
            "nothing": [None] * 60,
            "blob": [b"x", b"y", b"z"] * 20,
            "nan": [float("nan"), 1.0, 2.5] * 20,
        }
    )
    columns = profile(table.lazy())
    assert [str(c.kind) for c in columns.values()] == ["string", "number", "time", "datetime", "string", "any", "number"]
    assert [c.missing for c in columns.values()] == [20, 0, 0, 0, 60, 0, 20]
    assert validate(table.lazy(), contract_of(table)).verdict.outcome == "pass"


def test_trend_is_the_correlation_with_the_row(flights):
    columns = profile(flights.lazy())
    for name in ("distance", "temp"):
        expected = flights.select(pl.corr(name, pl.int_range(pl.len()).cast(pl.Float64))).item()
        assert columns[name].trend == pytest.approx(expected, abs=0.02)


@pytest.fixture
def committed(tmp_path, flights_contract):
    path = tmp_path / "contract.yaml"
    flights_contract.save(path)
    return path


def test_a_contract_is_loaded_from_a_path_and_from_http(flights, flights_contract, committed):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=committed.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for uri in (str(committed), f"file://{committed}", f"{address}/contract.yaml"):
            assert load(flights.lazy(), uri, Wishes(target="late")).contract == flights_contract
        with pytest.raises(UserError, match="there is no such file; check contract_uri"):
            load(flights.lazy(), f"{address}/none.yaml", Wishes())
        server.shutdown()


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("none.yaml", UserError, r"contract none.yaml: there is no such file; check contract_uri"),
        ("nowhere://x/contract.yaml", UserError, r"cannot be opened: Protocol not known: nowhere"),
        ("http://127.0.0.1:9/contract.yaml", PlatformError, r"cannot be reached: Cannot connect to host"),
    ],
)
def test_a_contract_that_cannot_be_loaded_is_named(flights, uri, error, message):
    with pytest.raises(error, match=message):
        load(flights.lazy(), uri, Wishes())


@pytest.mark.parametrize(
    ("change", "wishes", "message"),
    [
        ({}, {"target": "dest"}, r"the parameters give 'dest' the role target, the contract says 'late'; correct the contract"),
        ({}, {"group": "origin"}, r"the parameters give 'origin' the role group, the contract says none"),
        ({"carrier": "carier"}, {}, r"field 'carrier' is not a column of the table; did you mean 'carier'"),
        ({"late": "delayed"}, {}, r"field 'late' is not a column"),
    ],
)
def test_a_contract_of_another_table_is_refused(flights, committed, change, wishes, message):
    with pytest.raises(FoundryError, match=message):
        load(flights.rename(change).lazy(), str(committed), Wishes(**wishes))


def test_a_loaded_target_must_be_learnable(flights, committed):
    with pytest.raises(DataError, match="target 'late': has only one value, True"):
        load(flights.with_columns(late=pl.lit(True)).lazy(), str(committed), Wishes())


def test_a_loaded_contract_gets_the_positive_label_it_leaves_open(flights, flights_contract, committed):
    flights_contract.model_copy(update={"positive": None}).save(committed)
    assert load(flights.lazy(), str(committed), Wishes()).contract.positive is True
    flights_contract.save(committed)
    with pytest.raises(UserError, match="positive is 'false', the contract says True"):
        load(flights.lazy(), str(committed), Wishes(), positive="false")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("sample://flights", "flights"),
        ("s3://bucket/exports/Customers 2024.csv.gz", "customers-2024"),
        ("data/*.parquet", "data"),
        ("https://example.com/a/b.csv?token=1", "b"),
        ("customers.csv", "customers"),
        ("/", "table"),
    ],
)
def test_a_table_is_named_after_its_source(source, name):
    assert table_name(source) == name


@pytest.mark.parametrize(
    ("table", "target", "name"), [("flights", "late", "flights-late"), ("2024", "Umsatz (€)", "model-2024-umsatz"), ("t" * 70, "y", "t" * 50)]
)
def test_a_model_is_named_for_registry_and_cluster(table, target, name):
    assert model_name(table, target) == name


def test_a_model_name_that_no_endpoint_can_have_is_refused_before_anything_is_done(artifact):
    nowhere = artifact("dataset")
    with pytest.raises(UserError, match=r"infer_contract: name is 'a b'; use letters, digits"):
        core.run(nowhere, artifact("contract"), artifact("report"), "late", "a b", "", "auto", "", "", "", "", [], [], [])


def test_run_writes_contract_and_report(flights, artifact):
    dataset, contract, report = artifact("dataset", dsl.Dataset), artifact("contract"), artifact("report", dsl.HTML)
    DatasetFolder.write(dataset, flights.lazy(), source="sample://flights")
    outputs = core.run(dataset, contract, report, "late", "", "", "auto", "", "", "", "", [], ["tailnum"], [])
    assert outputs == ("binary", "late", "flights-late")
    assert Contract.load(contract.path).field("tailnum").role is Role.IGNORE
    assert contract.metadata["task"] == "binary"
    assert "only column with dates of events" in Path(report.path).read_text()
    again = artifact("again")
    core.run(dataset, again, report, "late", "flights", contract.path, "auto", "", "", "", "", [], [], [])
    assert Contract.load(again.path) == Contract.load(contract.path)
