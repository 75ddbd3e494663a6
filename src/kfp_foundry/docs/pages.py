"""What every generated file must hold; a hand-written end below the marker stays."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from kfp_foundry.catalog import components, examples, pipelines
from kfp_foundry.catalog.components import Component
from kfp_foundry.catalog.pipelines import Pipeline, Step
from kfp_foundry.components.common.contract import json_schema
from kfp_foundry.components.common.errors import UserError

MARKER = "<!-- Below this line everything is written by hand and kept; above it `kfp-foundry docs` writes. -->"

# What an artifact of a type is on disk; Artifact itself is what its description says.
FILES = {
    "Dataset": "folder: Parquet parts, and dataset.json with rows, columns and fingerprint",
    "Model": "folder in MLflow format: MLmodel, model.onnx, native form, contract.yaml, model.json, digests.json",
    "HTML": "one HTML page that needs no network",
    "Markdown": "one Markdown page",
    "Metrics": "no file: numbers, in the artifact's metadata",
    "ClassificationMetrics": "no file: ROC curve and confusion matrix, in the artifact's metadata",
    "Artifact": "one file",
}


def checkout() -> Path:
    """The root of the checkout that the generated files belong to.

    Raises:
        UserError: This is an installed package.
    """
    root = components.root().parent
    if not (root / "pyproject.toml").is_file():
        raise UserError("this is an installed package, not a checkout", where="docs", remedy="run it in a clone: pip install -e .")
    return root


def every(root: Path) -> dict[Path, str]:
    """All generated files of a checkout with what they must hold."""
    shelf, lines = components.every(), pipelines.every()
    files = {each.folder / "README.md": component_page(each, shelf, lines) for each in shelf}
    files |= {each.folder / "README.md": pipeline_page(each, shelf) for each in lines}
    files[root / "docs" / "components.md"] = index_page(shelf, lines)
    pages = {path: text + kept(path) for path, text in files.items()}
    pages[root / "docs" / "contract.schema.json"] = json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
    pages[components.root() / "__init__.pyi"] = stub(shelf)
    return pages


def component_page(component: Component, shelf: tuple[Component, ...], lines: tuple[Pipeline, ...]) -> str:
    """The page of a component: what it does, an example, what goes in, what comes out, what it needs, how it fails."""
    files = {port.name: FILES.get(port.type, FILES["Artifact"]) for port in component.outputs}
    return _render("component.md.j2", component=component, example=examples.example(component, shelf, lines), files=files)


def pipeline_page(pipeline: Pipeline, shelf: tuple[Component, ...]) -> str:
    """The page of a pipeline: the graph, how to run and upload it, its steps and parameters."""
    steps = pipeline.steps()
    known = {each.name: each for each in shelf}
    return _render("pipeline.md.j2", pipeline=pipeline, steps=steps, known=known, edges=list(edges(steps)))


def index_page(shelf: tuple[Component, ...], lines: tuple[Pipeline, ...]) -> str:
    """The list of all components and pipelines."""
    areas = {each.area: components.area_summary(each.area) for each in shelf}
    return _render("index.md.j2", shelf=shelf, lines=lines, areas=areas)


def stub(shelf: tuple[Component, ...]) -> str:
    """The names that `kfp_foundry.components` gives, as lazy_loader and editors read them."""
    imports = sorted(f"from .{each.area}.{each.name}.component import {each.name} as {each.name}" for each in shelf)
    return "\n".join(["# Written by `kfp-foundry docs`; lazy_loader wants relative imports.", "# ruff: noqa: TID251, TID252", *imports]) + "\n"


def edges(steps: list[Step]) -> Iterator[tuple[str, str]]:
    """Who waits for whom, without what follows from the rest."""
    before: dict[str, set[str]] = {}
    for step in steps:
        before[step.name] = set(step.after).union(*(before[other] for other in step.after))
    for step in steps:
        for other in step.after:
            if not any(other in before[between] for between in step.after if between != other):
                yield other, step.name


def kept(path: Path) -> str:
    """What stands below the marker in the file as it is."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.partition(MARKER)[2] or "\n"


def _render(template: str, **words: object) -> str:
    environment = Environment(
        loader=PackageLoader("kfp_foundry.docs", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML; `prose` escapes what would be read as a tag
    )
    environment.filters |= {"prose": prose, "needs": needs}
    return environment.get_template(template).render(marker=MARKER, **words).rstrip() + "\n\n" + MARKER


def prose(text: str) -> str:
    """Text for a table's cell: one line, no bar and no tag outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts).replace("|", "\\|")


def needs(found: dict[str, object]) -> list[str]:
    """What a component needs, one line each."""
    return [f"{kind}: {', '.join(map(str, what)) if isinstance(what, list) else what}" for kind, what in found.items()]
