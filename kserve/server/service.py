"""One model being served: rows in, predictions out, and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kfp_foundry.components.common import rows
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.inference import emptiest_row
from kfp_foundry.server import v1, v2
from kfp_foundry.server.payload_log import PayloadLog, Served
from kfp_foundry.server.request import parse


@dataclass(frozen=True)
class Answer:
    """What a prediction request gets, and how many rows it had."""

    body: dict[str, Any]
    rows: int


class Service:
    """A model under a name.

    Args:
        model: The opened Model folder.
        name: Its name in the URLs.
        version: Its version; the short digest by default.
        threshold: Binary models: probability from which the positive class is predicted; 0.5 by default.
        threads: Threads of ONNX Runtime per prediction.

    Example:
        >>> service = Service(ModelFolder.open("model"), "flights")
        >>> service.answer_v1(b'{"instances": [{"carrier": "UA"}]}', "id-1").body
        {'predictions': [{'prediction': False, 'probability': 0.21}]}
    """

    def __init__(self, model: ModelFolder, name: str, version: str = "", threshold: float | None = None, threads: int = 1) -> None:
        binary = model.task is Task.BINARY
        self.model = model
        self.contract: Contract = model.contract
        self.threads = threads
        self.payloads: PayloadLog | None = None
        self.served = Served(
            model=name,
            version=version or model.digest.removeprefix("sha256:")[:12],
            digest=model.digest,
            task=model.task,
            labels=model.labels,
            threshold=(0.5 if threshold is None else threshold) if binary else None,
        )
        self.outputs = self._score([emptiest_row(self.contract)]).schema  # loads the graph and proves that it predicts, before anyone asks

    def answer_v1(self, body: bytes, request: str, logged: bool = True) -> Answer:
        """Answers a V1 predict call.

        Args:
            body: The raw body.
            request: Id of the request.
            logged: Whether the rows go into the payload log; not when the request is only a check.

        Raises:
            DataError: The request or one of its rows is wrong; the message says which and why.
        """
        instances = v1.read(parse(body), self.contract)
        scored = self._predict(instances, "v1", request, "instance", logged)
        return Answer(v1.write(scored, self.served.task, self.served.labels), scored.height)

    def answer_v2(self, body: bytes, request: str, logged: bool = True) -> Answer:
        """Answers a V2 infer call; arguments and errors as in `answer_v1`. The body's own `id` stands for `request`."""
        parsed = parse(body)
        wanted = v2.wanted_outputs(parsed, self.outputs.names())
        request = str(parsed.get("id") or request)
        scored = self._predict(v2.read(parsed, self.contract), "v2", request, "row", logged)
        return Answer(v2.write(scored.select(wanted), self.served.model, self.served.version, request), scored.height)

    def metadata(self) -> dict[str, Any]:
        """The V2 metadata of the model, with what else identifies it."""
        described = v2.metadata(self.served.model, self.served.version, self.contract, self.outputs)
        threshold = {} if self.served.threshold is None else {"threshold": self.served.threshold}
        return described | {"parameters": {"digest": self.served.digest, "task": str(self.served.task), **threshold}}

    def _predict(self, raw: Sequence[Mapping[str, object]], protocol: str, request: str, where: str, logged: bool) -> pl.DataFrame:
        frame = rows.to_frame(raw, self.contract, where=where)
        scored = self._score_frame(frame)
        if logged and self.payloads is not None:
            self.payloads.put(request, protocol, frame, scored)
        return scored

    def _score(self, raw: Sequence[Mapping[str, object]]) -> pl.DataFrame:
        return self._score_frame(rows.to_frame(raw, self.contract))

    def _score_frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.model.predict(frame, threshold=self.served.threshold, threads=self.threads)
