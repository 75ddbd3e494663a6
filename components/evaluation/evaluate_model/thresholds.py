"""Choosing the probability from which the positive class is predicted."""

from dataclasses import dataclass

import numpy as np

from kfp_foundry.components.common.artifacts.evaluation import Threshold
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.metrics.scores import BinaryScores, Floats
from kfp_foundry.components.common.report.format import human

METHODS = ["f1", "cost", "precision", "recall"]
DEFAULT = 0.5


@dataclass(frozen=True)
class Rule:
    """How the threshold is chosen.

    Args:
        method: One of `METHODS`, or a probability as text.
        cost_false_positive: Cost of a false alarm, for `cost`.
        cost_false_negative: Cost of a miss, for `cost`.
        min_precision: Smallest precision allowed, 0 to 1.
        min_recall: Smallest recall allowed, 0 to 1.

    Raises:
        UserError: Another word, or a number out of range.
    """

    method: str = "f1"
    cost_false_positive: float = 1.0
    cost_false_negative: float = 1.0
    min_precision: float = 0.0
    min_recall: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS and not 0 <= _probability(self.method) <= 1:
            remedy = f"give {', '.join(METHODS)} or a probability from 0 to 1"
            raise UserError(f"threshold is {self.method!r}", where="evaluate_model", remedy=remedy)
        for name in ("min_precision", "min_recall"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}", where="evaluate_model", remedy="give a share from 0 to 1")
        if self.method in ("precision", "recall") and getattr(self, f"min_{self.method}") == 0:
            raise UserError(
                f"threshold is {self.method!r}, but min_{self.method} is 0", where="evaluate_model", remedy=f"give min_{self.method}, such as 0.8"
            )
        costs = (self.cost_false_positive, self.cost_false_negative)
        if min(costs) < 0 or not np.isfinite(costs).all() or (self.method == "cost" and max(costs) == 0):
            raise UserError(f"the costs are {costs[0]} and {costs[1]}", where="evaluate_model", remedy="give costs of 0 or more, not both 0")


def choose(rule: Rule, validation: BinaryScores | None) -> Threshold:
    """Chooses the threshold on validation rows.

    Args:
        rule: How.
        validation: Probabilities of the validation rows beside the truth; None when there are no such rows.

    Returns:
        The threshold, between the probabilities of two rows, so that last bits of a sum decide nothing.

    Raises:
        UserError: No threshold has the precision and recall asked for; the message says what can be reached.
    """
    if rule.method not in METHODS:
        return Threshold(value=float(rule.method), method="fixed", reason=f"Given: {rule.method}.")
    if validation is None or validation.truth.all() or not validation.truth.any():
        lack = "there are no validation rows" if validation is None else "all validation rows are of one class"
        return Threshold(value=DEFAULT, method="default", reason=f"{human(DEFAULT)}, because {lack} and {rule.method!r} cannot be worked out.")
    options = _Options(validation)
    allowed = (options.precision >= rule.min_precision) & (options.recall >= rule.min_recall) & options.possible
    if not allowed.any():
        raise _unreachable(rule, options)
    best = int(np.where(allowed, options.worth(rule), -np.inf).argmax())
    return Threshold(value=options.between(best), method=rule.method, reason=options.said(rule, best))


class _Options:
    """The thresholds that part the validation rows differently, from none positive to all positive."""

    def __init__(self, scores: BinaryScores) -> None:
        ends, order = scores.ends, scores.order
        weights = scores.weights[order]
        tp = np.cumsum(weights * scores.truth[order])[ends]
        every = np.cumsum(weights)[ends]
        self.levels = scores.probability[order][ends]  # falling
        self.tp = np.concatenate([[0.0], tp])
        self.fp = np.concatenate([[0.0], np.maximum(every - tp, 0.0)])
        self.rows = float(weights.sum())
        self.recall = self.tp / self.tp[-1]
        self.precision = np.divide(self.tp, self.tp + self.fp, out=np.zeros_like(self.tp), where=self.tp + self.fp > 0)
        self.f1 = 2 * self.tp / (self.tp[-1] + self.tp + self.fp)
        self.possible = np.ones(len(self.tp), dtype=bool)
        self.possible[0] = self.levels[0] < 1  # no probability is above 1

    def cost(self, rule: Rule) -> Floats:
        """Cost per row."""
        misses = self.tp[-1] - self.tp
        return np.asarray((rule.cost_false_positive * self.fp + rule.cost_false_negative * misses) / self.rows)

    def worth(self, rule: Rule) -> Floats:
        """What is to be largest."""
        return {"f1": self.f1, "precision": self.recall, "recall": self.precision}[rule.method] if rule.method != "cost" else -self.cost(rule)

    def between(self, option: int) -> float:
        """The shortest decimal fraction above the next lower probability and not above this one."""
        if option == len(self.levels):
            return 0.0
        low, high = float(self.levels[option]), float(self.levels[option - 1]) if option else 1.0
        middle = (low + high) / 2
        return next((short for short in (round(middle, digits) for digits in range(1, 18)) if low < short <= high), high)

    def said(self, rule: Rule, option: int) -> str:
        """The choice in a sentence."""
        limits = [f"{name} of at least {human(least)}" for name, least in (("precision", rule.min_precision), ("recall", rule.min_recall)) if least]
        goal = {"f1": "Largest F1", "cost": "Least cost", "precision": "Largest recall", "recall": "Largest precision"}[rule.method]
        found = f"precision {human(float(self.precision[option]))}, recall {human(float(self.recall[option]))}, F1 {human(float(self.f1[option]))}"
        if rule.method == "cost":
            costs = f"{human(rule.cost_false_positive)} per false alarm and {human(rule.cost_false_negative)} per miss"
            found = f"{human(float(self.cost(rule)[option]))} per row at {costs}; {found}"
        return f"{goal}{' with ' + ' and '.join(limits) if limits else ''} on the validation rows: {found}."


def _unreachable(rule: Rule, options: _Options) -> UserError:
    asked = " and ".join(f"{name} >= {human(least)}" for name, least in (("precision", rule.min_precision), ("recall", rule.min_recall)) if least)
    enough = options.recall >= rule.min_recall
    enough[0] = False  # nothing predicted has no precision
    reached = f"the largest precision{' with that recall' if rule.min_recall else ''} is {human(float(options.precision[enough].max()))}"
    return UserError(
        f"no threshold has {asked} on the validation rows; {reached}", where="evaluate_model", remedy="ask for less, or train a better model"
    )


def _probability(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
