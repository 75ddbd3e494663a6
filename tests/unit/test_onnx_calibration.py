"""calibration: one curve in numpy and in the graph, and frequencies that hold."""

import numpy as np
import pytest

from kfp_foundry.components.common.artifacts.model import open_session
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.learning import calibrate
from kfp_foundry.components.common.onnx.calibration import Isotonic
from kfp_foundry.components.common.onnx.graph import DOUBLE, Graph

rng = np.random.default_rng(7)
SCORES = rng.normal(size=4000)
TARGET = (rng.random(4000) < 1 / (1 + np.exp(-(0.5 * SCORES - 1)))).astype(np.int64)


def by_graph(calibrator, scores):
    graph = Graph(["score"])
    name = graph.output(calibrator.emit(graph, graph.input("score", DOUBLE)), "probability", DOUBLE)
    return open_session(graph.model().SerializeToString()).run([name], {"score": scores})[0]


@pytest.mark.parametrize("method", calibrate.METHODS)
def test_numpy_and_graph_give_the_same_probability(method):
    calibrator = calibrate.fit(method, SCORES, TARGET, None)
    knots = np.array(getattr(calibrator, "scores", [0.0]))
    scores = np.concatenate([SCORES, knots, np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf), [-1e9, 1e9, -np.inf, np.inf]])
    np.testing.assert_allclose(by_graph(calibrator, scores), calibrator.apply(scores), rtol=0, atol=1e-12)


def test_a_sigmoid_finds_the_curve_that_made_the_data():
    calibrator = calibrate.fit("sigmoid", SCORES, TARGET, None)
    assert calibrator.slope == pytest.approx(0.5, abs=0.12)
    assert calibrator.intercept == pytest.approx(-1, abs=0.12)


def test_isotonic_is_scikit_learns_own_interpolation():
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip").fit(SCORES, TARGET.astype(float))
    calibrator = calibrate.fit("isotonic", SCORES, TARGET, None)
    probes = rng.normal(size=1000) * 2
    np.testing.assert_allclose(calibrator.apply(probes), model.predict(probes), rtol=0, atol=1e-9)


def test_calibrated_probabilities_hold_as_frequencies():
    for method in calibrate.METHODS:
        probability = calibrate.fit(method, SCORES, TARGET, None).apply(SCORES)
        assert probability.mean() == pytest.approx(TARGET.mean(), abs=0.005)


def test_weights_count_as_rows_do():
    twice = np.where(TARGET == 1, 2.0, 1.0)
    rows = np.repeat(np.arange(4000), twice.astype(int))
    weighted = calibrate.fit("isotonic", SCORES, TARGET, twice).apply(SCORES)
    repeated = calibrate.fit("isotonic", SCORES[rows], TARGET[rows], None).apply(SCORES)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=1e-9)


def test_a_single_knot_is_a_constant():
    assert by_graph(Isotonic(scores=[1.0], probabilities=[0.25]), np.array([-5.0, 1.0, 9.0])).tolist() == [0.25] * 3


def test_refusals_say_what_is_wrong_and_what_to_do():
    with pytest.raises(UserError, match=r"calibration is 'sigmoyd'; did you mean 'sigmoid'\?"):
        calibrate.check("sigmoyd", Task.BINARY)
    with pytest.raises(UserError, match="but the task is regression; leave it empty"):
        calibrate.check("sigmoid", Task.REGRESSION)
    with pytest.raises(DataError, match="do not hold both classes; raise validation_share"):
        calibrate.fit("sigmoid", SCORES, np.zeros(4000, dtype=np.int64), None)
