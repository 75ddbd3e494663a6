"""The payload log: one row per prediction, whole files only, never in the way of a request."""

import datetime as dt
import json
import time
from pathlib import Path

import polars as pl
import pytest

from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.inference import PROBE
from kfp_foundry.server.payload_log import SCHEMA, Limits, PayloadLog, Served

SERVED = Served("people", "3", "sha256:ab", "binary", ["no", "yes"], 0.5)
FEATURES = pl.DataFrame({"city": ["Ulm", None], "seen": [dt.datetime(2024, 5, 1, 12), None]})
SCORED = pl.DataFrame({"probability": [0.25, 0.75], "prediction": ["no", "yes"]})


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("date=*/*.parquet"))


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(files(folder)).sort("time", "id")


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_prediction_is_a_row_after_the_server_has_stopped(start, trained, task, tmp_path):
    model = ModelFolder.open(trained(task))
    running = start(model.path, "--payload-log", str(tmp_path / "log"))
    row = {"city": "Köln", "age": 44, "income": 1234.5, "member": True, "joined": "2021-03-04", "seen": "2024-01-01T10:00:00Z"}
    answered = running.v1([row, {"city": "Ulm", "age": 30}], headers={"x-request-id": "r1"}).json()["predictions"]
    running.v2(
        id="r2",
        inputs=[
            {"name": "city", "shape": [1], "datatype": "BYTES", "data": ["Ulm"]},
            {"name": "age", "shape": [1], "datatype": "INT64", "data": [3]},
        ],
    )
    running.v1([{"age": 3}])
    assert running.stop() == 0

    log = read(tmp_path / "log")
    assert log.select(list(SCHEMA)).schema == SCHEMA
    assert log["id"].to_list() == ["r1-0", "r1-1", "r2-0"]
    assert log["protocol"].to_list() == ["v1", "v1", "v2"]
    assert log["digest"].unique().to_list() == [model.digest]
    assert json.loads(log["features"][0]) == row | {"seen": "2024-01-01T10:00:00.000000"}
    if task == "regression":
        assert log["value"][0] == answered[0]["prediction"]
        assert log["probability"].null_count() == 3
    elif task == "binary":
        assert (log["prediction"][0], log["probability"][0]) == (answered[0]["prediction"], answered[0]["probability"])
        assert log["threshold"].unique().to_list() == [0.5]
    else:
        assert log["prediction"][0] == str(answered[0]["prediction"])
        assert log["probabilities"][0].to_list() == list(answered[0]["probabilities"].values())
        assert log["probability"][0] == max(answered[0]["probabilities"].values())


def test_a_check_is_not_logged(start, trained, tmp_path):
    running = start(trained("binary"), "--payload-log", str(tmp_path / "log"))
    assert running.v1([{"city": "Ulm", "age": 30}], headers={PROBE: "true"}).status_code == 200
    running.stop()
    assert files(tmp_path / "log") == []


def test_rows_are_written_when_enough_wait(tmp_path):
    log = PayloadLog(tmp_path, SERVED, Limits(rows=4, seconds=60))
    log.put("a", "v1", FEATURES, SCORED)
    time.sleep(0.1)
    assert files(tmp_path) == []
    log.put("b", "v1", FEATURES, SCORED)
    until = time.monotonic() + 5
    while log.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert read(tmp_path)["request"].to_list() == ["a", "a", "b", "b"]
    log.close()


def test_rows_are_written_when_the_oldest_has_waited_long_enough(tmp_path):
    log = PayloadLog(tmp_path, SERVED, Limits(rows=1000, seconds=0.2))
    log.put("a", "v1", FEATURES, SCORED)
    until = time.monotonic() + 5
    while log.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert read(tmp_path)["row"].to_list() == [0, 1]
    log.close()


def test_rows_over_the_limit_are_dropped_and_counted(tmp_path):
    counted: list[tuple[str, int]] = []
    log = PayloadLog(tmp_path, SERVED, Limits(queued_rows=3, seconds=60), lambda outcome, rows: counted.append((outcome, rows)))
    log.put("a", "v1", FEATURES, SCORED)
    log.put("b", "v1", FEATURES, SCORED)
    log.close()
    assert sorted(counted) == [("dropped", 2), ("written", 2)]
    assert read(tmp_path)["request"].unique().to_list() == ["a"]


def test_a_disk_that_fails_is_counted_and_the_next_rows_are_written(tmp_path):
    counted: list[tuple[str, int]] = []
    log = PayloadLog(tmp_path, SERVED, Limits(rows=2, seconds=60), lambda outcome, rows: counted.append((outcome, rows)))
    today = tmp_path / f"date={dt.datetime.now(dt.UTC).date().isoformat()}"
    today.write_text("in the way")
    log.put("a", "v1", FEATURES, SCORED)
    while log.waiting:
        time.sleep(0.01)
    today.unlink()
    log.put("b", "v1", FEATURES, SCORED)
    log.close()
    assert counted == [("failed", 2), ("written", 2)]
    assert read(tmp_path)["request"].unique().to_list() == ["b"]


def test_no_file_is_half_written_when_the_process_is_killed(start, trained, tmp_path):
    running = start(trained("binary"), "--payload-log", str(tmp_path / "log"), "--payload-log-rows", "50")
    for _ in range(20):
        running.v1([{"city": "Ulm", "age": 30}] * 25)
    running.process.kill()
    running.process.wait()
    assert read(tmp_path / "log").height % 25 == 0


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match=r"file/log: cannot be written"):
        PayloadLog(tmp_path / "file" / "log", SERVED)


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    import os

    (tmp_path / "date=2024-01-01").mkdir()
    stale, fresh = tmp_path / "date=2024-01-01" / ".old.tmp", tmp_path / "date=2024-01-01" / ".new.tmp"
    for draft in (stale, fresh):
        draft.touch()
    os.utime(stale, (0, 0))
    PayloadLog(tmp_path, SERVED).close()
    assert (stale.exists(), fresh.exists()) == (False, True)
