"""A fake Kubernetes API server: real HTTP on loopback, real refusals, recorded behaviour, and faults on demand.

    with FakeCluster() as cluster:
        cluster.replay("trainjob-complete", speed=20)
        cluster.fail("create", 503, times=2)
        ...  # anything that reads cluster.kubeconfig
        assert [r.verb for r in cluster.requests]

What it holds against the real server: the CRD schemas of the chosen Trainer, the typed models of Trainer and Katib, the
webhooks' refusals, immutable fields, RBAC, uids, resource versions, finalizers, garbage collection by owner, watches with
history, logs that follow. What it does not do: run anything. Objects stand still unless a recording is replayed for them or a
test sets their status.
"""

import json
import random
import shutil
import tempfile
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from fake_kubernetes_checks import checked
from fake_kubernetes_faults import Answer, Fault, Faults
from fake_kubernetes_http import Handler, Request
from fake_kubernetes_katib import Katib, Outcome
from fake_kubernetes_objects import RESOURCES, Object, Objects, Resource
from fake_kubernetes_replay import Player, main_kind

NAMESPACE = "team"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:pipeline-runner"


class FakeCluster:
    """The server, and the hands with which a test moves what is in it.

    Args:
        trainer: Which Trainer's TrainJobs it serves: 2.0, 2.1, 2.2 or 2.3.
        namespace: The namespace of the kubeconfig.

    Attributes:
        kubeconfig: A file with which clients reach it.
        requests: Every request so far, in RBAC's words.
        token: The token that it accepts now.
        rules: The rules of a Role, when only these are allowed; None allows everything.
    """

    def __init__(self, trainer: str = "2.3", namespace: str = NAMESPACE) -> None:
        self.trainer = trainer
        self.namespace = namespace
        self.resources = list(RESOURCES)
        self.requests: list[Request] = []
        self.faults = Faults()
        self.store = Objects()
        self.closed = threading.Event()
        self.token = uuid.uuid4().hex
        self.rules: list[dict[str, Any]] | None = None
        self.away_until = 0.0
        self.streams = 0  # counts how often all streams were cut
        self._denied: set[tuple[str, str]] = set()
        self._replays: dict[str, list[tuple[str, float, dict[str, list[str]]]]] = {}
        self._outcome: tuple[Outcome, float] | None = None
        self._logs: dict[tuple[str, bool], list[tuple[datetime, str]]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="fake-kubernetes-"))
        self.kubeconfig = str(self.folder / "kubeconfig")

    def __enter__(self) -> Self:
        handler = type("BoundHandler", (Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._write_kubeconfig()
        self.create("namespaces", {"metadata": {"name": self.namespace, "labels": {"katib.kubeflow.org/metrics-collector-injection": "enabled"}}})
        self.add_runtime("torch-distributed", scoped=False)
        self.add_runtime("kfp-foundry-torch")
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        self.cut_streams()
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _write_kubeconfig(self) -> None:
        Path(self.kubeconfig).write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
                    "users": [{"name": "fake", "user": {"token": self.token}}],
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": self.namespace}}],
                    "current-context": "fake",
                }
            )
        )

    # -- objects -------------------------------------------------------------------------------------------------------

    def resource(self, kind: Any) -> Resource:
        """The served resource of a plural, of a kind's name, or of anything with a `plural`."""
        name = getattr(kind, "plural", kind)
        return next(r for r in self.resources if name in (r.plural, r.kind))

    def create(self, kind: Any, body: Object) -> Object:
        """Puts an object in as it is, past all checks."""
        return self.store.add(self.resource(kind), body, self.namespace)

    def get(self, kind: Any, name: str) -> Object | None:
        """An object, or None."""
        return self.store.get(self.resource(kind), self.namespace, name)

    def objects(self, kind: Any) -> list[Object]:
        """All objects of a kind in the namespace."""
        resource = self.resource(kind)
        return self.store.all_of(resource, self.namespace if resource.namespaced else None)[0]

    def set_status(self, kind: Any, name: str, **status: Any) -> Object:
        """Writes an object's status, as its controller would."""
        found = self.get(kind, name)
        assert found is not None, f"no {kind} {name}"
        return self.store.replace(self.resource(kind), {**found, "status": status})

    def set_condition(self, kind: Any, name: str, condition: str, reason: str = "", message: str = "", status: str = "True") -> Object:
        """Sets one condition of an object and keeps the others."""
        found = self.get(kind, name)
        assert found is not None, f"no {kind} {name}"
        before = found.get("status") or {}
        others = [c for c in before.get("conditions") or [] if c["type"] != condition]
        told = {"type": condition, "status": status, "reason": reason, "message": message}
        return self.store.replace(self.resource(kind), {**found, "status": {**before, "conditions": [*others, told]}})

    def delete(self, kind: Any, name: str) -> None:
        """Deletes an object, as somebody else would."""
        self.store.delete(self.resource(kind), self.namespace, name)

    def replace_object(self, kind: Any, name: str) -> Object:
        """Puts another object, with another uid, in the place of one."""
        found = self.get(kind, name)
        assert found is not None, f"no {kind} {name}"
        self.store.delete(self.resource(kind), self.namespace, name)
        meta = {key: value for key, value in found["metadata"].items() if key in ("name", "labels", "annotations", "ownerReferences")}
        return self.create(kind, {"metadata": meta, "spec": found.get("spec", {})})

    def hold_deletion(self, kind: Any, name: str) -> None:
        """A deletion of this object does not get on, as with a finalizer that nobody takes off; see `release_deletion`."""
        self.store.held.add((self.resource(kind).plural, name))

    def release_deletion(self, kind: Any, name: str) -> None:
        """Lets a held deletion get on."""
        self.store.release(self.resource(kind).plural, name)

    def add_runtime(self, name: str, scoped: bool = True) -> Object:
        """A TrainingRuntime, or a ClusterTrainingRuntime, with the job and container `node`."""
        pod = {"containers": [{"name": "node", "image": "local/python:3.11"}]}
        job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
        spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": [job]}}}
        return self.create("trainingruntimes" if scoped else "clustertrainingruntimes", {"metadata": {"name": name}, "spec": spec})

    def add_workflow(self, name: str = "flights-x7k2p", phase: str = "Running", run: str = "") -> Object:
        """An Argo Workflow with the label of its KFP run."""
        run = run or str(uuid.uuid4())
        return self.create("workflows", {"metadata": {"name": name, "labels": {"pipeline/runid": run}}, "spec": {}, "status": {"phase": phase}})

    def end_workflow(self, name: str, phase: str = "Failed", finished: datetime | None = None) -> Object:
        """Ends a Workflow, as Argo writes it."""
        found = self.get("workflows", name)
        assert found is not None, f"no workflow {name}"
        at = (finished or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
        labels = {**found["metadata"].get("labels", {}), "workflows.argoproj.io/completed": "true", "workflows.argoproj.io/phase": phase}
        ended = {"phase": phase, "finishedAt": at, "conditions": [{"type": "Completed", "status": "True"}]}
        return self.store.replace(self.resource("workflows"), {**found, "metadata": {**found["metadata"], "labels": labels}, "status": ended})

    def add_step_pod(self, workflow: Object, name: str = "flights-x7k2p-system-container-impl-123") -> Object:
        """The pod of a step of a Workflow; `KFP_POD_NAME` is its name."""
        meta = workflow["metadata"]
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"]}
        labels = {"pipeline/runid": meta["labels"]["pipeline/runid"], "workflows.argoproj.io/workflow": meta["name"]}
        refs = [{**owner, "controller": True, "blockOwnerDeletion": True}]
        return self.create("pods", {"metadata": {"name": name, "labels": labels, "ownerReferences": refs}, "status": {"phase": "Running"}})

    def admit(self, resource: Resource, body: Object, namespace: str, strict: bool) -> Object:
        """Creates what a client sent, after every check; starts the recording that is to be replayed for it."""
        meta = {**body.get("metadata", {}), **({"namespace": namespace} if resource.namespaced else {})}
        stored = checked(resource, {**body, "metadata": meta}, strict, self.trainer, self.store)
        stored.pop("status", None)
        try:
            made = self.store.add(resource, stored, namespace)
        except KeyError:
            details = {"name": meta["name"], "group": resource.group, "kind": resource.plural}
            raise Answer(409, f'{resource.qualified} "{meta["name"]}" already exists', details=details) from None
        queued = self._replays.get(resource.kind)
        if queued:
            name, speed, logs = queued.pop(0) if len(queued) > 1 else queued[0]
            Player(self, name, made, speed, logs).start()
        elif self._outcome and resource.plural == "experiments":
            Katib(self, made, *self._outcome).start()
        return made

    # -- behaviour -----------------------------------------------------------------------------------------------------

    def replay(self, recording: str, speed: float = 20.0, logs: dict[str, list[str]] | None = None) -> None:
        """Objects of the recording's kind develop as in the recording from their create on.

        Called again, the next object takes the next recording; the last one stays.

        Args:
            recording: A file's name in `tests/recordings`, such as `trainjob-complete`.
            speed: How many recorded seconds pass in one of ours.
            logs: What pods write when they run, by a part of their name: `{"node-0-0": ["epoch=1 loss=0.5"]}`.
        """
        self._replays.setdefault(main_kind(recording), []).append((recording, speed, logs or {}))

    def run_experiments(self, outcome: Outcome, seconds: float = 0.1) -> None:
        """Experiments made from now on are run by a Katib whose trials end as a function says.

        Args:
            outcome: Gets a trial's assignments by name; gives its metrics, None for none, or raises `TrialFailed`.
            seconds: How long a trial takes.
        """
        self._outcome = (outcome, seconds)

    def stand_still(self, kind: Any = "") -> None:
        """Objects made from now on stand still; `kind` limits it to one."""
        for name in [self.resource(kind).kind] if kind else list(self._replays):
            self._replays.pop(name, None)
        if not kind or self.resource(kind).kind == "Experiment":
            self._outcome = None

    def log(self, pod: str, *lines: str, previous: bool = False) -> None:
        """Appends lines to a pod's log."""
        self._logs.setdefault((pod, previous), []).extend((datetime.now(UTC), line) for line in lines)

    def lines(self, pod: str, previous: bool = False) -> list[tuple[datetime, str]]:
        """A pod's log with the times of its lines."""
        return self._logs.setdefault((pod, previous), [])

    # -- faults --------------------------------------------------------------------------------------------------------

    def fail(
        self, verb: str, status: int, times: int = 1, *, plural: str = "", retry_after: float | None = None, message: str = "", reason: str = ""
    ) -> None:
        """The next `times` requests of a verb (`*`: of any) are answered with an error.

        Args:
            verb: In RBAC's words: create, get, list, watch, delete, patch; `*` for all.
            status: HTTP status.
            times: How many requests.
            plural: Only requests for this resource, such as `trainjobs` or `pods/log`.
            retry_after: Seconds for the header Retry-After.
            message: The Status object's message.
            reason: The Status object's reason.
        """
        self.faults.add(Fault(verb, plural, times, Answer(status, message, reason, retry_after)))

    def drop(self, verb: str, times: int = 1, *, plural: str = "", after: bool = False) -> None:
        """The next requests lose their connection; with `after` they are carried out, and only the answer is lost."""
        self.faults.add(Fault(verb, plural, times, drop="after" if after else "before"))

    def slow(self, verb: str, seconds: float, times: int = 1, *, plural: str = "") -> None:
        """The next requests wait before they are carried out."""
        self.faults.add(Fault(verb, plural, times, seconds=seconds))

    def storm(self, share: float, seed: int = 1) -> None:
        """From now on that share of all requests meets a passing fault: a refusal, a lost connection or answer, a wait."""
        self.faults.share, self.faults.dice = share, random.Random(seed)

    def away(self, seconds: float) -> None:
        """The server is gone for some seconds: no request is answered, and every stream breaks off."""
        self.away_until = time.monotonic() + seconds
        self.cut_streams()

    def deny(self, verb: str, plural: str) -> None:
        """The account loses a right: `deny("create", "trainjobs")`."""
        self._denied.add((verb, plural))

    def allow_only(self, rules: list[dict[str, Any]]) -> None:
        """The account has the rights of these Role rules, and no other."""
        self.rules = rules

    def unserve(self, *plurals: str) -> None:
        """The cluster does not know these resources: their CRDs are not installed."""
        self.resources = [r for r in self.resources if r.plural not in plurals]

    def rotate_token(self, publish: bool = True) -> str:
        """From now on another token counts; unless `publish`, the kubeconfig keeps the old one."""
        self.token = uuid.uuid4().hex
        if publish:
            self._write_kubeconfig()
        return self.token

    def cut_streams(self) -> None:
        """Every watch and every followed log breaks off."""
        self.streams += 1

    def forget_history(self) -> None:
        """A watch that goes on from before this moment is told 410 Gone."""
        self.store.forget()

    # -- what the handler asks -----------------------------------------------------------------------------------------

    def served(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource of a path, if it is served."""
        return next((r for r in self.resources if (r.group, r.version, r.plural) == (group, version, plural)), None)

    def allows(self, verb: str, group: str, resource: str) -> bool:
        """Whether the account has a right."""
        if (verb, resource) in self._denied or (verb, resource.partition("/")[0]) in self._denied:
            return False
        wanted = {"verbs": {verb, "*"}, "apiGroups": {group, "*"}, "resources": {resource, "*"}}
        return self.rules is None or any(all(words & set(rule[key]) for key, words in wanted.items()) for rule in self.rules)

    def check_rights(self, request: Request, resource: Resource) -> None:
        """Refuses a request that the account has no right to."""
        if self.allows(request.verb, request.group, request.resource):
            return
        named = f' "{request.name}"' if request.name else ""
        where = f' in the namespace "{request.namespace}"' if request.namespace else " at the cluster scope"
        what = f'cannot {request.verb} resource "{request.resource}" in API group "{request.group}"{where}'
        message = f'{resource.qualified}{named} is forbidden: User "{ACCOUNT}" {what}'
        raise Answer(403, message, details={"name": request.name, "group": request.group, "kind": request.plural})
