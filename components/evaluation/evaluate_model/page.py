"""The report of an evaluation."""

from collections.abc import Mapping

import numpy as np

from kfp_foundry.components.common.artifacts.evaluation import Evaluation, SliceResult
from kfp_foundry.components.common.metrics import catalogue
from kfp_foundry.components.common.metrics.scores import BinaryScores, MulticlassScores, RegressionScores, Scores
from kfp_foundry.components.common.metrics.slices import MIN_ROWS
from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.common.report.page import Report

SHOWN = 15  # slices in the figure
LISTED = 60  # slices in the table
ASIDE = {
    "positives": "true positives", "mean_probability": "mean probability", "mean_true": "mean true", "mean_predicted": "mean predicted",
}  # fmt: skip


def make_page(found: Evaluation, scores: Scores, importance: Mapping[str, float]) -> Report:
    """Makes the report.

    Args:
        found: The evaluation.
        scores: Predictions beside the truth, for figures.
        importance: Feature name to its share of the model's decisions.
    """
    about = f"{found.target} = {found.positive}" if found.positive else found.target
    report = Report("Evaluation", f"{about} · {found.algorithm} · {found.rows['judged']:,} test rows")
    tiles = {
        metric.title: found.metrics[metric.name].value for metric in catalogue.METRICS[found.task] if metric.name in catalogue.HEADLINES[found.task]
    }
    report.facts(tiles | ({"Threshold": found.threshold.value} if found.threshold else {}))
    for note in found.notes:
        report.text(note)
    _quality(report, found)
    if isinstance(scores, BinaryScores):
        _binary(report, found, scores)
    elif isinstance(scores, MulticlassScores):
        _multiclass(report, found, scores)
    elif isinstance(scores, RegressionScores):
        _regression(report, scores)
    _slices(report, found)
    if importance:
        ranked = sorted(importance.items(), key=lambda item: -item[1])[:20]
        report.section("Features", "Share of each feature in what the model learned; it says nothing of cause.")
        report.figure(plots.bars([name for name, _ in ranked], [value for _, value in ranked], "share"), "Importance")
    report.section("Made from").facts({"Model": found.model, "Test rows": found.test, "Validation rows": found.rows["validation"]})
    return report


def _quality(report: Report, found: Evaluation) -> None:
    report.section("Quality", f"On test rows; intervals hold with {percent(found.confidence, 0)} confidence (Poisson bootstrap).")
    rows = []
    for metric in catalogue.METRICS[found.task]:
        value = found.metrics.get(metric.name)
        if value is not None:
            rows.append(
                {"metric": metric.title, "value": value.value, "low": value.low, "high": value.high, "better": metric.better, "means": metric.meaning}
            )
    report.table(rows)


def _binary(report: Report, found: Evaluation, scores: BinaryScores) -> None:
    if found.threshold and found.confusion:
        report.section("Threshold", found.threshold.reason)
        report.figure(plots.matrix(found.confusion.matrix, found.confusion.labels, found.confusion.labels, "prediction", "truth"), "Confusion matrix")
        if pr := found.curves.get("precision_recall"):
            chosen = {"chosen": found.threshold.value}
            fig = plots.lines({"precision": (pr.at, pr.y), "recall": (pr.at, pr.x)}, "threshold", upright=chosen, unit=True)
            report.figure(fig, "Precision and recall by threshold")
    report.section("Ranking and probabilities")
    if roc := found.curves.get("roc"):
        fig = plots.lines(
            {"model": (roc.x, roc.y)}, "false positive rate", "true positive rate", diagonal=True, unit=True, marks={"threshold": _at(scores)}
        )
        report.figure(fig, "ROC curve")
    if pr := found.curves.get("precision_recall"):
        base = float(np.average(scores.truth, weights=scores.weights))
        chance: plots.Curve = ([0, 1], [base, base])
        report.figure(plots.lines({"model": (pr.x, pr.y), f"chance {human(base)}": chance}, "recall", "precision", unit=True), "Precision and recall")
    if points := found.curves.get("calibration"):
        fig = plots.lines({"model": (points.x, points.y)}, "mean probability", "frequency", diagonal=True, dots=True)
        report.figure(fig, "Calibration", note="On the dashed line probabilities can be taken at their word.")
    sides = {"negative": scores.probability[~scores.truth], "positive": scores.probability[scores.truth]}
    there = {name: values for name, values in sides.items() if len(values)}
    report.figure(plots.histogram(there, "probability", "share of the class", limits=(0, 1)), "Probabilities of both classes")
    across = "share of rows, most probable first"
    if gain := found.curves.get("gain"):
        report.figure(plots.lines({"model": (gain.x, gain.y)}, across, "share of positives found", diagonal=True, unit=True), "Gain")
    if lift := found.curves.get("lift"):
        report.figure(plots.lines({"model": (lift.x, lift.y)}, across, "times better than chance"), "Lift")


def _at(scores: BinaryScores) -> tuple[float, float]:
    """False and true positive rate at the threshold."""
    positive, negative = scores.weights * scores.truth, scores.weights * ~scores.truth
    return float(negative[scores.predicted].sum() / negative.sum()), float(positive[scores.predicted].sum() / positive.sum())


def _multiclass(report: Report, found: Evaluation, scores: MulticlassScores) -> None:
    if not found.confusion:
        return
    matrix, labels = np.asarray(found.confusion.matrix), found.confusion.labels
    report.section("Classes")
    report.figure(plots.matrix(matrix, labels, labels, "prediction", "truth"), "Confusion matrix", note="Shades are shares of the true class.")
    right, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    top, hit = scores.probability.max(axis=1), (scores.predicted == scores.truth).astype(np.float64)
    parts = [part for part in np.array_split(np.argsort(top, kind="stable"), min(10, len(top))) if len(part)]
    reliability = ([float(top[part].mean()) for part in parts], [float(hit[part].mean()) for part in parts])
    report.figure(
        plots.lines({"model": reliability}, "probability of the predicted class", "share that is right", diagonal=True, dots=True), "Calibration"
    )
    rows = [
        {
            "class": label,
            "rows": int(support[k]),
            "precision": float(right[k] / predicted[k]) if predicted[k] else None,
            "recall": float(right[k] / support[k]) if support[k] else None,
            "F1": float(2 * right[k] / (support[k] + predicted[k])) if support[k] + predicted[k] else None,
            "most often taken for": _mistaken(matrix[k], k, labels),
        }
        for k, label in enumerate(labels)
    ]
    report.table(sorted(rows, key=lambda row: (row["F1"] is None, row["F1"] or 0.0)), "By class, the worst first", bars=["rows"])


def _mistaken(row: np.ndarray, own: int, labels: list[str]) -> str:
    others = np.where(np.arange(len(row)) == own, 0, row)
    worst = int(others.argmax())
    return f"{labels[worst]} ({percent(others[worst] / row.sum())})" if others[worst] else ""


def _regression(report: Report, scores: RegressionScores) -> None:
    report.section("Errors", "Residual: true minus predicted.")
    report.figure(plots.scatter(scores.predicted, scores.truth, "predicted", "true", diagonal=True), "Predicted and true values")
    report.figure(plots.histogram(-scores.errors, "residual"), "Residuals", note="The first and the last bar hold all values beyond.")
    report.figure(plots.scatter(scores.predicted, -scores.errors, "predicted", "residual", level=0.0), "Residuals by prediction")
    parts = [part for part in np.array_split(np.argsort(scores.predicted, kind="stable"), min(10, len(scores))) if len(part)]
    predicted, true = ([float(values[part].mean()) for part in parts] for values in (scores.predicted, scores.truth))
    fig = plots.lines({"mean true value": (predicted, true), "perfect": (predicted, predicted)}, "mean prediction", "mean true value", dots=True)
    report.figure(fig, "Calibration", note="Ten groups of equally many rows, from the lowest prediction to the highest.")


def _slices(report: Report, found: Evaluation) -> None:
    if not found.slices:
        return
    metric = catalogue.metric(found.task, found.primary)
    whole = found.metrics[found.primary].value
    worse, judged = sum(each.standing == "worse" for each in found.slices), sum(each.value is not None for each in found.slices)
    note = f"The worst first. {worse} of {judged} slices are worse than all rows beyond their interval; chance gives about {_chance(found, judged)}."
    if judged < len(found.slices):
        note += f" Slices on which {metric.title} is not defined, as when all rows are of one class: {len(found.slices) - judged}."
    if found.slices_left_out:
        note += f" Slices with fewer than {MIN_ROWS} rows are not judged: {found.slices_left_out}."
    report.section("Slices", note)
    shown = [each for each in found.slices if each.value is not None and each.low is not None and each.high is not None][:SHOWN]
    if shown:
        report.figure(
            plots.intervals(
                [each.name for each in shown],
                [each.value or 0.0 for each in shown],
                [each.low or 0.0 for each in shown],
                [each.high or 0.0 for each in shown],
                metric.title,
                reference=whole,
                reference_name=f"all rows {human(whole)}",
            ),
            f"{metric.title} by slice",
        )
    report.table([_row(each, metric.title) for each in found.slices[:LISTED]], status="than all rows", bars=["rows"])
    if len(found.slices) > LISTED:
        report.text(f"{len(found.slices) - LISTED} more slices are in the evaluation's JSON.")


def _chance(found: Evaluation, judged: int) -> str:
    return human(max(1, round(judged * (1 - found.confidence) / 2)))


def _row(each: SliceResult, title: str) -> dict[str, object]:
    titles = {metric.name: metric.title for metrics in catalogue.METRICS.values() for metric in metrics}
    aside = {ASIDE.get(name, titles.get(name, name)): value for name, value in each.others.items()}
    return {"slice": each.name, "rows": each.rows, title: each.value, "low": each.low, "high": each.high, "than all rows": each.standing, **aside}
