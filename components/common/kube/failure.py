"""Why a remote object failed, in words: its conditions, the pods that ended badly with their last lines, warning Events."""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import Kind, Object, Objects, in_words
from kfp_foundry.components.common.kube.logs import Follower
from kfp_foundry.components.common.kube.pod_status import PULLS, Ending, endings, stuck_at, trouble

SHOWN_LINES = 5  # of a log, in the message
LOGGED_LINES = 25
LONGEST_TEXT = 300
TOLD_BY_PODS = frozenset({"BackOff", "Failed", "FailedScheduling"})  # Events whose subject a pod's own status tells
TERMINATED = 143  # by SIGTERM: the end of the others, hardly ever the cause
KILLED = 137
EXCEPTION = re.compile(r"(?:^|\]:\s?)(?:[\w.]+\.)?(?!ChildFailedError)\w*(?:Error|Exception|Interrupt|Exit|error)\b:?")
NOT_MADE = re.compile(r"ResourcesCreationFailed|FailedCreate")

log = logging.getLogger(__name__)


class RemoteFailure(FoundryError):
    """A remote object failed, did not start or did not end in time, or was taken away."""

    def __init__(self, what: str, *, where: str, remedy: str, details: Sequence[str] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.details = tuple(details)


@dataclass(frozen=True)
class Evidence:
    """What can be found out about an object.

    Args:
        object: The object itself.
        pods: Its pods, also such as are gone by now.
        warnings: Warning Events about it and what was made for it, oldest first.
        tails: Last lines by the pod's name.
        gaps: What could not be looked at, and why.
    """

    object: Object
    pods: Objects = field(default_factory=list)
    warnings: Objects = field(default_factory=list)
    tails: dict[str, list[str]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    @property
    def endings(self) -> list[Ending]:
        """The containers that ended badly, the likely cause first."""
        found = [ending for pod in self.pods for ending in endings(pod)]
        return sorted(found, key=lambda ending: (ending.exit_code == TERMINATED, ending.at, ending.pod))


def collect(cluster: Cluster, kind: Kind, obj: Object, follower: Follower | None = None, *, with_logs: bool = True) -> Evidence:
    """Looks at everything that may say why; what cannot be looked at is noted and no error.

    Args:
        cluster: The cluster.
        kind: The object's kind.
        obj: The object.
        follower: Who has followed its pods, and knows those that are gone.
        with_logs: Read the last lines of pods that ended badly and were not followed.
    """
    hasty = cluster.impatient()
    evidence = Evidence(obj)
    known = {pod["metadata"]["uid"]: pod for pod in (follower.pods() if follower else [])}
    name = obj["metadata"]["name"]
    labels = kind.pods_of(name)

    def looked_at(what: str, look: Callable[[], Objects]) -> Objects:
        try:
            return look()
        except FoundryError as error:
            evidence.gaps.append(f"{what} could not be read ({error})")
            return []

    if labels:
        known |= {pod["metadata"]["uid"]: pod for pod in looked_at("its pods", lambda: hasty.pods(labels))}
    evidence.pods.extend(known.values())
    born = obj["metadata"].get("creationTimestamp") or ""
    evidence.warnings.extend(
        event for event in looked_at("Events", lambda: hasty.events(lambda about: name in about)) if not born or (_time(event) or born) >= born
    )
    if follower:
        evidence.tails.update({pod["metadata"]["name"]: follower.tail(pod["metadata"]["name"]) for pod in evidence.pods})
    if with_logs:
        for ending in evidence.endings[:3]:
            if ending.container and not evidence.tails.get(ending.pod):
                evidence.tails[ending.pod] = _last_lines(hasty, ending)
    return evidence


def failed(cluster: Cluster, kind: Kind, evidence: Evidence, headline: str, remedy: str = "") -> RemoteFailure:
    """The error to raise, with everything that is known; the long form goes to the log.

    Args:
        cluster: The cluster.
        kind: The object's kind.
        evidence: What was found out.
        headline: What happened, as "failed" or "did not end within 3600 s".
        remedy: What to do; empty: by what is known.
    """
    name = evidence.object["metadata"]["name"]
    conditions = in_words(evidence.object)
    told = [f"it says {conditions}"] if conditions and conditions not in headline else []
    told += [text for text in _pods_in_words(evidence) if text not in headline]
    told += [f"Event {event}" for event in _events_in_words(evidence.warnings, skipping=TOLD_BY_PODS)[-2:]]
    told += evidence.gaps
    details = list(_details(evidence))
    for line in details:
        log.error("%s", line)
    where = f"{kind.kind} {name} in namespace {cluster.namespace}"
    return RemoteFailure("; ".join([headline, *told]), where=where, remedy=remedy or what_to_do(evidence), details=details)


def what_to_do(evidence: Evidence) -> str:
    """The remedy that the evidence suggests."""
    first = next(iter(evidence.endings), None)
    stuck = next((reason for pod in evidence.pods for reason in [stuck_at(pod)] if reason), "")
    if first is not None and first.reason == "OOMKilled":
        return "give it more memory (set_memory_limit on the step), or make its batches smaller"
    if first is not None and first.reason == "Evicted":
        return "ask for the memory and ephemeral storage that it uses, so that its node has room for it"
    if stuck in PULLS:
        return "check the image's name and tag, and that the service account has a pull secret for its registry"
    if stuck:
        return "make the Secret, ConfigMap or command right that the pod's message names"
    if any(
        "Unschedulable" in str(condition.get("reason")) for pod in evidence.pods for condition in ((pod.get("status") or {}).get("conditions") or [])
    ):
        return "ask for less (CPU, memory, accelerators), check node selector and tolerations, or add nodes"
    if "DeadlineExceeded" in in_words(evidence.object):
        return "give it more time (timeout_minutes), then run again"
    if any(NOT_MADE.search(str(event.get("reason"))) for event in evidence.warnings):
        return "the controller could not make its pods: change what the Event names (a quota, a policy, a runtime)"
    if first is not None and first.exit_code in (KILLED, TERMINATED):
        return "it was killed from outside (a drained or lost node, a preemption, a limit of its own): run again"
    if first is None and not any(evidence.tails.values()):
        return "see what its controller says about it (kubectl describe), and about what it made"
    return "change what its last lines name; the log above has more of them"


def telling_lines(tail: Sequence[str]) -> list[str]:
    """The last lines of a log, and before them the last line that names an exception if they do not.

    Example:
        >>> telling_lines(["ValueError: bad column", "a", "b", "c", "d", "e"])
        ['ValueError: bad column', 'b', 'c', 'd', 'e']
    """
    lines = [line.rstrip() for line in tail if line.strip()]
    last = lines[-SHOWN_LINES:]
    naming = [line for line in lines if EXCEPTION.search(line)]
    if naming and naming[-1] not in last:
        return [naming[-1], *last[1:]]
    return last


def _pods_in_words(evidence: Evidence) -> list[str]:
    """How the first pods ended, each way told once; else what pods are stuck at, or what the first one wrote last."""
    told: dict[str, str] = {}
    for ending in evidence.endings:
        tail = evidence.tails.get(ending.pod, [])
        told.setdefault(f"{ending.exit_code} {ending.reason} {telling_lines(tail)}", _ending_in_words(ending, tail))
    stuck = dict.fromkeys(_cut(text) for pod in evidence.pods for text in [trouble(pod)] if text)
    last = [f"pod {pod} wrote last: {_joined(tail)}" for pod, tail in evidence.tails.items() if tail]
    return list(told.values())[:2] or list(stuck)[:2] or last[:1]


def _ending_in_words(ending: Ending, tail: Sequence[str]) -> str:
    return f"{ending}, " + (f"last lines: {_joined(tail)}" if tail else "no line of its log is left")


def _joined(tail: Sequence[str]) -> str:
    return " / ".join(line.strip() for line in telling_lines(tail))


def _details(evidence: Evidence) -> list[str]:
    lines = []
    for ending in evidence.endings[:3]:
        lines.append(f"{ending}; its last lines:")
        lines += [f"    {line}" for line in evidence.tails.get(ending.pod, [])[-LOGGED_LINES:]]
    return lines + [f"Event {event}" for event in _events_in_words(evidence.warnings)]


def _events_in_words(warnings: Objects, skipping: Collection[str] = ()) -> list[str]:
    told: dict[str, None] = {}
    for event in warnings:
        about = event.get("involvedObject") or {}
        if event.get("reason") not in skipping:
            told[f"{event.get('reason')} of {about.get('kind')} {about.get('name')}: {_cut(str(event.get('message') or ''))}"] = None
    return list(told)


def _cut(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_TEXT else f"{words[:LONGEST_TEXT]} ..."


def _last_lines(cluster: Cluster, ending: Ending) -> list[str]:
    try:
        text = cluster.pod_log(ending.pod, ending.container, tail_lines=LOGGED_LINES)
        if not text.strip():  # started anew since, and silent so far
            text = cluster.pod_log(ending.pod, ending.container, tail_lines=LOGGED_LINES, previous=True)
    except FoundryError as error:
        log.debug("log of pod %s: %s", ending.pod, error)
        return []
    return text.splitlines()


def _time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
