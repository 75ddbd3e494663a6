"""One page about a run, put together from what its steps left behind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.evaluation import Evaluation
from kfp_foundry.components.common.artifacts.model import ModelFolder, ModelRecord
from kfp_foundry.components.common.artifacts.verdict import Outcome, Verdict, worst
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.files import write_json
from kfp_foundry.components.common.inference import curl, json_rows
from kfp_foundry.components.common.metrics import catalogue
from kfp_foundry.components.common.report import plots
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.common.step import step

REGISTRY = ("uri", "reason", "run_id", "tracking_uri")


@dataclass(frozen=True)
class Made:
    """The artifacts that the run made."""

    dataset: Artifact
    contract: Artifact
    model: Artifact
    test: Artifact
    evaluation: Artifact
    registration: Artifact
    endpoint: Artifact


@dataclass(frozen=True)
class Gates:
    """The verdicts of its gates."""

    validation: Artifact
    comparison: Artifact
    endpoint: Artifact


@dataclass(frozen=True)
class Run:
    """Everything that the page tells, read."""

    dataset: DatasetFolder
    contract: Contract
    model: ModelFolder
    example: list[dict[str, object]]
    evaluation: Evaluation
    registration: dict[str, Any]
    endpoint: Endpoint
    validation: Verdict
    comparison: Verdict
    endpoint_check: Verdict
    promoted: bool
    champion: str


@step
def run(
    made: Made, gates: Gates, pages: Sequence[Artifact | None], report: Artifact, summary: Artifact, promoted: bool = False, champion: str = ""
) -> None:
    """Reads the artifacts and writes the page and the summary."""
    agreed = Contract.load(made.contract.path)
    told = Run(
        dataset=DatasetFolder.open(made.dataset),
        contract=agreed,
        model=ModelFolder.open(made.model),
        example=json_rows(DatasetFolder.open(made.test).scan().select(agreed.features).head(1).collect()),
        evaluation=Evaluation.read(made.evaluation.path),
        registration=json.loads(Path(made.registration.path).read_text(encoding="utf-8")),
        endpoint=Endpoint.read(made.endpoint),
        validation=Verdict.read(gates.validation.path),
        comparison=Verdict.read(gates.comparison.path),
        endpoint_check=Verdict.read(gates.endpoint.path),
        promoted=promoted,
        champion=champion,
    )
    whole = page(told).section("Step by step", "The report of every step.")
    for part in pages:
        if part is not None:
            whole.page(Path(part.path))
    whole.save(report.path)
    facts = summarise(told)
    write_json(summary.path, facts)
    summary.metadata.update({key: value for key, value in facts.items() if isinstance(value, (str, int, float))})


def summarise(told: Run) -> dict[str, Any]:
    """What a program or the end of a terminal run needs to know."""
    return {
        "name": told.endpoint.name,
        "outcome": outcome(told),
        "reason": sentence(told),
        "primary": told.evaluation.primary,
        "metrics": {name: metric.value for name, metric in told.evaluation.metrics.items() if metric.value is not None},
        "version": str(told.registration.get("version", "")),
        "champion": told.champion,
        "promoted": told.promoted,
        "url": told.endpoint.url if serves(told) else "",
        "curl": curl(told.endpoint.predict_url, told.example) if serves(told) else "",
    }


def outcome(told: Run) -> Outcome:
    """The worse of the two gates that decide on promotion: `fail` when one of them kept the champion."""
    return worst((told.comparison.outcome, told.endpoint_check.outcome))


def sentence(told: Run) -> str:
    """The run's result in one sentence."""
    if told.comparison.outcome == "fail":
        return f"The champion stays{f' (version {told.champion})' if told.champion else ''}: {told.comparison.reason}"
    if told.endpoint_check.outcome == "fail":
        return f"Not promoted: the endpoint failed its verification. {told.endpoint_check.reason}"
    if told.promoted and told.registration.get("version"):
        return f"Version {told.registration['version']} {'serves' if serves(told) else 'is the champion'}. {told.comparison.reason}"
    return told.comparison.reason


def page(told: Run) -> Report:
    """The page, without the steps' own."""
    facts = told.dataset.facts
    report = Report(told.endpoint.name, f"{facts.source} · {facts.rows:,} rows · predicts {told.contract.target}")
    report.verdict(outcome(told), sentence(told))
    report.facts(_tiles(told))
    report.section("Gates", "What had to hold before this model could serve.")
    report.table(_gate_rows(told), status="outcome")
    report.section("Model", f"{told.model.record.algorithm}; {exactness(told.model.record)}")
    _figures(report, told)
    if serves(told):
        report.section("Endpoint", f"{told.endpoint.name} at {told.endpoint.url}, revision {told.endpoint.revision}")
        report.code(curl(told.endpoint.predict_url, told.example), caption="One prediction, from a shell")
    report.section("Record", "Enough to find, compare and rebuild what this run made.")
    report.table(_record_rows(told))
    return report


def serves(told: Run) -> bool:
    """Whether an endpoint answers: with the challenger, or with the champion that stays."""
    return told.endpoint.traffic > 0


def exactness(record: ModelRecord) -> str:
    """How far the served graph is from the trained model, as measured when it was trained."""
    parity = record.parity
    what = (
        "probability"
        if record.task is not Task.REGRESSION
        else "prediction, relative to the prediction, the target's spread or 1, whichever is largest"
    )
    return (
        f"its served graph differs from the trained model by at most {parity.max_difference:.2g} in any {what}; "
        f"measured on {parity.rows:,} rows, {parity.tolerance:.0e} is allowed."
    )


def _tiles(told: Run) -> dict[str, object]:
    task, found = told.evaluation.task, told.evaluation.metrics
    tiles: dict[str, object] = {catalogue.metric(task, name).title: found[name].value for name in catalogue.HEADLINES[task] if name in found}
    return tiles | {"Test rows": told.evaluation.rows["judged"], "Champion": f"version {told.champion}" if told.champion else "none"}


def _figures(report: Report, told: Run) -> None:
    if roc := told.evaluation.curves.get("roc"):
        report.figure(plots.lines({"model": (roc.x, roc.y)}, "false positive rate", "true positive rate", diagonal=True, unit=True), "ROC curve")
    if points := told.evaluation.curves.get("calibration"):
        fig = plots.lines({"model": (points.x, points.y)}, "mean probability", "frequency", diagonal=True, dots=True)
        report.figure(fig, "Calibration")
    if confusion := told.evaluation.confusion:
        report.figure(plots.matrix(confusion.matrix, confusion.labels, confusion.labels, "prediction", "truth"), "Confusion matrix")
    ranked = sorted(told.model.record.importance.items(), key=lambda item: -item[1])[:12]
    if ranked:
        report.figure(plots.bars([name for name, _ in ranked], [value for _, value in ranked], "share"), "What the model learned from")


def _gate_rows(told: Run) -> list[dict[str, Any]]:
    gates = {"Data validation": told.validation, "Champion and challenger": told.comparison, "Endpoint": told.endpoint_check}
    return [
        {"gate": name, "outcome": verdict.outcome, "checks": len(verdict.checks), "failed": len(verdict.failed()), "reason": verdict.reason}
        for name, verdict in gates.items()
    ]


def _record_rows(told: Run) -> list[dict[str, str]]:
    record = {
        "data source": told.dataset.facts.source,
        "data fingerprint": told.dataset.facts.fingerprint,
        "model digest": told.model.digest,
        **{f"registry {key.replace('_', ' ')}": str(told.registration.get(key, "")) for key in REGISTRY},
    }
    return [{"what": what, "value": value} for what, value in record.items() if value]
