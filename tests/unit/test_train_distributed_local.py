"""Ranks on this machine: what they are told, what they leave, and how a mistake is answered."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest
from kfp import dsl
from rank_training import PARAMS, request, train, write_tables

from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.distributed.local import forkserver, supervise
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.learning.network.meeting import meet
from kfp_foundry.components.training.train_distributed import core

DOCUMENTATION = Path(__file__).parents[2] / "docs/training.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory, flights, flights_contract) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_tables(folder, flights, flights_contract)
    return folder


def test_two_ranks_train_our_network_and_every_launch_comes_to_the_same_model(place, flights):
    first, second = (train(place, 2, work=work) for work in ("first", "second"))
    assert (first["engine"], first["ranks"]) == ("forkserver", 2)
    assert (first["digest"], first["metrics"]) == (second["digest"], second["metrics"])
    model = ModelFolder.open(place / "first/output/model")
    assert (model.record.algorithm, model.record.rows) == ("residual_mlp", {"train": 4000, "validation": 1000, "dropped": 0})
    assert model.predict(flights.head(5)).height == 5


def test_rank_0_prints_the_losses_of_every_epoch_and_the_metrics(place):
    lines = train(place, 2, work="lines")["lines"]
    said = [re.fullmatch(r"\[(rank \d)\] (\w+)=([0-9.e-]+)", line) for line in lines]
    assert {found[1] for found in said if found} == {"rank 0"}
    names = [found[2] for found in said if found]
    assert names[:8] == ["train_loss", "validation_loss"] * 4
    assert {"auc", "log_loss"} <= {*names[8:]}


def test_the_step_leaves_a_model_a_page_and_metrics_and_no_checkpoints(place, artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    inputs = [dsl.Artifact(uri=str(place / name), metadata={}) for name in ("train", "validation", "contract.yaml")]
    model, metrics, report = artifact("model", dsl.Model), artifact("metrics", dsl.Metrics), artifact("report", dsl.HTML)
    core.run(*inputs, model, metrics, report, {"ranks_per_node": 2, "target": "local"}, params=PARAMS)
    assert ModelFolder.open(model).digest == model.metadata["digest"]
    assert metrics.metadata["auc"] > 0.5
    assert "residual_mlp" in Path(report.path).read_text()
    assert not any((tmp_path / "home/training").iterdir())


def test_the_documented_module_becomes_a_model_like_any_other(place, tmp_path, monkeypatch, flights):
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL) if "def train(context)" in block)
    (tmp_path / "my_training.py").write_text(code)
    monkeypatch.chdir(tmp_path)  # as a user who starts from the folder of the module
    found = train(place, 2, "my_training", {"epochs": 3}, work="mine", class_weight="balanced", calibration="sigmoid")
    model = ModelFolder.open(place / "mine/output/model")
    assert model.record.algorithm == "module"
    assert model.record.params == {"module": "my_training", "epochs": 3}
    assert model.record.parity.max_difference < 1e-9
    assert model.record.rows["train"] == 4000
    assert found["metrics"]["auc"] > 0.6
    assert model.predict(flights.head(5)).columns == ["probability", "prediction"]
    assert "Learning curve" in (place / "mine/output/report.html").read_text()


@pytest.mark.parametrize("module", ["", "user_training"], ids=["our network", "module"])
def test_ddp_and_fsdp_train_the_same_model(place, module):
    ddp, fsdp = (train(place, 2, module, work=f"{module}-{strategy}", strategy=strategy) for strategy in ("ddp", "fsdp"))
    assert ddp["metrics"] == pytest.approx(fsdp["metrics"], abs=1e-6)


@pytest.mark.parametrize(
    ("module", "args", "said"),
    [
        (
            "no_such_training",
            {},
            "module: there is no Python module 'no_such_training'; give its dotted name, and install it in the image or put its",
        ),
        ("user_training.py", {}, "leave `.py` out: module='user_training'"),
        ("rank_training.absent", {}, "module: there is no Python module 'rank_training.absent'; give its dotted name"),
        ("json", {}, "module 'json' has no function `train(context)`; define `def train(context)`, which returns a torch.nn.Module"),
        ("user_training", {"shape": "dict"}, "module: `train` returned dict; return a torch.nn.Module that takes encoded rows"),
        ("user_training", {"shape": "wide"}, "module: the returned module gives scores of shape [3, 3] for 3 rows, not [3] or [3, 1]; return a"),
        ("user_training", {"shape": "erf"}, "module: ONNX Runtime has no float64 form of Erf: "),
    ],
    ids=["absent", "file name", "absent in a module", "no entry", "no module returned", "wrong shape", "no graph"],
)
def test_a_module_that_does_not_keep_the_contract_is_told_so(place, module, args, said):
    with pytest.raises(UserError, match=re.escape(said)):
        train(place, 1, module, args, work="wrong")


def test_params_are_not_for_a_module(place):
    with pytest.raises(UserError, match="params are those of our network, and a module is given; give the module its own in module_args"):
        train(place, 1, "user_training", work="wrong", params={"width": 8})


def test_a_parameter_that_the_network_does_not_have_is_refused_by_the_ranks_in_one_line(place):
    with pytest.raises(UserError, match=r"^training: residual_mlp has no parameter 'widht'; did you mean 'width'\?$"):
        train(place, 2, work="wrong", params={"widht": 8})


@pytest.mark.parametrize(
    ("ranks", "accelerators", "device", "there", "expected"),
    [
        (0, 0, "auto", 0, (1, False)),
        (3, 0, "auto", 0, (3, False)),
        (0, 0, "auto", 4, (4, True)),
        (2, 0, "auto", 4, (2, True)),
        (0, 2, "auto", 4, (2, True)),
        (2, 0, "cpu", 4, (2, False)),
    ],
)
def test_there_is_one_rank_per_gpu_or_one(monkeypatch, ranks, accelerators, device, there, expected):
    monkeypatch.setattr(supervise, "gpus", lambda: there)
    assert supervise.placed(ranks, accelerators, device) == expected


@pytest.mark.parametrize(
    ("ranks", "accelerators", "device", "there", "error", "said"),
    [
        (
            0,
            2,
            "auto",
            0,
            PlatformError,
            "has none; ask for none (accelerators=0), or run with target=kubeflow (training_target",
        ),
        (0, 0, "cuda", 0, PlatformError, "1 GPU is asked for, this machine has none"),
        (0, 4, "auto", 2, PlatformError, "4 GPUs are asked for, this machine has 2"),
        (3, 0, "auto", 2, UserError, "3 ranks for 2 GPUs; give ranks_per_node=2: a rank computes on a GPU of its own"),
        (3, 1, "auto", 4, UserError, "3 ranks for 1 GPU;"),
        (-1, 0, "auto", 0, UserError, "ranks_per_node is -1"),
    ],
)
def test_what_this_machine_cannot_give_is_refused(monkeypatch, ranks, accelerators, device, there, error, said):
    monkeypatch.setattr(supervise, "gpus", lambda: there)
    with pytest.raises(error, match=re.escape(said)):
        supervise.placed(ranks, accelerators, device)


def test_a_command_line_is_read_as_it_was_written(tmp_path):
    asked = request(tmp_path, "my_training", {"epochs": 3}, strategy="fsdp", seed=3, class_weight="balanced")
    assert Request.parse(asked.argv()) == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: --train"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["--options", "{"], "--options is not JSON"),
        (["--options", '{"sead": 7}'], "options names 'sead'; did you mean 'seed'?"),
        (["--module-args", "[]"], "--module-args is []; give a mapping"),
    ],
)
def test_a_wrong_command_line_is_told_so(tmp_path, words, said):
    argv = [*request(tmp_path).argv(), *words] if words else words
    with pytest.raises(UserError, match=re.escape(said)):
        Request.parse(argv)


def test_the_process_that_forks_ranks_has_one_thread(place):
    train(place, 1, "user_training", {"epochs": 1}, work="threads")
    assert len(list(Path(f"/proc/{forkserver.shared().process.pid}/task").iterdir())) == 1


def test_ranks_have_the_environment_of_the_launch_not_of_the_first_one(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "tell.py").write_text("import os, sys\nprint(os.getcwd(), os.environ.get('LATE'), sys.argv[1:])\nsys.exit(3)\n")
    forkserver.shared()
    monkeypatch.setenv("LATE", "word")
    reading, writing = os.pipe()
    status = forkserver.shared().start(forkserver.Command(["tell", "--x=1"], dict(os.environ), str(folder), preloaded=True), writing)
    os.close(writing)
    assert os.fdopen(reading).read() == f"{folder} word ['--x=1']\n"
    assert [json.loads(line) for line in os.fdopen(status)][1] == {"code": 3}


def test_a_program_that_is_not_there_is_reported_like_a_rank_that_fails(tmp_path):
    reading, writing = os.pipe()
    status = forkserver.shared().start(forkserver.Command(["no-such-program"], {"PATH": ""}, str(tmp_path), preloaded=False), writing)
    os.close(writing)
    assert "FileNotFoundError" in os.fdopen(reading).read()
    assert '{"code": 1}' in os.fdopen(status).read()


class Memory(dict):
    """A store in memory that remembers what dead ranks wrote."""

    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)


def together(store: Memory, world: int) -> set[str]:
    names: list[str] = []
    threads = [threading.Thread(target=lambda rank=rank: names.append(meet(store, rank, world, 10.0))) for rank in reversed(range(world))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == world
    return {*names}


def test_ranks_that_start_anew_do_not_meet_the_dead_of_the_attempt_before():
    store = Memory()
    first, second = together(store, 3), together(store, 3)
    assert len(first) == len(second) == 1
    assert first != second


def test_rank_0_names_who_did_not_come():
    with pytest.raises(TimeoutError, match="rank 1, 2 did not come"):
        meet(Memory(), 0, 3, 0.05)


def test_the_components_of_ranks_are_imported_without_pytorch():
    code = "import sys, kfp_foundry.components.common.distributed.local.supervise as s; print('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
