"""A search on this machine: real processes that do trials, and the same trials whatever happens."""

import json
import sys

import pytest
from trials_for_tests import PARAMETERS, plain, recipe, search

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError
from kfp_foundry.components.tuning.tune_model.local import engine as local
from kfp_foundry.components.tuning.tune_model.local import sampling, stopping
from kfp_foundry.components.tuning.tune_model.study import Reason, State, Trial

BOTH = {**PARAMETERS, "y": {"type": "float", "min": 0.0, "max": 1.0}}
GRID = {"x": {"type": "float", "min": -1.0, "max": 1.0, "step": 0.5}, "kind": ["a", "b"], "n": [1]}
ALGORITHMS = {
    "random": {},
    "grid": {"parameters": GRID, "max_trials": 10},
    "tpe": {"settings": {"n_startup_trials": 3}},
    "multivariate-tpe": {"settings": {"n_startup_trials": 3}},
    "cmaes": {"parameters": BOTH},
    "sobol": {},
    "bayesianoptimization": {"settings": {"n_initial_points": 4}, "max_trials": 6},
    "hyperband": {"parameters": {**BOTH, "num_iterations": {"type": "int", "min": 1, "max": 9}}},
}


@pytest.fixture
def run(tmp_path):
    """Runs a search in a folder of the test's: `run(search, make="...", folder="search", **of the objective)`."""

    def work(chosen, make="make", folder="search", **words):
        return local.tune(chosen, recipe(make, **words), tmp_path / folder)

    return work


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_algorithm_stays_in_its_ranges_and_gives_the_same_trials_again(run, algorithm):
    chosen = search(**{"algorithm": algorithm, "max_trials": 10, **ALGORITHMS[algorithm]})
    study = run(chosen)
    assert study.state == "succeeded"
    assert [trial.number for trial in study.trials] == list(range(chosen.max_trials))
    for trial in study.trials:
        assert list(trial.params) == list(chosen.parameters)
        for name, words in chosen.parameters.items():
            value = trial.params[name]
            assert value in words.values if not words.numeric else words.min <= value <= words.max
            assert words.type != "int" or type(value) is int
    assert len({json.dumps(trial.params) for trial in study.trials}) == chosen.max_trials
    assert plain(run(chosen, folder="again")) == plain(study)


def test_a_grid_is_walked_whole_and_each_point_once(run):
    study = run(search(algorithm="grid", parameters=GRID, max_trials=10))
    assert {(trial.params["x"], trial.params["kind"]) for trial in study.trials} == {(x / 2, kind) for x in range(-2, 3) for kind in "ab"}


def test_algorithms_that_learn_find_better_values_than_chance(run):
    values = {name: run(search(algorithm=name, max_trials=30), folder=name).best.value for name in ("random", "tpe")}
    assert values["tpe"] < 0.11
    assert values["tpe"] <= values["random"]


@pytest.mark.parametrize("algorithm", ["random", "sobol"])
def test_where_results_do_not_count_the_number_of_workers_changes_nothing(run, algorithm):
    chosen = search(algorithm=algorithm, max_trials=8, parallel_trials=1)
    wide = chosen.model_copy(update={"parallel_trials": 3})
    assert plain(run(chosen)) == plain(run(wide, folder="wide", seconds=0.02))


def test_several_workers_give_the_same_trials_however_long_each_takes(run):
    chosen = search(algorithm="tpe", settings={"n_startup_trials": 2}, max_trials=9, parallel_trials=3, early_stopping="median")
    assert plain(run(chosen)) == plain(run(chosen, folder="slow", seconds=0.05))


def test_more_trials_go_on_where_fewer_ended(run):
    few, many = (search(algorithm="tpe", settings={"n_startup_trials": 2}, max_trials=count) for count in (4, 8))
    first = plain(run(few))
    whole = plain(run(many))
    assert whole[:4] == first
    assert whole == plain(run(many, folder="at once"))
    assert plain(run(few)) == first


def test_auto_is_one_trial_at_a_time_where_results_count_else_one_for_each_cpu(monkeypatch):
    monkeypatch.setattr(platform, "cpus", lambda: 8)
    assert [local.workers(search(algorithm=name)) for name in ("tpe", "random")] == [1, 8]
    assert local.workers(search(algorithm="random", early_stopping="median")) == 1
    assert local.threads(search(algorithm="tpe", parallel_trials=3)) == 2


def test_a_goal_ends_the_search(run):
    study = run(search(goal=2.0, max_trials=50))
    assert study.reason is Reason.GOAL_REACHED
    assert study.trials[-1].value <= 2.0
    assert all(trial.value > 2.0 for trial in study.trials[:-1])


@pytest.mark.parametrize(
    ("breaks", "state", "message"),
    [
        ("error", State.FAILED, "unexpected ValueError: kind 'a' does not work"),
        ("silence", State.METRICS_UNAVAILABLE, "the trial gave no finite value of 'loss'"),
        ("nan", State.METRICS_UNAVAILABLE, "the trial gave no finite value of 'loss'"),
        ("exit", State.FAILED, "its process was killed 3 times"),
    ],
)
def test_a_trial_that_goes_wrong_is_a_result_and_the_others_go_on(run, breaks, state, message):
    study = run(search(max_trials=4, max_failed_trials=4), breaks=breaks, when="a")
    broken = [trial for trial in study.trials if trial.params["kind"] == "a"]
    assert study.state == "succeeded"
    assert broken
    assert all(trial.state is state and message in trial.message and trial.value is None for trial in broken)


def test_a_trial_that_takes_too_long_is_killed_and_counts_as_failed(run):
    study = run(search(max_trials=3, max_failed_trials=1, trial_seconds=1), breaks="hang")
    assert (study.state, len(study.trials)) == ("failed", 1)
    with pytest.raises(FoundryError, match=r"all 1 trials failed; the first one said: took longer than 1 s"):
        study.winner()


def test_a_search_that_failed_keeps_its_good_trials_and_repeats_the_others(run):
    chosen = search(max_trials=6, max_failed_trials=2)
    before = run(chosen, breaks="error", when="b")
    assert before.state == "failed"
    after = run(chosen)
    assert after.state == "succeeded"
    assert plain(after) == plain(run(chosen, folder="never broken"))
    kept = {trial.number: trial.started for trial in before.trials if trial.state is State.SUCCEEDED}
    assert {trial.number: trial.started for trial in after.trials if trial.number in kept} == kept


def test_rows_that_cannot_be_learned_from_are_told_by_their_own_error(run):
    with pytest.raises(DataError, match="train rows: target 'late' is constant; choose another target"):
        run(search(), make="refuse")


def test_an_objective_that_breaks_down_is_told(run):
    with pytest.raises(FoundryError, match="unexpected KeyError: 'rows'"):
        run(search(), make="break_down")


def test_a_library_that_is_missing_is_named_with_what_brings_it(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(PlatformError, match=r"torch is not installed here; install kfp-foundry\[torch\], or choose tpe"):
        run(search(algorithm="gp"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="cannot be written"):
        local.tune(search(), recipe(), tmp_path / "file" / "search")


def done(number, reports, state=State.SUCCEEDED):
    return Trial(number, state, {}, value=reports[-1], reports=reports)


def test_median_is_the_mean_of_the_means_of_the_first_reports_of_finished_trials():
    chosen = search(early_stopping="median")
    before = [done(0, [4.0, 3.0, 2.0, 1.0, 0.0]), done(1, [2.0] * 5), done(2, [9.0] * 4, State.EARLY_STOPPED)]
    assert stopping.limits(chosen, 3, before).mean is None
    limits = stopping.limits(chosen, 4, [*before, done(3, [6.0] * 9)])
    assert limits.mean == pytest.approx((2.5 + 2.0 + 6.0) / 3)
    assert not limits.reached([9.0, 9.0, 9.0], "minimize")
    assert limits.reached([9.0, 9.0, 9.0, 9.0], "minimize")
    assert not limits.reached([3.0, 9.0, 9.0, 9.0], "minimize")
    assert limits.reached([3.0, 3.2, 3.1, 3.0], "maximize")


def test_median_ends_trials_that_are_worse(run):
    study = run(search(algorithm="sobol", early_stopping="median", max_trials=16))
    early = [trial for trial in study.trials if trial.state is State.EARLY_STOPPED]
    assert early
    assert all(4 <= len(trial.reports) <= 6 and trial.value == trial.reports[-1] for trial in early)


def test_hyperband_lets_the_best_share_of_a_rung_go_on():
    chosen = search(algorithm="hyperband", parameters=ALGORITHMS["hyperband"]["parameters"], settings={"eta": 3, "r_l": 9})
    assert stopping.looks(chosen) == [1, 3, 9]
    brackets = {number: stopping.bracket(chosen, number) for number in range(40)}
    assert set(brackets.values()) == {0, 1, 2}
    first = [number for number, bracket in brackets.items() if bracket == 0]
    before = [done(number, [value, value, value, value]) for number, value in zip(first, (5.0, 3.0, 1.0, 4.0, 2.0), strict=False)]
    assert stopping.limits(chosen, first[5], before).rungs == {"1": 2.0, "2": 2.0}
    last = next(number for number, bracket in brackets.items() if bracket == 2)
    assert stopping.limits(chosen, last, before).rungs == {}


def test_hyperband_gives_all_of_its_resource(run):
    study = run(search(algorithm="hyperband", parameters=ALGORITHMS["hyperband"]["parameters"], max_trials=12))
    assert {trial.params["num_iterations"] for trial in study.trials} == {9}
    assert any(trial.state is State.EARLY_STOPPED for trial in study.trials)


def test_sampled_floats_with_a_step_are_written_as_people_write_them():
    chosen = search(parameters={"x": {"type": "float", "min": 0.1, "max": 0.9, "step": 0.1}})
    assert sampling.typed(chosen, {"x": 0.1 + 2 * 0.1}) == {"x": 0.3}


def test_no_module_of_the_component_brings_heavy_libraries():
    import subprocess

    heavy = ("torch", "optuna", "kubernetes", "kfp", "mlflow", "lightgbm", "matplotlib")
    code = f"import sys; import kfp_foundry.components.tuning.tune_model.core; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
