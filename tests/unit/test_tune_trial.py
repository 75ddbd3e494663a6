"""A trial as Katib starts it: arguments and variables in, lines with metrics out, and one line that says why it failed."""

import re
import subprocess
import threading
import time

import pytest
import yaml
from katib_stand_in import collected, container_of, run_container, substituted
from searches import VALUES, search_of, template

from kfp_foundry.compile import experiments
from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.tuning.tune_model import trial

GOLDEN = experiments.sources()[0].with_name("flights.yaml")


def test_a_trial_of_the_committed_experiment_runs_as_it_stands(tmp_path):
    container = container_of(
        substituted(
            yaml.safe_load(GOLDEN.read_text()),
            {"learning_rate": "0.1", "num_leaves": "15", "min_data_in_leaf": "20", "feature_fraction": "0.9", "lambda_l2": "1e-02"},
        )
    )
    short = {"KFP_FOUNDRY_TRIAL_OPTIONS": '{"algorithm": "lightgbm", "params": {"num_iterations": 5}}'}
    code = run_container(container, tmp_path / "log", **short)
    written = (tmp_path / "log").read_text()
    assert code == 0, written
    found = {metric["name"]: float(metric["latest"]) for metric in collected(written, ["log_loss", "auc"])}
    assert 0.3 < found["log_loss"] < 0.6
    assert found["auc"] > 0.6


def environment(flights_addresses, monkeypatch, **changes) -> None:
    for name, value in {**template(**flights_addresses).given.environment(), **changes}.items():
        monkeypatch.setenv(name, value)


def test_every_report_is_a_line_with_its_time_that_katibs_collector_reads(capsys):
    trial.report("log_loss", 1e-7)
    trial.report("log_loss", 0.25)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["log_loss=1e-07", "log_loss=0.25"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z log_loss=1e-07", lines[0])
    assert collected("\n".join(lines), ["log_loss"]) == [{"name": "log_loss", "min": "1e-07", "max": "0.25", "latest": "0.25"}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_ends_the_trial_in_words(value):
    with pytest.raises(FoundryError, match=f"metric log_loss is {value}; narrow the ranges"):
        trial.report("log_loss", value)


@pytest.mark.parametrize(
    ("argv", "changes", "said"),
    [
        (["num_leaves=7"], {}, "error: trial: 'num_leaves=7' is not --name=value; write it like --num_leaves=31"),
        (["--num_leaves"], {}, "error: trial: '--num_leaves' is not --name=value"),
        (["--num_leaves=7", "--num_leaves=8"], {}, "error: trial: --num_leaves is given twice"),
        (["--num_leaves=7"], {}, "error: trial: parameter 'learning_rate' has no value"),
        ([], {"KFP_FOUNDRY_TRIAL_TRAIN": ""}, "error: KFP_FOUNDRY_TRIAL_TRAIN: the variable is not set"),
        ([], {"KFP_FOUNDRY_TRIAL_SEARCH": "{"}, "error: KFP_FOUNDRY_TRIAL_SEARCH: no JSON"),
        ([], {"KFP_FOUNDRY_TRIAL_OPTIONS": '{"algoritm": "x"}'}, "error: KFP_FOUNDRY_TRIAL_OPTIONS: unknown option 'algoritm'"),
        ([], {"KFP_FOUNDRY_TRIAL_TRAIN": "/nowhere/train"}, "error: dataset /nowhere/train: no readable dataset.json"),
        ([], {"KFP_FOUNDRY_TRIAL_CONTRACT": "/nowhere/contract.yaml"}, "error: /nowhere/contract.yaml: there is no such file"),
        (["--num_leaves=1", "--learning_rate=0.1", "--boosting=gbdt"], {}, "error: training: LightGBM refuses: Check failed: (num_leaves) > (1)"),
    ],
)
def test_a_trial_that_fails_ends_with_one_line_that_says_why(argv, changes, said, flights_addresses, monkeypatch, capsys, tmp_path):
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(trial, "TERMINATION_LOG", log)
    environment(flights_addresses, monkeypatch, **changes)
    assert trial.main(argv or [f"--{name}={value}" for name, value in VALUES[0].items()]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(said)
    assert log.read_text() == last, "Kubernetes puts this file into the pod's status"


def test_a_trial_whose_training_does_not_measure_the_metric_fails_in_words(flights_addresses, monkeypatch, capsys):
    given = template(search_of(additional_metrics=["rmse"]), **flights_addresses).given
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert trial.main([f"--{name}={value}" for name, value in VALUES[0].items()]) == 1
    assert "error: trial: metric 'rmse' was not measured; the trial gave accuracy, auc" in capsys.readouterr().err


def test_a_trial_does_not_end_before_katibs_collector_has_seen_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "SETTLE_SECONDS", 0.2)
    began = time.monotonic()
    collectors = []

    def appear():
        collectors.append(subprocess.Popen(["bash", "-c", "exec -a ./file-metricscollector sleep 30"]))

    timer = threading.Timer(0.8, appear)
    timer.start()
    try:
        trial.wait_for_collector(tmp_path, 20)
        assert 1.0 <= time.monotonic() - began < 10
        again = time.monotonic()
        trial.wait_for_collector(tmp_path, 20)
        assert time.monotonic() - again < 0.5, "it runs already"
    finally:
        timer.join()
        for process in collectors:
            process.kill()
            process.wait()


def test_without_katib_a_trial_waits_for_nothing(tmp_path):
    began = time.monotonic()
    trial.wait_for_collector(tmp_path / "absent", 20)
    assert time.monotonic() - began < 0.5
