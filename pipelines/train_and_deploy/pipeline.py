"""From a raw table to a served, registered model; wiring only.

The graph is static: a stage that has nothing to do passes through. `dsl.OneOf` over cached tasks fails on KFP 2.17, and a
condition would cost pods of its own.
"""

from typing import Dict, List

from kfp import dsl

from kfp_foundry.components.common.wiring import with_settings
from kfp_foundry.components.deployment.deploy_model.component import deploy_model
from kfp_foundry.components.deployment.verify_endpoint.component import verify_endpoint
from kfp_foundry.components.evaluation.compare_models.component import compare_models
from kfp_foundry.components.evaluation.evaluate_model.component import evaluate_model
from kfp_foundry.components.evaluation.write_report.component import write_report
from kfp_foundry.components.features.split_table.component import split_table
from kfp_foundry.components.ingestion.ingest_table.component import ingest_table
from kfp_foundry.components.registry.promote_model.component import promote_model
from kfp_foundry.components.registry.register_model.component import register_model
from kfp_foundry.components.training.train_model.component import train_model
from kfp_foundry.components.tuning.tune_model.component import tune_model
from kfp_foundry.components.validation.infer_contract.component import infer_contract
from kfp_foundry.components.validation.require_verdict.component import require_verdict
from kfp_foundry.components.validation.validate_table.component import validate_table


@dsl.pipeline(
    name="train-and-deploy",
    description="Ingests and checks a table, trains (tunes) a model, compares it with the champion, registers, serves and verifies it.",
)
def train_and_deploy(
    source: str = "sample://flights",
    target: str = "late",
    model_name: str = "",
    query: str = "",
    columns: List[str] = [],
    where: str = "",
    max_rows: int = 0,
    delimiter: str = "",
    encoding: str = "",
    decimal: str = "",
    null_values: List[str] = [],
    on_bad_rows: str = "stop",
    contract_uri: str = "",
    task: str = "auto",
    positive: str = "",
    time_column: str = "",
    group_column: str = "",
    weight_column: str = "",
    id_columns: List[str] = [],
    ignore_columns: List[str] = [],
    sensitive_columns: List[str] = [],
    allow_warnings: bool = True,
    split_method: str = "auto",
    validation_share: float = 0.1,
    test_share: float = 0.2,
    trainer: str = "lightgbm",
    algorithm: str = "",
    params: dict = {},
    class_weight: str = "",
    calibration: str = "",
    monotone: Dict[str, int] = {},
    early_stopping_rounds: int = 50,
    tune: bool = False,
    search: dict = {},
    search_algorithm: str = "tpe",
    tuning_metric: str = "auto",
    max_trials: int = 24,
    parallel_trials: int = 0,
    folds: int = 0,
    nodes: int = 1,
    accelerators: int = 0,
    training_target: str = "auto",
    threshold: str = "f1",
    cost_false_positive: float = 1.0,
    cost_false_negative: float = 1.0,
    min_precision: float = 0.0,
    min_recall: float = 0.0,
    slice_columns: List[str] = [],
    metric: str = "auto",
    min_gain: float = 0.0,
    max_loss: Dict[str, float] = {},
    max_slice_loss: float = 0.0,
    deploy_target: str = "auto",
    max_p99_ms: float = 0.0,
    seed: int = 7,
):
    """Trains and serves a model from one table.

    Args:
        source: The table: path, folder, glob, http(s)://, s3://, gs://, a database URL (with `query`), or `sample://flights`.
        target: Column to predict; a class or a number, found from its values.
        model_name: Name in the registry and of the endpoint; empty: made from the table's name and the target.
        query: SQL query, when the source is a database.
        columns: Columns to read, the target among them; empty: all.
        where: SQL condition that rows must satisfy, such as `age >= 18`.
        max_rows: Read at most this many rows; 0 reads all.
        delimiter: CSV delimiter, one character or `tab`; found when empty.
        encoding: Encoding of a text file, such as `cp1252`; empty: UTF-8 or UTF-16.
        decimal: CSV decimal mark, `.` or `,`; found when empty.
        null_values: CSV texts that mean "missing", instead of NA, NaN, NULL and the like.
        on_bad_rows: What a line that cannot be read means: `stop`, or `quarantine` (counted and kept apart).
        contract_uri: Data contract to hold the table to; empty: one is inferred from the table.
        task: `binary`, `multiclass`, `regression`, or `auto`.
        positive: For two classes: the label whose probability is predicted; empty: found (true, 1, yes, or the rarer one).
        time_column: Column that orders rows in time; empty: found when there is exactly one candidate.
        group_column: Column whose equal values stay together in a split by group, such as a customer.
        weight_column: Column of sample weights.
        id_columns: Columns that identify rows; found when empty.
        ignore_columns: Columns the model must not use.
        sensitive_columns: Columns the model must not use, and over which it is judged.
        allow_warnings: Whether warnings of the data validation let the run go on.
        split_method: `time`, `group`, `stratified`, `random`, or `auto`: the first that the contract allows.
        validation_share: Share of rows for early stopping and the threshold, 0 to 0.5.
        test_share: Share of rows for the final evaluation, 0 to 0.5; the latest ones when split by time.
        trainer: The library that trains: `lightgbm`, `sklearn` or `torch`.
        algorithm: `hist_gradient_boosting` or `linear` of sklearn; empty: the trainer's first.
        params: Parameters of the algorithm in its library's own words, such as `{"num_leaves": 63}`.
        class_weight: `balanced` weighs rare classes up; empty: all rows count the same.
        calibration: `sigmoid` or `isotonic` fits probabilities to the validation rows; empty: none.
        monotone: Per column 1 (prediction may only rise with it) or -1 (only fall).
        early_stopping_rounds: Stop when the validation score has not improved for so many rounds; 0: never. torch: `patience` in params
            says after how many epochs.
        tune: Whether to search for the parameters first; `params` then holds what every trial has.
        search: Parameter to range, such as `{"num_leaves": {"type": "int", "min": 7, "max": 255, "log": true}}`; empty: a space that
            suits the algorithm.
        search_algorithm: `random`, `grid`, `tpe`, `multivariate-tpe`, `cmaes`, `sobol`, `bayesianoptimization` or `hyperband`.
        tuning_metric: What the search is for, such as `auc`; `auto`: log loss or RMSE.
        max_trials: Most trials of the search.
        parallel_trials: Trials at once; 0: what suits the place and the search algorithm.
        folds: Cross-validation of each trial on the training rows; 0: measured on the validation rows.
        nodes: torch: machines that train together.
        accelerators: torch: GPUs on each of them.
        training_target: Where a search runs (Katib or this step) and a torch training (TrainJob or this step): `kubeflow`, `local`,
            or `auto`: where this run is.
        threshold: How the decision threshold is chosen on validation rows: `f1`, `cost`, `precision`, `recall`, or a number.
        cost_false_positive: Cost of a false alarm, for `threshold=cost`.
        cost_false_negative: Cost of a miss, for `threshold=cost`.
        min_precision: Smallest precision, for `threshold=precision`.
        min_recall: Smallest recall, for `threshold=recall`.
        slice_columns: Columns over whose values the model is also judged; low-cardinality features are taken by themselves.
        metric: Metric by which challenger and champion are compared; `auto`: AUC, log loss or RMSE.
        min_gain: The challenger must be better by at least this much, such as 0.02.
        max_loss: Per guard metric the most the challenger may lose, such as `{"f1": 0.05}`.
        max_slice_loss: The most it may lose on any slice; 0: slices are not guarded.
        deploy_target: `kubeflow`, `local`, or `auto`: where this run is.
        max_p99_ms: Slowest allowed 99th percentile of the endpoint's answers, in milliseconds; 0: only reported.
        seed: Seed of the split and of the training.
    """
    table = with_settings(
        ingest_table(
            source=source,
            query=query,
            columns=columns,
            where=where,
            max_rows=max_rows,
            delimiter=delimiter,
            encoding=encoding,
            decimal=decimal,
            null_values=null_values,
            on_bad_rows=on_bad_rows,
        ),
        cached=False,
        attempts=3,
    )
    agreed = with_settings(
        infer_contract(
            dataset=table.outputs["dataset"],
            target=target,
            name=model_name,
            contract_uri=contract_uri,
            task=task,
            positive=positive,
            time_column=time_column,
            group_column=group_column,
            weight_column=weight_column,
            id_columns=id_columns,
            ignore_columns=ignore_columns,
            sensitive_columns=sensitive_columns,
        ),
        cached=False,
    )
    contract = agreed.outputs["contract"]
    name = agreed.outputs["name"]
    validated = with_settings(validate_table(dataset=table.outputs["dataset"], contract=contract), cached=False)
    parts = with_settings(
        split_table(
            dataset=table.outputs["dataset"],
            contract=contract,
            verdict=validated.outputs["verdict"],
            allow_warn=allow_warnings,
            method=split_method,
            validation_share=validation_share,
            test_share=test_share,
            seed=seed,
        )
    )
    tuned = with_settings(
        tune_model(
            train=parts.outputs["train"],
            validation=parts.outputs["validation"],
            contract=contract,
            enabled=tune,
            trainer=trainer,
            algorithm=algorithm,
            params=params,
            search=search,
            metric=tuning_metric,
            search_algorithm=search_algorithm,
            max_trials=max_trials,
            parallel_trials=parallel_trials,
            folds=folds,
            class_weight=class_weight,
            monotone=monotone,
            early_stopping_rounds=early_stopping_rounds,
            target=training_target,
            model_name=name,
            seed=seed,
        )
    )
    trained = with_settings(
        train_model(
            train=parts.outputs["train"],
            validation=parts.outputs["validation"],
            contract=contract,
            trainer=trainer,
            algorithm=algorithm,
            params=tuned.outputs["params"],
            class_weight=class_weight,
            calibration=calibration,
            monotone=monotone,
            early_stopping_rounds=early_stopping_rounds,
            seed=seed,
            nodes=nodes,
            accelerators=accelerators,
            target=training_target,
        )
    )
    model = trained.outputs["model"]
    evaluated = with_settings(
        evaluate_model(
            model=model,
            test=parts.outputs["test"],
            validation=parts.outputs["validation"],
            threshold=threshold,
            cost_false_positive=cost_false_positive,
            cost_false_negative=cost_false_negative,
            min_precision=min_precision,
            min_recall=min_recall,
            slice_columns=slice_columns,
            seed=seed,
        )
    )
    compared = with_settings(
        compare_models(
            challenger=model,
            test=parts.outputs["test"],
            model_name=name,
            metric=metric,
            min_gain=min_gain,
            max_loss=max_loss,
            slice_columns=slice_columns,
            max_slice_loss=max_slice_loss,
            threshold=evaluated.outputs["threshold"],
            seed=seed,
        ),
        cached=False,
    )
    registered = with_settings(
        register_model(
            model=model,
            evaluation=evaluated.outputs["evaluation"],
            comparison=compared.outputs["verdict"],
            validation=validated.outputs["verdict"],
            dataset=table.outputs["dataset"],
            model_name=name,
            run_name=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            threshold=evaluated.outputs["threshold"],
        ),
        cached=False,
    )
    deployed = with_settings(
        deploy_model(
            model=model,
            name=name,
            outcome=compared.outputs["outcome"],
            target=deploy_target,
            threshold=evaluated.outputs["threshold"],
        ),
        cached=False,
    )
    verified = with_settings(
        verify_endpoint(endpoint=deployed.outputs["endpoint"], model=model, test=parts.outputs["test"], max_p99_ms=max_p99_ms),
        cached=False,
    )
    promoted = with_settings(
        promote_model(
            model_name=name,
            version=registered.outputs["version"],
            comparison_outcome=compared.outputs["outcome"],
            endpoint_outcome=verified.outputs["outcome"],
            endpoint=deployed.outputs["endpoint"],
        ),
        cached=False,
    )
    reported = with_settings(
        write_report(
            dataset=table.outputs["dataset"],
            contract=contract,
            validation=validated.outputs["verdict"],
            model=model,
            test=parts.outputs["test"],
            evaluation=evaluated.outputs["evaluation"],
            comparison=compared.outputs["verdict"],
            registration=registered.outputs["registration"],
            endpoint=promoted.outputs["serving"],
            endpoint_check=verified.outputs["verdict"],
            ingestion_page=table.outputs["report"],
            contract_page=agreed.outputs["report"],
            validation_page=validated.outputs["report"],
            tuning_page=tuned.outputs["report"],
            training_page=trained.outputs["report"],
            evaluation_page=evaluated.outputs["report"],
            comparison_page=compared.outputs["report"],
            endpoint_page=verified.outputs["report"],
            promoted=promoted.outputs["promoted"],
            champion=promoted.outputs["champion"],
        ),
        cached=False,
    )
    # Last, so that the page is there when an endpoint that answers wrongly fails the run.
    with_settings(require_verdict(verdict=verified.outputs["verdict"])).after(reported).set_display_name("require-endpoint")
