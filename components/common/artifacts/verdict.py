"""Verdict: what a gate decided, with every check, its limit and its value."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.files import write_json

Outcome = Literal["pass", "warn", "fail"]
_RANK: dict[Outcome, int] = {"pass": 0, "warn": 1, "fail": 2}


class Check(BaseModel):
    """One question that a gate asked."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="What was checked, such as `carrier: enum`.")
    outcome: Outcome
    limit: str = Field("", description="What was allowed, in words or numbers.")
    value: str | float | int | None = Field(None, description="What was found.")
    message: str = Field("", description="In words, for a person.")
    examples: list[dict[str, Any]] = Field(default_factory=list, description="A few failing rows, with their row numbers.")


class Verdict(BaseModel):
    """A gate's decision.

    Example:
        >>> verdict = Verdict(gate="validate_table", checks=[Check(name="rows", outcome="pass")])
        >>> verdict.outcome
        'pass'
    """

    gate: str
    checks: list[Check] = Field(default_factory=list)
    reason: str = Field("", description="The decision in one sentence.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the checks; no check is a pass."""
        return worst(check.outcome for check in self.checks)

    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == "fail"]

    def write(self, artifact: Artifact) -> None:
        """Writes the verdict as JSON and puts its outcome into the artifact's metadata."""
        write_json(artifact.path, finite(self.model_dump(mode="json")))
        artifact.metadata.update(gate=self.gate, outcome=self.outcome, checks=len(self.checks), failed=len(self.failed()))

    @classmethod
    def read(cls, path: str | Path) -> "Verdict":
        """Reads a verdict that `write` wrote."""
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        record.pop("outcome", None)
        return cls.model_validate(record)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of several outcomes: fail before warn before pass."""
    return max(outcomes, key=_RANK.__getitem__, default="pass")


def finite(value: Any) -> Any:
    """The same value with NaN and infinities as null: neither JSON nor a KFP backend takes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
