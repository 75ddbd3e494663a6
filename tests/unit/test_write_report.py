"""write_report: what it says of a model is what was measured."""

import pytest

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.evaluation.write_report.core import exactness


@pytest.mark.parametrize(
    ("task", "measured", "said"),
    [
        (Task.BINARY, 2.22e-16, "differs from the trained model by at most 2.2e-16 in any probability; measured on 5,000 rows, 1e-09 is allowed."),
        (Task.MULTICLASS, 0.0, "by at most 0 in any probability;"),
        (Task.REGRESSION, 3e-12, "by at most 3e-12 in any prediction, relative to the prediction, the target's spread or 1, whichever is largest;"),
    ],
)
def test_how_exact_a_model_is_follows_from_what_its_training_measured(make_model, tmp_path, task, measured, said):
    record = make_model(tmp_path / "model").record
    parity = record.parity.model_copy(update={"max_difference": measured, "rows": 5000})
    assert said in exactness(record.model_copy(update={"task": task, "parity": parity}))
