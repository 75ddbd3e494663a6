"""The KFP face of `tune_model`: types, defaults and documentation; the work is in core.py."""

from typing import Dict, NamedTuple, Optional

from kfp import dsl

from kfp_foundry.components.common import images
from kfp_foundry.components.common.wiring import passthroughs


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False, task_config_passthroughs=passthroughs())
def tune_model(
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    trials: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    enabled: bool = True,
    trainer: str = "lightgbm",
    algorithm: str = "",
    params: dict = {},
    search: dict = {},
    metric: str = "auto",
    direction: str = "",
    goal: Optional[float] = None,
    search_algorithm: str = "tpe",
    settings: dict = {},
    early_stopping: str = "",
    max_trials: int = 24,
    parallel_trials: int = 0,
    max_failed_trials: int = 3,
    trial_seconds: int = 0,
    folds: int = 0,
    class_weight: str = "",
    monotone: Dict[str, int] = {},
    early_stopping_rounds: int = 50,
    target: str = "auto",
    nodes: int = 1,
    ranks_per_node: int = 1,
    model_name: str = "",
    seed: int = 7,
    resources: dsl.TaskConfig = None,
) -> NamedTuple("Outputs", [("params", dict), ("metric", float), ("count", int)]):
    """Searches for the parameters of a training, with Katib on a cluster and with Optuna on a laptop.

    A trial is the training that `train_model` does, so a model trained with the parameters that come out has the metric that came
    out. On a laptop a search that was killed goes on where it was when it is run again, and the same search gives the same trials.
    Every trial is logged in MLflow below one run.

    Args:
        train: Rows to fit on.
        validation: Rows for early stopping and the metrics.
        contract: Data contract; its roles say which columns are the target, the features and the sample weights.
        trials: One row per trial: its parameters, metrics and state.
        report: Page with the course of the search, parallel coordinates, importance of the parameters, timeline and all trials.
        metrics: Metrics of the best trial, and the number of trials.
        enabled: Whether to search; if not, `params` comes out as it came in.
        trainer: `lightgbm`, `sklearn` or `torch`.
        algorithm: One of the trainer's: `lightgbm`; `hist_gradient_boosting` or `linear`; `residual_mlp`. Empty for its first.
        params: Parameters that every trial has, in the library's own words.
        search: Name to range, such as `{"num_leaves": {"type": "int", "min": 7, "max": 255, "log": true}}`, or to a list of values.
            Empty for a space that suits the algorithm, without what `params` fixes.
        metric: `log_loss`, `auc`, `accuracy`, `rmse` ...; `auto` for `log_loss`, or `rmse` of a regression.
        direction: `minimize` or `maximize`; empty for what the metric says.
        goal: A value at which the search may end.
        search_algorithm: `random`, `grid`, `tpe`, `multivariate-tpe`, `cmaes`, `sobol`, `bayesianoptimization` or `hyperband`.
        settings: The algorithm's settings, in Katib's words, such as `{"n_startup_trials": 10}`.
        early_stopping: `median` ends a trial that is worse than others were at its point; empty for none.
        max_trials: Most trials.
        parallel_trials: Trials at once; 0 for one on a laptop (one per CPU where the algorithm does not learn from trials), three
            on Katib.
        max_failed_trials: Failed trials at which the search ends and fails; 0 allows none.
        trial_seconds: Longest time of a trial, which then counts as failed; 0 for no limit.
        folds: Cross-validation on the training rows, cut as the split would; 0 for measuring on the validation rows.
        class_weight: `balanced` gives each class the same total weight; empty for none. Classification only.
        monotone: Numeric feature to 1 (prediction may only rise with it) or -1 (only fall). Tree models only.
        early_stopping_rounds: Boosting ends after so many rounds without gain on the validation rows; 0 for never.
        target: `kubeflow` for Katib, `local` for this step itself, or `auto` for where the step runs.
        nodes: Pods of one trial on Katib, each trial being a TrainJob then; for trainer torch.
        ranks_per_node: Processes of one such pod, such as one per GPU.
        model_name: Names the search's run in MLflow; empty for the algorithm's name.
        seed: Seed of every random choice, of the search's and of each training's.
        resources: Filled in by the platform: what is set on the step, for Katib's trials.

    Returns:
        params: The best parameters joined to `params`, ready for `train_model`.
        metric: The best value; 0 when there was no search.
        count: How many trials there were.
    """
    from kfp_foundry.components.tuning.tune_model import core

    objective = {"parameters": search, "metric": metric, "direction": direction, "goal": goal, "algorithm": search_algorithm, "settings": settings}
    limits = {"max_trials": max_trials, "parallel_trials": parallel_trials, "max_failed_trials": max_failed_trials, "trial_seconds": trial_seconds}
    training = {
        "trainer": trainer,
        "algorithm": algorithm,
        "params": params,
        "class_weight": class_weight,
        "monotone": monotone,
        "early_stopping_rounds": early_stopping_rounds,
        "seed": seed,
    }
    return core.run(
        train,
        validation,
        contract,
        trials,
        report,
        metrics,
        enabled=enabled,
        training=training,
        search={**objective, **limits, "early_stopping": early_stopping, "seed": seed},
        folds=folds,
        target=target,
        processes=(nodes, ranks_per_node),
        model_name=model_name,
        resources=resources,
    )
