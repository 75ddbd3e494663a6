"""The trials as a table: one row each, columns in an order that depends on the search alone."""

import json
from pathlib import Path

import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.space import Parameter, text
from kfp_foundry.components.tuning.tune_model.study import Study

KINDS = {"int": pl.Int64(), "float": pl.Float64()}


def frame(study: Study, search: Search) -> pl.DataFrame:
    """The trials; times are left out, so that the same search gives the same bytes: the page and MLflow have them.

    Returns:
        `number`, `state`, `best`, the parameters after `param_`, the objective metric and the others after `metric_`, the reports
        while the trial ran, and the message of one that failed.
    """
    names = sorted({name for trial in study.trials for name in trial.metrics} - {search.metric})
    winner = study.best.number if study.best is not None else None
    columns = {
        "number": pl.Series([trial.number for trial in study.trials], dtype=pl.Int64),
        "state": pl.Series([str(trial.state) for trial in study.trials], dtype=pl.String),
        "best": pl.Series([trial.number == winner for trial in study.trials], dtype=pl.Boolean),
        **{f"param_{name}": _parameter(study, name, words) for name, words in search.parameters.items()},
        f"metric_{search.metric}": pl.Series([trial.value for trial in study.trials], dtype=pl.Float64),
        **{f"metric_{name}": pl.Series([trial.metrics.get(name) for trial in study.trials], dtype=pl.Float64) for name in names},
        "reports": pl.Series([json.dumps([float(f"{value:.9g}") for value in trial.reports]) for trial in study.trials], dtype=pl.String),
        "message": pl.Series([trial.message for trial in study.trials], dtype=pl.String),
    }
    return pl.DataFrame(columns)


def write(artifact: Artifact | str | Path, rows: pl.DataFrame, source: str) -> None:
    """Writes the table as a Dataset; it may have no row."""
    DatasetFolder.write(artifact, rows.lazy(), source=source, empty=True)


def _parameter(study: Study, name: str, words: Parameter) -> pl.Series:
    values = [trial.params.get(name) for trial in study.trials]
    if words.numeric:
        return pl.Series(values, dtype=KINDS[words.type])
    kinds = {type(value) for value in words.values}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return pl.Series(values, dtype={bool: pl.Boolean(), int: pl.Int64(), float: pl.Float64()}[kinds.pop()])
    return pl.Series([None if value is None else text(value) for value in values], dtype=pl.String)
