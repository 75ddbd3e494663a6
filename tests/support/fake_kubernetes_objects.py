"""What the fake API server holds: objects with resource versions, deletion, ownership and a history for watches."""

import copy
import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """One served resource."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As the server writes it in messages: `trainjobs.trainer.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = [
    Resource("", "v1", "namespaces", "Namespace", namespaced=False),
    Resource("", "v1", "pods", "Pod"),
    Resource("", "v1", "events", "Event"),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "services", "Service"),
    Resource("batch", "v1", "jobs", "Job"),
    Resource("apps", "v1", "deployments", "Deployment"),
    Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet"),
    Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"),
    Resource("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime"),
    Resource("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", namespaced=False),
    Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob"),
    Resource("kubeflow.org", "v1beta1", "experiments", "Experiment"),
    Resource("kubeflow.org", "v1beta1", "trials", "Trial"),
    Resource("kubeflow.org", "v1beta1", "suggestions", "Suggestion"),
    Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
    Resource("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime"),
    Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
    Resource("argoproj.io", "v1alpha1", "workflows", "Workflow"),
]


class Expired(Exception):
    """The resource version that a watch asked for is older than the history."""


@dataclass
class Change:
    """One entry of the history."""

    version: int
    type: str
    resource: Resource
    object: Object


@dataclass
class Objects:
    """All objects, and what happened to them."""

    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    history: list[Change] = field(default_factory=list)
    oldest: int = 0  # watches from before this version are told 410
    held: set[tuple[str, str]] = field(default_factory=set)  # (plural, name) whose deletion does not get on
    _all: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def add(self, resource: Resource, body: Object, namespace: str) -> Object:
        """Stores a new object; a KeyError when there is one of that name."""
        with self.changed:
            made = copy.deepcopy(body)
            meta = made.setdefault("metadata", {})
            if not meta.get("name"):
                meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
            if resource.namespaced:
                meta["namespace"] = namespace
            key = self._key(resource, namespace, meta["name"])
            if key in self._all:
                raise KeyError(meta["name"])
            made |= {"apiVersion": resource.api_version, "kind": resource.kind}
            meta |= {"uid": meta.get("uid") or str(uuid.uuid4()), "creationTimestamp": meta.get("creationTimestamp") or now(), "generation": 1}
            self._all[key] = made
            self._record("ADDED", resource, made)
            return copy.deepcopy(made)

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        with self.changed:
            return copy.deepcopy(self._all.get(self._key(resource, namespace, name)))

    def all_of(self, resource: Resource, namespace: str | None) -> tuple[list[Object], int]:
        """The objects of a namespace, or of all when it is None, and the version of that state."""
        with self.changed:
            found = [copy.deepcopy(o) for (plural, ns, _), o in self._all.items() if plural == resource.qualified and namespace in (None, ns)]
            return sorted(found, key=lambda o: o["metadata"]["name"]), self.version

    @property
    def version(self) -> int:
        """The version of the last change."""
        return self.history[-1].version if self.history else 999

    def replace(self, resource: Resource, changed: Object) -> Object:
        """Writes an object that is there; one without finalizers that is being deleted goes."""
        with self.changed:
            meta = changed["metadata"]
            key = self._key(resource, meta.get("namespace", ""), meta["name"])
            if self._all[key].get("spec") != changed.get("spec"):
                meta["generation"] = self._all[key]["metadata"]["generation"] + 1
            self._all[key] = copy.deepcopy(changed)
            if meta.get("deletionTimestamp") and not meta.get("finalizers") and (resource.plural, meta["name"]) not in self.held:
                return self._remove(resource, key)
            self._record("MODIFIED", resource, self._all[key])
            return copy.deepcopy(self._all[key])

    def delete(self, resource: Resource, namespace: str, name: str, propagation: str = "Background") -> Object:
        """Deletes an object and what it owns, or marks it where a finalizer holds it."""
        with self.changed:
            key = self._key(resource, namespace, name)
            meta = self._all[key]["metadata"]
            if not meta.get("finalizers") and (resource.plural, name) not in self.held:
                return self._remove(resource, key, orphan=propagation == "Orphan")
            if not meta.get("deletionTimestamp"):
                meta |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                self._record("MODIFIED", resource, self._all[key])
            return copy.deepcopy(self._all[key])

    def release(self, plural: str, name: str) -> None:
        """Lets a held deletion get on."""
        with self.changed:
            self.held.discard((plural, name))
            for key, found in list(self._all.items()):
                resource = self.resource_of(found)
                if resource.plural == plural and found["metadata"]["name"] == name and found["metadata"].get("deletionTimestamp"):
                    self._remove(resource, key)

    def wait(self, version: int, resource: Resource, seconds: float) -> tuple[list[Change], int]:
        """Changes of a resource after a version, as soon as there are any, and the version looked at up to."""
        end = time.monotonic() + seconds
        with self.changed:
            if version < self.oldest:
                raise Expired
            while True:
                found = [c for c in self._since(version) if c.resource == resource]
                left = end - time.monotonic()
                if found or left <= 0:
                    return found, self.version
                self.changed.wait(left)

    def forget(self) -> None:
        """Drops the history: a watch that resumes from before is told 410 Gone."""
        with self.changed:
            self.oldest = self.version + 1
            self.changed.notify_all()

    def resource_of(self, obj: Object) -> Resource:
        return next(r for r in RESOURCES if (r.api_version, r.kind) == (obj["apiVersion"], obj["kind"]))

    def _since(self, version: int) -> Iterable[Change]:
        return reversed(list(itertools.takewhile(lambda c: c.version > version, reversed(self.history))))

    def _remove(self, resource: Resource, key: tuple[str, str, str], orphan: bool = False) -> Object:
        gone = self._all.pop(key)
        self._record("DELETED", resource, gone)
        if not orphan:
            self._collect(gone["metadata"]["uid"])
        return copy.deepcopy(gone)

    def _collect(self, uid: str) -> None:
        """Deletes what the object of this uid owned, as the garbage collector does in the background."""
        owned = [o for o in self._all.values() if any(ref["uid"] == uid for ref in o["metadata"].get("ownerReferences") or [])]
        for found in owned:
            self.delete(self.resource_of(found), found["metadata"].get("namespace", ""), found["metadata"]["name"])

    def _record(self, event: str, resource: Resource, obj: Object) -> None:
        version = next(self._versions)
        obj["metadata"]["resourceVersion"] = str(version)
        self.history.append(Change(version, event, resource, copy.deepcopy(obj)))
        self.changed.notify_all()

    @staticmethod
    def _key(resource: Resource, namespace: str, name: str) -> tuple[str, str, str]:
        return resource.qualified, namespace if resource.namespaced else "", name


def now() -> str:
    """The present in Kubernetes' words."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def selected(obj: Object, labels: str, fields: str) -> bool:
    """Whether an object is meant by a label selector and a field selector."""
    held = obj["metadata"].get("labels") or {}
    return all(_label_holds(held, term) for term in _terms(labels)) and all(_field_holds(obj, term) for term in _terms(fields))


def _terms(selector: str) -> list[str]:
    """Splits at the commas outside of brackets: `a=b,c in (d,e)`."""
    terms, depth = [""], 0
    for letter in selector:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            terms.append("")
        else:
            terms[-1] += letter
    return [term.strip() for term in terms if term.strip()]


def _label_holds(labels: dict[str, str], term: str) -> bool:
    for word, wanted in ((" notin ", False), (" in ", True)):
        if word in term:
            name, _, values = term.partition(word)
            return (labels.get(name.strip()) in [v.strip() for v in values.strip(" ()").split(",")]) is wanted
    if "!=" in term:
        name, _, value = term.partition("!=")
        return labels.get(name.strip()) != value.strip()
    if "=" in term:
        name, _, value = term.replace("==", "=").partition("=")
        return labels.get(name.strip()) == value.strip()
    return term[1:].strip() not in labels if term.startswith("!") else term in labels


def _field_holds(obj: Object, term: str) -> bool:
    differs = "!=" in term
    path, _, value = term.replace("!=", "=").replace("==", "=").partition("=")
    found: Any = obj
    for part in path.strip().split("."):
        found = (found or {}).get(part)
    return (str(found or "") == value.strip()) is not differs
