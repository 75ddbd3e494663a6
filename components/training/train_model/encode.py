"""Fits the plan by which raw columns become numbers, on the training rows alone."""

import numpy as np
import polars as pl

from kfp_foundry.components.common.contract import Contract, Type
from kfp_foundry.components.common.onnx.encoding import Category, Plan, Scaling, date_parts
from kfp_foundry.components.training.train_model.data import Part

RARE = 5  # rows; a category with fewer shares the code `other`, which so learns what an unseen one is like
# Most categories per column that keep a code of their own; the most frequent ones do.
LIMITS = {"lightgbm": 1_000, "hist_gradient_boosting": 253, "linear": 100}  # HGB has 255 bins: one is missing's, one is other's


def fit_plan(part: Part, contract: Contract, algorithm: str) -> Plan:
    """The plan for an algorithm: codes for trees; one-hot, filled and standardised for a linear model."""
    texts = [field.name for field in contract.feature_fields if field.type is Type.STRING]
    dates = {field.name: date_parts(field.type is Type.DATE) for field in contract.feature_fields if field.type in (Type.DATE, Type.DATETIME)}
    plan = Plan(
        categories=[fit_category(name, part.feed[name], LIMITS[algorithm]) for name in texts],
        numbers=[name for name in contract.features if name not in texts and name not in dates],
        moments=dates,
        one_hot=algorithm == "linear",
    )
    return plan if algorithm != "linear" else plan.model_copy(update={"scaling": _fit_scaling(plan, part)})


def fit_category(name: str, texts: np.ndarray, limit: int) -> Category:
    """The vocabulary of a column: missing first if there is any, then the frequent categories by name, then `other`."""
    counts = pl.Series("text", texts, dtype=pl.String).value_counts().sort(["count", "text"], descending=[True, False])
    missing = bool((counts["text"] == "").any())
    seen = counts.filter(pl.col("text") != "")
    frequent = sorted(seen.filter(pl.col("count") >= RARE)["text"].head(limit))
    codes = {text: code for code, text in enumerate([*([""] if missing else []), *frequent])}
    return Category(name=name, codes=codes, other=len(codes) if len(frequent) < seen.height else None)


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
