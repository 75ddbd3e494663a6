"""Real data for every test: a slice of the flights from New York in 2013, and its contract."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from kfp_foundry.components.common import samples
from kfp_foundry.components.common.contract import Contract

CONTRACT = """
version: 1
name: flights
task: binary
positive: true
fields:
  - {name: time_hour, type: datetime, role: time}
  - {name: sched_dep_minute, type: integer}
  - {name: sched_arr_minute, type: integer}
  - {name: carrier, type: string}
  - {name: tailnum, type: string, role: ignore}
  - {name: origin, type: string}
  - {name: dest, type: string}
  - {name: distance, type: integer}
  - {name: temp, type: number}
  - {name: dewp, type: number}
  - {name: humid, type: number}
  - {name: wind_dir, type: integer}
  - {name: wind_speed, type: number}
  - {name: wind_gust, type: number}
  - {name: precip, type: number}
  - {name: pressure, type: number}
  - {name: visib, type: number}
  - {name: late, type: boolean, role: target}
"""


@pytest.fixture(scope="session")
def all_flights() -> pl.DataFrame:
    """All 327,346 flights of the year, in time order."""
    return samples.flights()


@pytest.fixture(scope="session")
def flights(all_flights: pl.DataFrame) -> pl.DataFrame:
    """6,547 flights: every fiftieth of the year, in time order."""
    return all_flights.gather_every(50)


@pytest.fixture(scope="session")
def flights_contract() -> Contract:
    """The contract of the flights, as a person would write it."""
    return Contract.parse(CONTRACT)


@pytest.fixture(scope="session")
def flights_claim(flights: pl.DataFrame, flights_contract: Contract, tmp_path_factory) -> Path:
    """A mounted volume claim with two Datasets and a contract."""
    from kfp_foundry.components.common.artifacts.dataset import DatasetFolder

    folder = tmp_path_factory.mktemp("mounts") / "data"
    cut = int(flights.height * 0.8)
    DatasetFolder.write(folder / "train", flights[:cut].lazy(), source="test")
    DatasetFolder.write(folder / "validation", flights[cut:].lazy(), source="test")
    flights_contract.save(folder / "contract.yaml")
    return folder


@pytest.fixture
def flights_addresses(flights_claim: Path, monkeypatch) -> dict[str, str]:
    """The same as addresses."""
    monkeypatch.setenv("KFP_FOUNDRY_PVC_ROOT", str(flights_claim.parent))
    return {"train": "pvc://data/train", "validation": "pvc://data/validation", "contract": "pvc://data/contract.yaml"}


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory) -> Path:
    """An MLflow database with tables and no rows, made once."""
    from kfp_foundry.components.common.tracking import Tracking

    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    _ = Tracking(f"sqlite:///{file}", "for tests").client
    return file


@pytest.fixture
def empty_registry(registry_template: Path):
    """Makes a home of local state with an empty registry in it: `empty_registry(path)`."""

    def make(home: Path) -> Path:
        home.mkdir(parents=True)
        shutil.copy(registry_template, home / "mlflow.db")
        return home

    return make


@pytest.fixture
def make_model(flights: pl.DataFrame, flights_contract: Contract):
    """Writes a whole Model folder in milliseconds: the later a flight departs, the likelier it is late, plus a bias.

    `make_model(path, bias=0.0, contract=None)`; two biases are two models.
    """
    import onnx
    from onnx import TensorProto, helper

    from kfp_foundry.components.common.artifacts.model import ModelFolder, ModelRecord

    def graph(bias: float, contract: Contract) -> bytes:
        kinds = {field.name: TensorProto.STRING if field.type == "string" else TensorProto.DOUBLE for field in contract.feature_fields}
        constants = {"scale": 1 / 720, "bias": bias - 2.0, "half": 0.5, "noon": 720.0}
        nodes = [
            helper.make_node("IsNaN", ["sched_dep_minute"], ["missing"]),
            helper.make_node("Where", ["missing", "noon", "sched_dep_minute"], ["minute"]),
            helper.make_node("Mul", ["minute", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["probability"]),
            helper.make_node("GreaterOrEqual", ["probability", "half"], ["prediction"]),
        ]
        made = helper.make_graph(
            nodes,
            "late",
            [helper.make_tensor_value_info(name, kind, ["rows"]) for name, kind in kinds.items()],
            [
                helper.make_tensor_value_info("probability", TensorProto.DOUBLE, ["rows"]),
                helper.make_tensor_value_info("prediction", TensorProto.BOOL, ["rows"]),
            ],
            [helper.make_tensor(name, TensorProto.DOUBLE, [], [value]) for name, value in constants.items()],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def make(path: Path, bias: float = 0.0, contract: Contract | None = None) -> ModelFolder:
        agreed = contract or flights_contract
        record = ModelRecord(
            algorithm="linear",
            task="binary",
            target="late",
            labels=[False, True],
            outputs=["probability", "prediction"],
            params={"C": 1.0},
            seed=7,
            rows={"train": 100, "validation": 10, "dropped": 0},
            fingerprints={"train": "aa", "validation": "bb"},
            metrics={"auc": 0.6, "log_loss": 0.5},
            importance={"sched_dep_minute": 1.0},
            parity={"rows": 1, "max_difference": 0.0, "changed_labels": 0, "tolerance": 1e-9, "kinds": {"held out": 1}},
            versions={"scikit-learn": "1.6.0", "numpy": "2.0.0"},
        )
        return ModelFolder.write(path, graph(bias, agreed), agreed, record, {"model.json": b"{}"}, flights.head(3))

    return make


@pytest.fixture
def fake_cluster(monkeypatch):
    """A Kubernetes API server on loopback; `KUBECONFIG` names it."""
    from fake_kubernetes import FakeCluster

    with FakeCluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)  # a test in a pod must not reach the pod's own cluster
        yield cluster


@pytest.fixture
def artifact(tmp_path: Path):
    """Makes real KFP artifacts in the test's folder: `artifact("train", dsl.Dataset)`."""
    from kfp import dsl

    def make(name: str, kind: type = dsl.Artifact, **metadata):
        return kind(name=name, uri=str(tmp_path / name), metadata=metadata)

    return make


@pytest.fixture
def ingest(artifact, tmp_path: Path):
    """Runs ingest_table on text, bytes or `source=`; gives the frame, the bad rows as written, and the report's HTML."""
    import json

    from kfp import dsl

    from kfp_foundry.components.ingestion.ingest_table import core

    def run(content: str | bytes = "", name: str = "table.csv", source: str | Path | None = None, **options):
        if source is None:
            source = tmp_path / name
            source.write_bytes(content.encode() if isinstance(content, str) else content)
        outputs = artifact("dataset", dsl.Dataset), artifact("quarantine"), artifact("report", dsl.HTML)
        rows, bad_rows = core.run(*outputs, str(source), **options)
        frame = pl.read_parquet(tmp_path / "dataset" / "*.parquet")
        bad = [json.loads(line) for line in (tmp_path / "quarantine").read_text().splitlines()]
        assert (rows, bad_rows) == (frame.height, len(bad))
        return frame, bad, (tmp_path / "report").read_text()

    return run


@pytest.fixture
def compiled(tmp_path: Path):
    """Compiles a pipeline function to a file in the test's folder."""
    from kfp import compiler

    def compile_pipeline(pipeline) -> Path:
        path = tmp_path / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path

    return compile_pipeline


@pytest.fixture
def execute(compiled, tmp_path: Path):
    """Runs a pipeline function with arguments, in a home of the test's own."""

    from kfp_foundry.run import run_pipeline

    def run(pipeline, home: Path = tmp_path / "home", fresh: bool = False, **arguments):
        return run_pipeline(compiled(pipeline), arguments, home, fresh=fresh)

    return run
