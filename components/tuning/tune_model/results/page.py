"""The page of a search: what won, how the search got there, what mattered, and every trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.tuning.tune_model.results import importance
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.space import Parameter, Scalar
from kfp_foundry.components.tuning.tune_model.study import Reason, State, Study, Trial, better, failed

SHOWN_AXES = 8  # parameters in the plot of parallel coordinates
WORDS = {
    State.SUCCEEDED: "done",
    State.EARLY_STOPPED: "stopped early",
    State.FAILED: "failed",
    State.METRICS_UNAVAILABLE: "no metric",
}
ENDS = {
    Reason.GOAL_REACHED: "The goal was reached.",
    Reason.MAX_TRIALS_REACHED: "All trials were run.",
    Reason.SEARCH_SPACE_EXHAUSTED: "There was nothing left to try.",
    Reason.MAX_FAILED_TRIALS_REACHED: "Too many trials failed.",
    Reason.NO_METRIC: "No trial gave a finite value.",
}


@dataclass(frozen=True)
class About:
    """What the page says beside the trials.

    Args:
        algorithm: The training's algorithm.
        engine: Where the trials ran, and why there.
        measured: On which rows a trial is measured, as a sentence.
        params: The parameters that come out.
        warnings: What Katib would do otherwise, one sentence each.
        tracking: Where the trials are logged, or why they are not.
    """

    algorithm: str
    engine: str
    measured: str
    params: Mapping[str, Any]
    warnings: Sequence[str]
    tracking: str


def page(study: Study, search: Search, about: About) -> Report:
    """Builds the report of a search."""
    report = Report("Tuning", f"{about.algorithm}, {search.metric}, {len(study.trials)} trials by {search.algorithm}")
    _verdict(report, study, search)
    _summary(report, study, search)
    report.text(f"{about.measured} {about.engine} {about.tracking}")
    if study.best is not None:
        report.section("Best parameters", "With those that were fixed, ready for a training: its model will have this very metric.")
        rows = [{"parameter": name, "value": _shown(value), "from": _origin(name, search)} for name, value in about.params.items()]
        report.table(rows, status="")
    _course(report, study, search)
    _parallel(report, study, search)
    _importance(report, study, search)
    _timeline(report, study)
    _trials(report, study, search)
    report.section("The search")
    report.table([{"setting": name, "value": human(value)} for name, value in _settings(search).items()], status="")
    note = "This search was written down once for both engines. Katib's services do not honour all of it:"
    report.section("On Katib", note if about.warnings else "Katib's services honour all of this search.")
    for warning in about.warnings:
        report.text(f"{warning[0].upper()}{warning[1:]}.")
    return report


def disabled(params: Mapping[str, Any]) -> Report:
    """The page of a step that was told not to search."""
    report = Report("Tuning", "not enabled")
    report.text("No search was asked for (enabled=false): the parameters came out as they came in.")
    if params:
        report.table([{"parameter": name, "value": _shown(value)} for name, value in params.items()], status="")
    return report


def _verdict(report: Report, study: Study, search: Search) -> None:
    best, lost = study.best, failed(study.trials)
    if study.state != "succeeded" or best is None:
        report.verdict("fail", f"{ENDS[study.reason]} {lost[0].message}" if lost else ENDS[study.reason])
        return
    told = f"{ENDS[study.reason]} Trial {best.number} is the best: {search.metric} {human(best.value)}."
    report.verdict("warn" if lost else "pass", f"{told} {'One trial' if len(lost) == 1 else f'{len(lost)} trials'} failed." if lost else told)


def _summary(report: Report, study: Study, search: Search) -> None:
    early = sum(trial.state is State.EARLY_STOPPED for trial in study.trials)
    tiles: dict[str, object] = {f"Best {search.metric}": study.best.value} if study.best is not None else {}
    tiles |= {"Trials": len(study.trials), "Failed": len(failed(study.trials))}
    if search.early_stopping or search.algorithm == "hyperband":
        tiles["Stopped early"] = early
    seconds = [trial.seconds for trial in study.trials]
    if any(seconds):
        tiles |= {"Time in trials": _time(sum(seconds)), "Longest trial": _time(max(seconds))}
    report.facts(tiles)


def _course(report: Report, study: Study, search: Search) -> None:
    known = [trial for trial in study.trials if trial.value is not None]
    if not known:
        return
    report.section("Course of the search")
    kinds: dict[str, tuple[list[int], list[float]]] = {}
    leaders: list[float] = []
    for trial in known:
        x, y = kinds.setdefault(WORDS[trial.state], ([], []))
        value = float(trial.value or 0.0)
        x.append(trial.number)
        y.append(value)
        leaders.append(value if not leaders or better(value, leaders[-1], search.direction) else leaders[-1])
    numbers = [trial.number for trial in known]
    figure = plots.course(kinds, (numbers, leaders), "trial", search.metric, search.goal, "goal")
    report.figure(figure, "Value of each trial", "Value of each trial and the best so far", f"{search.direction.capitalize()}d: {_towards(search)}.")
    curves = {f"trial {trial.number}": (range(1, len(trial.reports) + 1), trial.reports) for trial in _leaders(study, 5) if len(trial.reports) > 2}
    if curves:
        note = "The last point of a line is the finished model, cut back to its best round where it ends early."
        report.figure(plots.lines(curves, "report", search.metric), "The best five while they trained", "Reports of the best trials", note)


def _towards(search: Search) -> str:
    return "lower is better" if search.direction == "minimize" else "higher is better"


def _leaders(study: Study, count: int) -> list[Trial]:
    sign = -1.0 if study.direction == "maximize" else 1.0
    able = [trial for trial in study.trials if trial.value is not None and trial.state in (State.SUCCEEDED, State.EARLY_STOPPED)]
    return sorted(able, key=lambda trial: (sign * (trial.value or 0.0), trial.number))[:count]


def _parallel(report: Report, study: Study, search: Search) -> None:
    ordered = _leaders(study, len(study.trials))
    if len(ordered) < 2:
        return
    words = dict(list(search.parameters.items())[:SHOWN_AXES])
    rows = [[*(_place(known, trial.params.get(name)) for name, known in words.items())] for trial in ordered]
    values = [float(trial.value or 0.0) for trial in ordered]
    low, high = min(values), max(values)
    heights = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    ranks = [1 - place / max(1, len(ordered) - 1) for place in range(len(ordered))]
    ticks = [*(_ticks(known) for known in words.values()), {0.0: human(low), 0.5: human((low + high) / 2), 1.0: human(high)}]
    drawn = plots.parallel([*words, search.metric], ticks, [[*row, height] for row, height in zip(rows, heights, strict=True)], ranks, 0)
    left_out = f" The first {SHOWN_AXES} parameters." if len(search.parameters) > SHOWN_AXES else ""
    report.section("Parallel coordinates", f"A line is a trial; the better it is, the stronger its colour, and the best one stands out.{left_out}")
    report.figure(drawn, "Trials across the parameters", "Parallel coordinates of all trials")


def _place(words: Parameter, value: Scalar | None) -> float:
    """Where a value stands on its axis, 0 to 1."""
    if value is None:
        return math.nan
    if not words.numeric:
        known = [str(option) for option in words.values]
        return known.index(str(value)) / max(1, len(known) - 1) if str(value) in known else math.nan
    low, high = words.range
    if high == low:
        return 0.5
    number = min(max(float(value), low), high)
    if words.log:
        return (math.log(number) - math.log(low)) / (math.log(high) - math.log(low))
    return (number - low) / (high - low)


def _ticks(words: Parameter) -> dict[float, str]:
    if not words.numeric:
        return {place / max(1, len(words.values) - 1): str(option) for place, option in enumerate(words.values)}
    low, high = words.range
    if high == low:
        return {0.5: human(low)}
    middle = math.sqrt(low * high) if words.log else (low + high) / 2
    return {0.0: human(low), 0.5: human(round(middle) if words.type == "int" else middle), 1.0: human(high)}


def _importance(report: Report, study: Study, search: Search) -> None:
    found = importance.of(study, search)
    note = "Share of the differences between finished trials that a parameter accounts for (fANOVA): a hint of where to look, not a proof."
    report.section("What mattered", note if found.shares else found.why_not)
    if found.shares:
        report.figure(plots.bars(list(found.shares), list(found.shares.values()), label="share"), "Importance of the parameters")


def _timeline(report: Report, study: Study) -> None:
    timed = sorted((trial for trial in study.trials if trial.started and trial.seconds), key=lambda trial: trial.started)
    if not timed:
        return
    first, rows, ends = timed[0].started, [], [0.0] * 0
    for trial in timed:  # the first row that is free again
        begin = trial.started - first
        row = next((row for row, end in enumerate(ends) if end <= begin + 1e-6), len(ends))
        ends[row:] = [begin + trial.seconds, *ends[row + 1 :]]
        rows.append(row)
    report.section("Timeline", "Each bar is a trial; trials in one row ran one after another. A break is a time when the search was not running.")
    starts, lengths = [trial.started - first for trial in timed], [trial.seconds for trial in timed]
    report.figure(plots.spans(rows, starts, lengths, [WORDS[trial.state] for trial in timed], "seconds"), "When the trials ran")


def _trials(report: Report, study: Study, search: Search) -> None:
    report.section("Trials", "Best first.")
    order = {trial.number: place for place, trial in enumerate(_leaders(study, len(study.trials)))}
    listed = sorted(study.trials, key=lambda trial: (order.get(trial.number, len(order)), trial.number))
    names = sorted({name for trial in study.trials for name in trial.metrics})
    rows = []
    for trial in listed:
        row: dict[str, object] = {"trial": trial.number, "outcome": WORDS[trial.state], search.metric: trial.value}
        row |= {name: trial.params.get(name) for name in search.parameters} | {name: trial.metrics.get(name) for name in names}
        row["seconds"] = round(trial.seconds, 2) if trial.seconds else None
        rows.append(row | ({"message": trial.message or None} if failed(study.trials) else {}))
    report.table(rows)


def _settings(search: Search) -> dict[str, object]:
    ranges = {name: _range(words) for name, words in search.parameters.items()}
    rest = search.model_dump(exclude={"parameters"}, exclude_none=True)
    return {**{f"range of {name}": words for name, words in ranges.items()}, **rest}


def _range(words: Parameter) -> str:
    if not words.numeric:
        return ", ".join(str(option) for option in words.values)
    low, high = words.range
    marks = [f"steps of {human(words.step)}"] if words.step is not None else []
    marks += ["logarithmic"] if words.log else []
    return f"{human(low)} to {human(high)} ({', '.join([words.type, *marks])})"


def _origin(name: str, search: Search) -> str:
    return "search" if name in search.parameters else "fixed"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
