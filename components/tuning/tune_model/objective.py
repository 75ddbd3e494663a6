"""What a trial does: the training that `train_model` does, on rows that are prepared once, and its metrics.

Nothing here knows which engine asks. A trial's value is the metric of the finished model on the validation rows, so a model that
`train_model` makes with the same parameters has it too, to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError, close_names
from kfp_foundry.components.common.learning import data, parameters
from kfp_foundry.components.common.learning.fit import MEASURED, Options, Prepared, assemble, learn, prepare, score, with_params
from kfp_foundry.components.common.learning.learner import Watch
from kfp_foundry.components.common.metrics import scores
from kfp_foundry.components.tuning.tune_model import folds

Report = Callable[[str, float], None]

# Algorithms whose training can be looked at while it runs, and how many rounds or epochs lie between two looks.
WATCHED = {"lightgbm": 10, "residual_mlp": 1}
MODULES = {
    "lightgbm": "fit_lightgbm",
    "hist_gradient_boosting": "fit_hist_gradient_boosting",
    "linear": "fit_linear",
    "residual_mlp": "fit_network",
}


@dataclass(frozen=True)
class Setup:
    """What an objective is made of; plain values, since it travels to other processes.

    Args:
        train: Folder of the training rows.
        validation: Folder of the validation rows.
        contract: File of the contract.
        options: Fields of `fit.Options`; their params are those that every trial has.
        metric: The metric that is searched for.
        folds: Cross-validation on the training rows instead of the validation rows; 0 for none.
        method: How the split was made, for the folds; `auto` for what the contract suggests.
        watched: Whether the metric is reported while a trial trains.
        looks: Rounds or epochs at which it is reported; empty for every tenth round, every epoch.
        threads: CPUs per trial; 0 for all.
    """

    train: str
    validation: str
    contract: str
    options: Mapping[str, Any]
    metric: str
    folds: int = 0
    method: str = "auto"
    watched: bool = False
    looks: Sequence[int] = field(default_factory=tuple)
    threads: int = 0


def load(**given: Any) -> "Objective":
    """Reads the tables and prepares an objective; the arguments are those of `Setup`.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
        PlatformError: The algorithm's library is not installed.
    """
    setup = Setup(**given)
    options = Options(**setup.options)
    _require(options.algorithm)
    contract = Contract.load(setup.contract)
    train, validation = DatasetFolder.open(setup.train), DatasetFolder.open(setup.validation)
    if setup.folds:
        prepared = _prepare_folds(train, contract, options, setup)
    else:
        prepared = [prepare(train, validation, contract, options)]
        if not len(prepared[0].validation):
            raise DataError("no validation row has a target", where="tuning", remedy="raise validation_share, or give folds")
    return Objective(prepared, setup.metric, setup.watched, setup.looks, setup.threads)


class Objective:
    """Trains with some parameters and measures.

    Args:
        prepared: The rows; several for cross-validation.
        metric: The metric that is searched for.
        watched: Whether it is reported while a trial trains.
        looks: At which rounds or epochs; empty for those of `WATCHED`.
        threads: CPUs per trial; 0 for as many as the preparation found. The metrics do not depend on it.

    Example:
        >>> objective = load(train="train", validation="validation", contract="contract.yaml", options={}, metric="log_loss")
        >>> objective.value({"num_leaves": 63}, lambda name, value: None)["log_loss"]
    """

    def __init__(self, prepared: Sequence[Prepared], metric: str, watched: bool = False, looks: Sequence[int] = (), threads: int = 0) -> None:
        self.algorithm = prepared[0].options.algorithm
        self.metric = check_metric(metric, prepared[0].task)
        self.threads = threads or prepared[0].job.threads
        self.watched = watched and self.algorithm in WATCHED and len(prepared) == 1
        self.looks = frozenset(looks)
        # What fits keep for each other, such as binned columns, is kept from trial to trial.
        self.prepared = [replace(rows, job=replace(rows.job, threads=self.threads, shared={})) for rows in prepared]

    def value(self, params: Mapping[str, Any], report: Report) -> dict[str, float]:
        """Trains and measures.

        Args:
            params: Of this trial; joined to those that every trial has.
            report: Told the metric's name and value while the trial trains, after each fold of a cross-validation, and not at the
                end. What it raises ends the trial: `Stopped` for one that is not worth finishing.

        Returns:
            All metrics of the task by name; of a cross-validation their means.

        Raises:
            UserError: The library refuses a value.
        """
        fixed = self.prepared[0].options.params
        found: list[dict[str, float]] = []
        with self._limited():
            for rows in self.prepared:
                trial = with_params(rows, {**fixed, **params})
                watching = replace(trial, job=replace(trial.job, watch=self._watch(trial, report))) if self.watched else trial
                found.append(score(watching, learn(self.algorithm, watching.job)))
                if len(self.prepared) > 1 and self.metric in found[-1]:
                    report(self.metric, _means(found).get(self.metric, float("nan")))
        return found[0] if len(found) == 1 else _means(found)

    def _limited(self) -> AbstractContextManager[Any]:
        # LightGBM is told its threads; the others take as many as OpenMP gives.
        if self.algorithm == "lightgbm":
            return nullcontext()
        from threadpoolctl import threadpool_limits

        limits: AbstractContextManager[Any] = threadpool_limits(self.threads)
        return limits

    def _watch(self, rows: Prepared, report: Report) -> Watch:
        held, ranked = rows.validation, self.metric in ("auc", "average_precision")

        def look(number: int, values: Callable[[], np.ndarray]) -> None:
            if number in self.looks or (not self.looks and number % WATCHED[self.algorithm] == 0):
                metrics = scores.of(rows.task, held.target, values(), held.weights).metrics(ranking=ranked)
                report(self.metric, float(metrics[self.metric][0]))

        return look


def preload(algorithm: str) -> None:
    """Imports the algorithm's library: before processes are forked, so that none of them has to."""
    import importlib

    importlib.import_module(f"kfp_foundry.components.common.learning.{MODULES[algorithm]}")


def check_metric(metric: str, task: Task) -> str:
    """The metric's name; `auto` is the loss that the training makes small, `log_loss` or `rmse`.

    Raises:
        UserError: The task does not have it.
    """
    known = list(MEASURED[task])
    if metric == "auto":
        return known[0]
    if metric not in known:
        raise UserError(f"metric is {metric!r}, which a {task} training does not measure", where="tuning", remedy=close_names(metric, known))
    return metric


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in found[0] if all(name in metrics for metrics in found)]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in names}


def _prepare_folds(train: DatasetFolder, contract: Contract, options: Options, setup: Setup) -> list[Prepared]:
    data.target_of(contract)
    task = contract.task or Task.REGRESSION
    complete = replace(options, params=parameters.complete(options.algorithm, options.params, task, options.early_stopping_rounds))
    frame, target = data.read(train.scan(), contract, f"train rows {train.path.name}")
    labels = data.find_labels(target, contract)
    made = []
    for learned, held in folds.masks(train.scan(), contract, setup.folds, setup.method, options.seed):
        rows = assemble((frame.filter(learned), target.filter(learned)), (frame.filter(held), target.filter(held)), labels, contract, complete)
        made.append(replace(rows, options=options))
    return made


def _require(algorithm: str) -> None:
    from importlib.util import find_spec

    if algorithm == "residual_mlp" and find_spec("torch") is None:
        remedy = "install kfp-foundry[torch], or choose trainer lightgbm; on a cluster use target=kubeflow, whose trials have an image with torch"
        raise PlatformError("torch is not installed here", where="tuning residual_mlp", remedy=remedy)
