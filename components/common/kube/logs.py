"""The logs of remote pods while they run: shown line by line, and kept, since most controllers delete a failed job's pods.

One thread lists the pods, one thread per followed pod reads its log and goes on after every broken connection. A line is shown
once: the API server takes up a log at a whole second only, so what it sends again is told by its time and text. Nothing here
ever ends a launch; what cannot be read is said once.
"""

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import POD, Kind, Object, Objects
from kfp_foundry.components.common.kube.pod_status import has_started

TAIL_LINES = 60  # kept per pod
TAILS = 200  # pods whose last lines are kept
FIRST_PAUSE = 0.5  # seconds between attempts to go on with a log
LONGEST_PAUSE = 5.0
LIST_SECONDS = 2.0
NEWS_SECONDS = 30.0  # after the launch or a new pod, pods are looked for four times as often: a mistake may end one in a second
GRACE_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # a connection that is silent for so long is made anew: it may be dead
MARK_LENGTH = 300  # characters by which a line is known again
STAMP = re.compile(r"(?P<second>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d) ?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogSource:
    """Whose logs are followed.

    Args:
        labels: The pods that are watched.
        container: Their container; empty for the only one.
        shown: Further labels of the pods whose lines are shown, such as those of rank 0; empty shows all, None shows none.
        at_most: How many pods are followed at a time, the shown ones first; the others' lines are kept for a failure's report.
    """

    labels: Mapping[str, str]
    container: str = ""
    shown: Mapping[str, str] | None = field(default_factory=dict)
    at_most: int = 8

    @classmethod
    def of(cls, kind: Kind, name: str) -> "LogSource | None":
        """The first pod of that object shown, the others kept; None for a kind without pods of its own."""
        return cls(kind.pods_of(name), kind.container, dict(kind.first_pod)) if kind.pod_label else None

    def shows(self, pod: Object) -> bool:
        """Whether that pod's lines are shown."""
        labels = pod["metadata"].get("labels") or {}
        return self.shown is not None and all(labels.get(key) == value for key, value in self.shown.items())


class Place:
    """How far a log has been read, so that after a new connection no line comes twice.

    Example:
        >>> place = Place()
        >>> place.accept("2026-11-21T12:28:42.100000000Z epoch 1"), place.since
        ('epoch 1', '2026-11-21T12:28:42Z')
        >>> place.resume()
        >>> place.accept("2026-11-21T12:28:42.100000000Z epoch 1") is None
        True
    """

    def __init__(self) -> None:
        self.since = ""
        self._seen: Counter[str] = Counter()  # lines of the last second, which comes again
        self._due: Counter[str] = Counter()

    def resume(self) -> None:
        """Says that the lines from `since` on are about to come again."""
        self._due = self._seen.copy()

    def accept(self, line: str) -> str | None:
        """The line's text; None when it has come before."""
        stamp, mark = STAMP.match(line), line[:MARK_LENGTH]
        if self._due[mark] > 0:
            self._due[mark] -= 1
            return None
        if stamp is None:  # the kubelet's own words, such as that the container is gone
            return line
        since = stamp["second"] + stamp["zone"]
        if since > self.since:
            self._seen.clear()
            self.since = since
        self._seen[mark] += 1
        return line[stamp.end() :].rstrip("\r").rpartition("\r")[2]  # of a progress bar what it showed last


class Follower:
    """Follows the logs of an object's pods until it is closed.

    Args:
        cluster: The cluster.
        source: Whose logs.
        show: Called with the pod's name and one line, from several threads; by default the lines are logged.

    Example:
        >>> with Follower(cluster, LogSource.of(TRAINJOB, name)) as follower:
        ...     wait_for_the_end()
        >>> follower.tail("train-node-0-0-x7k2p")
    """

    def __init__(self, cluster: Cluster, source: LogSource, show: Callable[[str, str], None] | None = None) -> None:
        self._cluster = cluster.impatient()
        self._source = source
        self._show = show or (lambda pod, line: log.info("%s: %s", pod, line))
        self._lock = threading.Lock()
        self._news = time.monotonic()
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._known: dict[str, Object] = {}  # by uid, also when the pod is gone
        self._present: set[str] = set()  # uids of the last look
        self._tails: dict[str, deque[str]] = {}  # by the pod's name
        self._readers: dict[str, threading.Thread] = {}  # by uid
        self._told: set[str] = set()
        self._watcher = threading.Thread(target=self._watch, name="pods", daemon=True)

    def __enter__(self) -> "Follower":
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(GRACE_SECONDS if kind is None else 0.0)

    def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Reads what is there to its end and stops; a log that does not end within the grace is left.

        Args:
            grace_seconds: How long the logs of pods that still run are waited for.
        """
        if self._given_up.is_set():
            return
        self._closing.set()
        until = time.monotonic() + grace_seconds
        self._watcher.join(grace_seconds)
        with self._lock:
            readers = list(self._readers.values())
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))
        self._given_up.set()

    def pods(self) -> Objects:
        """Every pod that was seen, as it was seen last."""
        with self._lock:
            return list(self._known.values())

    def present(self) -> Objects:
        """The pods of the last look that are not on their way out."""
        with self._lock:
            return [pod for uid, pod in self._known.items() if uid in self._present and "deletionTimestamp" not in pod["metadata"]]

    def tail(self, pod: str) -> list[str]:
        """The last lines of that pod that were read."""
        with self._lock:
            return list(self._tails.get(pod, ()))

    def forget(self) -> None:
        """Drops what is known of pods that are gone: those before a preemption do not explain what came after."""
        with self._lock:
            self._known.clear()
            self._tails.clear()

    def _watch(self) -> None:
        while True:
            last_round = self._closing.is_set()  # one more look, for pods that came and went meanwhile
            self._look()
            self._start_readers()
            if last_round:
                return
            recent = time.monotonic() - self._news < NEWS_SECONDS
            self._closing.wait(LIST_SECONDS / 4 if recent else LIST_SECONDS)

    def _look(self) -> None:
        try:
            found = {pod["metadata"]["uid"]: pod for pod in self._cluster.pods(self._source.labels)}
        except FoundryError as error:
            self._tell_once(f"cannot look at the pods: {error}")
            return
        with self._lock:
            if set(found) - set(self._known):
                self._news = time.monotonic()
            self._known |= found
            self._present = set(found)

    def _remember(self, pod: Object) -> None:
        with self._lock:
            self._known[pod["metadata"]["uid"]] = pod

    def _start_readers(self) -> None:
        with self._lock:
            waiting = [pod for uid, pod in self._known.items() if uid not in self._readers and has_started(pod) and self._has_container(pod)]
            busy = sum(reader.is_alive() for reader in self._readers.values())
            waiting.sort(key=self._source.shows, reverse=True)
            for pod in waiting:
                if busy >= self._source.at_most and not self._source.shows(pod):
                    break
                reader = threading.Thread(target=self._read, args=(pod,), name=f"log of {pod['metadata']['name']}", daemon=True)
                self._readers[pod["metadata"]["uid"]] = reader
                reader.start()
                busy += 1

    def _has_container(self, pod: Object) -> bool:
        names = [container["name"] for container in (pod.get("status") or {}).get("containerStatuses") or []]
        return not self._source.container or self._source.container in names

    def _read(self, pod: Object) -> None:
        """Reads one pod's log to its end, over as many connections as it takes."""
        name, uid, place, pause = pod["metadata"]["name"], pod["metadata"]["uid"], Place(), FIRST_PAUSE
        current: Object | None = pod
        while not self._given_up.is_set():
            was_over, before, refusal, broken = _is_over(current), place.since, None, False
            place.resume()
            try:
                self._read_connection(pod, place)
            except FoundryError as error:
                refusal = error
            except OSError as error:
                broken = True
                log.debug("log of pod %s: %s", name, error)
            if was_over and not broken and refusal is None:
                return
            pause = FIRST_PAUSE if place.since != before else min(LONGEST_PAUSE, pause * 2)
            try:
                current = self._cluster.get(POD, name)
            except FoundryError as error:
                log.debug("pod %s: %s", name, error)
            else:
                if current is None or current["metadata"]["uid"] != uid:
                    return
                self._remember(current)
            if refusal:
                self._tell_once(f"cannot read the log of pod {name} now: {refusal}")
                if _is_over(current):
                    return
            if broken or not _is_over(current):
                self._given_up.wait(pause)

    def _read_connection(self, pod: Object, place: Place) -> None:
        """Reads until the log ends; an `OSError` when it was the connection that did."""
        name = pod["metadata"]["name"]
        with self._cluster.follow_log(name, self._source.container, since=place.since, silence_seconds=SILENCE_SECONDS) as lines:
            for line in lines:
                if self._given_up.is_set():
                    return
                text = place.accept(line)
                if text is not None:
                    self._deliver(pod, text)

    def _deliver(self, pod: Object, text: str) -> None:
        name = pod["metadata"]["name"]
        with self._lock:
            if name not in self._tails and len(self._tails) >= TAILS:
                del self._tails[next(iter(self._tails))]
            self._tails.setdefault(name, deque(maxlen=TAIL_LINES)).append(text)
        if self._source.shows(pod):
            self._show(name, text)

    def _tell_once(self, what: str) -> None:
        with self._lock:
            if what in self._told:
                return
            self._told.add(what)
        log.warning("%s", what)


def _is_over(pod: Object | None) -> bool:
    """Whether nothing more will be written."""
    return pod is None or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
