"""Lets an object of the fake API server develop as one did under the real controllers (`tests/recordings`)."""

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fake_kubernetes_objects import RESOURCES, Object, Resource, now

if TYPE_CHECKING:
    from fake_kubernetes import FakeCluster

RECORDINGS = Path(__file__).parent.parent / "recordings"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BY_KIND = {resource.kind: resource for resource in RESOURCES}


@cache
def recording(name: str) -> list[dict[str, Any]]:
    """The lines of a recording, in the order of their times."""
    return [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]


def main_kind(name: str) -> str:
    """The kind of object that a recording is about."""
    return next(line["kind"] for line in recording(name) if line["type"] == "ACTION")


@dataclass
class Player:
    """Plays one recording for one object.

    Args:
        cluster: Where the object is.
        name: The recording's name.
        made: The object that was created.
        speed: How many recorded seconds pass in one of ours.
        logs: What the pods write, by a part of their name.
    """

    cluster: "FakeCluster"
    name: str
    made: Object
    speed: float
    logs: dict[str, list[str]]
    uids: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def start(self) -> None:
        threading.Thread(target=self._play, daemon=True, name=f"replay {self.name}").start()

    def _play(self) -> None:
        lines = [line for line in recording(self.name) if line["type"] != "VERSIONS"]
        first = next(line for line in lines if line["type"] == "ADDED" and line["kind"] == self.made["kind"])
        self.old = first["metadata"]["name"]
        self.uids[first["metadata"]["uid"]] = self.made["metadata"]["uid"]
        self.began, start, begun = first["metadata"]["creationTimestamp"], time.monotonic(), datetime.now(UTC)
        self.names = {line["metadata"]["name"] for line in lines if line.get("metadata", {}).get("name")} - {self.old}
        self.offset = begun - datetime.fromisoformat(self.began)
        for line in lines[lines.index(first) + 1 :]:
            delay = (line["t"] - first["t"]) / self.speed - (time.monotonic() - start)
            if self.cluster.closed.wait(max(0.0, delay)) or not self._alive():
                return
            if line["type"] == "ACTION" and line["verb"] == "delete":
                return
            with self.cluster.store.changed:
                if not self._alive():
                    return
                self._apply(line)

    def _alive(self) -> bool:
        """Whether the object is still there and nobody has asked for its end."""
        meta = self.made["metadata"]
        found = self.cluster.store.get(BY_KIND[self.made["kind"]], meta["namespace"], meta["name"])
        return found is not None and found["metadata"]["uid"] == meta["uid"] and not found["metadata"].get("deletionTimestamp")

    def _apply(self, line: dict[str, Any]) -> None:
        if line["type"] == "ACTION":
            if line["verb"] == "patch" and "suspend" in (line["body"].get("spec") or {}):
                self._update(BY_KIND[self.made["kind"]], self.made["metadata"]["name"], {"spec": line["body"]["spec"]})
            return
        if line["type"] not in ("ADDED", "MODIFIED", "DELETED") or line["kind"] not in BY_KIND:
            return
        if line["kind"] == "Event":
            self._event(line)
            return
        resource = BY_KIND[line["kind"]]
        if line["kind"] == self.made["kind"] and line["metadata"]["name"] == self.old:
            if line["type"] == "MODIFIED":
                self._update(resource, self.made["metadata"]["name"], {"status": self._now(line["status"])})
            return
        self._dependent(line, resource)

    def _dependent(self, line: dict[str, Any], resource: Resource) -> None:
        """A pod, job or trial that the controllers made, changed or deleted."""
        store, namespace = self.cluster.store, self.made["metadata"]["namespace"]
        name, status = self._renamed(line["metadata"]["name"]), self._now(line["status"])
        there = store.get(resource, namespace, name)
        if line["type"] == "DELETED":
            if there:
                store.delete(resource, namespace, name)
            return
        if there is None:
            uid = self.uids.setdefault(line["metadata"]["uid"], str(uuid.uuid4()))
            labels = {key: self._value(value) for key, value in (line["metadata"].get("labels") or {}).items()}
            meta = {"name": name, "uid": uid, "labels": labels, "ownerReferences": [self._owner(resource, name)]}
            store.add(resource, {"metadata": meta, "status": status}, namespace)
        else:
            self._update(resource, name, {"status": status})
        if resource.plural == "pods" and status.get("phase") in ("Running", "Succeeded", "Failed") and name not in self.written:
            self.written.add(name)
            for part, lines in self.logs.items():
                if part in name:
                    self.cluster.log(name, *lines)

    def _owner(self, resource: Resource, name: str) -> Object:
        """The object that made this one: jobs own pods, job sets and trials own jobs, the main object owns those."""
        chain = {"pods": ("jobs",), "jobs": ("jobsets", "trials"), "services": ()}
        for plural in chain.get(resource.plural, ()):
            above = next(r for r in RESOURCES if r.plural == plural)
            found, _ = self.cluster.store.all_of(above, self.made["metadata"]["namespace"])
            for one in found:
                if name == one["metadata"]["name"] or name.startswith(f"{one['metadata']['name']}-"):
                    return reference(one)
        return reference(self.made)

    def _update(self, resource: Resource, name: str, change: Object) -> None:
        found = self.cluster.store.get(resource, self.made["metadata"]["namespace"], name)
        if found:
            spec = {"spec": {**found.get("spec", {}), **change["spec"]}} if "spec" in change else {}
            self.cluster.store.replace(resource, {**found, **change, **spec})

    def _event(self, line: dict[str, Any]) -> None:
        store, namespace = self.cluster.store, self.made["metadata"]["namespace"]
        kind, about = line["involvedObject"]["kind"], self._renamed(line["involvedObject"]["name"])
        resource, event = BY_KIND.get(kind), BY_KIND["Event"]
        told = self._words(line["message"])
        found, _ = store.all_of(event, namespace)
        for one in found:
            if (one["involvedObject"]["name"], one["reason"], one["message"]) == (about, line["reason"], told):
                store.replace(event, {**one, "count": line.get("count") or 1, "lastTimestamp": now()})
                return
        there = store.get(resource, namespace, about) if resource else None
        uid = there["metadata"]["uid"] if there else ""
        body = {
            "metadata": {"generateName": f"{about}."},
            "involvedObject": {"kind": kind, "name": about, "namespace": namespace, "uid": uid},
            "type": line["eventType"],
            "reason": line["reason"],
            "message": told,
            "count": line.get("count") or 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }
        store.add(event, body, namespace)

    # -- the recording's names, uids and times become ours ------------------------------------------------------------

    def _renamed(self, name: str) -> str:
        mine = self.made["metadata"]["name"]
        if name == self.old:
            return mine
        return mine + name[len(self.old) :] if name.startswith(f"{self.old}-") else name

    def _value(self, value: str) -> str:
        return self.uids.setdefault(value, str(uuid.uuid4())) if re.fullmatch(r"[0-9a-f-]{36}", value) else self._renamed(value)

    def _words(self, text: str) -> str:
        for name in sorted(self.names, key=len, reverse=True):
            text = text.replace(name, self._renamed(name))
        text = re.sub(rf"(?<=[Jj]ob ){re.escape(self.old)}(?= )", self.made["metadata"]["name"], text)
        return re.sub(r"\brec-[a-z0-9-]+", self.made["metadata"]["namespace"], text)

    def _now(self, status: Any) -> Any:
        """A status with the recording's times moved to the present, and its names to ours."""
        if isinstance(status, dict):
            return {key: self._now(value) for key, value in status.items()}
        if isinstance(status, list):
            return [self._now(value) for value in status]
        if not isinstance(status, str):
            return status
        if STAMP.fullmatch(status):
            passed = datetime.fromisoformat(status) - datetime.fromisoformat(self.began)
            at = datetime.fromisoformat(self.began) + self.offset + timedelta(seconds=passed.total_seconds() / self.speed)
            return f"{at:%Y-%m-%dT%H:%M:%SZ}"
        return self._words(self._renamed(status))


def reference(owner: Object) -> Object:
    """The owner reference that a controller writes."""
    meta = owner["metadata"]
    head = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**head, "controller": True, "blockOwnerDeletion": True}
