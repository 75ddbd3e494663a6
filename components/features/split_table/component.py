"""The KFP face of `split_table`: types, defaults and documentation; the work is in core.py."""

from typing import Optional

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def split_table(
    dataset: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    train: dsl.Output[dsl.Dataset],
    validation: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    verdict: Optional[dsl.Input[dsl.Artifact]] = None,
    allow_warn: bool = True,
    method: str = "auto",
    validation_share: float = 0.1,
    test_share: float = 0.2,
    seed: int = 7,
):
    """Splits a table into train, validation and test rows without leaking one into another.

    Rows without a target value are left out of every part. Rows without a time go to train when the split is by time: a
    model may learn from them, but is never judged by them.

    Args:
        dataset: Parquet folder to split.
        contract: Data contract; its roles say which column is the time, the group and the target.
        train: Rows to fit on.
        validation: Rows for early stopping and tuning.
        test: Rows for the final evaluation; the latest ones when split by time.
        verdict: What a gate said of the table; `fail` stops the run here, so that a gate needs no step of its own. Empty: no gate.
        allow_warn: Whether a verdict of `warn` lets the run go on.
        method: `time`, `group`, `stratified`, `random`, or `auto`: the first of these that the contract allows. Only `group` keeps
            equal values of the group column in one part; by time, groups that stand on both sides are counted and logged.
        validation_share: Share of rows for validation, above 0 and at most 0.5.
        test_share: Share of rows for test, above 0 and at most 0.5.
        seed: Seed of the row hash; the same seed gives the same rows on every machine.
    """
    from kfp_foundry.components.features.split_table import core

    parts = {"train": train, "validation": validation, "test": test}
    core.run(dataset, contract, parts, method, validation_share, test_share, seed, verdict, allow_warn)
