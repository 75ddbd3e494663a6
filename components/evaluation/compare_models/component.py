"""The KFP face of `compare_models`: types, defaults and documentation; the work is in core.py."""

from typing import Dict, List, NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def compare_models(
    challenger: dsl.Input[dsl.Model],
    test: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    model_name: str,
    metric: str = "auto",
    min_gain: float = 0.0,
    max_loss: Dict[str, float] = {},
    slice_columns: List[str] = [],
    max_slice_loss: float = 0.0,
    threshold: float = 0.5,
    champion_alias: str = "champion",
    on_incomparable: str = "fail",
    seed: int = 7,
) -> NamedTuple("Outputs", [("outcome", str), ("champion_version", str)]):
    """Compares a new model with the champion of the registry on the same rows, and says whether it may replace it.

    Both models predict the same test rows; differences get intervals from a paired bootstrap (Efron and Tibshirani 1993), in
    which each replicate draws the same rows for both. The rule is judged by the differences themselves, not by the ends of
    their intervals. With the default rule the challenger passes when it is at least as good by the metric (`min_gain` 0).
    No champion yet is a pass, and so is a challenger that is the champion itself with the same threshold. With another threshold
    its guards and slices are judged, and a gain is asked for only of a metric that the threshold changes.

    Args:
        challenger: New model.
        test: Rows on which both are judged; neither was trained on them if the split is the same as the champion's.
        verdict: JSON with outcome, checks, rule and all differences.
        report: HTML page with tables and figures.
        model_name: Name in the registry.
        metric: Metric that must gain, such as `f1`; `auto`: `auc`, `log_loss` (multiclass) or `rmse` (regression). For metrics
            of which less is better a gain is a decrease.
        min_gain: The challenger must be better by at least this much, such as 0.02; a negative number allows a small loss.
        max_loss: Per guard metric the most by which the challenger may be worse, such as `{"f1": 0.05}`.
        slice_columns: Columns over whose values or quantiles both are compared too.
        max_slice_loss: Most by which the challenger may be worse on any slice: a larger loss fails, or warns where its interval
            reaches 0; 0: slices are not guarded.
        threshold: Probability from which the challenger predicts the positive class; the champion has the one it is registered with.
        champion_alias: Alias that marks the champion.
        on_incomparable: `fail` or `warn` when the two cannot be compared: another task, target or label, an input column that
            the rows lack, or a metric that is not defined on them.
        seed: Seed of the bootstrap.

    Returns:
        outcome: `pass`, `warn` or `fail`.
        champion_version: Version of the champion that was compared with; empty when there is none.
    """
    from kfp_foundry.components.evaluation.compare_models import core

    rule = core.make_rule(metric, min_gain, max_loss, slice_columns, max_slice_loss, on_incomparable)
    return core.run(challenger, test, verdict, report, model_name, rule, threshold, champion_alias, seed)
