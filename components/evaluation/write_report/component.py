"""The KFP face of `write_report`: types, defaults and documentation; the work is in core.py."""

from typing import Optional

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def write_report(
    dataset: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Artifact],
    comparison: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    endpoint: dsl.Input[dsl.Artifact],
    endpoint_check: dsl.Input[dsl.Artifact],
    ingestion_page: dsl.Input[dsl.HTML],
    contract_page: dsl.Input[dsl.HTML],
    validation_page: dsl.Input[dsl.HTML],
    training_page: dsl.Input[dsl.HTML],
    evaluation_page: dsl.Input[dsl.HTML],
    comparison_page: dsl.Input[dsl.HTML],
    endpoint_page: dsl.Input[dsl.HTML],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    tuning_page: Optional[dsl.Input[dsl.HTML]] = None,
    promoted: bool = False,
    champion: str = "",
):
    """Writes one page that tells what a run did: data, model, gates, registry, endpoint, how to call it; every step's page is folded in.

    Args:
        dataset: The ingested table.
        contract: Its data contract.
        validation: Verdict of the data validation.
        model: The challenger.
        test: Rows that the model never saw; one of them becomes the example request.
        evaluation: The challenger's evaluation.
        comparison: Verdict of the comparison with the champion.
        registration: What the registry recorded.
        endpoint: Where the model answers that serves after the run.
        endpoint_check: Verdict of the endpoint's verification.
        ingestion_page: Report of `ingest_table`.
        contract_page: Report of `infer_contract`.
        validation_page: Report of `validate_table`.
        training_page: Report of `train_model` or `train_distributed`.
        evaluation_page: Report of `evaluate_model`.
        comparison_page: Report of `compare_models`.
        endpoint_page: Report of `verify_endpoint`.
        report: The page.
        summary: The same in JSON, for programs: outcome, metrics, champion, endpoint, example request.
        tuning_page: Report of `tune_model`, if there was a search.
        promoted: Whether the challenger became the champion.
        champion: Version of the champion after the run.
    """
    from kfp_foundry.components.evaluation.write_report import core

    gates = core.Gates(validation, comparison, endpoint_check)
    pages = [ingestion_page, contract_page, validation_page, tuning_page, training_page, evaluation_page, comparison_page, endpoint_page]
    made = core.Made(dataset, contract, model, test, evaluation, registration, endpoint)
    core.run(made, gates, pages, report, summary, promoted, champion)
