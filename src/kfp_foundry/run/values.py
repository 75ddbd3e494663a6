"""What travels between the steps of a run: parameters as plain JSON values, artifacts as records."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

LARGEST_WHOLE = 1e21  # Go writes larger numbers with an exponent, which Python reads as float again


@dataclass(frozen=True)
class Artifact:
    """One artifact: where it is, its KFP type and its metadata."""

    name: str
    uri: str
    type: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The local file or folder; None when the address is a remote one."""
        if self.uri.startswith("file://"):
            return Path(unquote(urlparse(self.uri).path))
        return Path(self.uri) if self.uri and "://" not in self.uri else None

    def to_dict(self) -> dict[str, Any]:
        """The record as KFP writes it (`RuntimeArtifact`)."""
        return {"name": self.name, "uri": self.uri, "type": self.type, "metadata": self.metadata}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Artifact":
        """Reads what `to_dict` wrote."""
        return cls(record["name"], record["uri"], record["type"], record["metadata"])


@dataclass(frozen=True)
class Values:
    """The inputs or the outputs of a task; an artifact input is a list, of one unless a loop was collected."""

    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Artifact]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return {"parameters": self.parameters, "artifacts": {name: [a.to_dict() for a in many] for name, many in self.artifacts.items()}}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Values":
        """Reads what `to_dict` wrote."""
        return cls(record["parameters"], {name: [Artifact.from_dict(a) for a in many] for name, many in record["artifacts"].items()})


def as_on_cluster(value: Any) -> Any:
    """A JSON value as a step gets it on a cluster, where the backend writes 2.0 as 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_WHOLE:
        return int(value)
    if isinstance(value, list):
        return [as_on_cluster(item) for item in value]
    if isinstance(value, dict):
        return {key: as_on_cluster(item) for key, item in value.items()}
    return value


def not_json(value: Any) -> str:
    """Which value inside is NaN or infinite, which no JSON reader of a cluster takes; empty if there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((bad for item in items if (bad := not_json(item))), "")
