"""residual_mlp: every task, exact in its served form, gaps and unseen texts, the same bytes again, and clear refusals."""

import dataclasses
import json
import math
import re

import numpy as np
import polars as pl
import pytest
import torch
from threadpoolctl import threadpool_limits

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning import fit_network
from kfp_foundry.components.common.learning.fit import Options, fit, with_params
from kfp_foundry.components.common.learning.fit import prepare as prepare_rows
from kfp_foundry.components.common.learning.learner import Examples, Job
from kfp_foundry.components.common.learning.network.model import embedding_size
from kfp_foundry.components.common.learning.network.settings import NAMES, Settings
from kfp_foundry.components.common.learning.network.step import rates
from kfp_foundry.components.common.learning.page import without_share
from kfp_foundry.components.common.learning.parameters import DEFAULTS, complete
from kfp_foundry.components.common.learning.publish import describe, publish
from kfp_foundry.components.common.learning.stopped import Stopped

SMALL = {"epochs": 14, "learning_rate": 0.004, "batch_size": 64, "width": 24, "blocks": 1, "bins": 12, "dropout": 0.0, "input_dropout": 0.0}
TARGETS = {"binary": ("late", "boolean"), "multiclass": ("tier", "string"), "regression": ("minutes", "number")}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """For tables this small threads cost more than they give, above all beside other tests."""
    monkeypatch.setattr(platform, "cpus", lambda: 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def trips(rows=900, seed=7):
    """Trips whose delay follows from carrier, distance and hour; gaps in every column."""
    rng = np.random.default_rng(seed)
    carrier, distance, hour = rng.choice(["AA", "BB", "CC", "DD"], rows), rng.lognormal(6, 1, rows), rng.integers(0, 24, rows)
    minutes = (carrier == "BB") * 40 + (hour - 12.0) * 3 + np.log(distance) * 10 + rng.normal(size=rows) * 5
    table = pl.DataFrame({"carrier": carrier, "distance": distance, "hour": hour, "same": np.full(rows, 7)})
    gaps = [pl.when(pl.Series(rng.random(rows) > 0.05)).then(pl.col(name)).alias(name) for name in table.columns]
    tier = np.select([minutes < 60, minutes < 90], ["early", "middle"], "late")
    return table.with_columns(gaps).with_columns(late=pl.Series(minutes > 70), tier=pl.Series(tier), minutes=pl.Series(minutes))


def contract(task="binary", extra=""):
    name, kind = TARGETS[task]
    return Contract.parse(f"""
task: {task}
fields:
  - {{name: carrier, type: string}}
  - {{name: distance, type: number}}
  - {{name: hour, type: integer}}
  - {{name: same, type: integer}}
  - {{name: {name}, type: {kind}, role: target}}{extra}
""")


@pytest.fixture
def tables(tmp_path):
    """Writes three quarters of a table to train on and the rest for validation."""

    def write(table):
        cut = table.height * 3 // 4
        sides = {"train": table[:cut], "validation": table[cut:]}
        return {name: DatasetFolder.write(tmp_path / name, rows.lazy(), source="trips") for name, rows in sides.items()}

    return write


@pytest.fixture
def train(tables, tmp_path):
    """Trains, and writes and opens the Model."""

    def work(table, words, params=None, name="model", **options):
        read, chosen = tables(table), Options(algorithm="residual_mlp", params=SMALL | (params or {}), **options)
        result = fit(read["train"], read["validation"], words, chosen)
        publish(tmp_path / name, result, describe(result, words, chosen, read), words)
        return ModelFolder.open(tmp_path / name)

    return work


@pytest.mark.parametrize("task", list(TARGETS))
def test_every_task_is_learned_and_served_exactly(train, task):
    table = trips()
    model = train(table, contract(task))
    assert model.record.parity.max_difference <= 1e-9
    assert model.record.parity.wrong_labels == 0
    assert set(model.record.parity.kinds) == {"held out", "missing", "unseen", "extreme"}
    scored, truth = model.predict(table[675:]), model.truth(table[675:])
    if task == "regression":
        assert (scored["prediction"] - truth).pow(2).mean() < 0.3 * truth.var()
    else:
        assert (scored["prediction"] == truth).mean() > 0.8
    assert sum(model.record.importance.values()) == pytest.approx(1)
    assert model.record.importance["same"] == 0


def test_a_served_row_may_lack_anything_and_hold_what_training_never_saw(train):
    table = trips()
    whole = table.with_columns(carrier=pl.col("carrier").fill_null("AA"), hour=pl.col("hour").fill_null(3))
    model = train(whole, contract())
    odd = [
        {"carrier": None, "distance": None, "hour": None, "same": None},
        {"carrier": "never seen", "distance": math.inf, "hour": -(10**9), "same": 0},
        {"carrier": "BB", "distance": -1e308, "hour": 10**15, "same": 10**15},
    ]
    scored = model.predict(pl.DataFrame(odd, schema={name: table.schema[name] for name in model.contract.features}))
    assert scored["probability"].is_finite().all()
    assert scored["probability"].is_between(0, 1).all()


def test_an_unseen_text_counts_as_an_average_one(train):
    table = trips().with_columns(pl.col("carrier").fill_null("AA"))
    model = train(table, contract("regression"), {"epochs": 15})
    row = table[5:6].drop("carrier", "late", "tier", "minutes")
    each = model.predict(row.join(pl.DataFrame({"carrier": ["AA", "BB", "CC", "DD"]}), how="cross"))["prediction"]
    unseen = model.predict(row.with_columns(carrier=pl.lit("ZZ")))["prediction"][0]
    assert each.min() < unseen < each.max()


def test_the_same_rows_give_the_same_bytes_and_another_seed_gives_others(train):
    table = trips(400)
    models = [train(table, contract(), {"dropout": 0.2}, name, seed=seed) for name, seed in [("one", 7), ("two", 7), ("other", 8)]]
    one, two, other = [json.loads((model.path / "digests.json").read_text()) for model in models]
    assert one == two
    assert one["model.onnx"] != other["model.onnx"]
    assert {"native/model.safetensors", "native/network.json", "native/encoding.json"} <= set(one)


def test_the_processes_own_random_numbers_and_threads_are_left_alone(train):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(trips(400), contract(), {"epochs": 1})
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == 1


def test_the_native_weights_are_the_network_that_is_served(train, tables):
    from safetensors.torch import load_file

    from kfp_foundry.components.common.learning.network.model import Network
    from kfp_foundry.components.common.learning.network.numbers import Numbers
    from kfp_foundry.components.common.learning.network.table import Layout
    from kfp_foundry.components.common.onnx.encoding import Plan

    table = trips(400)
    model = train(table, contract("regression"))
    native = model.path / "native"
    told = json.loads((native / "network.json").read_text())
    layout = Layout(tuple(told["widths"]), Numbers.model_validate(told["numbers"]))
    network = Network(layout, Settings.read(told["settings"]), told["outputs"])
    network.load_state_dict(load_file(native / "model.safetensors"))
    plan = Plan.model_validate(json.loads((native / "encoding.json").read_text())["plan"])
    from kfp_foundry.components.common import rows

    matrix = plan.matrix(rows.feed(table[:50], model.contract))
    codes, numbers = torch.from_numpy(layout.codes(matrix)), torch.from_numpy(layout.positions(matrix))
    values = network.double().eval()(codes, numbers)[:, 0].detach().numpy() * told["unit"] + told["centre"]
    np.testing.assert_allclose(model.predict(table[:50])["prediction"].to_numpy(), values, rtol=1e-12)


def test_it_stops_when_the_validation_loss_no_longer_falls_and_keeps_the_best_epoch(train):
    noise = trips(400).with_columns(late=pl.Series(np.random.default_rng(1).random(400) < 0.5))
    model = train(noise, contract(), {"epochs": 40, "patience": 2, "learning_rate": 0.02})
    assert model.record.rounds < 20
    full = train(noise, contract(), {"epochs": 9, "learning_rate": 0.02}, name="full", early_stopping_rounds=0)
    assert full.record.rounds == 9
    assert full.record.params["patience"] == 0


@pytest.mark.parametrize(
    ("params", "rounds", "patience"),
    [({}, 50, 5), ({}, 2, 5), ({}, 0, 0), ({"patience": 0}, 50, 0), ({"patience": 70}, 50, 70), ({"patience": 3}, 0, 3)],
)
def test_patience_decides_where_it_is_given_and_else_no_rounds_mean_never(params, rounds, patience):
    assert complete("residual_mlp", params, Task.BINARY, rounds)["patience"] == patience
    described = fit_network.describe(dataclasses.replace(job(**params), early_stopping_rounds=rounds))
    assert (described.settings.patience, described.stops_early) == (patience, patience > 0)


def test_the_page_does_not_say_that_a_network_leaves_columns_out():
    assert without_share("residual_mlp", ["age"]) == "No rise of the loss was measured when these columns' values change rows: age."
    assert without_share("lightgbm", ["age"]) == "Not used by the model: age."


def job(task=Task.BINARY, rows=200, **params):
    rng = np.random.default_rng(5)
    matrix = np.column_stack([rng.integers(0, 3, rows), rng.normal(size=rows)]).astype(np.float64)
    target = {Task.BINARY: (matrix[:, 1] > 0).astype(np.int64), Task.REGRESSION: matrix[:, 1] * 3}[task]
    sides = Examples(matrix[:150], target[:150], None), Examples(matrix[150:], target[150:], None)
    return Job(task, 2, *sides, categorical=[0], monotone=[], params=SMALL | params, early_stopping_rounds=50, seed=7, threads=1)


def test_who_watches_sees_the_predictions_of_each_epoch_and_changes_nothing():
    seen = []
    watched = dataclasses.replace(job(epochs=3), early_stopping_rounds=0, watch=lambda number, values: seen.append((number, values())))
    fitted = fit_network.fit(watched)
    assert fitted.native == fit_network.fit(dataclasses.replace(watched, watch=None)).native
    assert [number for number, _ in seen] == [1, 2, 3]
    np.testing.assert_allclose(seen[-1][1], 1 / (1 + np.exp(-fitted.scores(watched.validation.matrix))), atol=1e-5)


def test_who_watches_can_end_the_training():
    def stop(number, values):
        raise Stopped

    with pytest.raises(Stopped):
        fit_network.fit(dataclasses.replace(job(), watch=stop))


def test_fits_on_the_same_rows_share_the_encoded_tables():
    sharing = dataclasses.replace(job(epochs=2), shared={})
    first = fit_network.fit(sharing)
    assert [key[0] for key in sharing.shared] == ["residual_mlp"]
    assert fit_network.fit(sharing).native == first.native == fit_network.fit(dataclasses.replace(sharing, shared=None)).native
    other = dataclasses.replace(sharing, params=sharing.params | {"bins": 3})
    assert fit_network.fit(other).native == fit_network.fit(dataclasses.replace(other, shared=None)).native
    assert len(sharing.shared) == 1


def test_bins_can_be_searched_over(tables):
    read = tables(trips(400))
    prepared = prepare_rows(read["train"], read["validation"], contract(), Options(algorithm="residual_mlp", params=SMALL))
    assert with_params(prepared, {"bins": 5}).job.params["bins"] == 5


@pytest.mark.parametrize(("task", "rate"), [(Task.BINARY, 1e30), (Task.REGRESSION, 1e18)])
def test_a_loss_that_is_no_number_is_told_in_words(task, rate):
    message = r"residual_mlp: the \w+ loss is (nan|inf) in epoch \d+ \(learning_rate is .*\); lower learning_rate, give clip_norm 1, or precision"
    with pytest.raises(UserError, match=message):
        fit_network.fit(job(task, learning_rate=rate, clip_norm=0))


def test_bfloat16_learns_too_and_is_served_exactly(train):
    model = train(trips(), contract(), {"precision": "bfloat16"})
    assert model.record.metrics["auc"] > 0.85
    assert model.record.parity.max_difference <= 1e-9


@pytest.mark.parametrize("target", [1e-9, 1e9, 1e100])
def test_a_regression_works_in_any_unit(train, target):
    table = trips().with_columns(pl.col("minutes") * target)
    model = train(table, contract("regression"))
    difference = (model.predict(table[675:])["prediction"] - model.truth(table[675:])) / target
    assert difference.pow(2).mean() < 0.3 * (table["minutes"] / target).var()


def test_weights_count_in_the_loss():
    plain = job(rows=200)
    liars = Examples(plain.train.matrix, 1 - plain.train.target, None)
    both = Examples(
        np.vstack([plain.train.matrix, liars.matrix]), np.concatenate([plain.train.target, liars.target]), np.repeat([1.0, 0.0], len(plain.train))
    )
    fitted = fit_network.fit(dataclasses.replace(plain, train=both))
    assert ((fitted.scores(plain.validation.matrix) > 0) == plain.validation.target).mean() > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epoch": 3}, r"residual_mlp has no parameter 'epoch'; did you mean 'epochs'\?"),
        ({"epochs": 0}, r"epochs is 0; give a whole number from 1 to 100,000"),
        ({"epochs": 2.5}, r"epochs is 2.5; give a whole number"),
        ({"batch_size": "big"}, r"batch_size is 'big'; give a whole number"),
        ({"blocks": True}, r"blocks is True; give a whole number from 0"),
        ({"learning_rate": 0}, r"learning_rate is 0; give a number above 0"),
        ({"dropout": 1}, r"dropout is 1; give 0 or more, below 1"),
        ({"warmup": 1.5}, r"warmup is 1.5; give 0 or more, at most 1"),
        ({"weight_decay": -1}, r"weight_decay is -1; give 0 or more"),
        ({"clip_norm": math.nan}, r"clip_norm is nan; give 0 or more"),
        ({"precision": "float16"}, r"precision is 'float16'; did you mean 'bfloat16' or 'float32'\?"),
        ({"compile": "yes"}, r"compile is 'yes'; choose one of: auto, off, graph, inductor"),
        ({"seed": 3}, r"'seed' cannot be set in params; give `seed` to the step"),
        ({"early_stopping": True}, r"'early_stopping' cannot be set in params; give `early_stopping_rounds`"),
    ],
)
def test_wrong_parameters_are_refused_before_a_row_is_read(params, message):
    with pytest.raises(UserError, match=message):
        complete("residual_mlp", params, Task.BINARY)


def test_whole_floats_are_whole_numbers_and_every_word_has_a_default():
    assert complete("residual_mlp", {"epochs": 4.0, "dropout": 0}, Task.REGRESSION) == DEFAULTS["residual_mlp"] | {"epochs": 4, "dropout": 0}
    assert set(DEFAULTS["residual_mlp"]) == set(NAMES)


def test_a_network_takes_no_monotone_constraints(train):
    with pytest.raises(UserError, match="a network takes no monotone constraints; choose lightgbm"):
        train(trips(100), contract(), monotone={"distance": 1})


def test_the_learning_rate_rises_to_its_highest_and_falls_to_nothing():
    values = rates(0.1, 0.1, 200).numpy()
    assert values.argmax() == 19
    assert values.max() == pytest.approx(0.1)
    assert (np.diff(values[:20]) > 0).all()
    assert (np.diff(values[20:]) < 0).all()
    assert 0 < values[-1] < 1e-4
    assert len(rates(0.1, 1.0, 3)) == len(rates(0.1, 0.0, 3)) == 3


def test_larger_vocabularies_get_longer_vectors():
    sizes = [embedding_size(width) for width in (0, 1, 10, 100, 10_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 64


def test_importing_what_knows_the_parameters_does_not_import_torch():
    import subprocess
    import sys

    check = "import sys, kfp_foundry.components.common.learning.parameters, kfp_foundry.components.common.learning.fit; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"False\s*", told)
