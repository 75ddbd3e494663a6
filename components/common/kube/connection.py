"""Talking to a cluster's API server: every call with one table of what is tried again and what is not.

Plain dicts in and out. Answers of 408, 429 and 5xx and broken connections are tried again for up to ten minutes, since API
servers are upgraded while trainings run; other refusals are final at once (see `refusals`).
"""

import copy
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kfp_foundry.components.common.errors import FoundryError, PlatformError
from kfp_foundry.components.common.kube import credentials, openapi
from kfp_foundry.components.common.kube.kinds import EVENT, POD, Kind, Object, Objects
from kfp_foundry.components.common.kube.refusals import Answer, Attempt, explained
from kfp_foundry.components.common.kube.transport import Refused, Transport

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from urllib3 import BaseHTTPResponse, Timeout

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
OUTAGE_SECONDS = 600.0
LEAST_ATTEMPTS = 2  # a connection that was kept may turn out to be dead
FIRST_WAIT = 0.5  # seconds; doubled with each attempt
LONGEST_WAIT = 30.0
LONGEST_ASKED = 120.0  # of what a server may ask for by Retry-After
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
COURTESY_SECONDS = 0.5
COURTESY_PAUSE = 0.05
LONGEST_LINE = 65536  # bytes; of a longer one the middle is left out
MANAGER = "kfp-foundry"  # the field manager that objects are written under

log = logging.getLogger(__name__)


class Cluster:
    """One namespace of one cluster.

    Args:
        access: How the API server is reached.
        namespace: The namespace that all calls mean.
        outage_seconds: How long a call outlives an API server that does not answer.

    Example:
        >>> cluster = Cluster.connect()
        >>> cluster.get(TRAINJOB, "train-47b54c66b8")
    """

    def __init__(self, access: credentials.Access, namespace: str = "", outage_seconds: float = OUTAGE_SECONDS) -> None:
        self.namespace = namespace or access.namespace
        self.source = access.source
        self.outage_seconds = outage_seconds
        self._access = access
        self._transport = Transport(access)
        self._fields: dict[Kind, frozenset[str]] = {}

    @classmethod
    def connect(cls, namespace: str = "", kubeconfig: str = "", outage_seconds: float = OUTAGE_SECONDS) -> "Cluster":
        """The cluster that this process belongs to, or that a kubeconfig names.

        Args:
            namespace: Empty: the pod's own, or that of the kubeconfig's context.
            kubeconfig: Empty: the pod's service account, else `$KUBECONFIG` or `~/.kube/config`.
            outage_seconds: How long a call outlives an API server that does not answer.

        Raises:
            PlatformError: There is neither.
        """
        return cls(credentials.find(kubeconfig), namespace, outage_seconds)

    def impatient(self) -> "Cluster":
        """The same cluster for calls that are tried twice at most: where something better than waiting can be done."""
        twin = copy.copy(self)
        twin.outage_seconds = 0.0
        return twin

    def create(self, kind: Kind, body: Object) -> Object | None:
        """Creates an object; an unknown field is an error, never dropped.

        Returns:
            The object, or None when there is one of that name (409).

        Raises:
            UserError: A webhook or the schema refuses it.
            PlatformError: No right, not served, or no answer.
        """
        whole = copy.deepcopy(body)
        whole |= {"apiVersion": kind.api_version, "kind": kind.kind}
        attempt = self._attempt("create", kind, str(whole["metadata"]["name"]))
        query = {"fieldValidation": "Strict", "fieldManager": MANAGER}
        try:
            made: Object = self._request(attempt, "POST", self._path(kind), query=query, body=whole, known=(409,), passing=_quota_conflict)
        except Refused:
            return None
        return made

    def get(self, kind: Kind, name: str) -> Object | None:
        """The object of that name; None when there is none.

        Raises:
            PlatformError: No right, not served, or no answer.
        """
        attempt = self._attempt("get", kind, name)
        try:
            found: Object = self._request(attempt, "GET", self._path(kind, name), known=(404,))
        except Refused as refusal:
            if refusal.answer.means_not_served:
                raise explained(attempt, refusal.answer) from None
            return None
        return found

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None, fields: str = "") -> Objects:
        """The objects of a kind, all or those with these labels.

        Args:
            kind: The kind.
            labels: Labels and their values; an empty one for any value.
            fields: A field selector, such as `type=Warning`.

        Raises:
            PlatformError: No right, not served, or no answer.
        """
        terms = [f"{key}={value}" if value else key for key, value in sorted((labels or {}).items())]
        query = {"labelSelector": ",".join(terms), "fieldSelector": fields}
        found: list[Object] = []
        token = ""
        while True:
            asked = {key: value for key, value in {**query, "limit": "500", "continue": token}.items() if value}
            page = self._request(self._attempt("list", kind), "GET", self._path(kind), query=asked)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def patch(self, kind: Kind, name: str, change: Object) -> Object:
        """Merges a change into an object.

        Raises:
            UserError: A webhook or the schema refuses it.
            PlatformError: No right, no such object, or no answer.
        """
        query = {"fieldValidation": "Strict", "fieldManager": MANAGER}
        changed: Object = self._request(self._attempt("patch", kind, name), "PATCH", self._path(kind, name), query=query, body=change)
        return changed

    def delete(self, kind: Kind, name: str, *, uid: str = "", foreground: bool = False) -> bool:
        """Asks for an object's deletion; its pods may live on for their grace period.

        Args:
            kind: The kind.
            name: The name.
            uid: Only an object with this uid is deleted; another one of the same name is left alone.
            foreground: The object stays visible until everything that belongs to it is gone.

        Returns:
            Whether there was such an object.

        Raises:
            UserError: A webhook refuses it.
            PlatformError: No right, or no answer.
        """
        body, attempt = _deletion(uid, foreground), self._attempt("delete", kind, name)
        try:
            self._request(attempt, "DELETE", self._path(kind, name), body=body, known=(404, 409), passing=_write_conflict)
        except Refused:
            return False
        return True

    def pods(self, labels: Mapping[str, str]) -> Objects:
        """The pods with these labels, oldest first.

        Raises:
            PlatformError: No right, or no answer.
        """
        return sorted(self.list(POD, labels), key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def pod_log(
        self, pod: str, container: str = "", *, tail_lines: int = 0, since: str = "", previous: bool = False, timestamps: bool = False
    ) -> str:
        """What a container has written so far.

        Args:
            pod: The pod's name.
            container: Empty: the pod's only one.
            tail_lines: Only that many last lines; 0 for all.
            since: Only lines from this RFC 3339 time on.
            previous: That of the container's run before its restart.
            timestamps: Each line starts with its time.

        Raises:
            PlatformError: No such pod, it has not started, no right, or no answer.
        """
        query = _log_query(container, tail_lines, since, previous=previous, timestamps=timestamps)
        text: str = self._request(self._attempt("get", POD, pod, "log"), "GET", self._path(POD, pod, "log"), query=query, as_text=True)
        return text

    @contextmanager
    def follow_log(self, pod: str, container: str = "", *, since: str = "", silence_seconds: float = READ_SECONDS) -> "Iterator[Iterator[str]]":
        """The lines of a container's log as they come, each with its time in front, until it ends or the connection does.

        One attempt only: a follower goes on by itself (see `logs`).

        Raises:
            PlatformError: No such pod, it has not started, or no right.
            OSError: No answer, or the connection ended before the log.
        """
        query = _log_query(container, 0, since, timestamps=True, follow=True)
        attempt = self._attempt("get", POD, pod, "log")
        try:
            response = self._transport.send(
                "GET", self._path(POD, pod, "log"), query=query, body=None, timeout=_timeout(silence_seconds), stream=True
            )
        except Refused as refusal:
            if refusal.answer.status in TRANSIENT:
                raise ConnectionError(str(refusal)) from None
            raise explained(attempt, refusal.answer) from None
        try:
            yield _lines(response)
        finally:
            response.close()

    def events(self, about: Callable[[str], bool], *, warnings: bool = True) -> Objects:
        """The Events about objects whose name satisfies `about`, oldest first.

        Args:
            about: Says of an involved object's name whether its Events are wanted.
            warnings: Only those of type Warning.

        Raises:
            PlatformError: No right, or no answer.
        """
        found = self.list(EVENT, fields="type=Warning" if warnings else "")
        wanted = [e for e in found if about((e.get("involvedObject") or {}).get("name") or "") and (not warnings or e.get("type") == "Warning")]
        return sorted(wanted, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or e["metadata"].get("creationTimestamp") or "")

    def served(self, kind: Kind) -> bool:
        """Whether the cluster knows this kind, in this version.

        Raises:
            PlatformError: No answer.
        """
        path = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        try:
            resources = self._request(self._attempt("list", kind), "GET", path, known=(404,)).get("resources") or []
        except Refused:
            return False
        return any(resource["name"] == kind.plural for resource in resources)

    def fields(self, kind: Kind) -> frozenset[str]:
        """The fields of a kind that this cluster knows, as dotted paths without list marks: `spec.runtimePatches.manager`.

        Read from the server's OpenAPI document, which every account may read; asked for once.

        Raises:
            PlatformError: The kind is not served, or no answer.

        Example:
            >>> "spec.activeDeadlineSeconds" in cluster.fields(TRAINJOB)
            True
        """
        if kind not in self._fields:
            path = f"/openapi/v3/apis/{kind.group}/{kind.version}" if kind.group else f"/openapi/v3/api/{kind.version}"
            attempt = self._attempt("get", kind)
            try:
                document = self._request(attempt, "GET", path, known=(404,))
            except Refused:
                raise explained(attempt, Answer(404, "", False)) from None
            self._fields[kind] = openapi.paths(document, kind)
        return self._fields[kind]

    def courtesy_delete(self, kind: Kind) -> Callable[[str, str], None]:
        """A deletion to be called from a signal handler with name and uid: half a second, no error.

        It has connections of its own: those of the code that the signal interrupts may be locked by that code. Without a uid the
        object's creation may still be on its way, so one that is not there is asked for again.
        """
        transport = Transport(self._access)

        def delete(name: str, uid: str) -> None:
            from urllib3 import Timeout

            until = time.monotonic() + COURTESY_SECONDS
            while True:
                try:
                    transport.send("DELETE", self._path(kind, name), query={}, body=_deletion(uid), timeout=Timeout(total=COURTESY_SECONDS))
                    return
                except (Refused, FoundryError, OSError) as error:
                    absent = isinstance(error, Refused) and error.answer.status == 404
                    if uid or not absent or time.monotonic() > until:
                        log.debug("cannot delete %s %s: %s", kind.kind, name, error)
                        return
                time.sleep(COURTESY_PAUSE)

        return delete

    def _attempt(self, verb: str, kind: Kind, name: str = "", subresource: str = "") -> Attempt:
        return Attempt(verb, kind, self.namespace, name, subresource)

    def _path(self, kind: Kind, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        scope = ("namespaces", self.namespace) if kind.namespaced else ()
        return "/".join(part for part in (root, *scope, kind.plural, name, subresource) if part)

    def _request(
        self,
        attempt: Attempt,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        known: Collection[int] = (),
        passing: Callable[[Answer], bool] = lambda answer: False,
        as_text: bool = False,
    ) -> Any:
        """One call by the retry table; a status in `known` is raised as `Refused` for the caller to read.

        `passing` says what is worth another try besides the table.
        """
        import tenacity

        def passes(error: BaseException) -> bool:
            if isinstance(error, Refused):
                return error.answer.status in TRANSIENT or passing(error.answer)
            return isinstance(error, OSError)

        def tell(state: "RetryCallState") -> None:
            error = state.outcome.exception() if state.outcome else None
            log.warning("cannot %s yet (%s); attempt %d in %.1f s", attempt, error, state.attempt_number + 1, state.upcoming_sleep)

        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passes),
            stop=tenacity.stop_all(tenacity.stop_after_delay(self.outage_seconds), tenacity.stop_after_attempt(LEAST_ATTEMPTS)),
            wait=_wait,
            before_sleep=tell,
            reraise=True,
        )
        try:
            response = retry(self._transport.send, method, path, query=query or {}, body=body, timeout=_timeout(READ_SECONDS))
        except Refused as refusal:
            if passes(refusal):
                raise self._gave_up(attempt, refusal) from None
            if refusal.answer.status in known:
                raise
            raise explained(attempt, refusal.answer) from None
        except OSError as error:
            raise self._gave_up(attempt, error) from error
        text = response.data.decode(errors="replace")
        try:
            return text if as_text else json.loads(text)
        except ValueError as error:
            remedy = f"check that {self.source} names an API server, and no proxy or login page stands before it"
            raise PlatformError(f"cannot {attempt}: the answer is no JSON: {text[:100]!r}", where=attempt.where, remedy=remedy) from error

    def _gave_up(self, attempt: Attempt, error: Exception) -> PlatformError:
        remedy = f"check that the API server of {self.source} is up and reachable, then run again: what is running is found again"
        during = f" for {self.outage_seconds:.0f} s" if self.outage_seconds else ""
        return PlatformError(f"could not {attempt}{during}: {error}", where=attempt.where, remedy=remedy)


def _deletion(uid: str = "", foreground: bool = False) -> Object:
    body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground" if foreground else "Background"}
    return body | ({"preconditions": {"uid": uid}} if uid else {})


def _log_query(
    container: str, tail_lines: int, since: str, *, previous: bool = False, timestamps: bool = False, follow: bool = False
) -> dict[str, str]:
    wanted = {
        "container": container,
        "tailLines": str(tail_lines or ""),
        "sinceTime": since,
        "previous": "true" if previous else "",
        "timestamps": "true" if timestamps else "",
        "follow": "true" if follow else "",
    }
    return {key: value for key, value in wanted.items() if value}


def _lines(response: "BaseHTTPResponse") -> Iterator[str]:
    """The lines of a response as they come, the last one too if it has no end; a broken connection is an `OSError`."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in response.stream(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            if len(rest) > LONGEST_LINE:  # a progress bar may write for hours without an end of line
                rest = rest[: LONGEST_LINE // 4] + rest[-LONGEST_LINE // 4 :]
    except HTTPError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    if rest:
        yield rest.decode(errors="replace")


def _timeout(read: float) -> "Timeout":
    from urllib3 import Timeout

    return Timeout(connect=CONNECT_SECONDS, read=read)


def _write_conflict(answer: Answer) -> bool:
    """Somebody writes the object at the same time; the same status says that the uid which must hold does not."""
    return answer.status == 409 and "precondition" not in answer.message.lower()


def _quota_conflict(answer: Answer) -> bool:
    """Two writers of one resource quota at once; the same status says that there is an object of that name."""
    return answer.status == 409 and answer.reason != "AlreadyExists"


def _wait(state: "RetryCallState") -> float:
    """Doubling with jitter, and never earlier than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Refused) else 0.0
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(state.attempt_number - 1, 10))
    return max(min(asked, LONGEST_ASKED), backoff * random.uniform(0.5, 1.0))
