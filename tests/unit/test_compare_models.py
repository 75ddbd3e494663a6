"""compare_models: the same rows for both, a rule that decides as it says, and words for what cannot be compared."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn import metrics as sk

from kfp_foundry.components.common.artifacts.comparison import Comparison, Difference, Rule, SliceDifference
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.artifacts.verdict import Verdict
from kfp_foundry.components.common.contract import FieldSpec, Task
from kfp_foundry.components.common.errors import IntegrityError, UserError
from kfp_foundry.components.common.tracking import tracking
from kfp_foundry.components.evaluation.compare_models import core
from kfp_foundry.components.evaluation.compare_models.core import Contender, compare, make_rule
from kfp_foundry.components.evaluation.compare_models.page import make_page
from kfp_foundry.components.evaluation.compare_models.verdict import decide


@pytest.fixture(autouse=True)
def laptop(tmp_path, monkeypatch, empty_registry):
    """A laptop with an empty registry of its own."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(empty_registry(tmp_path / "home")))


@pytest.fixture
def test_rows(flights, tmp_path) -> DatasetFolder:
    """2,000 flights as a Dataset."""
    return DatasetFolder.write(tmp_path / "rows", flights.tail(2000).lazy(), source="flights")


@pytest.fixture
def contenders(make_model, tmp_path):
    """Two models of the same kind: the challenger calibrated a little better than the champion."""
    return Contender(make_model(tmp_path / "new", bias=-0.4), 0.2), Contender(make_model(tmp_path / "old", bias=1.0), 0.3)


def started(new: Contender, rule: Rule, metric="auc") -> Comparison:
    return Comparison(gate="compare_models", model_name="flights", challenger=new.model.digest, champion_version="3", metric=metric, rule=rule)


def crown(folder: ModelFolder, name="flights", threshold="0.3") -> str:
    """Makes a model the champion of the real registry."""
    client = tracking().client
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    tags = {"model_digest": folder.digest, "threshold": threshold}
    version = client.create_model_version(name, source=str(folder.path), tags=tags)
    client.set_registered_model_alias(name, "champion", version.version)
    return str(version.version)


@pytest.fixture
def run(artifact, test_rows):
    """Runs the step with real artifacts; returns its outputs, the comparison and the report."""

    def go(challenger: ModelFolder, rule: Rule, **options):
        verdict, report = artifact("verdict.json"), artifact("report.html", dsl.HTML)
        model, test = dsl.Model(uri=str(challenger.path)), dsl.Dataset(uri=str(test_rows.path))
        given = core.run(model, test, verdict, report, "flights", rule, **options)
        assert verdict.metadata["outcome"] == given[0]
        assert Verdict.read(verdict.path).outcome == given[0]
        return given, Comparison.read(verdict.path), Path(report.path).read_text()

    return go


def test_no_champion_is_a_pass_that_says_so(make_model, tmp_path, run):
    outputs, found, page = run(make_model(tmp_path / "new"), Rule())
    assert outputs == ("pass", "")
    assert found.reason == "flights has no champion yet, so there is nothing to compare with."
    assert found.reason in page
    assert "no version of flights carries the alias champion" in found.checks[0].message


def test_a_cluster_without_a_registry_is_a_pass_that_says_what_is_absent(make_model, tmp_path, run, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    outputs, found, _ = run(make_model(tmp_path / "new"), Rule())
    assert outputs == ("pass", "")
    assert "there is no registry to ask" in found.checks[0].message
    assert "MLFLOW_TRACKING_URI" in found.checks[0].message


def test_the_champion_itself_passes_and_is_named(make_model, tmp_path, run):
    champion = make_model(tmp_path / "old")
    version = crown(champion)
    outputs, found, _ = run(make_model(tmp_path / "same"), Rule(min_gain=0.5), threshold=0.3)
    assert outputs == ("pass", version)
    assert found.reason == f"The challenger is the champion, version {version}: equal models have equal digests."


@pytest.mark.parametrize(
    ("rule", "outcome", "refused"),
    [
        (Rule(min_gain=0.02), "pass", ""),  # the AUC of one model cannot gain
        (Rule(max_loss={"f1": 0.01}), "fail", "; refused by: max_loss: f1"),
        (Rule(metric="f1"), "fail", "; refused by: gain: f1"),
    ],
)
def test_another_threshold_of_the_same_model_is_judged(make_model, tmp_path, run, rule, outcome, refused):
    version = crown(make_model(tmp_path / "old"), threshold="0.3")
    outputs, found, page = run(make_model(tmp_path / "same"), rule, threshold=0.9)
    assert outputs == (outcome, version)
    assert found.reason == f"The challenger is the champion's model (version {version}) with a threshold of 0.9 in place of 0.3{refused}."
    assert (found.same_model, found.thresholds.challenger, found.thresholds.champion) == (True, 0.9, 0.3)
    assert found.differences["f1"].challenger < found.differences["f1"].champion
    assert "what changes is its threshold, from 0.3 to 0.9" in page


def test_challenger_and_champion_are_not_confused(make_model, tmp_path, run, flights):
    champion, challenger = make_model(tmp_path / "old", bias=1.0), make_model(tmp_path / "new", bias=-0.4)
    version = crown(champion, threshold="0.35")
    outputs, found, page = run(challenger, Rule(metric="log_loss"), threshold=0.2)
    rows = flights.tail(2000)
    truth = rows["late"].to_numpy()
    new, old = (model.predict(rows)["probability"].to_numpy() for model in (challenger, champion))
    change = found.differences["log_loss"]
    assert change.challenger == pytest.approx(sk.log_loss(truth, new))
    assert change.champion == pytest.approx(sk.log_loss(truth, old))
    assert change.gain == pytest.approx(sk.log_loss(truth, old) - sk.log_loss(truth, new))
    assert change.gain > 0  # the better one is the challenger
    assert (found.challenger, found.champion) == (challenger.digest, champion.digest)
    assert found.differences["f1"].challenger == pytest.approx(sk.f1_score(truth, new >= 0.2))
    assert found.differences["f1"].champion == pytest.approx(sk.f1_score(truth, old >= 0.35))  # each at its own threshold
    assert outputs == ("pass", version)
    assert "better in Log loss" in page


def test_the_other_way_round_the_gain_is_the_loss(contenders, test_rows):
    new, old = contenders
    rule = Rule(metric="log_loss")
    forth, back = started(new, rule, "log_loss"), started(old, rule, "log_loss")
    compare(forth, new, old, test_rows)
    compare(back, old, new, test_rows)
    assert (forth.outcome, back.outcome) == ("pass", "fail")
    for name, change in forth.differences.items():
        if change.gain is None:
            assert name == "precision"  # the champion predicts no positive
            continue
        assert change.gain == pytest.approx(-back.differences[name].gain)
        if change.low is not None:
            assert change.low == pytest.approx(-back.differences[name].high)
            assert change.probability_better == pytest.approx(1 - back.differences[name].probability_better)


def test_intervals_are_paired(contenders, test_rows):
    new, old = contenders
    found = started(new, Rule(metric="log_loss"), "log_loss")
    scored = compare(found, new, old, test_rows)
    change = found.differences["log_loss"]

    def losses(scores):
        return -np.log(np.where(scores.truth, scores.probability, 1 - scores.probability))

    paired = (losses(scored[1]) - losses(scored[0])).std() / len(scored[0]) ** 0.5
    assert (change.high - change.low) / 2 == pytest.approx(1.96 * paired, rel=0.25)


def test_equal_scores_of_different_models_are_no_gain_and_no_loss(make_model, tmp_path, test_rows):
    # A shift of all scores leaves the order, so the AUC is the same to the last bit.
    new, old = Contender(make_model(tmp_path / "a", bias=0.1), 0.5), Contender(make_model(tmp_path / "b", bias=0.2), 0.5)
    found = started(new, Rule())
    compare(found, new, old, test_rows)
    assert (found.outcome, found.differences["auc"].gain, found.differences["auc"].probability_better) == ("pass", 0.0, 0.5)
    assert "no better and no worse in AUC" in found.reason


def changed(gain: float | None, low=None, high=None) -> Difference:
    return Difference(challenger=None if gain is None else 0.7 + gain, champion=0.7, gain=gain, low=low, high=high, probability_better=0.5)


def decided(rule: Rule, slices=(), **gains) -> Comparison:
    found = Comparison(gate="compare_models", model_name="m", challenger="c", metric="auc", rule=rule, slices=list(slices))
    found.differences = {name: each if isinstance(each, Difference) else changed(each) for name, each in gains.items()}
    found.checks = decide(found, Task.BINARY)
    return found


CLASSIC = Rule(metric="auc", min_gain=0.02, max_loss={"f1": 0.05})


@pytest.mark.parametrize(
    ("rule", "gains", "outcome"),
    [
        (Rule(), {"auc": 0.0}, "pass"),
        (Rule(), {"auc": 1e-9}, "pass"),
        (Rule(), {"auc": -1e-9}, "fail"),
        (Rule(min_gain=-0.01), {"auc": -0.005}, "pass"),
        (Rule(min_gain=-0.01), {"auc": -0.02}, "fail"),
        (CLASSIC, {"auc": 0.02, "f1": -0.05}, "pass"),
        (CLASSIC, {"auc": 0.0199, "f1": 0.1}, "fail"),
        (CLASSIC, {"auc": 0.1, "f1": -0.0501}, "fail"),
        (CLASSIC, {"auc": 0.1, "f1": None}, "fail"),
        (CLASSIC.model_copy(update={"on_incomparable": "warn"}), {"auc": 0.1, "f1": None}, "warn"),
        (Rule(), {"auc": None}, "fail"),
    ],
)
def test_the_rule_decides_as_it_says(rule, gains, outcome):
    assert decided(rule, **gains).outcome == outcome


def test_there_is_one_check_per_part_of_the_rule():
    checks = decided(Rule(max_loss={"f1": 0.1, "recall": 0.1}, max_slice_loss=0.1), auc=0.1, f1=0.0, recall=0.0).checks
    assert [check.name for check in checks] == ["gain: auc", "max_loss: f1", "max_loss: recall", "max_slice_loss"]


def test_a_gain_that_may_be_chance_is_said_to_be():
    assert "may be chance" in decided(Rule(), auc=changed(0.01, -0.02, 0.04)).checks[0].message
    assert "may be chance" not in decided(Rule(), auc=changed(0.01, 0.005, 0.04)).checks[0].message


def sliced(gain: float, low: float, high: float) -> SliceDifference:
    return SliceDifference(column="a", name="a = 1", rows=50, **changed(gain, low, high).model_dump())


@pytest.mark.parametrize(
    ("slice_", "outcome"), [(sliced(-0.2, -0.3, -0.1), "fail"), (sliced(-0.2, -0.5, 0.1), "warn"), (sliced(-0.05, -0.3, -0.01), "pass")]
)
def test_a_slice_that_surely_loses_fails_and_one_that_may_lose_warns(slice_, outcome):
    assert decided(Rule(max_slice_loss=0.1), [slice_], auc=0.1).outcome == outcome


def test_a_slice_that_loses_is_found_in_real_rows(make_model, tmp_path, flights):
    # On these rows the carrier UA is late just when the champion says so, and never when the challenger does.
    new, old = Contender(make_model(tmp_path / "a", bias=-2.0), 0.5), Contender(make_model(tmp_path / "b", bias=2.0), 0.5)
    rows = flights.with_columns(late=pl.when(pl.col("carrier") == "UA").then(True).otherwise(False))
    test = DatasetFolder.write(tmp_path / "slanted", rows.lazy(), source="flights")
    found = started(new, Rule(metric="log_loss", max_slice_loss=0.1, slice_columns=["carrier"]), "log_loss")
    compare(found, new, old, test)
    failed = {check.name for check in found.failed()}
    assert "max_slice_loss: carrier = UA" in failed
    assert found.slices[0].name == "carrier = UA"
    assert found.slices[0].rows == rows["late"].sum()
    assert found.slices[0].high < 0
    page = make_page(found, None).html()
    assert "carrier = UA" in page


def by_group(folder: ModelFolder, column: str) -> ModelFolder:
    fields = [*folder.contract.fields, FieldSpec(name=column, type="integer", role="group")]
    return ModelFolder(folder.path, folder.contract.model_copy(update={"fields": fields}), folder.record, {"model.onnx": "0"})


def test_slices_take_the_rows_of_a_group_together(make_model, tmp_path, flights):
    # Each row ten times: with the copies as one group an interval is as wide as without them, else a third of it.
    new, old = make_model(tmp_path / "a", bias=-0.5), make_model(tmp_path / "b", bias=-1.0)
    rule = Rule(metric="log_loss", max_slice_loss=1e-6, slice_columns=["origin"])
    once = flights.filter("late").head(300).with_row_index("flight")
    widths = {}
    for name, rows, challenger in [
        ("once", once, old),
        ("alone", pl.concat([once] * 10), old),
        ("grouped", pl.concat([once] * 10), by_group(old, "flight")),
    ]:
        found = started(Contender(challenger, 0.5), rule, "log_loss")
        compare(found, Contender(challenger, 0.5), Contender(new, 0.5), DatasetFolder.write(tmp_path / name, rows.lazy(), source="flights"))
        widths[name] = {each.name: each.high - each.low for each in found.slices if each.column == "origin"}
        assert any("rows of a group together" in note for note in found.notes) == (name == "grouped")
    for name, width in widths["once"].items():
        assert widths["grouped"][name] == pytest.approx(width, rel=0.3)
        assert widths["alone"][name] < width / 2


def test_slices_that_cannot_be_compared_are_counted(contenders, flights, tmp_path):
    # By the carrier: some have one class alone, and some fewer than 30 rows.
    new, old = contenders
    rows = flights.head(2000).with_columns(late=pl.col("late") & (pl.col("carrier") == "UA"))
    test = DatasetFolder.write(tmp_path / "one_class", rows.lazy(), source="flights")
    found = started(new, Rule(max_slice_loss=0.5, slice_columns=["carrier"]))
    scored = compare(found, new, old, test)
    undefined = sum(each.gain is None for each in found.slices)
    assert min(undefined, found.slices_left_out) > 0
    said = (
        f"Slices on which it is not defined, as when all rows are of one class: {undefined}. Slices with fewer than 30 rows: {found.slices_left_out}."
    )
    assert said in found.checks[-1].message
    assert said in make_page(found, scored).html()


def test_guarded_slices_of_which_none_can_be_judged_warn():
    check = decided(Rule(max_slice_loss=0.1), auc=0.1).checks[-1]
    assert (check.outcome, check.message) == ("warn", "No slice could be judged.")


def other(folder: ModelFolder, labels=None, task=None, target=None) -> Contender:
    record = folder.record.model_copy(update={k: v for k, v in {"labels": labels, "task": task, "target": target}.items() if v is not None})
    return Contender(ModelFolder(folder.path, folder.contract, record, {"model.onnx": "0"}), 0.5)


@pytest.mark.parametrize("outcome", ["fail", "warn"])
@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"task": Task.REGRESSION}, "the champion's task is regression, the challenger's binary"),
        ({"target": "delay"}, "the champion predicts 'delay', the challenger 'late'"),
        ({"labels": [True, False]}, "the champion's labels are [True, False], the challenger's [False, True]"),
    ],
)
def test_what_cannot_be_compared_has_the_outcome_that_the_rule_declares(contenders, test_rows, difference, reason, outcome):
    new, old = contenders
    found = started(new, Rule(on_incomparable=outcome))
    assert compare(found, new, other(old.model, **difference), test_rows) is None
    assert found.outcome == outcome
    assert reason in found.reason
    assert "on_incomparable=warn" in found.checks[0].message


def test_a_champion_whose_columns_are_gone_is_named_with_them(contenders, flights, tmp_path):
    new, old = contenders
    slim = new.model.contract.model_copy(update={"fields": [f for f in new.model.contract.fields if f.name not in ("temp", "dewp")]})
    challenger = Contender(ModelFolder(new.model.path, slim, new.model.record, {"model.onnx": "0"}), 0.5)
    test = DatasetFolder.write(tmp_path / "slim", flights.drop("temp", "dewp").lazy(), source="flights")
    found = started(new, Rule())
    compare(found, challenger, old, test)
    assert found.outcome == "fail"
    assert "the champion needs columns that this table lacks: temp, dewp" in found.reason


def test_rows_of_one_class_cannot_decide_on_auc_and_say_so(contenders, flights, tmp_path):
    new, old = contenders
    test = DatasetFolder.write(tmp_path / "late", flights.filter("late").lazy(), source="flights")
    found = started(new, Rule())
    compare(found, new, old, test)
    assert found.outcome == "fail"
    assert "AUC is not defined on these rows" in found.reason
    by_loss = started(new, Rule(metric="log_loss"), "log_loss")
    compare(by_loss, new, old, test)
    assert by_loss.differences["log_loss"].gain is not None


@pytest.mark.parametrize("rows", [1, 10])
def test_a_handful_of_rows_is_compared(contenders, flights, tmp_path, rows):
    new, old = contenders
    test = DatasetFolder.write(tmp_path / "few", flights.tail(rows).lazy(), source="flights")
    found = started(new, Rule(metric="brier"), "brier")
    assert compare(found, new, old, test) is not None
    assert found.rows == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"max_loss": {"f1": -0.1}}, "max_loss of f1 is -0.1, give a number of 0 or more"),
        ({"max_slice_loss": -1.0}, "max_slice_loss is -1.0, give a number of 0 or more"),
        ({"min_gain": float("nan")}, "min_gain is nan, give a finite number"),
        ({"on_incomparable": "pass"}, "on_incomparable: Input should be 'fail' or 'warn'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(words, message):
    given = {"metric": "auto", "min_gain": 0.0, "max_loss": {}, "slice_columns": [], "max_slice_loss": 0.0, "on_incomparable": "fail"}
    with pytest.raises(UserError, match=message):
        make_rule(**given | words)


@pytest.mark.parametrize("rule", [Rule(metric="roc_auc"), Rule(max_loss={"roc_auc": 0.1})])
def test_an_unknown_metric_is_refused_before_anything_is_fetched(make_model, tmp_path, run, rule):
    with pytest.raises(UserError, match="compare_models: 'roc_auc' is no metric of a binary model; "):
        run(make_model(tmp_path / "new"), rule)


def test_a_champion_with_a_changed_byte_is_refused(make_model, tmp_path, run):
    champion = make_model(tmp_path / "old", bias=1.0)
    crown(champion)
    graph = champion.path / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"model\.onnx: digest mismatch"):
        run(make_model(tmp_path / "new"), Rule())


def test_the_same_inputs_give_the_same_bytes(contenders, test_rows):
    new, old = contenders
    written = []
    for _ in range(2):
        found = started(new, Rule(max_slice_loss=0.001))
        scored = compare(found, new, old, test_rows)
        written.append((found.model_dump_json(), make_page(found, scored).html()))
    assert written[0] == written[1]
