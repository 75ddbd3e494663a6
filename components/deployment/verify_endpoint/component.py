"""The KFP face of `verify_endpoint`: types, defaults and documentation; the work is in core.py."""

from typing import NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def verify_endpoint(
    endpoint: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    rows: int = 200,
    tolerance: float = 1e-9,
    max_p99_ms: float = 0.0,
) -> NamedTuple("Outputs", [("outcome", str)]):
    """Asks a deployed model over HTTP and holds its answers against the batch path.

    Raw rows of the test set, rows with a missing value in each column and rows with unseen categories go through V1 and V2. The
    numbers must agree, the labels must be equal, and rows that break the contract must be refused. None of these requests is
    put into the payload log.

    Args:
        endpoint: Endpoint to check; one with traffic 0 passes, since nothing was deployed.
        model: Model folder that the endpoint should serve.
        test: Rows to ask about.
        verdict: JSON: every check with its limit and its value.
        report: The checks and the times, as a page.
        rows: Rows of the test set to send, 1 to 10000.
        tolerance: Largest difference of a number (for one above 1: relative to it).
        max_p99_ms: Slowest allowed 99th percentile of single-row answers, in milliseconds; 0: it is only reported.

    Returns:
        outcome: `pass` or `fail`.
    """
    from kfp_foundry.components.deployment.verify_endpoint import core

    return core.run(endpoint, model, test, verdict, report, rows, tolerance, max_p99_ms)
