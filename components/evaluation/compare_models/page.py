"""The report of a comparison."""

from kfp_foundry.components.common.artifacts.comparison import Comparison
from kfp_foundry.components.common.metrics import curves
from kfp_foundry.components.common.metrics.catalogue import METRICS, metric
from kfp_foundry.components.common.metrics.scores import BinaryScores, RegressionScores, Scores
from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.evaluation.compare_models.verdict import unjudged

SHOWN = 40  # slices


def make_page(found: Comparison, scored: tuple[Scores, Scores] | None) -> Report:
    """Makes the report.

    Args:
        found: The comparison.
        scored: Predictions of challenger and champion beside the truth; None when they were not compared.
    """
    about = f" · {found.rows:,} test rows" if found.rows else ""
    report = Report("Challenger against champion", f"{found.model_name}{about}")
    report.verdict(found.outcome, found.reason)
    if scored:
        _tiles(report, found, scored[0])
    for note in found.notes:
        report.text(note)
    rows = [{"check": c.name, "outcome": c.outcome, "allowed": c.limit, "found": c.value, "in words": c.message} for c in found.checks]
    report.section("Rule", _rule(found)).table(rows)
    if scored:
        _differences(report, found, scored)
        _slices(report, found, scored[0])
    models = {"Challenger": found.challenger, "Champion": found.champion, "Champion's version": found.champion_version}
    if found.thresholds:
        models |= {
            f"{whose}'s threshold": human(at) for whose, at in (("Challenger", found.thresholds.challenger), ("Champion", found.thresholds.champion))
        }
    report.section("Made from").facts({name: value or "none" for name, value in models.items()})
    return report


def _tiles(report: Report, found: Comparison, scores: Scores) -> None:
    title, change = metric(scores.task, found.metric).title, found.differences[found.metric]
    better = None if change.probability_better is None else percent(change.probability_better)
    report.facts(
        {
            f"{title}, challenger": change.challenger,
            f"{title}, champion": change.champion,
            "Better by": change.gain,
            "Probability of being better": better,
            "Champion's version": found.champion_version,
        }
    )


def _rule(found: Comparison) -> str:
    rule = found.rule
    parts = [f"the challenger is better by at least {human(rule.min_gain)} in {found.metric}"]
    parts += [f"loses at most {human(loss)} in {name}" for name, loss in sorted(rule.max_loss.items())]
    if rule.max_slice_loss:
        parts.append(f"loses at most {human(rule.max_slice_loss)} on any slice")
    return f"It passes when {', and '.join(parts)}."


def _differences(report: Report, found: Comparison, scored: tuple[Scores, Scores]) -> None:
    note = (
        f"Same rows for both; intervals of the gain from a paired bootstrap, {percent(found.confidence, 0)}. A gain is an improvement in every row."
    )
    report.section("Differences", note)
    rows = []
    for each in METRICS[scored[0].task]:
        change = found.differences.get(each.name)
        if change is None:
            continue
        standing = "same"
        if change.low is not None and change.high is not None:
            standing = "better" if change.low > 0 else "worse" if change.high < 0 else "same"
        rows.append(
            {
                "metric": each.title,
                "challenger": change.challenger,
                "champion": change.champion,
                "gain": change.gain,
                "low": change.low,
                "high": change.high,
                "challenger is": standing,
                "probability of being better": None if change.probability_better is None else percent(change.probability_better),
            }
        )
    report.table(rows, status="challenger is")
    challenger, champion = scored
    if isinstance(challenger, BinaryScores) and isinstance(champion, BinaryScores):
        pair = {"challenger": challenger, "champion": champion}
        roc = {name: (curve.x, curve.y) for name, scores in pair.items() if (curve := curves.roc(scores)).x}
        if roc:
            report.figure(plots.lines(roc, "false positive rate", "true positive rate", diagonal=True, unit=True), "ROC curve")
        points = {name: (curve.x, curve.y) for name, scores in pair.items() if (curve := curves.calibration(scores)).x}
        report.figure(plots.lines(points, "mean probability", "frequency", diagonal=True, dots=True), "Calibration")
    if isinstance(challenger, RegressionScores) and isinstance(champion, RegressionScores):
        report.figure(plots.histogram({"challenger": -challenger.errors, "champion": -champion.errors}, "residual"), "Residuals")


def _slices(report: Report, found: Comparison, scores: Scores) -> None:
    if not (found.slices or found.slices_left_out):
        return
    title = metric(scores.task, found.metric).title
    note = [f"{title}; the largest loss first. Intervals are worked out where the loss is beyond the limit.", *unjudged(found)]
    if len(found.slices) > SHOWN:
        note.append(f"{len(found.slices) - SHOWN:,} more slices are in the verdict's JSON.")
    report.section("Slices", " ".join(note))
    rows = [
        {"slice": s.name, "rows": s.rows, "challenger": s.challenger, "champion": s.champion, "gain": s.gain, "low": s.low, "high": s.high}
        for s in found.slices[:SHOWN]
    ]
    report.table(rows, bars=["rows"])
