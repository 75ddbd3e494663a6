"""Parameters in each library's own words: unknown ones are refused, and so are those that the step itself decides."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.learning.network.settings import NAMES, Settings, patient

# The libraries that train, each with its algorithms, the default first.
TRAINERS: dict[str, tuple[str, ...]] = {
    "lightgbm": ("lightgbm",),
    "sklearn": ("hist_gradient_boosting", "linear"),
    "torch": ("residual_mlp",),
}
ALGORITHMS = tuple(algorithm for algorithms in TRAINERS.values() for algorithm in algorithms)

# What this project gives a library when the user does not; all else is the library's default.
DEFAULTS: dict[str, dict[str, Any]] = {
    "lightgbm": {"num_iterations": 500, "learning_rate": 0.1, "num_leaves": 31},
    "hist_gradient_boosting": {"max_iter": 300, "learning_rate": 0.1},
    "linear": {"C": 1.0, "max_iter": 500},
    "residual_mlp": asdict(Settings()),
}
RIDGE_DEFAULTS: dict[str, Any] = {"alpha": 1.0}

LIGHTGBM = (
    "alpha", "bagging_fraction", "bagging_freq", "bin_construct_sample_cnt", "boost_from_average", "boosting", "cat_l2",
    "cat_smooth", "cegb_penalty_split", "cegb_tradeoff", "data_sample_strategy", "drop_rate", "enable_bundle",
    "extra_trees", "fair_c", "feature_fraction", "feature_fraction_bynode", "is_unbalance", "lambda_l1", "lambda_l2",
    "learning_rate", "max_bin", "max_cat_threshold", "max_cat_to_onehot", "max_delta_step", "max_depth", "max_drop",
    "min_data_in_bin", "min_data_in_leaf", "min_data_per_group", "min_gain_to_split", "min_sum_hessian_in_leaf",
    "monotone_constraints_method", "monotone_penalty", "neg_bagging_fraction", "num_iterations", "num_leaves",
    "objective", "other_rate", "path_smooth", "poisson_max_delta_step", "pos_bagging_fraction", "scale_pos_weight",
    "skip_drop", "top_rate", "tweedie_variance_power", "uniform_drop", "xgboost_dart_mode",
)  # fmt: skip
HGB = (
    "l2_regularization", "learning_rate", "loss", "max_bins", "max_depth", "max_features", "max_iter", "max_leaf_nodes",
    "min_samples_leaf", "quantile", "tol",
)  # fmt: skip
LOGISTIC = ("C", "l1_ratio", "fit_intercept", "max_iter", "solver", "tol")
RIDGE = ("alpha", "fit_intercept", "max_iter", "solver", "tol")

# Decided by another parameter of the step, or by what can be exported exactly: word to reason.
DECIDED = {
    "seed": "give `seed` to the step",
    "random_state": "give `seed` to the step",
    "early_stopping_round": "give `early_stopping_rounds` to the step",
    "early_stopping": "give `early_stopping_rounds` to the step",
    "n_iter_no_change": "give `early_stopping_rounds` to the step",
    "class_weight": "give `class_weight` to the step",
    "monotone_constraints": "give `monotone` to the step",
    "monotonic_cst": "give `monotone` to the step",
    "categorical_feature": "text columns are categories already",
    "categorical_features": "text columns are categories already",
    "num_threads": "all CPUs of the step are used",
    "n_jobs": "all CPUs of the step are used",
    "num_class": "it follows from the target",
    "deterministic": "it is always on",
    "linear_tree": "it has no exact form in ONNX",
    "zero_as_missing": "it has no exact form in ONNX",
    "device_type": "training is on the CPU",
}

OBJECTIVES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "poisson", "gamma", "tweedie")
HGB_LOSSES = ("squared_error", "absolute_error", "quantile", "poisson", "gamma")


def resolve(trainer: str, algorithm: str = "") -> str:
    """The algorithm that a trainer is to use.

    Args:
        trainer: One of `TRAINERS`.
        algorithm: One of the trainer's algorithms; empty for its first.

    Raises:
        UserError: An unknown trainer, or an algorithm that it does not have.

    Example:
        >>> resolve("sklearn")
        'hist_gradient_boosting'
    """
    if trainer not in TRAINERS:
        raise UserError(f"trainer is {trainer!r}", where="training", remedy=close_names(trainer, list(TRAINERS)))
    if not algorithm:
        return TRAINERS[trainer][0]
    owner = next((name for name, algorithms in TRAINERS.items() if algorithm in algorithms), "")
    if not owner:
        raise UserError(f"algorithm is {algorithm!r}", where="training", remedy=close_names(algorithm, list(ALGORITHMS)))
    if owner != trainer:
        raise UserError(f"algorithm {algorithm!r} is not one of trainer {trainer!r}", where="training", remedy=f"give trainer={owner}")
    return algorithm


def complete(algorithm: str, params: Mapping[str, Any], task: Task, early_stopping_rounds: int = 50) -> dict[str, Any]:
    """Checks parameters and adds the defaults.

    Args:
        algorithm: One of `ALGORITHMS`.
        params: The user's, in the library's words; LightGBM's aliases are understood. Whole floats become ints: a number
            that came through a pipeline's parameters may have become one.
        task: Decides which losses there are.
        early_stopping_rounds: The step's; 0 makes a network's patience 0 where `params` give none.

    Raises:
        UserError: Unknown algorithm, unknown word (with the close ones), a word given twice under two names, or one that the
            step decides itself.

    Example:
        >>> complete("lightgbm", {"n_estimators": 50.0}, Task.BINARY)
        {'num_iterations': 50, 'learning_rate': 0.1, 'num_leaves': 31}
    """
    if algorithm not in ALGORITHMS:
        raise UserError(f"algorithm is {algorithm!r}", where="training", remedy=close_names(algorithm, list(ALGORITHMS)))
    aliases = _lightgbm_aliases() if algorithm == "lightgbm" else {}
    defaults = RIDGE_DEFAULTS if algorithm == "linear" and task is Task.REGRESSION else DEFAULTS[algorithm]
    known = _known(algorithm, task)
    given: dict[str, Any] = {}
    for name, value in params.items():
        word = aliases.get(name, name)
        if word in DECIDED:
            raise UserError(f"{name!r} cannot be set in params", where="training", remedy=DECIDED[word])
        if word not in known:
            near = [*known, *(alias for alias, main in aliases.items() if main in known)]
            raise UserError(f"{algorithm} has no parameter {name!r}", where="training", remedy=close_names(name, near))
        if word in given:
            raise UserError(f"{name!r} and another name of {word!r} are both given", where="training", remedy="give one of them")
        given[word] = _whole(value)
    _check_loss(algorithm, given, task)
    if algorithm == "residual_mlp":
        given = patient(given, early_stopping_rounds)
        Settings.read(given)
    return defaults | given


def _known(algorithm: str, task: Task) -> Sequence[str]:
    if algorithm == "linear":
        return RIDGE if task is Task.REGRESSION else LOGISTIC
    return {"lightgbm": LIGHTGBM, "hist_gradient_boosting": HGB, "residual_mlp": NAMES}[algorithm]


def _check_loss(algorithm: str, params: Mapping[str, Any], task: Task) -> None:
    word, losses = ("objective", OBJECTIVES) if algorithm == "lightgbm" else ("loss", HGB_LOSSES)
    if word in params and task is not Task.REGRESSION:
        raise UserError(f"{word!r} can be set for a regression only, this task is {task}", where="training", remedy=f"leave {word} out")
    if word in params and params[word] not in losses:
        raise UserError(f"{word} is {params[word]!r}", where="training", remedy=close_names(str(params[word]), list(losses)))
    if params.get("boosting") == "rf":
        raise UserError("boosting is 'rf'", where="training", remedy="choose gbdt, dart or goss; a random forest is not exported")


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _lightgbm_aliases() -> dict[str, str]:
    from lightgbm.basic import _ConfigAliases  # the library's own table; it has no public name

    return {alias: main for main, names in _ConfigAliases._get_all_param_aliases().items() for alias in names}
