"""One launcher for every remote object: started once, found again, watched to its end, and never left behind on purpose.

1. The name is the same for every attempt of a step (see `task`). An object of that name that was made from the same spec is
   adopted while it is active and reused when it is done; one that failed is deleted and made anew, and its checkpoints are
   found by the name; one from another spec is refused and never touched; one in deletion is waited for.
2. Calls outlive an API server that is away for ten minutes; refusals are final (see `connection`).
3. The object belongs to the Workflow; deadlines stand in the object, and here besides, time in a queue counted apart.
4. The first act on SIGTERM or SIGINT is one DELETE, where it is the main thread that launches. On a cluster the process may be
   gone before that: the janitor remains.
5. The object is polled, its pods are looked at for logs only, and what fails is told in words (see `failure`).
"""

import copy
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure, collect, failed
from kfp_foundry.components.common.kube.kinds import Kind, Object, State
from kfp_foundry.components.common.kube.logs import Follower, LogSource
from kfp_foundry.components.common.kube.names import digest
from kfp_foundry.components.common.kube.pod_status import has_started, stuck_at
from kfp_foundry.components.common.kube.queueing import Clock, Limits, waiting_pods, why_waiting

How = Literal["created", "adopted", "reused", "recreated"]
LONGEST_REPORT_PAUSE = 900.0
FAILURE_GRACE_SECONDS = 3.0  # for the last lines; after a deadline the pods write on while they are being ended
SPEC = "kfp-foundry.io/spec"  # annotation: digest of the spec that an object was made from

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, in seconds.

    Args:
        first: Between two looks at the object, at first.
        longest: Between two looks, later: never more than a tenth of the time waited so far.
        report: Between the first two reports of why nothing runs; doubled with each.
        stuck: How long a pod may fail to get its image or its secrets before the launch is given up.
        deletion: How long an object of this name that is being deleted is waited for.
    """

    first: float = 2.0
    longest: float = 15.0
    report: float = 60.0
    stuck: float = 300.0
    deletion: float = 300.0

    def pause(self, waited: float) -> float:
        """Seconds until the next look."""
        return max(self.first, min(self.longest, waited / 10))


@dataclass(frozen=True)
class Finished:
    """An object that ended well.

    Args:
        object: As it was seen last.
        how: `created`, `adopted` (an earlier attempt's, still active), `reused` (done already) or `recreated` (it had failed).
        queued_seconds: While it was watched and nothing ran.
        run_seconds: While it was watched and ran.
    """

    object: Object
    how: How
    queued_seconds: float
    run_seconds: float


def launch(
    cluster: Cluster,
    kind: Kind,
    body: Object,
    *,
    limits: Limits,
    logs: LogSource | Follower | None = None,
    on_status: Callable[[Object], None] | None = None,
    keep_failed: bool = True,
    pace: Pace | None = None,
) -> Finished:
    """Starts a remote object, or finds the one that an earlier attempt of this step started, and waits for its end.

    A condition says that it is done; that its result exists is the caller's to check.

    Args:
        cluster: The cluster and namespace.
        kind: The object's kind.
        body: `metadata` with at least a name (see `Task.metadata`) and `spec`; the caller's dict is left as it is.
        limits: Seconds it may run and seconds it may wait to run; when one is over, the object is deleted.
        logs: Whose logs are followed, or who follows them already; None: rank 0 of a kind that has pods of its own.
        on_status: Called with the object whenever its status has changed; if it raises, the object is deleted.
        keep_failed: Leave a failed object where it is, for a look at it.
        pace: How often things are looked at.

    Raises:
        RemoteFailure: It failed, did not start or end in time, or somebody took it away.
        UserError: The cluster refuses it, or an object of that name was made from another spec.
        PlatformError: No right, not served, or no answer for ten minutes; what was started runs on.

    Example:
        >>> body = {"metadata": task.metadata("train"), "spec": spec}
        >>> launch(cluster, TRAINJOB, body, limits=Limits(run_seconds=3600)).run_seconds
    """
    return _Launch(cluster, kind, body, limits, on_status, keep_failed, pace or Pace()).run(logs)


class _Launch:
    def __init__(
        self, cluster: Cluster, kind: Kind, body: Object, limits: Limits, on_status: Callable[[Object], None] | None, keep_failed: bool, pace: Pace
    ) -> None:
        self.cluster, self.kind, self.limits, self.pace = cluster, kind, limits, pace
        self.on_status, self.keep_failed = on_status, keep_failed
        self.body = copy.deepcopy(body)
        self.digest = digest(body["spec"])
        self.body["metadata"].setdefault("annotations", {})[SPEC] = self.digest
        self.name: str = body["metadata"]["name"]
        self.where = f"{kind.kind} {self.name} in namespace {cluster.namespace}"
        self.ours = False  # from the moment on in which an object of this name can only be ours
        self.uid = ""
        self.clock = Clock(time.monotonic())
        self.reported = time.monotonic()
        self.report_pause = self.pace.report
        self.stuck_since: float | None = None

    def run(self, logs: LogSource | Follower | None) -> Finished:
        with self._deleting_on_signals():
            obj, how = self._ensure()
            log.info("%s %s", how, self.where)
            self.uid = obj["metadata"]["uid"]
            if how == "reused":
                return Finished(obj, how, 0.0, 0.0)
            with self._following(logs) as follower:
                self.clock = Clock(time.monotonic())
                return self._watch(obj, how, follower)

    def _following(self, logs: LogSource | Follower | None) -> AbstractContextManager[Follower | None]:
        if isinstance(logs, Follower):
            return nullcontext(logs)
        source = logs or LogSource.of(self.kind, self.name)
        return Follower(self.cluster, source) if source else nullcontext()

    def _ensure(self) -> tuple[Object, How]:
        """The object that is to be watched, after rule 1."""
        how: How = "created"
        until: float | None = None
        while True:
            current = self.cluster.get(self.kind, self.name)
            if current is None:
                self.ours, self.uid = True, ""
                made = self.cluster.create(self.kind, self.body)
                if made is not None:
                    return made, how
                self.ours = False  # somebody was faster, perhaps an attempt of ours whose answer was lost
                continue
            state = self.kind.state(current)
            if state.deleting:
                until = until or time.monotonic() + self.pace.deletion
                self._wait_for_deletion(current, until)
                continue
            if (current["metadata"].get("annotations") or {}).get(SPEC) != self.digest:
                raise self._foreign(current)
            self.ours, self.uid = True, current["metadata"]["uid"]
            if state.phase == "done":
                return current, "reused"
            if state.phase != "failed":
                return current, "adopted"
            log.warning("%s of an earlier attempt has failed (%s: %s); it is made anew", self.where, state.reason, state.message)
            how = "recreated"
            self.cluster.delete(self.kind, self.name, uid=self.uid, foreground=True)  # its pods may bear the same names

    def _wait_for_deletion(self, current: Object, until: float) -> None:
        if time.monotonic() > until:
            finalizers = ", ".join(current["metadata"].get("finalizers") or []) or "none"
            what = f"is being deleted for more than {self.pace.deletion:.0f} s (finalizers: {finalizers})"
            raise PlatformError(what, where=self.where, remedy="see why its controller does not let it go, then run again")
        log.info("%s is being deleted; waiting", self.where)
        time.sleep(self.pace.first)

    def _foreign(self, current: Object) -> UserError:
        by = (current["metadata"].get("annotations") or {}).get(SPEC)
        what = "exists and was made from another spec" if by else "exists and was not made by this project"
        return UserError(f"{what}; it is left alone", where=self.where, remedy="delete it if nobody needs it, then run again")

    def _watch(self, obj: Object, how: How, follower: Follower | None) -> Finished:
        started = time.monotonic()
        last: object = None
        while True:
            state = self.kind.state(obj)
            self._tick(state, follower)
            if (obj.get("status") or {}) != last:
                last = obj.get("status") or {}
                self._tell(obj)
            if state.phase == "done":
                return Finished(obj, how, self.clock.queued_seconds, self.clock.run_seconds)
            if state.phase == "failed":
                raise self._failure(obj, follower)
            self._check_limits(obj, state, follower)
            if self.clock.running:
                self._check_the_rest(follower)
            else:
                self._check_start(obj, state, follower)
            time.sleep(self.pace.pause(time.monotonic() - started))
            obj = self._look()

    def _tick(self, state: State, follower: Follower | None) -> None:
        pods_started = state.phase == "starting" and follower is not None and any(has_started(pod) for pod in follower.present())
        was_running = self.clock.running
        self.clock.tick(state.phase, pods_started, time.monotonic())
        if self.clock.running and not was_running:
            log.info("%s runs, after %.0f s without a running pod", self.where, self.clock.queued_seconds)
            self.reported, self.report_pause = time.monotonic(), self.pace.report
        if was_running and state.phase == "queued":
            log.warning("%s was suspended (%s) and waits again", self.where, state.message or state.reason)
            self.reported, self.report_pause = time.monotonic(), self.pace.report
            if follower:
                follower.forget()

    def _tell(self, obj: Object) -> None:
        if self.on_status is None:
            return
        try:
            self.on_status(obj)
        except Exception:
            self._delete()
            raise

    def _look(self) -> Object:
        """The object as it is now, if it is still the same one."""
        current = self.cluster.get(self.kind, self.name)
        if current is not None and current["metadata"]["uid"] == self.uid:
            state = self.kind.state(current)
            if state.ended or not state.deleting:
                return current
        what = "was replaced by another object" if current and current["metadata"]["uid"] != self.uid else "was deleted by somebody else"
        remedy = "find out who did it (a janitor stops what belongs to ended runs), then run again"
        raise RemoteFailure(f"{what} while this step waited for it", where=self.where, remedy=remedy)

    def _failure(self, obj: Object, follower: Follower | None) -> RemoteFailure:
        if follower:
            follower.close(FAILURE_GRACE_SECONDS)
        error = failed(self.cluster, self.kind, collect(self.cluster, self.kind, obj, follower), "failed")
        if not self.keep_failed:
            self._delete()
        return error

    def _check_limits(self, obj: Object, state: State, follower: Follower | None) -> None:
        over = self.clock.exceeded(self.limits)
        if not over:
            return
        evidence = collect(self.cluster, self.kind, obj, follower)
        fate = self._delete()
        if over == "run":
            headline = f"has run for {self.clock.run_seconds:.0f} s, longer than {self.limits.run_seconds:.0f} s; it {fate}"
            remedy = "" if waiting_pods(evidence.pods) else "give it more time (timeout_minutes), then run again"
        else:
            why = why_waiting(obj, state, evidence.pods, evidence.warnings)
            headline = f"has not run within {self.limits.queue_seconds:.0f} s and {fate}: {why}"
            remedy = "wait longer (queue_timeout_minutes), ask for less, or see what holds the queue"
        raise failed(self.cluster, self.kind, evidence, headline, remedy)

    def _check_start(self, obj: Object, state: State, follower: Follower | None) -> None:
        """Reports from time to time why nothing runs, and gives up on what cannot start without a change."""
        now = time.monotonic()
        stuck = next((reason for pod in (follower.present() if follower else []) for reason in [stuck_at(pod)] if reason), "")
        self.stuck_since = (self.stuck_since or now) if stuck else None
        if self.stuck_since is not None and now - self.stuck_since > self.pace.stuck:
            evidence = collect(self.cluster, self.kind, obj, follower)
            raise failed(self.cluster, self.kind, evidence, f"could not start for {self.pace.stuck:.0f} s ({stuck}) and {self._delete()}")
        if self._report_is_due():
            evidence = collect(self.cluster, self.kind, obj, follower, with_logs=False)
            why = why_waiting(obj, state, evidence.pods, evidence.warnings)
            log.warning("%s: nothing runs after %.0f s: %s", self.where, self.clock.queued_seconds, why)

    def _check_the_rest(self, follower: Follower | None) -> None:
        """Reports from time to time which pods are held up although others run: ranks that run wait for those that do not."""
        held_up = waiting_pods(follower.present() if follower else [])
        if held_up and self._report_is_due():
            log.warning("%s runs, but not all of it: %s", self.where, held_up)

    def _report_is_due(self) -> bool:
        now = time.monotonic()
        if now - self.reported <= self.report_pause:
            return False
        self.reported, self.report_pause = now, min(self.report_pause * 2, LONGEST_REPORT_PAUSE)
        return True

    def _delete(self) -> str:
        """Deletes the object and says what came of it; that this failed never takes the place of why it had to go."""
        try:
            self.cluster.delete(self.kind, self.name, uid=self.uid)
        except FoundryError as error:
            log.error("%s is still there: %s", self.where, error)
            return f"is still there, since it could not be deleted ({error})"
        return "was deleted"

    @contextmanager
    def _deleting_on_signals(self) -> Iterator[None]:
        """While the block runs, the first act on SIGTERM or SIGINT is one DELETE of what is ours."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        delete = self.cluster.courtesy_delete(self.kind)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def stop(number: int, frame: FrameType | None) -> None:
            if self.ours:
                delete(self.name, self.uid)
            earlier = before[signal.Signals(number)]
            if callable(earlier):
                earlier(number, frame)
            raise SystemExit(128 + number)

        heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in heeded:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, before[number] or signal.SIG_DFL)
