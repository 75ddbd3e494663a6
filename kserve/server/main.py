"""The command line of the server: opens the model, takes the port, serves until SIGTERM, and ends with the log written."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn
from prometheus_client import disable_created_metrics

from kfp_foundry.components.common import ports
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.errors import FoundryError, IntegrityError, PlatformError, UserError
from kfp_foundry.server.app import ModelServer
from kfp_foundry.server.metrics import Metrics
from kfp_foundry.server.payload_log import Limits, PayloadLog
from kfp_foundry.server.service import Service

log = logging.getLogger("kfp_foundry.server")

GRACE_SECONDS = 30
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep an idle connection, so that it is they who close it


@dataclass(frozen=True)
class Options:
    """How to serve; the fields are the options of the command line."""

    model: Path
    name: str = ""
    host: str = ports.LOOPBACK
    port: int = 8080
    fd: int | None = None
    heir_of: int = 0
    permit_fd: int | None = None
    digest: str = ""
    version: str = ""
    threshold: float | None = None
    threads: int = 1
    max_body_mib: float = 16.0
    payload_log: Path | None = None
    payload_log_rows: int = Limits.rows
    payload_log_seconds: float = Limits.seconds
    payload_log_queue: int = Limits.queued_rows
    grace: int = GRACE_SECONDS
    access_log: bool = False

    def check(self) -> None:
        """Raises `UserError` for a value out of its range."""
        ranges: list[tuple[str, float, bool, str]] = [
            ("threshold", self.threshold or 0, 0 <= (self.threshold or 0) <= 1, "give a probability between 0 and 1"),
            ("threads", self.threads, self.threads >= 1, "give 1 or more"),
            ("max-body-mib", self.max_body_mib, self.max_body_mib > 0, "give a size above 0"),
            ("payload-log-rows", self.payload_log_rows, self.payload_log_rows >= 1, "give 1 or more"),
            ("payload-log-seconds", self.payload_log_seconds, self.payload_log_seconds > 0, "give a time above 0"),
            ("payload-log-queue", self.payload_log_queue, self.payload_log_queue >= 1, "give 1 or more"),
            ("grace", self.grace, self.grace >= 0, "give 0 or more seconds"),
        ]
        for name, value, fine, remedy in ranges:
            if not fine:
                raise UserError(f"--{name} is {value}", where="model server", remedy=remedy)
        if quote(self.name, safe="") != self.name:
            raise UserError(f"--name is {self.name!r}", where="model server", remedy="it stands in addresses: use letters, digits, '.', '_' and '-'")


class Server(uvicorn.Server):
    """A server that takes over a port from its predecessor when it gets SIGUSR1."""

    def __init__(self, config: uvicorn.Config, model_server: ModelServer, options: Options) -> None:
        super().__init__(config)
        self._model_server = model_server
        self._options = options

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, and to SIGUSR1 where there is a port to take over."""
        await super().startup(sockets)
        self._model_server.addresses += [_address(listener) for listener in sockets or []]
        served = self._model_server.service.served
        log.info("%s %s is ready at http://%s", served.model, served.digest[:19], ", ".join(self._model_server.addresses))
        if self._options.heir_of:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, lambda: loop.create_task(self._inherit()))

    async def _inherit(self) -> None:
        try:
            listener = ports.join(self._options.host, self._options.heir_of)
        except FoundryError as error:
            log.error("%s", error)
            return
        loop = asyncio.get_running_loop()
        state, config = self.server_state, self.config

        def connection() -> asyncio.Protocol:
            protocol: asyncio.Protocol = config.http_protocol_class(config=config, server_state=state, app_state=self.lifespan.state)  # type: ignore[call-arg]
            return protocol

        self.servers.append(await loop.create_server(connection, sock=listener, backlog=ports.BACKLOG))
        self._model_server.addresses.append(_address(listener))
        log.info("also at http://%s", _address(listener))


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(options: Options) -> None:
    """Serves a model until SIGTERM or SIGINT.

    Args:
        options: What and how.

    Raises:
        IntegrityError: The model is not what its digests say.
        PlatformError: The port is in use, or the payload log cannot be written.
        UserError: An option is out of its range.
    """
    options.check()
    listener = _listener(options)
    model = _open(options)
    service = Service(model, options.name or model.contract.name, options.version, options.threshold, options.threads)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    _await_permit(options)
    metrics = Metrics()
    if options.payload_log is not None:
        limits = Limits(options.payload_log_rows, options.payload_log_seconds, options.payload_log_queue)
        payloads = PayloadLog(options.payload_log, service.served, limits, metrics.count_payload)
        service.payloads = payloads
        metrics.watch_payload_log(lambda: payloads.waiting)
    server = ModelServer(service, metrics, int(options.max_body_mib * 2**20), options.access_log)
    config = uvicorn.Config(
        server.app(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=options.grace,
        backlog=ports.BACKLOG,
    )
    # uvicorn raises the signal that stopped it once more when it is done: then the process has nothing left but to end well.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    Server(config, server, options).run(sockets=[listener])


def _listener(options: Options) -> socket.socket:
    if options.fd is None:
        return ports.claim(options.host, options.port)
    try:
        return socket.socket(fileno=options.fd)
    except OSError as error:
        raise PlatformError(f"--fd {options.fd} is no socket", where="model server", remedy="pass an open listening socket") from error


def _await_permit(options: Options) -> None:
    """Waits until whoever started this process has put it on record, so that none is left behind that nobody knows."""
    if options.permit_fd is None:
        return
    with os.fdopen(options.permit_fd, "rb") as permit:
        if not permit.read(1):
            raise PlatformError("whoever started this server ended before it could be put on record", where="model server", remedy="deploy again")


def _open(options: Options) -> ModelFolder:
    if not options.model.is_dir():
        raise UserError("no such folder", where=f"model {options.model}", remedy="give the folder of a Model artifact")
    model = ModelFolder.open(options.model)
    if options.digest and options.digest != model.digest:
        raise IntegrityError(f"the model is {model.digest}, not {options.digest}", where=f"model {options.model}", remedy="deploy the model again")
    return model


def parser() -> argparse.ArgumentParser:
    """The command line."""
    of = argparse.ArgumentParser(prog="python -m kfp_foundry.server", description="Serves a Model folder over KServe V1 and V2 REST.")
    add = of.add_argument
    add("--model", type=Path, required=True, help="the Model folder")
    add("--name", default=Options.name, help="name in the URLs; the contract's name by default")
    add("--host", default=Options.host, help="address to listen on; 127.0.0.1 by default")
    add("--port", type=int, default=Options.port, help="port; 0 takes any free one")
    add("--fd", type=int, help="serve on this inherited listening socket instead of --host and --port")
    add("--heir-of", type=int, default=Options.heir_of, metavar="PORT", help="on SIGUSR1 serve on this port too, beside the server that has it")
    add("--permit-fd", type=int, metavar="FD", help="serve only after a byte has come through this inherited pipe")
    add("--digest", default=Options.digest, help="refuse any other model than this one, sha256:...")
    add("--version", default=Options.version, help="version in answers; the short digest by default")
    add("--threshold", type=float, help="probability from which the positive class is predicted; 0.5 by default")
    add("--threads", type=int, default=Options.threads, help="threads of ONNX Runtime per prediction; scale by processes instead")
    add("--max-body-mib", type=float, default=Options.max_body_mib, help="largest request body")
    add("--payload-log", type=Path, metavar="DIR", help="write every prediction to Parquet files in this folder")
    add("--payload-log-rows", type=int, default=Options.payload_log_rows, help="write when so many rows wait")
    add("--payload-log-seconds", type=float, default=Options.payload_log_seconds, help="write when the oldest row is so old")
    add("--payload-log-queue", type=int, default=Options.payload_log_queue, help="rows that may wait; more are dropped and counted")
    add("--grace", type=int, default=Options.grace, help="seconds that requests get to finish after SIGTERM")
    add("--access-log", action="store_true", help="log a line per prediction request")
    return of


def main(words: list[str] | None = None) -> int:
    """Runs the server; returns the exit code."""
    options = Options(**vars(parser().parse_args(words)))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        serve(options)
    except FoundryError as error:
        sys.stderr.write(" ".join(f"error: {error}".split()) + "\n")
        return error.exit_code
    return 0
