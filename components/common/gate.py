"""What a gate's verdict means for the run: it goes on, or it stops with the gate, the checks and their values in one line."""

import json
import logging

from pydantic import ValidationError

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.errors import GateRefused, IntegrityError
from kfp_foundry.components.common.report.format import human

log = logging.getLogger(__name__)

SHOWN = 3  # checks named in the error's one line; the report has them all


def require_artifact(verdict: Artifact, allow_warn: bool = True) -> str:
    """Reads a verdict and lets it through, or raises; see `require`.

    Raises:
        GateRefused: The gate said no.
        IntegrityError: The artifact is no verdict.
    """
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
