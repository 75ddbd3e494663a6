"""The search as a person writes it, for every engine: what is tried, what is measured, how the next trial is chosen.

The words of `settings` are Katib's. Reference for what each of Katib's services honours: Katib 0.19.0, `pkg/suggestion/v1beta1`.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.learning import parameters as libraries
from kfp_foundry.components.common.metrics.catalogue import METRICS
from kfp_foundry.components.tuning.tune_model import space
from kfp_foundry.components.tuning.tune_model.space import Parameter, Scalar

Algorithm = Literal["random", "grid", "tpe", "multivariate-tpe", "cmaes", "sobol", "bayesianoptimization", "hyperband"]
Direction = Literal["minimize", "maximize"]
ALIASES = {"gp": "bayesianoptimization", "bayesian": "bayesianoptimization", "multivariate_tpe": "multivariate-tpe"}

METRIC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

# Katib's medianstop with its own defaults: from its `start_step`-th report on, a trial ends when its best value so far is worse
# than the mean of what `min_trials_required` or more finished trials had at that point.
MEDIAN_STOP = {"min_trials_required": 3, "start_step": 4}
# How many trials Katib runs at once when nobody says; its own default.
PARALLEL_ON_KATIB = 3


@dataclass(frozen=True)
class Setting:
    """A word of `settings`: how Katib calls it for this algorithm (empty: it has no such word), and what is right."""

    katib: str
    right: Callable[[Any], bool]
    remedy: str


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


_WHOLE = "give a whole number of at least 1"
SETTINGS: dict[str, dict[str, Setting]] = {
    "random": {},
    "grid": {},
    "tpe": {"n_startup_trials": Setting("", _count, _WHOLE), "n_ei_candidates": Setting("n_EI_candidates", _count, _WHOLE)},
    "multivariate-tpe": {
        "n_startup_trials": Setting("n_startup_trials", _count, _WHOLE),
        "n_ei_candidates": Setting("n_ei_candidates", _count, _WHOLE),
    },
    "cmaes": {"sigma": Setting("sigma", _positive, "give a number above 0")},
    "sobol": {},
    "bayesianoptimization": {"n_initial_points": Setting("n_initial_points", _count, _WHOLE)},
    "hyperband": {
        "resource_name": Setting("resource_name", lambda value: isinstance(value, str), "name one of the parameters"),
        "r_l": Setting("r_l", _count, _WHOLE),
        "eta": Setting("eta", lambda value: _count(value) and value >= 2, "give a whole number of at least 2"),
    },
}
SEEDED = ("random", "grid", "tpe", "multivariate-tpe", "cmaes", "bayesianoptimization")
# The parameter that says how long a training lasts, by algorithm: what hyperband gives more and more of.
RESOURCES = ("num_iterations", "max_iter", "epochs")


class Search(BaseModel):
    """A search; `Search.read` makes one and checks it.

    Args:
        parameters: What is searched over.
        metric: The metric to optimise, as a trial reports it.
        direction: `minimize` or `maximize`.
        additional_metrics: Reported and kept, not optimised.
        goal: A value at which the search may end; None for none.
        algorithm: How the next parameters are chosen.
        settings: The algorithm's settings, see `SETTINGS`.
        early_stopping: `median`, or empty for none.
        max_trials: Most trials.
        parallel_trials: Trials at once; 0 for what suits the engine.
        max_failed_trials: Failed trials at which the search ends.
        trial_seconds: Longest time of a trial; 0 for no limit.
        seed: Of the choice of parameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: dict[str, Parameter]
    metric: str
    direction: Direction
    additional_metrics: tuple[str, ...] = ()
    goal: float | None = None
    algorithm: Algorithm = "tpe"
    settings: dict[str, Scalar] = {}
    early_stopping: Literal["", "median"] = ""
    max_trials: int = 24
    parallel_trials: int = 0
    max_failed_trials: int = 3
    trial_seconds: int = 0
    seed: int = 7

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str = "search") -> "Search":
        """Reads and checks a search.

        Args:
            given: The fields of this class; `parameters` is name to range or list of values. An empty `direction` follows from
                the metric where it is a known one.
            where: Names the search in errors.

        Raises:
            UserError: A field is unknown, has a wrong value, or does not go with the others.

        Example:
            >>> Search.read({"parameters": {"C": {"type": "float", "min": 0.01, "max": 100, "log": True}}, "metric": "auc"}).direction
            'maximize'
        """
        for word in given:
            if word not in cls.model_fields:
                raise UserError(f"unknown word {word!r}", where=where, remedy=close_names(str(word), list(cls.model_fields)))
        ranges = given.get("parameters") or {}
        if not isinstance(ranges, Mapping):
            raise UserError(f"parameters is {ranges!r}", where=where, remedy="give a mapping of names to ranges")
        if not ranges:
            raise UserError("there is no parameter to search over", where=where, remedy="give at least one range or list of values")
        read_ranges = {str(name): space.read(str(name), words, where) for name, words in ranges.items()}
        algorithm = _choice("algorithm", ALIASES.get(given.get("algorithm", ""), given.get("algorithm") or "tpe"), get_args(Algorithm), where)
        found = cls(
            parameters=read_ranges,
            **_objective(given, where),
            algorithm=algorithm,
            settings=_settings(algorithm, given.get("settings") or {}, where),
            early_stopping=_choice("early_stopping", given.get("early_stopping", ""), ("", "median"), where),
            **{name: _whole(name, given, cls.model_fields[name].default, least, where) for name, least in LEAST.items()},
        )
        return _consistent(found, where)

    def typed(self, values: Mapping[str, Any], where: str = "trial") -> dict[str, Scalar]:
        """Proposed values in the types that the library takes.

        Raises:
            UserError: A parameter is missing, unknown, or has none of its values.
        """
        for name in values:
            if name not in self.parameters:
                raise UserError(f"parameter {name!r} is not searched over", where=where, remedy=close_names(name, list(self.parameters)))
        missing = next((name for name in self.parameters if name not in values), None)
        if missing is not None:
            raise UserError(f"parameter {missing!r} has no value", where=where, remedy=f"give --{missing}=value")
        return {name: parameter.convert(values[name], f"{where}: parameter {name!r}") for name, parameter in self.parameters.items()}


LEAST = {"max_trials": 1, "parallel_trials": 0, "max_failed_trials": 0, "trial_seconds": 0, "seed": 0}


def _choice(word: str, value: Any, known: tuple[str, ...], where: str) -> Any:
    if value not in known:
        raise UserError(f"{word} is {value!r}", where=where, remedy=close_names(str(value), [name for name in known if name]))
    return value


def _whole(word: str, given: Mapping[str, Any], default: int, least: int, where: str) -> int:
    value = given.get(word, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer() or value < least:
        raise UserError(f"{word} is {value!r}", where=where, remedy=f"give a whole number of at least {least}")
    return int(value)


def _objective(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    metric, more = given.get("metric") or "", tuple(given.get("additional_metrics") or ())
    for name in (metric, *more):
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            raise UserError(f"metric is {name!r}", where=where, remedy="give a name of letters, digits, _ and -")
    if metric in more or len(set(more)) < len(more):
        raise UserError(f"a metric is given twice: {', '.join((metric, *more))}", where=where, remedy="name each metric once")
    direction = given.get("direction") or direction_of(metric)
    if not direction:
        raise UserError(f"it is not known which values of {metric!r} are better", where=where, remedy="give direction: minimize or maximize")
    goal = given.get("goal")
    if goal is not None and (isinstance(goal, bool) or not isinstance(goal, (int, float)) or not math.isfinite(goal)):
        raise UserError(f"goal is {goal!r}", where=where, remedy="give a finite number, or leave it out")
    chosen = _choice("direction", direction, get_args(Direction), where)
    return {"metric": metric, "direction": chosen, "additional_metrics": more, "goal": None if goal is None else float(goal)}


def direction_of(metric: str) -> str:
    """Which direction of a known metric is better, as `minimize` or `maximize`; empty for an unknown one.

    Example:
        >>> direction_of("auc"), direction_of("rmse"), direction_of("profit")
        ('maximize', 'minimize', '')
    """
    better = {known.name: known.better for known in itertools.chain(*METRICS.values())}.get(metric)
    return "" if better not in ("higher", "lower") else "maximize" if better == "higher" else "minimize"


def _settings(algorithm: str, given: Any, where: str) -> dict[str, Any]:
    known, read_settings = SETTINGS[algorithm], {}
    if not isinstance(given, Mapping):
        raise UserError(f"settings is {given!r}", where=where, remedy="give a mapping of names to values")
    for name, value in given.items():
        if name in ("random_state", "seed"):
            raise UserError(f"{name} is given in settings", where=where, remedy="give seed beside the algorithm")
        if name not in known:
            remedy = close_names(name, list(known)) if known else "leave settings empty"
            raise UserError(f"algorithm {algorithm} has no setting {name!r}", where=where, remedy=remedy)
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if not known[name].right(whole):
            raise UserError(f"setting {name} is {value!r}", where=where, remedy=known[name].remedy)
        read_settings[name] = whole
    return read_settings


def _consistent(search: Search, where: str) -> Search:
    """The same search, completed for its algorithm; what no engine can do is refused."""
    if search.parallel_trials > search.max_trials:
        remedy = f"give parallel_trials of at most {search.max_trials}, or 0"
        raise UserError(f"parallel_trials is {search.parallel_trials}, max_trials is {search.max_trials}", where=where, remedy=remedy)
    if search.algorithm == "grid":
        count = math.prod(len(values) for values in grid(search, where).values())
        if search.max_trials > count:
            remedy = f"set max_trials to {count} or less, or choose another algorithm"
            raise UserError(f"max_trials is {search.max_trials}, the grid has {count} combinations", where=where, remedy=remedy)
    if search.algorithm == "cmaes" and sum(parameter.numeric for parameter in search.parameters.values()) < 2:
        raise UserError("cmaes needs two or more int or float parameters", where=where, remedy="add one, or choose tpe")
    return _hyperband(search, where) if search.algorithm == "hyperband" else search


def _hyperband(search: Search, where: str) -> Search:
    """Names the parameter that hyperband gives more and more of, and how much at most: its range's end."""
    if search.early_stopping:
        raise UserError("hyperband ends bad trials itself, early_stopping is given too", where=where, remedy="leave early_stopping empty")
    name = search.settings.get("resource_name") or next((name for name in RESOURCES if name in search.parameters), "")
    resource = search.parameters.get(str(name))
    if resource is None or resource.type != "int":
        wrong = (
            f"resource_name is {name!r}, which is no int parameter of the search" if name else "hyperband has no parameter to give more and more of"
        )
        remedy = "add the one that says how long a training lasts, such as num_iterations, as an int range"
        raise UserError(wrong, where=where, remedy=remedy)
    eta, most = search.settings.get("eta", 3), search.settings.get("r_l", int(resource.range[1]))
    if isinstance(most, int) and isinstance(eta, int) and most < eta:
        raise UserError(f"r_l is {most}, below eta {eta}: there is nothing to halve", where=where, remedy=f"give r_l of at least {eta}")
    return search.model_copy(update={"settings": {"resource_name": name, "r_l": most, "eta": eta}})


def grid(search: Search, where: str = "search") -> dict[str, list[Scalar]]:
    """The values of every parameter, in order.

    Raises:
        UserError: A range is continuous, or logarithmic.
    """
    found = {}
    for name, parameter in search.parameters.items():
        values, place = parameter.grid(), f"{where}: parameter {name!r}"
        if values is None:
            raise UserError("algorithm grid needs a finite list, this range is continuous", where=place, remedy="give it a step, or a list of values")
        if parameter.log:
            raise UserError("algorithm grid walks in equal steps, and log is true", where=place, remedy="list the values instead")
        found[name] = values
    return found


def default_parameters(algorithm: str, task: Task = Task.BINARY, search_algorithm: str = "") -> dict[str, dict[str, Any]]:
    """A sensible space for a training algorithm, in the library's own words.

    Args:
        algorithm: One of `parameters.ALGORITHMS`.
        task: Decides between logistic and ridge regression where the algorithm is `linear`.
        search_algorithm: With `hyperband`, how long a training lasts is one of the parameters.

    Raises:
        UserError: An unknown algorithm.
    """
    if algorithm not in DEFAULT_SPACES:
        raise UserError(f"algorithm is {algorithm!r}", where="search", remedy=close_names(algorithm, list(DEFAULT_SPACES)))
    chosen = RIDGE_SPACE if algorithm == "linear" and task is Task.REGRESSION else DEFAULT_SPACES[algorithm]
    lasting = RESOURCE_SPACES.get(algorithm, {}) if search_algorithm == "hyperband" else {}
    return {name: dict(words) for name, words in {**chosen, **lasting}.items()}


RESOURCE_SPACES: dict[str, dict[str, dict[str, Any]]] = {
    "lightgbm": {"num_iterations": {"type": "int", "min": 1, "max": 500}},
    "residual_mlp": {"epochs": {"type": "int", "min": 1, "max": 20}},
}
RIDGE_SPACE: dict[str, dict[str, Any]] = {"alpha": {"type": "float", "min": 1e-3, "max": 1e3, "log": True}}
DEFAULT_SPACES: dict[str, dict[str, dict[str, Any]]] = {
    "lightgbm": {
        "learning_rate": {"type": "float", "min": 0.01, "max": 0.3, "log": True},
        "num_leaves": {"type": "int", "min": 7, "max": 255, "log": True},
        "min_data_in_leaf": {"type": "int", "min": 5, "max": 200, "log": True},
        "feature_fraction": {"type": "float", "min": 0.4, "max": 1.0},
        "lambda_l2": {"type": "float", "min": 1e-3, "max": 10.0, "log": True},
    },
    "hist_gradient_boosting": {
        "learning_rate": {"type": "float", "min": 0.01, "max": 0.3, "log": True},
        "max_leaf_nodes": {"type": "int", "min": 7, "max": 255, "log": True},
        "min_samples_leaf": {"type": "int", "min": 5, "max": 200, "log": True},
        "max_features": {"type": "float", "min": 0.4, "max": 1.0},
        "l2_regularization": {"type": "float", "min": 1e-3, "max": 10.0, "log": True},
    },
    "linear": {"C": {"type": "float", "min": 1e-4, "max": 1e2, "log": True}},
    "residual_mlp": {
        "learning_rate": {"type": "float", "min": 1e-4, "max": 1e-2, "log": True},
        "width": {"type": "categorical", "values": [128, 256, 512]},
        "blocks": {"type": "int", "min": 1, "max": 4},
        "dropout": {"type": "float", "min": 0.0, "max": 0.5},
        "weight_decay": {"type": "float", "min": 1e-6, "max": 1e-1, "log": True},
    },
}


ONE_OF_BOTH = "fix it in params or search over it, not both"


def check_words(search: Search, algorithm: str, task: Task, fixed: Mapping[str, Any], where: str = "search") -> None:
    """Holds the search against what the training takes, before a trial does.

    Args:
        search: The search.
        algorithm: The training's.
        task: Decides which parameters there are.
        fixed: The parameters that every trial has.
        where: Names the search in errors.

    Raises:
        UserError: A parameter that the algorithm does not have, cannot be searched over, or is fixed and searched over.
    """
    libraries.complete(algorithm, fixed, task)
    for name, parameter in search.parameters.items():
        place, sample = f"{where}: parameter {name!r}", parameter.values[0] if parameter.values else parameter.min
        if name in fixed:
            raise UserError("it is in params too", where=place, remedy=ONE_OF_BOTH)
        if name == "max_bins":
            raise UserError("it decides how rows are encoded, once for all trials", where=place, remedy="give it in params")
        try:
            libraries.complete(algorithm, {name: sample}, task)
        except UserError as error:
            raise UserError(error.what, where=place, remedy=error.remedy) from error
        try:
            libraries.complete(algorithm, {**fixed, name: sample}, task)
        except UserError as error:  # each is right alone, so they are two names of one parameter
            raise UserError(error.what, where=place, remedy=ONE_OF_BOTH) from error


def portability(search: Search) -> list[str]:
    """What Katib will do otherwise than this search says, one sentence each; for a person who moves it to a cluster.

    The local engine honours all of it. Source: `pkg/suggestion/v1beta1` of Katib 0.19.0, each service's `base_service.py` or
    `converter.go`.
    """
    notes = [note for name, parameter in search.parameters.items() for note in _differences(name, parameter, search)]
    unheard = sorted(name for name in search.settings if not SETTINGS[search.algorithm][name].katib)
    notes += [f"setting {name}: Katib's {search.algorithm} has no such setting and goes on without it" for name in unheard]
    if search.algorithm not in SEEDED:
        notes.append(f"seed: Katib's {search.algorithm} takes no seed")
    if search.algorithm == "hyperband":
        notes.append("hyperband: Katib starts a trial anew for more of the resource; the local engine lets it go on")
    return notes


def _differences(name: str, parameter: Parameter, search: Search) -> list[str]:
    if not parameter.numeric:
        return []
    algorithm, notes = search.algorithm, []
    bayesian = algorithm == "bayesianoptimization"
    if parameter.log and (algorithm in ("cmaes", "sobol", "hyperband") or (bayesian and parameter.type == "int")):
        notes.append(f"{name}: Katib's {algorithm} ignores log and samples evenly between {parameter.min} and {parameter.max}")
    if bayesian and parameter.type == "float" and not parameter.log:
        notes.append(f"{name}: Katib's {algorithm} samples every float logarithmically")
    if parameter.step is None or algorithm in ("grid", "multivariate-tpe", "cmaes", "sobol"):
        return notes
    if algorithm in ("hyperband", "bayesianoptimization"):
        notes.append(f"{name}: Katib's {algorithm} ignores step")
    elif not math.isclose(math.remainder(parameter.range[0], parameter.step), 0.0, abs_tol=1e-9 * parameter.step):
        notes.append(f"{name}: Katib's {algorithm} counts step {parameter.step} from 0, not from {parameter.min}, and may leave the range")
    return notes
