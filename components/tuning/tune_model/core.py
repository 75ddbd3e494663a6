"""Searching for parameters: reads and checks the search, lets an engine run it, and writes what came out."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_foundry.components.common import images, platform
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.files import sha256
from kfp_foundry.components.common.learning import data, parameters
from kfp_foundry.components.common.learning.fit import MEASURED, Options
from kfp_foundry.components.common.step import step
from kfp_foundry.components.common.tracking import tracking
from kfp_foundry.components.tuning.tune_model.search import Search, check_words, default_parameters, portability
from kfp_foundry.components.tuning.tune_model.study import Study

if TYPE_CHECKING:
    import polars as pl

FOLDER = "tuning"  # of the home of local state
OPTIONS = ("algorithm", "params", "class_weight", "monotone", "early_stopping_rounds", "seed")  # of a training; calibration comes after a search

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The tables, the contract and how the split was made."""

    train: Artifact
    validation: Artifact
    contract: Artifact

    @property
    def method(self) -> str:
        """How the split was made, where it says so."""
        return str(self.train.metadata.get("method") or "auto")


@dataclass(frozen=True)
class Plan:
    """What is searched for, and on what each trial is trained and measured.

    Args:
        search: The search.
        options: The training's, with the parameters that every trial has.
        task: What is predicted.
        folds: Folds of a cross-validation; 0 for none.
    """

    search: Search
    options: Options
    task: Task
    folds: int

    @property
    def given_options(self) -> dict[str, Any]:
        """The options as plain values."""
        return {name: value for name, value in asdict(self.options).items() if name in OPTIONS}


@step
def run(
    train: Artifact,
    validation: Artifact,
    contract: Artifact,
    trials: Artifact,
    report: Artifact,
    metrics: Artifact,
    *,
    enabled: bool,
    training: Mapping[str, Any],
    search: Mapping[str, Any],
    folds: int,
    target: str,
    processes: tuple[int, int] = (1, 1),
    model_name: str = "",
    resources: Any = None,
) -> tuple[dict[str, Any], float, int]:
    """Searches, and writes the trials, the page and the metrics.

    Returns:
        The best parameters joined to the fixed ones, the best value, and the number of trials.

    Raises:
        UserError: The search, a parameter or an option is wrong.
        DataError: The rows cannot be learned from.
        PlatformError: The engine is not there, or a right or a library is missing.
        FoundryError: The search failed; the message is that of the first trial that did.
    """
    from kfp_foundry.components.tuning.tune_model.results import page, table

    fixed = dict(training["params"])
    parameters.resolve(training["trainer"], training["algorithm"])  # also without a search: the training would say it much later
    if not enabled:
        table.write(trials, _nothing(), source="no search")
        page.disabled(fixed).save(report.path)
        return fixed, 0.0, 0
    rows = Data(train, validation, contract)
    plan = read(Contract.load(contract.path), training, search, folds)
    choice = platform.choose(target)
    check_processes(processes, plan, choice)
    log.info("searching with %s: %s", "Katib" if choice.where == "kubeflow" else "Optuna", choice.why)
    key = digest(plan, rows)
    study = _on_katib(plan, rows, trials.uri, resources, processes) if choice.where == "kubeflow" else _here(plan, rows, key)
    params = {**fixed, **study.best.params} if study.best is not None else fixed
    told = _log(study, plan, params, key, model_name)
    about = page.About(
        algorithm=plan.options.algorithm,
        engine=f"{'Katib' if choice.where == 'kubeflow' else 'This machine'} ran them: {choice.why}.",
        measured=_measured(plan),
        params=params,
        warnings=portability(plan.search),
        tracking=told,
    )
    table.write(trials, table.frame(study, plan.search), source=f"search {key[:12]}")
    page.page(study, plan.search, about).save(report.path)
    winner = study.winner()
    value = float(winner.value or 0.0)
    metrics.metadata.update({plan.search.metric: value, "trials": float(len(study.trials)), **winner.metrics})
    log.info("the best of %d trials is number %d: %s %r with %s", len(study.trials), winner.number, plan.search.metric, value, dict(winner.params))
    return params, value, len(study.trials)


def read(contract: Contract, training: Mapping[str, Any], search: Mapping[str, Any], folds: int) -> Plan:
    """Reads and checks what was asked for, before a row is read or anything is started.

    Args:
        contract: The data contract.
        training: `trainer` and fields of `fit.Options`.
        search: Fields of `Search`; `parameters` may be empty, `metric` may be `auto`.
        folds: Folds of a cross-validation; 0 for none.

    Raises:
        UserError: Something of it is wrong.
    """
    from kfp_foundry.components.tuning.tune_model.objective import WATCHED, check_metric

    data.target_of(contract)
    task = contract.task or Task.REGRESSION
    algorithm = parameters.resolve(training["trainer"], training["algorithm"])
    options = Options(**{name: training[name] for name in OPTIONS if name in training} | {"algorithm": algorithm})
    if folds < 0 or folds == 1:
        raise UserError(f"folds is {folds}", where="tuning", remedy="give 0 for none, or 2 or more")
    metric = check_metric(str(search["metric"]), task)
    others = [name for name in MEASURED[task] if name != metric]
    ranges = search["parameters"] or _default_ranges(algorithm, task, options.params, search["algorithm"])
    found = Search.read({**search, "parameters": ranges, "metric": metric, "additional_metrics": others})
    check_words(found, algorithm, task, options.params)
    if found.algorithm == "hyperband" and (algorithm not in WATCHED or folds):
        why = "folds is given" if folds else f"{algorithm} cannot be looked at while it trains"
        raise UserError(f"hyperband ends trials while they train, and {why}", where="search", remedy="choose another search_algorithm, such as tpe")
    if found.early_stopping and not folds and algorithm not in WATCHED:
        raise UserError(
            f"early_stopping is {found.early_stopping!r}, and {algorithm} reports nothing while it trains",
            where="search",
            remedy=f"leave it empty, give folds, or choose one of {', '.join(WATCHED)}",
        )
    return Plan(found, options, task, folds)


def check_processes(processes: tuple[int, int], plan: Plan, choice: platform.Choice) -> None:
    """Trials of several processes are for networks on Katib.

    Raises:
        UserError: Several processes are asked for where a trial has one.
    """
    said = f"nodes is {processes[0]}, ranks_per_node is {processes[1]}"
    if min(processes) < 1:
        raise UserError(said, where="tuning", remedy="give 1 or more")
    if max(processes) == 1:
        return
    if plan.options.algorithm != "residual_mlp":
        raise UserError(f"{said}, and {plan.options.algorithm} trains in one process", where="tuning", remedy="give 1 for both, or trainer torch")
    if plan.folds:
        raise UserError(f"{said}, and folds is {plan.folds}", where="tuning", remedy="give folds 0, or 1 for both others")
    if choice.where == "local":
        raise UserError(f"{said}, and the search is here: {choice.why}", where="tuning", remedy="give 1 for both, or target=kubeflow")


def _default_ranges(algorithm: str, task: Task, fixed: Mapping[str, Any], search_algorithm: str) -> dict[str, Any]:
    """The space of the algorithm without what is fixed."""
    left = {name: words for name, words in default_parameters(algorithm, task, search_algorithm).items() if name not in fixed}
    if not left:
        raise UserError("params fixes every parameter that is searched over", where="tuning", remedy="give `search`, or fix fewer parameters")
    return left


def digest(plan: Plan, rows: Data) -> str:
    """What makes two searches the same: all that decides what trials come to. How many there are may differ, so that one can go on."""
    from kfp_foundry.components.tuning.tune_model.local.engine import window

    search = plan.search.model_dump(mode="json", exclude={"max_trials", "parallel_trials", "max_failed_trials", "goal"})
    whole = {
        "search": search,
        "window": window(plan.search),
        "options": plan.given_options,
        "folds": [plan.folds, rows.method] if plan.folds else 0,
        "rows": [DatasetFolder.open(part).facts.fingerprint for part in (rows.train, rows.validation)],
        "contract": sha256(Path(rows.contract.path)),
        "versions": {name: _version(name) for name in ("lightgbm", "scikit-learn", "torch", "optuna", "polars")},
        "library": images.VERSION,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _here(plan: Plan, rows: Data, key: str) -> Study:
    from kfp_foundry.components.tuning.tune_model.local import engine as local
    from kfp_foundry.components.tuning.tune_model.local import stopping
    from kfp_foundry.components.tuning.tune_model.local.crew import Recipe
    from kfp_foundry.components.tuning.tune_model.objective import MODULES, Setup

    setup = Setup(
        train=str(Path(rows.train.path).absolute()),
        validation=str(Path(rows.validation.path).absolute()),
        contract=str(Path(rows.contract.path).absolute()),
        options=plan.given_options,
        metric=plan.search.metric,
        folds=plan.folds,
        method=rows.method,
        watched=bool(plan.search.early_stopping) or plan.search.algorithm == "hyperband",
        looks=stopping.looks(plan.search),
        threads=local.threads(plan.search),
    )
    library = f"kfp_foundry.components.common.learning.{MODULES[plan.options.algorithm]}"
    recipe = Recipe("kfp_foundry.components.tuning.tune_model.objective:load", asdict(setup), [library])
    return local.tune(plan.search, recipe, state_folder() / key[:24])


def state_folder() -> Path:
    """Where searches on this machine are kept: the home of local state, or a temporary folder where that cannot be written."""
    preferred = platform.home() / FOLDER
    try:
        preferred.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "kfp-foundry" / FOLDER
    return preferred if os.access(preferred, os.W_OK) else Path(tempfile.gettempdir()) / "kfp-foundry" / FOLDER


def _on_katib(plan: Plan, rows: Data, identity: str, resources: Any, processes: tuple[int, int]) -> Study:
    from kfp_foundry.components.common.kube.connection import Cluster
    from kfp_foundry.components.common.kube.pods import PodOptions, settings_env
    from kfp_foundry.components.common.kube.task import Task as Identity
    from kfp_foundry.components.tuning.tune_model.katib import engine as katib
    from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate
    from kfp_foundry.components.tuning.tune_model.katib.given import Given

    given = Given(
        train=rows.train.uri,
        validation=rows.validation.uri,
        contract=rows.contract.uri,
        options=plan.given_options,
        search=plan.search,
        folds=plan.folds,
        method=rows.method,
    )
    image = images.TORCH if plan.options.algorithm == "residual_mlp" else images.FOUNDRY
    cluster = Cluster.connect()
    trial = TrialTemplate(image, given, PodOptions.from_task_config(resources), settings_env(), *processes)
    return katib.tune(cluster, Identity.of(identity, cluster), trial)


def _log(study: Study, plan: Plan, params: Mapping[str, Any], key: str, model_name: str) -> str:
    from kfp_foundry.components.tuning.tune_model.results.tracked import Logged, log_study

    run_name = os.environ.get("KFP_FOUNDRY_RUN", "")  # set by the local runner
    tags = {"algorithm": plan.options.algorithm, "search_algorithm": plan.search.algorithm, "pipeline_run": run_name, "registered_model": model_name}
    return log_study(tracking(), study, plan.search, Logged(key, f"tune {model_name or plan.options.algorithm} {key[:8]}", tags, params))


def _measured(plan: Plan) -> str:
    if plan.folds:
        return f"Each trial is measured by cross-validation in {plan.folds} folds of the training rows; its values are means over the folds."
    return "Each trial is measured on the validation rows, as a training is."


def _nothing() -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(schema={"number": pl.Int64(), "state": pl.String(), "best": pl.Boolean(), "message": pl.String()})
