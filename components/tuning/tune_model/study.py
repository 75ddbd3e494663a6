"""What a search came to, by Katib's rules whichever engine ran it.

The rules are those of Katib 0.19 (`pkg/controller.v1beta1/experiment/util/status_util.go`): a trial's value is the best one
that it reported unless the strategy says the latest; trials that were stopped early may win; failed trials and trials without
the metric count against `max_failed_trials`; a goal that is reached ends the search well, whatever failed before. In one point ours
is stricter: a search in which no trial gave a finite value has failed, also when all its trials ended well.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from kfp_foundry.components.common.errors import FoundryError

# The last report of a trial is its finished model's metric, so it is what `train_model` will measure with the same parameters; the
# best report may be that of a round which the model did not end with.
STRATEGY = "latest"


class State(StrEnum):
    """How a trial ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EARLY_STOPPED = "early_stopped"
    METRICS_UNAVAILABLE = "metrics_unavailable"


class Reason(StrEnum):
    """Why a search ended, in Katib's words."""

    GOAL_REACHED = "GoalReached"
    MAX_TRIALS_REACHED = "MaxTrialsReached"
    SEARCH_SPACE_EXHAUSTED = "SuggestionEndReached"
    MAX_FAILED_TRIALS_REACHED = "MaxFailedTrialsReached"
    NO_METRIC = "NoMetric"


class Rules(Protocol):
    """The part of `search.Search` that decides when a search ends and how."""

    @property
    def metric(self) -> str:
        """The metric that is searched for."""
        ...

    @property
    def direction(self) -> str:
        """`minimize` or `maximize`."""
        ...

    @property
    def goal(self) -> float | None:
        """A value at which the search may end."""
        ...

    @property
    def max_trials(self) -> int:
        """Most trials."""
        ...

    @property
    def max_failed_trials(self) -> int:
        """Failed trials at which the search ends."""
        ...


@dataclass(frozen=True)
class Trial:
    """One set of parameters that was tried.

    Args:
        number: Counts from 0 in the order in which the trials were started.
        state: How it ended.
        params: The parameters that were searched over, with the values of this trial.
        value: The objective metric's value by `value_of`; None when it gave none.
        metrics: Other metrics, the last value of each.
        reports: Every value that it reported of the objective metric, in order.
        started: Seconds since 1970.
        seconds: How long it took.
        message: Why it failed; empty otherwise.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: Sequence[float] = ()
    started: float = 0.0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Study:
    """All trials of a search that ended.

    Args:
        state: `succeeded` or `failed`.
        reason: Why it ended.
        trials: In order of their numbers.
        direction: `minimize` or `maximize`.
    """

    state: str
    reason: Reason
    trials: Sequence[Trial]
    direction: str

    @property
    def best(self) -> Trial | None:
        """The trial with the best value; the earliest of equals. None when none has a value."""
        return best(self.trials, self.direction)

    def winner(self) -> Trial:
        """The best trial of a search that succeeded.

        Raises:
            FoundryError: The search failed; the message is the first failing trial's.
        """
        found = self.best
        if self.state == "succeeded" and found is not None:
            return found
        raise failure(self)


def better(value: float, than: float, direction: str) -> bool:
    """Whether a value is strictly better.

    Example:
        >>> better(0.3, than=0.4, direction="minimize")
        True
    """
    return value > than if direction == "maximize" else value < than


def value_of(reports: Iterable[float], direction: str, strategy: str = "best") -> float | None:
    """The value of a trial that reported these: the best, or with the strategy `latest` the last; what is not finite does not count.

    Example:
        >>> value_of([0.5, 0.3, 0.4, float("nan")], "minimize")
        0.3
    """
    finite = [float(value) for value in reports if math.isfinite(value)]
    if not finite:
        return None
    if strategy == "latest":
        return finite[-1]
    return max(finite) if direction == "maximize" else min(finite)


def best(trials: Iterable[Trial], direction: str) -> Trial | None:
    """The trial with the best value, the earliest of equals; one that failed cannot win, one that was stopped early can."""
    able = [trial for trial in trials if trial.value is not None and trial.state in (State.SUCCEEDED, State.EARLY_STOPPED)]
    sign = -1.0 if direction == "maximize" else 1.0
    return min(able, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def failed(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that count against `max_failed_trials`."""
    return [trial for trial in trials if trial.state in (State.FAILED, State.METRICS_UNAVAILABLE)]


def reached(value: float | None, rules: Rules) -> bool:
    """Whether a value is as good as the goal, if there is one."""
    if value is None or rules.goal is None:
        return False
    return value == rules.goal or better(value, rules.goal, rules.direction)


def reason_to_end(trials: Sequence[Trial], rules: Rules, exhausted: bool = False) -> Reason | None:
    """Why a search is to end now; None while it is to go on.

    Args:
        trials: The trials that have ended.
        rules: The search.
        exhausted: Whether there is nothing left to try, as when a grid has been walked.
    """
    leader = best(trials, rules.direction)
    if leader is not None and reached(leader.value, rules):
        return Reason.GOAL_REACHED
    # At least one: a limit of 0 means that no failure is allowed.
    if len(failed(trials)) >= max(1, rules.max_failed_trials):
        return Reason.MAX_FAILED_TRIALS_REACHED
    if len(trials) < rules.max_trials and not exhausted:
        return None
    if leader is None:
        return Reason.NO_METRIC
    return Reason.MAX_TRIALS_REACHED if len(trials) >= rules.max_trials else Reason.SEARCH_SPACE_EXHAUSTED


def conclude(trials: Iterable[Trial], rules: Rules) -> Study:
    """The study of a search whose last trial has ended."""
    ordered = sorted(trials, key=lambda trial: trial.number)
    reason = reason_to_end(ordered, rules, exhausted=True) or Reason.NO_METRIC
    lost = reason in (Reason.NO_METRIC, Reason.MAX_FAILED_TRIALS_REACHED)
    return Study("failed" if lost else "succeeded", reason, ordered, rules.direction)


def failure(study: Study) -> FoundryError:
    """The error of a search that failed: the first failing trial's own words first."""
    lost, count = failed(study.trials), len(study.trials)
    if not lost:
        remedy = "check the metric's name and the trials' logs" if count else "see why no trial was started"
        return FoundryError(f"no trial of {count} gave a finite value", where="tuning", remedy=remedy)
    first = lost[0]
    words = first.message or f"trial {first.number} ended without the objective metric"
    whole = f"all {count} trials" if len(lost) == count else f"{len(lost)} of {count} trials"
    leader = study.best
    kept = f"; the best of the others is {leader.value!r} with {dict(leader.params)}" if leader is not None else ""
    remedy = f"correct what trial {first.number} says, narrow the search's parameters, or raise max_failed_trials"
    return FoundryError(f"{whole} failed; the first one said: {words}; it had {dict(first.params)}{kept}", where="tuning", remedy=remedy)
