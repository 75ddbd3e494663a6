"""The KFP face of `train_model`: types, defaults and documentation; the work is in core.py."""

from typing import Dict

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def train_model(
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    trainer: str = "lightgbm",
    algorithm: str = "",
    params: dict = {},
    class_weight: str = "",
    calibration: str = "",
    monotone: Dict[str, int] = {},
    early_stopping_rounds: int = 50,
    seed: int = 7,
    nodes: int = 1,
    accelerators: int = 0,
    target: str = "auto",
) -> None:
    """Trains a model on a table and writes it with an ONNX graph that equals it to 1e-9.

    Preprocessing is part of the model: it takes raw rows by column name. Texts are categories, dates give their calendar
    parts, missing values and unseen categories are fine. Binary, multiclass or regression follows from the contract. The same
    rows, parameters and versions give the same bytes.

    Args:
        train: Rows to fit on; those without a target are left out and counted.
        validation: Rows for early stopping, calibration and the metrics.
        contract: Data contract; its roles say which columns are the target, the features and the sample weights.
        model: MLflow model folder with `model.onnx`, the library's own form, `contract.yaml` and a digest of every file.
        metrics: Metrics on the validation rows.
        report: Page with metrics, learning curve, feature importance, exactness of the graph, parameters and versions.
        trainer: The library: `lightgbm`, `sklearn` or `torch`.
        algorithm: `hist_gradient_boosting` or `linear` (logistic or ridge regression) of sklearn; empty: the trainer's first.
        params: Parameters in the library's own words, such as `{"num_leaves": 63}`; an unknown name is refused.
        class_weight: `balanced` gives each class the same total weight; empty for none. Classification only.
        calibration: `sigmoid` or `isotonic`, fitted on the validation rows; empty for none. Binary only.
        monotone: Numeric feature to 1 (prediction may only rise with it) or -1 (only fall). Tree models only.
        early_stopping_rounds: Boosting ends after so many rounds without gain on the validation rows; 0 for never. With torch
            `patience` in params decides where it is given (0: never); else `early_stopping_rounds=0` means never, and any other value
            the default of 5 epochs.
        seed: Seed of every random choice.
        nodes: torch: machines that train together.
        accelerators: torch: GPUs on each of them; 0 for none.
        target: torch: `kubeflow` (a TrainJob), `local` (this machine), or `auto`: where this step runs.
    """
    from kfp_foundry.components.training.train_model import core

    options = {"params": params, "class_weight": class_weight, "calibration": calibration, "monotone": monotone, "seed": seed}
    placement = {"nodes": nodes, "accelerators": accelerators, "target": target}
    core.run(
        train, validation, contract, model, metrics, report, trainer, algorithm, placement, early_stopping_rounds=early_stopping_rounds, **options
    )
