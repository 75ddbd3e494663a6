"""ModelFolder: what was written is what is read, or the file at fault is named; the same everywhere it runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import BATCH, ModelFolder, identity
from kfp_foundry.components.common.contract import Constraints, Limits, Role, Task, Type
from kfp_foundry.components.common.errors import DataError, IntegrityError, PlatformError
from kfp_foundry.components.training.train_model import core


@pytest.fixture(scope="module")
def trained(tmp_path_factory, flights, flights_contract):
    """A small model of the flights, and rows that it has not seen."""
    from kfp import dsl

    folder = tmp_path_factory.mktemp("model")

    def artifact(name, kind=dsl.Artifact):
        return kind(name=name, uri=str(folder / name), metadata={})

    train, validation, contract = artifact("train", dsl.Dataset), artifact("validation", dsl.Dataset), artifact("contract")
    DatasetFolder.write(train, flights[:4000].lazy(), source="flights")
    DatasetFolder.write(validation, flights[4000:5000].lazy(), source="flights")
    flights_contract.save(contract.path)
    model = artifact("model", dsl.Model)
    core.run(train, validation, contract, model, artifact("metrics", dsl.Metrics), artifact("report", dsl.HTML), params={"num_iterations": 20})
    return model, flights[5000:]


@pytest.fixture
def copy(trained, tmp_path):
    """A model folder that a test may break."""
    import shutil

    return shutil.copytree(trained[0].path, tmp_path / "model")


def test_opening_gives_contract_record_and_identity(trained, flights_contract):
    model = ModelFolder.open(trained[0])
    assert model.contract == flights_contract
    assert (model.task, model.labels, model.record.algorithm) == (Task.BINARY, [False, True], "lightgbm")
    assert model.digest.startswith("sha256:")
    assert trained[0].metadata["digest"] == model.digest
    assert all(isinstance(value, (str, int, float)) for value in trained[0].metadata.values())


RELAXED = {"constraints": Constraints(required=False)}


@pytest.mark.parametrize(
    ("field", "changes", "same"),
    [
        ("carrier", RELAXED, False),
        ("distance", {"type": Type.NUMBER}, False),
        ("carrier", {"format": "%d.%m.%Y"}, False),
        ("carrier", {"description": "two letters", "limits": Limits(known_values=["UA"]), "severity": "warn"}, True),
        ("distance", {"constraints": Constraints(minimum=0)}, True),
        ("time_hour", {"role": Role.IGNORE, "constraints": Constraints(required=True)}, True),
    ],
)
def test_the_identity_is_what_decides_acceptance_and_answers_and_nothing_else(make_model, flights_contract, tmp_path, field, changes, same):
    contract = flights_contract.model_copy(deep=True)
    contract.field("carrier").constraints.required = True
    changed = contract.model_copy(deep=True)
    changed.fields = [f.model_copy(update=changes) if f.name == field else f for f in changed.fields]
    one, other = make_model(tmp_path / "one", contract=contract), make_model(tmp_path / "other", contract=changed)
    assert (one.path / "model.onnx").read_bytes() == (other.path / "model.onnx").read_bytes()
    assert (one.digest == other.digest) is same
    assert (one.path / "MLmodel").read_bytes() == (other.path / "MLmodel").read_bytes() or not same


def test_the_labels_belong_to_the_identity(trained):
    model = ModelFolder.open(trained[0])
    swapped = model.record.model_copy(update={"labels": [True, False]})
    assert identity("ab", model.contract, swapped) != identity("ab", model.contract, model.record)
    assert identity("ab", model.contract, model.record) != identity("cd", model.contract, model.record)


def test_predictions_have_probability_and_the_labels_own_type(trained):
    scored = ModelFolder.open(trained[0]).predict(trained[1])
    assert scored.schema == {"probability": pl.Float64, "prediction": pl.Boolean}
    assert scored["probability"].is_between(0, 1).all()
    assert scored["prediction"].equals(scored["probability"] >= 0.5, check_names=False)


def test_a_threshold_moves_the_prediction_and_not_the_probability(trained):
    model = ModelFolder.open(trained[0])
    at = model.predict(trained[1])["probability"][0]
    scored = model.predict(trained[1], threshold=at)
    assert scored["prediction"][0] is True
    assert scored["prediction"].sum() == (scored["probability"] >= at).sum()


def test_batches_and_threads_leave_no_trace(trained):
    model = ModelFolder.open(trained[0])
    many = pl.concat([trained[1]] * (BATCH // trained[1].height + 2))
    assert many.height > BATCH
    alone = model.predict(trained[1])["probability"].to_numpy()
    np.testing.assert_allclose(model.predict(many, threads=2)["probability"].to_numpy()[-len(alone) :], alone, rtol=0, atol=1e-12)


def test_no_rows_give_no_predictions_of_the_same_types(trained):
    model = ModelFolder.open(trained[0])
    assert model.predict(trained[1].clear()).schema == model.predict(trained[1]).schema


def test_an_absent_column_is_named(trained):
    with pytest.raises(DataError, match=r"no column 'carrier'; did you mean 'carier'\?"):
        ModelFolder.open(trained[0]).predict(trained[1].rename({"carrier": "carier"}))


def test_the_truth_has_the_form_of_a_prediction(trained):
    model = ModelFolder.open(trained[0])
    assert model.truth(trained[1]).dtype == model.predict(trained[1])["prediction"].dtype


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "contract.yaml", "MLmodel", "native/model.txt"])
def test_one_changed_byte_is_found_and_the_file_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"{name}: digest mismatch"):
        ModelFolder.open(copy)


def test_a_whole_folder_of_another_model_is_found(trained, make_model, tmp_path):
    from kfp import dsl

    other = make_model(tmp_path / "other")
    artifact = dsl.Model(name="model", uri=str(other.path), metadata=dict(trained[0].metadata))
    with pytest.raises(IntegrityError, match=r"digest mismatch: the folder is another model's"):
        ModelFolder.open(artifact)


def test_a_missing_file_is_named(copy):
    (copy / "native" / "model.txt").unlink()
    with pytest.raises(IntegrityError, match=r"native/model.txt: the file is missing; run the training step again"):
        ModelFolder.open(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_broken_digests_are_no_model(copy, content):
    (copy / "digests.json").write_text(content)
    with pytest.raises(IntegrityError, match="model"):
        ModelFolder.open(copy)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match=r"model .*: not a model: it has no digests.json; give a Model folder"):
        ModelFolder.open(tmp_path)


def test_mlflow_loads_it_and_serves_the_same_rows(trained):
    import mlflow.pyfunc

    model, rows = ModelFolder.open(trained[0]), trained[1].head(200)
    texts = ["carrier", "origin", "dest"]
    frame = rows.select(model.contract.features).with_columns(pl.exclude(texts).cast(pl.Float64)).to_pandas()
    frame.loc[0, "carrier"] = None
    frame.loc[1, "carrier"] = "never seen"
    served = mlflow.pyfunc.load_model(trained[0].path).predict(frame)
    ours = model.predict(pl.from_pandas(frame).with_columns(pl.exclude(texts).fill_nan(None)))
    np.testing.assert_array_equal(served["probability"].to_numpy(), ours["probability"].to_numpy())
    assert served["prediction"].tolist() == ours["prediction"].to_list()


def test_its_signature_and_example_are_what_mlflow_reads(trained):
    from mlflow.models import Model, validate_serving_input

    described = Model.load(trained[0].path)
    assert described.signature.inputs.input_names() == ModelFolder.open(trained[0]).contract.features
    assert [str(column.type) for column in described.signature.outputs] == ["DataType.double", "DataType.boolean"]
    served = validate_serving_input(trained[0].path, (Path(trained[0].path) / "serving_input_example.json").read_text())
    assert len(served) == 1


def test_its_example_is_no_row_of_the_training_data(make_model, flights, tmp_path):
    import json

    model = make_model(tmp_path / "made")
    names = model.contract.features
    people = flights.head(500).with_columns(dest=pl.format("passenger {}", pl.int_range(pl.len())))

    def example(name, table):
        folder = ModelFolder.write(tmp_path / name, b"", model.contract, model.record, {}, table)
        return json.loads((folder.path / "input_example.json").read_text())

    made = example("one", people)
    row = dict(zip(made["columns"], made["data"][0], strict=True))
    assert made["columns"] == names
    assert row["carrier"] == people["carrier"].mode().sort()[0]
    assert row["dest"] == ""  # a text that each row has for itself stands nowhere
    assert row["distance"] == people["distance"].quantile(0.5, "lower")
    assert example("again", people.reverse()) == made
    assert example("empty", people.clear())["data"][0] == ["" if value == "" or isinstance(value, str) else None for value in made["data"][0]]


def test_opening_and_predicting_load_no_training_library(trained, tmp_path):
    trained[1].write_parquet(tmp_path / "rows.parquet")
    program = (
        "import sys, polars as pl; from kfp_foundry.components.common.artifacts.model import ModelFolder\n"
        "ModelFolder.open(sys.argv[1]).predict(pl.read_parquet(sys.argv[2]))\n"
        "print(sorted({'mlflow', 'sklearn', 'lightgbm', 'kfp', 'pandas', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, trained[0].path, tmp_path / "rows.parquet"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_a_pickle(trained):
    names = sorted(file.relative_to(trained[0].path).as_posix() for file in Path(trained[0].path).rglob("*") if file.is_file())
    assert names == [
        "MLmodel", "conda.yaml", "contract.yaml", "digests.json", "input_example.json", "model.json", "model.onnx",
        "native/encoding.json", "native/model.txt", "python_env.yaml", "requirements.txt", "serving_input_example.json",
    ]  # fmt: skip


def test_a_place_that_cannot_be_written_is_said_and_nothing_is_left(trained, tmp_path):
    model = ModelFolder.open(trained[0])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlatformError, match=r"cannot be written.*choose a folder that you may write to"):
        ModelFolder.write(tmp_path / "file" / "model", b"", model.contract, model.record, {}, trained[1])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
