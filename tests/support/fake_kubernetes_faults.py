"""What goes wrong at the fake API server, when a test says so."""

import random
import threading
from dataclasses import dataclass, field
from typing import Any

Status = dict[str, Any]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    408: "Timeout",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "Timeout",
}
MESSAGES = {
    401: "Unauthorized",
    408: "the server was unable to return a response in the time allotted",
    429: "the server has received too many requests and has asked us to try again later",
    500: "Internal error occurred: etcdserver: leader changed",
    503: "the server is currently unable to handle the request",
    504: "the server was unable to return a response in the time allotted",
}


class Answer(Exception):
    """An answer that is not a success."""

    def __init__(self, code: int, message: str = "", reason: str = "", retry_after: float | None = None, details: Status | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.body: Status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message or MESSAGES.get(code, f"injected {code}"),
            "reason": reason or REASONS.get(code, "Unknown"),
            **({"details": details} if details else {}),
            "code": code,
        }


class NotServed(Exception):
    """A path that the server does not know: plain text, no Status object."""


class Dropped(Exception):
    """The connection ends without an answer."""


@dataclass
class Fault:
    """One thing that goes wrong, for the next `times` requests that fit."""

    verb: str
    plural: str
    times: int
    answer: Answer | None = None
    drop: str = ""  # "before" the request is carried out, or "after"
    seconds: float = 0.0


@dataclass
class Faults:
    """The faults that are still to come, in order."""

    pending: list[Fault] = field(default_factory=list)
    dice: random.Random | None = None
    share: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        with self.lock:
            self.pending.append(fault)

    def take(self, verb: str, plural: str) -> Fault | None:
        """The next fault for such a request, if any."""
        with self.lock:
            for fault in self.pending:
                if fault.times > 0 and fault.verb in ("*", verb) and fault.plural in ("", plural):
                    fault.times -= 1
                    return fault
            if self.dice and self.dice.random() < self.share:
                return self._thrown(verb, plural, self.dice)
        return None

    @staticmethod
    def _thrown(verb: str, plural: str, dice: random.Random) -> Fault:
        """Something that passes: what an API server does while it is overloaded or upgraded."""
        what = dice.choice([408, 429, 500, 502, 503, 504, "before", "after", "slow"])
        if isinstance(what, int):
            return Fault(verb, plural, 0, Answer(what, retry_after=0.05 if what == 429 else None))
        return Fault(verb, plural, 0, seconds=0.2) if what == "slow" else Fault(verb, plural, 0, drop=what)

    def clear(self) -> None:
        with self.lock:
            self.pending.clear()
            self.dice = None
