"""What every artifact has, whether KFP made it or a test."""

from typing import Any, Protocol


class Artifact(Protocol):
    """The part of `kfp.dsl.Artifact` that the cores use."""

    name: str
    uri: str
    metadata: dict[str, Any]

    @property
    def path(self) -> str:
        """The local file or folder."""
        ...
