"""predict: the same predictions by folder, registry and endpoint; ids kept; clear refusals."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kfp_foundry.cli.main import main
from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.tracking import tracking


@pytest.fixture(autouse=True)
def laptop(tmp_path, monkeypatch, empty_registry):
    for name in ("MLFLOW_TRACKING_URI", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(empty_registry(tmp_path / "home")))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(make_model, tmp_path):
    return make_model(tmp_path / "model", bias=0.7)


@pytest.fixture
def table(flights, tmp_path):
    flights.write_csv(tmp_path / "flights.csv")
    flights.write_parquet(tmp_path / "flights.parquet")
    return flights


@pytest.mark.parametrize("source", ["flights.csv", "flights.parquet"])
@pytest.mark.parametrize("output", ["scored.parquet", "scored.csv"])
def test_a_table_is_scored_into_a_file(model, table, source, output, capsys):
    assert main(["predict", source, "--model", "model", "--output", output]) == 0
    scored = pl.read_parquet(output) if output.endswith(".parquet") else pl.read_csv(output)
    assert_frame_equal(scored.select("probability", "prediction"), model.predict(table))
    assert scored["row"].to_list() == list(range(1, table.height + 1))
    assert f"{table.height:,} rows scored with model (sha256:" in capsys.readouterr().out


def test_ids_and_asked_columns_are_kept(make_model, flights, flights_contract, tmp_path):
    make_model(tmp_path / "model", contract=flights_contract.with_role("tailnum", "id"))
    flights.head(20).write_parquet("t.parquet")
    assert main(["predict", "t.parquet", "--model", "model", "--keep", "late", "-o", "out.parquet"]) == 0
    out = pl.read_parquet("out.parquet")
    assert out.columns == ["tailnum", "late", "probability", "prediction"]
    assert_frame_equal(out.select("tailnum", "late"), flights.head(20).select("tailnum", "late"))


def test_a_kept_column_with_the_name_of_a_prediction_is_refused(model, flights, capsys):
    flights.head(20).with_columns(pl.lit(1).alias("prediction")).write_parquet("t.parquet")
    assert main(["predict", "t.parquet", "--model", "model", "--keep", "prediction"]) == 1
    assert "the table's column 'prediction' has the name of a prediction; rename it, or do not keep it" in capsys.readouterr().err


def test_without_an_output_the_first_rows_are_shown(model, table, capsys):
    assert main(["predict", "flights.csv", "--model", "model", "--rows", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["row", "probability", "prediction"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "--output FILE.parquet" in lines[-1]


def test_batches_leave_no_trace(model, all_flights, tmp_path):
    all_flights.head(150_000).write_parquet("many.parquet")
    assert main(["predict", "many.parquet", "--model", "model", "-o", "out.parquet"]) == 0
    out = pl.read_parquet("out.parquet")
    assert_frame_equal(out.select("probability", "prediction"), model.predict(all_flights.head(150_000)))
    assert out["row"].to_list() == list(range(1, 150_001))


def test_a_registered_model_brings_its_threshold(model, table):
    client = tracking().client
    client.create_registered_model("flights")
    client.create_model_version("flights", str(model.path), tags={"model_digest": model.digest, "threshold": "0.3"})
    client.set_registered_model_alias("flights", "champion", "1")
    assert main(["predict", "flights.parquet", "--model", "models:/flights@champion", "-o", "a.parquet"]) == 0
    assert main(["predict", "flights.parquet", "--model", "models:/flights/1", "--threshold", "0.4", "-o", "b.parquet"]) == 0
    for file, threshold in (("a.parquet", 0.3), ("b.parquet", 0.4)):
        assert_frame_equal(pl.read_parquet(file).select("probability", "prediction"), model.predict(table, threshold))


def test_an_endpoint_gives_the_same_predictions_as_its_model(model, table):
    local_server.start(model.path, "flights", threshold=0.35)
    try:
        assert main(["predict", "flights.csv", "--endpoint", "flights", "-o", "out.parquet"]) == 0
        assert main(["predict", "flights.csv", "--endpoint", "flihgts"]) == 1
    finally:
        local_server.stop("flights")
    assert_frame_equal(pl.read_parquet("out.parquet").select("probability", "prediction"), model.predict(table, 0.35))


def test_a_stopped_endpoint_is_told(model, table, capsys):
    local_server.start(model.path, "flights")
    local_server.stop("flights")
    assert main(["predict", "flights.csv", "--endpoint", "flights"]) == 1
    assert "error: endpoint flights: the endpoint does not run; deploy the model again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flights.csv"], "give one of --model and --endpoint"),
        (["flights.csv", "--model", "model", "--endpoint", "x"], "give one of --model and --endpoint"),
        (["flights.csv", "--model", "modell"], "model modell: no such folder; give a Model folder"),
        (["flights.csv", "--model", "models:/flights@champion"], "there is no models:/flights@champion; register a model first"),
        (["flights.csv", "--model", "model", "-o", "out.xlsx"], "--output out.xlsx is neither .parquet nor .csv"),
        (["flights.csv", "--model", "model", "--keep", "tailnmu"], "--keep tailnmu is not a column; did you mean 'tailnum'?"),
        (["flights.csv", "--endpoint", "x"], "no endpoint 'x'; deploy a model first"),
        (["flights.csv", "--endpoint", "x", "--threshold", "0.4"], "--threshold is for --model"),
        (["absent.csv", "--model", "model"], "absent.csv"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing_behind(model, table, words, message, capsys, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["predict", *words]) != 0
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename({"distance": "distnace"}), "bad.parquet: no column 'distance'; did you mean 'distnace'?"),
        (lambda t: t.drop("distance", "temp"), "no column 'distance' and 1 more of the model's columns"),
        (lambda t: t.with_columns(pl.lit("far").alias("distance")), "bad.parquet, rows 1 to 6,547: column 'distance' is String, not integer"),
        (lambda t: t.with_columns(pl.lit(1.5).alias("carrier")), "column 'carrier' is text for the model, but reads as Float64 here"),
    ],
)
def test_a_table_that_is_not_the_models_is_refused(model, flights, change, message, capsys, tmp_path):
    change(flights).write_parquet("bad.parquet")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["predict", "bad.parquet", "--model", "model", "-o", "out/scored.parquet"]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("scored*")) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == before


@pytest.mark.parametrize("format_", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M"])
def test_dates_as_text_are_read_as_the_contract_writes_them(make_model, flights, flights_contract, format_, tmp_path):
    dated = flights_contract.with_role("time_hour", "feature")
    dated.field("time_hour").format = format_
    model = make_model(tmp_path / "dated", contract=dated)
    texts = flights.head(50).with_columns(pl.col("time_hour").dt.strftime(format_))
    texts.write_parquet("texts.parquet")
    assert main(["predict", "texts.parquet", "--model", "dated", "-o", "out.parquet"]) == 0
    assert_frame_equal(pl.read_parquet("out.parquet").select("probability", "prediction"), model.predict(flights.head(50)))


def test_a_csv_with_another_delimiter_and_missing_values_is_read(model, flights):
    flights.head(50).write_csv("texts.csv", separator=";", null_value="NA")
    assert main(["predict", "texts.csv", "--model", "model", "-o", "out.parquet"]) == 0
    assert_frame_equal(pl.read_parquet("out.parquet").select("probability", "prediction"), model.predict(flights.head(50)))


def test_a_csv_that_needs_to_be_explained_is_read_as_explained(model, flights, capsys):
    table = flights.head(50).with_columns(note=pl.lit("Zürich"), temp=pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise("temp"))
    text = table.write_csv(separator="|", null_value="none")
    Path("explained.csv").write_bytes(text.replace(".", ",").encode("cp1252"))
    words = ["predict", "explained.csv", "--model", "model", "-o", "out.parquet"]
    assert main(words) == 1
    assert 'encoding="cp1252"' in capsys.readouterr().err
    assert main([*words, "--encoding", "cp1252", "--delimiter", "|", "--decimal", ",", "--null-value", "none"]) == 0
    assert_frame_equal(pl.read_parquet("out.parquet").select("probability", "prediction"), model.predict(table))


def test_a_model_with_one_byte_changed_predicts_nothing(model, table, capsys):
    onnx = model.path / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"\xff")
    assert main(["predict", "flights.csv", "--model", "model"]) == 1
    assert "model.onnx: digest mismatch" in capsys.readouterr().err
