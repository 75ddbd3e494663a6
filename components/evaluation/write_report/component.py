"""The KFP face of `write_report`: types, defaults and documentation; the work is in core.py."""

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
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    promoted: bool = False,
    champion: str = "",
):
    """Writes one page that tells what a run did: data, model, gates, registry, endpoint, and how to call it.

    Args:
        dataset: The ingested table.
        contract: Its data contract.
        validation: Verdict of the data validation.
        model: The challenger.
        test: Rows that the model never saw; one of them becomes the example request.
        evaluation: The challenger's evaluation.
        comparison: Verdict of the comparison with the champion.
        registration: What the registry recorded.
        endpoint: Where the model answers.
        endpoint_check: Verdict of the endpoint's verification.
        report: The page.
        summary: The same in JSON, for programs: outcome, metrics, champion, endpoint, example request.
        promoted: Whether the challenger became the champion.
        champion: Version of the champion after the run.
    """
    from kfp_foundry.components.evaluation.write_report import core

    core.run(dataset, contract, validation, model, test, evaluation, comparison, registration, endpoint, endpoint_check, report, summary, promoted, champion)
