"""V1 and V2 answer raw rows exactly as the batch path does, for every task."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kfp_foundry.components.common import inference
from kfp_foundry.components.common.artifacts.model import ModelFolder


@pytest.fixture
def model(server, trained) -> ModelFolder:
    return ModelFolder.open(trained(server.get("/v2/models/people").json()["parameters"]["task"]))


@pytest.fixture
def rows(model, table) -> pl.DataFrame:
    return table[450:520].select(model.contract.features)


def test_v1_answers_what_the_batch_path_predicts(server, model, rows):
    predictions = server.v1(inference.json_rows(rows)).json()["predictions"]
    expected = model.predict(rows, threshold=0.5 if model.task == "binary" else None)
    assert [p["prediction"] for p in predictions] == pytest.approx(expected["prediction"].to_list(), abs=1e-9)
    if model.task == "binary":
        assert [p["probability"] for p in predictions] == pytest.approx(expected["probability"].to_list(), abs=1e-12)
    if model.task == "multiclass":
        assert list(predictions[0]["probabilities"]) == ["0", "10", "20"]
        assert [p["probabilities"]["20"] for p in predictions] == pytest.approx(expected["probability_20"].to_list(), abs=1e-12)


def test_v2_answers_what_the_batch_path_predicts(server, model, rows):
    answer = server.v2(id="call-7", inputs=inference.tensors(rows, model.contract)).json()
    expected = model.predict(rows, threshold=0.5 if model.task == "binary" else None)
    served = pl.DataFrame({tensor["name"]: tensor["data"] for tensor in answer["outputs"]})
    assert_frame_equal(served, expected, abs_tol=1e-9, rel_tol=0)
    assert (answer["model_name"], answer["id"]) == ("people", "call-7")
    assert all(tensor["shape"] == [rows.height] for tensor in answer["outputs"])


def test_v2_metadata_describes_the_tensors_that_come_back(server, model, rows):
    told = server.get("/v2/models/people").json()
    answer = server.v2(inputs=inference.tensors(rows, model.contract)).json()
    assert [(t["name"], t["datatype"]) for t in told["outputs"]] == [(t["name"], t["datatype"]) for t in answer["outputs"]]
    assert {t["name"]: t["datatype"] for t in told["inputs"]} == {
        "city": "BYTES", "age": "INT64", "income": "FP64", "member": "BOOL", "joined": "BYTES", "seen": "BYTES",
    }  # fmt: skip
    assert told["parameters"]["digest"] == model.digest


def test_labels_keep_the_type_they_have_in_the_data(server, model, rows):
    prediction = server.v1(inference.json_rows(rows[:1])).json()["predictions"][0]["prediction"]
    assert type(prediction) is {"binary": str, "multiclass": int, "regression": float}[model.task]


def test_a_row_may_be_a_list_in_the_order_of_the_columns(server, rows):
    by_name = inference.json_rows(rows[:3])
    assert server.v1([list(row.values()) for row in by_name]).json() == server.v1(by_name).json()


@pytest.mark.parametrize(
    "row",
    [
        {"city": "Ulm", "age": 30},
        {"city": "Ulm", "age": 30, "income": None, "member": None, "joined": None, "seen": None},
        {"city": "Atlantis", "age": 30, "income": 1, "member": True, "joined": "2022-02-28", "seen": "2024-01-01T10:00:00+02:00"},
        {"city": "", "age": 30.0, "income": 2.5e3, "unknown column": [1, 2]},
        {"city": "NUL \u0000 and \U0001f600", "age": -1},
    ],
)
def test_rows_that_the_contract_allows_are_answered(server, model, row):
    from kfp_foundry.components.common.rows import to_frame

    response = server.v1([row])
    assert response.status_code == 200, response.text
    expected = model.predict(to_frame([row], model.contract), threshold=0.5)["prediction"].to_list()
    assert [p["prediction"] for p in response.json()["predictions"]] == pytest.approx(expected)


def test_paths_that_say_what_is_served(binary):
    assert binary.get("/v1/models").json() == {"models": ["people"]}
    assert binary.get("/v1/models/people").json() == {"name": "people", "ready": True}
    assert binary.get("/v2/health/live").json() == {"live": True}
    assert binary.get("/v2/health/ready").json() == {"ready": True}
    assert binary.get("/v2/models/people/ready").json() == {"name": "people", "ready": True}
    version = binary.get("/v2/models/people").json()["versions"][0]
    assert binary.get(f"/v2/models/people/versions/{version}/ready").status_code == 200
    assert binary.get("/v2").json()["name"] == "kfp-foundry"


def test_v2_gives_only_the_outputs_that_are_asked_for(binary):
    tensors = [
        {"name": "city", "shape": [1, 1], "datatype": "BYTES", "data": [["Ulm"]]},
        {"name": "age", "shape": [1], "datatype": "INT32", "data": [40]},
    ]
    answer = binary.v2(inputs=tensors, outputs=[{"name": "probability"}]).json()
    assert [tensor["name"] for tensor in answer["outputs"]] == ["probability"]


def test_an_answer_names_the_request_and_the_model(binary):
    response = binary.v1([{"city": "Ulm", "age": 30}], headers={"x-request-id": "order-4711"})
    assert response.headers["x-request-id"] == "order-4711"
    assert response.headers["x-model-digest"].startswith("sha256:")
    assert response.headers["server-timing"].startswith("total;dur=")


def test_the_threshold_decides_the_label(start, trained):
    row = {"city": "Ulm", "age": 30}
    careful, eager = (start(trained("binary"), "--threshold", value).v1([row]).json()["predictions"][0] for value in ("1", "0"))
    assert careful["probability"] == eager["probability"]
    assert (careful["prediction"], eager["prediction"]) == ("no", "yes")
