"""Fits a residual network on a table, in one process; several ranks train through `network.prepare` and `network.loop`."""

import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning.learner import Examples, Fitted, Job
from kfp_foundry.components.common.learning.network.job import Epoch, NetworkJob
from kfp_foundry.components.common.learning.network.loop import train
from kfp_foundry.components.common.learning.network.numbers import Numbers, spread
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.settings import Settings, patient
from kfp_foundry.components.common.learning.network.table import Layout, Table


def fit(job: Job) -> Fitted:
    """Fits embeddings and a residual MLP; see `network.model` and `network.loop`.

    Raises:
        UserError: A parameter is wrong, or the loss is no longer a number.
    """
    watch = job.watch

    def look(epoch: Epoch) -> None:
        if watch is not None and len(job.validation):
            watch(epoch.number, epoch.values)

    return train(describe(job), Ranks.single(), report=look)


def describe(job: Job) -> NetworkJob:
    """The job in the network's terms: codes and positions in place of the matrix."""
    settings = Settings.read(patient(job.params, job.early_stopping_rounds))
    target = job.train.target[spread(len(job.train))].astype(np.float64) if job.task is Task.REGRESSION else None
    centre, unit = scale(target)
    layout, train_rows, validation_rows = _tables(job, settings.bins, centre, unit)
    return NetworkJob(
        task=job.task,
        classes=job.classes,
        layout=layout,
        train=train_rows,
        validation=validation_rows,
        settings=settings,
        centre=centre,
        unit=unit,
        stops_early=settings.patience > 0 and len(job.validation) > 0,
        seed=job.seed,
        threads=job.threads,
    )


def _tables(job: Job, bins: int, centre: float, unit: float) -> tuple[Layout, Table, Table]:
    """The encoded rows; those of an earlier fit on the same rows where that cut the numbers into as many intervals."""
    key = ("residual_mlp", bins)
    if job.shared is not None and key in job.shared:
        kept: tuple[Layout, Table, Table] = job.shared[key]
        return kept
    matrix, categories = job.train.matrix, len(job.categorical)
    widths = tuple(int(np.nanmax(matrix[:, column], initial=0.0)) + 1 for column in range(categories))
    sample, numbers = spread(len(matrix)), range(categories, matrix.shape[1])
    gaps = [bool(np.isnan(matrix[:, column]).any()) for column in numbers]
    layout = Layout(widths, Numbers.fit([matrix[sample, column] for column in numbers], gaps, bins))
    made = layout, encode(job.train, layout, job.task, centre, unit), encode(job.validation, layout, job.task, centre, unit)
    if job.shared is not None:
        for other in [other for other in job.shared if other[0] == "residual_mlp"]:
            del job.shared[other]  # one is kept: a table is half as large as the matrix
        job.shared[key] = made
    return made


def encode(examples: Examples, layout: Layout, task: Task, centre: float, unit: float) -> Table:
    """The rows as a table whose weights have mean 1."""
    table = Table.empty(len(examples), layout, task is not Task.REGRESSION)
    target = (examples.target - centre) / unit if task is Task.REGRESSION else examples.target
    weights = examples.weights
    if weights is not None and weights.any():
        weights = weights / weights.mean()
    if len(examples):
        table.fill(0, layout, examples.matrix, target, weights)
    return table


def scale(target: np.ndarray | None) -> tuple[float, float]:
    """Mean and standard deviation of a regression's target [rows], the latter 1 where it is 0; 0 and 1 for classes (None)."""
    if target is None:
        return 0.0, 1.0
    reach = float(np.abs(target).max()) or 1.0  # squares of large numbers overflow
    shares = target / reach
    return float(shares.mean() * reach), float(shares.std() * reach) or 1.0
