"""parity: the gate sees what is wrong on broken rows only, and a wrong graph is not published."""

import numpy as np
import pytest

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.onnx import parity

HELD_OUT = {"city": np.array(["Ulm", "Rome", ""], dtype=object), "age": np.array([1.0, 2.0, np.nan])}


def honest(feed):
    age = np.nan_to_num(feed["age"], posinf=0.0, neginf=0.0)
    return np.where(feed["city"] == "Ulm", 0.25, 0.75) + np.where(age > 1e300, 0.1, 0.0), np.zeros(len(age))


def wrong_where(condition, by=1e-6):
    def answer(feed):
        values, labels = honest(feed)
        return np.where(condition(feed), values + by, values), labels

    return answer


def test_equal_forms_pass_and_are_counted():
    measured = parity.check(honest, honest, HELD_OUT)
    parity.refuse(measured)
    assert measured.max_difference == 0.0
    assert measured.kinds == {"held out": 3, "missing": 9, "unseen": 15, "extreme": 30}
    assert measured.rows == 57


@pytest.mark.parametrize(
    "condition",
    [
        lambda feed: feed["city"] == "Ulm",
        lambda feed: (feed["city"] == "") & np.isnan(feed["age"]),
        lambda feed: np.isin(feed["city"], ["", "Ulm", "Rome"], invert=True),
        lambda feed: feed["age"] == 1e308,
        lambda feed: np.isneginf(feed["age"]),
    ],
    ids=["held out", "all missing", "unseen category", "huge number", "infinity"],
)
def test_a_difference_on_one_kind_of_row_is_seen_and_refused(condition):
    measured = parity.check(honest, wrong_where(condition), HELD_OUT)
    assert measured.max_difference == pytest.approx(1e-6)
    with pytest.raises(FoundryError, match=r"parity gate: the ONNX graph is up to 1e-06 off the trained model.*the model is not published"):
        parity.refuse(measured)


def test_an_answer_that_is_no_number_is_a_difference():
    with pytest.raises(FoundryError, match="inf off"):
        parity.refuse(parity.check(honest, wrong_where(lambda feed: np.isnan(feed["age"]), by=np.nan), HELD_OUT))


def test_a_regressions_difference_is_in_units_of_its_target():
    wrong = wrong_where(lambda feed: feed["city"] == "Ulm")
    assert parity.check(honest, wrong, HELD_OUT, spread=1e4).max_difference == pytest.approx(1e-10)


def test_changed_labels_are_counted():
    assert parity.check(honest, lambda feed: (honest(feed)[0], np.ones(len(feed["age"]))), HELD_OUT).changed_labels == 57


def swapped(feed):
    values, labels = honest(feed)
    return values, 1 - labels


def test_swapped_labels_are_refused_though_every_value_is_right():
    measured = parity.check(honest, swapped, HELD_OUT)
    assert (measured.max_difference, measured.wrong_labels) == (0.0, 57)
    with pytest.raises(FoundryError, match=r"parity gate: the ONNX graph gives 57 of 57 rows another label than the trained model; the model is not"):
        parity.refuse(measured)


@pytest.mark.parametrize(("distance", "wrong"), [(0.9e-9, 0), (1.1e-9, 57)])
def test_a_label_may_differ_only_within_the_tolerance_of_the_cut(distance, wrong):
    def answer(label):
        return lambda feed: (np.full(len(feed["age"]), 0.5 - distance), np.full(len(feed["age"]), label))

    measured = parity.check(answer(0), answer(1), HELD_OUT)
    assert (measured.changed_labels, measured.wrong_labels) == (57, wrong)


@pytest.mark.parametrize(("label", "wrong"), [(1, 0), (2, 57), (parity.UNKNOWN, 57)])
def test_a_class_may_differ_only_from_one_that_is_as_probable(label, wrong):
    def answer(label):
        return lambda feed: (np.tile([0.4, 0.4 - 1e-9, 0.2], (len(feed["age"]), 1)), np.full(len(feed["age"]), label))

    assert parity.check(answer(0), answer(label), HELD_OUT).wrong_labels == wrong
