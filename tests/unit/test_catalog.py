"""The catalogue: components and pipelines are read from their source, and every example compiles."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from kfp_foundry import components as package
from kfp_foundry.catalog import components, docstrings, examples, pipelines
from kfp_foundry.cli.main import main
from kfp_foundry.compile import compiler
from kfp_foundry.components.common.errors import IntegrityError

INTERFACE = '''
from typing import List, NamedTuple, Optional

from kfp import dsl


@dsl.component
def count_rows(
    table: dsl.Input[dsl.Dataset],
    others: dsl.Input[List[dsl.Dataset]],
    summary: dsl.Output[dsl.HTML],
    limit: int,
    title: str = "Rows",
    names: List[str] = [],
    extra: Optional[dsl.Input[dsl.Artifact]] = None,
) -> NamedTuple("Outputs", [("rows", int), ("name", str)]):
    """Counts rows
    of a table.

    Quickly.

    Args:
        table: The table
            to count.
        others: More tables.
        summary: A page.
        limit: Stop at: this.
        title: Its title.
        names: Columns.
        extra: Something more.

    Returns:
        rows: How many.
        name: Of the table.
    """
'''
CORE = '''
def run():
    """Runs.

    Raises:
        DataError: There
            is no row.
        KeyError: Not told to users.
    """


def _helper():
    """Helps.

    Raises:
        UserError: Not public.
    """
'''
METADATA = "{name: count_rows, area: tests, stability: alpha, tags: [rows], needs: {secrets: [KEY]}, runs_on: [local]}"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tests" / "count_rows"
    folder.mkdir(parents=True)
    (folder / "component.py").write_text(INTERFACE)
    (folder / "core.py").write_text(CORE)
    (folder / "metadata.yaml").write_text(METADATA)
    return folder


def test_artifacts_parameters_and_results_are_told_apart(folder):
    found = components.read(folder)
    assert [(port.name, port.type, port.optional) for port in found.inputs] == [
        ("table", "Dataset", False),
        ("others", "List[Dataset]", False),
        ("extra", "Artifact", True),
    ]
    assert [(port.name, port.type) for port in found.outputs] == [("summary", "HTML")]
    assert [(each.name, each.type, each.default) for each in found.parameters] == [
        ("limit", "int", None),
        ("title", "str", '"Rows"'),
        ("names", "List[str]", "[]"),
    ]
    assert [(each.name, each.type, each.doc) for each in found.results] == [("rows", "int", "How many."), ("name", "str", "Of the table.")]


def test_texts_come_from_the_docstring(folder):
    found = components.read(folder)
    assert (found.summary, found.description) == ("Counts rows of a table.", "Quickly.")
    assert found.inputs[0].doc == "The table to count."
    assert found.parameter("limit").doc == "Stop at: this."


def test_errors_are_the_public_ones_of_the_core_that_a_user_can_meet(folder):
    assert components.read(folder).raises == [("DataError", "There is no row.")]


def test_the_rest_comes_from_the_metadata(folder):
    found = components.read(folder)
    assert (found.stability, found.area, found.tags, found.needs) == ("alpha", "tests", ["rows"], {"secrets": ["KEY"]})


def test_a_component_of_no_pipeline_has_an_example_with_importers(folder):
    source = examples.example(components.read(folder), (), ())
    assert 'table = dsl.importer(artifact_uri="/data/table", artifact_class=dsl.Dataset)' in source
    assert "limit=1" in source
    assert "extra" not in source


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("component.py", "def other(): pass", "no decorated function 'count_rows'"),
        ("component.py", "def (", "cannot be read"),
        ("metadata.yaml", "[1]", "holds no mapping"),
        ("metadata.yaml", None, "metadata.yaml: cannot be read"),
    ],
)
def test_a_folder_that_is_no_component_is_refused(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(IntegrityError, match=message):
        components.read(folder)


def test_a_docstring_without_sections_is_all_summary_and_description():
    assert docstrings.parse("One.\n\nTwo.\n\nThree.") == docstrings.Docstring(summary="One.", description="Two.\n\nThree.")
    assert docstrings.parse(None) == docstrings.Docstring()


def test_an_unnamed_return_is_told_under_output():
    assert docstrings.parse("Adds.\n\nReturns:\n    The sum\n    of both.").returns == {"": "The sum of both."}


@pytest.mark.parametrize("component", components.every(), ids=lambda each: each.name)
def test_every_example_compiles(component, tmp_path):
    file = tmp_path / "example.py"
    file.write_text(examples.example(component, components.every(), pipelines.every()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert component.name.replace("_", "-") in compiler.compile_file(file)


def test_the_lazy_catalogue_names_every_component_and_imports_none():
    names = [component.name for component in components.every()]
    assert sorted(package.__all__) == sorted(names)
    assert set(names) <= set(dir(package))
    code = "import sys, kfp_foundry.components; sys.exit(any(name == 'kfp' or name.endswith('.component') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "_KFP_RUNTIME": "true"}, check=False).returncode == 0


def test_the_lazy_catalogue_gives_the_component():
    from kfp_foundry.components import split_table
    from kfp_foundry.components.features.split_table.component import split_table as direct

    assert split_table is direct


def test_an_unknown_name_is_an_import_error():
    with pytest.raises(ImportError, match="splt_table"):
        from kfp_foundry.components import splt_table  # noqa: F401


def test_steps_of_a_pipeline_stand_after_what_they_wait_for():
    seen = set()
    for step in pipelines.find("train-and-deploy").steps():
        assert set(step.after) <= seen
        seen.add(step.name)
    assert {"ingest-table", "write-report"} <= seen


def test_list_tells_areas_components_and_pipelines(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for component in components.every():
        assert component.name in said
        assert component.area in said
    assert "train_and_deploy" in said


def test_list_and_show_give_json(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in listed["components"]} == {each.name for each in components.every()}
    assert main(["show", "split_table", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "component"
    assert {"name": "seed", "type": "int", "default": "7"}.items() <= shown["parameters"][-1].items()


def test_show_tells_a_component_with_its_example(capsys):
    assert main(["show", "split-table"]) == 0
    said = capsys.readouterr().out
    assert "Input artifacts" in said
    assert "Output artifacts" in said
    assert said.index("Input artifacts") < said.index("dataset") < said.index("Output artifacts") < said.index("train  ")
    assert "@dsl.pipeline" in said


def test_show_tells_a_pipeline_with_its_steps(capsys):
    assert main(["show", "train_and_deploy"]) == 0
    said = capsys.readouterr().out
    assert "Parameters" in said
    assert "ingest-table" in said
    assert "kfp-foundry run train_and_deploy" in said


def test_show_of_an_unknown_name_says_the_close_ones(capsys):
    assert main(["show", "train_modl"]) == 1
    assert "did you mean 'train_model'" in capsys.readouterr().err
