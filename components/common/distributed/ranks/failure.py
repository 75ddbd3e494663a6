"""What a rank leaves when it fails, and which of several failures is the cause: the others fail because of it."""

import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kfp_foundry.components.common.errors import DataError, FoundryError, IntegrityError, PlatformError, UserError
from kfp_foundry.components.common.files import write_json

KINDS = {kind.__name__: kind for kind in (UserError, DataError, IntegrityError, PlatformError)}
# How gloo and NCCL name a partner that is gone, or that does not come.
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process has terminated", "NCCL communicator was aborted")
PEER_LATE = ("Timed out waiting", "timed out", "timeout")
COMMUNICATION = ("gloo", "nccl", "process group", "processgroup", "store")


@dataclass(frozen=True)
class Failure:
    """Why a rank failed.

    Args:
        rank: Its number.
        kind: The error's class.
        what: What was wrong.
        where: Where.
        remedy: What to do; empty for an error that nobody foresaw.
        trace: The traceback, for those.
        peer: `gone` or `late` when the rank failed only because of another one; else empty.
        at: Seconds since the epoch.
    """

    rank: int
    kind: str
    what: str
    where: str
    remedy: str
    trace: str
    peer: str
    at: float

    @classmethod
    def of(cls, error: Exception, rank: int) -> "Failure":
        """Describes an error."""
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, FoundryError):
            return cls(rank, type(error).__name__, error.what, error.where, error.remedy, "", _peer(error.__cause__), time.time())
        return cls(rank, type(error).__name__, " ".join(str(error).split()), _place(error), "", trace, _peer(error), time.time())

    def error(self, log: Path | None) -> FoundryError:
        """The same as an error of this process."""
        if self.remedy:
            return KINDS.get(self.kind, FoundryError)(self.what, where=self.where, remedy=self.remedy)
        remedy = f"read {log}" if log else "read its log"
        found = FoundryError(f"{self.kind}: {self.what}", where=f"training, rank {self.rank}, {self.where}", remedy=remedy)
        found.add_note(self.trace)
        return found


def save(failure: Failure, folder: Path | None) -> None:
    """Leaves a failure for whoever started the rank: our own engine in `folder`, torchrun where it says."""
    if folder is not None:
        write_json(folder / f"rank-{failure.rank}.json", asdict(failure))
    elsewhere = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if elsewhere:
        said = str(failure.error(None))
        extra = {"py_callstack": failure.trace, "timestamp": str(int(failure.at))}
        write_json(elsewhere, {"message": {"message": said, "extraInfo": extra}})


def load(folder: Path) -> list[Failure]:
    """The failures that ranks left, the earliest first."""
    found = [Failure(**json.loads(file.read_text(encoding="utf-8"))) for file in folder.glob("rank-*.json")]
    return sorted(found, key=lambda failure: failure.at)


def cause(failures: Sequence[Failure]) -> Failure | None:
    """The earliest failure that is not the echo of another rank's; None if there is none."""
    return next((failure for failure in failures if not failure.peer), None)


def _peer(error: BaseException | None) -> str:
    if not isinstance(error, RuntimeError):
        return ""
    text = str(error)
    if not (
        type(error).__name__.startswith("Dist") or any(word in text.lower() for word in COMMUNICATION) or any(word in text for word in PEER_GONE)
    ):
        return ""
    if any(word in text for word in PEER_GONE):
        return "gone"
    return "late" if any(word in text for word in PEER_LATE) else ""


def _place(error: Exception) -> str:
    """File, line and function where it was raised: the innermost frame that is not of a library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<frozen")]
    chosen = (own or frames)[-1:]
    return f"{Path(chosen[0].filename).name}:{chosen[0].lineno} in {chosen[0].name}" if chosen else "unknown place"
