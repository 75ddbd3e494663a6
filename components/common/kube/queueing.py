"""Time in the queue counted apart from time at work, and why nothing runs yet, in words.

A queue such as Kueue keeps an object suspended, for hours perhaps, and no limit on the training's own time may count that. The
same holds for pods that no node takes or whose image is on its way: the object says `active` all the while, and why it waits is
told by its pods and Events alone.
"""

from dataclasses import dataclass

from kfp_foundry.components.common.kube.kinds import Object, Objects, Phase, State
from kfp_foundry.components.common.kube.pod_status import has_started, trouble

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Limits:
    """How long a launch waits. The run's own deadline belongs into the object too, where the server keeps it.

    Args:
        run_seconds: From the first pod that runs; 0 for no limit.
        queue_seconds: While nothing runs; 0 for no limit.
    """

    run_seconds: float = 0
    queue_seconds: float = 0


class Clock:
    """Counts an object's seconds in the queue and at work; one that is suspended again queues again.

    Args:
        now: The time of the first look at it.
    """

    def __init__(self, now: float) -> None:
        self.queued_seconds = 0.0
        self.run_seconds = 0.0
        self.running = False
        self._last = now

    def tick(self, phase: Phase, pods_started: bool, now: float) -> None:
        """Adds the time since the last look to what the object was doing then.

        Args:
            phase: What it says it does now.
            pods_started: Whether a pod of it is known to have started.
            now: The time.
        """
        elapsed, self._last = now - self._last, now
        if self.running:
            self.run_seconds += elapsed
        else:
            self.queued_seconds += elapsed
        self.running = phase != "queued" and (self.running or pods_started or phase != "starting")

    def exceeded(self, limits: Limits) -> str:
        """Which limit is over: `run`, `queue` or none (empty)."""
        if self.running:
            return "run" if 0 < limits.run_seconds <= self.run_seconds else ""
        return "queue" if 0 < limits.queue_seconds <= self.queued_seconds else ""


def why_waiting(obj: Object, state: State, pods: Objects, warnings: Objects) -> str:
    """Why nothing runs yet, for a person to read.

    Args:
        obj: The remote object.
        state: What it says it does.
        pods: Its pods.
        warnings: Warning Events about it and what it made.
    """
    if state.phase == "queued":
        queue = (obj["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        return f"waits to be admitted by queue {queue!r}" if queue else f"is suspended ({state.message or state.reason})"
    held_up = waiting_pods(pods)
    if held_up:
        return held_up
    if warnings:
        last = warnings[-1]
        return f"{last.get('reason')}: {last.get('message')}"
    return f"{len(pods)} pods made, none running yet" if pods else "no pod was made yet"


def waiting_pods(pods: Objects) -> str:
    """What pods that have not started are held up by, for a person to read; empty when none is.

    Args:
        pods: All pods of a remote object.

    Example:
        >>> waiting_pods(pods)
        '2 pods made, none running: no node takes pod train-node-0-0-x7k2p: 0/1 nodes are available'
    """
    troubles = list(dict.fromkeys(text for pod in pods if not has_started(pod) for text in [trouble(pod)] if text))
    if not troubles:
        return ""
    started = sum(has_started(pod) for pod in pods)
    return f"{len(pods)} pods made, {started or 'none'} running: {'; '.join(troubles[:3])}"
