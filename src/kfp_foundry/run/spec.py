"""A compiled pipeline: reading it, what of it can run on this machine, and the names of its steps."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.ir import Compiled

LARGEST_ARGUMENT = 131_071  # bytes of one command line argument on Linux
_WRAPPER = re.compile(r"(exit-handler|condition|condition-branches)-\d+")


@dataclass(frozen=True)
class Pipeline:
    """One compiled pipeline (the first YAML document; a second one holds Kubernetes options, which mean nothing here)."""

    path: Path
    spec: dict[str, Any]
    sha256: str

    @classmethod
    def load(cls, path: Path) -> "Pipeline":
        """Reads a compiled pipeline.

        Raises:
            UserError: The file cannot be read, is not a compiled pipeline, or holds what runs only on a cluster.
        """
        compiled = Compiled.load(path)
        pipeline = cls(path, compiled.spec, compiled.sha256)
        pipeline._check()
        return pipeline

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def root(self) -> dict[str, Any]:
        """The outermost component."""
        root: dict[str, Any] = self.spec["root"]
        return root

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """The definitions of the pipeline's parameters, by name."""
        found: dict[str, dict[str, Any]] = self.root.get("inputDefinitions", {}).get("parameters", {})
        return found

    def component(self, task: dict[str, Any]) -> dict[str, Any]:
        """The component of a task."""
        found: dict[str, Any] = self.spec["components"][task["componentRef"]["name"]]
        return found

    def executor(self, component: dict[str, Any]) -> dict[str, Any]:
        """What a leaf component executes: `{"container": ...}` or `{"importer": ...}`."""
        found: dict[str, Any] = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
        return found

    def _check(self) -> None:
        where = str(self.path)
        if self.root.get("inputDefinitions", {}).get("artifacts"):
            raise UserError("the pipeline has artifact inputs", where=where, remedy="take a path as parameter and use dsl.importer inside")
        for label, executor in self.spec.get("deploymentSpec", {}).get("executors", {}).items():
            command = " ".join(str(word) for word in executor.get("container", {}).get("command", []))
            if "importer" in executor or ("kfp.dsl.executor_main" in command and "--component_module_path" in command):
                continue
            remedy = "only Python components (@dsl.component without target_image) and importers run without containers"
            raise UserError(f"step {label.removeprefix('exec-')} needs its container image", where=where, remedy=remedy)
        for name, component in [("root", self.root), *self.spec.get("components", {}).items()]:
            for task, body in component.get("dag", {}).get("tasks", {}).items():
                _check_task(f"{where}: {name}: {task}", body, component.get("inputDefinitions", {}))

    @cached_property
    def wrappers_are_dropped(self) -> bool:
        """Whether step names can do without the groups that KFP makes for conditions and exit handlers, and stay unique."""
        names = [step for step, _ in self._leaves(self.root, "", short=True)]
        return len(names) == len(set(names))

    def steps(self) -> list[str]:
        """The names of all steps outside loops, as they are known before the run."""
        return [step for step, in_loop in self._leaves(self.root, "", short=self.wrappers_are_dropped) if not in_loop]

    def step_name(self, parent: str, task: str) -> str:
        """The name of a task inside its parent, such as `rollout/deploy`."""
        return self._join(parent, task, self.wrappers_are_dropped)

    def _join(self, parent: str, task: str, short: bool) -> str:
        if short and _WRAPPER.fullmatch(task):
            return parent
        return f"{parent}/{task}" if parent else task

    def _leaves(self, component: dict[str, Any], parent: str, short: bool, in_loop: bool = False) -> list[tuple[str, bool]]:
        found: list[tuple[str, bool]] = []
        for task, body in in_order(component["dag"]["tasks"]):
            name = self._join(parent, task, short)
            inner = self.component(body)
            if "dag" in inner:
                found += self._leaves(inner, name, short, in_loop or "parameterIterator" in body)
            else:
                found.append((name, in_loop))
        return found


def _check_task(where: str, task: dict[str, Any], around: dict[str, Any]) -> None:
    if "artifactIterator" in task:
        raise UserError("loops over artifacts, which no backend runs", where=where, remedy="loop over parameters")
    inputs = task.get("inputs", {})
    for kind, key in (("parameters", "componentInputParameter"), ("artifacts", "componentInputArtifact")):
        for source in inputs.get(kind, {}).values():
            if key in source and source[key] not in around.get(kind, {}):
                what = f"reads {source[key]!r}, which the graph around it does not have: kfp compiled the wiring wrongly"
                raise UserError(what, where=where, remedy="pass parts of a loop item as parameters of their own, not inside one text")


def in_order(tasks: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Tasks such that each stands after those that it waits for."""
    placed: dict[str, dict[str, Any]] = {}

    def place(name: str) -> None:
        if name not in placed:
            for upstream in upstream_of(tasks[name]):
                place(upstream)
            placed[name] = tasks[name]

    for name in tasks:
        place(name)
    return list(placed.items())


def upstream_of(task: dict[str, Any]) -> list[str]:
    """The tasks of the same graph that a task waits for."""
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    producers = [value["producerTask"] for source in sources for value in source.values() if isinstance(value, dict) and "producerTask" in value]
    return sorted({*task.get("dependentTasks", []), *producers})


def find_pipeline(name: str) -> Path:
    """The compiled YAML of a pipeline: a path, or the name of a pipeline of this package.

    Raises:
        UserError: There is neither such a file nor such a pipeline.
    """
    from kfp_foundry import pipelines

    path = Path(name)
    if path.suffix == ".py":
        remedy = f"compile it first: kfp-foundry compile {name}, or kfp dsl compile --py {name} --output {path.stem}.yaml"
        raise UserError("is source, not a compiled pipeline", where=name, remedy=remedy)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UserError("no such file", where=name, remedy="check the path")
        return path
    folders = {folder.parent.name: folder for place in pipelines.__path__ for folder in Path(place).glob("*/pipeline.yaml")}
    found = folders.get(name.replace("-", "_"))
    if found is None:
        remedy = f"{close_names(name, sorted(folders)) if folders else 'none is installed'} (or give the path of a compiled YAML)"
        raise UserError(f"no pipeline {name!r}", where="kfp-foundry run", remedy=remedy)
    return found
