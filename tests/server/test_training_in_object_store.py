"""A training whose rows, checkpoints and result are in an object store: a machine that comes back without its disk goes on."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from rank_training import SUPPORT, faulty, request, write_tables

from kfp_foundry.components.common import store
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.distributed import outcome
from kfp_foundry.components.common.distributed.local import supervise
from kfp_foundry.components.common.errors import PlatformError


@pytest.fixture
def lake(monkeypatch):
    """A bucket on a real S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="lake")
    yield "s3://lake"
    server.stop()


def test_a_training_goes_on_from_a_checkpoint_in_the_store(lake, flights, flights_contract, tmp_path, monkeypatch):
    write_tables(tmp_path, flights, flights_contract, rows=1000)
    for name in ("train", "validation", "contract.yaml"):
        store.send(tmp_path / name, f"{lake}/{name}")
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setattr(tempfile, "tempdir", None)
    addresses = {name: f"{lake}/{name}" for name in ("train", "validation", "checkpoints", "output")}
    asked = request(tmp_path, "user_training", faulty(tmp_path, epochs=4, epoch=3, fault="die"))
    asked = replace(asked, contract=f"{lake}/contract.yaml", **addresses)
    lines: list[str] = []
    with pytest.raises(PlatformError, match="ended by SIGKILL"):
        supervise.run(asked, 2, folder=tmp_path / "ranks", on_line=lambda name, line: lines.append(line))
    shutil.rmtree(disk)
    disk.mkdir()
    supervise.run(asked, 2, folder=tmp_path / "ranks", on_line=lambda name, line: lines.append(line))
    assert {"starts at epoch 2", "starts at epoch 3"} & {*lines}
    found = outcome.read(asked.output, tmp_path / "result")
    assert ModelFolder.open(found.folder / "model").digest == found.metadata["digest"]
    assert len(store.names(asked.checkpoints)) == 2
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in "".join(file.read_text() for file in Path(tmp_path / "ranks").glob("*.log"))
