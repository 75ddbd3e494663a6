"""Endpoints on this machine: model servers as processes of their own that live on after the run that deployed them.

Each endpoint has a folder `<home>/endpoints/<name>/`: `endpoint.json` (who serves, and on which port), `revisions/rN/` (a copy of
the model and the server's log), `payloads/` (the payload log) and `lock`. A new model starts beside the one that serves, as the
candidate with a port of its own. `promote` makes it listen on the endpoint's port too and ends the old one when that has answered
what had come to it: no new connection is refused, and the address stays. `discard` ends the candidate, and the old one serves on.
"""

import datetime as dt
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal

from kfp_foundry.components.common import ports, processes
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.model import CONTRACT, ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.endpoint_record import (
    RECORD,
    Record,
    Revision,
    endpoints_folder,
    folder_of,
    load,
    locked,
    log_of,
    revision_folder,
    save,
    url_of,
)
from kfp_foundry.components.common.errors import PlatformError, UserError, close_names
from kfp_foundry.components.common.files import unwritable
from kfp_foundry.components.common.inference import Client, emptiest_row
from kfp_foundry.components.common.wiring import SECRET_KEYS

PORTS = range(8090, 8190)  # where an endpoint gets its address when nobody asks for a certain port
READY_SECONDS = 60.0
REUSE_SECONDS = 10.0  # a server that runs already answers within that, or another one takes its place
HANDOVER_SECONDS = 10.0
SETTLE_SECONDS = 0.1  # in which the old server reads what callers sent on connections that it has accepted already
STOP_SECONDS = 15.0
LOG_LINES = 15
SERVER_PACKAGES = ("prometheus_client", "starlette", "uvicorn")  # the extra `serve`

State = Literal["serving", "candidate", "dead", "stopped"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One line of the list of endpoints."""

    name: str
    state: State
    url: str
    revision: str
    threshold: float | None
    pid: int | None
    since: str
    log: Path | None


def start(model: Path, name: str, threshold: float | None = None, port: int = 0) -> Endpoint:
    """Serves a model, or finds that it is served already.

    The same model with the same threshold is taken as it is. Another one starts as the candidate beside it and gets the
    endpoint's address by `promote`; the first one of a name has that address from the start.

    Args:
        model: The Model folder; it is copied, so that the run's folder may be deleted.
        name: The endpoint's and the model's name.
        threshold: Binary models: probability from which the positive class is predicted; 0.5 if not given.
        port: The port to serve on; 0 keeps the endpoint's own, or takes a free one.

    Returns:
        Where the model answers. It has answered one prediction.

    Raises:
        IntegrityError: The model is not what its digests say.
        PlatformError: The port is in use, or the server does not get ready; the message has the reason from its log.
        UserError: The name, the port or the threshold cannot be used.
    """
    folder = folder_of(name)
    absent = [package for package in SERVER_PACKAGES if find_spec(package) is None]
    if absent:
        raise PlatformError(f"package {absent[0]} is not installed", where=f"endpoint {name}", remedy="pip install 'kfp-foundry[serve]'")
    opened = ModelFolder.open(model)
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}", where=f"endpoint {name}", remedy="give a probability between 0 and 1")
    wanted = (0.5 if threshold is None else threshold) if opened.task is Task.BINARY else None
    with locked(folder):
        record = _tidy(folder)
        revision = _reusable(folder, record, opened, wanted, port)
        if revision is None:
            _drop(folder, record, "candidate")
            revision = _launch(folder, record, opened, wanted, port)
            try:
                _await_ready(folder, record, revision, opened)
            except BaseException:
                _drop(folder, record, "candidate", keep_log=True)
                raise
            log.info("endpoint %s: revision %d answers at %s, log %s", name, revision.number, url_of(revision.port), log_of(folder, revision))
        return _endpoint(record, revision)


def _reusable(folder: Path, record: Record, model: ModelFolder, threshold: float | None, port: int) -> Revision | None:
    """The server that serves just this already, if there is one and it answers."""
    for revision in (record.current, record.candidate):
        if revision is None or not revision.alive or port not in (0, revision.address):
            continue
        if (revision.digest, revision.threshold) != (model.digest, threshold):
            continue
        try:
            _await_ready(folder, record, revision, model, REUSE_SECONDS)
        except PlatformError as error:
            log.warning("a new server is started: %s", error)
            continue
        if revision is record.current:
            _drop(folder, record, "candidate")
        log.info("endpoint %s serves this model already, as revision %d at %s", record.name, revision.number, url_of(revision.port))
        return revision
    return None


def promote(name: str, revision: str = "") -> Endpoint:
    """Gives the endpoint's address to the candidate and ends the server before it; may be repeated.

    Args:
        name: The endpoint.
        revision: Digest that must be the one promoted; guards against a candidate of another run.

    Raises:
        PlatformError: There is no live candidate, or it is of another digest.
    """
    folder = _known(name)
    with locked(folder):
        record = _tidy(folder)
        candidate, current = record.candidate, record.current
        if candidate is None or (revision and candidate.digest != revision):
            if current and current.alive and revision in ("", current.digest):
                return _endpoint(record, current)
            there = "no candidate" if candidate is None else f"the candidate is {candidate.digest}"
            raise PlatformError(f"{there}, so {revision or 'none'} cannot be promoted", where=f"endpoint {name}", remedy="deploy the model again")
        if not candidate.alive:
            raise PlatformError(f"the candidate has ended; {_tail(folder, candidate)}", where=f"endpoint {name}", remedy="deploy the model again")
        if candidate.address != candidate.port:
            _hand_over(record, candidate)
        record.port = candidate.address
        record.current, record.candidate, record.retiring = candidate, None, current
        save(folder, record)
        _tidy(folder)
        log.info("endpoint %s: revision %d has the address %s", name, candidate.number, url_of(record.port))
        return _endpoint(record, candidate)


def discard(name: str, revision: str = "") -> bool:
    """Ends the candidate; the server before it goes on. Returns whether there was one.

    Args:
        name: The endpoint.
        revision: Digest that the candidate must have to be ended; any by default.
    """
    folder = _known(name)
    with locked(folder):
        record = _tidy(folder)
        if record.candidate is None or (revision and record.candidate.digest != revision):
            return False
        _drop(folder, record, "candidate", keep_log=True)
        return True


def stop(name: str) -> bool:
    """Ends an endpoint's servers; its port and payload log stay. Returns whether one was running.

    Raises:
        UserError: There is no endpoint of that name.
    """
    folder = _known(name)
    with locked(folder):
        record = _tidy(folder)
        running = any(revision and revision.alive for revision in (record.current, record.candidate))
        _drop(folder, record, "candidate")
        _drop(folder, record, "current")
        return running


def find(name: str, must_exist: bool = False) -> Endpoint | None:
    """Who answers at the endpoint's address now; None when nobody does.

    Args:
        name: The endpoint.
        must_exist: Whether a name that was never deployed is an error.

    Raises:
        UserError: There is no endpoint of that name, and there must be one.
    """
    record = load(_known(name) if must_exist else folder_of(name))
    for revision in (record.current, record.candidate):
        if revision and revision.alive and (revision is record.current or revision.port == revision.address):
            return _endpoint(record, revision, url_of(revision.address))
    return None


def list_all() -> list[Row]:
    """All endpoints on this machine, those that were stopped or whose server died included."""
    rows: list[Row] = []
    for folder in sorted(endpoints_folder().glob("*/")):
        if not (folder / RECORD).exists():
            continue
        record = load(folder)
        shown: list[tuple[State, Revision]] = [("serving", record.current)] if record.current else []
        shown += [("candidate", record.candidate)] if record.candidate else []
        for state, r in shown:
            url = url_of(record.port if state == "serving" else r.port)
            rows.append(Row(record.name, state if r.alive else "dead", url, r.digest, r.threshold, r.pid, r.since, log_of(folder, r)))
        if not shown:
            rows.append(Row(record.name, "stopped", url_of(record.port) if record.port else "", "", None, None, "", None))
    return rows


def contract_of(name: str) -> Contract:
    """The contract of the model that serves, or of the candidate when nothing serves.

    Raises:
        UserError: There is no endpoint of that name, or it was stopped.
    """
    folder = _known(name)
    record = load(folder)
    revision = record.current or record.candidate
    if revision is None:
        raise UserError("it was stopped", where=f"endpoint {name}", remedy="deploy a model first")
    return Contract.load(revision_folder(folder, revision) / "model" / CONTRACT)


def payloads(name: str) -> Path:
    """The folder of the endpoint's payload log."""
    return folder_of(name) / "payloads"


def _known(name: str) -> Path:
    folder = folder_of(name)
    if not (folder / RECORD).exists():
        names = sorted({row.name for row in list_all()})
        remedy = close_names(name, names) if names else "deploy a model first"
        raise UserError(f"no endpoint {name!r}", where=str(endpoints_folder()), remedy=remedy)
    return folder


def _tidy(folder: Path) -> Record:
    """The record, after what an interrupted promotion left running was ended."""
    record = load(folder)
    if record.retiring:
        _drop(folder, record, "retiring")
    return record


def _drop(folder: Path, record: Record, role: Literal["current", "candidate", "retiring"], keep_log: bool = False) -> None:
    revision: Revision | None = getattr(record, role)
    if revision is None:
        return
    processes.end(revision.pid, revision.token, STOP_SECONDS)
    setattr(record, role, None)
    save(folder, record)
    place = revision_folder(folder, revision)
    shutil.rmtree(place / "model" if keep_log else place, ignore_errors=True)


def _launch(folder: Path, record: Record, model: ModelFolder, threshold: float | None, port: int) -> Revision:
    serving = record.current is not None and record.current.alive
    record.last += 1
    place = folder / "revisions" / f"r{record.last}"
    with _listener(record, serving, port) as listener:
        own = int(listener.getsockname()[1])
        address = (port or record.port) if serving else own
        command = _command(folder, place, record.name, model.digest, threshold)
        command += ["--heir-of", str(address)] if address != own else []
        try:
            shutil.rmtree(place, ignore_errors=True)
            _copy(model.path, place / "model")
            pid, permit = _spawn(command, place, listener)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise unwritable(place, error) from error
    with permit:
        revision = Revision(
            number=record.last,
            digest=model.digest,
            threshold=threshold,
            pid=pid,
            token=processes.started_at(pid),
            port=own,
            address=address,
            since=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        record.candidate = revision
        record.port = record.port or address
        save(folder, record)
        with suppress(BrokenPipeError):  # it ended already; the wait for it says why
            permit.write(b"1")
            permit.flush()
    return revision


def _copy(source: Path, target: Path) -> None:
    # Not copytree: it collects what went wrong in one error without the number by which a full disk is known.
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _spawn(command: list[str], place: Path, listener: socket.socket) -> tuple[int, IO[bytes]]:
    """Starts a server in a session of its own; it serves once a byte is written to the file returned."""
    reading, writing = os.pipe()
    fds = [listener.fileno(), reading]
    try:
        with (place / "server.log").open("wb") as output:
            process = subprocess.Popen(
                [*command, "--fd", str(fds[0]), "--permit-fd", str(fds[1])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=place,
                env=_environment(),
                pass_fds=fds,
                start_new_session=True,
            )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process.pid, os.fdopen(writing, "wb")


def _listener(record: Record, serving: bool, port: int) -> socket.socket:
    if port and not (serving and port == record.port):
        return ports.claim(ports.LOOPBACK, port)
    if serving:
        return ports.claim(ports.LOOPBACK, 0)
    if record.port:
        try:
            return ports.claim(ports.LOOPBACK, record.port)
        except PlatformError as error:
            log.warning("endpoint %s gets another address: %s", record.name, error)
    return ports.first_free(PORTS)


def _command(folder: Path, place: Path, name: str, digest: str, threshold: float | None) -> list[str]:
    words = [sys.executable, "-m", "kfp_foundry.server", "--model", str(place / "model"), "--name", name, "--digest", digest]
    words += ["--payload-log", str(folder / "payloads")]
    return words + (["--threshold", repr(threshold)] if threshold is not None else [])


def _environment() -> dict[str, str]:
    # A server needs no credentials, and it outlives the temporary folder of its run.
    left_out = {*SECRET_KEYS, "_KFP_RUNTIME", "TMPDIR"}
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return kept | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _await_ready(folder: Path, record: Record, revision: Revision, model: ModelFolder, seconds: float = READY_SECONDS) -> None:
    """Waits until the server is ready, and has it answer one prediction."""
    until = time.monotonic() + seconds
    with Client(url_of(revision.port), record.name, timeout=min(5.0, seconds), probe=True) as client:
        while not client.is_ready():
            if not revision.alive:
                raise _failed(folder, record, revision, "the model server ended before it was ready")
            if time.monotonic() > until:
                raise _failed(folder, record, revision, f"the model server was not ready after {seconds:.0f} s")
            time.sleep(0.03)
        reply = client.v1([emptiest_row(model.contract)])
    if reply.status != 200:
        raise _failed(folder, record, revision, f"the model server refused a first prediction with {reply.status}: {reply.error}")


def _failed(folder: Path, record: Record, revision: Revision, what: str) -> PlatformError:
    return PlatformError(f"{what}: {_tail(folder, revision)}", where=f"endpoint {record.name}", remedy=f"read {log_of(folder, revision)}")


def _tail(folder: Path, revision: Revision) -> str:
    """The reason in a server's log: its line `error: ...`, else its last lines."""
    try:
        lines = log_of(folder, revision).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1] if said else " | ".join(lines[-LOG_LINES:]) or "its log is empty"


def _hand_over(record: Record, candidate: Revision) -> None:
    """Has the candidate listen on the endpoint's port beside the server that has it."""
    wanted = f"{ports.LOOPBACK}:{candidate.address}"
    with suppress(ProcessLookupError):  # it ended in this moment; asking it says so
        os.kill(candidate.pid, signal.SIGUSR1)
    until = time.monotonic() + HANDOVER_SECONDS
    with Client(url_of(candidate.port), record.name, timeout=5.0) as client:
        while wanted not in client.get("/").body.get("addresses", []):
            if time.monotonic() > until:
                log.warning("endpoint %s could not keep its port %d and answers at %d from now on", record.name, candidate.address, candidate.port)
                candidate.address = candidate.port
                return
            time.sleep(0.02)
    time.sleep(SETTLE_SECONDS)


def _endpoint(record: Record, revision: Revision, url: str = "") -> Endpoint:
    here = url or url_of(record.port if revision is record.current else revision.port)
    return Endpoint(name=record.name, url=here, revision=revision.digest, threshold=revision.threshold, pid=revision.pid)
