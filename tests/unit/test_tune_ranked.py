"""One trial by several processes, started as a TrainJob starts its node."""

import socket

import pytest
from katib_stand_in import collected, run_container, substituted
from searches import search_of

from kfp_foundry.components.common import images, platform
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.fit import Options
from kfp_foundry.components.tuning.tune_model import core
from kfp_foundry.components.tuning.tune_model.katib import ranked
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate, render
from kfp_foundry.components.tuning.tune_model.katib.given import Given

SPACE = {"width": [16, 32], "learning_rate": {"type": "float", "min": 0.001, "max": 0.01, "log": True}}
VALUES = {"width": "16", "learning_rate": "0.005"}


def given(flights_addresses, algorithm="residual_mlp", **changes) -> Given:
    options = {"algorithm": algorithm, "params": {"epochs": 1, "blocks": 1} if algorithm == "residual_mlp" else {}}
    return Given(**{**flights_addresses, "options": options, "search": search_of(parameters=SPACE), **changes})


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def node(flights_addresses, tmp_path):
    """Runs the node of a TrainJob; gives its exit code and what it wrote."""

    def run(values=VALUES, ranks=2):
        body = render(TrialTemplate(images.TORCH, given(flights_addresses), ranks_per_node=2), {"name": "tune"})
        trainer = substituted(body, values)["spec"]["trainer"]
        operator = {"NNODES": "1", "NPROC_PER_NODE": str(ranks), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        code = run_container(trainer, tmp_path / "log", OMP_NUM_THREADS="1", **{f"PET_{name}": value for name, value in operator.items()})
        return code, (tmp_path / "log").read_text()

    return run


@pytest.mark.slow
def test_two_ranks_train_together_and_one_of_them_reports(node):
    code, written = node()
    assert code == 0, written
    assert written.count("log_loss=") == written.count("auc=") == 1
    assert 0.3 < float(collected(written, ["log_loss"])[0]["latest"]) < 0.8


@pytest.mark.slow
def test_a_mistake_ends_the_node_with_the_code_that_is_not_tried_again(node):
    code, written = node({**VALUES, "learning_rate": "-1"}, ranks=1)
    assert code == ranked.FINAL
    assert "error: training: learning_rate is -1; give a number above 0" in written


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "lightgbm"}, "lightgbm trains in one process, and this trial has several; give it one node and one rank"),
        ({"train": "sample://flights"}, "a sample or folds are for trials of one process"),
        ({"folds": 3}, "a sample or folds are for trials of one process"),
    ],
)
def test_what_several_ranks_cannot_do_is_refused(changes, said, flights_addresses):
    with pytest.raises(UserError, match=said):
        ranked.value(given(flights_addresses, **changes), {})


@pytest.mark.parametrize(
    ("processes", "algorithm", "target", "folds", "said"),
    [
        ((0, 1), "residual_mlp", "kubeflow", 0, "nodes is 0, ranks_per_node is 1; give 1 or more"),
        ((1, 2), "lightgbm", "kubeflow", 0, "and lightgbm trains in one process; give 1 for both, or trainer torch"),
        ((2, 1), "residual_mlp", "kubeflow", 3, "and folds is 3; give folds 0"),
        ((2, 1), "residual_mlp", "local", 0, "and the search is here: asked for by target=local; give 1 for both, or target=kubeflow"),
    ],
)
def test_trials_of_several_processes_are_for_networks_on_katib(processes, algorithm, target, folds, said):
    plan = core.Plan(search_of(parameters=SPACE), Options(algorithm), Task.BINARY, folds)
    with pytest.raises(UserError) as error:
        core.check_processes(processes, plan, platform.choose(target))
    assert said in str(error.value)
