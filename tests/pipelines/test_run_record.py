"""What a run leaves behind, and what the command says and returns."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl

from kfp_foundry.run.screen import LiveScreen
from kfp_foundry.run.summary import summary

component = dsl.component(base_image="example/python", install_kfp_package=False)


@component
def talk(text: str, report: dsl.Output[dsl.HTML]) -> str:
    import os
    import tempfile
    from pathlib import Path

    print(f"\033[31mred\033[0m {text}")
    Path(report.path).write_text("<p>report</p>")
    (Path(tempfile.gettempdir()) / "left-behind").write_text("x")
    return f"{os.environ['KFP_FOUNDRY_HOME']} {os.environ['KFP_FOUNDRY_RUN']}"


@component
def gate(outcome: str) -> str:
    import sys

    if outcome == "fail":
        print("error: gate: rows is 3; give more rows", file=sys.stderr)
        raise SystemExit(3)
    return outcome


@dsl.pipeline(description="Two steps.")
def talking(text: str = "hello", outcome: str = "pass") -> str:
    gate(outcome=outcome)
    return talk(text=text).outputs["Output"]


@component
def decide(outcome: str) -> NamedTuple("Outputs", [("outcome", str)]):
    return (outcome,)


@component
def serve(endpoint: dsl.Output[dsl.Artifact], report: dsl.Output[dsl.HTML], traffic: int = 100):
    import json
    from pathlib import Path

    record = {"name": "flights", "url": "http://127.0.0.1:8090", "protocol": "v2", "traffic": traffic}
    Path(endpoint.path).write_text(json.dumps(record))
    endpoint.metadata.update(record, curl="curl -s http://127.0.0.1:8090/v2/models/flights/infer")
    Path(report.path).write_text("<p>served</p>")


@component
def warn(times: int):
    import logging

    for number in range(times):
        logging.getLogger(__name__).warning("column %s: numbers and texts are mixed", number)
    logging.getLogger(__name__).warning("column 0: numbers and texts are mixed")


@component
def write_report(report: dsl.Output[dsl.HTML]):
    from pathlib import Path

    Path(report.path).write_text("<p>all</p>")


def command(*words, cwd=None):
    line = [sys.executable, "-m", "kfp_foundry", "run", *map(str, words)]
    env = {name: value for name, value in os.environ.items() if name != "KFP_FOUNDRY_HOME"}
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False)


def test_the_record_holds_inputs_states_times_outputs_and_versions(execute):
    result = execute(talking, text="hi")
    record = json.loads((result.folder / "run.json").read_text())
    assert record == result.record
    assert record["inputs"] == {"text": "hi", "outcome": "pass"}
    assert record["versions"].keys() == {"python", "kfp", "kfp-foundry"}
    assert (record["state"], record["exit_code"], len(record["yaml_sha256"])) == ("succeeded", 0, 64)
    step = record["steps"]["talk"]
    assert step["started"] <= step["ended"] <= record["ended"]
    assert step["outputs"]["artifacts"]["report"][0]["uri"] == str(result.folder / "steps/talk/report.html")


def test_logs_are_plain_files_and_the_temporary_folder_is_gone(execute):
    result = execute(talking)
    log = result.folder / result.record["steps"]["talk"]["log"]
    assert "red hello" in log.read_text()
    assert "\033" not in log.read_text()
    assert {path.name for path in result.folder.iterdir()} == {"run.json", "steps", ".lock"}
    assert not list(Path(result.folder).rglob("left-behind"))


def test_steps_know_the_home_folder_and_their_run(execute, tmp_path):
    result = execute(talking)
    assert result.outputs == {"Output": f"{tmp_path / 'home'} {result.folder.name}"}


def test_passwords_in_urls_are_kept_out_of_record_and_logs(execute):
    result = execute(talking, text="postgresql://me:s3cret@db.example/flights")
    files = [path for path in result.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
    assert "postgresql://***@db.example/flights" in (result.folder / "steps/talk/log.txt").read_text()


def test_a_gate_that_says_no_is_told_apart_from_a_fault(execute):
    result = execute(talking, outcome="fail")
    assert (result.exit_code, result.state) == (3, "refused")
    assert result.error.startswith("step gate: gate: rows is 3; give more rows; log: ")


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("warn", 0), ("fail", 3)])
def test_an_outcome_of_fail_makes_a_run_that_went_through_refused(execute, outcome, code):
    @dsl.pipeline
    def deciding(outcome: str):
        decide(outcome=outcome)

    result = execute(deciding, outcome=outcome)
    assert result.exit_code == code
    assert [step for title, step in summary(result) if title == "said no"] == (["decide"] if outcome == "fail" else [])


def test_the_summary_names_the_final_report_the_endpoint_and_its_curl_line(execute, tmp_path):
    @dsl.pipeline
    def serving():
        write_report().after(serve())

    (tmp_path / "home").mkdir()
    (tmp_path / "home/mlflow.db").touch()
    result = execute(serving)
    assert dict(summary(result)) == {
        "report": str(result.folder / "steps/write-report/report.html"),
        "endpoint": "http://127.0.0.1:8090 (model flights)",
        "try it": "curl -s http://127.0.0.1:8090/v2/models/flights/infer",
        "mlflow": f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/home/mlflow.db",
        "run": str(result.folder),
    }


@pytest.mark.parametrize(
    ("times", "shown", "last"), [(1, 1, "warn: column 0: numbers and texts are mixed"), (10, 9, "2 more in the logs of the steps")]
)
def test_the_summary_repeats_what_steps_warned_of(execute, times, shown, last):
    @dsl.pipeline
    def warning(times: int):
        warn(times=times)

    notes = [line for title, line in summary(execute(warning, times=times)) if title == "note"]
    assert (len(notes), notes[-1]) == (shown, last)


def test_the_summary_names_each_steps_report_when_there_is_no_final_one(execute):
    @dsl.pipeline
    def serving_nothing():
        serve(traffic=0)

    result = execute(serving_nothing)
    assert [title for title, _ in summary(result) if title != "try it"] == ["report of serve", "run"]


def test_the_command_prints_one_line_per_change_and_where_everything_is(compiled, tmp_path):
    done = command(compiled(talking), "--home", tmp_path / "home", "--set", "text=hi")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"talking: run talking-\d{8}-\d{6}-[0-9a-f]{4}", lines[0])
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d  done         talk  \d+\.\d s", line) for line in lines)
    assert re.search(r"^state .* succeeded$", done.stdout, re.MULTILINE)
    assert "\033" not in done.stdout
    again = command(compiled(talking), "--home", tmp_path / "home", "--set", "text=hi")
    assert "succeeded (2 from the cache)" in again.stdout


def test_quiet_prints_errors_only(compiled, tmp_path):
    assert command(compiled(talking), "--home", tmp_path / "home", "-q").stdout == ""
    refused = command(compiled(talking), "--home", tmp_path / "home", "-q", "--set", "outcome=fail")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("error: step gate: gate: rows is 3")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "txt=a"], "error: parameters: unknown parameter 'txt'; did you mean 'text'?"),
        (["--params", "absent.yaml"], "error: parameters absent.yaml: cannot be read: No such file or directory; check the path"),
    ],
)
def test_wrong_usage_is_one_line_and_starts_nothing(compiled, tmp_path, words, message):
    done = command(compiled(talking), "--home", tmp_path / "home", *words)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, message, "")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.yaml", "error: absent.yaml: no such file; check the path"),
        ("train_and_deplo", "error: kfp-foundry run: no pipeline 'train_and_deplo'; "),
        ("pipeline.py", "error: pipeline.py: is source, not a compiled pipeline; compile it first: "),
    ],
)
def test_a_pipeline_that_is_not_there_is_wrong_usage(tmp_path, name, message):
    done = command(name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("text", ["a: 1\n", "- x\n", "a: [", "\x00"])
def test_a_file_that_is_no_pipeline_is_wrong_usage(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    done = command("x.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert re.match(r"error: x.yaml: not (a compiled pipeline|valid YAML)", done.stderr)


def test_a_settings_file_and_settings_work_together(compiled, tmp_path):
    (tmp_path / "p.yaml").write_text("text: from file\noutcome: fail\n")
    done = command(compiled(talking), "--params", tmp_path / "p.yaml", "--set", "outcome=pass", cwd=tmp_path)
    assert done.returncode == 0
    (run,) = (tmp_path / ".kfp-foundry/runs").iterdir()
    assert json.loads((run / "run.json").read_text())["inputs"] == {"text": "from file", "outcome": "pass"}


def test_a_reader_that_goes_away_does_not_stop_the_run(compiled, tmp_path):
    line = f"{sys.executable} -m kfp_foundry run {compiled(talking)} --home {tmp_path / 'home'} | true"
    subprocess.run(["bash", "-c", line], check=True, timeout=120)
    (run,) = (tmp_path / "home/runs").iterdir()
    assert json.loads((run / "run.json").read_text())["exit_code"] == 0


def test_the_live_table_shows_states_and_leaves_room(compiled, tmp_path):
    from rich.console import Console

    from kfp_foundry.run import run_pipeline

    @dsl.pipeline
    def many():
        with dsl.ParallelFor([str(n) for n in range(12)]) as item:
            gate(outcome=item)

    console = Console(force_terminal=True, width=100, height=12, file=(tmp_path / "screen").open("w"))
    assert run_pipeline(compiled(many), {}, tmp_path / "home", screen=LiveScreen(console)).exit_code == 0
    console.file.close()
    shown = (tmp_path / "screen").read_text()
    assert "running" in shown
    assert re.search(r"\d+ more", shown)
    assert shown.count("for-loop-2-11/gate") > 1
