"""One execution of a task: its driver's pod, its own pod, the container in it, and what comes out."""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.engines.kubeflow.stub.containers import Container, Mount, Order
from tests.engines.kubeflow.stub.placeholders import PARAMETER_FILES, Execution
from tests.engines.kubeflow.stub.platform import Plan, Volume, plan, pod_spec, refusal
from tests.engines.kubeflow.stub.pods import Pod, PodLog, stamp
from tests.engines.kubeflow.stub.volumes import Artifacts, write_secret

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.workflow import Workflow

Json = dict[str, Any]
_STORES = ("s3", "minio", "gcs")


class Executor:
    """All methods are called with the world's lock held, except what the container's own thread does."""

    def __init__(self, workflow: Workflow, execution: Execution) -> None:
        self.workflow, self.world, self.execution = workflow, workflow.world, execution
        self.task = execution.task
        self.plan: Plan = plan(execution, workflow.parameters)
        self.state = "PENDING"
        self.results: Json = {}  # output parameters
        self.stopping = False
        self.container: Container | None = None
        self.script = self.world.take_script(self.task.name)
        self.scratch = self.world.root / "pods" / secrets.token_hex(6)
        self.pod = self._pod()
        self._strike: tuple[str, str] | None = None  # reason, message of a death that is not the process's own
        self._said: set[str] = set()
        self._timers: list[threading.Timer] = []

    def _pod(self) -> Pod:
        spec = pod_spec(self.plan, self.execution, self.workflow.service_account)
        pod = self.workflow.add_pod("system-container-impl", self.task.name, spec, self.plan)
        pod.log = PodLog(self.world.log_limit)
        return pod

    # -- from Pending to Running -----------------------------------------------------------------------------------

    def advance(self) -> None:
        """Go as far as the cluster lets it; called again when something has changed."""
        if self.state != "PENDING" or self.container is not None or self.pod.gone:
            return
        failure = self.script.get("failure", "")
        if message := self._unschedulable(failure):
            self.pod.scheduled = (False, "Unschedulable", message)
            self._say("FailedScheduling", message)
            return
        self.pod.scheduled = (True, "", "")
        self.pod.spec["nodeName"] = self.world.nodes[0].name
        self._say("Scheduled", f"Successfully assigned {self.pod.namespace}/{self.pod.name}", "Normal")
        if message := self._missing_secret():
            self._say("FailedMount", message)
            return
        if failure == "ImagePullBackOff" or self.plan.image not in self.world.images:
            self._refuse_image()
        elif missing := self._missing_key():
            self.pod.main = {"waiting": {"reason": "CreateContainerConfigError", "message": missing}}
            self._say("Failed", f"Error: {missing}")
        else:
            self._start(failure)

    def _unschedulable(self, failure: str) -> str:
        if failure == "Unschedulable":
            return "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available."
        for volume in self.plan.volumes:
            if volume.kind == "claim" and not self.world.has_claim(volume.name):
                return f'0/1 nodes are available: persistentvolumeclaim "{volume.name}" not found.'
        return refusal(self.plan, self.world.nodes)

    def _missing_secret(self) -> str:
        for number, volume in enumerate(self.plan.volumes):
            if volume.kind == "secret" and not volume.optional and volume.name not in self.world.secrets:
                return f'MountVolume.SetUp failed for volume "volume-{number}" : secret "{volume.name}" not found'
        return ""

    def _missing_key(self) -> str:
        for _, secret, key, optional in self.plan.secret_env:
            if secret not in self.world.secrets and not optional:
                return f'secret "{secret}" not found'
            if key not in self.world.secrets.get(secret, {}).get("data", {}) and not optional:
                return f"couldn't find key {key} in Secret {self.pod.namespace}/{secret}"
        return ""

    def _refuse_image(self) -> None:
        image = self.plan.image
        self._say("Pulling", f'Pulling image "{image}"', "Normal")
        self._say("Failed", f'Failed to pull image "{image}": not found: manifest unknown')
        self._say("BackOff", f'Back-off pulling image "{image}"', "Normal")
        self.pod.main = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}

    def _say(self, reason: str, message: str, kind: str = "Warning") -> None:
        if message not in self._said:
            self._said.add(message)
            self.world.add_event(self.pod, reason, message, kind)

    def _start(self, failure: str) -> None:
        self.state = "RUNNING"
        self.pod.phase = "Running"
        self.pod.main = {"running": {"startedAt": stamp()}}
        self.pod.version = self.world.touch()
        if failure:
            self.strike(failure, self.script["exit_code"])
        elif not self.world.images[self.plan.image].simulated:
            self._run()
        if self.plan.deadline is not None and not self.pod.ended:
            self._later(self.plan.deadline, self.workflow.strike, self.pod, "DeadlineExceeded", 137)

    def _later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        timer = threading.Timer(seconds, action, arguments)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    # -- the process -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        image = self.world.images[self.plan.image]
        for name in ("/tmp/kfp_outputs", PARAMETER_FILES, *(f"/{store}" for store in _STORES)):
            (self.scratch / name[1:]).mkdir(parents=True, exist_ok=True)
        artifacts = Artifacts(self.world.s3, self.scratch)
        try:
            for one in self.execution.artifacts.values():
                artifacts.download(one["uri"])
        except Exception as error:  # noqa: BLE001 - the launcher fails with the task, whatever it is
            self.pod.log.add(f"launcher: failed to download input artifacts: {error}".encode())
            self._finish(1, oom=False)
            return
        for one in self.execution.outputs.values():
            artifacts.place(one["uri"]).parent.mkdir(parents=True, exist_ok=True)
        self.pod.log.add(f'time="{stamp()}" level=info msg="capturing logs" argo=true'.encode())
        argv = self.plan.argv
        if self.plan.user is not None:
            user = str(self.plan.user)
            argv = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--", *argv]
        order = Order(image, argv, self._environment(), self._mounts(), self.pod.name, self.scratch, self.plan.memory)
        self.container = Container(order, self.pod.log.add, self._ended)

    def _environment(self) -> dict[str, str]:
        """What a pod finds: the image's variables, Kubernetes', KFP's, its own."""
        env = dict(self.world.images[self.plan.image].env)
        env |= {"HOSTNAME": self.pod.name, "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
        env |= {"KFP_POD_NAME": self.pod.name, "KFP_POD_UID": self.pod.uid, "NAMESPACE": self.pod.namespace}
        values = {
            "metadata.name": self.pod.name,
            "metadata.namespace": self.pod.namespace,
            "metadata.uid": self.pod.uid,
        }
        env |= {name: values.get(path, "") for name, path in self.plan.fields.items()}
        for variable, secret, key, _ in self.plan.secret_env:
            data = self.world.secrets.get(secret, {}).get("data", {})
            if key in data:
                env[variable] = base64.b64decode(data[key]).decode()
        return env | self.plan.env

    def _mounts(self) -> list[Mount]:
        mounts = [Mount(self.scratch / store, f"/{store}") for store in _STORES]
        self.write_secrets()
        return mounts + [self._mount(number, volume) for number, volume in enumerate(self.plan.volumes)]

    def _mount(self, number: int, volume: Volume) -> Mount:
        if volume.kind == "claim":
            source = self.world.claim(volume.name) / volume.sub_path
            source.mkdir(parents=True, exist_ok=True)
            return Mount(source, volume.path)
        source = self._volume_directory(number)
        source.mkdir(parents=True, exist_ok=True)
        return Mount(source, volume.path, read_only=volume.kind == "secret")

    def _volume_directory(self, number: int) -> Path:
        return self.scratch / f"volume-{number}"

    def write_secrets(self) -> None:
        """Bring the Secrets' present contents into the pod's volumes."""
        for number, volume in enumerate(self.plan.volumes):
            secret = self.world.secrets.get(volume.name)
            if volume.kind == "secret" and secret is not None:
                write_secret(self._volume_directory(number), secret)

    # -- the end ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Terminate: a pod that has not started is deleted, a running one gets SIGTERM, then SIGKILL."""
        if self.state not in ("PENDING", "RUNNING"):
            return
        self.stopping = True
        if self.state == "PENDING":
            self._close("FAILED")
            self.workflow.remove_pod(self.pod)
        elif self.container is None:
            self.pod.terminated(143)
            self._close("FAILED")
        else:
            self.container.terminate()
            self._later(self.world.grace, self.container.kill)

    def kill(self) -> None:
        """The pod is gone: nothing asks its process."""
        self.stopping = True
        if self.container is not None:
            self.container.kill()

    def strike(self, failure: str, exit_code: int) -> None:
        """Die of something that is not the process's own doing."""
        memory = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi."
        deaths = {
            "OOMKilled": ("OOMKilled", "", 137),
            "Evicted": ("Evicted", memory, 137),
            "DeadlineExceeded": (
                "DeadlineExceeded",
                "Pod was active on the node longer than the specified deadline",
                137,
            ),
            "Exit": ("", "", exit_code),
        }
        reason, message, code = deaths[failure]
        self._strike = (reason, message)
        if self.container is not None:
            self.container.kill()
        elif not self.pod.ended:
            self._finish(code, oom=False)

    def finish(self, exit_code: int) -> None:
        """A simulated container ends."""
        if self.state == "RUNNING" and self.container is None:
            self._finish(exit_code, oom=False)

    def _ended(self, code: int, oom: bool) -> None:
        """The container's thread: its process has ended and its last line was read."""
        if code == 0 and not self.stopping:
            try:
                self._collect()
            except Exception as error:  # noqa: BLE001 - the launcher fails with the task, whatever it is
                self.pod.log.add(f"launcher: failed to upload output artifacts: {error}".encode())
                code = 1
        self.pod.log.add(f'time="{stamp()}" level=info msg="sub-process exited" argo=true'.encode())
        with self.world.lock:
            if not self.pod.ended:
                self._finish(code, oom=oom)

    def _finish(self, code: int, *, oom: bool) -> None:
        reason, message = self._strike or ("OOMKilled" if oom else "", "")
        self.pod.terminated(code, reason if reason == "OOMKilled" else "")
        if reason in ("Evicted", "DeadlineExceeded"):
            self.pod.reason, self.pod.message = reason, message
            self.world.add_event(self.pod, reason, message)
        self._close("SUCCEEDED" if code == 0 else "FAILED")

    def _close(self, state: str) -> None:
        self.state = state
        for timer in self._timers:
            timer.cancel()
        self.pod.version = self.world.touch()
        self.pod.log.close()
        self.workflow.executor_ended(self)

    def _collect(self) -> None:
        """What the launcher publishes when the command has succeeded."""
        artifacts = Artifacts(self.world.s3, self.scratch)
        for one in self.execution.outputs.values():
            artifacts.upload(one["uri"])
        definitions = self.task.definitions.get("outputDefinitions", {}).get("parameters", {})
        for name, definition in definitions.items():
            with suppress(FileNotFoundError):
                text = (self.scratch / PARAMETER_FILES[1:] / name).read_text()
                self.results[name] = text if definition["parameterType"] == "STRING" else json.loads(text)
        with suppress(FileNotFoundError):
            written = json.loads((self.scratch / "tmp/kfp_outputs/output_metadata.json").read_text())
            self.results |= written.get("parameterValues", {})
