"""How the next parameters are chosen: one draw per trial and parameter, so that a search that was interrupted goes on as if it had not been.

Every draw has a seed of its own, made of the search's, the trial's number and the parameter's name. What a trial gets so depends on
these and on the trials that were told before it, and on nothing else. Optuna chooses for random, tpe, multivariate-tpe and
bayesianoptimization; all arguments of its samplers are given, since their defaults change between releases. Grid, Sobol points
and CMA-ES are computed here from the trial's number: Optuna's own keep their place in the storage, the last one as a pickle.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.tuning.tune_model.search import Search, grid
from kfp_foundry.components.tuning.tune_model.space import Parameter, Scalar
from kfp_foundry.components.tuning.tune_model.study import State, Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

# Algorithms whose choice does not depend on what other trials came to.
INDEPENDENT = ("random", "grid", "sobol", "hyperband")
SIGMA = 1 / 6  # the first step of CMA-ES, as a share of each range


def seed_of(search: Search, number: int, word: str = "") -> int:
    """The seed of a draw: below 2**32, so that every library takes it."""
    return int.from_bytes(hashlib.sha256(f"{search.seed}/{number}/{word}".encode()).digest()[:4])


def searched(search: Search) -> dict[str, Parameter]:
    """The parameters that are chosen; hyperband gives its resource itself."""
    return {name: words for name, words in search.parameters.items() if search.algorithm != "hyperband" or name != search.settings["resource_name"]}


def settled(search: Search) -> dict[str, Scalar]:
    """What every trial gets besides: hyperband's resource, all of it, since a trial that is good enough goes on to its end."""
    return {str(search.settings["resource_name"]): search.settings["r_l"]} if search.algorithm == "hyperband" else {}


def given(search: Search, number: int, before: Sequence[Trial]) -> dict[str, Scalar] | None:
    """The parameters of a trial where they are computed here; None where Optuna chooses."""
    if search.algorithm == "grid":
        return _grid_point(search, number)
    if search.algorithm == "sobol":
        return _from_unit(search, _sobol_point(search, number))
    if search.algorithm == "cmaes":
        return _cmaes_point(search, number, before)
    return None


def sampler(search: Search, number: int, word: str) -> "BaseSampler":
    """Optuna's sampler for one draw.

    Raises:
        PlatformError: bayesianoptimization without torch.
    """
    from optuna import samplers

    seed, settings = seed_of(search, number, word), search.settings
    if search.algorithm in ("random", "hyperband"):
        return samplers.RandomSampler(seed=seed)
    if search.algorithm == "bayesianoptimization":
        require(search)
        return samplers.GPSampler(
            seed=seed,
            independent_sampler=samplers.RandomSampler(seed=seed),
            n_startup_trials=int(settings.get("n_initial_points", 10)),
            deterministic_objective=True,
            constraints_func=None,
            warn_independent_sampling=False,
        )
    return samplers.TPESampler(
        n_startup_trials=int(settings.get("n_startup_trials", 10)),
        n_ei_candidates=int(settings.get("n_ei_candidates", 24)),
        seed=seed,
        multivariate=search.algorithm == "multivariate-tpe",
        group=False,
        warn_independent_sampling=False,
        constant_liar=True,
        constraints_func=None,
    )


def require(search: Search) -> None:
    """Refuses an algorithm whose library is not installed.

    Raises:
        PlatformError: The library and how to get it.
    """
    from importlib.util import find_spec

    needs = {"bayesianoptimization": "torch", "cmaes": "cmaes"}.get(search.algorithm, "optuna")
    for library in ("optuna", needs):
        if find_spec(library) is None:
            extra = "torch" if library == "torch" else "tune"
            remedy = f"install kfp-foundry[{extra}], or choose {'tpe' if extra == 'torch' else 'target=kubeflow'}"
            raise PlatformError(f"{library} is not installed here", where=f"search_algorithm {search.algorithm}", remedy=remedy)


def _grid_point(search: Search, number: int) -> dict[str, Scalar]:
    values = grid(search)
    points = list(itertools.product(*values.values()))
    # In an order of chance: a search that ends before the grid does has seen all of it a little.
    order = np.random.default_rng(seed_of(search, 0, "grid")).permutation(len(points))
    return dict(zip(values, points[order[number]], strict=True))


def _sobol_point(search: Search, number: int) -> np.ndarray:
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(search.parameters), scramble=True, rng=np.random.default_rng(seed_of(search, 0, "sobol")))
    return np.asarray(sequence.fast_forward(number).random(1)[0] if number else sequence.random(1)[0])


def _cmaes_point(search: Search, number: int, before: Sequence[Trial]) -> dict[str, Scalar]:
    """CMA-ES (Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772), replayed over the generations that are complete."""
    from cmaes import CMA

    numeric = [name for name, words in search.parameters.items() if words.numeric]
    bounds = np.tile([0.0, 1.0], (len(numeric), 1))
    strategy = CMA(np.full(len(numeric), 0.5), float(search.settings.get("sigma", SIGMA)), bounds=bounds, seed=seed_of(search, number, "cmaes"))
    size = strategy.population_size
    for start in range(0, len(before) - size + 1, size):
        strategy.tell(_generation(search, numeric, before[start : start + size]))
    chance = np.random.default_rng(seed_of(search, number, "categories"))
    unit = iter(strategy.ask())
    return {name: _value(words, float(next(unit)) if words.numeric else float(chance.random())) for name, words in search.parameters.items()}


def _generation(search: Search, numeric: Sequence[str], trials: Sequence[Trial]) -> list[tuple[np.ndarray, float]]:
    sign = -1.0 if search.direction == "maximize" else 1.0
    good = [sign * trial.value for trial in trials if trial.value is not None and trial.state is not State.FAILED]
    worst = max(good, default=0.0)  # what failed is as bad as the worst
    points = [np.array([_unit(search.parameters[name], float(trial.params[name])) for name in numeric]) for trial in trials]
    return [(point, worst if trial.value is None else sign * trial.value) for point, trial in zip(points, trials, strict=True)]


def _from_unit(search: Search, point: np.ndarray) -> dict[str, Scalar]:
    return {name: _value(words, float(at)) for (name, words), at in zip(search.parameters.items(), point, strict=True)}


def _scale(words: Parameter) -> tuple[float, float, Callable[[float], float], Callable[[float], float]]:
    """Ends of a range on the scale on which it is even, widened by half a step where values are whole; the way there and back."""
    low, high = words.range
    step = words.step if words.step is not None else 1 if words.type == "int" else 0
    low, high = low - step / 2, high + step / 2
    return (math.log(low), math.log(high), math.log, math.exp) if words.log else (low, high, float, float)


def _value(words: Parameter, at: float) -> Scalar:
    """The value at a place between 0 and 1."""
    if not words.numeric:
        return words.values[min(int(at * len(words.values)), len(words.values) - 1)]
    start, end, _, back = _scale(words)
    return fitting(words, back(start + at * (end - start)))


def fitting(words: Parameter, value: float) -> Scalar:
    """The value of a range that is closest, written as people write it: 0.3, not 0.30000000000000004."""
    low, high = words.range
    step = words.step if words.step is not None else 1 if words.type == "int" else None
    if step is None:
        return float(min(max(value, low), high))
    most = math.floor((high - low) / step + 1e-9)
    near = low + min(max(round((value - low) / step), 0), most) * step
    return int(near) if words.type == "int" else float(f"{near:.12g}")


def _unit(words: Parameter, value: float) -> float:
    start, end, there, _ = _scale(words)
    return (there(value) - start) / (end - start) if end > start else 0.5


def typed(search: Search, params: Mapping[str, Any]) -> dict[str, Scalar]:
    """Parameters as a training takes them, in the order of the search: with what is settled, and without what a float adds."""
    whole = {**params, **settled(search)}
    return {
        name: fitting(words, float(whole[name])) if words.numeric and name not in settled(search) else whole[name]
        for name, words in search.parameters.items()
    }
