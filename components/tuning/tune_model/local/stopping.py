"""When a trial is not worth finishing: rules that are settled when it starts, so that how fast others are changes nothing.

`median` is Katib's medianstop (`pkg/earlystopping/v1beta1/medianstop/service.py` of 0.19.0), which despite its name compares with
a mean: that of the means of the first reports of trials that were finished. `hyperband` is successive halving in brackets (Li et
al., Hyperband, JMLR 2018) in its asynchronous form (Li et al., ASHA, MLSys 2020): a trial goes on past a rung when it is among the
best there.
"""

import hashlib
import math
from collections.abc import Sequence
from statistics import fmean

from kfp_foundry.components.tuning.tune_model.local.limits import Limits
from kfp_foundry.components.tuning.tune_model.search import MEDIAN_STOP, Search
from kfp_foundry.components.tuning.tune_model.study import State, Trial


def limits(search: Search, number: int, before: Sequence[Trial]) -> Limits:
    """The limits of a trial.

    Args:
        search: The search.
        number: The trial's.
        before: The trials that count for it.
    """
    if search.algorithm == "hyperband":
        return Limits(rungs=_rungs(search, number, before))
    return _median(before) if search.early_stopping else Limits()


def looks(search: Search) -> list[int]:
    """At which rounds or epochs hyperband wants a report; empty for another algorithm."""
    if search.algorithm != "hyperband":
        return []
    eta, most = _hyperband(search)
    return [eta**power for power in range(_brackets(eta, most))]


def _median(before: Sequence[Trial]) -> Limits:
    start = MEDIAN_STOP["start_step"]
    means = [fmean(trial.reports[:start]) for trial in before if trial.state is State.SUCCEEDED and trial.reports]
    return Limits(mean=fmean(means), start=start) if len(means) >= MEDIAN_STOP["min_trials_required"] else Limits()


def _hyperband(search: Search) -> tuple[int, int]:
    return int(search.settings["eta"]), int(search.settings["r_l"])


def _brackets(eta: int, most: int) -> int:
    return math.floor(math.log(most, eta) + 1e-9) + 1


def bracket(search: Search, number: int) -> int:
    """The bracket of a trial: 0 halves from the first round on, the last one never; each gets trials in proportion to its budget."""
    eta, most = _hyperband(search)
    count = _brackets(eta, most)
    shares = [math.ceil(count * eta**power / (power + 1)) for power in reversed(range(count))]
    draw = int.from_bytes(hashlib.sha256(f"{search.seed}/{number}/bracket".encode()).digest()[:8]) % sum(shares)
    for chosen, share in enumerate(shares):
        if draw < share:
            return chosen
        draw -= share
    return count - 1


def _rungs(search: Search, number: int, before: Sequence[Trial]) -> dict[str, float]:
    eta, most = _hyperband(search)
    own, found = bracket(search, number), {}
    rivals = [trial for trial in before if bracket(search, trial.number) == own and trial.state in (State.SUCCEEDED, State.EARLY_STOPPED)]
    for rung in range(own, _brackets(eta, most) - 1):  # at the last one there is nothing left to save
        # The last report of a trial that was not stopped is that of the finished model, not of a round.
        values = [_at(trial, rung) for trial in rivals]
        there = sorted((value for value in values if value is not None), reverse=search.direction == "maximize")
        place = max(0, (len(there) + 1) // eta - 1)
        if place < len(there):
            found[str(rung + 1)] = there[place]
    return found


def _at(trial: Trial, rung: int) -> float | None:
    reports = trial.reports if trial.state is State.EARLY_STOPPED else trial.reports[:-1]
    return reports[rung] if rung < len(reports) else None
