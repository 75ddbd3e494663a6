"""What has been done with the same code and inputs is not done again, and never anything stale is taken."""

import shutil
from typing import NamedTuple

import pytest
from kfp import dsl

from kfp_foundry.run import run_pipeline

component = dsl.component(base_image="example/python", install_kfp_package=False)


@component
def source(text: str, data: dsl.Output[dsl.Dataset]) -> str:
    from pathlib import Path

    Path(data.path).mkdir(exist_ok=True)
    (Path(data.path) / "part").write_text(text)
    return text


@component
def length(data: dsl.Input[dsl.Dataset], sizes: dsl.Output[dsl.Artifact], factor: int = 1) -> NamedTuple("Outputs", [("size", int)]):
    from pathlib import Path

    text = (Path(data.path) / "part").read_text()
    Path(sizes.path).write_text(str(len(text) * factor))
    return (len(text) * factor,)


@dsl.pipeline
def chain(text: str = "abc", factor: int = 1):
    made = source(text=text)
    made.set_caching_options(False)
    length(data=made.outputs["data"], factor=factor)


@component
def read(path: str) -> str:
    from pathlib import Path

    return Path(path).read_text()


@dsl.pipeline
def reader(path: str) -> str:
    return read(path=path).output


def test_a_step_with_equal_inputs_is_taken_from_the_cache_and_one_that_touches_the_world_is_not(execute):
    execute(chain)
    assert execute(chain).states() == {"source": "done", "length": "cached"}


def test_equal_content_in_another_place_is_the_same_input(execute):
    first, second = execute(chain), execute(chain)
    assert first.output("source", "data") != second.output("source", "data")
    assert second.states()["length"] == "cached"


@pytest.mark.parametrize("arguments", [{"text": "other"}, {"factor": 2}])
def test_another_content_or_parameter_is_another_input(execute, arguments):
    execute(chain)
    assert execute(chain, **arguments).states() == {"source": "done", "length": "done"}


def test_other_code_is_another_step(execute):
    execute(chain)

    @component
    def length(data: dsl.Input[dsl.Dataset]) -> int:
        return 0

    @dsl.pipeline(name="chain")
    def changed():
        length(data=source(text="abc").set_caching_options(False).outputs["data"])

    assert execute(changed).states()["length"] == "done"


def test_cached_artifacts_are_the_new_runs_own(execute):
    first = execute(chain)
    second = execute(chain)
    shutil.rmtree(first.folder)
    assert second.output("length", "sizes").is_relative_to(second.folder)
    assert second.output("length", "sizes").read_text() == "3"
    assert execute(chain).states()["length"] == "cached"


def test_an_artifact_that_was_changed_or_deleted_is_not_taken(execute):
    first = execute(chain)
    first.output("length", "sizes").write_text("999")
    second = execute(chain)
    assert second.states()["length"] == "done"
    assert second.output("length", "sizes").read_text() == "3"
    second.output("length", "sizes").unlink()
    assert execute(chain).states()["length"] == "done"


def test_a_file_that_a_parameter_names_counts_with_its_content(execute, tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("one")
    execute(reader, path=str(file))
    assert execute(reader, path=str(file)).states() == {"read": "cached"}
    file.write_text("other")
    again = execute(reader, path=str(file))
    assert (again.states(), again.outputs) == ({"read": "done"}, {"Output": "other"})


def test_fresh_takes_nothing(execute):
    execute(chain)
    assert execute(chain, fresh=True).states() == {"source": "done", "length": "done"}


def test_a_cache_file_that_cannot_be_read_is_as_good_as_none(execute, tmp_path):
    execute(chain)
    for entry in (tmp_path / "home/cache").rglob("*.json"):
        entry.write_text("{")
    assert execute(chain).states()["length"] == "done"


def test_a_failed_run_is_not_taken_up_but_its_finished_steps_are_cached(execute, tmp_path):
    @dsl.pipeline
    def breaks(path: str):
        made = source(text="abc")
        read(path=path).after(length(data=made.outputs["data"]))

    first = execute(breaks, path=str(tmp_path / "absent"))
    assert first.exit_code == 1
    second = execute(breaks, path=str(tmp_path / "absent"))
    assert second.folder != first.folder
    assert second.states() == {"source": "cached", "length": "cached", "read": "failed"}


def test_two_pipelines_in_one_home_do_not_disturb_each_other(compiled, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = compiled(chain)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: run_pipeline(path, {"text": str(n % 2)}, tmp_path / "home"), range(4)))
    assert [result.exit_code for result in results] == [0] * 4
    assert len({result.folder for result in results}) == 4
