"""Trials in MLflow: one run for the search, and below it one for each trial.

They are logged when the search has ended, a few calls for each trial: a trial is never slower for it. A step that runs again finds
the runs of its search by their tag and adds what is missing.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.tracking import Tracking
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.study import State, Study, Trial

SEARCH_TAG = "kfp-foundry.io/search"
TRIAL_TAG = "kfp-foundry.io/trial"
PARENT_TAG = "mlflow.parentRunId"
ENDS = {
    State.SUCCEEDED: "FINISHED",
    State.EARLY_STOPPED: "KILLED",
    State.FAILED: "FAILED",
    State.METRICS_UNAVAILABLE: "FAILED",
}
AT_ONCE = 8  # requests to a server; a SQLite file takes one at a time
MAX_VALUE = 5000  # characters of a tag or parameter that every MLflow store takes
PAGE = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """What the runs of a search are called and say.

    Args:
        key: The search's digest: by it a later attempt finds the runs.
        name: Of the search's run.
        tags: Of the search's run.
        params: The parameters that came out.
    """

    key: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]


def log_study(store: Tracking, study: Study, search: Search, what: Logged) -> str:
    """Logs a search and its trials.

    Returns:
        Where they are, or why they are nowhere, as a sentence: a search that took hours does not fail for want of its log.
    """
    if not store.available:
        return f"The trials are not logged in MLflow: {store.why}."
    try:
        parent = store.run_id or _parent(store, what)
        there = _trials_of(store, parent)
        missing = [trial for trial in study.trials if trial.number not in there]
        with ThreadPoolExecutor(1 if store.database is not None else AT_ONCE) as pool:
            list(pool.map(lambda trial: _log_trial(store, parent, trial, search), missing))
        _mark_best(store, parent, study)
        store.call("log the search", lambda: _log_parent(store, parent, study, search, what))
    except PlatformError as error:
        log.warning("the trials are not in MLflow: %s", error)
        return f"The trials are not logged in MLflow: {error}."
    log.info("%d trials are logged below the run %s: %s", len(study.trials), parent, store.how_to_open)
    return f"Every trial is an MLflow run below {parent}: {store.how_to_open}."


def _parent(store: Tracking, what: Logged) -> str:
    """The search's run: that of an attempt before, or a new one."""
    experiment = store.experiment_id()

    def find_or_create() -> str:
        before = store.client.search_runs([experiment], f"tags.`{SEARCH_TAG}`='{what.key}'", max_results=1)
        if before:
            return str(before[0].info.run_id)
        tags = {SEARCH_TAG: what.key, "mlflow.source.name": "kfp-foundry", "mlflow.source.type": "JOB"}
        return str(store.client.create_run(experiment, tags=tags, run_name=what.name).info.run_id)

    return store.call("start the search's run", find_or_create)


def _trials_of(store: Tracking, parent: str) -> dict[int, Any]:
    """The trials' runs that are logged below the run, whole, by number."""

    def search() -> dict[int, Any]:
        experiment = store.client.get_run(parent).info.experiment_id
        found, token = dict[int, Any](), None
        while True:
            page = store.client.search_runs([experiment], f"tags.`{PARENT_TAG}`='{parent}'", max_results=PAGE, page_token=token)
            # One that still runs was interrupted while it was logged.
            found |= {int(run.data.tags[TRIAL_TAG]): run for run in page if TRIAL_TAG in run.data.tags and run.info.status != "RUNNING"}
            token = page.token
            if not token:
                return found

    return store.call("look for the trials' runs", search)


def _mark_best(store: Tracking, parent: str, study: Study) -> None:
    """Tags the best trial's run; a search that went on may have another one than before."""
    best = study.best.number if study.best is not None else None

    def mark(run_id: str, number: int) -> None:
        if number == best:
            store.client.set_tag(run_id, "best", "true")
        else:
            store.client.delete_tag(run_id, "best")

    for number, run in _trials_of(store, parent).items():
        if (run.data.tags.get("best") == "true") != (number == best):
            store.call("mark the best trial", partial(mark, run.info.run_id, number))


def _log_trial(store: Tracking, parent: str, trial: Trial, search: Search) -> None:
    store.call(f"log trial {trial.number}", lambda: _write_trial(store, parent, trial, search))


def _write_trial(store: Tracking, parent: str, trial: Trial, search: Search) -> None:
    from mlflow.entities import Metric, Param

    begin, end = _milliseconds(trial.started), _milliseconds(trial.started + trial.seconds)
    experiment = store.client.get_run(parent).info.experiment_id if store.run_id else store.experiment_id()
    tags = {PARENT_TAG: parent, TRIAL_TAG: str(trial.number), "state": str(trial.state), "mlflow.source.name": "kfp-foundry"}
    if trial.message:
        tags["message"] = trial.message[:MAX_VALUE]
    run = store.client.create_run(experiment, start_time=begin, tags=tags, run_name=f"trial {trial.number}")
    run_id = run.info.run_id
    metrics = [Metric(_key(search.metric), value, begin, step) for step, value in enumerate(trial.reports, 1)]
    if trial.value is not None and not trial.reports:
        metrics.append(Metric(_key(search.metric), trial.value, end, 0))
    metrics += [Metric(_key(name), value, end, 0) for name, value in trial.metrics.items()]
    params = [Param(_key(name), str(value)[:MAX_VALUE]) for name, value in trial.params.items()]
    for start in range(0, max(len(metrics), 1), PAGE):
        store.client.log_batch(run_id, metrics=metrics[start : start + PAGE], params=params if start == 0 else [])
    store.client.set_terminated(run_id, ENDS[trial.state], end)


def _log_parent(store: Tracking, parent: str, study: Study, search: Search, what: Logged) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run = store.client.get_run(parent)
    best, now = study.best, run.info.start_time
    tags = {**what.tags, "state": study.state, "reason": str(study.reason), "search": search.model_dump_json()}
    metrics = [Metric("trials", float(len(study.trials)), now, 0)]
    params: Sequence[Any] = ()
    if best is not None and best.value is not None:
        metrics.append(Metric(f"best_{_key(search.metric)}", best.value, now, 0))
        tags["best_trial"] = str(best.number)
        params = [Param(f"best.{_key(name)}", str(value)[:MAX_VALUE]) for name, value in what.params.items()]
    known = [param for param in params if param.key not in run.data.params]  # one cannot be logged twice with another value
    store.client.log_batch(parent, metrics=metrics, params=known, tags=[RunTag(key, value[:MAX_VALUE]) for key, value in tags.items() if value])
    if parent != store.run_id and run.info.status == "RUNNING":
        store.client.set_terminated(parent, "FINISHED" if study.state == "succeeded" else "FAILED")


def _key(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
