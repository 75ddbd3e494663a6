"""Metrics agree with scikit-learn, intervals with the spread they estimate, curves and slices with a plain count."""

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.metrics import analytic, bootstrap, catalogue, curves
from kfp_foundry.components.common.metrics.scores import BinaryScores, MulticlassScores, RegressionScores
from kfp_foundry.components.common.metrics.slices import make_cuts, parts_of


def binary(rows=2000, seed=0, ties=True, weighted=True, threshold=0.4):
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < 0.3
    probability = np.clip(rng.beta(2, 4, rows) + 0.2 * truth, 0, 1)
    if ties:
        probability = probability.round(2)
    return BinaryScores(truth, probability, threshold, rng.integers(0, 4, rows).astype(float) if weighted else None)


def multiclass(rows=1500, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[truth]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return MulticlassScores(truth, probability, weights=rng.random(rows))


def regression(rows=1500, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(50, 10, rows)
    return RegressionScores(truth, truth + rng.normal(0.5, 2, rows), rng.random(rows))


def first(scores, counts=None):
    return {name: values[0] for name, values in scores.metrics(counts).items()}


def expected_binary(truth, p, threshold, w):
    predicted = p >= threshold
    return {
        "auc": sk.roc_auc_score(truth, p, sample_weight=w),
        "average_precision": sk.average_precision_score(truth, p, sample_weight=w),
        "log_loss": sk.log_loss(truth, p, sample_weight=w),
        "brier": sk.brier_score_loss(truth, p, sample_weight=w),
        "accuracy": sk.accuracy_score(truth, predicted, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted, sample_weight=w),
        "f1": sk.f1_score(truth, predicted, sample_weight=w),
        "precision": sk.precision_score(truth, predicted, sample_weight=w),
        "recall": sk.recall_score(truth, predicted, sample_weight=w),
        "mcc": sk.matthews_corrcoef(truth, predicted, sample_weight=w),
    }


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_binary_metrics_are_those_of_scikit_learn(ties, weighted):
    scores = binary(ties=ties, weighted=weighted)
    found = first(scores)
    for name, value in expected_binary(scores.truth, scores.probability, 0.4, scores.weights).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_the_calibration_error_is_the_one_of_a_plain_loop():
    scores = binary(rows=500)
    edges, total, error = np.linspace(0, 1, 16), scores.weights.sum(), 0.0
    for i in range(15):
        inside = (scores.probability >= edges[i]) & ((scores.probability < edges[i + 1]) | (i == 14))
        error += abs((scores.weights * (scores.probability - scores.truth))[inside].sum()) / total
    assert first(scores)["ece"] == pytest.approx(error, abs=1e-12)


def test_multiclass_metrics_are_those_of_scikit_learn():
    scores = multiclass()
    t, p, w, k = scores.truth, scores.probability, scores.weights, scores.predicted
    expected = {
        "accuracy": sk.accuracy_score(t, k, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(t, k, sample_weight=w),
        "f1_macro": sk.f1_score(t, k, average="macro", sample_weight=w),
        "f1_weighted": sk.f1_score(t, k, average="weighted", sample_weight=w),
        "log_loss": sk.log_loss(t, p, sample_weight=w),
        "auc_ovr": np.mean([sk.roc_auc_score(t == c, p[:, c], sample_weight=w) for c in range(4)]),
        "top_2": sk.top_k_accuracy_score(t, p, k=2, sample_weight=w),
        "top_3": sk.top_k_accuracy_score(t, p, k=3, sample_weight=w),
    }
    assert first(scores) == pytest.approx(expected, abs=1e-12)


def test_regression_metrics_are_those_of_scikit_learn():
    scores = regression()
    t, p, w = scores.truth, scores.predicted, scores.weights
    expected = {
        "rmse": sk.root_mean_squared_error(t, p, sample_weight=w),
        "mae": sk.mean_absolute_error(t, p, sample_weight=w),
        "r2": sk.r2_score(t, p, sample_weight=w),
        "mape": sk.mean_absolute_percentage_error(t, p, sample_weight=w),
        "bias": np.average(p - t, weights=w),
    }
    found = first(scores)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rows", [4, 5])
def test_the_median_error_without_weights_is_the_usual_median(rows):
    scores = RegressionScores(np.zeros(rows), np.arange(rows, dtype=float) ** 2)
    assert first(scores)["medae"] == np.median(np.arange(rows) ** 2)


def test_mape_is_left_out_where_a_true_value_is_zero():
    assert "mape" not in RegressionScores(np.array([0.0, 1.0]), np.array([1.0, 1.0])).metrics()


@pytest.mark.parametrize("scores", [binary(300), multiclass(300), regression(300)], ids=["binary", "multiclass", "regression"])
def test_counting_a_row_twice_is_having_it_twice(scores):
    counts = np.random.default_rng(1).integers(0, 4, len(scores)).astype(float)
    counts[0] = 1  # the regression's centre and the class list do not depend on which rows are left
    repeated = scores.take(np.repeat(np.arange(len(scores)), counts.astype(int)))
    several = scores.metrics(np.stack([np.ones(len(scores)), counts]))
    assert {name: values[1] for name, values in several.items()} == pytest.approx(first(repeated), abs=1e-10)
    assert {name: values[0] for name, values in several.items()} == pytest.approx(first(scores), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 3)), min_size=2, max_size=30))
def test_any_few_rows_agree_with_scikit_learn(rows):
    truth = np.array([row[0] for row in rows])
    if truth.all() or not truth.any():
        return
    p, w = np.array([row[1] / 5 for row in rows]), np.array([float(row[2]) for row in rows])
    found = first(BinaryScores(truth, p, 0.4, w))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = expected_binary(truth, p, 0.4, w)
    for name in ("auc", "average_precision", "log_loss", "brier", "accuracy", "recall", "balanced_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_a_model_that_predicts_all_rows_alike_has_no_correlation_and_no_precision():
    found = first(BinaryScores(np.array([True, False, False]), np.array([0.1, 0.2, 0.3]), 0.5))
    assert (found["mcc"], found["f1"], found["recall"]) == (0.0, 0.0, 0.0)
    assert np.isnan(found["precision"])


def test_what_one_class_cannot_tell_is_undefined_and_the_rest_is_not():
    found = first(BinaryScores(np.zeros(5, dtype=bool), np.linspace(0.1, 0.3, 5), 0.5))
    assert np.isnan([found["auc"], found["recall"], found["balanced_accuracy"], found["mcc"]]).all()
    assert found["accuracy"] == 1.0
    assert np.isfinite([found["log_loss"], found["brier"], found["ece"]]).all()


@pytest.mark.parametrize(
    "scores",
    [
        BinaryScores(np.zeros(0, dtype=bool), np.zeros(0)),
        MulticlassScores(np.zeros(0, dtype=np.int64), np.zeros((0, 3))),
        RegressionScores(np.zeros(0), np.zeros(0)),
    ],
    ids=["binary", "multiclass", "regression"],
)
def test_no_rows_have_no_metric(scores):
    assert np.isnan(list(first(scores).values())).all()


def test_an_interval_is_as_wide_as_the_mean_it_is_about():
    scores = binary(4000, weighted=False)
    found = bootstrap.estimates(bootstrap.replicate([scores], seed=7, rounds=600))["brier"]
    spread = ((scores.probability - scores.truth) ** 2).std() / 4000**0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.12)


def test_an_interval_from_a_sample_is_as_wide_as_from_all_rows(monkeypatch):
    scores = binary(20_000, weighted=False, ties=False)
    whole = bootstrap.estimates(bootstrap.replicate([scores], seed=7, rounds=400))["auc"]
    monkeypatch.setattr(bootstrap, "SAMPLE", 4000)
    sampled = bootstrap.estimates(bootstrap.replicate([scores], seed=7, rounds=400))["auc"]
    assert sampled.value == whole.value
    assert sampled.high - sampled.low == pytest.approx(whole.high - whole.low, rel=0.2)


def test_rows_of_a_group_are_drawn_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 20)
    scores = RegressionScores(np.zeros(2000), np.repeat(rng.normal(size=100), 20) + 0.1 * rng.normal(size=2000))
    alone = bootstrap.estimates(bootstrap.replicate([scores], seed=7))["bias"]
    together = bootstrap.estimates(bootstrap.replicate([scores], seed=7, groups=groups))["bias"]
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(20**0.5, rel=0.25)


def test_the_same_seed_gives_the_same_interval():
    first_draw, again, other = (bootstrap.estimates(bootstrap.replicate([binary(500)], seed=seed))["auc"] for seed in (7, 7, 8))
    assert first_draw == again != other


def test_two_models_are_drawn_the_same_rows():
    scores = binary(500)
    drawn = bootstrap.replicate([scores, scores.take(np.arange(500))], seed=7)
    assert np.array_equal(drawn.draws[0]["auc"], drawn.draws[1]["auc"])


def test_the_closed_interval_of_the_auc_agrees_with_the_bootstrap():
    scores = binary(3000, weighted=False)
    closed = analytic.primary(scores)
    drawn = bootstrap.estimates(bootstrap.replicate([scores], seed=7, rounds=600))["auc"]
    assert closed.value == pytest.approx(drawn.value, abs=1e-12)
    assert closed.high - closed.low == pytest.approx(drawn.high - drawn.low, rel=0.1)


@pytest.mark.parametrize(("scores", "name"), [(multiclass(3000), "log_loss"), (regression(3000), "rmse")], ids=["log_loss", "rmse"])
def test_the_closed_interval_of_a_loss_agrees_with_the_bootstrap(scores, name):
    closed = analytic.primary(scores)
    drawn = bootstrap.estimates(bootstrap.replicate([scores], seed=7, rounds=600))[name]
    assert closed.value == pytest.approx(drawn.value, abs=1e-12)
    assert closed.high - closed.low == pytest.approx(drawn.high - drawn.low, rel=0.12)


def test_the_closed_interval_of_an_auc_holds_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = np.arange(120) < 40
        found = analytic.primary(BinaryScores(truth, 1 / (1 + np.exp(-rng.normal(size=120) - truth))))
        inside += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt 2)
    assert 0.90 <= inside / 200 <= 0.99


def test_a_perfect_slice_and_a_tiny_one_have_intervals_that_do_not_crash():
    perfect = analytic.primary(BinaryScores(np.arange(20) < 10, np.linspace(1, 0, 20)))
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 1.0, 1.0)
    assert analytic.primary(BinaryScores(np.array([True, False]), np.array([0.2, 0.8]))) == bootstrap.Estimate(0.0)
    assert analytic.primary(BinaryScores(np.array([True, True]), np.array([0.2, 0.8]))) == bootstrap.Estimate(None)


def test_the_closed_interval_of_grouped_rows_agrees_with_the_bootstrap_of_whole_groups():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(150), 8)
    leaning = rng.normal(size=150)[groups]  # what the rows of a group share
    truth = rng.random(len(groups)) < 1 / (1 + np.exp(-leaning))
    many = [
        BinaryScores(truth, 1 / (1 + np.exp(-rng.normal(size=len(groups)) - 0.7 * leaning))),
        RegressionScores(leaning + rng.normal(size=len(groups)), np.zeros(len(groups)), rng.uniform(0.5, 2, len(groups))),
    ]
    for scores, name in zip(many, ("auc", "rmse"), strict=True):
        drawn = bootstrap.estimates(bootstrap.replicate([scores], 7, groups, rounds=1000))[name]
        closed, alone = analytic.primary(scores, groups=groups), analytic.primary(scores)
        assert closed.high - closed.low == pytest.approx(drawn.high - drawn.low, rel=0.15)
        assert closed.high - closed.low > 1.2 * (alone.high - alone.low)
        assert closed.value == alone.value


def test_rows_of_two_groups_give_no_interval():
    scores = RegressionScores(np.arange(40.0), np.zeros(40))
    assert analytic.primary(scores, groups=np.arange(40) % 2).low is None


def test_each_row_as_its_own_group_is_as_without_groups():
    rng = np.random.default_rng(2)
    scores = RegressionScores(rng.normal(size=90), np.zeros(90))
    assert analytic.primary(scores, groups=np.arange(90)).high == pytest.approx(analytic.primary(scores).high)


def test_the_roc_curve_is_short_finite_and_has_the_area_of_the_auc():
    scores = binary(5000, ties=False, weighted=False)
    curve = curves.roc(scores)
    assert len(curve.x) <= 100
    assert np.isfinite(curve.at).all()
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(first(scores)["auc"], abs=2e-3)


def test_each_point_of_a_curve_is_what_its_threshold_does():
    scores = binary(300)
    for curve, across, up in ((curves.roc(scores), "fpr", "tpr"), (curves.precision_recall(scores), "tpr", "precision")):
        for x, y, at in list(zip(curve.x, curve.y, curve.at, strict=True))[1:]:
            chosen = scores.probability >= at
            tp, fp = (scores.weights * scores.truth)[chosen].sum(), (scores.weights * ~scores.truth)[chosen].sum()
            rates = {"fpr": fp / scores.weights[~scores.truth].sum(), "tpr": tp / scores.weights[scores.truth].sum(), "precision": tp / (tp + fp)}
            assert (x, y) == pytest.approx((rates[across], rates[up]), abs=1e-9)


def test_lift_is_gain_over_share_and_ends_at_chance():
    scores = binary(2000)
    gained, lifted = curves.gain(scores), curves.lift(scores)
    assert lifted.y[-1] == pytest.approx(1.0)
    assert lifted.y[5] == pytest.approx(gained.y[gained.x.index(lifted.x[5])] / lifted.x[5])


def test_calibration_bins_hold_equally_many_rows():
    scores = BinaryScores(np.arange(100) % 4 == 0, np.linspace(0, 1, 100))
    curve = curves.calibration(scores)
    assert len(curve.x) == 10
    assert curve.x[0] == pytest.approx(scores.probability[:10].mean())
    assert curve.y[0] == pytest.approx(scores.truth[:10].mean())


def test_curves_of_one_class_are_empty():
    scores = BinaryScores(np.zeros(5, dtype=bool), np.linspace(0, 1, 5))
    assert curves.roc(scores).x == curves.precision_recall(scores).x == curves.gain(scores).x == curves.lift(scores).x == []


@pytest.mark.parametrize(("name", "new", "old", "gain"), [("auc", 0.8, 0.7, 0.1), ("log_loss", 0.4, 0.5, 0.1), ("brier", 0.2, 0.1, -0.1)])
def test_a_gain_is_better_by_whichever_direction_the_metric_has(name, new, old, gain):
    assert float(catalogue.metric(Task.BINARY, name).gain(new, old)) == pytest.approx(gain)


def test_a_bias_gains_by_coming_nearer_to_zero():
    assert float(catalogue.metric(Task.REGRESSION, "bias").gain(0.5, -2.0)) == 1.5


def test_an_unknown_metric_is_refused_with_the_close_names():
    with pytest.raises(UserError, match="'acc' is no metric of a binary model; "):
        catalogue.metric(Task.BINARY, "acc")
    assert catalogue.metric(Task.MULTICLASS, "auto").name == "log_loss"


def test_every_metric_that_is_computed_is_in_the_catalogue_and_the_other_way_round():
    for scores in (binary(100), multiclass(100), regression(100)):
        assert set(scores.metrics()) == {metric.name for metric in catalogue.METRICS[scores.task]}


def test_slices_are_the_values_of_categories_and_the_quantiles_of_numbers(flights, flights_contract):
    cuts = {cut.column: cut for cut in make_cuts(flights, flights_contract, [], {"carrier": 1.0, "temp": 0.5})}
    assert list(cuts)[:3] == ["time_hour", "carrier", "temp"]
    carrier = cuts["carrier"]
    for name in ("carrier = UA", "carrier = HA"):
        assert (carrier.codes == carrier.names.index(name)).sum() == (flights["carrier"] == name[-2:]).sum()
    sizes = np.bincount(cuts["temp"].codes)
    assert len(sizes) == len(cuts["temp"].names) == 5
    assert cuts["temp"].names[-1] == "temp: missing"
    assert sizes[-1] == flights["temp"].null_count()
    assert sizes[:4].min() > 0.2 * flights.height


def test_every_row_is_in_just_one_slice_of_a_column(flights, flights_contract):
    for cut in make_cuts(flights, flights_contract, ["tailnum"], {}):
        assert len(cut.codes) == flights.height
        assert set(np.unique(cut.codes)) <= set(range(len(cut.names)))


def test_a_column_asked_for_is_cut_whatever_it_is(flights, flights_contract):
    cuts = {cut.column: cut for cut in make_cuts(flights, flights_contract, ["tailnum"], {})}
    assert len(cuts["tailnum"].names) <= 22
    assert any("other value" in name for name in cuts["tailnum"].names)


def test_a_sensitive_column_is_cut_by_itself(flights, flights_contract):
    sensitive = flights_contract.with_role("origin", "sensitive")
    assert "origin" in [cut.column for cut in make_cuts(flights, sensitive, [], {})]


def test_a_slice_column_that_is_not_there_is_named_with_the_close_ones(flights, flights_contract):
    with pytest.raises(UserError, match="slice_columns: no column 'carier'; did you mean 'carrier'"):
        make_cuts(flights, flights_contract, ["carier"], {})


def test_the_same_rows_are_judged_once_and_small_slices_are_counted(flights_contract):
    flag = [i % 2 == 0 for i in range(100)]
    frame = pl.DataFrame({"carrier": ["A" if f else "B" for f in flag], "origin": ["X" if f else "Y" for f in flag], "dest": ["D"] * 98 + ["E"] * 2})
    parts, small = parts_of(make_cuts(frame, flights_contract, [], {}))
    assert [part.name for part in parts] == ["carrier = A (same rows: origin)", "carrier = B (same rows: origin)", "dest = D"]
    assert small == 1


@pytest.mark.parametrize(
    "values",
    [
        pl.Series("x", [None, None, 1.0, float("nan")]),
        pl.Series("x", [float("inf"), 1.0, 2.0, 3.0]),
        pl.Series("x", [1, 1, 1, 1]),
        pl.Series("x", [None] * 4, dtype=pl.String),
        pl.Series("x", [True, None, False, True]),
        pl.Series("x", [["a"], ["b"], None, []]),
    ],
)
def test_odd_columns_are_cut_or_passed_over(values, flights_contract):
    for cut in make_cuts(values.to_frame(), flights_contract, ["x"], {}):
        assert len(cut.codes) == 4
        assert cut.codes.max() < len(cut.names)
