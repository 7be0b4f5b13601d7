"""A pod as the Kubernetes API shows it, and its log as the kubelet keeps it."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

#: containerLogMaxSize: a longer log begins anew, and only the new part can be read.
LOG_LIMIT = 10 * 2**20


def stamp(seconds: float | None = None) -> str:
    """A time as Kubernetes and KFP write it: whole seconds."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def nano_stamp(nanoseconds: int) -> str:
    """A time as the kubelet writes it before a line of a log."""
    whole, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


class PodLog:
    """The lines of one container. Readers may follow it."""

    def __init__(self, limit: int = LOG_LIMIT) -> None:
        self.changed = threading.Condition()
        self.limit = limit
        self.closed = False
        self._lines: list[tuple[int, bytes]] = []
        self._size = 0
        self._last = 0

    def add(self, line: bytes) -> None:
        with self.changed:
            self._last = max(time.time_ns(), self._last + 1)
            if self._size > self.limit:
                self._lines, self._size = [], 0
            self._lines.append((self._last, line if line.endswith(b"\n") else line + b"\n"))
            self._size += len(line)
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def lines(self, since: int = 0, tail: int | None = None) -> list[tuple[int, bytes]]:
        with self.changed:
            found = [one for one in self._lines if one[0] >= since]
        return found if tail is None else found[len(found) - min(tail, len(found)) :]

    def follow(self, since: int, tail: int | None) -> Iterator[list[tuple[int, bytes]]]:
        """The lines, then new ones as they come, until the container has ended."""
        found = self.lines(since, tail)
        last = found[-1][0] if found else max(since - 1, self._last)
        yield found
        while found := self._after(last):
            last = found[-1][0]
            yield found

    def _after(self, last: int) -> list[tuple[int, bytes]]:
        """Wait for lines after ``last``; none when the container has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self._last > last)
            return [one for one in self._lines if one[0] > last]

    @property
    def text(self) -> str:
        return b"".join(line for _, line in self.lines()).decode(errors="replace")


@dataclass(slots=True)
class Pod:
    """One pod. ``main`` is the state of its main container: one of waiting, running, terminated."""

    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Json
    run_id: str
    task: str = ""  # "" for drivers
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: float = field(default_factory=time.time)
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    scheduled: tuple[bool, str, str] = (True, "", "")  # is it, reason, message
    main: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    log: PodLog = field(default_factory=PodLog)
    version: int = 1
    gone: bool = False  # deleted
    leaves: float | None = None  # somebody has deleted it, and its node has not said that it is gone

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    def terminated(self, code: int, reason: str = "") -> None:
        """The main container has ended; so has the pod."""
        started = self.main.get("running", {}).get("startedAt", stamp())
        self.main = {
            "terminated": {
                "exitCode": code,
                "reason": reason or ("Completed" if code == 0 else "Error"),
                "startedAt": started,
                "finishedAt": stamp(),
                "containerID": f"containerd://{secrets.token_hex(32)}",
            }
        }
        self.phase = "Succeeded" if code == 0 else "Failed"
        self.labels["workflows.argoproj.io/completed"] = "true"
        self.log.close()

    def document(self) -> Json:
        """V1Pod."""
        status: Json = {"phase": self.phase, "conditions": self._conditions(), "qosClass": "Burstable"}
        if self.scheduled[0]:
            status |= {"hostIP": "10.0.0.2", "podIP": "10.1.0.9", "startTime": stamp(self.created)}
            status["containerStatuses"] = [self._container("main", self.main), self._container("wait", self._wait())]
        status |= {name: value for name, value in (("reason", self.reason), ("message", self.message)) if value}
        if self.reason == "Evicted":
            status.pop("containerStatuses", None)  # the kubelet has thrown them away
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
                "annotations": self.annotations,
                "creationTimestamp": stamp(self.created),
                "resourceVersion": str(self.version),
                **({} if self.leaves is None else {"deletionTimestamp": stamp(self.leaves)}),
            },
            "spec": self.spec,
            "status": status,
        }

    def _conditions(self) -> list[Json]:
        is_scheduled, reason, message = self.scheduled
        first: Json = {"type": "PodScheduled", "status": str(is_scheduled), "lastTransitionTime": stamp(self.created)}
        if not is_scheduled:
            first |= {"reason": reason, "message": message}
            return [first]
        ready = "True" if "running" in self.main else "False"
        return [
            first,
            {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": ready},
            {"type": "Ready", "status": ready},
        ]

    def _wait(self) -> Json:
        """Argo's sidecar: it lives while the main container does."""
        if "terminated" in self.main:
            return {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": stamp(), "startedAt": stamp()}}
        return (
            {"running": {"startedAt": stamp()}}
            if "running" in self.main
            else {"waiting": {"reason": "PodInitializing"}}
        )

    def _container(self, name: str, state: Json) -> Json:
        spec = next(one for one in self.spec["containers"] if one["name"] == name)
        return {
            "name": name,
            "image": spec["image"],
            "imageID": "" if "waiting" in state else f"{spec['image']}@sha256:{'0' * 64}",
            "ready": "running" in state,
            "started": "running" in state,
            "restartCount": 0,
            "lastState": {},
            "state": state,
        }
