"""The Kubernetes API, as much of it as a run needs: its Secret, its pods, what they print, and what happened to them.

The ``kubernetes`` package gives address, credentials and certificates (a kubeconfig with all its plug-ins, a pod's own
account) and the connections; what is said over them is plain JSON. Its generated calls differ between its releases
(35 is the last of one generator, 37 checks bodies itself), and none of them knows a log's ``sinceTime``. Blocking
calls, to be made in threads.
"""

from __future__ import annotations

import base64
import functools
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from kwdbml.engines.kfp import backoff, names
from kwdbml.engines.kfp.backoff import ApiError, Server
from kwdbml.engines.kfp.settings import KubeflowSettings

Json = dict[str, Any]
T = TypeVar("T")
Reader = Callable[[Server, str, bytes], T]  # of an answer to what was being done

CONNECTIONS = 16
MAIN = "main"  # Argo's name for the container that is ours
#: All that is asked of the cluster, as (verb, resource): what the worker's account must be allowed in the namespace.
RIGHTS = (
    ("create", "secrets"), ("patch", "secrets"), ("delete", "secrets"), ("list", "secrets"),
    ("list", "pods"), ("get", "pods/log"), ("list", "events"),
)  # fmt: skip
_CONNECT = 10.0
_ADDRESSED_BY = {
    "host": "KWDBML_KFP_CLUSTER_HOST", "kubeconfig": "the kubeconfig (KWDBML_KFP_KUBECONFIG)",
    "in-cluster": "KUBERNETES_SERVICE_HOST of the worker's pod",
}  # fmt: skip
_PAGE = 250  # a pod of Kubeflow's is long, and a page is in memory twice
#: Of a pod's parts: what explains its end. Environments and arguments are nine tenths of it.
_LONG = {"metadata": ("managedFields", "annotations"), "spec": ("volumes", "initContainers", "tolerations")}
_LONG_CONTAINER = ("env", "args", "command", "volumeMounts")


@dataclass(frozen=True, slots=True)
class Pod:
    """``raw``: it as JSON, without what is long and nobody reads here."""

    name: str
    run_name: str  # "" for those that are not ours, such as drivers
    phase: str
    raw: Json

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def alive(self) -> bool:
        """Something of it may run, or come to run: also when its node is silent (Unknown)."""
        return not self.ended

    @property
    def running(self) -> bool:
        return self.alive and "running" in self._main

    @property
    def started(self) -> bool:
        """Whether it can have a log."""
        return "running" in self._main or "terminated" in self._main

    @property
    def _main(self) -> Json:
        for one in self.raw.get("status", {}).get("containerStatuses") or []:
            if one.get("name") == MAIN:
                return dict(one.get("state") or {})
        return {}


@dataclass(frozen=True, slots=True)
class Kept:
    """A Secret of ours. ``run_id``: of those that ``claim`` makes; "" for an access."""

    name: str
    run_name: str
    run_id: str
    created: float  # seconds since the epoch


class Cluster:
    """``sleep``: for tests."""

    def __init__(self, settings: KubeflowSettings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._sleep = settings, sleep
        self._lock = threading.Lock()
        self._client: Any = None

    # -- Secrets -------------------------------------------------------------------------------------------------

    def put_secret(
        self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str], content: Mapping[str, str]
    ) -> None:
        """Made, or made anew where it is there already."""
        part = _part(name, labels, annotations, content)
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **part}
        try:
            self._call(f"creating Secret {name}", "POST", self._path("secrets"), _DONE, body=body)
        except ApiError as error:
            if error.status != 409:
                raise
            if not self._patch(name, part):  # not "exists already": many write at once what counts for a quota
                why = f"Secret {name} could not be created just now"
                raise ApiError(why, hint="Try again.", detail=error.detail, retryable=True) from None

    def renew_secret(
        self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str], content: Mapping[str, str]
    ) -> None:
        """Made anew; made where it is not there. To create one is refused in a namespace whose quota of Secrets is
        full, also one that is there already: so that is not what is tried first."""
        if not self._patch(name, _part(name, labels, annotations, content)):
            self.put_secret(name, labels, annotations, content)

    def _patch(self, name: str, part: Json) -> bool:
        """False: it is not there."""
        kind, path = "application/merge-patch+json", self._path("secrets", name)
        return self._unless_gone(f"writing Secret {name}", "PATCH", path, body=part, kind=kind)

    def delete_secret(self, name: str) -> None:
        self._unless_gone(f"deleting Secret {name}", "DELETE", self._path("secrets", name))

    def _unless_gone(self, doing: str, method: str, path: str, **named: Any) -> bool:
        try:
            self._call(doing, method, path, _DONE, **named)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def claim(self, run_name: str, run_id: str) -> str:
        """Say that this Kubeflow run is the one of that name; answers the one that is. Who comes first decides, for
        ever: Kubernetes makes a Secret of one name once."""
        name, labels = names.claim_name(run_name), names.labels_of(run_name)
        metadata = {"name": name, "labels": labels, "annotations": {names.RUN: run_name, names.RUN_ID: run_id}}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata}
        try:
            self._call(f"creating Secret {name}", "POST", self._path("secrets"), _DONE, body=body)
        except ApiError as error:
            if error.status not in (403, 409):  # 403: of a full quota, also where the Secret is there
                raise
            selector = ",".join(f"{label}={value}" for label, value in labels.items())
            for found in self.kept(selector):
                if found.name == name:
                    return found.run_id
            if error.status == 403:
                raise
            raise ApiError(f"Secret {name} was deleted meanwhile", hint="Try again.", retryable=True) from None
        return run_id

    def kept(self, selector: str) -> list[Kept]:
        """Our Secrets. No content is read from them."""
        found = self._list("listing Secrets", "secrets", {"labelSelector": selector}, _kept)
        return [one for one in found if one.run_name]

    # -- pods ----------------------------------------------------------------------------------------------------

    def pods(self, selector: str) -> list[Pod]:
        return list(self._list("listing pods", "pods", {"labelSelector": selector}, _pod))

    def events(self, pod_name: str) -> list[Json]:
        """What Kubernetes said of a pod, the oldest first."""
        fields = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod_name}"}
        found = self._list(f"listing events of pod {pod_name}", "events", fields, dict)
        return sorted(found, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))

    def log(self, pod_name: str, *, since: float | None = None, limit: int | None = None) -> bytes:
        """What its container printed from ``since`` (seconds since the epoch) on, each line after its time.

        Empty when there is nothing yet, or when the pod is gone.
        """
        query = {"container": MAIN, "timestamps": "true"}
        if since is not None:
            query["sinceTime"] = datetime.fromtimestamp(since, UTC).isoformat().replace("+00:00", "Z")
        if limit is not None:
            query["limitBytes"] = str(limit)
        try:
            path = self._path("pods", pod_name, "log")
            return self._call(f"reading the log of pod {pod_name}", "GET", path, _as_it_is, query)
        except ApiError as error:
            if error.status in (400, 404):  # its container waits to start, or it is gone
                return b""
            raise

    # -- for those who ask whether it works ----------------------------------------------------------------------

    def version(self) -> str:
        read = _object(lambda answer: str(answer["gitVersion"]))  # the one answer that is of no kind
        return self._call("asking for the version", "GET", "/version/", read)

    def allowed(self, verb: str, resource: str) -> bool:
        """Whether our account may do that in the namespace; ``resource`` as in RIGHTS."""
        kind, _, part = resource.partition("/")
        asked = {"namespace": self._settings.namespace, "verb": verb, "resource": kind, "subresource": part}
        body = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {name: text for name, text in asked.items() if text}},
        }  # fmt: skip
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        read = _object(lambda answer: bool(answer["status"].get("allowed")))
        return self._call(f"asking whether we may {verb} {resource}", "POST", path, read, body=body)

    def rehearse(self) -> None:
        """Make a Secret as a launch does, but for show: rights do not tell whether the namespace is there."""
        metadata = {"name": "kwdbml-doctor", "labels": {names.INSTALLATION: "doctor"}}
        body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata}
        try:
            self._call("rehearsing a Secret", "POST", self._path("secrets"), _DONE, {"dryRun": "All"}, body=body)
        except ApiError as error:
            if error.status != 409:
                raise

    # -- calls ---------------------------------------------------------------------------------------------------

    def _path(self, *parts: str) -> str:
        return "/".join(("/api/v1/namespaces", self._settings.namespace, *(quote(part, safe="") for part in parts)))

    def _list(self, doing: str, kind: str, query: Mapping[str, str], read: Callable[[Json], T]) -> Iterator[T]:
        """All pages. Where a page's turn comes too late for the server to remember (410), this is an ApiError."""
        asked, read_page = {**query, "limit": str(_PAGE)}, _object(lambda answer: _page(answer, read))
        while True:
            items, more = self._call(doing, "GET", self._path(kind), read_page, asked)
            yield from items
            if not more:
                return
            asked["continue"] = more

    def _call(
        self,
        doing: str,
        method: str,
        path: str,
        read: Reader[T],
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        kind: str = "application/json",
    ) -> T:
        """Every call of ours can be made twice without harm."""
        url = f"{path}?{urlencode(query)}" if query else path
        sent = None if body is None else json.dumps(body).encode()
        once = functools.partial(self._once, doing, method, url, read, sent, kind)
        return backoff.repeated(lambda: self._ask(once), sleep=self._sleep)

    def _ask(self, once: Callable[[], T]) -> T:
        """One call; a second one with the credentials loaded anew when the first one's were not taken."""
        try:
            return once()
        except ApiError as error:
            if not error.stranger or self._settings.cluster_access == "host":
                raise
        with self._lock:
            self._client = None
        return once()

    def _once(self, doing: str, method: str, url: str, read: Reader[T], body: bytes | None, kind: str) -> T:
        api = self._connected()
        headers = {"Accept": "application/json, */*", "Content-Type": kind, "User-Agent": "kwdbml"}
        headers |= self._credentials(api.configuration)
        server, wait = self._server(api.configuration.host), self._settings.timeout
        try:
            response = api.rest_client.pool_manager.request(
                method, api.configuration.host.rstrip("/") + url, body=body, headers=headers, retries=False,
                timeout=urllib3.Timeout(connect=min(_CONNECT, wait), read=wait),
            )  # fmt: skip
        except (HTTPError, OSError) as error:
            raise backoff.unreachable(server, doing, error) from error
        if 200 <= response.status < 300:
            return read(server, doing, bytes(response.data))
        raise backoff.refused(server, doing, response.status, response.headers, response.data)

    def _credentials(self, configuration: Any) -> dict[str, str]:
        """As the package has them now: it reads a token's file again, or asks a plug-in."""
        try:
            return {str(one["key"]): str(one["value"]) for one in configuration.auth_settings().values()}
        except Exception as error:  # whatever the package makes of half a file
            text = f"the credentials for the Kubernetes API cannot be read: {error}"
            raise ApiError(text, hint=self._server("").unknown, retryable=True) from error

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        found, settings = client.Configuration(), self._settings
        try:
            if settings.cluster_access == "host":
                found.host = settings.cluster_host
            elif settings.cluster_access == "kubeconfig":
                file = str(settings.kubeconfig) if settings.kubeconfig else None
                config.load_kube_config(file, settings.context, client_configuration=found, persist_config=False)
            else:
                config.load_incluster_config(client_configuration=found)
        except Exception as error:  # whatever the package makes of half a file
            raise _no_access(settings, error) from error
        found.connection_pool_maxsize = CONNECTIONS
        return client.ApiClient(found)

    def _server(self, address: str) -> Server:
        return Server(
            "the Kubernetes API", address, _ADDRESSED_BY[self._settings.cluster_access],
            "Renew the credentials of the kubeconfig (KWDBML_KFP_KUBECONFIG) or of the worker's service account.",
            f"Bind the worker's account to the role of deploy/kubernetes in namespace {self._settings.namespace}.",
            "Correct the certificate-authority of the kubeconfig (KWDBML_KFP_KUBECONFIG).",
            own=lambda said: said.get("kind") == "Status",
        )  # fmt: skip


def _no_access(settings: KubeflowSettings, error: Exception) -> ApiError:
    """Retryable: who writes the file, or corrects it, may be just about to."""
    if settings.cluster_access == "in-cluster":
        return ApiError(
            "this worker has no access to a Kubernetes cluster: it runs in no pod, and no kubeconfig is named",
            hint="Name one as KWDBML_KFP_KUBECONFIG (and KWDBML_KFP_CONTEXT).",
            detail=str(error),
            retryable=True,
        )
    return ApiError(
        f"the kubeconfig {settings.kubeconfig or 'of KUBECONFIG'} gives no access: {error}",
        hint="Correct KWDBML_KFP_KUBECONFIG or KWDBML_KFP_CONTEXT: kubectl --context … get pods must work with them.",
        retryable=True,
    )


def _encoded(content: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(text.encode()).decode() for name, text in content.items()}


def _part(name: str, labels: Mapping[str, str], annotations: Mapping[str, str], content: Mapping[str, str]) -> Json:
    metadata = {"name": name, "labels": dict(labels), "annotations": dict(annotations)}
    return {"metadata": metadata, "data": _encoded(content)}


# -- what it answers: KeyError and the like show that something else has answered (``backoff.heard``) ------------------


def _object(read: Callable[[Json], T]) -> Reader[T]:
    return lambda server, doing, body: backoff.heard(server, doing, body, read)


def _as_it_is(*said: Any) -> bytes:
    """Of a log, which may be any text."""
    return bytes(said[-1])


def _done(answer: Json) -> None:
    if not isinstance(answer["kind"], str):
        raise TypeError(answer["kind"])


_DONE = _object(_done)


def _page(answer: Json, read: Callable[[Json], T]) -> tuple[list[T], str]:
    if not answer["kind"].endswith("List"):
        raise ValueError(answer["kind"])
    return [read(one) for one in answer["items"] or []], str((answer.get("metadata") or {}).get("continue") or "")


def _kept(one: Json) -> Kept:
    metadata = one["metadata"]
    run_id = str((metadata.get("annotations") or {}).get(names.RUN_ID) or "")
    created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    return Kept(str(metadata["name"]), _run_of(metadata), run_id, created)


def _pod(one: Json) -> Pod:
    kept = {part: _without(one.get(part) or {}, names) for part, names in _LONG.items()}
    kept["spec"]["containers"] = [_without(c, _LONG_CONTAINER) for c in kept["spec"].get("containers") or []]
    phase = str((one.get("status") or {}).get("phase", ""))
    return Pod(str(one["metadata"]["name"]), _run_of(one["metadata"]), phase, {**one, **kept})


def _without(part: Json, names: Collection[str]) -> Json:
    return {name: value for name, value in part.items() if name not in names}


def _run_of(metadata: Mapping[str, Any]) -> str:
    return str((metadata.get("annotations") or {}).get(names.RUN) or "")
