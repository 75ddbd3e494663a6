"""labels: one rule for the positive label, whoever asks."""

import polars as pl
import pytest

from kfp_foundry.components.common.contract import Contract, FieldSpec
from kfp_foundry.components.common.labels import find_positive, named
from kfp_foundry.components.common.learning.data import find_labels
from kfp_foundry.components.validation.infer_contract.core import infer
from kfp_foundry.components.validation.infer_contract.roles import Wishes

CASES = [
    ({"No": 90, "Yes": 10}, "Yes"),
    ({"nein": 30, "ja": 70}, "ja"),
    ({"non": 30, "oui": 70}, "oui"),
    ({"good": 70, "bad": 30}, "bad"),
    ({"a": 50, "b": 50}, "b"),
    ({False: 10, True: 90}, True),
    ({0: 10, 1: 90}, 1),
    ({2: 50, 10: 50}, 10),
]


@pytest.mark.parametrize(("counts", "positive"), CASES)
def test_the_positive_label_is_found(counts, positive):
    assert find_positive(counts)[0] == positive
    assert find_positive(dict(reversed(counts.items())))[0] == positive


@pytest.mark.parametrize(("counts", "positive"), CASES)
def test_contract_and_training_find_the_same_one(counts, positive):
    values = pl.Series("y", [label for label, rows in counts.items() for _ in range(rows)])
    table = pl.DataFrame({"x": pl.Series(range(100)) % 7, "y": values})
    assert infer(table.lazy(), Wishes(target="y")).contract.positive == positive
    kind = {str: "string", bool: "boolean", int: "integer"}[type(positive)]
    fields = [FieldSpec(name="x", type="integer"), FieldSpec(name="y", type=kind, role="target")]
    assert find_labels(values, Contract(fields=fields, task="binary"))[1] == positive


@pytest.mark.parametrize(
    ("labels", "wanted", "label"),
    [
        ([0, 1], "1.0", 1),
        ([0, 1], 1.0, 1),
        ([0.0, 1.0], "0", 0.0),
        ([False, True], "true", True),
        ([False, True], 0, False),
        (["No", "Yes"], "yes ", "Yes"),
        (["yes", "Yes"], "Yes", "Yes"),
        (["yes", "Yes"], "YES", None),
        (["No", "Yes"], "maybe", None),
    ],
)
def test_a_label_is_named_as_a_person_writes_it(labels, wanted, label):
    found = named(labels, wanted)
    assert found == label
    assert type(found) is type(label)
