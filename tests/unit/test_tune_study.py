"""When a search ends and how: Katib's rules, in one place for both engines."""

import pytest
from trials_for_tests import search

from kfp_foundry.components.tuning.tune_model.study import Reason, State, Trial, best, conclude, failure, reason_to_end, value_of


def trial(number, value, state=State.SUCCEEDED, message=""):
    return Trial(number, state, {"x": float(number)}, value=value, message=message)


def lost(number, message="it broke"):
    return trial(number, None, State.FAILED, message)


@pytest.mark.parametrize(
    ("reports", "direction", "strategy", "value"),
    [
        ([0.5, 0.3, 0.4], "minimize", "best", 0.3),
        ([0.5, 0.3, 0.4], "maximize", "best", 0.5),
        ([0.5, 0.3, 0.4], "minimize", "latest", 0.4),
        ([0.5, float("nan")], "minimize", "latest", 0.5),
        ([float("inf")], "minimize", "best", None),
        ([], "minimize", "best", None),
    ],
)
def test_the_value_of_a_trial_is_the_best_report_or_the_latest(reports, direction, strategy, value):
    assert value_of(reports, direction, strategy) == value


def test_the_earliest_of_equal_trials_is_the_best():
    assert best([trial(2, 0.1), trial(1, 0.1), trial(0, 0.2)], "minimize").number == 1


def test_a_trial_that_was_stopped_early_can_win():
    assert best([trial(0, 0.3), trial(1, 0.1, State.EARLY_STOPPED)], "minimize").number == 1


def test_a_trial_that_failed_cannot_win():
    assert best([trial(0, 0.1, State.FAILED)], "minimize") is None


@pytest.mark.parametrize(
    ("trials", "words", "reason", "state"),
    [
        ([trial(0, 0.5)], {"max_trials": 1}, Reason.MAX_TRIALS_REACHED, "succeeded"),
        ([trial(0, 0.5), trial(1, 0.2)], {"goal": 0.2}, Reason.GOAL_REACHED, "succeeded"),
        ([lost(0), lost(1), trial(2, 0.1)], {"max_failed_trials": 2, "goal": 0.1}, Reason.GOAL_REACHED, "succeeded"),
        ([lost(0), lost(1), trial(2, 0.1)], {"max_failed_trials": 2}, Reason.MAX_FAILED_TRIALS_REACHED, "failed"),
        ([lost(0), trial(1, None, State.METRICS_UNAVAILABLE)], {"max_failed_trials": 2}, Reason.MAX_FAILED_TRIALS_REACHED, "failed"),
        ([lost(0)], {"max_failed_trials": 0}, Reason.MAX_FAILED_TRIALS_REACHED, "failed"),
        ([lost(0), lost(1)], {"max_failed_trials": 9, "max_trials": 2}, Reason.NO_METRIC, "failed"),
        ([lost(0), trial(1, 0.4)], {"max_trials": 2}, Reason.MAX_TRIALS_REACHED, "succeeded"),
        ([trial(0, 0.4)], {"max_trials": 5}, Reason.SEARCH_SPACE_EXHAUSTED, "succeeded"),
        ([], {}, Reason.NO_METRIC, "failed"),
    ],
)
def test_a_search_ends_by_the_rules_of_katib(trials, words, reason, state):
    study = conclude(trials, search(**words))
    assert (study.reason, study.state) == (reason, state)


def test_a_search_goes_on_while_trials_are_left():
    assert reason_to_end([trial(0, 0.4), lost(1)], search(max_trials=3)) is None


def test_a_goal_of_a_maximum_is_reached_from_below():
    assert reason_to_end([trial(0, 0.9)], search(direction="maximize", goal=0.9)) is Reason.GOAL_REACHED
    assert reason_to_end([trial(0, 0.89)], search(direction="maximize", goal=0.9)) is None


def test_the_message_of_a_failed_search_is_that_of_its_first_failing_trial():
    study = conclude([trial(0, 0.4), lost(1, "LightGBM refuses: max_bin"), lost(2, "another")], search(max_failed_trials=2))
    assert "2 of 3 trials failed; the first one said: LightGBM refuses: max_bin" in str(failure(study))
    assert "the best of the others is 0.4" in str(failure(study))


def test_a_search_that_failed_has_no_winner():
    with pytest.raises(Exception, match="all 1 trials failed; the first one said: it broke"):
        conclude([lost(0)], search(max_failed_trials=1)).winner()
