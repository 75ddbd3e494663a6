"""The KFP face of `validate_table`: types, defaults and documentation; the work is in core.py."""

from typing import NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def validate_table(
    dataset: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    engine: str = "polars",
    examples: int = 5,
) -> NamedTuple("Outputs", [("outcome", str)]):
    """Holds a table to its data contract: every check in one streaming pass, failing rows shown by number.

    It never fails a run: it returns its verdict, and `require_verdict` stops the pipeline if it has to.

    Args:
        dataset: Parquet folder to check.
        contract: Data contract that says what must hold.
        verdict: JSON with every check, its limit, its value and the first failing rows.
        report: The same for people, with an overview of all columns.
        engine: What runs the pass: `polars`, or `duckdb`.
        examples: Failing rows to show per check.

    Returns:
        outcome: `pass`, `warn` or `fail`: the worst outcome of the checks.
    """
    from kfp_foundry.components.validation.validate_table import core

    return core.run(dataset, contract, verdict, report, engine, examples)
