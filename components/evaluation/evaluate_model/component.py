"""The KFP face of `evaluate_model`: types, defaults and documentation; the work is in core.py."""

from typing import List, NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def evaluate_model(
    model: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification_metrics: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    threshold: str = "f1",
    cost_false_positive: float = 1.0,
    cost_false_negative: float = 1.0,
    min_precision: float = 0.0,
    min_recall: float = 0.0,
    slice_columns: List[str] = [],
    confidence: float = 0.95,
    seed: int = 7,
) -> NamedTuple("Outputs", [("threshold", float)]):
    """Judges a model on rows that it has not seen: metrics with intervals, curves, and the slices on which it is worst.

    The decision threshold of a binary model is chosen on the validation rows and reported on the test rows. Intervals come
    from a Poisson bootstrap (Chamandy et al. 2012), those of slices from closed forms (DeLong et al. 1988 for the AUC).
    Rows without a target, and rows whose label the training rows do not have, are left out and counted.

    Args:
        model: Model folder to judge.
        test: Rows to judge it on.
        validation: Rows on which the threshold is chosen.
        evaluation: JSON with every metric, interval, curve and slice; other steps read it.
        metrics: The metrics as numbers, for the UI.
        classification_metrics: Confusion matrix (rows are the truth) and, for a binary model, the ROC curve, for the UI.
        report: HTML page with tables and figures.
        threshold: `f1` (best F1), `cost` (least cost), `precision` (best recall with `min_precision`), `recall` (best precision
            with `min_recall`), or a probability such as `0.5`.
        cost_false_positive: Cost of a false alarm, for `cost`.
        cost_false_negative: Cost of a miss, for `cost`.
        min_precision: Smallest precision that the threshold may have on the validation rows, 0 to 1; 0: any.
        min_recall: Smallest recall that the threshold may have on the validation rows, 0 to 1; 0: any.
        slice_columns: Columns over whose values or quantiles the model is judged too; sensitive columns, the time and the most
            important features are taken by themselves.
        confidence: Of the intervals, such as 0.95.
        seed: Seed of the bootstrap.

    Returns:
        threshold: Probability from which the positive class is predicted; 0.5 where there is none to choose.
    """
    from kfp_foundry.components.evaluation.evaluate_model import core

    rule = core.make_rule(threshold, cost_false_positive, cost_false_negative, min_precision, min_recall)
    pages = core.Outputs(evaluation, metrics, classification_metrics, report)
    return core.run(model, test, validation, pages, rule, slice_columns, confidence, seed)
