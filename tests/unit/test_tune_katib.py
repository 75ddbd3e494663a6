"""Katib: what is rendered is what the cluster takes, trials are real processes, and how a search ended is told in words."""

import re
import subprocess
import threading
import time

import pytest
import yaml
from katib_stand_in import Katib, container_of, environment_of, substituted
from searches import SPACE, VALUES, pod_of, search_of, template

from kfp_foundry.cli.main import main
from kfp_foundry.compile import experiments
from kfp_foundry.components.common import images
from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError
from kfp_foundry.components.common.kube import connection
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure
from kfp_foundry.components.common.kube.kinds import EXPERIMENT
from kfp_foundry.components.common.kube.launcher import Pace
from kfp_foundry.components.common.kube.pods import PodOptions, settings_env
from kfp_foundry.components.common.kube.task import Task
from kfp_foundry.components.tuning.tune_model import objective
from kfp_foundry.components.tuning.tune_model.katib import engine as katib
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate, parallel, render
from kfp_foundry.components.tuning.tune_model.katib.given import Given
from kfp_foundry.components.tuning.tune_model.study import Reason, State

PACE = Pace(first=0.05, longest=0.1, report=0.2, stuck=1.0, deletion=1.0)
EPOCHS = {"epochs": {"type": "int", "min": 1, "max": 27}}
TASK = Task("minio://pipelines/run-1/trials", run="run-1", workflow="flights-x7k2p", workflow_uid="0ab1")
GOLDEN = experiments.sources()[0].with_name("flights.yaml")


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.02)
    monkeypatch.setattr("kfp_foundry.components.common.kube.logs.LIST_SECONDS", 0.05)
    return Cluster.connect(outage_seconds=2.0)


# -- rendering


@pytest.mark.parametrize(
    "words",
    [
        {"algorithm": "random"},
        {"algorithm": "tpe", "early_stopping": "median", "goal": 0.4, "trial_seconds": 60, "settings": {"n_ei_candidates": 12}},
        {"algorithm": "multivariate-tpe", "settings": {"n_startup_trials": 3}},
        {"algorithm": "cmaes", "settings": {"sigma": 0.2}},
        {"algorithm": "sobol"},
        {"algorithm": "bayesianoptimization", "direction": "maximize", "parallel_trials": 1, "max_failed_trials": 0},
        {"algorithm": "grid", "parameters": {"num_leaves": {"type": "int", "min": 7, "max": 31, "step": 8}, "boosting": ["gbdt", "dart"]}},
        {"algorithm": "hyperband", "parameters": {"num_iterations": {"type": "int", "min": 1, "max": 9}}, "max_trials": 40},
    ],
    ids=lambda words: words["algorithm"],
)
def test_the_cluster_takes_the_experiment_of_every_algorithm(words, cluster, fake_cluster):
    from kubeflow_katib_api.models import V1beta1Experiment

    body = render(template(search_of(**words), settings=settings_env()), TASK.metadata("tune"))
    assert V1beta1Experiment.from_dict(body).to_dict()["spec"] == body["spec"]
    made = cluster.create(EXPERIMENT, body)
    assert made["spec"]["algorithm"]["algorithmName"] == words["algorithm"]
    assert made["metadata"]["labels"]["kfp-foundry.io/run"] == "run-1"


def test_a_search_is_said_in_katibs_words():
    search = search_of(goal=0.45, early_stopping="median", settings={"n_ei_candidates": 12}, max_trials=9, parallel_trials=2)
    spec = render(template(search), {"name": "tune"})["spec"]
    assert spec["objective"] == {
        "type": "minimize",
        "objectiveMetricName": "log_loss",
        "metricStrategies": [{"name": "log_loss", "value": "latest"}, {"name": "auc", "value": "latest"}],
        "goal": 0.45,
        "additionalMetricNames": ["auc"],
    }
    assert spec["algorithm"]["algorithmSettings"] == [{"name": "n_EI_candidates", "value": "12"}, {"name": "random_state", "value": "7"}]
    assert spec["parameters"][0] == {
        "name": "num_leaves",
        "parameterType": "int",
        "feasibleSpace": {"min": "7", "max": "63", "distribution": "logUniform"},
    }
    assert spec["parameters"][2] == {"name": "boosting", "parameterType": "categorical", "feasibleSpace": {"list": ["gbdt", "dart"]}}
    assert spec["earlyStopping"]["algorithmName"] == "medianstop"
    assert (spec["maxTrialCount"], spec["parallelTrialCount"], spec["maxFailedTrialCount"]) == (9, 2, 3)


def test_a_trial_has_the_steps_placement_and_no_more_rights_than_it_needs():
    gpu = {"limits": {"nvidia.com/gpu": "1"}}
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    mount = {"name": "data", "mountPath": "/data"}
    options = PodOptions(gpu, {"pool": "gpu"}, tolerations, {"nodeAffinity": {}}, [{"name": "A", "value": "b"}], [{"name": "data"}], [mount])
    body = render(template(search_of(trial_seconds=600), pod=options, settings=settings_env()), TASK.metadata("tune"))
    job, pod = body["spec"]["trialTemplate"]["trialSpec"], pod_of(body)
    container = pod["containers"][0]
    assert container["resources"] == gpu
    assert (pod["nodeSelector"], pod["tolerations"], pod["affinity"]) == ({"pool": "gpu"}, tolerations, {"nodeAffinity": {}})
    assert mount in container["volumeMounts"]
    assert {"name": "data"} in pod["volumes"]
    assert (pod["activeDeadlineSeconds"], pod["restartPolicy"], job["spec"]["backoffLimit"]) == (600, "Never", 0)
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["runAsNonRoot"] is True
    assert "securityContext" not in pod, "Katib's metrics collector runs as root in the same pod"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert {**TASK.labels(), "sidecar.istio.io/inject": "false"} == labels
    secrets = [entry for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
    assert secrets
    assert all(entry["valueFrom"]["secretKeyRef"]["optional"] for entry in secrets)


def test_a_variable_of_the_step_goes_before_the_clusters_settings():
    own = [{"name": "AWS_ENDPOINT_URL", "value": "http://mine:9000"}]
    env = pod_of(render(template(pod=PodOptions(env=own), settings=settings_env()), {"name": "tune"}))["containers"][0]["env"]
    assert [entry for entry in env if entry["name"] == "AWS_ENDPOINT_URL"] == own
    assert len({entry["name"] for entry in env}) == len(env)


def test_no_word_of_a_trials_command_means_anything_to_a_shell():
    body = render(template(search_of(parameters={**SPACE, "x": ["a@b", "-1,5e-7", "a=b/c:d%+"]})), {"name": "tune"})
    for values in ({**VALUES[0], "x": "a@b"}, {**VALUES[1], "x": "-1,5e-7"}, {**VALUES[1], "x": "a=b/c:d%+"}):
        command = container_of(substituted(body, values))["command"]
        echoed = subprocess.run(["sh", "-c", f"printf '%s\\n' {' '.join(command)}"], capture_output=True, text=True, check=True).stdout
        assert echoed.splitlines() == command


def test_what_a_trial_is_given_it_reads_back():
    given = Given("s3://b/$(HOME)/train", "s3://b/val", "version: 1\nname: x\n", {"algorithm": "linear", "params": {"C": 1}}, search_of(), 5, "time")
    container = pod_of(render(TrialTemplate("image", given), {"name": "tune"}))["containers"][0]
    read = Given.read(environment_of(container))
    assert (read.train, read.contract, read.options, read.folds, read.method) == (given.train, given.contract, given.options, 5, "time")
    assert read.search.parameters == given.search.parameters
    assert "$$(HOME)" in container["env"][0]["value"], "Kubernetes would expand $(HOME)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            {"algorithm": "gp", "parameters": {"x": {"type": "float", "min": 0, "max": 1}}},
            "min is 0.0, and Katib's bayesianoptimization samples every",
        ),
        (
            {"algorithm": "hyperband", "parameters": EPOCHS, "parallel_trials": 3, "max_trials": 40},
            "Katib's hyperband starts 27 trials at once, 3 are allowed; give parallel_trials and max_trials of at least 27",
        ),
        (
            {"algorithm": "hyperband", "parameters": EPOCHS, "max_trials": 9},
            "27 trials at once, 9 are allowed",
        ),
    ],
)
def test_what_katib_cannot_do_is_refused_before_anything_starts(words, said, cluster, fake_cluster):
    with pytest.raises(UserError) as error:
        katib.tune(cluster, TASK, template(search_of(**words)))
    assert said in str(error.value)
    assert not fake_cluster.requests


def test_hyperband_has_room_for_its_first_bracket():
    search = search_of(algorithm="hyperband", parameters={"epochs": {"type": "int", "min": 1, "max": 27}}, max_trials=60)
    assert parallel(search) == 27


def test_trials_of_several_processes_are_trainjobs(cluster):
    body = render(template(nodes=2, ranks_per_node=4, pod=PodOptions(resources={"limits": {"cpu": "4"}})), TASK.metadata("tune"))
    trials = body["spec"]["trialTemplate"]
    assert trials["primaryContainerName"] == "node"
    assert trials["trialSpec"]["kind"] == "TrainJob"
    trainer = trials["trialSpec"]["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trials["trialSpec"]["spec"]["runtimeRef"]["name"] == "kfp-foundry-torch"
    assert cluster.create(EXPERIMENT, body)


def test_trials_of_several_processes_do_not_report_while_they_train():
    with pytest.raises(UserError, match="early_stopping is 'median', and a trial of several processes reports at its end only; leave it empty"):
        render(template(search_of(early_stopping="median"), nodes=2), {"name": "tune"})


def test_a_placement_that_trainjobs_cannot_say_is_refused():
    with pytest.raises(UserError, match=r"tolerations is set on the step.*put it into the TrainingRuntime 'kfp-foundry-torch'"):
        render(template(nodes=2, pod=PodOptions(tolerations=[{"operator": "Exists"}])), {"name": "tune"})


# -- the golden Experiment


def test_the_committed_experiment_is_what_its_search_renders_to(capsys):
    assert main(["compile", str(experiments.sources()[0]), "--check"]) == 0
    assert "flights.yaml: current" in capsys.readouterr().out


def test_the_cluster_takes_the_committed_experiment_and_it_needs_no_other_object(cluster):
    body = yaml.safe_load(GOLDEN.read_text())
    assert cluster.create(EXPERIMENT, body)
    assert "valueFrom" not in yaml.dump(pod_of(body))
    assert pod_of(body)["containers"][0]["image"] == images.FOUNDRY


def test_an_image_of_ones_own_is_put_in(tmp_path):
    target = tmp_path / "mine.yaml"
    assert main(["compile", str(experiments.sources()[0]), "--image", "kfp-foundry=mine/foundry:3", "-o", str(target)]) == 0
    assert pod_of(yaml.safe_load(target.read_text()))["containers"][0]["image"] == "mine/foundry:3"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda words: words["search"]["parameters"].update({"num_leafs": [1]}),
            "search: parameter 'num_leafs': lightgbm has no parameter 'num_leafs'",
        ),
        (lambda words: words.update({"serch": {}}), "unknown word 'serch'; did you mean 'search'?"),
        (lambda words: words.pop("contract"), "contract is missing; give contract"),
        (lambda words: words["search"].update({"metric": "rmse"}), "metric is 'rmse', which a binary training does not measure"),
        (lambda words: words.update({"name": "My_Flights"}), "name is 'My_Flights', which Katib does not take; use small letters"),
        (lambda words: words["resources"]["requests"].update({"memory": "2GBs"}), "memory is '2GBs', which is no amount of Kubernetes'"),
        (lambda words: words.update({"train": "/home/me/train"}), "/home/me/train is on this machine, and trials run on others"),
        (lambda words: words["options"].update({"algorithm": "xgboost"}), "algorithm is 'xgboost'; choose one of"),
        (lambda words: words.update({"name": "x" * 41}), "is longer than 40 characters"),
    ],
)
def test_a_mistake_in_a_search_of_ones_own_is_named(change, said, tmp_path, capsys):
    words = yaml.safe_load(experiments.sources()[0].read_text())
    change(words)
    mine = tmp_path / "mine.search.yaml"
    mine.write_text(yaml.safe_dump(words))
    assert main(["compile", str(mine)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert str(mine) in told
    assert not (tmp_path / "mine.yaml").exists()


# -- a search on a cluster


def tune(cluster, flights_addresses=None, search=None, **more):
    return katib.tune(cluster, TASK, template(search, **(flights_addresses or {})), pace=PACE, **more)


def test_real_trials_become_a_study_with_the_same_values_as_here(cluster, fake_cluster, flights_addresses, flights_claim, tmp_path, caplog):
    caplog.set_level("INFO")
    with Katib(fake_cluster, VALUES, tmp_path):
        study = tune(cluster, flights_addresses)
    assert (study.state, study.reason) == ("succeeded", Reason.MAX_TRIALS_REACHED)
    assert [each.params for each in study.trials] == [
        {"num_leaves": 7, "learning_rate": 0.05, "boosting": "gbdt"},
        {"num_leaves": 31, "learning_rate": 0.1, "boosting": "gbdt"},
    ]
    assert study.winner().number == 1
    assert study.winner().value == min(each.value for each in study.trials)
    paths = {"train": str(flights_claim / "train"), "validation": str(flights_claim / "validation"), "contract": str(flights_claim / "contract.yaml")}
    here = objective.load(**paths, options=template().given.options, metric="log_loss").value(study.winner().params, print)
    assert (study.winner().value, study.winner().metrics["auc"]) == (here["log_loss"], here["auc"])
    assert all(each.started > 1e9 for each in study.trials)
    assert "trials: 0 of 2 done, 1 running" in caplog.text
    assert re.search(r"trials: 1 of 2 done, 1 running; best log_loss 0\.\d+ \(tune-", caplog.text)
    assert "trials: 2 of 2 done; best log_loss" in caplog.text


def test_when_every_trial_fails_the_first_ones_own_words_are_the_message(cluster, fake_cluster, flights_addresses, tmp_path):
    with Katib(fake_cluster, [{**VALUES[0], "num_leaves": "1"}, {**VALUES[0], "num_leaves": "2"}], tmp_path):
        study = tune(cluster, flights_addresses, search_of(max_failed_trials=1))
    assert [each.state for each in study.trials] == [State.FAILED]
    with pytest.raises(FoundryError) as error:
        study.winner()
    assert "all 1 trials failed; the first one said: training: LightGBM refuses: Check failed: (num_leaves) > (1)" in str(error.value)


def test_the_log_of_a_failing_trial_is_read_before_katib_deletes_its_pod(cluster, fake_cluster):
    line = "I1121 13:05:46.000000      15 main.go:143] ValueError: bad column"
    fake_cluster.replay("experiment-failed-trials", speed=3, logs={"-": [line]})
    study = tune(cluster)
    assert study.state == "failed"
    with pytest.raises(FoundryError, match=r"all 2 trials failed; the first one said: exit code 1 / ValueError: bad column"):
        study.winner()
    until = time.monotonic() + 20
    while trials_pods(fake_cluster) and time.monotonic() < until:  # the recording plays on for a moment after the Experiment's end
        time.sleep(0.05)
    assert not trials_pods(fake_cluster)


def trials_pods(fake_cluster):
    return [pod for pod in fake_cluster.objects("pods") if "katib.kubeflow.org/trial" in pod["metadata"]["labels"]]


def test_a_metrics_collector_that_fails_is_told_from_a_training_that_does(cluster, fake_cluster):
    line = "F1121 13:06:05.000000      15 main.go:400] Failed to wait for worker container: unable to find main pid from the process list [1 15]"
    fake_cluster.replay("experiment-no-metric", speed=3, logs={"-": [line]})
    with pytest.raises(FoundryError, match="the training ended well, but Katib's metrics collector failed"):
        tune(cluster).winner()


def finished(fake_cluster, condition: str, trials: dict[str, dict], **status) -> threading.Thread:
    """Puts trials and a last status under the next Experiment, as Katib would."""

    def work() -> None:
        while not fake_cluster.objects("experiments"):
            time.sleep(0.02)
        name = fake_cluster.objects("experiments")[0]["metadata"]["name"]
        for key, told in trials.items():
            meta = {"name": f"{name}-{key}", "labels": {"katib.kubeflow.org/experiment": name}}
            fake_cluster.create("trials", {"metadata": meta, "spec": {"parameterAssignments": []}, "status": told})
        fake_cluster.set_status("experiments", name, conditions=[{"type": condition, "status": "True", "reason": "x", "message": "y"}], **status)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(condition: str, loss: str | None = None, status: str = "True") -> dict:
    observation = {"observation": {"metrics": [{"name": "log_loss", "min": loss, "max": loss, "latest": loss}]}} if loss else {}
    return {"conditions": [{"type": condition, "status": status, "reason": "", "message": ""}], **observation}


BEST = {"bestTrialName": "tune-a", "observation": {"metrics": []}}


def test_a_search_whose_trials_give_no_metric_has_failed_although_katib_says_succeeded(cluster, fake_cluster):
    finished(fake_cluster, "Succeeded", {"a": ended("MetricsUnavailable", "unavailable")}, currentOptimalTrial={"observation": {}})
    study = tune(cluster)
    assert (study.state, study.reason) == ("failed", Reason.NO_METRIC)
    with pytest.raises(FoundryError, match="it ended well and reported no log_loss"):
        study.winner()


def test_a_metric_without_a_number_makes_no_best_trial(cluster, fake_cluster):
    finished(fake_cluster, "Succeeded", {"a": ended("Succeeded", ""), "b": ended("Succeeded", "NaN")}, currentOptimalTrial=BEST)
    assert tune(cluster).state == "failed"


def test_trials_that_were_stopped_early_count_and_may_win(cluster, fake_cluster):
    trials = {"a": ended("EarlyStopped", "0.3"), "b": ended("Succeeded", "0.4"), "c": ended("Killed")}
    finished(fake_cluster, "Succeeded", trials, currentOptimalTrial=BEST)
    study = tune(cluster, search=search_of(max_trials=3))
    assert [each.state for each in study.trials] == [State.EARLY_STOPPED, State.SUCCEEDED, State.FAILED]
    assert study.winner().value == 0.3


def test_trials_that_still_run_when_the_search_ends_are_stopped(cluster, fake_cluster):
    trials = {"a": ended("Succeeded", "0.1"), "b": ended("Running")}
    finished(fake_cluster, "Succeeded", trials, currentOptimalTrial=BEST)
    study = tune(cluster, search=search_of(goal=0.2, max_trials=9))
    assert (study.state, study.reason, len(study.trials)) == ("succeeded", Reason.GOAL_REACHED, 1)
    assert [each["metadata"]["name"][-1] for each in fake_cluster.objects("trials")] == ["a"]


def test_an_experiment_that_fails_before_any_trial_is_an_error(cluster, fake_cluster):
    finished(fake_cluster, "Failed", {})
    with pytest.raises(RemoteFailure, match="failed"):
        tune(cluster)


def test_the_same_step_run_again_takes_the_finished_experiment(cluster, fake_cluster):
    finished(fake_cluster, "Succeeded", {"a": ended("Succeeded", "0.4"), "b": ended("Succeeded", "0.3")}, currentOptimalTrial=BEST)
    first, second = tune(cluster), tune(cluster)
    assert first == second
    assert [request.verb for request in fake_cluster.requests if request.plural == "experiments"].count("create") == 1


# -- a cluster that is not as it should be


def test_a_cluster_without_katib_is_told_with_what_to_install(cluster, fake_cluster):
    fake_cluster.unserve("experiments", "trials")
    with pytest.raises(PlatformError, match=r"serves no experiments\.kubeflow\.org.* install Katib 0\.\d+ or later, or use target=local"):
        tune(cluster)


def test_trainjob_trials_without_a_trainer_are_told(cluster, fake_cluster):
    fake_cluster.unserve("trainjobs")
    with pytest.raises(PlatformError, match=r"serves no trainjobs\.trainer\.kubeflow\.org; install Kubeflow Trainer"):
        katib.check(cluster, template(nodes=2))


@pytest.mark.parametrize(("version", "refused"), [("2.1", True), ("2.3", False)])
def test_a_deadline_is_given_only_to_a_trainer_that_knows_it(version, refused, monkeypatch):
    from fake_kubernetes import FakeCluster

    trial = template(search_of(trial_seconds=60), nodes=2)
    assert render(trial, {"name": "tune"})["spec"]["trialTemplate"]["trialSpec"]["spec"]["activeDeadlineSeconds"] == 60
    with FakeCluster(trainer=version) as fake:
        cluster = Cluster.connect(kubeconfig=fake.kubeconfig)
        if not refused:
            katib.check(cluster, trial)
            return
        with pytest.raises(PlatformError, match=r"Trainer knows no deadline, and trial_seconds is given; leave it 0, or use Trainer 2\.2"):
            katib.check(cluster, trial)


def test_a_namespace_that_katib_does_not_look_after_is_told_with_the_command(cluster, fake_cluster):
    namespace = fake_cluster.get("namespaces", fake_cluster.namespace)
    namespace["metadata"]["labels"] = {}
    fake_cluster.store.replace(fake_cluster.resource("namespaces"), namespace)
    with pytest.raises(PlatformError) as error:
        tune(cluster)
    command = f"run: kubectl label namespace {fake_cluster.namespace} katib.kubeflow.org/metrics-collector-injection=enabled --overwrite"
    assert str(error.value).endswith(command)
    assert not fake_cluster.objects("experiments")


def test_a_namespace_that_may_not_be_read_is_no_error(cluster, fake_cluster, caplog):
    fake_cluster.deny("get", "namespaces")
    katib.check(cluster, template())
    assert "whether Katib looks after this namespace cannot be seen" in caplog.text


def test_a_missing_right_is_named(cluster, fake_cluster):
    fake_cluster.deny("create", "experiments")
    with pytest.raises(PlatformError, match=r'verb "create" on experiments of API group "kubeflow\.org"'):
        tune(cluster)


def test_what_katibs_webhook_refuses_is_said_in_its_words(cluster, fake_cluster):
    from fake_kubernetes_replay import recording

    said = next(line for line in recording("experiment-refused") if line["type"] == "RESPONSE")["body"]["message"]
    fake_cluster.fail("create", 400, plural="experiments", message=said)
    with pytest.raises(UserError, match=r"refuses to create Experiment .*parameter name: x in spec\.trialParameters not found"):
        tune(cluster)


def test_what_katib_would_ignore_is_logged(cluster, fake_cluster, caplog):
    finished(fake_cluster, "Succeeded", {"a": ended("Succeeded", "0.4"), "b": ended("Succeeded", "0.3")}, currentOptimalTrial=BEST)
    tune(cluster, search=search_of(algorithm="sobol"))
    assert "on Katib: num_leaves: Katib's sobol ignores log" in caplog.text


def test_the_shipped_role_is_enough(cluster, fake_cluster):
    roles = list(yaml.safe_load_all((GOLDEN.parents[1] / "manifests" / "base" / "launcher-role.yaml").read_text()))
    fake_cluster.allow_only(next(role["rules"] for role in roles if role["kind"] == "Role"))
    trials = {"a": ended("Succeeded", "0.1"), "b": ended("Running")}
    finished(fake_cluster, "Succeeded", trials, currentOptimalTrial=BEST)
    assert tune(cluster, search=search_of(goal=0.2, max_trials=9)).winner().value == 0.1
    assert len(fake_cluster.objects("trials")) == 1


def test_an_image_that_cannot_be_pulled_ends_the_search_in_words(cluster, fake_cluster):
    def work() -> None:
        while not fake_cluster.objects("experiments"):
            time.sleep(0.02)
        name = fake_cluster.objects("experiments")[0]["metadata"]["name"]
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/x:1"'}}
        labels = {"katib.kubeflow.org/experiment": name, "katib.kubeflow.org/trial": f"{name}-a"}
        status = {"phase": "Pending", "containerStatuses": [{"name": "trial", "image": "nowhere/x:1", "state": waiting}]}
        fake_cluster.create("pods", {"metadata": {"name": f"{name}-a-x", "labels": labels}, "status": status})
        fake_cluster.set_status("experiments", name, trials=1, trialsRunning=1)  # what Katib says of a trial whose pod waits

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with pytest.raises(RemoteFailure, match=r"ImagePullBackOff.*nowhere/x:1.*check the image"):
        tune(cluster)
    assert not fake_cluster.objects("experiments"), "it would wait for ever"


@pytest.mark.parametrize("name", ["train", "validation", "contract"])
def test_data_that_only_this_machine_has_are_refused(name, cluster):
    with pytest.raises(UserError, match=r"/data/mine is on this machine, and trials run on others; keep the pipeline's artifacts in an object store"):
        katib.tune(cluster, TASK, template(**{name: "/data/mine"}))


# -- what a failed trial said


def pod(trial_end: dict, collector_end: dict | None = None, **status) -> dict:
    statuses = [{"name": "trial", "state": {"terminated": trial_end}}, {"name": katib.COLLECTOR, "state": {"terminated": collector_end or {}}}]
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses, **status}}


FAILED = {"metadata": {"name": "t"}, "status": ended("Failed")}
TAIL = ["I1121 13:05:46.000000      15 main.go:143] Traceback", "I1121 13:05:46.000000      15 main.go:143] error: training: bad"]


@pytest.mark.parametrize(
    ("seen", "tail", "said"),
    [
        (pod({"exitCode": 1, "message": "error: data: no target"}), TAIL, "data: no target"),
        (pod({"exitCode": 137, "reason": "OOMKilled"}), TAIL, "it was killed for want of memory (OOMKilled)"),
        (pod({"exitCode": 137, "reason": "Error"}, reason="DeadlineExceeded", phase="Failed"), TAIL, "it ran for longer than trial_seconds"),
        (pod({"exitCode": 1}), TAIL, "training: bad"),
        (pod({"exitCode": 3}), ["Segmentation fault"], "exit code 3 / Segmentation fault"),
        (pod({"exitCode": 0}, {"exitCode": 255}), ["F1121 13:05:46.000000      15 main.go:1] no db"], "metrics collector failed / no db"),
        (None, [], "it gave no reason"),
    ],
)
def test_the_best_source_of_a_failed_trials_words_is_taken(seen, tail, said):
    assert said in katib.words_of(FAILED, seen, tail)
