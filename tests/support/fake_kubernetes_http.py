"""The fake API server's HTTP: paths to verbs, and answers as the real server writes them."""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from fake_kubernetes_checks import check_change, checked, schema
from fake_kubernetes_faults import Answer, Dropped, NotServed
from fake_kubernetes_objects import Expired, Object, Resource, selected

if TYPE_CHECKING:
    from fake_kubernetes import FakeCluster

TICK = 0.05  # seconds between two looks of a stream
KUBERNETES = {"major": "1", "minor": "33", "gitVersion": "v1.33.13", "platform": "linux/amd64"}


@dataclass
class Request:
    """One request, in RBAC's words."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None
    verb: str = ""
    group: str = ""
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    status: int = 0
    time: float = field(default_factory=time.monotonic)

    @property
    def resource(self) -> str:
        """As in a Role: `pods/log`."""
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its head
    cluster: "FakeCluster"

    def log_message(self, *args: Any) -> None:
        """Nothing: the requests are kept in `FakeCluster.requests`."""

    def _any(self) -> None:
        address = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        request = Request(self.command, address.path, dict(parse_qsl(address.query, keep_blank_values=True)), body)
        self.request_seen = request
        try:
            self._serve(request)
        except Answer as answer:
            self._send(answer.code, answer.body, {"Retry-After": f"{answer.retry_after:g}"} if answer.retry_after is not None else {})
        except NotServed:
            self._send(404, "404 page not found\n")
        except Dropped:
            self.close_connection = True
            self.connection.close()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def _serve(self, request: Request) -> None:
        resource = self._route(request)
        self.cluster.requests.append(request)
        if time.monotonic() < self.cluster.away_until:
            raise Dropped
        fault = self.cluster.faults.take(request.verb, request.resource)
        if fault:
            time.sleep(fault.seconds)
            if fault.drop == "before":
                raise Dropped
            if fault.answer:
                raise fault.answer
        self._authorize(request)
        if resource is None:
            self._send(200, self._about(request))
            return
        self.cluster.check_rights(request, resource)
        if request.subresource == "log":
            self._log(request, resource)
        elif request.verb == "watch":
            self._watch(request, resource)
        else:
            made = self._carry_out(request, resource)
            if fault and fault.drop == "after":
                raise Dropped
            self._send(201 if request.verb == "create" else 200, made)

    def _authorize(self, request: Request) -> None:
        if self.cluster.token and self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            raise Answer(401)

    # -- paths ---------------------------------------------------------------------------------------------------------

    def _route(self, request: Request) -> Resource | None:
        """Finds out what a request is about; None for what the server says about itself."""
        parts = request.path.strip("/").split("/")
        if parts[0] in ("version", "openapi", "readyz") or len(parts) < 3 or parts[:2] == ["apis", "authorization.k8s.io"]:
            return None
        head = 2 if parts[0] == "api" else 3
        group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
        rest = parts[head:]
        if not rest:
            return None
        if rest[0] == "namespaces" and len(rest) > 2:
            request.namespace, rest = rest[1], rest[2:]
        request.group, request.plural = group, rest[0]
        request.name = rest[1] if len(rest) > 1 else ""
        request.subresource = rest[2] if len(rest) > 2 else ""
        request.verb = self._verb(request)
        found = self.cluster.served(group, version, request.plural)
        if found is None:
            self.cluster.requests.append(request)
            raise NotServed
        return found

    def _verb(self, request: Request) -> str:
        if request.method == "GET" and not request.name:
            return "watch" if request.query.get("watch") in ("true", "1", "True") else "list"
        if request.method == "DELETE" and not request.name:
            return "deletecollection"
        return {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[request.method]

    def _about(self, request: Request) -> Any:
        """What the server says about itself."""
        parts = request.path.strip("/").split("/")
        request.verb = request.verb or "discover"
        if parts == ["version"]:
            return KUBERNETES
        if parts[:2] == ["openapi", "v3"]:
            return self._openapi(parts[2:])
        if parts[:2] == ["apis", "authorization.k8s.io"]:
            return self._review(request)
        served = self.cluster.resources
        if parts == ["apis"]:
            groups = sorted({r.group for r in served if r.group})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": g, "versions": self._versions(g)} for g in groups]}
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts[0] == "apis" and len(parts) == 2:
            return {"kind": "APIGroup", "apiVersion": "v1", "name": parts[1], "versions": self._versions(parts[1])}
        api_version = "/".join(parts[1:])
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        found = [{"name": r.plural, "kind": r.kind, "namespaced": r.namespaced, "verbs": verbs} for r in served if r.api_version == api_version]
        if not found:
            raise NotServed
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}

    def _versions(self, group: str) -> list[Object]:
        versions = sorted({r.version for r in self.cluster.resources if r.group == group})
        if not versions:
            raise NotServed
        return [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]

    def _openapi(self, parts: list[str]) -> Any:
        """The OpenAPI document of a group and version, as a real server publishes that of a CRD."""
        if not parts:
            paths = {f"apis/{r.api_version}" if r.group else f"api/{r.version}" for r in self.cluster.resources}
            return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in sorted(paths)}}
        served = [r for r in self.cluster.resources if parts == (["apis", r.group, r.version] if r.group else ["api", r.version])]
        if not served:
            raise NotServed
        schemas: dict[str, Any] = {}
        for resource in served:
            rules = json.loads(json.dumps(schema(resource.plural, self.cluster.trainer)))
            rules["properties"]["metadata"] = {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]}
            gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
            rules["x-kubernetes-group-version-kind"] = [gvk]
            name = ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])
            schemas[name] = rules
            schemas[f"{name}List"] = {
                "type": "object",
                "properties": {"items": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}},
                "x-kubernetes-group-version-kind": [{**gvk, "kind": f"{resource.kind}List"}],
            }
        schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"] = {"type": "object", "properties": {"name": {"type": "string"}}}
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.13"}, "paths": {}, "components": {"schemas": schemas}}

    def _review(self, request: Request) -> Any:
        """A SelfSubjectAccessReview."""
        asked = request.body["spec"]["resourceAttributes"]
        resource = asked.get("resource", "") + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        allowed = self.cluster.allows(asked.get("verb", ""), asked.get("group", ""), resource)
        return {**request.body, "status": {"allowed": allowed}}

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def _carry_out(self, request: Request, resource: Resource) -> Any:
        objects, cluster = self.cluster.store, self.cluster
        if request.verb == "list":
            found, version = objects.all_of(resource, request.namespace or None)
            chosen = [o for o in found if selected(o, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))]
            head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
            start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 0)
            page = chosen[start : start + limit] if limit else chosen[start:]
            rest = {"continue": str(start + limit)} if limit and len(chosen) > start + limit else {}
            return {**head, "metadata": {"resourceVersion": str(version), **rest}, "items": page}
        if request.verb == "create":
            return cluster.admit(resource, request.body, request.namespace, request.query.get("fieldValidation") == "Strict")
        if request.verb == "deletecollection":
            found, _ = objects.all_of(resource, request.namespace or None)
            chosen = [o for o in found if selected(o, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))]
            for one in chosen:
                objects.delete(resource, request.namespace, one["metadata"]["name"])
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        current = objects.get(resource, request.namespace, request.name)
        if current is None:
            details = {"name": request.name, "group": resource.group, "kind": resource.plural}
            raise Answer(404, f'{resource.qualified} "{request.name}" not found', details=details)
        if request.verb == "get":
            return current
        if request.verb == "delete":
            return self._delete(request, resource, current)
        return self._change(request, resource, current)

    def _delete(self, request: Request, resource: Resource, current: Object) -> Any:
        options = request.body or {}
        wanted = (options.get("preconditions") or {}).get("uid")
        uid = current["metadata"]["uid"]
        if wanted and wanted != uid:
            what = f'Operation cannot be fulfilled on {resource.kind}.{resource.group} "{request.name}"'
            why = f"the UID in the precondition ({wanted}) does not match the UID in record ({uid})"
            details = {"name": request.name, "group": resource.group, "kind": resource.kind}
            raise Answer(409, f"{what}: {why}. The object might have been deleted and then recreated", "Conflict", details=details)
        propagation = options.get("propagationPolicy") or request.query.get("propagationPolicy") or "Background"
        gone = self.cluster.store.delete(resource, request.namespace, request.name, propagation)
        if gone["metadata"].get("deletionTimestamp"):
            return gone
        details = {"name": request.name, "group": resource.group, "kind": resource.plural, "uid": uid}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _change(self, request: Request, resource: Resource, current: Object) -> Any:
        changed = request.body if request.verb == "update" else _merged(current, request.body)
        meta = changed["metadata"]
        if meta.get("uid", current["metadata"]["uid"]) != current["metadata"]["uid"]:
            raise Answer(409, f'Operation cannot be fulfilled on {resource.qualified} "{request.name}": the object has another uid', "Conflict")
        version = meta.get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            why = "the object has been modified; please apply your changes to the latest version and try again"
            details = {"name": request.name, "group": resource.group, "kind": resource.plural}
            raise Answer(409, f'Operation cannot be fulfilled on {resource.qualified} "{request.name}": {why}', "Conflict", details=details)
        if request.subresource == "status":
            changed = {**current, "status": changed.get("status")}
        else:
            check_change(resource, current, changed, self.cluster.trainer)
            strict = request.query.get("fieldValidation") == "Strict"
            changed = {**checked(resource, changed, strict, self.cluster.trainer, self.cluster.store)}
            if current.get("status") is not None:
                changed["status"] = current["status"]
        changed["metadata"] = {**current["metadata"], **changed["metadata"]}
        return self.cluster.store.replace(resource, changed)

    # -- streams -------------------------------------------------------------------------------------------------------

    def _watch(self, request: Request, resource: Resource) -> None:
        objects, labels, fields = self.cluster.store, request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
        start = request.query.get("resourceVersion") or "0"
        end = time.monotonic() + float(request.query.get("timeoutSeconds") or 300)
        self._open_stream("application/json")
        version = int(start)
        if version == 0:
            found, version = objects.all_of(resource, request.namespace or None)
            for one in found:
                if selected(one, labels, fields):
                    self._write_event("ADDED", one)
        streams = self.cluster.streams
        while time.monotonic() < end and streams == self.cluster.streams:
            try:
                changes, version = objects.wait(version, resource, TICK)
            except Expired:
                gone = Answer(410, f"too old resource version: {version} ({objects.version})", "Expired")
                self._write_event("ERROR", gone.body)
                break
            for change in changes:
                where = change.object["metadata"].get("namespace", "")
                if request.namespace in ("", where) and selected(change.object, labels, fields):
                    self._write_event(change.type, change.object)
        self._close_stream(cut=streams != self.cluster.streams)

    def _log(self, request: Request, resource: Resource) -> None:
        cluster, query = self.cluster, request.query
        pod = cluster.store.get(resource, request.namespace, request.name)
        if pod is None:
            raise Answer(404, f'pods "{request.name}" not found', details={"name": request.name, "kind": "pods"})
        _check_container(pod, query.get("container", ""))
        since = datetime.fromisoformat(query["sinceTime"]).replace(microsecond=0) if query.get("sinceTime") else None  # seconds, as the kubelet
        lines = cluster.lines(request.name, previous=query.get("previous") in ("true", "True"))
        position = 0
        tail = int(query["tailLines"]) if query.get("tailLines") else None
        if tail is not None:
            position = max(0, len(lines) - tail)
        self._open_stream("text/plain")
        streams = cluster.streams
        while True:
            ended = _ended(cluster.store.get(resource, request.namespace, request.name))
            for at, line in lines[position:]:
                position += 1
                if since is None or at >= since:
                    stamp = f"{at:%Y-%m-%dT%H:%M:%S.%f}000Z " if query.get("timestamps") in ("true", "True") else ""
                    self._write(f"{stamp}{line}\n".encode())
            if query.get("follow") not in ("true", "True") or ended or streams != cluster.streams:
                break
            time.sleep(TICK)
        self._close_stream(cut=streams != cluster.streams)

    def _open_stream(self, content_type: str) -> None:
        self.request_seen.status = 200
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _write(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _write_event(self, event: str, obj: Object) -> None:
        self._write(json.dumps({"type": event, "object": obj}).encode() + b"\n")

    def _close_stream(self, cut: bool) -> None:
        """The end of a stream: in order, or as a connection that breaks."""
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.request_seen.status = code
        text = isinstance(body, str)
        data = body.encode() if text else json.dumps(body).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _merged(old: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = _merged(kept.get(key), value)
    return kept


def _check_container(pod: Object, wanted: str) -> None:
    """What the kubelet refuses when a log is asked for."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    found = {c["name"]: c for c in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]}
    main = [c["name"] for c in status.get("containerStatuses") or []]
    if not found:
        raise Answer(400, f"pod {name} does not have a host assigned")
    if not wanted and len(main) > 1:
        raise Answer(400, f"a container name must be specified for pod {name}, choose one of: [{' '.join(main)}]")
    container = wanted or main[0]
    if container not in found:
        raise Answer(400, f"container {container} is not valid for pod {name}")
    waiting = (found[container].get("state") or {}).get("waiting")
    if waiting and not (found[container].get("lastState") or {}).get("terminated"):
        raise Answer(400, f'container "{container}" in pod "{name}" is waiting to start: {waiting.get("reason", "")}')


def _ended(pod: Object | None) -> bool:
    return pod is None or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
