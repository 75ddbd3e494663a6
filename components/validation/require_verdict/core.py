"""The step that fails a run on behalf of a gate."""

import json
import logging

from pydantic import ValidationError

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.errors import GateRefused, IntegrityError
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.step import step

log = logging.getLogger(__name__)

SHOWN = 3  # checks named in the error's one line; the report has them all


@step
def run(verdict: Artifact, allow_warn: bool) -> str:
    """Reads a verdict and lets it through, or raises."""
    try:
        decided = Verdict.read(verdict.path)
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise IntegrityError("not a readable verdict", where=str(verdict.path), remedy="run the gate again") from error
    outcome = require(decided, allow_warn)
    log.info("%s said %s: %s", decided.gate, outcome, decided.reason)
    return outcome


def require(verdict: Verdict, allow_warn: bool = True) -> str:
    """Returns a verdict's outcome.

    Args:
        verdict: What a gate decided.
        allow_warn: Whether `warn` passes.

    Raises:
        GateRefused: The gate said `fail`, or `warn` where that is not allowed; names the gate and the first such checks.

    Example:
        >>> require(Verdict(gate="validate_table", checks=[Check(name="rows", outcome="pass")]))
        'pass'
    """
    if verdict.outcome == "fail":
        raise GateRefused(
            f"{_counted(verdict.failed())} failed: {_named(verdict.failed())}",
            where=verdict.gate,
            remedy="see its report; correct the data, or change the limit if it is wrong",
        )
    if verdict.outcome == "warn" and not allow_warn:
        warned = [check for check in verdict.checks if check.outcome == "warn"]
        raise GateRefused(
            f"{_counted(warned)} warned: {_named(warned)}", where=verdict.gate, remedy="see its report, or let warnings pass with allow_warn=true"
        )
    return verdict.outcome


def _counted(checks: list[Check]) -> str:
    return "1 check" if len(checks) == 1 else f"{len(checks)} checks"


def _named(checks: list[Check]) -> str:
    said = [_said(check) for check in checks[:SHOWN]]
    return "; ".join(said) + (f"; and {len(checks) - SHOWN} more" if len(checks) > SHOWN else "")


def _said(check: Check) -> str:
    message = check.message.removesuffix(".")
    if message and check.limit in message:
        return f"{check.name}: {message}"
    value = f" (found {human(check.value)}, allowed {check.limit})" if check.limit and check.value is not None else ""
    return f"{check.name}{value}" + (f": {message}" if message else "")
