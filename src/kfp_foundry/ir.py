"""A compiled pipeline, read as plain data: what KFP calls its intermediate representation."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kfp_foundry.components.common.errors import UserError

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: ten times slower, same result
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

ROOT = "root"


@dataclass(frozen=True)
class Graph:
    """One graph of tasks: the pipeline itself, a nested pipeline, a loop's body or a condition's branch.

    Args:
        place: Names of the tasks on the way to it, joined with `/`; `root` for the pipeline.
        inputs: Its input definitions (`parameters`, `artifacts`).
        tasks: Its tasks by name, as in the file.
        outputs: Its output wiring.
    """

    place: str
    inputs: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    outputs: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """The definitions of its input parameters."""
        return dict(self.inputs.get("parameters", {}))


class Compiled:
    """A compiled pipeline's documents.

    Example:
        >>> Compiled.load("pipelines/train_and_deploy/pipeline.yaml").name
        'train-and-deploy'
    """

    def __init__(self, documents: list[dict[str, Any]], where: str, sha256: str) -> None:
        self.documents = documents
        self.spec = documents[0]
        self.where = where
        self.sha256 = sha256

    @classmethod
    def load(cls, path: str | Path) -> "Compiled":
        """Reads a compiled pipeline.

        Raises:
            UserError: The file is missing, is not YAML, or is not a compiled pipeline.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(f"cannot be read: {reason}", where=str(path), remedy="give a compiled pipeline (see: kfp-foundry list)") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> "Compiled":
        """Reads a compiled pipeline from its text; raises `UserError` as `load` does."""
        try:
            documents = list(yaml.load_all(text, Loader=_Loader))
        except yaml.YAMLError as error:
            raise UserError(f"not valid YAML: {' '.join(str(error).split())}", where=where, remedy="compile the pipeline again") from error
        if not documents or not isinstance(documents[0], dict) or not {"root", "pipelineInfo", "schemaVersion"} <= documents[0].keys():
            raise UserError("not a compiled pipeline of KFP v2", where=where, remedy="compile it with: kfp-foundry compile FILE.py")
        return cls(documents, where, hashlib.sha256(text.encode()).hexdigest())

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.spec["pipelineInfo"].get("name", ""))

    @property
    def description(self) -> str:
        """The pipeline's description."""
        return str(self.spec["pipelineInfo"].get("description", ""))

    @property
    def components(self) -> dict[str, dict[str, Any]]:
        """The component specs by name, as tasks refer to them."""
        return dict(self.spec.get("components", {}))

    @property
    def executors(self) -> dict[str, dict[str, Any]]:
        """The executor specs by label."""
        return dict(self.spec.get("deploymentSpec", {}).get("executors", {}))

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The definitions of the pipeline's parameters."""
        return dict(self.spec["root"].get("inputDefinitions", {}).get("parameters", {}))

    def component(self, task: dict[str, Any]) -> dict[str, Any]:
        """The spec of the component that a task runs."""
        return dict(self.components.get(task["componentRef"]["name"], {}))

    def executor(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """The executor of a task; None when the task is a graph."""
        label = self.component(task).get("executorLabel")
        return self.executors.get(label) if label else None

    def graphs(self) -> Iterator[Graph]:
        """All graphs, the pipeline first, then those nested in it in order; one used by two tasks comes twice."""
        root = self.spec["root"]
        yield from self._graphs(ROOT, root.get("dag", {}), root.get("inputDefinitions", {}))

    def _graphs(self, place: str, dag: dict[str, Any], inputs: dict[str, Any]) -> Iterator[Graph]:
        tasks = dag.get("tasks", {})
        yield Graph(place, inputs, tasks, dag.get("outputs", {}))
        for name, task in tasks.items():
            component = self.component(task)
            if "dag" in component:
                yield from self._graphs(f"{place}/{name}", component["dag"], component.get("inputDefinitions", {}))
