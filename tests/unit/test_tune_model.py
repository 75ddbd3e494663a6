"""tune_model: a search over a real training on flights, its outputs, its runs in MLflow, and clear refusals."""

import dataclasses
import json
import math
from pathlib import Path

import polars as pl
import pytest
from kfp import compiler, dsl
from threadpoolctl import threadpool_limits

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError, UserError
from kfp_foundry.components.common.learning.fit import Options, fit
from kfp_foundry.components.common.tracking import tracking
from kfp_foundry.components.tuning.tune_model import core, folds, objective
from kfp_foundry.components.tuning.tune_model.component import tune_model
from kfp_foundry.components.tuning.tune_model.results import importance, page, table
from kfp_foundry.components.tuning.tune_model.search import Search, default_parameters
from kfp_foundry.components.tuning.tune_model.study import State, Trial, conclude

TRAINING = {
    "trainer": "lightgbm",
    "algorithm": "",
    "params": {"num_iterations": 30},
    "class_weight": "",
    "monotone": {},
    "early_stopping_rounds": 10,
    "seed": 7,
}
RANGES = {"learning_rate": {"type": "float", "min": 0.05, "max": 0.3, "log": True}, "num_leaves": {"type": "int", "min": 4, "max": 31}}
SEARCH = {"parameters": RANGES, "metric": "auto", "direction": "", "goal": None, "algorithm": "random", "settings": {}, "early_stopping": ""}
SEARCH |= {"max_trials": 4, "parallel_trials": 1, "max_failed_trials": 3, "trial_seconds": 0, "seed": 7}
FEW = {"lightgbm": {"num_leaves": 9}, "hist_gradient_boosting": {"max_iter": 8}, "linear": {"C": 0.1}}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A home of local state of the test's own, no MLflow, and one thread: for tables this small more cost more than they give."""
    monkeypatch.setattr(platform, "cpus", lambda: 1)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory, flights, flights_contract):
    """A train and a validation Dataset of flights, and the contract's file."""
    place = tmp_path_factory.mktemp("flights")
    DatasetFolder.write(place / "train", flights[:2000].lazy(), source="flights")
    DatasetFolder.write(place / "validation", flights[2000:3000].lazy(), source="flights")
    flights_contract.save(place / "contract")
    return place


@pytest.fixture
def tune(folders, artifact):
    """Runs the whole step: `tune(algorithm=..., params=..., folds=...)`; returns its result and its three artifacts."""

    def work(name="trials", enabled=True, folds=0, target="local", **words):
        def given(part, kind):
            return kind(name=part, uri=str(folders / part))

        tables = given("train", dsl.Dataset), given("validation", dsl.Dataset), given("contract", dsl.Artifact)
        outputs = artifact(name, dsl.Dataset), artifact(f"{name}-report", dsl.HTML), artifact(f"{name}-metrics", dsl.Metrics)
        training = {key: words.get(key, value) for key, value in TRAINING.items()}
        search = {key: words.get({"algorithm": "search_algorithm", "parameters": "search"}.get(key, key), value) for key, value in SEARCH.items()}
        result = core.run(*tables, *outputs, enabled=enabled, training=training, search=search, folds=folds, target=target)
        return result, *outputs

    return work


def load(folders, **words):
    parts = {name: str(folders / name) for name in ("train", "validation", "contract")}
    return objective.load(**parts, **{"options": {"params": {"num_iterations": 20}}, "metric": "log_loss", "threads": 1, **words})


def train(folders, **options):
    tables = DatasetFolder.open(folders / "train"), DatasetFolder.open(folders / "validation")
    return fit(*tables, Contract.load(folders / "contract"), Options(**options))


def nothing(name, value):
    pass


@pytest.mark.parametrize("algorithm", list(FEW))
def test_a_trial_has_the_metrics_of_a_training_to_the_last_bit(folders, algorithm):
    tried = load(folders, options={"algorithm": algorithm, "params": {}}).value(FEW[algorithm], nothing)
    assert tried == train(folders, algorithm=algorithm, params=FEW[algorithm]).metrics


def test_a_trial_after_others_has_the_metrics_of_one_alone(folders):
    shared = load(folders)
    values = [shared.value({"num_leaves": leaves, "max_bin": bins}, nothing) for leaves, bins in ((5, 255), (9, 31), (5, 255))]
    assert values[0] == values[2]
    assert values[1] == load(folders).value({"num_leaves": 9, "max_bin": 31}, nothing)


def test_the_metric_is_reported_while_a_trial_trains_and_that_changes_nothing(folders):
    for metric in ("log_loss", "auc"):
        reports = []
        watched = load(folders, metric=metric, watched=True, options={"params": {"num_iterations": 30}, "early_stopping_rounds": 0})
        found = watched.value({}, lambda name, value, reports=reports: reports.append((name, value)))
        assert [name for name, _ in reports] == [metric] * 3
        assert reports[-1][1] == pytest.approx(found[metric], rel=1e-12)
        assert found == train(folders, params={"num_iterations": 30}, early_stopping_rounds=0).metrics


def test_a_cross_validation_reports_after_each_fold_and_gives_means(folders):
    reports = []
    found = load(folders, folds=4, method="stratified").value({}, lambda name, value: reports.append(value))
    assert len(reports) == 4
    assert reports[-1] == found["log_loss"]
    assert 0.3 < found["log_loss"] < 0.7


def test_the_best_parameters_give_a_model_with_the_metric_that_came_out(tune, folders):
    (params, value, count), trials, report, metrics = tune()
    assert count == 4
    assert set(params) == {"num_iterations", "learning_rate", "num_leaves"}
    trained = train(folders, params=json.loads(json.dumps(params)), early_stopping_rounds=10)
    assert trained.metrics["log_loss"] == value == metrics.metadata["log_loss"]
    assert {name: metrics.metadata[name] for name in trained.metrics} == trained.metrics
    assert all(type(number) is float and math.isfinite(number) for number in metrics.metadata.values())
    text = Path(report.path).read_text()
    for heading in ("Best parameters", "Course of the search", "Parallel coordinates", "What mattered", "Timeline", "Trials", "On Katib"):
        assert f">{heading}<" in text
    assert "asked for by target=local" in text
    assert "The trials are not logged in MLflow: MLFLOW_TRACKING_URI is not set" in text
    rows = DatasetFolder.open(trials.path).scan().collect()
    assert rows.columns == [
        "number", "state", "best", "param_learning_rate", "param_num_leaves", "metric_log_loss", "metric_accuracy", "metric_auc",
        "metric_average_precision", "metric_brier", "reports", "message",
    ]  # fmt: skip
    assert rows.filter("best")["metric_log_loss"].to_list() == [value] == [rows["metric_log_loss"].min()]


def test_the_same_search_gives_the_same_bytes_and_is_not_run_again(tune, monkeypatch, tmp_path):
    first, trials, *_ = tune(search_algorithm="tpe", settings={"n_startup_trials": 2})
    monkeypatch.setattr("kfp_foundry.components.tuning.tune_model.local.engine.Crew", None)  # a second run that starts a process breaks
    again, found, *_ = tune(name="again", search_algorithm="tpe", settings={"n_startup_trials": 2})
    assert again == first
    monkeypatch.undo()
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "another home"))
    monkeypatch.setattr(platform, "cpus", lambda: 2)
    anew, fresh, *_ = tune(name="anew", search_algorithm="tpe", settings={"n_startup_trials": 2})
    assert anew == first
    parts = [(Path(table.path) / "part-00000.parquet").read_bytes() for table in (trials, found, fresh)]
    assert parts[0] == parts[1] == parts[2]


def test_a_step_that_is_not_enabled_passes_its_parameters_on(tune):
    result, trials, report, metrics = tune(enabled=False, params={"num_leaves": 5})
    assert result == ({"num_leaves": 5}, 0.0, 0)
    assert DatasetFolder.open(trials.path).scan().collect().height == 0
    assert "No search was asked for" in Path(report.path).read_text()
    assert metrics.metadata == {}


@pytest.mark.parametrize(
    ("words", "message"), [({"trainer": "xgboost"}, "trainer is 'xgboost'"), ({"algorithm": "xgboost"}, "algorithm is 'xgboost'")]
)
def test_a_wrong_trainer_or_algorithm_is_refused_also_without_a_search(tune, words, message, folders):
    training = {**TRAINING, **words}
    with pytest.raises(UserError, match=message):
        core.run(*[None] * 6, enabled=False, training=training, search=SEARCH, folds=0, target="local")


def test_hyperband_needs_no_space_of_ones_own(folders):
    asked = {**SEARCH, "parameters": {}, "algorithm": "hyperband", "settings": {}}
    plan = core.read(Contract.load(folders / "contract"), {**TRAINING, "params": {}}, asked, 0)
    assert plan.search.settings["resource_name"] == "num_iterations"


def test_median_stopping_ends_trials_while_they_train(tune):
    rates = {"learning_rate": [0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.0001, 0.0002, 0.0003]}
    _, trials, report, _ = tune(search_algorithm="grid", search=rates, early_stopping="median", max_trials=9, params={"num_iterations": 60})
    states = DatasetFolder.open(trials.path).scan().collect()
    assert "early_stopped" in states["state"].to_list()
    assert "Stopped early" in Path(report.path).read_text()


def test_a_search_in_which_all_trials_fail_says_what_the_first_one_said(tune):
    with pytest.raises(FoundryError, match=r"all 3 trials failed; the first one said: training: LightGBM refuses: .*num_leaves.*correct `params`"):
        tune(search={"num_leaves": {"type": "int", "min": 200_000, "max": 300_000}})


def test_a_listed_value_that_the_library_refuses_is_told_with_the_trials_parameters(tune):
    with pytest.raises(FoundryError, match=r"LightGBM refuses: .*num_leaves.*; it had \{'num_leaves': 1\}"):
        tune(search={"num_leaves": [1]}, max_trials=1)


BAD = [
    ({"search": {"num_leavs": [4, 5]}}, "lightgbm has no parameter 'num_leavs'; did you mean 'num_leaves'"),
    ({"search": {"num_leaves": {"type": "int", "min": 9, "max": 4}}}, "min 9 is above max 4"),
    ({"search": {"lambda_l2": {"type": "float", "min": 0, "max": 4, "log": True}}}, "log is true and min is 0.0, which has no logarithm"),
    ({"search": {"lambda_l2": {"type": "float", "min": 0, "max": 4}}, "search_algorithm": "grid"}, "this range is continuous; give it a step"),
    ({"search": {"seed": [1, 2]}}, "give `seed` to the step"),
    ({"params": {"n_estimators": 5}, "search": {"num_iterations": [5, 6]}}, "fix it in params or search over it, not both"),
    ({"params": dict.fromkeys(default_parameters("lightgbm"), 1), "search": {}}, "params fixes every parameter"),
    ({"metric": "aux"}, "metric is 'aux', which a binary training does not measure; did you mean 'auc'"),
    ({"direction": "down"}, "direction is 'down'"),
    ({"search_algorithm": "tpee"}, "did you mean 'tpe'"),
    ({"settings": {"gamma": 1}}, "algorithm random has no setting 'gamma'"),
    ({"max_trials": 0}, "max_trials is 0; give a whole number of at least 1"),
    ({"trainer": "xgboost"}, "trainer is 'xgboost'"),
    ({"folds": 1}, "folds is 1; give 0 for none, or 2 or more"),
    ({"trainer": "sklearn", "params": {}, "search": {"max_bins": [63]}}, "it decides how rows are encoded"),
    ({"trainer": "sklearn", "params": {}, "search": {"max_iter": [3]}, "early_stopping": "median"}, "reports nothing while it trains"),
    (
        {"search_algorithm": "hyperband", "folds": 3, "params": {}, "search": {"num_iterations": {"type": "int", "min": 1, "max": 9}}},
        "folds is given",
    ),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[message for _, message in BAD])
def test_a_wrong_search_is_refused_before_anything_starts(tune, monkeypatch, words, message):
    monkeypatch.setattr("kfp_foundry.components.tuning.tune_model.local.engine.tune", None)
    with pytest.raises(UserError) as refused:
        tune(**words)
    assert message in str(refused.value)


def test_torch_that_is_missing_is_named_with_what_brings_it(folders, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PlatformError, match=r"torch is not installed here; install kfp-foundry\[torch\], or choose trainer lightgbm"):
        load(folders, options={"algorithm": "residual_mlp", "params": {}})


def test_rows_that_cannot_be_learned_from_are_told(tune, folders, monkeypatch, tmp_path, flights):
    DatasetFolder.write(tmp_path / "train", flights[:500].with_columns(late=pl.lit(True)).lazy(), source="flights")
    for part in ("validation", "contract"):
        (tmp_path / part).symlink_to(folders / part)
    with pytest.raises(DataError, match="target 'late' is constant"):
        load(tmp_path)


def test_a_network_is_searched_over_as_trees_are(folders, tune):
    (params, value, count), *_ = tune(
        trainer="torch", params={"epochs": 2, "width": 16, "blocks": 1}, search={"learning_rate": [0.001, 0.01]}, search_algorithm="grid",
        max_trials=2, parallel_trials=2, early_stopping="median",
    )  # fmt: skip
    assert count == 2
    assert value == train(folders, algorithm="residual_mlp", params=params, early_stopping_rounds=10).metrics["log_loss"]


METHODS = {"time": "time", "group": "carrier", "stratified": "late", "random": None}


@pytest.mark.parametrize("method", list(METHODS))
def test_folds_are_cut_as_the_split_would(flights, flights_contract, method):
    words = flights_contract.model_copy(deep=True)
    words.field("carrier").role = "group"
    rows = flights[:3000]
    cut = list(folds.masks(rows.lazy(), words, 4, method, seed=7))
    assert len(cut) == 4
    for learned, held in cut:
        assert not (learned & held).any()
        assert 0 < held.sum() < len(rows) / 2
        first, second = rows.filter(learned), rows.filter(held)
        if method == "time":
            assert first["time_hour"].max() < second["time_hour"].min()
        if method == "group":
            assert not set(first["carrier"]) & set(second["carrier"])
        if method == "stratified":
            assert second["late"].mean() == pytest.approx(rows["late"].mean(), abs=0.01)
    whole = sum(held.cast(pl.Int64) for _, held in cut)
    assert whole.max() == 1
    assert method == "time" or whole.min() == 1
    shuffled = rows.sample(fraction=1, shuffle=True, seed=3)
    again = next(iter(folds.masks(shuffled.lazy(), words, 4, method, seed=7)))[1]
    assert sorted(shuffled.filter(again).rows(), key=str) == sorted(rows.filter(cut[0][1]).rows(), key=str)


def test_too_few_groups_for_the_folds_are_told(flights, flights_contract):
    words = flights_contract.model_copy(deep=True)
    words.field("origin").role = "group"
    with pytest.raises(DataError, match="3 different times, groups or rows do not make 5 blocks"):
        list(folds.masks(flights.lazy(), words, 5, "group", seed=7))


def test_every_trial_is_an_mlflow_run_below_that_of_the_search_once(tune, empty_registry, monkeypatch, tmp_path):
    home = empty_registry(tmp_path / "tracked")
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(home))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    (params, value, _), _, report, _ = tune()
    tune(name="again")
    store = tracking()
    runs = store.client.search_runs([store.experiment_id()])
    parents = [run for run in runs if "kfp-foundry.io/search" in run.data.tags]
    children = {run.data.tags["kfp-foundry.io/trial"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(parents) == 1
    assert len(runs) == 5
    assert set(children) == {"0", "1", "2", "3"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    assert parents[0].data.metrics["best_log_loss"] == value
    assert parents[0].data.params["best.num_leaves"] == str(params["num_leaves"])
    best = children[parents[0].data.tags["best_trial"]]
    assert best.data.metrics["log_loss"] == value
    assert [run.info.run_id for run in runs if run.data.tags.get("best") == "true"] == [best.info.run_id]
    assert {"auc", "accuracy"} <= set(best.data.metrics)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert f"Every trial is an MLflow run below {parents[0].info.run_id}" in Path(report.path).read_text()


def study(count=14, **words):
    """A made-up study in which only x matters."""
    search = Search.read({"parameters": {"x": {"type": "float", "min": 0, "max": 1}, "<b>": [1]} if words.get("odd") else RANGES, "metric": "auc"})
    names = list(search.parameters)
    trials = [
        Trial(
            number,
            State.SUCCEEDED,
            {names[0]: 0.05 + number / 60, names[1]: 4 + number * 5 % 7},
            0.5 + number / 100,
            {},
            (0.5, 0.6),
            number * 2.0,
            1.5,
        )
        for number in range(count)
    ]
    return search, trials


def test_importance_finds_what_matters():
    search, trials = study()
    shares = importance.of(conclude(trials, search), search).shares
    assert shares["learning_rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda trials: trials[:5], "It takes 10 finished trials or more, there are 5."),
        (lambda trials: [dataclasses.replace(trial, value=0.5) for trial in trials], "All finished trials came to the same value."),
        (lambda trials: [dataclasses.replace(trial, params={**trial.params, "num_leaves": 4}) for trial in trials], "fewer than two took more"),
    ],
)
def test_importance_that_would_mean_nothing_is_not_shown_and_says_why(change, why):
    search, trials = study()
    found = importance.of(conclude(change(trials), search), search)
    assert why in found.why_not
    assert not found.shares


def test_the_page_of_a_search_with_failures_shows_them_and_escapes_what_they_say():
    search, trials = study(3)
    trials.append(Trial(3, State.FAILED, {"learning_rate": 0.1, "num_leaves": 5}, message="<script>refused</script>"))
    about = page.About("lightgbm", "Here.", "On rows.", {"num_leaves": 5}, ["seed: Katib takes none"], "Nowhere.")
    text = page.page(conclude(trials, search), search, about).html()
    assert "<script>refused" not in text
    assert "&lt;script&gt;refused" in text
    assert "One trial failed." in text
    assert "Seed: Katib takes none." in text


def test_the_table_has_its_columns_also_when_every_trial_failed():
    search, _ = study()
    rows = table.frame(conclude([Trial(0, State.FAILED, {}, message="broke")], search), search)
    assert rows.columns == ["number", "state", "best", "param_learning_rate", "param_num_leaves", "metric_auc", "reports", "message"]
    assert rows.schema["param_num_leaves"] == pl.Int64


def test_the_component_compiles_and_its_parameters_feed_a_training(tmp_path):
    from kfp_foundry.components.training.train_model.component import train_model

    @dsl.pipeline(name="tuned")
    def tuned():
        parts = {name: dsl.importer(artifact_uri=name, artifact_class=dsl.Dataset).output for name in ("train", "validation")}
        words = dsl.importer(artifact_uri="contract", artifact_class=dsl.Artifact).output
        found = tune_model(**parts, contract=words, search=RANGES)
        train_model(**parts, contract=words, params=found.outputs["params"])

    compiler.Compiler().compile(tuned, str(tmp_path / "tuned.yaml"))
    text = (tmp_path / "tuned.yaml").read_text()
    assert "taskConfigPassthroughs" in text
    assert "producerTask: tune-model" in text
