"""Endpoint: where a deployed model answers."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.errors import IntegrityError
from kfp_foundry.components.common.files import write_json


class Endpoint(BaseModel):
    """A served model's address.

    Example:
        >>> Endpoint(name="flights", url="http://127.0.0.1:8090", target="local", revision="sha256:ab12").predict_url
        'http://127.0.0.1:8090/v1/models/flights:predict'
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="The model's name, as in its URL.")
    url: str = Field(description="Base address, without a path; empty when nothing was deployed.")
    protocol: Literal["v1", "v2"] = "v2"
    revision: str = Field(description="Digest of the model that answers.")
    traffic: int = Field(100, ge=0, le=100, description="Share of the traffic that this revision gets, in percent.")
    target: Literal["kserve", "local"] = "local"
    threshold: float | None = Field(None, description="Probability from which the positive class is predicted; binary models only.")
    pid: int | None = Field(None, description="Process of a local server.")
    note: str = Field("", description="Why nothing serves, when the traffic is 0.")

    @property
    def predict_url(self) -> str:
        """The address of the V1 protocol's predict call."""
        return f"{self.url}/v1/models/{self.name}:predict"

    def write(self, artifact: Artifact | Path) -> None:
        """Writes the endpoint as JSON; an artifact's metadata gets its scalars too."""
        record = self.model_dump(mode="json", exclude_none=True)
        if isinstance(artifact, Path):
            write_json(artifact, record)
            return
        write_json(artifact.path, record)
        artifact.metadata.update(record)

    @classmethod
    def read(cls, artifact: Artifact | Path) -> "Endpoint":
        """Reads an endpoint.

        Raises:
            IntegrityError: The file is missing or is not an endpoint.
        """
        path = artifact if isinstance(artifact, Path) else Path(artifact.path)
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise IntegrityError("not a readable endpoint", where=str(path), remedy="deploy the model again") from error
