"""The page that a training leaves: how good, on what it rests, how it came about, and how exact the served form is."""

from kfp_foundry.components.common.artifacts.model import ModelRecord
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.learning.export import Trained
from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.page import Report

SHOWN = 20  # features in the plot


def page(record: ModelRecord, trained: Trained, contract: Contract) -> Report:
    """Builds the report of a training."""
    report = Report("Training", f"{record.algorithm}, {record.task} target {record.target!r}, {record.rows['train']:,} rows")
    report.verdict(
        "pass", f"The served form equals the trained model: largest difference {record.parity.max_difference:.2g} on {record.parity.rows:,} rows."
    )
    report.facts(
        {"Training rows": record.rows["train"], "Validation rows": record.rows["validation"], "Features": len(contract.features), **_tiles(record)}
    )
    if record.rows["dropped"]:
        report.text(f"{record.rows['dropped']:,} rows were left out: they have no target, or a class that no training row has.")
    for note in trained.fitted.notes:
        report.text(note)
    report.section("Validation metrics", "On rows that were not fitted; they chose when to stop, so the test rows of the evaluation decide.")
    report.table([{"metric": name, "value": value} for name, value in record.metrics.items()])
    if trained.fitted.curve:
        rounds = {name: (list(range(1, len(losses) + 1)), losses) for name, losses in trained.fitted.curve.items()}
        word = "epoch" if record.algorithm == "residual_mlp" else "round"
        report.section("Learning curve", f"{record.rounds} {word}s are kept.")
        report.figure(
            plots.lines(rounds, xlabel=word, ylabel=trained.fitted.loss), caption=f"Loss after each {word}", alt=f"Loss after each {word} of training"
        )
    shares = {name: share for name, share in record.importance.items() if share > 0}
    report.section("Feature importance", _IMPORTANCE[record.algorithm])
    if shares:
        report.figure(plots.bars(list(shares)[:SHOWN], list(shares.values())[:SHOWN], label="share"), caption="Share of each feature")
    unused = [name for name in record.importance if name not in shares]
    if unused:
        report.text(without_share(record.algorithm, unused))
    _exactness(report, record)
    report.section("How to train it again")
    given = {"algorithm": record.algorithm, **record.params, **record.options, "seed": record.seed}
    report.table([{"parameter": name, "value": str(value)} for name, value in given.items()], caption="Parameters")
    report.table([{"library": name, "version": number} for name, number in record.versions.items()], caption="Versions")
    return report


def without_share(algorithm: str, names: list[str]) -> str:
    """What is true of columns whose importance is 0: a network reads every column, whatever that is worth."""
    if algorithm == "residual_mlp":
        return f"No rise of the loss was measured when these columns' values change rows: {', '.join(names)}."
    return f"Not used by the model: {', '.join(names)}."


_IMPORTANCE = {
    "lightgbm": "Share of the total gain of all splits on a feature.",
    "hist_gradient_boosting": "Share of the total gain of all splits on a feature.",
    "linear": "Share of the absolute coefficients, each times the spread of its column.",
    "residual_mlp": "How much the loss rises when a column's values change rows, as a share of all such rises; on validation rows if there are any.",
    "module": "Share of the mean absolute slope of the scores along each column, times the spread of the column.",
}


def _tiles(record: ModelRecord) -> dict[str, object]:
    shown = {Task.BINARY: ("auc", "log_loss"), Task.MULTICLASS: ("accuracy", "log_loss"), Task.REGRESSION: ("rmse", "r2")}[record.task]
    names = {"auc": "AUC", "log_loss": "Log loss", "accuracy": "Accuracy", "rmse": "RMSE", "r2": "R2"}
    return {names[name]: record.metrics[name] for name in shown if name in record.metrics}


def _exactness(report: Report, record: ModelRecord) -> None:
    parity = record.parity
    report.section(
        "Exactness of the served form", "The ONNX graph against the library's own prediction, row by row; a model above the limit is not published."
    )
    report.facts({"Largest difference": parity.max_difference, "Allowed": parity.tolerance, "Labels that differ": parity.changed_labels})
    report.table([{"rows": kind, "compared": count} for kind, count in parity.kinds.items()])
