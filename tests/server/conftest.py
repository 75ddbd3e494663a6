"""Real models of every task, and real server processes over them, on ports of this machine that nobody else has."""

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import requests
from kfp import dsl

from kfp_foundry.components.common import local_server, ports
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.training.train_model import core as training

CITIES = ["Ulm", "Köln", "São Paulo", "北京"]
FIELDS = """
version: 1
name: {name}
task: {task}
{positive}
fields:
  - {{name: id, type: integer, role: id}}
  - {{name: city, type: string, constraints: {{required: true}}}}
  - {{name: age, type: integer, constraints: {{required: true}}}}
  - {{name: income, type: number}}
  - {{name: member, type: boolean}}
  - {{name: joined, type: date}}
  - {{name: seen, type: datetime}}
  - {{name: answer, type: {type}, role: target}}
"""
TASKS = {"binary": "string", "multiclass": "integer", "regression": "number"}


def people(rows: int = 600) -> pl.DataFrame:
    """A table with every kind of column; some values are missing."""
    random = np.random.default_rng(7)
    age = random.integers(18, 90, rows)
    income = random.normal(3000, 800, rows).round(2)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "city": random.choice(CITIES, rows),
            "age": age,
            "income": [None if i % 11 == 0 else float(v) for i, v in enumerate(income)],
            "member": [None if i % 13 == 0 else bool(v) for i, v in enumerate(random.integers(0, 2, rows))],
            "joined": [
                None if i % 17 == 0 else dt.date(2020, 1, 1) + dt.timedelta(days=int(v)) for i, v in enumerate(random.integers(0, 1500, rows))
            ],
            "seen": [dt.datetime(2024, 1, 1) + dt.timedelta(seconds=int(v)) for v in random.integers(0, 10**7, rows)],
        }
    )


def with_answer(table: pl.DataFrame, task: str) -> pl.DataFrame:
    score = (table["age"] / 30 + table["income"].fill_null(2500) / 1500 + (table["city"] == "Ulm").cast(pl.Float64)).rename("answer")
    if task == "binary":
        return table.with_columns(pl.Series("answer", np.where(score > 4, "yes", "no")))
    if task == "multiclass":
        return table.with_columns(pl.Series("answer", np.digitize(score, [3.2, 4.5]) * 10))
    return table.with_columns(score * 1000)


@pytest.fixture(scope="session")
def table() -> pl.DataFrame:
    return people()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, table):
    """The folder of a model that train_model made, by task: `trained("binary")`."""
    made: dict[str, Path] = {}

    def train(task: str) -> Path:
        if task in made:
            return made[task]
        folder = tmp_path_factory.mktemp(f"trained-{task}")
        rows = with_answer(table, task)
        DatasetFolder.write(folder / "train", rows[:450].lazy(), source="test")
        DatasetFolder.write(folder / "validation", rows[450:].lazy(), source="test")
        text = FIELDS.format(name=f"{task}-people", task=task, type=TASKS[task], positive='positive: "yes"' if task == "binary" else "")
        Contract.parse(text).save(folder / "contract")
        kinds = {
            "train": dsl.Dataset,
            "validation": dsl.Dataset,
            "contract": dsl.Artifact,
            "model": dsl.Model,
            "metrics": dsl.Metrics,
            "report": dsl.HTML,
        }
        training.run(*(kind(name=name, uri=str(folder / name)) for name, kind in kinds.items()), params={"n_estimators": 15})
        made[task] = folder / "model"
        return made[task]

    return train


@dataclass
class Running:
    """A model server process."""

    process: subprocess.Popen[bytes]
    url: str
    name: str
    log: Path

    def get(self, path: str, **options) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def v1(self, instances, **options) -> requests.Response:
        return requests.post(f"{self.url}/v1/models/{self.name}:predict", json={"instances": instances}, timeout=30, **options)

    def v2(self, **body) -> requests.Response:
        return requests.post(f"{self.url}/v2/models/{self.name}/infer", json=body, timeout=30)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)


def launch(model: Path, log: Path, *options: str, name: str = "people") -> Running:
    """Starts a server; it may have ended when this returns."""
    with ports.claim(ports.LOOPBACK, 0) as listener:
        port = listener.getsockname()[1]
        with log.open("wb") as output:
            words = [sys.executable, "-m", "kfp_foundry.server", "--model", str(model), "--name", name, "--fd", str(listener.fileno()), *options]
            process = subprocess.Popen(words, stdout=output, stderr=output, pass_fds=[listener.fileno()], env=os.environ | {"OMP_NUM_THREADS": "1"})
    running = Running(process, f"http://{ports.LOOPBACK}:{port}", name, log)
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        try:
            if running.get("/v2/health/ready").status_code == 200:
                break
        except requests.ConnectionError:
            time.sleep(0.02)
    return running


@pytest.fixture
def start(tmp_path):
    """Starts servers that end with the test: `start(model, "--threshold", "0.2")`."""
    started: list[Running] = []

    def make(model: Path, *options: str, name: str = "people") -> Running:
        started.append(launch(model, tmp_path / f"server-{len(started)}.log", *options, name=name))
        return started[-1]

    yield make
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="session", params=list(TASKS))
def server(request, trained, tmp_path_factory):
    """A server for each task."""
    running = launch(trained(request.param), tmp_path_factory.mktemp("server") / "server.log")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture(scope="session")
def binary(trained, tmp_path_factory):
    """A server of a binary model."""
    running = launch(trained("binary"), tmp_path_factory.mktemp("binary") / "server.log", "--max-body-mib", "1")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home for endpoints; every server that was started in it ends with the test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(folder))
    yield folder
    for name in {row.name for row in local_server.list_all()}:
        local_server.stop(name)


@pytest.fixture
def model_copy(trained, tmp_path):
    """A copy of the binary model that a test may spoil."""
    return Path(shutil.copytree(trained("binary"), tmp_path / "model"))
