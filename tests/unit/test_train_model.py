"""train_model: every algorithm and task, exact in its served form, the same bytes again, and clear refusals."""

import datetime as dt
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from threadpoolctl import threadpool_limits

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.errors import DataError, FoundryError, UserError
from kfp_foundry.components.common.learning.fit import Options, fit, measure
from kfp_foundry.components.common.learning.parameters import TRAINERS, complete, resolve
from kfp_foundry.components.common.learning.publish import describe, publish
from kfp_foundry.components.common.onnx import parity
from kfp_foundry.components.training.train_model import core

FEW = {
    "lightgbm": {"num_iterations": 15},
    "hist_gradient_boosting": {"max_iter": 8},
    "linear": {},
    "residual_mlp": {
        "epochs": 4,
        "learning_rate": 0.004,
        "batch_size": 32,
        "width": 24,
        "blocks": 1,
        "bins": 12,
        "dropout": 0.0,
        "input_dropout": 0.0,
    },
}
ALGORITHMS = list(FEW)  # the network has tests of its own
FEATURES = """
  - {name: plan, type: string}
  - {name: street, type: string}
  - {name: age, type: integer}
  - {name: income, type: number}
  - {name: member, type: boolean}
  - {name: born, type: date}
  - {name: seen, type: datetime}
  - {name: at, type: time}
"""
TASKS = {"binary": ("churn", "string"), "multiclass": ("tier", "integer"), "regression": ("spent", "number")}


def customers(rows=1500, seed=7):
    """A table with gaps in every column, a ragged category, dates and truth values; the targets follow from it."""
    rng = np.random.default_rng(seed)
    plan = rng.choice(["basic", "plus", "None", "pro"], rows, p=[0.5, 0.3, 0.15, 0.05])
    age, income, days = rng.integers(18, 90, rows), rng.lognormal(10, 1, rows), rng.integers(0, 15_000, rows)
    signal = (plan == "plus") * 1.5 + (age - 50) / 20 + np.log(income) - 10 + (days % 7 == 3) + rng.normal(size=rows) / 3
    start = dt.datetime(1980, 1, 1)
    table = pl.DataFrame(
        {
            "plan": plan,
            "street": [f"street {n}" for n in rng.geometric(0.02, rows)],
            "age": age,
            "income": income,
            "member": rng.random(rows) < 0.4,
            "born": [start.date() + dt.timedelta(days=int(n)) for n in days],
            "seen": [start + dt.timedelta(days=int(n), seconds=int(s)) for n, s in zip(days, rng.integers(0, 86_400, rows), strict=True)],
            "at": [dt.time(int(h), 30) for h in rng.integers(0, 24, rows)],
            "churn": np.where(signal > 0.5, "Yes", "No"),
            "tier": np.digitize(signal, [-0.5, 1.0]) * 10,
            "spent": signal * 1000,
            "weight": rng.random(rows) + 0.5,
        }
    )
    gaps = [pl.when(pl.Series(rng.random(rows) > 0.05)).then(pl.col(name)).alias(name) for name in table.columns[:8]]
    return table.with_columns(gaps)


def contract(task="binary", features=FEATURES, target=None, extra=""):
    name, kind = target or TASKS[task]
    return Contract.parse(f"task: {task}\nfields:{features}{extra}\n  - {{name: {name}, type: {kind}, role: target}}")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """For tables this small threads cost more than they give, above all beside other tests."""
    monkeypatch.setattr(platform, "cpus", lambda: 1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def tables(artifact):
    """Writes four fifths of a table to train on and the rest for validation; returns both artifacts and the contract's."""

    def work(table, words):
        cut = table.height * 4 // 5
        first, second, file = artifact("train", dsl.Dataset), artifact("validation", dsl.Dataset), artifact("contract")
        DatasetFolder.write(first, table[:cut].lazy(), source="customers.csv")
        DatasetFolder.write(second, table[cut:].lazy(), source="customers.csv")
        words.save(file.path)
        return first, second, file

    return work


@pytest.fixture
def run(artifact, tables):
    """Runs the whole step and returns its three outputs."""

    def work(table, words, name="model", **options):
        outputs = artifact(name, dsl.Model), artifact(f"{name}-metrics", dsl.Metrics), artifact(f"{name}-report", dsl.HTML)
        algorithm = options.get("algorithm", "")
        trainer = next((name for name, algorithms in TRAINERS.items() if algorithm in algorithms), "lightgbm")
        core.run(*tables(table, words), *outputs, **{"trainer": trainer, **options})
        return outputs

    return work


@pytest.fixture
def train(artifact, tables):
    """Does what the step does except for its page, which takes longer than these trainings, and returns the model artifact."""

    def work(table, words, name="model", **options):
        first, second, file = tables(table, words)
        read = {"train": DatasetFolder.open(first), "validation": DatasetFolder.open(second)}
        contract, chosen, model = Contract.load(file.path), Options(**options), artifact(name, dsl.Model)
        result = fit(read["train"], read["validation"], contract, chosen)
        publish(model, result, describe(result, contract, chosen, read), contract)
        return model

    return work


def digests(model):
    return json.loads((Path(model.path) / "digests.json").read_text())


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_every_task_and_is_served_exactly(train, algorithm, task):
    table = customers()
    artifact = train(table, contract(task), algorithm=algorithm, params=FEW[algorithm])
    model = ModelFolder.open(artifact)
    measured = model.record.parity
    assert measured.max_difference <= 1e-9
    assert measured.changed_labels == 0
    assert set(measured.kinds) == {"held out", "missing", "unseen", "extreme"}
    scored, truth = model.predict(table[1200:]), model.truth(table[1200:])
    if task == "regression":
        assert (scored["prediction"] - truth).pow(2).mean() < 0.5 * truth.var()
    else:
        assert scored["prediction"].dtype == truth.dtype
        assert (scored["prediction"] == truth).mean() > 1.2 * truth.value_counts()["count"].max() / len(truth)
    if task == "multiclass":
        assert scored.columns == ["prediction", "probability_0", "probability_10", "probability_20"]
        np.testing.assert_allclose(scored.select(pl.sum_horizontal(pl.exclude("prediction"))).to_series(), 1.0, atol=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_metrics_metadata_and_page_are_filled(run, algorithm):
    model, metrics, report = run(customers(), contract(), algorithm=algorithm, params=FEW[algorithm])
    assert {"auc", "log_loss", "accuracy"} <= set(metrics.metadata)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.metadata.values())
    record = ModelFolder.open(model).record
    assert record.metrics == metrics.metadata
    assert sum(record.importance.values()) == pytest.approx(1)
    assert record.rows == {"train": 1200, "validation": 300, "dropped": 0}
    page = Path(report.path).read_text()
    assert ("Learning curve" in page) == (algorithm != "linear")
    assert all(words in page for words in ("Feature importance", "Exactness of the served form", "How to train it again"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_rows_give_the_same_bytes_whatever_the_threads(run, monkeypatch, algorithm):
    table = customers(600)
    options = {"algorithm": algorithm, "params": FEW[algorithm], "calibration": "isotonic"}
    one, _, first_page = run(table, contract(), name="one", **options)
    monkeypatch.setattr(platform, "cpus", lambda: 2)
    with threadpool_limits(2):
        two, _, second_page = run(table, contract(), name="two", **options)
    assert digests(one) == digests(two)
    assert Path(first_page.path).read_bytes() == Path(second_page.path).read_bytes()


@pytest.mark.parametrize(
    ("values", "kind", "labels", "positive"),
    [
        ([True, False], "boolean", [False, True], None),
        ([1, 0], "integer", [0, 1], None),
        ([1.0, 0.0], "number", [0, 1], None),
        (["Yes", "No"], "string", ["No", "Yes"], None),
        (["Attrited", "Existing"], "string", ["Existing", "Attrited"], None),
        (["Attrited", "Existing"], "string", ["Attrited", "Existing"], "Existing"),
        ([1, 2], "integer", [1, 2], 2),
        ([1.0, 0.0], "number", [0, 1], 1.0),
        ([1.0, 0.0], "number", [1, 0], 0.0),
    ],
    ids=["bool", "int", "whole floats", "yes and no", "rarer", "named", "named int", "named float", "named float zero"],
)
def test_labels_keep_their_type_and_the_positive_one_is_found(train, values, kind, labels, positive):
    table = customers(600).with_columns(outcome=pl.when(pl.col("spent") > 900).then(pl.lit(values[0])).otherwise(pl.lit(values[1])))
    words = contract(target=("outcome", kind)).model_copy(update={"positive": positive})
    model = ModelFolder.open(train(table, words, params=FEW["lightgbm"]))
    assert model.labels == labels
    assert [type(label) for label in model.labels] == [type(label) for label in labels]
    assert model.contract.positive == labels[1]
    scored = model.predict(table)
    assert set(scored["prediction"]) <= set(labels)
    rises = scored.filter(model.truth(table) == labels[1])["probability"].mean() > scored["probability"].mean()
    assert rises


def test_its_metrics_are_those_that_the_evaluation_computes(train):
    table = customers(600)
    model = ModelFolder.open(train(table, contract(), params=FEW["lightgbm"]))
    assert model.record.metrics.keys() == {"log_loss", "accuracy", "brier", "auc", "average_precision"}
    truth, rng = np.array([0, 1, 1, 0]), np.random.default_rng(1)
    assert measure(Task.BINARY, truth[1:3], np.array([0.2, 0.8]), None).keys() == {"log_loss", "accuracy", "brier", "average_precision"}
    assert measure(Task.BINARY, truth, np.full(4, 0.5), np.zeros(4)) == {}
    assert measure(Task.REGRESSION, np.ones(3), np.zeros(3), None) == {"rmse": 1.0, "mae": 1.0}
    assert measure(Task.MULTICLASS, truth, rng.dirichlet(np.ones(3), 4), None).keys() == {"log_loss", "accuracy", "f1_macro"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_five_thousand_categories_work(train, algorithm):
    rng = np.random.default_rng(1)
    code = rng.integers(0, 5000, 12_000)
    table = pl.DataFrame({"city": [f"city {n}" for n in code], "late": (code % 10 == 0) ^ (rng.random(12_000) < 0.05)})
    words = contract(features="\n  - {name: city, type: string}", target=("late", "boolean"))
    model = ModelFolder.open(train(table, words, algorithm=algorithm, params=FEW[algorithm]))
    assert model.record.parity.max_difference <= 1e-9


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strange_columns_are_no_trouble(train, algorithm):
    table = customers(600).with_columns(
        empty=pl.lit(None, pl.Float64), none=pl.lit(None, pl.String), never=pl.lit(None, pl.Date), same=pl.lit(3), word=pl.lit("x"),
        endless=pl.when(pl.col("age") > 60).then(math.inf).otherwise(pl.col("income")), huge=pl.col("income") * 1e300,
        prediction=pl.col("income"), probability=pl.col("income"), tensor0=pl.col("plan"),
    )  # fmt: skip
    odd = {"empty": "number", "none": "string", "never": "date", "same": "integer", "word": "string", "endless": "number", "huge": "number"}
    odd |= {"prediction": "number", "probability": "number", "tensor0": "string"}
    words = contract(extra="".join(f"\n  - {{name: {name}, type: {kind}}}" for name, kind in odd.items()))
    model = ModelFolder.open(train(table, words, algorithm=algorithm, params=FEW[algorithm]))
    assert model.record.outputs == ["probability_", "prediction_"]
    scored = model.predict(table)
    assert scored.columns == ["probability", "prediction"]
    assert scored["probability"].is_finite().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_single_feature_is_enough_and_mlflow_serves_it(train, algorithm):
    import mlflow.pyfunc

    table = customers(600)
    artifact = train(table, contract(features="\n  - {name: income, type: number}"), algorithm=algorithm, params=FEW[algorithm])
    ours = ModelFolder.open(artifact).predict(table)
    served = mlflow.pyfunc.load_model(artifact.path).predict(table.select(pl.col("income").fill_null(math.nan)).to_pandas())
    np.testing.assert_array_equal(served["probability"].to_numpy(), ours["probability"].to_numpy())
    assert served["prediction"].tolist() == ours["prediction"].to_list()


def test_rows_without_a_target_are_left_out_and_counted(train):
    table = customers(600).with_columns(churn=pl.when(pl.int_range(pl.len()) % 10 > 0).then("churn"))
    model = ModelFolder.open(train(table, contract(), params=FEW["lightgbm"]))
    assert model.record.rows == {"train": 432, "validation": 108, "dropped": 60}


def test_a_class_that_only_validation_has_is_left_out(train):
    table = customers(600).with_columns(tier=pl.when(pl.int_range(pl.len()) > 590).then(99).otherwise("tier"))
    model = ModelFolder.open(train(table, contract("multiclass"), params=FEW["lightgbm"]))
    assert model.labels == [0, 10, 20]
    assert model.record.rows["dropped"] == 9


def test_early_stopping_keeps_the_best_round_and_can_be_switched_off(train):
    table = customers(600)
    noise = table.with_columns(churn=pl.Series(np.random.default_rng(3).choice(["Yes", "No"], 600)))
    for algorithm, word in [("lightgbm", "num_iterations"), ("hist_gradient_boosting", "max_iter")]:
        stopped = train(noise, contract(), name="stopped", algorithm=algorithm, params={word: 40}, early_stopping_rounds=5)
        full = train(noise, contract(), name="full", algorithm=algorithm, params={word: 40}, early_stopping_rounds=0)
        assert ModelFolder.open(stopped).record.rounds < 35
        assert ModelFolder.open(full).record.rounds == 40


@pytest.mark.parametrize("algorithm", ["lightgbm", "hist_gradient_boosting"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_monotone_feature_moves_the_prediction_one_way(train, algorithm, direction):
    table = customers()
    model = ModelFolder.open(train(table, contract(), algorithm=algorithm, params=FEW[algorithm], monotone={"age": direction}))
    row = table[3:4].drop("age").join(pl.DataFrame({"age": range(18, 90)}), how="cross")
    steps = model.predict(row)["probability"].diff().drop_nulls() * direction
    assert (steps >= 0).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_balanced_classes_raise_the_rare_ones_probability(train, algorithm):
    table = customers().with_columns(churn=pl.when(pl.col("spent") > 2000).then(pl.lit("Yes")).otherwise(pl.lit("No")))
    plain = ModelFolder.open(train(table, contract(), name="plain", algorithm=algorithm, params=FEW[algorithm]))
    balanced = ModelFolder.open(train(table, contract(), name="balanced", algorithm=algorithm, params=FEW[algorithm], class_weight="balanced"))
    assert balanced.predict(table)["probability"].mean() > 1.2 * plain.predict(table)["probability"].mean()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_row_of_weight_nothing_is_not_learned_from(train, algorithm):
    honest = customers(600)
    liars = honest.with_columns(churn=pl.when(pl.col("churn") == "Yes").then(pl.lit("No")).otherwise(pl.lit("Yes")))
    mixed = pl.concat([honest.with_columns(weight=1.0), liars.with_columns(weight=0.0)]).sample(fraction=1, shuffle=True, seed=1)
    words = contract(extra="\n  - {name: weight, type: number, role: weight}")
    scored = ModelFolder.open(train(mixed, words, algorithm=algorithm, params=FEW[algorithm])).predict(honest)
    assert (scored["prediction"] == honest["churn"]).mean() > 0.75


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration_brings_balanced_probabilities_back_to_frequencies(train, method):
    table = customers().with_columns(churn=pl.when(pl.col("spent") > 1800).then(pl.lit("Yes")).otherwise(pl.lit("No")))
    model = ModelFolder.open(train(table, contract(), params=FEW["lightgbm"], class_weight="balanced", calibration=method))
    held_out = table[1200:]
    assert model.predict(held_out)["probability"].mean() == pytest.approx((held_out["churn"] == "Yes").mean(), abs=0.02)


@pytest.mark.parametrize(
    ("algorithm", "params"),
    [
        ("lightgbm", {"objective": "poisson"}),
        ("lightgbm", {"objective": "tweedie"}),
        ("lightgbm", {"objective": "quantile", "alpha": 0.9}),
        ("hist_gradient_boosting", {"loss": "poisson"}),
        ("hist_gradient_boosting", {"loss": "quantile", "quantile": 0.9}),
    ],
)
def test_other_losses_of_a_regression_are_exact_too(train, algorithm, params):
    table = customers(600).with_columns(pl.col("spent").abs())
    model = ModelFolder.open(train(table, contract("regression"), algorithm=algorithm, params={**FEW[algorithm], **params}))
    assert model.predict(table)["prediction"].mean() > 0


def test_the_other_boostings_of_lightgbm_are_exact_too(train):
    for boosting in ("dart", "goss"):
        model = ModelFolder.open(train(customers(600), contract(), name=boosting, params={"boosting": boosting, **FEW["lightgbm"]}))
        assert model.record.rounds > 0


def test_a_model_that_fails_the_gate_is_not_published(run, monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(FoundryError, match="the model is not published"):
        run(customers(300), contract(), params=FEW["lightgbm"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contract", "train", "validation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"churn": pl.lit("No")}, r"target 'churn' is constant: 'No' in all 240 training rows; choose another target"),
        ({"churn": pl.lit(None, pl.String)}, r"target 'churn' is missing in every training row"),
        (
            {"churn": pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("Maybe")).otherwise(pl.lit("No"))},
            r"class 'Maybe' of target 'churn' has a single training row",
        ),
        ({"churn": pl.col("plan").fill_null("?")}, r"target 'churn' has 5 classes, but the task is binary; set task: multiclass in the contract"),
        ({"weight": pl.lit(-1.0)}, r"240 rows have a missing, negative or infinite weight in 'weight'"),
        ({"age": pl.lit("old")}, r"column 'age' is String, not integer"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused(train, tmp_path, change, message):
    words = contract(extra="\n  - {name: weight, type: number, role: weight}")
    with pytest.raises(DataError, match=message):
        train(customers(300).with_columns(**change), words)
    assert not (tmp_path / "model").exists()


def test_an_absent_target_is_refused_with_the_close_names(train):
    with pytest.raises(DataError, match=r"target 'churn' is not in the table; did you mean 'Churn'\?"):
        train(customers(300).rename({"churn": "Churn"}), contract())


def test_a_constant_or_infinite_regression_target_is_refused(train):
    with pytest.raises(DataError, match=r"is constant: 1\.5"):
        train(customers(300).with_columns(spent=pl.lit(1.5)), contract("regression"))
    with pytest.raises(DataError, match="target 'spent' holds infinite values"):
        train(customers(300).with_columns(spent=pl.when(pl.col("age") > 60).then(math.inf).otherwise(1.0)), contract("regression"))


def test_features_without_a_value_are_refused(train):
    words = contract(features="\n  - {name: income, type: number}")
    with pytest.raises(DataError, match="no feature has a value"):
        train(customers(300).with_columns(income=pl.lit(None, pl.Float64)), words)


def test_a_contract_without_target_or_feature_is_refused(train):
    with pytest.raises(UserError, match="names no target"):
        train(customers(300), Contract.parse("fields: [{name: age, type: integer}]"))
    with pytest.raises(UserError, match="no column has the role feature"):
        train(customers(300), contract(features="\n  - {name: age, type: integer, role: id}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "lightgmb"}, r"algorithm is 'lightgmb'; did you mean 'lightgbm'\?"),
        ({"params": {"num_leafs": 5}}, r"lightgbm has no parameter 'num_leafs'; did you mean .*'num_leaves'"),
        ({"params": {"num_leaves": -1}}, r"LightGBM refuses: Check failed: \(num_leaves\) > \(1\); correct `params`"),
        ({"params": {"learning_rate": "fast"}}, r"LightGBM refuses: "),
        ({"params": {"random_state": 3}}, r"'random_state' cannot be set in params; give `seed` to the step"),
        ({"params": {"eta": 0.1, "learning_rate": 0.2}}, r"'learning_rate' and another name of 'learning_rate' are both given; give one"),
        ({"params": {"objective": "poisson"}}, r"'objective' can be set for a regression only, this task is binary"),
        ({"params": {"boosting": "rf"}}, r"boosting is 'rf'; choose gbdt"),
        ({"algorithm": "hist_gradient_boosting", "params": {"max_iter": -3}}, r"scikit-learn refuses: The 'max_iter' parameter"),
        ({"algorithm": "linear", "params": {"alpha": 1.0}}, r"linear has no parameter 'alpha'; choose one of: C, "),
        ({"algorithm": "linear", "monotone": {"age": 1}}, r"a linear model takes no monotone constraints; choose lightgbm"),
        ({"monotone": {"plan": 1}}, r"monotone names 'plan', which is no numeric feature"),
        ({"monotone": {"aeg": 1}}, r"monotone names 'aeg'.*did you mean 'age'\?"),
        ({"monotone": {"age": 2}}, r"the direction 2; give 1"),
        ({"class_weight": "equal"}, r"class_weight is 'equal'; choose balanced"),
        ({"early_stopping_rounds": -1}, r"early_stopping_rounds is -1; give 0 for never"),
        ({"calibration": "platt"}, r"calibration is 'platt'; choose one of: sigmoid, isotonic"),
    ],
)
def test_wrong_parameters_are_refused_before_or_by_the_library(train, options, message):
    with pytest.raises(UserError, match=message):
        train(customers(300), contract(), **options)


@pytest.mark.parametrize(("task", "target"), [("binary", ("born", "date")), ("regression", ("plan", "string")), ("regression", ("seen", "datetime"))])
def test_a_target_whose_type_does_not_suit_the_task_is_refused(train, task, target):
    with pytest.raises(UserError, match=rf"target '{target[0]}' is a {target[1]}, the task is {task}; choose a column of another type"):
        train(customers(300), contract(task, features="\n  - {name: age, type: integer}", target=target))


def test_features_that_tell_nothing_give_one_prediction_for_all(train):
    table = customers(600).with_columns(churn=pl.Series(["Yes", "No"] * 300), same=pl.lit(1))
    words = contract(features="\n  - {name: same, type: integer}")
    for algorithm in ALGORITHMS:
        model = ModelFolder.open(train(table, words, name=algorithm, algorithm=algorithm))
        assert model.predict(table)["probability"].n_unique() == 1


def test_balanced_classes_are_refused_for_a_regression(train):
    with pytest.raises(UserError, match="class_weight is balanced, but the task is a regression"):
        train(customers(300), contract("regression"), class_weight="balanced")


def test_whole_floats_become_ints_and_aliases_are_understood():
    assert complete("lightgbm", {"n_estimators": 50.0, "learning_rate": 0.5}, Task.BINARY) == {
        "num_iterations": 50,
        "learning_rate": 0.5,
        "num_leaves": 31,
    }
    assert complete("linear", {}, Task.REGRESSION) == {"alpha": 1.0}


def test_the_flights_are_told_apart(run, flights, flights_contract):
    _, metrics, _ = run(flights, flights_contract, params={"num_iterations": 60})
    assert metrics.metadata["auc"] > 0.65


@pytest.mark.parametrize(
    ("trainer", "algorithm", "chosen"),
    [("lightgbm", "", "lightgbm"), ("sklearn", "", "hist_gradient_boosting"), ("sklearn", "linear", "linear"), ("torch", "", "residual_mlp")],
)
def test_a_trainer_has_a_first_algorithm_and_may_have_others(trainer, algorithm, chosen):
    assert resolve(trainer, algorithm) == chosen


@pytest.mark.parametrize(
    ("trainer", "algorithm", "message"),
    [
        ("lightgmb", "", r"trainer is 'lightgmb'; did you mean 'lightgbm'\?"),
        ("lightgbm", "linear", r"algorithm 'linear' is not one of trainer 'lightgbm'; give trainer=sklearn"),
        ("sklearn", "liner", r"algorithm is 'liner'; did you mean 'linear'\?"),
    ],
)
def test_a_trainer_without_the_algorithm_is_refused(trainer, algorithm, message):
    with pytest.raises(UserError, match=message):
        resolve(trainer, algorithm)
