# ruff: noqa: UP045 (kfp takes Optional[X] only)
"""A run on this machine means what a run on a cluster means, also where kfp.local 2.17.0 gives wrong values or none."""

import json
from typing import NamedTuple, Optional

import pytest
from kfp import dsl

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.run import run_pipeline

component = dsl.component(base_image="example/python", install_kfp_package=False)


@component
def echo(text: str) -> str:
    return text


@component
def show(value: dict, number: float, count: int) -> str:
    import json

    return json.dumps([value, number, count])


@component
def make(data: dsl.Output[dsl.Dataset], text: str = "a,b") -> NamedTuple("Outputs", [("rows", int), ("names", list[str])]):
    from pathlib import Path

    Path(data.path).write_text(text)
    data.metadata["rows"] = 3
    return (3, text.split(","))


@component
def read(data: dsl.Input[dsl.Dataset]) -> str:
    from pathlib import Path

    return f"{Path(data.path).read_text()} {data.metadata['rows']}"


@component
def join(texts: list[str]) -> str:
    return "+".join(texts)


@component
def write(text: str, note: dsl.Output[dsl.Artifact]):
    from pathlib import Path

    Path(note.path).write_text(text)


@component
def read_all(notes: dsl.Input[list[dsl.Artifact]]) -> str:
    from pathlib import Path

    return "+".join(Path(note.path).read_text() for note in notes)


@component
def optional(text: Optional[str] = None, count: Optional[int] = None) -> str:
    return f"{text} {count}"


@component
def fail(text: str) -> str:
    raise ValueError(text)


@component
def fail_if(yes: bool) -> str:
    if yes:
        raise ValueError("asked for")
    return "well"


@component
def leave(status: dsl.PipelineTaskFinalStatus, file: str):
    import json
    from pathlib import Path

    Path(file).write_text(json.dumps([status.state, status.error_message]))


def test_parameters_and_artifacts_travel_between_steps_with_their_metadata(execute):
    @dsl.pipeline
    def travel() -> str:
        made = make()
        return echo(text=f"{read(data=made.outputs['data']).output}, {made.outputs['rows']} rows").output

    assert execute(travel).outputs == {"Output": "a,b 3, 3 rows"}


def test_a_loop_body_sees_the_outputs_of_tasks_outside_the_loop(execute):
    @dsl.pipeline
    def outer_output() -> list[str]:
        outside = echo(text="outside")
        with dsl.ParallelFor(["x", "y"]) as item:
            inside = echo(text=f"{outside.output} {item}")
        return dsl.Collected(inside.output)

    assert execute(outer_output).outputs == {"Output": ["outside x", "outside y"]}


def test_a_loop_may_run_over_a_named_output(execute):
    @dsl.pipeline
    def named_output() -> str:
        with dsl.ParallelFor(make(text="p,q,r").outputs["names"]) as name:
            one = echo(text=name)
        return join(texts=dsl.Collected(one.output)).output

    assert execute(named_output).outputs == {"Output": "p+q+r"}


def test_artifacts_of_a_loop_are_collected_in_order(execute):
    @dsl.pipeline
    def collect_artifacts() -> str:
        with dsl.ParallelFor(["3", "1", "2"], parallelism=2) as item:
            note = write(text=item)
        return read_all(notes=dsl.Collected(note.outputs["note"])).output

    assert execute(collect_artifacts).outputs == {"Output": "3+1+2"}


def test_a_loop_over_nothing_collects_an_empty_list(execute):
    @dsl.pipeline
    def empty_loop(items: list[str]) -> str:
        with dsl.ParallelFor(items) as item:
            one = echo(text=item)
        return join(texts=dsl.Collected(one.output)).output

    assert execute(empty_loop, items=[]).outputs == {"Output": ""}


def test_loop_items_give_their_parts(execute):
    @dsl.pipeline
    def parts(items: list[dict[str, str]]) -> list[str]:
        with dsl.ParallelFor(items) as item:
            one = optional(text=item.a)
            with dsl.If(item.b == "never"):
                echo(text="never")
        return dsl.Collected(one.output)

    assert execute(parts, items=[{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]).outputs == {"Output": ["1 None", "3 None"]}


def test_a_nested_pipeline_keeps_its_default_beside_an_outer_parameter_of_the_same_name(execute):
    @dsl.pipeline
    def inner(first: str, text: str = "inner default") -> str:
        return echo(text=f"{first}, {text}").output

    @dsl.pipeline
    def outer(text: str = "outer") -> str:
        return inner(first="x").output

    assert execute(outer).outputs == {"Output": "x, inner default"}


def test_a_nested_pipeline_may_take_artifacts_only(execute):
    @dsl.pipeline
    def reader(data: dsl.Input[dsl.Dataset]) -> str:
        return read(data=data).output

    @dsl.pipeline
    def artifacts_only() -> str:
        return reader(data=make().outputs["data"]).output

    assert execute(artifacts_only).outputs == {"Output": "a,b 3"}


@pytest.mark.parametrize(("arguments", "expected"), [({}, "None None"), ({"text": "x", "count": 2}, "x 2")])
def test_optional_parameters_without_default_may_be_left_out(execute, arguments, expected):
    @dsl.pipeline
    def optionals(text: Optional[str] = None, count: Optional[int] = None) -> str:
        return optional(text=text, count=count).output

    assert execute(optionals, **arguments).outputs == {"Output": expected}


def test_whole_numbers_arrive_as_integers_as_the_backend_writes_them(execute):
    @dsl.pipeline
    def numbers(value: dict = {"a": 2.0, "b": [1, 2.5], "c": True}) -> str:  # noqa: B006
        return show(value=value, number=3.0, count=4).output

    assert json.loads(execute(numbers).outputs["Output"]) == [{"a": 2, "b": [1, 2.5], "c": True}, 3, 4]
    assert '"a": 2,' in execute(numbers).outputs["Output"]


def test_null_inside_a_mapping_stays_null(execute):
    @dsl.pipeline
    def nulls(value: dict) -> str:
        return show(value=value, number=0.5, count=1).output

    assert json.loads(execute(nulls, value={"a": None}).outputs["Output"]) == [{"a": None}, 0.5, 1]


@pytest.mark.parametrize("text", ["python3", "/data/python3/x.csv", "{{$}}", 'it\'s "quoted" $HOME `x`', "", "ä\n€"])
def test_texts_arrive_as_they_were_given(execute, text):
    @dsl.pipeline
    def texts(text: str) -> str:
        return echo(text=text).output

    assert execute(texts, text=text).outputs == {"Output": text}


@pytest.mark.parametrize(("number", "expected"), [(5, "big"), (2, "small"), (0, "none")])
def test_the_branch_whose_condition_holds_runs_and_no_other(execute, number, expected):
    @dsl.pipeline
    def branches(number: int) -> str:
        with dsl.If(number > 3):
            big = join(texts=["big"])
        with dsl.Elif(number >= 1):
            small = join(texts=["small"])
        with dsl.Else():
            none = join(texts=["none"])
        return echo(text=dsl.OneOf(big.output, small.output, none.output)).output

    result = execute(branches, number=number)
    assert result.outputs == {"Output": expected}
    assert sorted(result.states().values()) == ["done", "done", "skipped", "skipped"]


def test_a_nested_condition_follows_the_outer_one(execute):
    @dsl.pipeline
    def nested(outer: bool, inner: str):
        with dsl.If(outer == True):  # noqa: E712, SIM117 (a pipeline's condition, not Python's)
            with dsl.If(echo(text=inner).output == "yes"):
                echo(text="deep")

    assert execute(nested, outer=False, inner="yes").states() == {"echo": "skipped", "echo-2": "skipped"}
    assert execute(nested, outer=True, inner="no").states() == {"echo": "done", "echo-2": "skipped"}


def test_one_of_artifacts_is_the_one_that_was_made(execute):
    @dsl.pipeline
    def one_of(first: bool) -> str:
        with dsl.If(first == True):  # noqa: E712
            one = make(text="1")
        with dsl.Else():
            two = make(text="2")
        return read(data=dsl.OneOf(one.outputs["data"], two.outputs["data"])).output

    assert execute(one_of, first=False).outputs == {"Output": "2 3"}


@pytest.mark.parametrize(("broken", "state", "code"), [(False, "COMPLETE", 0), (True, "FAILED", 1)])
def test_an_exit_task_runs_in_any_case_and_is_told_how_it_went(execute, tmp_path, broken, state, code):
    @dsl.pipeline
    def guarded(broken: bool, file: str):
        with dsl.ExitHandler(leave(file=file)):
            echo(text="before").set_display_name("x")
            fail_if(yes=broken)

    result = execute(guarded, broken=broken, file=str(tmp_path / "status"))
    told = json.loads((tmp_path / "status").read_text())
    assert (result.exit_code, told[0]) == (code, state)
    assert (told[1] is None) != broken


def test_a_failure_keeps_later_steps_from_starting(execute):
    @dsl.pipeline
    def stops():
        echo(text=fail(text="no").output)

    result = execute(stops)
    assert result.states() == {"fail": "failed", "echo": "skipped"}
    assert (result.exit_code, result.record["failed_step"]) == (1, "fail")


def test_a_task_that_ignores_failures_before_it_runs_after_them(execute):
    @dsl.pipeline
    def ignores():
        echo(text="after").after(fail(text="no")).ignore_upstream_failure()

    result = execute(ignores)
    assert result.states() == {"fail": "failed", "echo": "done"}
    assert result.state == "failed"


@component
def third_time(file: str) -> int:
    from pathlib import Path

    count = int(Path(file).read_text()) + 1 if Path(file).exists() else 1
    Path(file).write_text(str(count))
    if count < 3:
        raise ValueError(f"attempt {count}")
    return count


def test_retries_are_made_and_their_logs_kept(execute, tmp_path):
    @dsl.pipeline
    def retries(file: str) -> int:
        return third_time(file=file).set_retry(num_retries=2).output

    result = execute(retries, file=str(tmp_path / "count"))
    assert result.outputs == {"Output": 3}
    log = (result.folder / "steps/third-time/log.txt").read_text()
    assert "ValueError: attempt 1" in log
    assert "attempt 3" in log


@component
def explain(file: str):
    import sys
    from pathlib import Path

    with Path(file).open("a") as opened:
        opened.write("x")
    print("error: customers.csv: there is no such file; check the path", file=sys.stderr)
    raise SystemExit(1)


def test_a_mistake_that_the_step_explains_is_not_tried_again(execute, tmp_path):
    @dsl.pipeline
    def explains(file: str):
        explain(file=file).set_retry(num_retries=2)

    result = execute(explains, file=str(tmp_path / "count"))
    assert result.error.startswith("step explain: customers.csv: there is no such file; check the path; log: ")
    assert (tmp_path / "count").read_text() == "x"


@component
def meet(mine: str, other: str) -> str:
    import time
    from pathlib import Path

    Path(mine).write_text("here")
    deadline = time.monotonic() + 60
    while not Path(other).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("alone")
        time.sleep(0.01)
    return "met"


def test_independent_steps_run_side_by_side(compiled, tmp_path):
    @dsl.pipeline
    def side_by_side(folder: str):
        meet(mine=f"{folder}/a", other=f"{folder}/b")
        meet(mine=f"{folder}/b", other=f"{folder}/a")

    assert run_pipeline(compiled(side_by_side), {"folder": str(tmp_path)}, tmp_path / "home", workers=2).exit_code == 0


def test_an_importer_gives_the_file_as_it_is(execute, tmp_path):
    (tmp_path / "data.csv").write_text("x")

    @dsl.pipeline
    def imports(path: str) -> str:
        return read(data=dsl.importer(artifact_uri=path, artifact_class=dsl.Dataset, metadata={"rows": "7"}).output).output

    assert execute(imports, path=str(tmp_path / "data.csv")).outputs == {"Output": "x 7"}
    assert execute(imports, path=f"file://{tmp_path}/data.csv").outputs == {"Output": "x 7"}


def test_an_importer_of_nothing_says_so(execute, tmp_path):
    @dsl.pipeline
    def imports_nothing(path: str):
        dsl.importer(artifact_uri=path, artifact_class=dsl.Dataset)

    result = execute(imports_nothing, path=str(tmp_path / "absent.csv"))
    assert result.error == f"step importer: nothing at {tmp_path}/absent.csv; check the path of the importer"


def test_placeholders_name_the_run(execute):
    @dsl.pipeline(name="holders")
    def holders() -> str:
        text = f"{dsl.PIPELINE_JOB_NAME_PLACEHOLDER} {dsl.PIPELINE_JOB_ID_PLACEHOLDER} {dsl.PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER}"
        return echo(text=text).output

    result = execute(holders)
    assert result.outputs["Output"] == f"holders {result.record['id']} {result.folder.name}"


@component
def variable(name: str) -> str:
    import os

    return os.environ.get(name, "")


def test_environment_variables_of_a_task_reach_its_step(execute):
    @dsl.pipeline
    def variables() -> str:
        return variable(name="COLOUR").set_env_variable("COLOUR", "blue").output

    assert execute(variables).outputs == {"Output": "blue"}


@component
def to_paths(text: dsl.OutputPath(str), count: dsl.OutputPath(int), yes: dsl.OutputPath(bool)):
    from pathlib import Path

    for path, value in ((text, "5"), (count, "6"), (yes, "True")):
        Path(path).write_text(value)


def test_parameters_written_to_output_paths_have_their_declared_types(execute):
    @dsl.pipeline
    def output_paths():
        to_paths()

    result = execute(output_paths)
    assert result.values("to-paths").parameters == {"text": "5", "count": 6, "yes": True}


def test_relative_paths_are_seen_from_the_callers_folder(execute, tmp_path, monkeypatch):
    (tmp_path / "here.csv").write_text("relative")
    monkeypatch.chdir(tmp_path)

    @component
    def read_path(path: str) -> str:
        from pathlib import Path

        return Path(path).read_text()

    @dsl.pipeline
    def relative(path: str) -> str:
        return read_path(path=path).output

    assert execute(relative, path="here.csv").outputs == {"Output": "relative"}


def test_a_step_that_needs_a_container_is_refused_before_anything_starts(execute, tmp_path):
    @dsl.container_component
    def container():
        return dsl.ContainerSpec(image="alpine", command=["echo"])

    @dsl.pipeline
    def needs_container():
        container()

    with pytest.raises(UserError, match="step container needs its container image"):
        execute(needs_container)
    assert not (tmp_path / "home").exists()


def test_step_names_stay_apart_in_nested_pipelines_and_loops(execute):
    @dsl.pipeline
    def part(text: str):
        with dsl.ParallelFor(["a", "b"]) as item:
            write(text=f"{text}{item}")

    @dsl.pipeline
    def whole():
        part(text="1")
        part(text="2")

    result = execute(whole)
    notes = {name: result.output(name, "note") for name in result.states()}
    assert sorted(note.read_text() for note in notes.values()) == ["1a", "1b", "2a", "2b"]
    assert all(note == result.folder / "steps" / name / "note" for name, note in notes.items())


def test_wiring_that_kfp_compiles_wrongly_is_refused_before_anything_starts(execute):
    @dsl.pipeline
    def two_parts_in_one_text(items: list[dict[str, str]]):
        with dsl.ParallelFor(items) as item:
            echo(text=f"{item.a}{item.b}")

    with pytest.raises(UserError, match="for-loop-1: reads 'items-loop-item-subvar-a', which the graph around it does not have"):
        execute(two_parts_in_one_text, items=[{"a": "1", "b": "2"}])
