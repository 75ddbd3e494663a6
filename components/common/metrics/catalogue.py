"""The metrics by name: what each means, and which direction is better."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError, close_names

Better = Literal["higher", "lower", "nearer to 0"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: As in parameters and JSON.
        title: As in reports.
        better: Which direction is better.
        meaning: In a few words, for a person.
        thresholded: Whether it depends on the threshold, so that one model has another value with another threshold.
    """

    name: str
    title: str
    better: Better
    meaning: str
    thresholded: bool = False

    def gain(self, challenger: NDArray[np.float64] | float, champion: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """By how much the challenger is better: positive whichever direction the metric has."""
        new, old = np.asarray(challenger, dtype=np.float64), np.asarray(champion, dtype=np.float64)
        if self.better == "higher":
            return np.asarray(new - old)
        return np.asarray(old - new) if self.better == "lower" else np.asarray(np.abs(old) - np.abs(new))


_AT = "at the chosen threshold"

BINARY = (
    Metric("auc", "AUC", "higher", "chance that a positive row is scored above a negative one"),
    Metric("average_precision", "Average precision (PR-AUC)", "higher", "precision, averaged over all recalls"),
    Metric("log_loss", "Log loss", "lower", "mean surprise at the truth, in nats"),
    Metric("brier", "Brier score", "lower", "mean squared error of the probability"),
    Metric("ece", "Calibration error (ECE)", "lower", "mean distance between probability and frequency, in 15 bins"),
    Metric("accuracy", "Accuracy", "higher", f"share of rows predicted right, {_AT}", thresholded=True),
    Metric("balanced_accuracy", "Balanced accuracy", "higher", f"mean of the recalls of both classes, {_AT}", thresholded=True),
    Metric("f1", "F1", "higher", f"harmonic mean of precision and recall, {_AT}", thresholded=True),
    Metric("precision", "Precision", "higher", f"share of predicted positives that are positive, {_AT}", thresholded=True),
    Metric("recall", "Recall", "higher", f"share of positives that are predicted positive, {_AT}", thresholded=True),
    Metric("mcc", "Matthews correlation (MCC)", "higher", f"correlation of prediction and truth, {_AT}", thresholded=True),
)
MULTICLASS = (
    Metric("accuracy", "Accuracy", "higher", "share of rows predicted right"),
    Metric("balanced_accuracy", "Balanced accuracy", "higher", "mean of the recalls of the classes"),
    Metric("f1_macro", "F1, macro", "higher", "mean of the classes' F1; rare classes count the same"),
    Metric("f1_weighted", "F1, weighted", "higher", "mean of the classes' F1, weighted by support"),
    Metric("log_loss", "Log loss", "lower", "mean surprise at the truth, in nats"),
    Metric("auc_ovr", "AUC, one class against the rest", "higher", "mean over the classes"),
    Metric("top_2", "Top-2 accuracy", "higher", "share of rows whose class is among the two most probable"),
    Metric("top_3", "Top-3 accuracy", "higher", "share of rows whose class is among the three most probable"),
)
REGRESSION = (
    Metric("rmse", "RMSE", "lower", "root of the mean squared error, in units of the target"),
    Metric("mae", "MAE", "lower", "mean absolute error, in units of the target"),
    Metric("medae", "Median absolute error", "lower", "half of the rows are predicted at least this well"),
    Metric("r2", "R²", "higher", "share of the target's variance that is explained"),
    Metric("mape", "MAPE", "lower", "mean error relative to the true value; only where no true value is 0"),
    Metric("bias", "Bias", "nearer to 0", "mean of predicted minus true, in units of the target"),
)
METRICS: dict[Task, tuple[Metric, ...]] = {Task.BINARY: BINARY, Task.MULTICLASS: MULTICLASS, Task.REGRESSION: REGRESSION}
HEADLINES: dict[Task, tuple[str, ...]] = {
    Task.BINARY: ("auc", "average_precision", "f1", "precision", "recall"),
    Task.MULTICLASS: ("log_loss", "accuracy", "balanced_accuracy", "f1_macro"),
    Task.REGRESSION: ("rmse", "mae", "r2", "bias"),
}
PRIMARY: dict[Task, str] = {Task.BINARY: "auc", Task.MULTICLASS: "log_loss", Task.REGRESSION: "rmse"}


def metric(task: Task, name: str, where: str = "metric") -> Metric:
    """The metric of that name; `auto` is the task's primary one: AUC, log loss or RMSE.

    Raises:
        UserError: The task has no such metric; the message says the close names.
    """
    wanted = PRIMARY[task] if name == "auto" else name
    known = {each.name: each for each in METRICS[task]}
    if wanted not in known:
        raise UserError(f"{name!r} is no metric of a {task} model", where=where, remedy=close_names(wanted, list(known)))
    return known[wanted]
