"""dates: the calendar of a graph, of numpy and of Polars is one."""

import datetime as dt

import numpy as np
import polars as pl

from kfp_foundry.components.common.artifacts.model import open_session
from kfp_foundry.components.common.onnx.dates import PARTS, parts
from kfp_foundry.components.common.onnx.graph import DOUBLE, Graph

# Every hour of 200 years would be 1.7 million rows; 5 h 13 min 7 s walks through all days, hours and seconds.
MOMENTS = pl.datetime_range(dt.datetime(1900, 1, 1), dt.datetime(2100, 12, 31, 23, 59, 59), interval="5h13m7s", eager=True)


def seconds(moments):
    return moments.dt.epoch("us").to_numpy() / 1e6


def by_graph(values):
    graph = Graph(["moment"])
    outputs = [graph.output(part.name, name, DOUBLE) for name, part in parts(graph.value(graph.input("moment", DOUBLE))).items()]
    return open_session(graph.model().SerializeToString()).run(outputs, {"moment": values})


def by_polars(moments):
    return [getattr(moments.dt, name)().cast(pl.Float64).to_numpy() for name in PARTS]


def test_numpy_agrees_with_polars_from_1900_to_2100():
    np.testing.assert_array_equal(list(parts(seconds(MOMENTS)).values()), by_polars(MOMENTS))


def test_the_graph_agrees_with_numpy_from_1900_to_2100():
    np.testing.assert_array_equal(by_graph(seconds(MOMENTS)), list(parts(seconds(MOMENTS)).values()))


def test_leap_days_and_the_last_microsecond_of_a_day_fall_where_they_belong():
    days = [(1900, 2, 28), (2000, 2, 29), (2024, 2, 29), (1969, 12, 31)]
    edges = pl.Series(
        [dt.datetime(y, m, d, 23, 59, 59, 999_999) for y, m, d in days] + [dt.datetime(1, 1, 1, 23, 59, 59), dt.datetime(9999, 12, 31, 23)]
    )
    np.testing.assert_array_equal(by_graph(seconds(edges)), by_polars(edges))


def test_a_missing_moment_has_missing_parts():
    assert np.isnan(by_graph(np.array([np.nan]))).all()
