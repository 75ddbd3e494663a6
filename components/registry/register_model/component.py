"""The KFP face of `register_model`: types, defaults and documentation; the work is in core.py."""

from typing import NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def register_model(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    comparison: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    registration: dsl.Output[dsl.Artifact],
    model_name: str,
    run_name: str = "",
    threshold: float = 0.5,
    alias: str = "challenger",
) -> NamedTuple("Outputs", [("version", str), ("uri", str)]):
    """Registers a model in MLflow with its metrics, its verdicts and where it comes from; the same model is one version.

    On a laptop MLflow is embedded (SQLite). In a cluster it is the server that `MLFLOW_TRACKING_URI` of the ConfigMap
    `kfp-foundry` names; without one nothing is registered, and the registration says so.

    A version tells of the run that made it; when another run comes to the same model, the tag `last_seen_run` names that one.

    Args:
        model: Model folder to register; its digests are checked first.
        evaluation: Evaluation whose metrics are logged.
        comparison: Verdict of the comparison with the champion, kept with the version.
        validation: Verdict of the data validation, kept with the version.
        dataset: The table that the model was made from; its fingerprint and source are recorded.
        registration: JSON: name, version, address, digest, run, and whether the model was registered and why not.
        model_name: Name of the registered model; made when it does not exist.
        run_name: Name of the pipeline run, for the lineage; empty: the local run's, or made of the model's name and digest.
        threshold: Binary models: probability from which the positive class is predicted. Kept with a new version; a version that
            is there already keeps its own until it is promoted.
        alias: Alias that the version gets.

    Returns:
        version: Number of the version; empty when nothing was registered.
        uri: `models:/NAME/VERSION`; empty when nothing was registered.
    """
    from kfp_foundry.components.registry.register_model import core

    return core.run(model, evaluation, comparison, validation, dataset, registration, model_name, run_name, threshold, alias)
