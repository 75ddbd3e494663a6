"""The search spec: what is understood, what is refused and in which words, what Katib would do otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning import parameters
from kfp_foundry.components.tuning.tune_model import space
from kfp_foundry.components.tuning.tune_model.search import (
    DEFAULT_SPACES,
    Search,
    check_words,
    default_parameters,
    grid,
    portability,
)
from kfp_foundry.components.tuning.tune_model.space import Parameter

LEAVES = {"num_leaves": {"type": "int", "min": 7, "max": 63}}
STEPPED = {"type": "float", "min": 1, "max": 2, "step": 0.5}
RATE = {"learning_rate": {"type": "float", "min": 0.01, "max": 0.3, "log": True}}


def search(parameters=None, **words) -> Search:
    return Search.read({"parameters": {**LEAVES, **RATE} if parameters is None else parameters, "metric": "auc", **words})


def test_what_is_not_given_has_a_default_and_a_known_metric_its_direction():
    found = search()
    assert (found.algorithm, found.direction, found.max_trials, found.goal, found.early_stopping) == ("tpe", "maximize", 24, None, "")
    assert found.parameters["num_leaves"] == Parameter(type="int", min=7, max=63)


def test_a_search_is_read_back_from_what_it_says_of_itself():
    found = search({**LEAVES, "boosting": ["gbdt", "dart"]}, algorithm="random", goal=0.7, additional_metrics=["log_loss"])
    assert Search.read(found.model_dump(mode="json")) == found


def test_whole_floats_of_a_pipelines_parameters_become_ints():
    found = search({"num_leaves": {"type": "int", "min": 7.0, "max": 63.0, "step": 8.0}, "max_bin": [63.0, 255.0]}, max_trials=24.0)
    assert found.parameters["num_leaves"].min == 7
    assert isinstance(found.parameters["num_leaves"].step, int)
    assert found.parameters["max_bin"].values == (63, 255)
    assert found.max_trials == 24


@pytest.mark.parametrize(
    ("word", "name"), [("gp", "bayesianoptimization"), ("bayesian", "bayesianoptimization"), ("multivariate-tpe", "multivariate-tpe")]
)
def test_an_algorithm_has_its_common_names_too(word, name):
    assert search(algorithm=word).algorithm == name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"parameters": {}}, "search: there is no parameter to search over; give at least one range or list of values"),
        ({"parameters": {"x": 3}}, "search: parameter 'x': 3 is no range; write it like"),
        ({"parameters": {"x-y": [1]}}, "search: 'x-y' is no parameter name; use letters"),
        ({"parameters": {"x": {"type": "integer", "min": 1, "max": 2}}}, "type is 'integer'; did you mean 'int'?"),
        ({"parameters": {"x": {"min": 1, "max": 2}}}, "parameter 'x': type is None"),
        ({"parameters": {"x": {"type": "int", "low": 1, "max": 2}}}, "parameter 'x': unknown word 'low'; "),
        ({"parameters": {"x": {"type": "int", "max": 2}}}, "parameter 'x': min is missing; give a number"),
        ({"parameters": {"x": {"type": "int", "min": 1.5, "max": 2}}}, "min is 1.5, the type is int; give a whole number, or type float"),
        ({"parameters": {"x": {"type": "float", "min": "a", "max": 2}}}, "min is 'a'; give a number"),
        ({"parameters": {"x": {"type": "float", "min": float("nan"), "max": 2}}}, "min is nan; give a number"),
        ({"parameters": {"x": {"type": "float", "min": True, "max": 2}}}, "min is True; give a number"),
        ({"parameters": {"x": {"type": "int", "min": 9, "max": 2}}}, "parameter 'x': min 9 is above max 2; exchange them"),
        ({"parameters": {"x": {"type": "float", "min": 0, "max": 1, "log": True}}}, "log is true and min is 0.0, which has no logarithm"),
        ({"parameters": {"x": {"type": "float", "min": 1, "max": 2, "log": "yes"}}}, "log is 'yes'; give true or false"),
        ({"parameters": {"x": {"type": "int", "min": 1, "max": 9, "log": True, "step": 2}}}, "log is true and step is 2; give one of them"),
        ({"parameters": {"x": {"type": "int", "min": 1, "max": 9, "step": 0}}}, "step is 0, the range is 8 wide; give a positive step"),
        ({"parameters": {"x": {"type": "int", "min": 1, "max": 9, "step": 10}}}, "step is 10, the range is 8 wide"),
        ({"parameters": {"x": {"type": "int", "min": 1, "max": 9, "values": [1]}}}, "values is given beside type int"),
        ({"parameters": {"x": {"type": "categorical", "min": 1, "values": [1]}}}, "min is given beside values"),
        ({"parameters": {"x": {"type": "categorical"}}}, "values is None; give a list"),
        ({"parameters": {"x": []}}, "values is []; give a list"),
        ({"parameters": {"x": [[1, 2]]}}, "value [1, 2] is no text, number or boolean"),
        ({"parameters": {"x": ["a b"]}}, "value 'a b' cannot be an argument of a trial; use letters"),
        ({"parameters": {"x": ["$(id)"]}}, "value '$(id)' cannot be an argument of a trial"),
        ({"parameters": {"x": [""]}}, "value '' cannot be an argument of a trial"),
        ({"parameters": {"x": [1, 1.0]}}, "value 1.0 is given twice"),
        ({"algorithm": "bayes"}, "algorithm is 'bayes'; did you mean"),
        ({"algorithm": "pbt"}, "algorithm is 'pbt'; "),
        ({"settings": {"n_startup": 3}}, "algorithm tpe has no setting 'n_startup'; did you mean 'n_startup_trials'?"),
        ({"settings": {"n_startup_trials": 0}}, "setting n_startup_trials is 0; give a whole number of at least 1"),
        ({"settings": {"random_state": 3}}, "random_state is given in settings; give seed"),
        ({"settings": [1]}, "settings is [1]; give a mapping"),
        ({"metric": ""}, "metric is ''; give a name"),
        ({"metric": "my score"}, "metric is 'my score'; give a name"),
        ({"metric": "profit"}, "it is not known which values of 'profit' are better; give direction"),
        ({"direction": "max"}, "direction is 'max'; did you mean 'maximize'?"),
        ({"additional_metrics": ["auc"]}, "a metric is given twice: auc, auc"),
        ({"goal": "0.9"}, "goal is '0.9'; give a finite number"),
        ({"goal": float("inf")}, "goal is inf; give a finite number"),
        ({"early_stopping": "asha"}, "early_stopping is 'asha'; choose one of: median"),
        ({"max_trials": 0}, "max_trials is 0; give a whole number of at least 1"),
        ({"max_trials": 2.5}, "max_trials is 2.5; give a whole number"),
        ({"parallel_trials": -1}, "parallel_trials is -1; give a whole number of at least 0"),
        ({"parallel_trials": 30}, "parallel_trials is 30, max_trials is 24; give parallel_trials of at most 24, or 0"),
        ({"trial_seconds": -1}, "trial_seconds is -1"),
        ({"trials": 3}, "unknown word 'trials'; did you mean 'max_trials'"),
        ({"algorithm": "cmaes", "parameters": LEAVES}, "cmaes needs two or more int or float parameters; add one, or choose tpe"),
        ({"algorithm": "grid"}, "parameter 'learning_rate': algorithm grid needs a finite list, this range is continuous; give it a step"),
        ({"algorithm": "grid", "parameters": {"x": {"type": "int", "min": 1, "max": 9, "log": True}}}, "walks in equal steps, and log is true"),
        ({"algorithm": "grid", "parameters": {"x": [1, 2, 3]}}, "max_trials is 24, the grid has 3 combinations; set max_trials to 3 or less"),
        ({"algorithm": "hyperband"}, "hyperband has no parameter to give more and more of; add the one"),
        ({"algorithm": "hyperband", "settings": {"resource_name": "learning_rate"}}, "resource_name is 'learning_rate', which is no int parameter"),
        (
            {"algorithm": "hyperband", "parameters": {"epochs": {"type": "int", "min": 1, "max": 27}}, "early_stopping": "median"},
            "hyperband ends bad trials itself",
        ),
        ({"algorithm": "hyperband", "parameters": {"epochs": {"type": "int", "min": 1, "max": 2}}}, "r_l is 2, below eta 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place_and_remedy(words, said):
    with pytest.raises(UserError) as error:
        search(**words)
    assert said in str(error.value)


def test_the_same_errors_name_the_file_that_they_are_in():
    with pytest.raises(UserError, match=r"^mine\.yaml: parameter 'x': min is missing"):
        Search.read({"parameters": {"x": {"type": "int"}}, "metric": "auc"}, where="mine.yaml")


def test_a_grid_walks_each_range_from_its_least_value_to_its_greatest():
    found = search(
        {
            "num_leaves": {"type": "int", "min": 7, "max": 22, "step": 8},
            "rate": {"type": "float", "min": 0.1, "max": 0.3, "step": 0.1},
            "boosting": ["gbdt"],
        },
        algorithm="grid",
        max_trials=6,
    )
    assert grid(found) == {"num_leaves": [7, 15], "rate": [0.1, 0.2, 0.3], "boosting": ["gbdt"]}


@pytest.mark.parametrize(("algorithm", "resource", "most"), [("lightgbm", "num_iterations", 500), ("residual_mlp", "epochs", 20)])
def test_the_default_space_has_what_hyperband_gives_more_and_more_of(algorithm, resource, most):
    found = search(default_parameters(algorithm, search_algorithm="hyperband"), algorithm="hyperband")
    assert found.settings == {"resource_name": resource, "r_l": most, "eta": 3}
    assert resource not in default_parameters(algorithm, search_algorithm="tpe")


def test_hyperband_gives_more_of_the_parameter_that_says_how_long_a_training_lasts():
    found = search({**RATE, "num_iterations": {"type": "int", "min": 10, "max": 270}}, algorithm="hyperband")
    assert found.settings == {"resource_name": "num_iterations", "r_l": 270, "eta": 3}


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ({"algorithm": "tpe"}, []),
        ({"algorithm": "random"}, []),
        ({"algorithm": "cmaes"}, ["learning_rate: Katib's cmaes ignores log and samples evenly between 0.01 and 0.3"]),
        (
            {"algorithm": "sobol"},
            ["learning_rate: Katib's sobol ignores log and samples evenly between 0.01 and 0.3", "seed: Katib's sobol takes no seed"],
        ),
        ({"algorithm": "gp", "parameters": RATE}, []),
        (
            {"algorithm": "gp", "parameters": {"x": STEPPED, "n": {"type": "int", "min": 1, "max": 9, "log": True}}},
            [
                "x: Katib's bayesianoptimization samples every float logarithmically",
                "x: Katib's bayesianoptimization ignores step",
                "n: Katib's bayesianoptimization ignores log and samples evenly between 1 and 9",
            ],
        ),
        (
            {"algorithm": "tpe", "parameters": {"n": {"type": "int", "min": 7, "max": 63, "step": 8}}},
            ["n: Katib's tpe counts step 8 from 0, not from 7, and may leave the range"],
        ),
        ({"algorithm": "tpe", "parameters": {"n": {"type": "int", "min": 8, "max": 64, "step": 8}}}, []),
        ({"algorithm": "tpe", "parameters": {"x": {"type": "float", "min": 0.3, "max": 0.9, "step": 0.1}}}, []),
        ({"algorithm": "multivariate-tpe", "parameters": {"n": {"type": "int", "min": 7, "max": 63, "step": 8}}}, []),
        ({"settings": {"n_startup_trials": 5}}, ["setting n_startup_trials: Katib's tpe has no such setting and goes on without it"]),
        ({"algorithm": "multivariate-tpe", "settings": {"n_startup_trials": 5}}, []),
        (
            {"algorithm": "hyperband", "parameters": {"epochs": {"type": "int", "min": 1, "max": 27}}},
            [
                "seed: Katib's hyperband takes no seed",
                "hyperband: Katib starts a trial anew for more of the resource; the local engine lets it go on",
            ],
        ),
    ],
)  # fmt: skip
def test_what_katib_does_otherwise_is_told(words, notes):
    assert portability(search(**words)) == notes


@pytest.mark.parametrize("algorithm", sorted(DEFAULT_SPACES))
@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_each_training_algorithm_has_a_space_that_it_takes(algorithm, task):
    found = Search.read({"parameters": default_parameters(algorithm, task), "metric": "rmse"})
    check_words(found, algorithm, task, {})


def test_every_algorithm_that_can_be_trained_has_a_space():
    assert sorted(DEFAULT_SPACES) == sorted(parameters.ALGORITHMS)


def test_an_unknown_training_algorithm_has_no_space():
    with pytest.raises(UserError, match="algorithm is 'xgboost'"):
        default_parameters("xgboost")


@pytest.mark.parametrize(
    ("space", "fixed", "said"),
    [
        ({"num_leafs": [7, 31]}, {}, "search: parameter 'num_leafs': lightgbm has no parameter 'num_leafs'; did you mean 'num_leaf' or 'num_leaves'"),
        ({"seed": [1, 2]}, {}, "parameter 'seed': 'seed' cannot be set in params; give `seed` to the step"),
        (LEAVES, {"num_leaves": 31}, "parameter 'num_leaves': it is in params too; fix it in params or search over it, not both"),
        ({"num_leaves": [7, 31]}, {"max_leaves": 31}, "'num_leaves' and another name of 'num_leaves' are both given; fix it in"),
        ({"boosting": ["rf"]}, {}, "parameter 'boosting': boosting is 'rf'"),
        (LEAVES, {"num_trees": "x", "nonsense": 1}, "lightgbm has no parameter 'nonsense'"),
    ],
)  # fmt: skip
def test_a_parameter_that_the_training_does_not_take_is_refused_before_a_trial(space, fixed, said):
    with pytest.raises(UserError) as error:
        check_words(search(space), "lightgbm", Task.BINARY, fixed)
    assert said in str(error.value)


def test_arguments_become_the_librarys_types():
    found = search({**LEAVES, **RATE, "boosting": ["gbdt", "dart"], "extra_trees": [True, False], "max_bin": [63, 255], "x": [0.5, 1.5]})
    words = {"num_leaves": "31", "learning_rate": "1e-02", "boosting": "dart", "extra_trees": "false", "max_bin": "63", "x": "1.5"}
    typed = found.typed(words)
    assert typed == {"num_leaves": 31, "learning_rate": 0.01, "boosting": "dart", "extra_trees": False, "max_bin": 63, "x": 1.5}
    assert [type(value) for value in typed.values()] == [int, float, str, bool, int, float]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_leaves": "31"}, "trial: parameter 'learning_rate' has no value; give --learning_rate=value"),
        ({"num_leaves": "31", "learning_rate": "0.1", "extra": "1"}, "trial: parameter 'extra' is not searched over"),
        ({"num_leaves": "31.5", "learning_rate": "0.1"}, "trial: parameter 'num_leaves': '31.5' is no whole number"),
        ({"num_leaves": "31", "learning_rate": "fast"}, "trial: parameter 'learning_rate': 'fast' is no finite number"),
        ({"num_leaves": "31", "learning_rate": "nan"}, "'nan' is no finite number"),
    ],
)
def test_a_value_that_is_none_of_the_parameters_is_refused(values, said):
    with pytest.raises(UserError) as error:
        search().typed(values)
    assert said in str(error.value)


def test_a_value_that_is_not_in_the_list_is_refused_with_the_close_ones():
    with pytest.raises(UserError, match="'dirt' is none of its values; did you mean 'dart'"):
        search({"boosting": ["gbdt", "dart"]}).typed({"boosting": "dirt"})


@given(st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_survives_being_an_argument(value):
    parameter = Parameter(type="int" if isinstance(value, int) else "float", min=value, max=value)
    assert parameter.convert(space.text(value), "x") == value


SCALARS = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.from_regex(r"[A-Za-z0-9_.+,:/@%=-]+", fullmatch=True)
)


def written(value: space.Scalar) -> str:
    return space.text(int(value) if isinstance(value, float) and value.is_integer() else value)


@given(st.lists(SCALARS, min_size=1, max_size=6, unique_by=written))
def test_a_listed_value_survives_being_an_argument(values):
    parameter = space.read("x", values, "search")
    for value, known in zip(values, parameter.values, strict=True):
        assert parameter.convert(space.text(known), "x") == value


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 20))
def test_a_grid_stays_in_its_range_and_begins_at_its_end(low, width, step):
    parameter = Parameter(type="int", min=low, max=low + width, step=min(step, width))
    values = parameter.grid()
    assert values[0] == low
    assert low + width - min(step, width) < values[-1] <= low + width
