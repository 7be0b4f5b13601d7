"""Argo's part: a run's tasks in the order of their needs, each a driver's pod and an executor's pod."""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.engines.kubeflow.stub.executor import Executor
from tests.engines.kubeflow.stub.ir import Pipeline, Task, numbers
from tests.engines.kubeflow.stub.placeholders import DriverError, Execution
from tests.engines.kubeflow.stub.platform import Plan, resolve
from tests.engines.kubeflow.stub.pods import Pod, stamp

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.world import World

Json = dict[str, Any]
_DONE = ("SUCCEEDED", "FAILED", "SKIPPED")


class Workflow:
    """One run's workflow. Every method is called with the world's lock held."""

    def __init__(
        self,
        world: World,
        run_id: str,
        display_name: str,
        pipeline: Pipeline,
        parameters: Json,
        pipeline_root: str,
        service_account: str,
        report: Callable[[], None],
    ) -> None:
        self.world, self.run_id, self.display_name = world, run_id, display_name
        self.pipeline, self.parameters = pipeline, parameters
        self.pipeline_root, self.service_account = pipeline_root, service_account
        self.name = f"{pipeline.name[:40]}-{secrets.token_hex(3)}"
        self.state = "PENDING"
        self.forced = False
        self.terminating = False
        self._report = report
        self._started = self._discarded = False
        self._executors: dict[str, Executor] = {}  # of each task the latest
        self._past: list[Executor] = []  # those that were tried again
        self._cached: dict[str, str] = {}  # tasks without an executor: SUCCEEDED (cache) or FAILED (driver)
        self._made: dict[str, tuple[Json, Json]] = {}  # what a task that succeeded has put out: parameters, artifacts
        self._nodes: list[Json] = []  # finished drivers
        self._created = stamp()

    # -- its life --------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin, go on, or do what was held back."""
        if self._discarded:
            return
        if self.terminating:
            self.terminate()
        elif not self._started and "PENDING" not in self.world.held:
            self._started = True
            self.state = "RUNNING"
            self.add_pod("system-dag-driver", "", _driver_spec(), None)
            self._node("root-driver", "SUCCEEDED")
            self._report()
            self._advance()

    def _advance(self) -> None:
        if self.terminating or self._discarded:
            return
        while ready := self._ready():
            for task in ready:
                self._launch(task)
        for executor in list(self._executors.values()):
            executor.advance()
        self._settle()

    def _ready(self) -> list[Task]:
        """The tasks that may start now; none after a failure."""
        states = {name: self._state(name) for name in self.pipeline.tasks}
        if "FAILED" in states.values():
            return []
        waiting = [task for name, task in self.pipeline.tasks.items() if not states[name]]
        return [task for task in waiting if all(states[one] == "SUCCEEDED" for one in task.after)]

    def _settle(self) -> None:
        """The workflow's state, from its tasks'."""
        states = [self._state(name) for name in self.pipeline.tasks]
        if self._started and all(state in _DONE for state in states if state):
            if all(states) and "FAILED" not in states:
                self.state = "SUCCEEDED"  # also when it was to be terminated, and was faster
            elif "FAILED" in states or self.terminating:
                self.state = "FAILED"
        self._report()

    def _state(self, task: str) -> str:
        if task in self._cached:
            return self._cached[task]
        if task not in self._executors:
            return ""
        executor = self._executors[task]
        # a node that was told to stop has failed for Argo at once, while its pod takes its time to die
        return "FAILED" if executor.stopping and executor.state not in _DONE else executor.state

    def terminate(self) -> None:
        """As Argo does when it is told to; unless a test holds it back."""
        self.terminating = True
        if "CANCELING" in self.world.held or self.state in ("SUCCEEDED", "FAILED"):
            return
        self._started = True
        for executor in list(self._executors.values()):
            executor.stop()
        self._settle()

    def retry(self) -> None:
        """Reopen it: what has failed is done again."""
        self.terminating = False
        for name, executor in list(self._executors.items()):
            if executor.state == "FAILED":
                self.remove_pod(executor.pod)
                del self._executors[name]
        self._cached = {name: state for name, state in self._cached.items() if state != "FAILED"}
        self.state = "RUNNING"
        self._report()
        self._advance()

    def discard(self) -> None:
        """The workflow was deleted: its pods go, whatever they do."""
        self._discarded = True
        for executor in [*self._executors.values(), *self._past]:
            executor.kill()
        for pod in self.world.pods_of(self.run_id, executors=False):
            self.remove_pod(pod)

    def join(self) -> None:
        """Wait for the containers' threads; without the lock."""
        for executor in [*self._executors.values(), *self._past]:
            if executor.container is not None:
                executor.container.join()

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _launch(self, task: Task) -> None:
        self.add_pod("system-container-driver", "", _driver_spec(), None)
        try:
            executor = Executor(self, self._execution(task))
        except DriverError:
            self._cached[task.name] = "FAILED"
            self._node(f"{task.name}-driver", "FAILED")
            return
        self._node(f"{task.name}-driver", "SUCCEEDED")
        made = self.world.cache.get(_fingerprint(executor)) if task.cached else None
        if made is not None:
            self._cached[task.name], self._made[task.name] = "SUCCEEDED", made
            self.remove_pod(executor.pod)
            return
        self._executors[task.name] = executor
        executor.advance()

    def _execution(self, task: Task) -> Execution:
        execution = Execution(task, self.run_id, self.name, self.display_name)
        for name, definition in task.definitions.get("inputDefinitions", {}).get("parameters", {}).items():
            source = task.inputs.get("parameters", {}).get(name)
            if source is not None:
                execution.parameters[name] = numbers(self._parameter(source, execution))
            elif "defaultValue" in definition:
                execution.parameters[name] = numbers(definition["defaultValue"])
        for name, source in task.inputs.get("artifacts", {}).items():
            made = source["taskOutputArtifact"]
            execution.artifacts[name] = self._made[made["producerTask"]][1][made["outputArtifactKey"]]
        for name in task.definitions.get("outputDefinitions", {}).get("artifacts", {}):
            uri = f"{self.pipeline_root}/{self.pipeline.name}/{self.run_id}/{task.name}/{uuid.uuid4()}/{name}"
            execution.outputs[name] = {"name": name, "uri": uri, "metadata": {}}
        return execution

    def _parameter(self, source: Json, execution: Execution) -> Any:
        if "taskOutputParameter" not in source:
            return resolve(source, execution, self.parameters)
        made = source["taskOutputParameter"]
        results = self._made[made["producerTask"]][0]
        if made["outputParameterKey"] not in results:
            raise DriverError(f"cannot find output parameter {made['outputParameterKey']} in producer task")
        return results[made["outputParameterKey"]]

    def executor_ended(self, executor: Executor) -> None:
        task = executor.task
        if self._discarded or self._executors.get(task.name) is not executor:
            return
        if executor.state == "SUCCEEDED":
            self._made[task.name] = executor.results, executor.execution.outputs
            if task.cached:
                self.world.cache[_fingerprint(executor)] = self._made[task.name]
        tries = sum(past.task is task for past in self._past)
        if executor.state == "FAILED" and tries < task.retries and not self.terminating:
            self._past.append(executor)
            del self._executors[task.name]
        self._advance() if not self.terminating else self._settle()

    # -- pods ------------------------------------------------------------------------------------------------------

    def add_pod(self, template: str, task: str, spec: Json, plan: Plan | None) -> Pod:
        labels = {"pipeline/runid": self.run_id, "pipelines.kubeflow.org/v2_component": "true"}
        labels |= {"workflows.argoproj.io/workflow": self.name, "workflows.argoproj.io/completed": "false"}
        annotations = {"workflows.argoproj.io/node-name": f"{self.name}.root.{task or template}"}
        annotations["kubectl.kubernetes.io/default-container"] = "main"
        if plan is not None:
            labels, annotations = labels | plan.labels, annotations | plan.annotations
        name = f"{self.name}-{template}-{secrets.randbelow(10**10)}"
        pod = Pod(name, self.world.namespace, labels, annotations, spec, self.run_id, task)
        if plan is None:
            pod.main = {"running": {"startedAt": stamp()}}
            pod.log.add(f"I1121 00:00:00.000000 1 main.go:108] {template} for run {self.run_id}".encode())
            pod.terminated(0)
        self.world.pods[name] = pod
        pod.version = self.world.touch()
        return pod

    def remove_pod(self, pod: Pod) -> None:
        self.world.pods.pop(pod.name, None)
        pod.gone = True
        pod.log.close()
        self.world.touch()

    def _of(self, pod: Pod) -> Executor | None:
        return next((one for one in self._executors.values() if one.pod is pod), None)

    def lose(self, pod: Pod) -> None:
        """A pod was deleted behind Argo's back."""
        executor = self._of(pod)
        pod.log.close()
        if executor is None or executor.state in _DONE:
            return
        executor.kill()
        executor.state = "FAILED"
        self.executor_ended(executor)

    def strike(self, pod: Pod, failure: str, exit_code: int) -> None:
        with self.world.lock:
            executor = self._of(pod)
            if executor is not None and executor.state == "RUNNING":
                executor.strike(failure, exit_code)

    def finish_simulated(self, pod: Pod, exit_code: int) -> None:
        executor = self._of(pod)
        if executor is not None:
            executor.finish(exit_code)

    def secrets_changed(self) -> None:
        for executor in list(self._executors.values()):
            if executor.container is not None and executor.state == "RUNNING" and self.world.secrets_synced:
                executor.write_secrets()
            executor.advance()

    def pids(self) -> list[int]:
        executors = [*self._executors.values(), *self._past]
        return [pid for one in executors if one.container is not None for pid in one.container.pids()]

    # -- what the API shows ----------------------------------------------------------------------------------------

    def _node(self, name: str, state: str) -> None:
        self._nodes.append({"display_name": name, "state": state, "create_time": self._created})

    def task_details(self, run_id: str) -> list[Json]:
        """Flat and in no order: the root, drivers, executors, and the tasks themselves; no outputs, no pods."""
        nodes = [*self._nodes, {"display_name": "root", "state": self.state, "create_time": self._created}]
        nodes.append({"display_name": self.name, "state": self.state, "create_time": self._created})
        for name in self.pipeline.tasks:
            state = self._state(name)
            if state:
                nodes.append({"display_name": name, "state": state, "create_time": self._created})
            if name in self._executors:
                nodes.append({"display_name": "executor", "state": state, "create_time": self._created})
        for number, node in enumerate(nodes):
            node["run_id"] = run_id
            node.setdefault("task_id", str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {node['display_name']} {number}")))
            if node["state"] in _DONE:
                node.setdefault("end_time", stamp())
        return [dict(node) for node in sorted(nodes, key=lambda node: str(node["task_id"]))]


def _fingerprint(executor: Executor) -> str:
    """What KFP's cache knows a task by."""
    execution = executor.execution
    parts = [executor.task.container, execution.parameters, [one["uri"] for one in execution.artifacts.values()]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _driver_spec() -> Json:
    driver = {"name": "main", "image": "ghcr.io/kubeflow/kfp-driver", "command": ["driver"]}
    wait = {"name": "wait", "image": "quay.io/argoproj/argoexec", "command": ["argoexec", "wait"]}
    return {"containers": [driver, wait], "restartPolicy": "Never"}
