"""The cluster that both APIs show: nodes, images, claims, Secrets, pods, events; and the runs and experiments of KFP.

Tests hold it in their hands (fixture ``kubeflow``): they script what goes wrong, and look at what happened.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_server_api import V2beta1RuntimeState

from tests.engines.kubeflow.stub.containers import Image, runtime
from tests.engines.kubeflow.stub.pods import LOG_LIMIT, Pod, stamp
from tests.engines.kubeflow.stub.workflow import Workflow
from tests.fixtures.s3 import S3Server

Json = dict[str, Any]
NAMESPACE = "kubeflow"
RUNTIME_IMAGE = "registry.test/kwdbml-runtime:test"
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_KNOWN = frozenset(V2beta1RuntimeState.allowable_values)
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(slots=True)
class Node:
    """A machine of the cluster: what it offers, and whom it keeps away."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Json] = field(default_factory=list)  # {"key", "value", "effect"}
    offers: dict[str, str] = field(default_factory=lambda: {"cpu": "64", "memory": "512Gi"})


@dataclass(slots=True)
class RunRecord:
    """KFP's row of a run: what the API shows, which is what the persistence agent has last reported."""

    run_id: str
    document: Json  # V2beta1Run as created
    created: int
    workflow: Workflow
    state: str = "PENDING"
    history: list[Json] = field(default_factory=list)
    finished: int | None = None
    archived: bool = False
    tasks: list[Json] = field(default_factory=list)

    def enter(self, state: str) -> None:
        if state != self.state or not self.history:
            self.state = state
            self.history.append({"update_time": stamp(), "state": state})

    def show(self, *, details: bool = True) -> Json:
        """V2beta1Run."""
        shown = dict(self.document) | {
            "run_id": self.run_id,
            "state": self.state,
            "storage_state": "ARCHIVED" if self.archived else "AVAILABLE",
            "created_at": stamp(self.created),
            "scheduled_at": stamp(self.created),
            "finished_at": EPOCH if self.finished is None else stamp(self.finished),
            "state_history": list(self.history),
        }
        if details:
            shown["run_details"] = {"task_details": self.tasks}
        return shown


class World:
    """Everything behind the two APIs. Take ``lock`` to look at several things at once."""

    def __init__(self, root: Path, s3: S3Server | None = None) -> None:
        self.root, self.s3 = root, s3
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.namespace = NAMESPACE
        self._begin()

    def _begin(self) -> None:
        self.images: dict[str, Image] = {RUNTIME_IMAGE: runtime(RUNTIME_IMAGE)}
        self.nodes = [Node("node-1", {"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux"})]
        self.secrets: dict[str, Json] = {}
        self.pods: dict[str, Pod] = {}
        self.events: list[Json] = []
        self.allowed: Callable[[Json], bool] = lambda attributes: True  # SelfSubjectAccessReview's answers
        self.experiments: dict[str, Json] = {}
        self.pipelines: dict[str, Json] = {}
        self.runs: dict[str, RunRecord] = {}
        self.scripts: list[Json] = []
        self.held: set[str] = set()
        self.agent_alive = True  # KFP's persistence agent
        self.multi_user = False  # whether KFP has users of its own, each with a namespace
        self.secrets_synced = True  # whether the kubelet brings a changed Secret into running pods at once
        self.grace = 0.2  # seconds between SIGTERM and SIGKILL
        self.log_limit = LOG_LIMIT
        self.check_answers = True
        self._version = 0
        self._strange = False  # a state was forced that no client knows
        self.cache: dict[str, tuple[Json, Json]] = {}  # KFP's: a task's fingerprint → what it put out

    def reset(self) -> None:
        """Stop everything and begin anew."""
        self.close()
        with self.lock:
            shutil.rmtree(self.root, ignore_errors=True)
            self._begin()

    def close(self) -> None:
        """No process of a container outlives this."""
        with self.lock:
            workflows = [run.workflow for run in self.runs.values()]
            for workflow in workflows:
                workflow.discard()
        for workflow in workflows:
            workflow.join()

    # -- what tests look at ----------------------------------------------------------------------------------------

    def touch(self) -> int:
        """Something has changed: the next resourceVersion."""
        with self.lock:
            self._version += 1
            self.changed.notify_all()
            return self._version

    def wait(self, condition: Callable[[], Any], timeout: float = 30) -> Any:
        """Wait until ``condition`` holds; looked at when something changes, and now and then (files, logs)."""
        deadline = time.monotonic() + timeout
        with self.lock:
            while not (found := condition()):
                assert time.monotonic() < deadline, "the condition did not come true"
                self.changed.wait(0.05)
            return found

    def run(self, name: str) -> RunRecord:
        """The one run of this display name."""
        with self.lock:
            (found,) = [one for one in self.runs.values() if one.document["display_name"] == name]
            return found

    def pods_of(self, run_id: str, *, executors: bool = True) -> list[Pod]:
        """A run's pods that are there; of the executors alone unless told otherwise."""
        with self.lock:
            return [pod for pod in self.pods.values() if pod.run_id == run_id and (pod.task or not executors)]

    def living(self) -> list[int]:
        """Processes of containers that run now."""
        with self.lock:
            return [pid for run in self.runs.values() for pid in run.workflow.pids()]

    def claim(self, name: str) -> Path:
        """The directory behind a PersistentVolumeClaim; made when first asked for."""
        path = self.root / "claims" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def has_claim(self, name: str) -> bool:
        return (self.root / "claims" / name).is_dir()

    # -- what tests do to it ---------------------------------------------------------------------------------------

    def script(self, failure: str, *, times: int = 1, task: str | None = None, exit_code: int = 1) -> None:
        """The next executor pods (of ``task``) fail so: ImagePullBackOff, Unschedulable, OOMKilled, Evicted, Exit."""
        with self.lock:
            self.scripts += [{"failure": failure, "task": task, "exit_code": exit_code} for _ in range(times)]

    def take_script(self, task: str) -> Json:
        """How this pod is to fail; {} when it is not."""
        for script in self.scripts:
            if script["task"] in (None, task):
                self.scripts.remove(script)
                return script
        return {}

    def hold(self, state: str) -> None:
        """No run leaves this state until ``release``. PENDING: Argo starts nothing; CANCELING: it stops nothing."""
        with self.lock:
            self.held.add(state)

    def release(self, state: str) -> None:
        with self.lock:
            self.held.discard(state)
            for run in list(self.runs.values()):
                run.workflow.resume()
                self.report(run)

    def agent(self, alive: bool) -> None:
        """KFP's persistence agent: without it the API shows no progress of any run."""
        with self.lock:
            self.agent_alive = alive
            for run in self.runs.values():
                self.report(run)

    def force(self, run_id: str, state: str) -> None:
        """Show this state, also one that no client knows yet; it stays."""
        with self.lock:
            self.runs[run_id].enter(state)
            self.runs[run_id].workflow.forced = True
            self._strange = self._strange or state not in _KNOWN
            self.touch()

    def forget(self, run_id: str) -> None:
        """Somebody has deleted the run: row, workflow, pods."""
        with self.lock:
            run = self.runs.pop(run_id)
            run.workflow.discard()
            self.touch()

    def delete_pod(self, name: str) -> None:
        """A pod goes away: its process dies, its log is gone; Argo takes a running one's node for failed."""
        with self.lock:
            pod = self.pods.pop(name)
            pod.gone = True
            self.runs[pod.run_id].workflow.lose(pod)
            self.touch()

    def fail_pod(self, name: str, failure: str, exit_code: int = 137) -> None:
        """OOMKilled, Evicted or Exit, now, for a pod that runs."""
        with self.lock:
            pod = self.pods[name]
            self.runs[pod.run_id].workflow.strike(pod, failure, exit_code)

    def finish(self, run_id: str, exit_code: int = 0) -> None:
        """End the simulated container of a run (an image with ``simulated``)."""
        with self.lock:
            for pod in self.pods_of(run_id):
                self.runs[run_id].workflow.finish_simulated(pod, exit_code)

    def put_secret(self, name: str, data: dict[str, str], **metadata: Any) -> None:
        """A Secret that is there before the test begins."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        with self.lock:
            self.secrets[name] = self.stored({"metadata": {"name": name, **metadata}, "data": encoded})
            self.secrets_changed()

    # -- what the pieces tell each other ---------------------------------------------------------------------------

    def stored(self, secret: Json) -> Json:
        """A Secret as the server keeps it."""
        metadata = {
            "namespace": self.namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": stamp(),
            **secret.get("metadata", {}),
            "resourceVersion": str(self.touch()),
        }
        data = dict(secret.get("data") or {})
        for key, value in (secret.get("stringData") or {}).items():
            data[key] = base64.b64encode(value.encode()).decode()
        kept = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        return (
            kept | {"type": secret.get("type") or "Opaque"} | ({"immutable": True} if secret.get("immutable") else {})
        )

    def secrets_changed(self) -> None:
        """The kubelet brings Secrets into volumes, and starts pods that waited for one."""
        with self.lock:
            for run in self.runs.values():
                run.workflow.secrets_changed()

    def add_event(self, pod: Pod, reason: str, message: str, kind: str = "Warning") -> None:
        now = time.time()
        self.events.append(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{pod.name}.{secrets.token_hex(8)}",
                    "namespace": pod.namespace,
                    "creationTimestamp": stamp(now),
                    "resourceVersion": str(self.touch()),
                },
                "involvedObject": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
                "reason": reason,
                "message": message,
                "type": kind,
                "count": 1,
                "firstTimestamp": stamp(now),
                "lastTimestamp": stamp(now),
                "source": {"component": "kubelet"},
            }
        )

    def report(self, run: RunRecord) -> None:
        """The persistence agent tells KFP how the run's workflow stands."""
        with self.lock:
            workflow = run.workflow
            state = workflow.state
            if not self.agent_alive or workflow.forced or run.state in self.held:
                return
            if run.state == "CANCELING" and state not in ENDED:
                return
            run.tasks = workflow.task_details(run.run_id)
            run.enter(state)
            run.finished = None if state not in ENDED else run.finished or int(time.time())
            self.touch()

    def has_forced(self) -> bool:
        """Whether a test makes some run show what no client knows."""
        return self._strange
