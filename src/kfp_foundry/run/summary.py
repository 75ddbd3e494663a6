"""What a run's last lines say: where everything is."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from kfp_foundry.run.api import RunResult, said_no
from kfp_foundry.run.steps import LOG
from kfp_foundry.run.values import Artifact

REPORT = "write-report"
ENDPOINT_KEYS = {"name", "url", "protocol"}
NOTES = 8  # shown at most

_WARNING = re.compile(r"^\[KFP Executor [^\]]* WARNING\]: (.+)$", re.MULTILINE)  # as a step's `log.warning` stands in its log


def summary(run: RunResult) -> list[tuple[str, str]]:
    """Where everything is that a run made, as pairs of a title and a line.

    Args:
        run: How the run ended.

    Returns:
        Pairs such as `("report", ".kfp-foundry/runs/.../report.html")`, in the order in which they are shown.
    """
    lines: list[tuple[str, str]] = []
    told = find_summary(run)
    if told:
        lines.append(("result", str(told.get("reason", ""))))
        metrics = told.get("metrics", {})
        ranked = sorted(metrics, key=lambda name: name != told.get("primary"))
        lines.append(("metrics", ", ".join(f"{name} {metrics[name]:.4g}" for name in ranked)))
    else:
        lines += [("said no", step) for step in said_no(run.record)]
    lines += [("note", note) for note in notes(run)]
    lines += [(title, str(path)) for title, path in reports(run)]
    endpoint = find_endpoint(run)
    if endpoint is not None:
        lines.append(("endpoint", f"{endpoint['url']} (model {endpoint['name']})"))
        if curl := find_curl(run):
            lines.append(("try it", curl))
    database = run.folder.parent.parent / "mlflow.db"
    if database.exists():
        lines.append(("mlflow", f"mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{database}')}"))
    lines.append(("run", str(run.folder)))
    return lines


def notes(run: RunResult) -> list[str]:
    """What the steps of this run warned of, such as a column of mixed values, with the step's name before it."""
    found: dict[str, None] = {}
    for step in run.record["steps"]:
        log = run.folder / "steps" / step / LOG
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        found |= dict.fromkeys(f"{step}: {warning}" for warning in _WARNING.findall(text))
    more = [f"{len(found) - NOTES} more in the logs of the steps"] if len(found) > NOTES else []
    return [*list(found)[:NOTES], *more]


def reports(run: RunResult) -> list[tuple[str, Path]]:
    """The HTML reports to look at: the final one if there is one, else that of each step."""
    found = []
    for step, artifacts in _artifacts(run).items():
        for artifact in artifacts:
            if artifact.name == "report" and artifact.path is not None and artifact.path.exists():
                found.append((step, artifact.path))
    final = [("report", path) for step, path in found if step.split("/")[-1] == REPORT]
    return final or [(f"report of {step}", path) for step, path in found]


def find_summary(run: RunResult) -> dict[str, Any] | None:
    """What the step that writes the final report says of the run: outcome, reason, metrics; None when there is no such step."""
    for step, artifacts in _artifacts(run).items():
        if step.split("/")[-1] == REPORT:
            return next((record for a in artifacts if a.name == "summary" and (record := _json(a.path))), None)
    return None


def find_endpoint(run: RunResult) -> dict[str, Any] | None:
    """The endpoint that a step deployed: an artifact whose JSON has a name, a URL and a protocol; None when nothing serves."""
    for artifacts in reversed(_artifacts(run).values()):
        for artifact in artifacts:
            if artifact.metadata.keys() >= ENDPOINT_KEYS:
                record = _json(artifact.path) or artifact.metadata
                if record.get("url") and record.get("traffic", 100):
                    return record
    return None


def find_curl(run: RunResult) -> str:
    """The `curl` line that a step left in an artifact's metadata; empty when there is none."""
    lines = [str(a.metadata["curl"]) for artifacts in _artifacts(run).values() for a in artifacts if a.metadata.get("curl")]
    return lines[-1] if lines else ""


def _artifacts(run: RunResult) -> dict[str, list[Artifact]]:
    return {step: [a for many in run.values(step).artifacts.values() for a in many] for step in run.record["steps"]}


def _json(path: Path | None) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
