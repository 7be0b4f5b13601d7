"""Why a pod does not run, or no longer: pods as Kubernetes 1.36 shows them, with a sentence and a cure for each."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kwdbml.engines.kfp import reasons

Json = dict[str, Any]
IMAGE = "registry.example.org/kwdbml/runtime:9"


def pod(phase: str = "Pending", **status: Any) -> Json:
    """A pod of a KFP step: Argo's init, the launcher's copy, main and wait."""
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-20T10:00:00Z"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "kwdbml-train-x7k2p-system-container-impl-1234567890",
            "namespace": "kubeflow",
            "creationTimestamp": "2026-11-20T10:00:00Z",
            "labels": {"pipeline/runid": "6f1c4c2e", "workflows.argoproj.io/completed": "false"},
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "wait", "image": "quay.io/argoproj/argoexec:v4.0.0", "resources": {}},
                {"name": "main", "image": IMAGE, "resources": {"limits": {"cpu": "1", "memory": "512Mi"}}},
            ],
        },
        "status": {"phase": phase, "conditions": [scheduled], **status},
    }


def container(name: str = "main", **state: Any) -> Json:
    return {
        "name": name, "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "started": False,
        "lastState": {}, "state": state,
    }  # fmt: skip


def waits(reason: str, message: str = "") -> Json:
    state = {"reason": reason, **({"message": message} if message else {})}
    return pod(containerStatuses=[container("wait", waiting={"reason": "PodInitializing"}), container(waiting=state)])


def ended(code: int, reason: str = "Error", **more: Any) -> Json:
    times = {"startedAt": "2026-11-20T10:00:05Z", "finishedAt": "2026-11-20T10:01:05Z"}
    state = {"exitCode": code, "reason": reason, "containerID": "containerd://0123", **times, **more}
    wait = container("wait", terminated={"exitCode": 0, "reason": "Completed", **times})
    return pod("Failed" if code else "Succeeded", containerStatuses=[wait, container(terminated=state)])


def event(reason: str, message: str, kind: str = "Warning", at: str = "2026-11-20T10:00:30Z") -> Json:
    return {
        "type": kind, "reason": reason, "message": message, "count": 3, "lastTimestamp": at,
        "involvedObject": {"kind": "Pod", "name": "kwdbml-train-x7k2p-system-container-impl-1234567890"},
    }  # fmt: skip


def unschedulable(message: str) -> Json:
    found = pod()
    found["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]
    return found


def disrupted(reason: str, message: str = "", phase: str = "Failed") -> Json:
    found = ended(137) if phase == "Failed" else pod(phase)
    found["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    )
    return found


PULL = f'Back-off pulling image "{IMAGE}": ErrImagePull: rpc error: code = NotFound desc = not found'
FULL = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
LABEL = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."
CLAIM = '0/1 nodes are available: persistentvolumeclaim "shared" not found.'
LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. Container main was using 3Gi."

WAITING: list[tuple[str, Json, str, bool, list[str]]] = [
    ("back-off", waits("ImagePullBackOff", PULL), "ImagePullBackOff", True, [IMAGE, "NotFound", "kwdbml.runtime"]),
    ("pull", waits("ErrImagePull", "unauthorized"), "ErrImagePull", True, ["unauthorized", "imagePullSecrets"]),
    ("name", waits("InvalidImageName"), "InvalidImageName", True, ["no name of an image"]),
    ("never", waits("ErrImageNeverPull"), "ErrImageNeverPull", True, ["pull policy is Never"]),
    ("config", waits("CreateContainerConfigError", 'secret "kwdbml-1" not found'), "CreateContainerConfigError", True,
     ['secret "kwdbml-1" not found', "Secret must live"]),
    ("start", waits("RunContainerError", "exec: python: not found"), "RunContainerError", True, ["exec: python"]),
    ("full", unschedulable(FULL), "Unschedulable", False, ["Insufficient nvidia.com/gpu", "ask for less"]),
    ("label", unschedulable(LABEL), "Unschedulable", True, ["didn't match", "Correct the node selector"]),
    ("claim", unschedulable(CLAIM), "Unschedulable", True, ['"shared" not found', "mounts"]),
]  # fmt: skip

EXPLAINED: list[tuple[str, Json, str, int | None, list[str]]] = [
    ("oom", ended(137, "OOMKilled"), "OOMKilled", 137, ["more memory than it may (512Mi)", "flavour.mem"]),
    ("exit", ended(3), "Error", 3, ["exit code 3"]),
    ("said", ended(1, message="No module named x"), "Error", 1, ["exit code 1. No module named x"]),
    ("signal", ended(139), "Signal", 139, ["SIGSEGV"]),
    ("beyond", ended(255), "Error", 255, ["exit code 255"]),
    ("start", ended(128, "StartError", message="exec: no such file"), "StartError", 128, ["no such file"]),
    ("deadline", pod("Failed", reason="DeadlineExceeded", message="Pod was active on the node longer than the"),
     "DeadlineExceeded", None, ["longer than the", "more time"]),
    ("evicted", pod("Failed", reason="Evicted", message=LOW), "Evicted", None, [LOW, "memory or disk"]),
    ("drained", disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), "Evicted", 137, ["drained node"]),
    ("preempted", disrupted("PreemptionByScheduler", "preempting to accommodate"), "Preempted", 137, ["priority"]),
    ("taint", disrupted("DeletionByTaintManager", "not ready"), "NodeLost", 137, ["The node went away"]),
    ("collected", disrupted("DeletionByPodGC", phase="Running"), "NodeLost", None, ["The node is gone"]),
    ("lost", pod("Unknown", reason="NodeLost", message="Node node-1 which was running pod x is unresponsive"),
     "NodeLost", None, ["unresponsive"]),
    ("shutdown", pod("Failed", reason="Terminated", message="terminated in response to imminent node shutdown."),
     "NodeLost", None, ["imminent node shutdown"]),
    ("admission", pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu"), "OutOfcpu", None,
     ["enough resource"]),
    ("pull", waits("ImagePullBackOff", PULL), "ImagePullBackOff", None, [IMAGE]),
    ("nodes", unschedulable(LABEL), "Unschedulable", None, ["No node takes the pod"]),
    ("init", pod("Failed", initContainerStatuses=[container("kfp-launcher", terminated={"exitCode": 1})]),
     "Error", 1, ["“kfp-launcher” ended with 1"]),
    ("silent", pod("Failed"), "Error", None, ["does not say why"]),
]  # fmt: skip


@pytest.mark.parametrize(("found", "word", "hopeless", "texts"), [w[1:] for w in WAITING], ids=[w[0] for w in WAITING])
def test_what_a_pod_waits_for(found: Json, word: str, hopeless: bool, texts: list[str]) -> None:
    reason = reasons.waiting([found])
    assert reason is not None
    assert (reason.reason, reason.hopeless, reason.exit_code) == (word, hopeless, None)
    assert all(text in reason.message for text in texts), reason.message
    assert reason.cure


@pytest.mark.parametrize(("found", "word", "code", "texts"), [e[1:] for e in EXPLAINED], ids=[e[0] for e in EXPLAINED])
def test_why_a_pod_ended(found: Json, word: str, code: int | None, texts: list[str]) -> None:
    untouched = copy.deepcopy(found)
    reason = reasons.explain([found])
    assert reason is not None
    assert (reason.reason, reason.exit_code) == (word, code)
    assert all(text in reason.message for text in texts), reason.message
    assert found == untouched


@pytest.mark.parametrize(
    "found",
    [
        pod(),
        waits("ContainerCreating"),
        waits("PodInitializing"),
        pod("Running", containerStatuses=[container(running={"startedAt": "2026-11-20T10:00:00Z"})]),
    ],
    ids=["new", "creating", "initializing", "running"],
)
def test_nothing_unusual(found: Json) -> None:
    assert reasons.waiting([found]) is None
    assert reasons.explain([found]) is None


def test_no_pods_and_pods_that_say_nothing() -> None:
    assert reasons.explain([]) is None
    assert reasons.waiting([]) is None
    assert reasons.explain([{}]) is None
    assert reasons.explain([ended(0, "Completed")]) is None
    assert reasons.waiting([{"status": {"containerStatuses": None, "conditions": None}}]) is None


def test_the_last_lines_are_told() -> None:
    reason = reasons.explain([ended(1)], lines=[f"line {n}" for n in range(100)])
    assert reason is not None
    assert "line 99" in reason.message
    assert "line 89" not in reason.message


def test_events_tell_what_the_pod_does_not() -> None:
    mount = event("FailedMount", 'MountVolume.SetUp failed for volume "kwdbml-1": secret "kwdbml-1" not found')
    normal = event("Scheduled", "Successfully assigned", "Normal", "2026-11-20T10:00:01Z")
    reason = reasons.explain([waits("ContainerCreating")], [normal, mount])
    assert reason is not None
    assert reason.reason == "FailedMount"
    assert 'secret "kwdbml-1" not found' in reason.message
    assert reasons.explain([waits("ContainerCreating")], [normal]) is None
    evicted = reasons.explain([pod("Failed", reason="Evicted")], [event("Evicted", LOW)])
    assert evicted is not None
    assert LOW in evicted.message
    assert reasons.explain([pod("Failed", reason="Evicted", message=LOW)], [event("Evicted", LOW)]) == reasons.explain(
        [pod("Failed", reason="Evicted", message=LOW)]
    )


def test_why_a_pod_that_has_a_node_does_not_start() -> None:
    mount = event("FailedMount", 'secret "kwdbml-1" not found')
    reason = reasons.unstarted([event("Scheduled", "assigned", "Normal"), mount])
    assert reason is not None
    assert (reason.reason, reason.hopeless) == ("FailedMount", True)
    assert 'secret "kwdbml-1" not found' in reason.message
    assert reasons.unstarted([mount, event("Pulling", "an image of 9 GB", "Normal")]) is None, "overcome"
    assert reasons.unstarted([event("Unhealthy", "a probe")]) is None
    assert reasons.unstarted([]) is None


def test_the_newest_pod_counts_and_drivers_do_not_hide_it() -> None:
    old, new = ended(1), ended(137, "OOMKilled")
    new["metadata"]["creationTimestamp"] = "2026-11-20T11:00:00Z"
    driver = pod("Succeeded", containerStatuses=[container(terminated={"exitCode": 0, "reason": "Completed"})])
    driver["metadata"]["creationTimestamp"] = "2026-11-20T12:00:00Z"
    reason = reasons.explain([old, new, driver])
    assert reason is not None
    assert reason.reason == "OOMKilled"


def test_a_pod_that_somebody_deleted() -> None:
    found = pod("Running", containerStatuses=[container(running={})])
    found["metadata"]["deletionTimestamp"] = "2026-11-20T10:05:00Z"
    reason = reasons.explain([found])
    assert reason is not None
    assert reason.reason == "Deleted"
