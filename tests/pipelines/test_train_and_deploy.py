"""train_and_deploy as a user runs it: the committed YAML, the command, real tables, real servers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "kfp_foundry"]


class Laptop:
    """A folder of its own on which the command runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KFP_FOUNDRY_HOME": str(self.home)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run([*COMMAND, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=280)

    def train(self, **parameters: object) -> subprocess.CompletedProcess[str]:
        return self.run("run", "train_and_deploy", *[word for name, value in parameters.items() for word in ("--set", f"{name}={value}")])

    def summary(self) -> dict:
        newest = max(self.home.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime).parent
        return json.loads(next(newest.glob("steps/write-report/summary*")).read_text())

    def stop(self) -> None:
        for endpoint in json.loads(self.run("endpoints", "list", "--json").stdout or "[]"):
            self.run("endpoints", "stop", endpoint["name"])


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    made = Laptop(tmp_path_factory.mktemp("laptop"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def flights_csv(laptop, flights):
    flights.write_csv(laptop.folder / "flights.csv")
    return laptop.folder / "flights.csv"


@pytest.fixture(scope="module")
def first_run(laptop, flights_csv):
    done = laptop.train(source="flights.csv", target="late", model_name="late")
    assert done.returncode == 0, done.stdout + done.stderr
    return done, laptop.summary()


def test_a_table_becomes_a_served_champion(first_run):
    _, summary = first_run
    assert (summary["promoted"], summary["champion"], summary["outcome"]) == (True, "1", "pass")
    assert 0.6 < summary["metrics"]["auc"] < 0.9


def test_the_printed_curl_line_works_when_pasted(first_run):
    done, summary = first_run
    assert summary["curl"] in done.stdout
    answer = json.loads(subprocess.run(["bash", "-c", summary["curl"]], capture_output=True, text=True, check=True).stdout)
    assert 0 <= answer["predictions"][0]["probability"] <= 1


def test_a_second_run_finds_the_champion_and_duplicates_nothing(laptop, first_run):
    done = laptop.train(source="flights.csv", target="late", model_name="late")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The challenger is the champion" in laptop.summary()["reason"]
    assert laptop.summary()["version"] == "1"


def test_a_challenger_that_does_not_gain_enough_leaves_the_champion_serving(laptop, first_run):
    done = laptop.train(source="flights.csv", target="late", model_name="late", trainer="sklearn", algorithm="linear", min_gain=0.2)
    assert done.returncode == 3, done.stdout + done.stderr
    assert laptop.summary()["champion"] == "1"
    assert subprocess.run(["bash", "-c", first_run[1]["curl"]], check=False).returncode == 0


def test_an_endpoint_that_is_too_slow_is_not_promoted_and_the_page_says_so(laptop, first_run):
    done = laptop.train(source="flights.csv", target="late", model_name="late", seed=8, max_loss='{"auc": 1}', min_gain=-1, max_p99_ms=0.0001)
    assert done.returncode == 3, done.stdout + done.stderr
    assert laptop.summary()["reason"].startswith("Not promoted: the endpoint failed its verification.")
    assert (laptop.summary()["champion"], laptop.summary()["url"]) == ("1", first_run[1]["url"])


def test_data_that_break_their_contract_stop_the_run_before_training(laptop, first_run, flights):
    newest = max(laptop.home.glob("runs/*/steps/infer-contract/contract*"), key=lambda path: path.stat().st_mtime)
    (laptop.folder / "agreed.yaml").write_text(newest.read_text())
    flights.with_columns(pl.col("distance") * -1).write_csv(laptop.folder / "broken.csv")
    done = laptop.train(source="broken.csv", target="late", model_name="late", contract_uri="agreed.yaml")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "distance" in (done.stdout + done.stderr)
    assert not list(max(laptop.home.glob("runs/*"), key=lambda path: path.stat().st_mtime).glob("steps/train-model/model"))


def test_a_wrong_target_is_answered_with_the_close_name(laptop, flights_csv):
    done = laptop.train(source="flights.csv", target="Latte")
    assert done.returncode == 1
    assert "did you mean 'late'?" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "expression", "metric"),
    [
        ("airport", pl.col("origin"), "accuracy"),
        ("minutes", pl.col("distance") / 7 + pl.col("temp").fill_null(0), "rmse"),
    ],
)
def test_several_classes_and_numbers_are_found_from_the_target(laptop, flights, target, expression, metric):
    flights.with_columns(expression.alias(target)).drop("origin", "late").write_csv(laptop.folder / f"{target}.csv")
    done = laptop.train(source=f"{target}.csv", target=target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert metric in laptop.summary()["metrics"]


def test_all_that_ingest_table_can_be_told_can_be_told_to_the_pipeline():
    from kfp_foundry.components.ingestion.ingest_table.component import ingest_table
    from kfp_foundry.pipelines.train_and_deploy.pipeline import train_and_deploy

    found_from_the_content = {"format"}
    assert set(ingest_table.component_spec.inputs) - found_from_the_content <= set(train_and_deploy.component_spec.inputs)
