"""What the API server's refusals mean, in words with a remedy."""

import json
import re
from dataclasses import dataclass

from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError
from kfp_foundry.components.common.kube.kinds import Kind

DENIED = re.compile(r'admission webhook "(?P<webhook>[^"]+)" denied the request:?\s*(?P<why>.*)', re.DOTALL)
NO_RIGHT = re.compile(r'cannot (?P<verb>[\w*]+) resource "(?P<resource>[^"]+)"')
ROLES = "kubectl apply -k manifests/base"


@dataclass(frozen=True)
class Answer:
    """An answer of the API server that is no success.

    Args:
        status: HTTP status.
        message: The message of its `Status` object, or its text.
        structured: Whether it was a `Status` object at all; a resource that is not served answers with plain text.
        reason: One word of the `Status` object, such as `AlreadyExists`.
    """

    status: int
    message: str
    structured: bool
    reason: str = ""

    @classmethod
    def read(cls, status: int, body: str | bytes | None, reason: str | None) -> "Answer":
        """Reads an error's body."""
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if isinstance(told, dict) and told.get("kind") == "Status":
            return cls(status, str(told.get("message") or reason or ""), True, str(told.get("reason") or ""))
        return cls(status, " ".join(text.split())[:400] or reason or "", False)

    @property
    def means_not_served(self) -> bool:
        """Whether the resource itself is unknown, rather than one object of it."""
        return self.status == 404 and not self.structured


@dataclass(frozen=True)
class Attempt:
    """What was asked for, for messages.

    Args:
        verb: In RBAC's words: get, list, create, delete, patch.
        kind: The kind of object.
        namespace: Its namespace.
        name: Its name; empty for a list.
        subresource: Such as `log`.
    """

    verb: str
    kind: Kind
    namespace: str
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        """As the end of "cannot ..."."""
        what = f"{self.kind.kind} {self.name}" if self.name else f"{self.kind.plural}"
        return f"{self.verb} the log of {what}" if self.subresource == "log" else f"{self.verb} {what}"

    @property
    def where(self) -> str:
        """The namespace, in words."""
        return f"namespace {self.namespace}"


def explained(attempt: Attempt, answer: Answer) -> FoundryError:
    """The error for an answer that a repetition would not change."""
    denied = DENIED.search(answer.message)
    if denied:  # HTTP 403, as for a missing right, or 400
        remedy = "change what it names"
        return UserError(f"the cluster refuses to {attempt}: {denied['why'].strip()} (says {denied['webhook']})", where=attempt.where, remedy=remedy)
    if answer.status == 401:
        remedy = "check the service account's token or log in again"
        return PlatformError(f"the API server does not accept the credentials for {attempt}", where=attempt.where, remedy=remedy)
    if answer.status == 403:
        return _forbidden(attempt, answer)
    if answer.means_not_served:
        remedy = f"install {attempt.kind.comes_with}" if attempt.kind.comes_with else "use a cluster that serves it"
        return PlatformError(f"the cluster serves no {attempt.kind.resource} of version {attempt.kind.version}", where=attempt.where, remedy=remedy)
    if answer.status == 400 and "unknown field" in answer.message:
        remedy = "the cluster's version of this kind is another one than the object was made for; please report it with both versions"
        return PlatformError(f"cannot {attempt}: {answer.message}", where=attempt.where, remedy=remedy)
    if answer.status in (400, 422) and attempt.verb in ("create", "patch"):
        return UserError(f"cannot {attempt}: {answer.message}", where=attempt.where, remedy="change the field that is named")
    return PlatformError(f"cannot {attempt}: HTTP {answer.status}: {answer.message}", where=attempt.where, remedy="see what the server says")


def _forbidden(attempt: Attempt, answer: Answer) -> PlatformError:
    if "exceeded quota" in answer.message:
        remedy = "ask for less, wait until others have finished, or have the quota raised"
        return PlatformError(f"cannot {attempt}: {answer.message}", where=attempt.where, remedy=remedy)
    missing = NO_RIGHT.search(answer.message)
    resource = f"{attempt.kind.plural}/{attempt.subresource}" if attempt.subresource else attempt.kind.plural
    if missing:
        resource = missing["resource"]
    elif answer.structured and answer.message:
        return PlatformError(f"cannot {attempt}: {answer.message}", where=attempt.where, remedy="see what the server says")
    verb = missing["verb"] if missing else attempt.verb
    rule = f'verb "{verb}" on {resource} of API group "{attempt.kind.group}"'
    remedy = f"give it by `{ROLES} -n {attempt.namespace}`"
    return PlatformError(f"this account may not {attempt}: it lacks {rule}", where=attempt.where, remedy=remedy)
