"""How much of the differences between trials each parameter accounts for."""

import math
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from kfp_foundry.components.tuning.tune_model.local import sampling
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.space import Parameter
from kfp_foundry.components.tuning.tune_model.study import State, Study

LEAST = 10  # finished trials; with fewer the forest would find patterns in chance


@dataclass(frozen=True)
class Importance:
    """Shares of the parameters, largest first, or why there are none."""

    shares: dict[str, float] = field(default_factory=dict)
    why_not: str = ""


def of(study: Study, search: Search) -> Importance:
    """The shares by fANOVA over the finished trials.

    Reference: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance (ICML 2014). Trials that
    were stopped early are left out: their values are those of unfinished models.
    """
    whole = [trial for trial in study.trials if trial.state is State.SUCCEEDED and trial.value is not None]
    varied = [name for name in sampling.searched(search) if len({str(trial.params.get(name)) for trial in whole}) > 1]
    if find_spec("optuna") is None:
        return Importance(why_not="Optuna, which computes it, is not installed here.")
    if len(whole) < LEAST:
        return Importance(why_not=f"It takes {LEAST} finished trials or more, there are {len(whole)}.")
    if len(varied) < 2:
        return Importance(why_not="It compares parameters, and fewer than two took more than one value.")
    if len({trial.value for trial in whole}) < 2:
        return Importance(why_not="All finished trials came to the same value.")
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replay = optuna.create_study(direction=search.direction)
        spaces = {name: _space(search.parameters[name], [trial.params[name] for trial in whole]) for name in varied}
        for trial in whole:
            replay.add_trial(create_trial(params={name: trial.params[name] for name in varied}, distributions=spaces, value=trial.value))
        found = get_param_importances(replay, evaluator=FanovaImportanceEvaluator(seed=0))
    shares = {name: float(share) for name, share in found.items() if math.isfinite(share)}
    if not any(shares.values()):
        return Importance(why_not="No parameter accounts for the differences between the trials.")
    return Importance(dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))))


def _space(words: Parameter, seen: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not words.numeric:
        return CategoricalDistribution(list(words.values))
    # Katib may have gone a little beyond a range.
    low, high = min(words.range[0], *seen), max(words.range[1], *seen)
    if words.type == "int":
        return IntDistribution(int(low), int(high), log=words.log)
    return FloatDistribution(float(low), float(high), log=words.log)
