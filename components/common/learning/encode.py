"""Fits the plan by which raw columns become numbers, on the training rows alone."""

import numpy as np
import polars as pl

from kfp_foundry.components.common.contract import Contract, Type
from kfp_foundry.components.common.errors import DataError
from kfp_foundry.components.common.learning.data import Part
from kfp_foundry.components.common.onnx.encoding import MISSING_TEXTS, Category, Plan, Scaling, date_parts

RARE = 5  # rows; a category with fewer shares the code `other`, which so learns what an unseen one is like
# Most categories per column that keep a code of their own; the most frequent ones do.
# HGB has 255 bins: one is missing's, one is other's.
LIMITS = {"lightgbm": 1_000, "hist_gradient_boosting": 253, "linear": 100, "residual_mlp": 10_000}


def fit_plan(part: Part, contract: Contract, algorithm: str, max_bins: int = 255) -> Plan:
    """The plan for an algorithm: codes for trees and networks; one-hot, filled and standardised for a linear model.

    A column of numbers or dates without a single value is left out.

    Args:
        part: The training rows.
        contract: Says the features and their types.
        algorithm: One of `parameters.ALGORITHMS`.
        max_bins: Most codes that HistGradientBoosting takes.

    Raises:
        DataError: No feature has a value.
    """
    texts = [field.name for field in contract.feature_fields if field.type is Type.STRING]
    filled = [name for name in contract.features if name not in texts and np.isfinite(part.feed[name]).any()]
    limit = min(LIMITS[algorithm], max_bins - 2) if algorithm == "hist_gradient_boosting" else LIMITS[algorithm]
    categories = [fit_category(name, pl.Series("text", part.feed[name], dtype=pl.String).value_counts(), limit) for name in texts]
    plan = make_plan(contract, categories, filled, one_hot=algorithm == "linear")
    return plan if algorithm != "linear" else plan.model_copy(update={"scaling": _fit_scaling(plan, part)})


def make_plan(contract: Contract, categories: list[Category], filled: list[str], one_hot: bool = False) -> Plan:
    """The plan without scaling.

    Args:
        contract: Says the types.
        categories: The vocabularies of the columns of texts.
        filled: The other features of which some training row has a value, in the contract's order.
        one_hot: See `Plan`.

    Raises:
        DataError: No feature has a value.
    """
    fields = [contract.field(name) for name in filled]
    dates = {field.name: date_parts(field.type is Type.DATE) for field in fields if field.type in (Type.DATE, Type.DATETIME)}
    if not categories and not filled:
        raise DataError("no feature has a value", where="train rows", remedy="give other columns the role feature")
    return Plan(categories=categories, numbers=[name for name in filled if name not in dates], moments=dates, one_hot=one_hot)


def fit_category(name: str, counts: pl.DataFrame, limit: int) -> Category:
    """The vocabulary of a column: missing first if there is any, then the frequent categories by name, then `other`.

    Args:
        name: The column.
        counts: `text` and its `count` in the training rows.
        limit: Most categories with a code of their own.
    """
    counts = counts.sort(["count", "text"], descending=[True, False])
    frequent = counts.filter(pl.col("text") != "", pl.col("count") >= RARE)["text"].head(limit).sort()
    rest = counts.filter(~pl.col("text").is_in(frequent.implode()))["text"]
    missing = rest.is_in(MISSING_TEXTS)
    codes = {text: code for code, text in enumerate([*([""] if missing.any() else []), *frequent])}
    return Category(name=name, codes=codes, other=None if missing.all() else len(codes))


def _fit_scaling(plan: Plan, part: Part) -> Scaling | None:
    count = len(plan.numeric)
    if not count:
        return None
    numbers = plan.matrix(part.feed)[:, -count:]
    missing = np.isnan(numbers)
    fill = [float(np.median(column[~gaps])) if not gaps.all() else 0.0 for column, gaps in zip(numbers.T, missing.T, strict=True)]
    filled = np.where(missing, fill, numbers)
    # Around the middle and in units of the largest distance first: squares of numbers such as 1e200 overflow.
    reach = np.abs(filled - np.array(fill)).max(axis=0)
    unit = np.where((reach > 0) & np.isfinite(reach), reach, 1.0)
    shares = (filled - np.array(fill)) / unit
    deviation = shares.std(axis=0) * unit
    return Scaling(
        fill=fill,
        mean=(shares.mean(axis=0) * unit + np.array(fill)).tolist(),
        scale=np.where(deviation > 0, deviation, 1.0).tolist(),
        flags=[int(position) for position in np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))],
    )
