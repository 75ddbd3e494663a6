"""What is on record of the endpoints of this machine: one folder each, one file in it, and a lock around every change."""

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kfp_foundry.components.common import platform, ports, processes
from kfp_foundry.components.common.errors import IntegrityError, PlatformError, UserError
from kfp_foundry.components.common.files import unwritable, write_json

RECORD = "endpoint.json"
LOCK_SECONDS = 120.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Revision(BaseModel):
    """One model server process."""

    model_config = ConfigDict(extra="forbid")

    number: int
    digest: str
    threshold: float | None = None
    pid: int
    token: str
    port: int
    address: int
    since: str

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return processes.is_alive(self.pid, self.token)


class Record(BaseModel):
    """What is known of an endpoint; the content of endpoint.json."""

    model_config = ConfigDict(extra="forbid")

    name: str
    port: int = 0
    last: int = 0
    current: Revision | None = None
    candidate: Revision | None = None
    retiring: Revision | None = None


def endpoints_folder() -> Path:
    """The folder of all endpoints."""
    return platform.home() / "endpoints"


def folder_of(name: str) -> Path:
    """The folder of the endpoint of that name, whether there is one or not.

    Raises:
        UserError: The name cannot be used.
    """
    check_name(name)
    return endpoints_folder() / name


def check_name(name: str, where: str = "endpoint") -> None:
    """Raises `UserError` for a name that cannot stand in addresses and folders."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name is {name!r}", where=where, remedy="use letters, digits, '.', '_' and '-', at most 100, the first a letter or digit")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps everybody else from changing the endpoint.

    Raises:
        PlatformError: Another one has been changing it for too long, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise unwritable(folder, error) from error
    with file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise PlatformError(
                        f"another deployment has been at work for {LOCK_SECONDS:.0f} s",
                        where=f"endpoint {folder.name}",
                        remedy="wait for it, or end it",
                    ) from None
                time.sleep(0.05)
        yield


def load(folder: Path) -> Record:
    """The endpoint's record; an empty one when it was never deployed.

    Raises:
        IntegrityError: The file cannot be read.
    """
    try:
        return Record.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Record(name=folder.name)
    except (OSError, ValidationError) as error:
        raise IntegrityError("not a readable endpoint record", where=str(folder / RECORD), remedy="delete the file and deploy again") from error


def save(folder: Path, record: Record) -> None:
    """Writes the record in one step."""
    write_json(folder / RECORD, record.model_dump(mode="json", exclude_none=True))


def url_of(port: int) -> str:
    """The base address of a server on this machine."""
    return f"http://{ports.LOOPBACK}:{port}"


def revision_folder(folder: Path, revision: Revision) -> Path:
    """The folder of one server: its copy of the model, and its log."""
    return folder / "revisions" / f"r{revision.number}"


def log_of(folder: Path, revision: Revision) -> Path:
    """The log of one server."""
    return revision_folder(folder, revision) / "server.log"
