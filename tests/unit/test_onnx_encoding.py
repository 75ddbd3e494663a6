"""encoding: raw columns become the same matrix in numpy and in the graph, whatever they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfp_foundry.components.common.artifacts.model import open_session
from kfp_foundry.components.common.onnx.encoding import Category, Plan, Scaling
from kfp_foundry.components.common.onnx.graph import DOUBLE, Graph

CITY = Category(name="city", codes={"": 0, "Paris": 1, "Ulm": 2}, other=3)
TREES = Plan(categories=[CITY], numbers=["age"], moments={"seen": ["year", "month", "hour"]})
LINEAR = TREES.model_copy(
    update={"one_hot": True, "scaling": Scaling(fill=[40.0, 2000.0], mean=[41.0, 2010.0], scale=[2.0, 10.0], flags=[0])},
)
INPUTS = ["age", "city", "seen"]


def feed(city=("Ulm",), age=(41.0,), seen=(0.0,)):
    return {"city": np.array(city, dtype=object), "age": np.array(age), "seen": np.array(seen)}


def by_graph(plan, rows):
    graph = Graph(INPUTS)
    matrix = plan.emit(graph, INPUTS)
    flat = graph.output(graph.op("Reshape", matrix, graph.integers([-1])), "flat", DOUBLE)
    return open_session(graph.model().SerializeToString()).run([flat], rows)[0].reshape(len(rows["age"]), -1)


@pytest.mark.parametrize("plan", [TREES, LINEAR], ids=["trees", "linear"])
@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", "Paris", "Ulm", "None", "nan", "<NA>", "Rome", "ulm ", "\u2603"]),
            st.floats(allow_nan=True, allow_infinity=True),
            st.one_of(st.floats(-1e13, 1e13), st.just(np.nan), st.just(-np.inf), st.just(1e308)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_numpy_and_graph_give_the_same_matrix(plan, rows):
    arrays = feed(*zip(*rows, strict=True))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(by_graph(plan, arrays), plan.matrix(arrays))


@pytest.mark.parametrize(
    ("text", "code"),
    [("Ulm", 2), ("", 0), ("None", 0), ("nan", 0), ("<NA>", 0), ("Rome", 3)],
)
def test_a_text_has_its_code_and_an_unseen_one_that_of_other(text, code):
    assert CITY.encode(np.array([text], dtype=object)).tolist() == [code]


def test_a_text_that_means_missing_is_a_category_where_training_held_it():
    cellar = Category(name="cellar", codes={"Full": 0, "None": 1}, other=None)
    np.testing.assert_array_equal(cellar.encode(np.array(["None", "nan", "", "Half"], dtype=object)), [1, np.nan, np.nan, np.nan])


def test_infinities_and_dates_out_of_range_are_missing():
    matrix = TREES.matrix(feed(city=("Ulm", "Ulm"), age=(np.inf, -np.inf), seen=(1e15, np.nan)))
    assert np.isnan(matrix[:, 1:]).all()


def test_every_column_of_the_matrix_has_a_name_and_a_source():
    for plan in (TREES, LINEAR):
        width = plan.matrix(feed()).shape[1]
        assert len(plan.columns) == len(plan.sources) == width
    assert TREES.columns == ["city", "age", "year of seen", "month of seen", "hour of seen"]
    assert LINEAR.columns[:4] == ["city=(missing)", "city=Paris", "city=Ulm", "city=(other)"]
    assert LINEAR.columns[-3:] == ["age", "year of seen", "age is missing"]


def test_a_linear_matrix_is_filled_standardised_and_bounded():
    numbers = LINEAR.matrix(feed(city=("", "", ""), age=(np.nan, 43.0, 1e300), seen=(0.0, 0.0, 0.0)))[:, -3:]
    np.testing.assert_array_equal(numbers, [[-0.5, -4.0, 1.0], [1.0, -4.0, 0.0], [1e6, -4.0, 0.0]])
