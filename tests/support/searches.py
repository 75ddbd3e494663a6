"""Searches over a small space of LightGBM's parameters, and the templates of their trials."""

from typing import Any

from kfp_foundry.components.common import images
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate
from kfp_foundry.components.tuning.tune_model.katib.given import Given
from kfp_foundry.components.tuning.tune_model.search import Search

SPACE = {
    "num_leaves": {"type": "int", "min": 7, "max": 63, "log": True},
    "learning_rate": {"type": "float", "min": 0.05, "max": 0.3},
    "boosting": ["gbdt", "dart"],
}
VALUES = [
    {"num_leaves": "7", "learning_rate": "0.05", "boosting": "gbdt"},
    {"num_leaves": "31", "learning_rate": "1e-01", "boosting": "gbdt"},
]


def search_of(**words: Any) -> Search:
    """A search of two trials, with other words on demand."""
    return Search.read({"parameters": SPACE, "metric": "log_loss", "additional_metrics": ["auc"], "max_trials": 2, **words})


def template(
    search: Search | None = None, train: str = "s3://b/train", validation: str = "s3://b/val", contract: str = "s3://b/contract", **more: Any
) -> TrialTemplate:
    """Its trials: fifteen rounds of boosting."""
    options = {"algorithm": "lightgbm", "params": {"num_iterations": 15}}
    return TrialTemplate(images.FOUNDRY, Given(train, validation, contract, options, search or search_of()), **more)


def pod_of(body: dict[str, Any]) -> dict[str, Any]:
    """The pod of a trial that is a Job."""
    return body["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
