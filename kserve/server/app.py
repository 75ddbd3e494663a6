"""The HTTP face: KServe V1 and V2 (Open Inference) over REST, health and metrics.

Every answer is JSON; a refusal is `{"error": "..."}`. A prediction's answer carries `x-request-id` (the caller's own, if it
sent one), `x-model-digest` and `Server-Timing`. A request with the header `x-kfp-foundry-probe` is a check and is not put into
the payload log.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.images import VERSION
from kfp_foundry.components.common.inference import PROBE
from kfp_foundry.server.metrics import CONTENT_TYPE_LATEST, Metrics
from kfp_foundry.server.request import RequestError
from kfp_foundry.server.service import Answer, Service

INLINE_BYTES = 65_536  # a larger body is answered in a thread, so that health checks and small requests do not wait for it
DRAINED_BODIES = 8  # a body too big is read up to so many times the limit, so that its sender gets to see the answer

log = logging.getLogger("kfp_foundry.server")
access = logging.getLogger("kfp_foundry.server.access")

_ID = re.compile(r"[\x21-\x7e]{1,128}")

Call = Callable[[bytes, str, bool], Answer]


class ModelServer:
    """The routes over one model.

    Args:
        service: The model.
        metrics: What is counted.
        max_body: Largest body, in bytes.
        access_log: Whether to log a line per prediction request.
    """

    def __init__(self, service: Service, metrics: Metrics, max_body: int = 16 * 2**20, access_log: bool = False) -> None:
        self.service = service
        self.metrics = metrics
        self.max_body = max_body
        self.access_log = access_log
        self.addresses: list[str] = []
        served = service.served
        metrics.model.labels(served.model, served.version, served.digest, str(served.task)).set(1)

    def app(self) -> Starlette:
        """The ASGI application; its shutdown flushes the payload log."""
        known = "/v2/models/{name}"
        return Starlette(
            routes=[
                Route("/", self._about),
                Route("/metrics", self._metrics),
                Route("/v1/models", self._v1_list),
                Route("/v1/models/{name}:predict", self._v1_predict, methods=["POST"]),
                Route("/v1/models/{name}", self._v1_model),
                Route("/v2", self._v2_server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                *(
                    route
                    for base in (known, known + "/versions/{version}")
                    for route in (
                        Route(base, self._v2_model),
                        Route(base + "/ready", self._v2_model_ready),
                        Route(base + "/infer", self._v2_infer, methods=["POST"]),
                    )
                ),
            ],
            exception_handlers={HTTPException: _refuse_http, RequestError: _refuse, FoundryError: _refuse, Exception: _refuse_unexpected},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        if self.service.payloads is not None:
            await run_in_threadpool(self.service.payloads.close)

    async def _about(self, _request: Request) -> Response:
        served = self.service.served
        links = ["/v1/models", f"/v2/models/{served.model}", "/v2/health/ready", "/metrics"]
        return _json(
            {"server": "kfp-foundry", "version": VERSION, "model": served.model, "digest": served.digest, "addresses": self.addresses, "see": links}
        )

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _v1_list(self, _request: Request) -> Response:
        return _json({"models": [self.service.served.model]})

    async def _v1_model(self, request: Request) -> Response:
        if request.path_params["name"].endswith(":predict"):
            raise HTTPException(405, headers={"allow": "POST"})
        self._check_name(request)
        return _json({"name": self.service.served.model, "ready": True})

    async def _v2_server(self, _request: Request) -> Response:
        return _json({"name": "kfp-foundry", "version": VERSION, "extensions": []})

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return _json({"ready": True})

    async def _v2_model(self, request: Request) -> Response:
        self._check_name(request)
        return _json(self.service.metadata())

    async def _v2_model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return _json({"name": self.service.served.model, "ready": True})

    async def _v1_predict(self, request: Request) -> Response:
        return await self._predict(request, "v1", self.service.answer_v1)

    async def _v2_infer(self, request: Request) -> Response:
        return await self._predict(request, "v2", self.service.answer_v2)

    async def _predict(self, request: Request, protocol: str, call: Call) -> Response:
        started = time.perf_counter()
        sent = request.headers.get("x-request-id", "")
        request_id = sent if _ID.fullmatch(sent) else uuid.uuid4().hex
        with self.metrics.in_flight.track_inprogress():
            response, rows = await self._answered(request, request_id, call)
        seconds = time.perf_counter() - started
        self.metrics.requests.labels(protocol, str(response.status_code)).inc()
        self.metrics.seconds.labels(protocol).observe(seconds)
        self.metrics.rows.labels(protocol).inc(rows)
        response.headers["x-request-id"] = request_id
        response.headers["x-model-digest"] = self.service.served.digest
        response.headers["server-timing"] = f"total;dur={seconds * 1000:.3f}"
        if self.access_log:
            access.info("%s %s %d %d rows %.2f ms %s", request.method, request.url.path, response.status_code, rows, seconds * 1000, request_id)
        return response

    async def _answered(self, request: Request, request_id: str, call: Call) -> tuple[Response, int]:
        try:
            self._check_name(request)
            body = await self._body(request)
            logged = PROBE not in request.headers
            answer = call(body, request_id, logged) if len(body) <= INLINE_BYTES else await run_in_threadpool(call, body, request_id, logged)
            return _json(answer.body), answer.rows
        except ClientDisconnect:
            return _json({"error": "the caller left before the request was whole"}, 400), 0
        except FoundryError as error:
            return await _refuse(request, error), 0
        except Exception:
            log.exception("request %s", request_id)
            return _json({"error": f"the server failed to answer request {request_id}; its log has the reason"}, 500), 0

    def _check_name(self, request: Request) -> None:
        served, where = self.service.served, request.url.path
        name, version = request.path_params["name"], request.path_params.get("version", served.version)
        if name != served.model:
            raise RequestError(f"no model {name!r} here", where=where, remedy=f"this server has {served.model!r}", status=404)
        if version != served.version:
            raise RequestError(
                f"no version {version!r} of {name!r} here", where=where, remedy=f"this server has version {served.version!r}", status=404
            )

    async def _body(self, request: Request) -> bytes:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise RequestError(f"content-encoding is {encoding!r}", where="request", remedy="send the body uncompressed", status=415)
        whole, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self.max_body:
                whole += chunk
            elif size > self.max_body * DRAINED_BODIES:
                break
        if size > self.max_body:
            limit = f"{self.max_body / 2**20:g} MiB"
            raise RequestError(
                f"larger than {limit}", where="request body", remedy="send fewer rows at once, or start the server with --max-body-mib", status=413
            )
        return bytes(whole)


def _json(value: Any, status: int = 200) -> Response:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Response(text, status_code=status, media_type="application/json")


async def _refuse(_request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, error.status if isinstance(error, RequestError) else 400)


async def _refuse_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = {404: "no such path", 405: f"{request.method} is not served here"}.get(status, getattr(error, "detail", "refused"))
    answer = _json({"error": f"{request.url.path}: {reason}; see / for the paths"}, status)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


async def _refuse_unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return _json({"error": "the server failed to answer; its log has the reason"}, 500)
