"""The Kubernetes API, as far as an engine needs it: Secrets, pods and their logs, events, who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, ClassVar

from kubernetes import client

from tests.engines.kubeflow.stub.http import Answer, Refusal, Request
from tests.engines.kubeflow.stub.pods import Pod, nano_stamp
from tests.engines.kubeflow.stub.router import Router
from tests.engines.kubeflow.stub.schema import Operation, Schema, operation
from tests.engines.kubeflow.stub.world import World

Json = dict[str, Any]
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists"} | {
    405: "MethodNotAllowed", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"
}  # fmt: skip
_CALLS = {
    client.CoreV1Api: (
        "create_namespaced_secret read_namespaced_secret list_namespaced_secret patch_namespaced_secret"
        " replace_namespaced_secret delete_namespaced_secret list_namespaced_pod read_namespaced_pod"
        " read_namespaced_pod_log delete_namespaced_pod list_namespaced_event read_namespace"
    ),
    client.AuthorizationV1Api: "create_self_subject_access_review",
    client.VersionApi: "get_code",
}
#: What a fieldSelector may name.
_FIELDS = {
    "PodList": "metadata.name metadata.namespace spec.nodeName spec.restartPolicy spec.serviceAccountName status.phase",
    "SecretList": "metadata.name metadata.namespace type",
    "EventList": (
        "metadata.name metadata.namespace involvedObject.kind involvedObject.name involvedObject.namespace"
        " involvedObject.uid reason source type reportingComponent"
    ),
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


def refuse(refusal: Refusal) -> Answer:
    """V1Status."""
    reason = refusal.reason or _REASONS.get(refusal.status, "Unknown")
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": refusal.message}
    return Answer(body | {"reason": reason, "code": refusal.status}, refusal.status)


class ClusterApi(Router):
    unwritten: ClassVar[dict[str, dict[str, str]]] = {"read_namespaced_pod_log": {"sinceTime": "str", "stream": "str"}}

    def __init__(self, world: World) -> None:
        super().__init__(world, Schema(client.models, client.ApiClient(), lenient_case=False), _CALLS)

    def _calls(self, api: type) -> Iterator[Operation]:
        return (operation(api, name) for name in _CALLS[api].split())

    def check_body(self, call: Operation, request: Request, body: Any) -> None:
        """A patch is a part of what it patches."""
        if call.name == "patch_namespaced_secret":
            kind = request.headers.get("content-type", "")
            if not kind.startswith(("application/strategic-merge-patch+json", "application/merge-patch+json")):
                raise Refusal(415, f"this stub takes merge patches, not {kind}", "UnsupportedMediaType")
            self.schema.check(body, "V1Secret")
            return
        if call.body == "V1DeleteOptions" and body is None:
            return
        super().check_body(call, request, body)

    def _namespace(self, namespace: str) -> None:
        if namespace != self.world.namespace:
            raise Refusal(403, f"no rights in namespace {namespace!r}")

    def _list(self, request: Request, kind: str, items: list[Json]) -> Json:
        query = request.parameters
        found = [one for one in items if _fields_match(one, query.get("fieldSelector", ""), _FIELDS[kind])]
        first, limit = int(query.get("continue") or 0), int(query.get("limit") or 0) or len(found)
        metadata: Json = {"resourceVersion": str(self.world.touch())}
        if first + limit < len(found):
            metadata |= {"continue": str(first + limit), "remainingItemCount": len(found) - first - limit}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "items": found[first : first + limit]}

    # -- Secrets ---------------------------------------------------------------------------------------------------

    def create_namespaced_secret(self, request: Request, namespace: str, body: Json) -> Answer:
        self._namespace(namespace)
        metadata = body.get("metadata") or {}
        name = metadata.get("name", "")
        self._check_metadata(metadata)
        if metadata.get("namespace", namespace) != namespace:
            raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")
        if name in self.world.secrets:
            raise Refusal(409, f'secrets "{name}" already exists')
        if request.parameters.get("dryRun") == "All":
            return self._checked(self.world.stored(body), "V1Secret", 201)
        self.world.secrets[name] = self.world.stored(body)
        self.world.secrets_changed()
        return self._checked(self.world.secrets[name], "V1Secret", 201)

    def _check_metadata(self, metadata: Json) -> None:
        name = metadata.get("name", "")
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise Refusal(
                422, f'Secret "{name}" is invalid: metadata.name: Invalid value: a lowercase RFC 1123 subdomain'
            )
        for key, value in (metadata.get("labels") or {}).items():
            short = key.rpartition("/")[2]
            if (
                len(value) > 63
                or not _LABEL.fullmatch(value)
                or not short
                or not _LABEL.fullmatch(short)
                or len(short) > 63
            ):
                raise Refusal(422, f'Secret "{name}" is invalid: metadata.labels: Invalid value: "{key}: {value}"')

    def _checked(self, made: Json, kind: str, status: int = 200) -> Answer:
        self.schema.check_answer(made, kind)
        return Answer(dict(made), status)

    def _secret(self, namespace: str, name: str) -> Json:
        self._namespace(namespace)
        if name not in self.world.secrets:
            raise Refusal(404, f'secrets "{name}" not found')
        return self.world.secrets[name]

    def read_namespaced_secret(self, request: Request, namespace: str, name: str) -> Json:
        return self._secret(namespace, name)

    def list_namespaced_secret(self, request: Request, namespace: str) -> Json:
        self._namespace(namespace)
        wanted = _selector(request)
        items = [one for one in self.world.secrets.values() if wanted(one["metadata"].get("labels") or {})]
        return self._list(request, "SecretList", items)

    def patch_namespaced_secret(self, request: Request, namespace: str, name: str, body: Json) -> Json:
        return self._write(name, _merge(self._secret(namespace, name), body))

    def replace_namespaced_secret(self, request: Request, namespace: str, name: str, body: Json) -> Json:
        old = self._secret(namespace, name)
        version = body["metadata"].get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise Refusal(
                409, f'Operation cannot be fulfilled on secrets "{name}": the object has been modified', "Conflict"
            )
        return self._write(name, body)

    def _write(self, name: str, secret: Json) -> Json:
        if self.world.secrets[name].get("immutable"):
            raise Refusal(422, f'Secret "{name}" is invalid: data: Forbidden: field is immutable')
        self.world.secrets[name] = self.world.stored(secret)
        self.world.secrets_changed()
        return self.world.secrets[name]

    def delete_namespaced_secret(self, request: Request, namespace: str, name: str, body: Json | None = None) -> Json:
        secret = self._secret(namespace, name)
        del self.world.secrets[name]
        self.world.touch()
        details = {"name": name, "kind": "secrets", "uid": secret["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    # -- pods ------------------------------------------------------------------------------------------------------

    def _pod(self, namespace: str, name: str) -> Pod:
        self._namespace(namespace)
        if name not in self.world.pods:
            raise Refusal(404, f'pods "{name}" not found')
        return self.world.pods[name]

    def list_namespaced_pod(self, request: Request, namespace: str) -> Json:
        self._namespace(namespace)
        wanted = _selector(request)
        return self._list(
            request, "PodList", [pod.document() for pod in self.world.pods.values() if wanted(pod.labels)]
        )

    def read_namespaced_pod(self, request: Request, namespace: str, name: str) -> Json:
        return self._pod(namespace, name).document()

    def delete_namespaced_pod(self, request: Request, namespace: str, name: str, body: Json | None = None) -> Json:
        pod = self._pod(namespace, name)
        self.world.delete_pod(name)
        return pod.document()

    def read_namespaced_pod_log(self, request: Request, namespace: str, name: str) -> Answer:
        pod, query = self._pod(namespace, name), request.parameters
        containers = [one["name"] for one in pod.spec["containers"]]
        container = query.get("container")
        if container is None:
            raise Refusal(400, f"a container name must be specified for pod {name}, choose one of: {containers}")
        if container not in containers:
            raise Refusal(400, f"container {container} is not valid for pod {name}")
        if "waiting" in pod.main or pod.reason == "Evicted":
            reason = pod.main.get("waiting", {}).get("reason", "PodInitializing")
            raise Refusal(400, f'container "{container}" in pod "{name}" is waiting to start: {reason}')
        if container != "main":
            return Answer(b"")
        since = _nanoseconds(query["sinceTime"]) if "sinceTime" in query else 0
        tail = int(query["tailLines"]) if "tailLines" in query else None
        follow = query.get("follow", "").lower() == "true"
        lines = pod.log.follow(since, tail) if follow else iter([pod.log.lines(since, tail)])
        stamps = query.get("timestamps", "").lower() == "true"
        return Answer(_cut(_written(lines, stamps), int(query["limitBytes"]) if "limitBytes" in query else None))

    # -- the rest --------------------------------------------------------------------------------------------------

    def list_namespaced_event(self, request: Request, namespace: str) -> Json:
        self._namespace(namespace)
        wanted = _selector(request)
        return self._list(request, "EventList", [one for one in self.world.events if wanted({})])

    def read_namespace(self, request: Request, name: str) -> Json:
        self._namespace(name)
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}}

    def create_self_subject_access_review(self, request: Request, body: Json) -> Answer:
        attributes = body["spec"].get("resourceAttributes") or {}
        status = {"allowed": self.world.allowed(attributes)}
        made = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {}}
        return self._checked(made | {"spec": body["spec"], "status": status}, "V1SelfSubjectAccessReview", 201)

    def get_code(self, request: Request) -> Json:
        moments = {"buildDate": "2026-10-01T00:00:00Z", "gitCommit": "0" * 40, "gitTreeState": "clean"}
        versions = {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "goVersion": "go1.26", "compiler": "gc"}
        return moments | versions | {"platform": "linux/amd64"}


def _selector(request: Request) -> Callable[[Json], bool]:
    if request.parameters.get("watch", "").lower() == "true":
        raise Refusal(501, "watch is beyond this stub")
    needs = [
        _requirement(part) for part in re.split(r",(?![^(]*\))", request.parameters.get("labelSelector", "")) if part
    ]
    return lambda labels: all(need(labels) for need in needs)


def _requirement(part: str) -> Callable[[Json], bool]:
    """One part of a labelSelector: ``a=b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``, ``a``, ``!a``."""
    found = re.fullmatch(r"\s*(!?)([\w./-]+)\s*(?:(==?|!=|\bin\b|\bnotin\b)\s*\(?([^)]*)\)?)?\s*", part)
    if found is None:
        raise Refusal(400, f"unable to parse requirement: {part!r}")
    absent, key, operator, wanted = found.groups()
    values = [one.strip() for one in (wanted or "").split(",")]
    if operator is None:
        return lambda labels: (key in labels) != bool(absent)
    return lambda labels: (labels.get(key) in values) != (operator in ("!=", "notin"))


def _fields_match(item: Json, selector: str, known: str) -> bool:
    for part in selector.split(",") if selector else []:
        path, operator, wanted = re.split(r"(!=|==?)", part)
        if path not in known.split():
            raise Refusal(400, f"field label not supported: {path}")
        value: Any = item
        for name in path.split("."):
            value = (value or {}).get(name, "")
        if (str(value) == wanted) == (operator == "!="):
            return False
    return True


def _merge(old: Any, new: Any) -> Any:
    """A merge patch: null deletes."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = {key: value for key, value in old.items() if key not in new}
    return merged | {key: _merge(old.get(key), value) for key, value in new.items() if value is not None}


def _nanoseconds(text: str) -> int:
    try:
        whole = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(400, f"unable to decode sinceTime: {text!r}") from error
    fraction = re.search(r"\.(\d+)", text)
    nanoseconds = int(fraction[1].ljust(9, "0")[:9]) if fraction else 0
    return int(whole.replace(microsecond=0).timestamp()) * 10**9 + nanoseconds


def _written(lines: Iterator[list[tuple[int, bytes]]], stamps: bool) -> Iterator[bytes]:
    for batch in lines:
        yield b"".join(f"{nano_stamp(at)} ".encode() + line if stamps else line for at, line in batch)


def _cut(data: Iterator[bytes], limit: int | None) -> Iterator[bytes]:
    for part in data:
        if limit is not None and len(part) >= limit:
            yield part[:limit]
            return
        limit = None if limit is None else limit - len(part)
        yield part
