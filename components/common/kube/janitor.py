"""Stops what ended runs left behind on a cluster; meant to be run every minute (see `manifests/base/janitor.yaml`).

A step that launches a TrainJob or an Experiment deletes it when it is terminated, but on a cluster it rarely gets the time for
that, and exit handlers are not run when a run is terminated. So this looks at the cluster instead: an object that carries our
labels, is active, and belongs to a Workflow that has ended, was told to terminate or is gone, is deleted, and whatever it owns
with it. Nothing else is touched: not what is not ours, not what belongs to no Workflow (launched from a laptop), not what has
finished, not what belongs to a Workflow that runs or that cannot be read.

    python -m kfp_foundry.components.common.kube.janitor [--namespace NAME]... [--rounds N --pause SECONDS] [--dry-run]

Each object gets one line in the log. Exit code: 0 when everything is in order now, 1 when something could not be read or
stopped; the next round tries again.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, PYTORCHJOB, TRAINJOB, TRIAL, WORKFLOW, Kind, Object, Objects
from kfp_foundry.components.common.kube.task import MANAGED_BY, MANAGER, WORKFLOW_NAME

OUTAGE_SECONDS = 20.0  # the next round comes in a minute anyway
ENDED = ("Succeeded", "Failed", "Error")
JOBSET = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", done=("Completed",), failed=("Failed",))
OWNED = (TRIAL, TRAINJOB, PYTORCHJOB, JOBSET, JOB)  # kinds that our objects own, directly or through one another

log = logging.getLogger("janitor")


def is_active(kind: Kind) -> Callable[[Object], bool]:
    """Whether an object of a kind still uses anything: neither ended nor on its way out."""

    def active(obj: Object) -> bool:
        state = kind.state(obj)
        return not (state.ended or state.deleting)

    return active


def delete(cluster: Cluster, kind: Kind, obj: Object) -> str:
    """Deletes an object, unless another one has taken its name meanwhile; says what was done."""
    gone = cluster.delete(kind, obj["metadata"]["name"], uid=obj["metadata"]["uid"])
    return "deleted" if gone else "found gone already"


@dataclass(frozen=True)
class Rule:
    """What is done about one kind of object whose run is over.

    Args:
        kind: The kind.
        active: Whether an object still does what must end with its run.
        stop: Ends that; says what was done, as a past participle for the log.
        past: The same in a dry run: "would be ...".
    """

    kind: Kind
    active: Callable[[Object], bool]
    stop: Callable[[Cluster, Kind, Object], str] = delete
    past: str = "deleted"


RULES = tuple(Rule(kind, is_active(kind)) for kind in (EXPERIMENT, TRAINJOB, PYTORCHJOB, JOB))


@dataclass(frozen=True)
class Fate:
    """What became of a Workflow.

    Args:
        over: Whether nothing of it runs any more.
        why: In words.
    """

    over: bool
    why: str


@dataclass
class Swept:
    """What a sweep did: names of objects, and what went wrong."""

    stopped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sweep(cluster: Cluster, *, dry_run: bool = False, rules: Sequence[Rule] = RULES) -> Swept:
    """Looks once at every object of ours in a namespace, and stops those whose Workflow is over.

    Args:
        cluster: The cluster and the namespace.
        dry_run: Say what would be stopped, and stop nothing.
        rules: What is done about which kind.

    Example:
        >>> sweep(Cluster.connect(), dry_run=True).stopped
        ['TrainJob train-47b54c66b8']
    """
    return _Sweep(cluster, dry_run).run(rules)


class _Sweep:
    def __init__(self, cluster: Cluster, dry_run: bool) -> None:
        self.cluster, self.dry_run = cluster, dry_run
        self.swept = Swept()
        self.workflows: dict[str, Object | None] = {}
        self.owned: dict[Kind, Objects] = {}

    def run(self, rules: Sequence[Rule]) -> Swept:
        for rule in rules:
            for obj in self._ours(rule.kind):
                try:
                    self._look_at(rule, obj)
                except FoundryError as error:
                    self._problem(_named(rule.kind, obj), error)
        return self.swept

    def _ours(self, kind: Kind) -> Objects:
        """The objects of a kind with our labels and a Workflow's name."""
        try:
            if not self.cluster.served(kind):
                return []
            return self.cluster.list(kind, {MANAGED_BY: MANAGER, WORKFLOW_NAME: ""})
        except FoundryError as error:
            self._problem(kind.plural, error)
            return []

    def _problem(self, name: str, error: FoundryError) -> None:
        log.error("%s is left as it is: %s", name, error)
        self.swept.problems.append(name)

    def _look_at(self, rule: Rule, obj: Object) -> None:
        name, active = _named(rule.kind, obj), rule.active(obj)
        if not active and rule.kind is not EXPERIMENT and not rule.kind.state(obj).deleting:
            return  # finished, and with it all that it owns; an Experiment may end before its last trials
        fate = self._fate(obj)
        if not fate.over:
            if active:
                log.info("%s is left as it is: %s", name, fate.why)
                self.swept.left.append(name)
            return
        if active:
            self._stop(rule, obj, fate.why)
        self._stop_owned(obj, f"its owner {name} belongs to a run that is over")

    def _stop(self, rule: Rule, obj: Object, why: str) -> None:
        name = _named(rule.kind, obj)
        done = f"would be {rule.past}" if self.dry_run else f"was {rule.stop(self.cluster, rule.kind, obj)}"
        log.info("%s %s: %s", name, done, why)
        self.swept.stopped.append(name)

    def _fate(self, obj: Object) -> Fate:
        """What became of the Workflow that an object belongs to."""
        name = obj["metadata"]["labels"][WORKFLOW_NAME]
        owners = [owner for owner in obj["metadata"].get("ownerReferences") or [] if owner["kind"] == WORKFLOW.kind]
        if owners and owners[0]["name"] != name:
            return Fate(False, f"its label names Workflow {name}, its owner is {owners[0]['name']}")
        if name not in self.workflows:  # read after the object: what is seen to be over was over when the object was seen
            self.workflows[name] = self.cluster.get(WORKFLOW, name)
        workflow = self.workflows[name]
        if workflow is None:
            return Fate(True, f"its Workflow {name} is gone")
        if owners and owners[0]["uid"] != workflow["metadata"]["uid"]:
            return Fate(True, f"its Workflow {name} is gone, and another one bears its name")
        return _fate_of(workflow)

    def _stop_owned(self, owner: Object, why: str) -> None:
        """Stops what an object owns: its own deletion may be held up, and its controller be away."""
        for kind, obj in self._owned_by(owner["metadata"]["uid"]):
            if is_active(kind)(obj):
                self._stop(Rule(kind, is_active(kind)), obj, why)
            self._stop_owned(obj, why)

    def _owned_by(self, uid: str) -> Iterator[tuple[Kind, Object]]:
        for kind in OWNED:
            if kind not in self.owned:
                self.owned[kind] = self.cluster.list(kind) if self.cluster.served(kind) else []
            for obj in self.owned[kind]:
                if any(reference["uid"] == uid for reference in obj["metadata"].get("ownerReferences") or []):
                    yield kind, obj


def _fate_of(workflow: Object) -> Fate:
    name, spec, status = workflow["metadata"]["name"], workflow.get("spec") or {}, workflow.get("status") or {}
    if status.get("phase") in ENDED:
        return Fate(True, f"its Workflow {name} ended as {status['phase']} at {status.get('finishedAt')}")
    if "deletionTimestamp" in workflow["metadata"]:
        return Fate(True, f"its Workflow {name} is being deleted")
    # Kubeflow Pipelines terminates a run by a deadline of zero; the Workflow says so up to 16 s before it says that it ended
    if spec.get("activeDeadlineSeconds") == 0 or spec.get("shutdown") == "Terminate":
        return Fate(True, f"its Workflow {name} is being terminated")
    return Fate(False, f"its Workflow {name} runs ({status.get('phase') or 'not started'})")


def _named(kind: Kind, obj: Object) -> str:
    return f"{kind.kind} {obj['metadata']['name']}"


def main(args: Sequence[str] | None = None) -> int:
    """Some rounds over the given namespaces; returns the exit code, which is that of the last round.

    Args:
        args: The words of the command line; those of this process by default.
    """
    parser = argparse.ArgumentParser(prog="janitor", description="Stops what ended pipeline runs left behind.")
    parser.add_argument("--namespace", action="append", metavar="NAME", help="where to look; again for more (default: the own one)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often to look (default: once)")
    parser.add_argument("--pause", type=float, default=25.0, metavar="SECONDS", help="between two rounds (default: 25)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be stopped, and stop nothing")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    well = True
    for number in range(options.rounds):
        if number:
            time.sleep(options.pause)
        rounds = [_round(namespace, options.dry_run) for namespace in options.namespace or [""]]  # each of them, whatever the others say
        well = all(rounds)
    return 0 if well else 1


def _round(namespace: str, dry_run: bool) -> bool:
    """One sweep over a namespace; says whether it is in order now."""
    try:
        cluster = Cluster.connect(namespace, outage_seconds=OUTAGE_SECONDS)
        swept = sweep(cluster, dry_run=dry_run)
    except FoundryError as error:
        log.error("%s", error)
        return False
    counts = f"{len(swept.stopped)} stopped, {len(swept.left)} left running, {len(swept.problems)} with problems"
    log.info("namespace %s: %s", cluster.namespace, counts)
    return not swept.problems


if __name__ == "__main__":
    raise SystemExit(main())
