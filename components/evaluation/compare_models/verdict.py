"""The rule applied: one check per part of it."""

from kfp_foundry.components.common.artifacts.comparison import Comparison, Difference, SliceDifference
from kfp_foundry.components.common.artifacts.verdict import Check, Outcome
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.metrics.catalogue import Metric, metric
from kfp_foundry.components.common.metrics.slices import MIN_ROWS
from kfp_foundry.components.common.report.format import human, percent


def decide(found: Comparison, task: Task) -> list[Check]:
    """Judges the differences by the rule.

    Args:
        found: The comparison with its differences and slices.
        task: Says what the metrics' names mean.
    """
    checks = [_gain(found, metric(task, found.metric))]
    checks += [_guard(found, metric(task, name), limit) for name, limit in sorted(found.rule.max_loss.items())]
    if found.rule.max_slice_loss:
        checks += _slices(found, metric(task, found.metric))
    return checks


def summary(found: Comparison, task: Task) -> str:
    """The comparison in one sentence."""
    title = metric(task, found.metric).title
    change = found.differences[found.metric]
    broken = [check.name for check in found.checks if check.outcome == "fail"]
    tail = f"; refused by: {', '.join(broken[:5])}" if broken else ""
    if found.same_model and found.thresholds:
        cut = f"a threshold of {human(found.thresholds.challenger)} in place of {human(found.thresholds.champion)}"
        return f"The challenger is the champion's model (version {found.champion_version}) with {cut}{tail}."
    if change.gain is None:
        return f"{title} is not defined on these rows, so challenger and champion cannot be compared."
    return f"The challenger is {_said(change, title)} than the champion (version {found.champion_version}){tail}."


def _said(change: Difference, title: str) -> str:
    gain = change.gain or 0.0
    if gain == 0:
        return f"no better and no worse in {title}"
    size = f"{human(abs(gain))} {'better' if gain > 0 else 'worse'} in {title}"
    return size if change.low is None else f"{size} (gain {human(change.low)} to {human(change.high)})"


def _gain(found: Comparison, wanted: Metric) -> Check:
    change, least = found.differences[wanted.name], found.rule.min_gain
    name, limit = f"gain: {wanted.name}", f"at least {human(least)}"
    if found.same_model and not wanted.thresholded:
        message = f"{wanted.title}: {human(change.challenger)} for both; they are one model, and no threshold changes it, so no gain is asked for."
        return Check(name=name, outcome="pass", limit=limit, value=change.gain, message=message)
    if change.gain is None:
        return _undefined(found, name, limit, wanted)
    enough = change.gain >= least
    both = f"{human(change.challenger)} against the champion's {human(change.champion)}"
    message = f"{wanted.title}: {both}, a gain of {human(change.gain)}{_sure(found, change)}."
    if enough and change.low is not None and change.low < least:
        message += " The interval reaches below the limit, so the gain may be chance."
    return Check(name=name, outcome="pass" if enough else "fail", limit=limit, value=change.gain, message=message)


def _guard(found: Comparison, guard: Metric, most: float) -> Check:
    change = found.differences.get(guard.name)
    name, limit = f"max_loss: {guard.name}", f"at most {human(most)}"
    if change is None or change.gain is None:
        return _undefined(found, name, limit, guard)
    loss = 0.0 - change.gain
    message = f"{guard.title}: {human(change.challenger)} against the champion's {human(change.champion)}{_sure(found, change)}."
    return Check(name=name, outcome="pass" if loss <= most else "fail", limit=limit, value=loss, message=message)


def _slices(found: Comparison, wanted: Metric) -> list[Check]:
    most = found.rule.max_slice_loss
    beyond = [each for each in found.slices if each.gain is not None and -each.gain > most]
    judged = sum(each.gain is not None for each in found.slices)
    if beyond:
        return [_slice(found, each, wanted, most) for each in beyond]
    said = [f"{wanted.title} loses at most {human(most)} on each of {judged:,} slices." if judged else "No slice could be judged."]
    said += unjudged(found)
    outcome: Outcome = "pass" if judged else "warn"
    return [Check(name="max_slice_loss", outcome=outcome, limit=f"at most {human(most)}", value=_worst(found.slices), message=" ".join(said))]


def unjudged(found: Comparison) -> list[str]:
    """How many slices could not be compared, one sentence per reason."""
    undefined = sum(each.gain is None for each in found.slices)
    said = [f"Slices on which it is not defined, as when all rows are of one class: {undefined:,}."] if undefined else []
    return said + ([f"Slices with fewer than {MIN_ROWS} rows: {found.slices_left_out:,}."] if found.slices_left_out else [])


def _slice(found: Comparison, each: SliceDifference, wanted: Metric, most: float) -> Check:
    certain = each.high is not None and each.high < 0
    message = f"{wanted.title} on {each.rows:,} rows: {human(each.challenger)} against the champion's {human(each.champion)}{_sure(found, each)}."
    if not certain:
        message += " The interval reaches 0, so the loss may be chance."
    outcome = "fail" if certain else "warn"
    return Check(
        name=f"max_slice_loss: {each.name}", outcome=outcome, limit=f"at most {human(most)}", value=0.0 - (each.gain or 0.0), message=message
    )


def _undefined(found: Comparison, name: str, limit: str, wanted: Metric) -> Check:
    message = f"{wanted.title} is not defined on these rows for both models, as when all rows are of one class."
    return Check(name=name, outcome=found.rule.on_incomparable, limit=limit, message=message)


def _sure(found: Comparison, change: Difference) -> str:
    """Interval and probability of a gain, in brackets."""
    if change.low is None or change.high is None or change.probability_better is None:
        return ""
    interval = f"{percent(found.confidence, 0)} interval of the gain {human(change.low)} to {human(change.high)}"
    return f" ({interval}; better in {percent(change.probability_better)} of the replicates)"


def _worst(slices: list[SliceDifference]) -> float | None:
    return max((0.0 - each.gain for each in slices if each.gain is not None), default=None)
