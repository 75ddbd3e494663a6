"""docs: pages tell inputs from outputs, drift is seen, and what people wrote by hand stays."""

import json
import shutil

import pytest
import yaml

from kfp_foundry.catalog import components, pipelines
from kfp_foundry.cli.main import main
from kfp_foundry.components.common.contract import json_schema
from kfp_foundry.docs import pages


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what the generated files are written beside."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("components", "pipelines", "docs"):
        shutil.copytree(components.root().parent / name, tmp_path / name, ignore=ignore)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(components, "root", lambda: tmp_path / "components")
    monkeypatch.setattr(pipelines, "root", lambda: tmp_path / "pipelines")
    components.every.cache_clear()
    yield tmp_path
    components.every.cache_clear()


def section(page, title):
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_committed_pages_are_what_the_code_says(capsys):
    assert main(["docs", "--check"]) == 0, capsys.readouterr().err


def test_a_page_lists_every_input_and_output_in_its_own_table():
    for component in components.every():
        page = (component.folder / "README.md").read_text()
        tables = {
            "Input artifacts": component.inputs,
            "Parameters": component.parameters,
            "Output artifacts": component.outputs,
            "Output parameters": component.results,
        }
        for title, ports in tables.items():
            rows = [line.split("|")[1].strip() for line in section(page, title).splitlines() if line.startswith("| `")]
            assert rows == [f"`{port.name}`" for port in ports], (component.name, title)


def test_writing_repairs_what_check_found(checkout, capsys):
    main(["docs"])
    page = checkout / "components" / "features" / "split_table" / "README.md"
    page.write_text(page.read_text().replace("## Parameters", "## Settings"))
    assert main(["docs", "--check"]) == 1
    said = capsys.readouterr().err
    assert "components/features/split_table/README.md: differs" in said
    assert "Settings" in said
    assert main(["docs"]) == 0
    assert main(["docs", "--check"]) == 0
    assert "## Parameters" in page.read_text()


def test_text_below_the_marker_stays(checkout):
    main(["docs"])
    page = checkout / "components" / "features" / "split_table" / "README.md"
    page.write_text(page.read_text() + "\n## Tips\n\nMine.\n")
    assert main(["docs", "--check"]) == 0
    (checkout / "components" / "features" / "split_table" / "metadata.yaml").write_text(
        "{name: split_table, area: features, stability: stable, tags: [], needs: {}, runs_on: [local]}"
    )
    components.every.cache_clear()
    main(["docs"])
    text = page.read_text()
    assert "| features | stable | local |" in text
    assert text.endswith("\n## Tips\n\nMine.\n")


def test_a_new_component_gets_its_page_and_its_name(checkout, capsys):
    folder = checkout / "components" / "features" / "drop_rows"
    shutil.copytree(checkout / "components" / "features" / "split_table", folder)
    source = (folder / "component.py").read_text().replace("def split_table(", "def drop_rows(")
    (folder / "component.py").write_text(source)
    (folder / "README.md").unlink()
    components.every.cache_clear()
    assert main(["docs", "--check"]) == 1
    assert "drop_rows/README.md: does not exist" in capsys.readouterr().err
    main(["docs"])
    assert "import drop_rows as drop_rows" in (checkout / "components" / "__init__.pyi").read_text()
    assert "drop_rows" in (checkout / "docs" / "components.md").read_text()


def test_an_installed_package_has_no_pages_to_write(checkout, capsys):
    (checkout / "pyproject.toml").unlink()
    assert main(["docs"]) == 1
    assert "run it in a clone" in capsys.readouterr().err


def test_the_schema_is_the_contracts():
    published = json.loads((components.root().parent / "docs" / "contract.schema.json").read_text())
    assert published == json_schema()


def test_the_picture_leaves_out_what_follows_from_the_rest():
    from kfp_foundry.catalog.pipelines import Step

    steps = [Step("a", "", []), Step("b", "", ["a"]), Step("c", "", ["a", "b"]), Step("d", "", ["a", "c"])]
    assert list(pages.edges(steps)) == [("a", "b"), ("b", "c"), ("c", "d")]


@pytest.mark.parametrize(
    ("text", "cell"),
    [("a | b", "a \\| b"), ("<NA> and `<NA>`", "&lt;NA> and `<NA>`"), ("two\nlines", "two lines"), ("`a|b`", "`a\\|b`")],
)
def test_a_cell_of_a_table_breaks_neither_the_table_nor_the_page(text, cell):
    assert pages.prose(text) == cell


def test_the_example_parameters_of_a_pipeline_are_its_own():
    for pipeline in pipelines.every():
        given = yaml.safe_load((pipeline.folder / "params.example.yaml").read_text())
        assert set(given) <= {parameter.name for parameter in pipeline.parameters}
