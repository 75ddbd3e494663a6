"""The KFP face of `infer_contract`: types, defaults and documentation; the work is in core.py."""

from typing import List, NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def infer_contract(
    dataset: dsl.Input[dsl.Dataset],
    contract: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    target: str = "",
    name: str = "",
    contract_uri: str = "",
    task: str = "auto",
    positive: str = "",
    time_column: str = "",
    group_column: str = "",
    weight_column: str = "",
    id_columns: List[str] = [],
    ignore_columns: List[str] = [],
    sensitive_columns: List[str] = [],
) -> NamedTuple("Outputs", [("task", str), ("target", str), ("name", str)]):
    """Finds the data contract of a table, or loads one and holds it against the table.

    The contract says what each column is for (target, feature, id, time, ignored ...), of which type it is, and what its
    values must satisfy. Every later step reads it, so none takes a list of column names.

    Args:
        dataset: Parquet folder to describe.
        contract: The contract, a YAML file to commit and edit.
        report: What was found and why, for people.
        target: Column to predict; empty: a contract without a task.
        name: Name of the model to come; empty: made from the table's name and the target.
        contract_uri: Load this contract instead: a path, file://, http(s)://, s3:// or gs://.
        task: `binary`, `multiclass`, `regression`, or `auto`: found from the target's values.
        positive: For two classes: the label whose probability is predicted; empty: found (true, 1, yes, or the rarer one).
        time_column: Column of dates that orders the rows; empty: found when there is exactly one candidate.
        group_column: Column whose equal values must stay together in a split, such as a customer.
        weight_column: Column of sample weights, numbers >= 0.
        id_columns: Columns that identify rows, besides those that are found.
        ignore_columns: Columns that nothing may use.
        sensitive_columns: Columns that a model must not use, and over which it is judged.

    Returns:
        task: `binary`, `multiclass` or `regression`; empty without a target.
        target: The column to predict; empty if there is none.
        name: Name of the model to come.
    """
    from kfp_foundry.components.validation.infer_contract import core

    return core.run(
        dataset,
        contract,
        report,
        target,
        name,
        contract_uri,
        task,
        positive,
        time_column,
        group_column,
        weight_column,
        id_columns,
        ignore_columns,
        sensitive_columns,
    )
