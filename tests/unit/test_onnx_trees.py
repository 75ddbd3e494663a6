"""trees: a graph of trees gives what the library gives, for random data, categories, gaps and shapes of trees."""

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from kfp_foundry.components.common.artifacts.model import open_session
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.onnx import hist_gradient_trees, lightgbm_trees
from kfp_foundry.components.common.onnx.graph import DOUBLE, Graph
from kfp_foundry.components.common.onnx.trees import Forest, Leaf, Split, steps

LIGHT = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 2, "min_data_per_group": 2, "deterministic": True, "force_row_wise": True}


def scores(emit, matrix, targets=1):
    """What a graph makes of a matrix that it is fed column by column."""
    names = [f"c{i}" for i in range(matrix.shape[1])]
    graph = Graph(names)
    columns = graph.beside([graph.column(graph.input(name, DOUBLE)) for name in names])
    flat = graph.output(graph.op("Reshape", emit(graph, columns), graph.integers([-1])), "flat", DOUBLE)
    found = open_session(graph.model().SerializeToString()).run([flat], dict(zip(names, matrix.T.copy(), strict=True)))[0]
    return found.reshape(len(matrix), targets)


def of_lightgbm(booster):
    return lambda graph, matrix: lightgbm_trees.forest(booster.dump_model()).emit(graph, matrix, booster.num_model_per_iteration())


def of_hgb(model):
    baseline = model._baseline_prediction.reshape(-1)
    return lambda graph, matrix: hist_gradient_trees.emit(graph, matrix, model._predictors, baseline)


def data(seed, rows=300, gaps=0.2, categories=12):
    """A categorical column, two of numbers with and without gaps, and one of huge whole numbers."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, categories, rows).astype(float)
    number = rng.normal(size=rows) * 10.0 ** rng.integers(-3, 4)
    holes = np.where(rng.random(rows) < gaps, np.nan, rng.normal(size=rows))
    epoch = 1.36e9 + rng.integers(0, 10_000, rows) * 60.0
    matrix = np.column_stack([code, number, holes, epoch])
    target = np.nan_to_num(holes) + (code % 3) + np.sin(epoch) + number / 100 + rng.normal(size=rows) / 5
    return matrix, target


def probes(matrix, seed):
    """Rows beside the data: gaps everywhere, unseen categories, values on both sides of each other, and the ends of float64."""
    rng = np.random.default_rng(seed)
    rows = matrix[rng.integers(0, len(matrix), 400)].copy()
    rows[:100][rng.random((100, 4)) < 0.4] = np.nan
    rows[100:150, 0] = 99.0
    rows[150:200, 1] = rng.choice([0.0, -0.0, 1e-300, 1e308, -1e308, np.inf, -np.inf], 50)
    rows[200:300, 1:] = np.nextafter(rows[200:300, 1:], np.inf)
    return np.vstack([rows, np.full((1, 4), np.nan)])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), gaps=st.sampled_from([0.0, 0.3, 1.0]), categories=st.sampled_from([2, 12, 80]))
def test_lightgbm_with_categories_and_gaps(seed, gaps, categories):
    matrix, target = data(seed, gaps=gaps, categories=categories)
    booster = lgb.train({**LIGHT, "objective": "regression", "seed": seed}, lgb.Dataset(matrix, target, categorical_feature=[0]), 12)
    rows = probes(matrix, seed)
    np.testing.assert_allclose(scores(of_lightgbm(booster), rows)[:, 0], booster.predict(rows), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000), gaps=st.sampled_from([0.0, 0.3, 0.9]), categories=st.sampled_from([2, 12, 80]))
def test_hist_gradient_boosting_with_categories_and_gaps(seed, gaps, categories):
    matrix, target = data(seed, gaps=gaps, categories=categories)
    matrix[:categories, 0] = np.arange(categories)  # codes without gaps, as the encoding makes them
    model = HistGradientBoostingRegressor(max_iter=10, categorical_features=[True, False, False, False], early_stopping=False, min_samples_leaf=3)
    with threadpool_limits(1):  # for so few rows, threads cost more than they give
        model.fit(matrix, target)
    rows = probes(matrix, seed)
    rows[rows[:, 0] == 99.0, 0] = np.nan  # unseen without a code for it
    np.testing.assert_allclose(scores(of_hgb(model), rows)[:, 0], model.predict(rows), rtol=0, atol=1e-12)


def test_lightgbm_of_three_classes_adds_each_tree_to_its_class():
    matrix, target = data(1)
    classes = np.digitize(target, np.quantile(target, [0.3, 0.7]))
    booster = lgb.train({**LIGHT, "objective": "multiclass", "num_class": 3}, lgb.Dataset(matrix, classes, categorical_feature=[0]), 10)
    rows = probes(matrix, 1)
    np.testing.assert_allclose(scores(of_lightgbm(booster), rows, 3), booster.predict(rows, raw_score=True), rtol=0, atol=1e-12)


def test_hist_gradient_boosting_of_three_classes_adds_each_tree_to_its_class():
    matrix, target = data(1)
    classes = np.digitize(target, np.quantile(target, [0.3, 0.7]))
    model = HistGradientBoostingClassifier(max_iter=10, early_stopping=False).fit(matrix, classes)
    rows = probes(matrix, 1)
    np.testing.assert_allclose(scores(of_hgb(model), rows, 3), model.decision_function(rows), rtol=0, atol=1e-12)


def test_the_split_between_numbers_and_gaps_holds_for_the_largest_numbers():
    # LightGBM's dump writes this threshold, infinity, as 1e300.
    rng = np.random.default_rng(0)
    column = np.where(rng.random(500) < 0.3, np.nan, rng.normal(size=500))
    matrix = np.column_stack([column, rng.normal(size=500)])
    booster = lgb.train({**LIGHT, "objective": "regression"}, lgb.Dataset(matrix, np.isnan(column).astype(float)), 2)
    rows = np.array([[1e299, 0.0], [1e301, 0.0], [1e308, 0.0], [np.inf, 0.0], [np.nan, 0.0]])
    np.testing.assert_array_equal(scores(of_lightgbm(booster), rows)[:, 0], booster.predict(rows))


def test_a_target_that_nothing_explains_gives_trees_of_one_leaf():
    matrix = np.zeros((50, 2))
    booster = lgb.train({**LIGHT, "objective": "regression"}, lgb.Dataset(matrix, np.arange(50.0)), 3)
    np.testing.assert_allclose(scores(of_lightgbm(booster), matrix)[:, 0], booster.predict(matrix), rtol=0, atol=1e-12)


def test_a_model_without_rounds_gives_its_baseline():
    matrix, target = data(1)
    model = HistGradientBoostingRegressor(max_iter=1, early_stopping=False).fit(matrix, target)
    model._predictors = []
    np.testing.assert_allclose(scores(of_hgb(model), matrix)[:, 0], np.full(len(matrix), target.mean()), rtol=0, atol=1e-12)


def test_a_tree_as_deep_as_a_chain_of_thousands_is_no_problem():
    forest = Forest()
    forest.add(
        0, lambda depth: Leaf(float(depth)) if depth < 0 or depth == 3000 else (Split(0, False, threshold=float(depth)), -depth - 1, depth + 1)
    )
    found = scores(lambda graph, matrix: forest.emit(graph, matrix, 1), np.array([[-1.0], [1500.0], [9999.0]]))[:, 0]
    assert found.tolist() == [-1.0, -1501.0, 3000.0]


@pytest.mark.parametrize("knots", [[0.0], [0.0, 1.0, 2.5], list(np.linspace(-3, 3, 1000))])
def test_steps_count_the_knots_below_a_value(knots):
    values = np.concatenate([knots, np.nextafter(knots, np.inf), [-1e9, 1e9]])
    found = scores(lambda graph, matrix: steps(knots).emit(graph, matrix, 1), values[:, None])[:, 0]
    np.testing.assert_array_equal(found, np.searchsorted(knots, values, side="left"))


@pytest.mark.parametrize("params", [{"zero_as_missing": True}, {"linear_tree": True}])
def test_what_has_no_exact_form_is_refused(params):
    matrix, target = data(1, gaps=0.0)
    booster = lgb.train({**LIGHT, "objective": "regression", **params}, lgb.Dataset(matrix[:, 1:], target, params=params), 3)
    with pytest.raises(UserError, match=f"{next(iter(params))} has no exact form in ONNX"):
        lightgbm_trees.forest(booster.dump_model())


def test_equal_trees_are_equal_bytes():
    matrix, target = data(1)
    booster = lgb.train({**LIGHT, "objective": "regression"}, lgb.Dataset(matrix, target, categorical_feature=[0]), 5)

    def build():
        graph = Graph(["c"])
        graph.output(graph.vector(of_lightgbm(booster)(graph, graph.beside([graph.column(graph.input("c", DOUBLE))] * 4))), "out", DOUBLE)
        return graph.model().SerializeToString(deterministic=True)

    assert build() == build()
