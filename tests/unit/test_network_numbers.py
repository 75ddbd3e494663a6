"""Numbers are cut into intervals where the training rows are, and a position says all that the encoding does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfp_foundry.components.common.learning.network.numbers import Numbers, spread

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def fit(values, bins=4):
    column = np.array(values, dtype=np.float64)
    return Numbers.fit([column], [bool(np.isnan(column).any())], bins)


def test_a_value_fills_the_intervals_from_the_left():
    numbers = fit([0.0, 10.0, 20.0, 40.0, 40.0])
    assert numbers.intervals == [3]
    np.testing.assert_array_equal(numbers.positions(0, np.array([0.0, 5.0, 20.0, 30.0, 40.0])), [0.0, 0.5, 2.0, 2.5, 3.0])


def test_a_value_outside_counts_as_the_nearest_inside():
    np.testing.assert_array_equal(fit([1.0, 2.0]).positions(0, np.array([-1e308, 0.0, 3.0, 1e308])), [0.0, 0.0, 1.0, 1.0])


def test_many_values_are_cut_between_quantiles():
    numbers = fit(np.arange(1000.0), bins=4)
    np.testing.assert_allclose(numbers.edges[0], [0, 250, 500, 750, 999], atol=1)


def test_a_value_that_most_rows_share_makes_fewer_intervals_not_empty_ones():
    numbers = fit([0.0] * 900 + list(np.linspace(1, 9, 100)), bins=8)
    assert numbers.edges[0] == sorted(set(numbers.edges[0]))
    assert 1 <= numbers.intervals[0] < 8


def test_a_column_without_a_difference_is_no_input_of_the_network():
    numbers = fit([3.0, 3.0, np.nan])
    assert numbers.intervals == [0]
    assert numbers.width == len(numbers.flags) == 1
    np.testing.assert_array_equal(numbers.positions(0, np.array([3.0, 99.0, np.nan])), [0.0, 0.0, np.nan])


def test_a_column_without_a_value_is_no_input_either():
    numbers = fit([np.nan, np.nan])
    assert numbers.width == 0
    assert numbers.filled() == [0.0]


def test_missing_values_get_the_medians_position_and_a_flag():
    numbers = fit([1.0, 2.0, 3.0, np.nan])
    assert numbers.fills == [2.0]
    assert numbers.filled() == [1.0]
    assert numbers.flags == [0]


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, min_size=2, max_size=40), st.lists(finite, max_size=10), st.integers(1, 12))
def test_positions_rise_with_the_values_and_stay_among_the_intervals(train, more, bins):
    numbers = fit(train, bins)
    values = np.sort(np.array([*train, *more]))
    positions = numbers.positions(0, values)
    assert (np.diff(positions) >= 0).all()
    assert ((positions >= 0) & (positions <= numbers.intervals[0])).all()
    assert numbers.intervals[0] <= bins


@pytest.mark.parametrize("rows", [1, 10, 11, 1000])
def test_spread_rows_are_distinct_ordered_and_at_most_as_many_as_wanted(rows):
    chosen = spread(rows, 10)
    assert len(chosen) == min(rows, 10)
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < rows
