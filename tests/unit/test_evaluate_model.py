"""evaluate_model: the numbers are those of the rows, the threshold is chosen where it should be, and odd test sets are put in words."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn import metrics as sk

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.evaluation import Evaluation
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, FieldSpec
from kfp_foundry.components.common.errors import DataError, IntegrityError, UserError
from kfp_foundry.components.common.metrics.scores import BinaryScores
from kfp_foundry.components.evaluation.evaluate_model import core
from kfp_foundry.components.evaluation.evaluate_model.page import make_page
from kfp_foundry.components.evaluation.evaluate_model.thresholds import Rule, choose


def contract_for(contract: Contract, task: str, target: str) -> Contract:
    """The flights' contract with another target."""
    words = contract.model_dump(mode="json") | {"task": task, "positive": None}
    for field in words["fields"]:
        if field["name"] in ("late", target):
            field["role"] = "target" if field["name"] == target else "ignore"
    return Contract.model_validate(words)


@pytest.fixture(scope="session")
def trained(flights, flights_contract, tmp_path_factory):
    """Trains a small LightGBM model once: `trained("multiclass", "origin")`."""
    from kfp_foundry.components.training.train_model import core as training

    made = {}

    def train(task: str, target: str) -> ModelFolder:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            parts = {name: dsl.Dataset(uri=str(folder / name)) for name in ("train", "validation")}
            known = flights.filter(pl.col(target).is_not_null())
            DatasetFolder.write(parts["train"], known.head(4000).lazy(), source="flights")
            DatasetFolder.write(parts["validation"], known.slice(4000, 800).lazy(), source="flights")
            contract_for(flights_contract, task, target).save(folder / "contract.yaml")
            outputs = dsl.Model(uri=str(folder / "model")), dsl.Metrics(uri=str(folder / "metrics")), dsl.HTML(uri=str(folder / "report.html"))
            training.run(parts["train"], parts["validation"], dsl.Artifact(uri=str(folder / "contract.yaml")), *outputs, params={"n_estimators": 20})
            made[task] = ModelFolder.open(folder / "model")
        return made[task]

    return train


@pytest.fixture
def outputs(artifact):
    """The four output artifacts, real ones."""
    return core.Outputs(
        artifact("evaluation.json"),
        artifact("metrics", dsl.Metrics),
        artifact("classification_metrics", dsl.ClassificationMetrics),
        artifact("report.html", dsl.HTML),
    )


@pytest.fixture
def binary(make_model, tmp_path):
    """A real model of the flights' lateness."""
    return make_model(tmp_path / "late")


def store(artifact, name: str, rows: pl.DataFrame):
    made = artifact(name, dsl.Dataset)
    DatasetFolder.write(made, rows.lazy(), source="flights")
    return made


def test_the_step_writes_evaluation_metrics_and_report(binary, flights, artifact, outputs):
    test, validation = store(artifact, "test", flights.tail(2000)), store(artifact, "validation", flights.head(2000))
    model = artifact("late", dsl.Model)
    (threshold,) = core.run(model, test, validation, outputs, Rule("f1"), ["tailnum"])
    found = Evaluation.read(outputs.evaluation.path)
    assert found.threshold.value == threshold
    assert found.rows == {"all": 2000, "judged": 2000, "without_target": 0, "unknown_label": 0, "validation": 2000}
    assert found.test == test.metadata["fingerprint"]
    assert found.model == binary.digest
    assert outputs.evaluation.metadata["value"] == found.metrics["auc"].value
    assert outputs.metrics.metadata["auc"] == found.metrics["auc"].value
    page = Path(outputs.report.path).read_text()
    assert all(words in page for words in ("ROC curve", "Confusion matrix", "Slices", "tailnum", "late = true"))


def test_the_metrics_are_those_of_scikit_learn_on_the_same_predictions(binary, flights):
    test = flights.tail(2000)
    found, _ = core.evaluate(binary, test, flights.head(2000), Rule("0.2"))
    truth, p = test["late"].to_numpy(), binary.predict(test)["probability"].to_numpy()
    expected = {"auc": sk.roc_auc_score(truth, p), "log_loss": sk.log_loss(truth, p), "f1": sk.f1_score(truth, p >= 0.2)}
    assert {name: found.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    assert all(found.metrics[name].low < found.metrics[name].value < found.metrics[name].high for name in expected)


def test_rows_of_the_confusion_matrix_are_the_truth(binary, flights, outputs, artifact):
    test = store(artifact, "test", flights.tail(2000))
    core.run(artifact("late", dsl.Model), test, store(artifact, "validation", flights.head(500)), outputs, Rule("0.3"))
    truth, predicted = flights.tail(2000)["late"].to_numpy(), binary.predict(flights.tail(2000), threshold=0.3)["prediction"].to_numpy()
    expected = sk.confusion_matrix(truth, predicted).tolist()
    assert expected != np.transpose(expected).tolist()  # else the test could not tell
    found = Evaluation.read(outputs.evaluation.path).confusion
    assert (found.labels, found.matrix) == (["false", "true"], expected)
    shown = outputs.classification_metrics.metadata["confusionMatrix"]
    assert [name["displayName"] for name in shown["annotationSpecs"]] == ["false", "true"]
    assert [row["row"] for row in shown["rows"]] == expected


def test_what_kfp_gets_is_finite_and_short(binary, flights, outputs, artifact):
    core.run(artifact("late", dsl.Model), store(artifact, "t", flights), store(artifact, "v", flights.head(500)), outputs, Rule("f1"))
    text = json.dumps([outputs.metrics.metadata, outputs.classification_metrics.metadata, outputs.evaluation.metadata], allow_nan=False)
    assert json.loads(text)
    assert 2 < len(outputs.classification_metrics.metadata["confidenceMetrics"]) <= 100
    assert all(type(value) is float for value in outputs.metrics.metadata.values())


def test_the_same_inputs_give_the_same_bytes(binary, flights, artifact, outputs, tmp_path):
    test, validation = store(artifact, "test", flights.tail(1000)), store(artifact, "validation", flights.head(1000))
    written = []
    for _ in range(2):
        core.run(artifact("late", dsl.Model), test, validation, outputs, Rule("f1"))
        written.append(((tmp_path / "evaluation.json").read_bytes(), (tmp_path / "report.html").read_bytes()))
    assert written[0] == written[1]


def test_the_threshold_is_chosen_on_validation_rows_and_judged_on_test_rows(binary, flights):
    validation = flights.head(2000)
    found, scores = core.evaluate(binary, flights.tail(2000), validation, Rule("f1"))
    truth, p = validation["late"].to_numpy(), binary.predict(validation)["probability"].to_numpy()
    best = max(sk.f1_score(truth, p >= level) for level in np.unique(p))
    assert sk.f1_score(truth, p >= found.threshold.value) == pytest.approx(best)
    assert scores.threshold == found.threshold.value
    moved, _ = core.evaluate(binary, flights.tail(2000), validation.with_columns(~pl.col("late")), Rule("f1"))
    assert moved.threshold.value != found.threshold.value
    assert moved.metrics["auc"] == found.metrics["auc"]


def scores_of(rows=400, seed=3):
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < 0.3
    return BinaryScores(truth, np.clip(rng.beta(2, 4, rows) + 0.25 * truth, 0, 1).round(3), weights=rng.integers(1, 4, rows).astype(float))


def rates(scores, threshold):
    chosen, w, truth = scores.probability >= threshold, scores.weights, scores.truth
    tp, fp, fn = w[chosen & truth].sum(), w[chosen & ~truth].sum(), w[~chosen & truth].sum()
    return {"precision": tp / (tp + fp) if tp + fp else 0.0, "recall": tp / (tp + fn), "cost": lambda a, b: a * fp + b * fn}


LEVELS = np.append(np.unique(scores_of().probability), 1.0)


@pytest.mark.parametrize(("alarm", "miss"), [(1.0, 1.0), (1.0, 5.0), (10.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_no_threshold_costs_less_than_the_one_by_cost(alarm, miss):
    scores = scores_of()
    found = choose(Rule("cost", alarm, miss), scores).value
    assert rates(scores, found)["cost"](alarm, miss) == min(rates(scores, level)["cost"](alarm, miss) for level in LEVELS)


@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 0.95])
def test_the_threshold_by_precision_has_it_and_the_most_recall(least):
    scores = scores_of()
    found = rates(scores, choose(Rule("precision", min_precision=least), scores).value)
    assert found["precision"] >= least
    assert found["recall"] == max(r["recall"] for level in LEVELS if (r := rates(scores, level))["precision"] >= least)


@pytest.mark.parametrize("least", [0.1, 0.5, 0.9, 1.0])
def test_the_threshold_by_recall_has_it_and_the_most_precision(least):
    scores = scores_of()
    found = rates(scores, choose(Rule("recall", min_recall=least), scores).value)
    assert found["recall"] >= least
    assert found["precision"] == max(r["precision"] for level in LEVELS if (r := rates(scores, level))["recall"] >= least)


def test_limits_bind_every_method():
    scores = scores_of()
    free, bound = choose(Rule("f1"), scores), choose(Rule("f1", min_precision=0.9), scores)
    assert rates(scores, free.value)["precision"] < 0.9 <= rates(scores, bound.value)["precision"]
    assert "with precision of at least 0.9" in bound.reason


def test_a_threshold_lies_between_two_rows_and_is_short():
    scores = BinaryScores(np.array([True, True, False, False]), np.array([0.8123456789, 0.7, 0.3987654321, 0.1]))
    assert choose(Rule("f1"), scores).value == 0.5
    assert choose(Rule("recall", min_recall=1.0), scores).value == 0.5


def test_a_certain_row_is_not_shut_out():
    scores = BinaryScores(np.array([False, True]), np.array([1.0, 1.0]))
    assert choose(Rule("cost", 5.0, 1.0), scores).value <= 1.0


def test_a_threshold_given_as_a_number_is_taken(binary, flights):
    found, _ = core.evaluate(binary, flights.tail(500), flights.head(500), Rule("0.35"))
    assert (found.threshold.value, found.threshold.method) == (0.35, "fixed")


@pytest.mark.parametrize(
    ("validation", "reason"),
    [
        (lambda rows: rows.filter(~pl.col("late")), "all validation rows are of one class"),
        (lambda rows: rows.head(0), "there are no validation rows"),
        (lambda rows: rows.with_columns(late=pl.lit(None, dtype=pl.Boolean)), "there are no validation rows"),
    ],
)
def test_a_threshold_that_cannot_be_worked_out_is_the_default_and_says_so(binary, flights, validation, reason):
    found, _ = core.evaluate(binary, flights.tail(500), validation(flights.head(500)), Rule("f1"))
    assert found.threshold.value == 0.5
    assert reason in found.threshold.reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "f2"}, r"threshold is 'f2'; give f1, cost, precision, recall or a probability from 0 to 1"),
        ({"method": "1.5"}, r"threshold is '1.5'; give .* a probability from 0 to 1"),
        ({"method": "nan"}, r"threshold is 'nan'; give .* a probability from 0 to 1"),
        ({"method": "precision"}, r"threshold is 'precision', but min_precision is 0; give min_precision, such as 0.8"),
        ({"method": "recall", "min_recall": 1.2}, r"min_recall is 1.2; give a share from 0 to 1"),
        ({"method": "cost", "cost_false_positive": -1.0}, r"the costs are -1.0 and 1.0; give costs of 0 or more"),
        ({"method": "cost", "cost_false_positive": 0.0, "cost_false_negative": 0.0}, r"not both 0"),
    ],
)
def test_a_wrong_threshold_is_refused_with_what_to_do(words, message):
    with pytest.raises(UserError, match=message):
        Rule(**words)


def test_a_precision_out_of_reach_is_refused_with_what_can_be_reached():
    scores = BinaryScores(np.array([False, True, True, False]), np.array([0.9, 0.8, 0.7, 0.1]))
    with pytest.raises(UserError, match=r"no threshold has precision >= 0.9 on the validation rows; the largest precision is 0.6667; ask for less"):
        choose(Rule("precision", min_precision=0.9), scores)
    with pytest.raises(UserError, match=r"no threshold has precision >= 0.9 and recall >= 0.9 .*the largest precision with that recall is 0.6667"):
        choose(Rule("f1", min_precision=0.9, min_recall=0.9), scores)


def test_rows_without_a_target_are_left_out_and_counted(binary, flights):
    test = flights.tail(1000).with_columns(late=pl.when(pl.int_range(pl.len()) < 100).then(None).otherwise(pl.col("late")))
    found, scores = core.evaluate(binary, test, flights.head(500), Rule("0.3"))
    whole, _ = core.evaluate(binary, flights.tail(900), flights.head(500), Rule("0.3"))
    assert (found.rows["judged"], found.rows["without_target"], len(scores)) == (900, 100, 900)
    assert found.metrics == whole.metrics
    assert "100 rows without a target were left out." in found.notes


@pytest.mark.parametrize(("keep", "side"), [(True, "positive"), (False, "negative")])
def test_one_class_alone_is_put_in_words(binary, flights, artifact, outputs, keep, side):
    test = store(artifact, "test", flights.filter(pl.col("late") == keep).head(300))
    core.run(artifact("late", dsl.Model), test, store(artifact, "validation", flights.head(500)), outputs, Rule("f1"))
    found = Evaluation.read(outputs.evaluation.path)
    assert found.metrics["auc"].value is None
    assert found.metrics["log_loss"].value > 0
    assert f"All judged rows are {side}: the AUC and whatever compares two classes are not defined." in found.notes
    assert "auc" not in outputs.metrics.metadata
    assert "value" not in outputs.evaluation.metadata


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_handful_of_rows_is_judged_with_a_warning(binary, flights, artifact, outputs, rows):
    test = store(artifact, "test", flights.tail(rows))
    core.run(artifact("late", dsl.Model), test, store(artifact, "validation", flights.head(500)), outputs, Rule("f1"))
    assert f"Only {rows} rows could be judged" in " ".join(Evaluation.read(outputs.evaluation.path).notes)


def test_no_row_with_a_target_is_an_error_in_words(binary, flights):
    empty = flights.tail(20).with_columns(late=pl.lit(None, dtype=pl.Boolean))
    with pytest.raises(DataError, match="test rows, column 'late': none of 20 rows can be judged: every target is missing; give rows"):
        core.evaluate(binary, empty, flights.head(100), Rule("f1"))
    with pytest.raises(DataError, match="test rows: no target column 'late'"):
        core.evaluate(binary, flights.drop("late"), flights.head(100), Rule("f1"))


def test_a_slice_column_that_is_not_there_is_refused_with_the_close_ones(binary, flights, artifact, outputs):
    data = store(artifact, "test", flights.tail(100))
    with pytest.raises(UserError, match="no column 'tailnumb'; did you mean 'tailnum'"):
        core.run(artifact("late", dsl.Model), data, data, outputs, Rule("f1"), ["tailnumb"])


def test_a_model_with_a_changed_byte_is_refused(binary, flights, artifact, outputs):
    graph = binary.path / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    data = store(artifact, "test", flights.tail(100))
    with pytest.raises(IntegrityError, match=r"model\.onnx: digest mismatch"):
        core.run(artifact("late", dsl.Model), data, data, outputs, Rule("f1"))


def test_a_confidence_out_of_range_is_refused(binary, flights, artifact, outputs):
    data = store(artifact, "test", flights.tail(100))
    with pytest.raises(UserError, match="confidence is 95; give a number between 0 and 1"):
        core.run(artifact("late", dsl.Model), data, data, outputs, Rule("f1"), (), 95)


def test_slices_are_the_rows_they_name_and_the_worst_stands_first(binary, flights):
    test = flights.tail(3000)
    found, _ = core.evaluate(binary, test, flights.head(500), Rule("0.3"), ["carrier"])
    by_name = {each.name: each for each in found.slices}
    rows = test.filter(pl.col("carrier") == "UA")
    slice_ = by_name["carrier = UA"]
    assert slice_.rows == rows.height
    assert slice_.value == pytest.approx(sk.roc_auc_score(rows["late"], binary.predict(rows)["probability"]))
    assert slice_.others["positives"] == pytest.approx(rows["late"].mean())
    assert slice_.low < slice_.value < slice_.high
    ends = [each.high for each in found.slices if each.high is not None]
    assert ends == sorted(ends)
    assert all(each.rows >= 30 for each in found.slices)


def test_a_slice_is_worse_only_when_its_whole_interval_is(binary, flights):
    found, _ = core.evaluate(binary, flights, flights.head(500), Rule("0.3"))
    whole = found.metrics["auc"].value
    assert {each.standing for each in found.slices} >= {"worse", "better", "same"}
    for each in found.slices:
        assert (each.standing == "worse") == (each.high is not None and each.high < whole)
        assert (each.standing == "better") == (each.low is not None and each.low > whole)


def test_intervals_of_slices_take_the_rows_of_a_group_together(binary, flights):
    # Each row ten times: with the copies as one group an interval is as wide as without them, else a third of it.
    once = flights.tail(500).with_row_index("flight")
    fields = [*binary.contract.fields, FieldSpec(name="flight", type="integer", role="group")]
    grouped = ModelFolder(binary.path, binary.contract.model_copy(update={"fields": fields}), binary.record, {"model.onnx": "0"})
    widths = []
    for model, rows in [(binary, once), (binary, pl.concat([once] * 10)), (grouped, pl.concat([once] * 10))]:
        found, _ = core.evaluate(model, rows, flights.head(500), Rule("0.3"), ["origin"])
        widths.append({each.name: each.high - each.low for each in found.slices if each.column == "origin"})
        assert any("rows of a group together" in note for note in found.notes) == (model is grouped)
    for name, width in widths[0].items():
        assert widths[1][name] < width / 2
        assert widths[2][name] == pytest.approx(width, rel=0.05)


def test_slices_on_which_the_metric_is_not_defined_are_counted(binary, flights):
    test = flights.head(2000).with_columns(late=pl.col("late") & (pl.col("origin") == "EWR"))
    found, scores = core.evaluate(binary, test, flights.head(500), Rule("0.3"), ["origin"])
    undefined = sum(each.value is None for each in found.slices)
    assert undefined >= 2
    assert f"Slices on which AUC is not defined, as when all rows are of one class: {undefined}." in make_page(found, scores, {}).html()


def weighted(folder: ModelFolder, column: str) -> ModelFolder:
    return ModelFolder(folder.path, folder.contract.with_role(column, "weight"), folder.record, {"model.onnx": "0"})


def test_sample_weights_count(binary, flights):
    test = flights.tail(1000).with_columns(pl.when(pl.col("late")).then(3).otherwise(1).alias("tailnum"))
    model = weighted(binary, "tailnum")
    found, _ = core.evaluate(model, test, test, Rule("0.3"))
    truth, p, w = test["late"].to_numpy(), binary.predict(test)["probability"].to_numpy(), test["tailnum"].to_numpy()
    assert found.metrics["log_loss"].value == pytest.approx(sk.log_loss(truth, p, sample_weight=w))
    assert found.metrics["precision"].value == pytest.approx(sk.precision_score(truth, p >= 0.3, sample_weight=w))
    assert any("by their weights" in note for note in found.notes)


@pytest.mark.parametrize(("weight", "message"), [(-1.0, "1,000 weights missing, negative or infinite"), (0.0, "all weights are 0")])
def test_weights_that_mean_nothing_are_refused(binary, flights, weight, message):
    test = flights.tail(1000).with_columns(tailnum=pl.lit(weight))
    with pytest.raises(DataError, match=f"test rows, column 'tailnum': {message}"):
        core.evaluate(weighted(binary, "tailnum"), test, test, Rule("0.3"))


def test_a_multiclass_model_is_judged(trained, flights, artifact, outputs):
    model = trained("multiclass", "origin")
    test = flights.tail(1500)
    model_artifact = dsl.Model(uri=str(model.path))
    assert core.run(model_artifact, store(artifact, "test", test), store(artifact, "validation", flights.head(100)), outputs, Rule("f1")) == (0.5,)
    found = Evaluation.read(outputs.evaluation.path)
    predicted = model.predict(test)
    p = predicted.select(f"probability_{label}" for label in model.labels).to_numpy()
    expected = {
        "accuracy": sk.accuracy_score(test["origin"], predicted["prediction"]),
        "f1_macro": sk.f1_score(test["origin"], predicted["prediction"], average="macro"),
        "log_loss": sk.log_loss(test["origin"], p, labels=model.labels),
    }
    assert {name: found.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found.confusion.labels == ["EWR", "JFK", "LGA"]
    assert found.confusion.matrix == sk.confusion_matrix(test["origin"], predicted["prediction"]).tolist()
    assert found.threshold is None
    assert "confidenceMetrics" not in outputs.classification_metrics.metadata
    assert "By class, the worst first" in Path(outputs.report.path).read_text()


def test_labels_that_training_never_saw_are_left_out_in_words(trained, flights, caplog):
    model = trained("multiclass", "origin")
    test = flights.tail(500).with_columns(origin=pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("XYZ")).otherwise(pl.col("origin")))
    found, _ = core.evaluate(model, test, flights.head(100), Rule("f1"))
    assert (found.rows["judged"], found.rows["unknown_label"]) == (493, 7)
    assert "7 rows with the label 'XYZ' were left out: no training row has it, so no prediction can match it." in found.notes
    assert caplog.messages == found.notes
    with pytest.raises(DataError, match="every label is one that the training rows do not have"):
        core.evaluate(model, test.head(7), flights.head(100), Rule("f1"))


def test_a_class_without_a_test_row_is_put_in_words(trained, flights):
    found, _ = core.evaluate(trained("multiclass", "origin"), flights.tail(900).filter(pl.col("origin") != "JFK"), flights.head(100), Rule("f1"))
    assert "1 of 3 classes have no judged row and do not count in means over classes." in found.notes
    assert found.metrics["balanced_accuracy"].value is not None


def test_a_regression_is_judged(trained, flights, artifact, outputs):
    model = trained("regression", "temp")
    test = flights.tail(1500)
    known = test.filter(pl.col("temp").is_not_null())
    core.run(dsl.Model(uri=str(model.path)), store(artifact, "test", test), store(artifact, "validation", flights.head(100)), outputs, Rule("f1"))
    found = Evaluation.read(outputs.evaluation.path)
    truth, predicted = known["temp"], model.predict(known)["prediction"]
    assert found.metrics["rmse"].value == pytest.approx(sk.root_mean_squared_error(truth, predicted))
    assert found.metrics["bias"].value == pytest.approx((predicted - truth).mean())
    assert found.rows["without_target"] == test.height - known.height
    assert (found.confusion, found.curves, found.threshold) == (None, {}, None)
    assert outputs.classification_metrics.metadata == {}
    assert "Residuals by prediction" in Path(outputs.report.path).read_text()


def test_an_evaluation_that_is_none_is_refused(tmp_path):
    (tmp_path / "e.json").write_text('{"task": "binary"}')
    with pytest.raises(IntegrityError, match="not a readable evaluation; run evaluate_model again"):
        Evaluation.read(tmp_path / "e.json")


def test_many_classes_are_shown_as_the_most_frequent_and_other():
    from kfp_foundry.components.common.metrics.scores import MulticlassScores

    truth = np.repeat(np.arange(40), np.arange(40, 0, -1))
    scores = MulticlassScores(truth, np.eye(40)[truth])
    shown = core._confusion(scores, [f"c{i}" for i in range(40)])
    assert len(shown.labels) == 30
    assert shown.labels[-1] == "other"
    assert np.trace(shown.matrix) == len(truth)
    assert shown.matrix[-1][-1] == sum(range(1, 12))
