"""The stand-in for Kubernetes: pods that are processes, Secrets that are files, and what keeps pods from running."""

from __future__ import annotations

import base64
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

import kwdbml
from tests.engines.kubeflow.stub.clients import core_api, finished, raw, runs_api, submit
from tests.engines.kubeflow.stub.containers import runtime
from tests.engines.kubeflow.stub.world import Node

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.pods import Pod
    from tests.engines.kubeflow.stub.stub import Stub

NAMESPACE = "kubeflow"
ACCESS = {"secretAsVolume": [{"secretName": "access", "mountPath": "/var/run/kwdbml"}]}


@pytest.fixture
def core(kubeflow: Stub) -> Any:
    return core_api(kubeflow)


def secret(data: dict[str, str], name: str = "access", labels: dict[str, str] | None = None) -> client.V1Secret:
    return client.V1Secret(metadata=client.V1ObjectMeta(name=name, labels=labels), string_data=data)


def pod_of(stub: Stub, run_id: str) -> Pod:
    (pod,) = stub.pods_of(run_id)
    return pod


def main_state(core: Any, name: str) -> Any:
    statuses = core.read_namespaced_pod(name, NAMESPACE).status.container_statuses
    return next(one.state for one in statuses if one.name == "main")


def printed(core: Any, name: str, **options: Any) -> list[str]:
    text = core.read_namespaced_pod_log(name, NAMESPACE, container="main", **options)
    return [line for line in text.splitlines() if "argo=true" not in line]


def events(core: Any, name: str) -> dict[str, str]:
    found = core.list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={name}").items
    return {one.reason: one.message for one in found}


# -- what runs ------------------------------------------------------------------------------------------------------


def test_a_run_has_three_pods_and_the_executors_log(kubeflow: Stub, core: Any) -> None:
    metadata: Any = {"podMetadata": {"labels": {"kwdbml.io/job": "7"}, "annotations": {"kwdbml.io/run": "run"}}}
    metadata["imagePullPolicy"] = "Always"
    run_id = submit(
        kubeflow, ["sh", "-c", "echo one; echo two >&2; echo x is {{$.inputs.parameters['x']}}"], platform=metadata
    )
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    pods = core.list_namespaced_pod(NAMESPACE, label_selector=f"pipeline/runid={run_id}").items
    assert {pod.status.phase for pod in pods} == {"Succeeded"}
    assert len(pods) == 3
    (executor,) = core.list_namespaced_pod(NAMESPACE, label_selector="kwdbml.io/job in (7,8),kwdbml.io/none!=1").items
    assert executor.metadata.annotations["kwdbml.io/run"] == "run"
    assert executor.spec.containers[0].image_pull_policy == "Always"
    assert main_state(core, executor.metadata.name).terminated.exit_code == 0
    assert printed(core, executor.metadata.name) == ["one", "two", "x is 1"]


def test_an_exit_code_is_in_the_pod(kubeflow: Stub, core: Any) -> None:
    run_id = submit(kubeflow, ["sh", "-c", "exit 7"])
    assert finished(kubeflow, run_id) == "FAILED"
    ended = main_state(core, pod_of(kubeflow, run_id).name).terminated
    assert (ended.exit_code, ended.reason) == (7, "Error")


def test_a_container_sees_its_image_and_volumes_and_nothing_else(kubeflow: Stub, core: Any, tmp_path: Any) -> None:
    (tmp_path / "canary").write_text("hidden")
    (kubeflow.claim("shared") / "a").mkdir()
    (kubeflow.claim("shared") / "a" / "data").write_text("claimed")
    look = (
        f"cat /data/data; echo more > /data/more; ls {tmp_path}; ls {__file__};"
        f" echo >> {kwdbml.__file__} || ls /proc | grep -c '^[0-9]'"
    )
    claim = {"pvcMount": [{"constant": "shared", "mountPath": "/data", "subPath": "a"}]}
    run_id = submit(kubeflow, ["sh", "-c", look], platform=claim)
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    text = pod_of(kubeflow, run_id).log.text
    assert "claimed" in text
    assert text.count("No such file") == 2, "nor what else is on this machine or in this repository"
    assert "Read-only file system" in text
    assert (kubeflow.claim("shared") / "a" / "more").read_text() == "more\n"


def test_environment_comes_from_image_component_and_secret(kubeflow: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeflow.images["other"] = runtime("other", FROM_IMAGE="1")
    kubeflow.put_secret("keys", {"key": "hush"})
    monkeypatch.setenv("KWDBML_CANARY", "of this process")
    mapped = {"secretAsEnv": [{"secretName": "keys", "keyToEnv": [{"secretKey": "key", "envVar": "FROM_SECRET"}]}]}
    env = [{"name": "FROM_COMPONENT", "value": "2"}]
    run_id = submit(kubeflow, ["sh", "-c", "env"], image="other", platform=mapped, env=env)
    finished(kubeflow, run_id)
    text = pod_of(kubeflow, run_id).log.text
    assert all(word in text for word in ("FROM_IMAGE=1", "FROM_COMPONENT=2", "FROM_SECRET=hush", "KFP_POD_NAME="))
    assert "KWDBML_CANARY" not in text


def test_termination_asks_before_it_kills(kubeflow: Stub) -> None:
    kind = ["sh", "-c", "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done"]
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]
    codes = []
    for command in (kind, stubborn):
        run_id = submit(kubeflow, command)
        pod = pod_of(kubeflow, run_id)
        assert any(b"ready" in line for lines in pod.log.follow(0, None) for _, line in lines)
        runs_api(kubeflow).run_service_terminate_run(run_id)
        assert finished(kubeflow, run_id) == "FAILED"
        kubeflow.wait(lambda: not kubeflow.living())
        codes.append(pod.main["terminated"]["exitCode"])
    assert codes == [3, 137]


def test_a_terminated_run_has_failed_before_its_pod_is_dead(kubeflow: Stub, core: Any) -> None:
    kubeflow.grace = 60
    run_id = submit(kubeflow, ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"])
    pod = pod_of(kubeflow, run_id)
    kubeflow.wait(lambda: "ready" in pod.log.text)
    runs_api(kubeflow).run_service_terminate_run(run_id)
    assert finished(kubeflow, run_id) == "FAILED"
    assert core.read_namespaced_pod(pod.name, NAMESPACE).status.phase == "Running"
    assert kubeflow.living()


def test_no_process_outlives_its_run(kubeflow: Stub) -> None:
    spawning = ["sh", "-c", "setsid sleep 60 & (trap '' TERM; sleep 60) & sleep 60"]
    run_ids = [submit(kubeflow, spawning, f"run-{number}") for number in range(2)]
    kubeflow.delete_pod(pod_of(kubeflow, run_ids[0]).name)
    assert finished(kubeflow, run_ids[0]) == "FAILED"
    pids = kubeflow.wait(lambda: living if len(living := kubeflow.living()) >= 5 else None)
    kubeflow.reset()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("how", ["a control group where it can be made", "looking"])
def test_a_memory_limit_kills(kubeflow: Stub, core: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "looking":
        monkeypatch.setattr("tests.engines.kubeflow.stub.containers.find_base", lambda: None)
    hungry = ["python", "-c", "import time; print(len(bytearray(200 * 2**20)), flush=True); time.sleep(0.2)"]
    run_id = submit(kubeflow, hungry, resources={"resourceMemoryLimit": "64Mi"})
    assert finished(kubeflow, run_id) == "FAILED"
    ended = main_state(core, pod_of(kubeflow, run_id).name).terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    run_id = submit(kubeflow, hungry, "enough", resources={"resourceMemoryLimit": "1Gi"})
    assert finished(kubeflow, run_id) == "SUCCEEDED"


# -- logs -----------------------------------------------------------------------------------------------------------


def test_logs_can_be_followed_and_cut(kubeflow: Stub, core: Any) -> None:
    kubeflow.claim("door")
    door = {"pvcMount": [{"constant": "door", "mountPath": "/door"}]}
    wait = "echo one; while ! [ -e /door/open ]; do sleep 0.01; done; echo two; echo three"
    run_id = submit(kubeflow, ["sh", "-c", wait], platform=door)
    name = pod_of(kubeflow, run_id).name
    answer = core.read_namespaced_pod_log(name, NAMESPACE, container="main", follow=True, _preload_content=False)
    followed: list[bytes] = []
    reader = threading.Thread(target=lambda: followed.extend(answer.stream()))
    reader.start()
    kubeflow.wait(lambda: "one" in pod_of(kubeflow, run_id).log.text)
    (kubeflow.claim("door") / "open").touch()
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    reader.join(10)
    text = b"".join(followed).decode()
    assert [line for line in text.splitlines() if "argo=true" not in line] == ["one", "two", "three"]
    stamped = printed(core, name, timestamps=True)
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two", "three"]
    assert printed(core, name, tail_lines=2) == ["three"]
    assert len(core.read_namespaced_pod_log(name, NAMESPACE, container="main", limit_bytes=5)) == 5
    since = stamped[1].split(" ")[0]
    api = core.api_client
    query = [("container", "main"), ("sinceTime", since)]
    later = api.call_api(
        f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/log", "GET", query_params=query, response_type="str"
    )[0]
    assert later.splitlines()[:2] == ["two", "three"]


def test_a_long_log_begins_anew(kubeflow: Stub, core: Any) -> None:
    kubeflow.log_limit = 1000
    run_id = submit(kubeflow, ["sh", "-c", "seq 1 1000"])
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    lines = printed(core, pod_of(kubeflow, run_id).name)
    assert lines[-1] == "1000"
    assert lines[0] != "1"


def test_a_log_that_cannot_be_read(kubeflow: Stub, core: Any) -> None:
    run_id = submit(kubeflow, ["true"], image="nowhere")
    name = pod_of(kubeflow, run_id).name
    waiting, nobody, elsewhere = (name, NAMESPACE), ("nobody", NAMESPACE), (name, "elsewhere")
    for whose, status in ((waiting, 400), (nobody, 404), (elsewhere, 403)):
        with pytest.raises(ApiException) as caught:
            core.read_namespaced_pod_log(*whose, container="main")
        assert caught.value.status == status
    with pytest.raises(ApiException) as caught:
        core.read_namespaced_pod_log(name, NAMESPACE)
    assert "a container name must be specified" in caught.value.body


# -- what keeps a pod from running, and what ends it ----------------------------------------------------------------


def test_an_unknown_image_is_pulled_for_ever(kubeflow: Stub, core: Any) -> None:
    run_id = submit(kubeflow, ["true"], image="nowhere/kwdbml:1")
    pod = pod_of(kubeflow, run_id)
    assert core.read_namespaced_pod(pod.name, NAMESPACE).status.phase == "Pending"
    assert main_state(core, pod.name).waiting.reason == "ImagePullBackOff"
    assert "nowhere/kwdbml:1" in events(core, pod.name)["Failed"]
    runs_api(kubeflow).run_service_terminate_run(run_id)
    assert finished(kubeflow, run_id) == "FAILED"
    assert kubeflow.pods_of(run_id) == []  # a pod that never started is deleted


@pytest.mark.parametrize(
    ("platform", "container", "why"),
    [
        ({"nodeSelector": {"labels": {"disk": "ssd"}}}, {}, "node affinity/selector"),
        ({}, {"resources": {"resourceCpuRequest": "500"}}, "Insufficient cpu"),
        (
            {},
            {"resources": {"accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}}},
            "Insufficient nvidia",
        ),
        (
            {"pvcMount": [{"constant": "nobodys", "mountPath": "/data"}]},
            {},
            'persistentvolumeclaim "nobodys" not found',
        ),
    ],
)
def test_a_pod_that_no_node_takes(kubeflow: Stub, core: Any, platform: Any, container: Any, why: str) -> None:
    run_id = submit(kubeflow, ["true"], platform=platform, **container)
    name = pod_of(kubeflow, run_id).name
    status = core.read_namespaced_pod(name, NAMESPACE).status
    (condition,) = status.conditions
    assert (status.phase, condition.reason, status.container_statuses) == ("Pending", "Unschedulable", None)
    assert why in condition.message
    assert why in events(core, name)["FailedScheduling"]


def test_taints_and_tolerations(kubeflow: Stub) -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    kubeflow.nodes = [Node("gpu-1", {"disk": "ssd"}, [taint], {"cpu": "4", "nvidia.com/gpu": "2"})]
    wanted: Any = {"resources": {"accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}}}
    run_id = submit(kubeflow, ["true"], **wanted)
    assert "untolerated taint" in pod_of(kubeflow, run_id).scheduled[2]
    tolerated = {"tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]}
    selected = {"nodeSelector": {"labels": {"disk": "ssd"}}}
    run_id = submit(kubeflow, ["true"], "tolerant", platform=tolerated | selected, **wanted)
    assert finished(kubeflow, run_id) == "SUCCEEDED"


def test_a_pod_waits_for_its_secret(kubeflow: Stub, core: Any) -> None:
    run_id = submit(kubeflow, ["cat", "/var/run/kwdbml/access.json"], platform=ACCESS)
    pod = pod_of(kubeflow, run_id)
    assert main_state(core, pod.name).waiting.reason == "ContainerCreating"
    assert "access" in events(core, pod.name)["FailedMount"]
    core.create_namespaced_secret(NAMESPACE, secret({"access.json": "hush"}))
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    assert "hush" in pod.log.text


@pytest.mark.parametrize(("failure", "code"), [("OOMKilled", 137), ("Evicted", 137), ("Exit", 9)])
@pytest.mark.parametrize("when", ["at the start", "while it runs"])
def test_deaths_of_pods(kubeflow: Stub, core: Any, failure: str, code: int, when: str) -> None:
    if when == "at the start":
        kubeflow.script(failure, exit_code=code)
    run_id = submit(kubeflow, ["sleep", "60"])
    pod = pod_of(kubeflow, run_id)
    if when == "while it runs":
        kubeflow.fail_pod(pod.name, failure, code)
    assert finished(kubeflow, run_id) == "FAILED"
    status = core.read_namespaced_pod(pod.name, NAMESPACE).status
    assert status.phase == "Failed"
    if failure == "Evicted":
        assert (status.reason, status.container_statuses) == ("Evicted", None)
        assert "low on resource" in events(core, pod.name)["Evicted"]
    elif failure == "OOMKilled":
        assert main_state(core, pod.name).terminated.reason == "OOMKilled"
    assert kubeflow.living() == []


@pytest.mark.parametrize("failure", ["ImagePullBackOff", "Unschedulable"])
def test_scripted_obstacles_meet_one_pod(kubeflow: Stub, failure: str) -> None:
    kubeflow.script(failure)
    stuck = submit(kubeflow, ["true"])
    assert pod_of(kubeflow, stuck).phase == "Pending"
    assert finished(kubeflow, submit(kubeflow, ["true"], "next")) == "SUCCEEDED"
    assert pod_of(kubeflow, stuck).phase == "Pending"


# -- Secrets --------------------------------------------------------------------------------------------------------


def test_secrets(kubeflow: Stub, core: Any) -> None:
    made = core.create_namespaced_secret(NAMESPACE, secret({"key": "value"}, "one", {"kwdbml.io/job": "7"}))
    assert base64.b64decode(made.data["key"]) == b"value"
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_secret(NAMESPACE, secret({}, "one"))
    assert (caught.value.status, "AlreadyExists" in caught.value.body) == (409, True)
    core.create_namespaced_secret(NAMESPACE, secret({}, "two", {"kwdbml.io/job": "8"}))
    (found,) = core.list_namespaced_secret(NAMESPACE, label_selector="kwdbml.io/job=7").items
    assert found.metadata.name == "one"
    first = core.list_namespaced_secret(NAMESPACE, limit=1)
    rest = core.list_namespaced_secret(NAMESPACE, limit=1, _continue=first.metadata._continue)
    assert {one.items[0].metadata.name for one in (first, rest)} == {"one", "two"}
    patched = core.patch_namespaced_secret(
        "one", NAMESPACE, {"stringData": {"key": "new"}, "metadata": {"labels": None}}
    )
    assert base64.b64decode(patched.data["key"]) == b"new"
    assert patched.metadata.resource_version != made.metadata.resource_version
    core.delete_namespaced_secret("one", NAMESPACE)
    with pytest.raises(ApiException) as caught:
        core.delete_namespaced_secret("one", NAMESPACE)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"metadata": {"name": "a"}, "surprise": 1}, 400),
        ({"metadata": {"name": "a", "surprise": 1}}, 400),
        ({"metadata": {"name": "a"}, "stringData": {"key": 1}}, 400),
        ({"metadata": {"name": "Not A Name"}}, 422),
        ({"metadata": {"name": "a", "labels": {"x": "no good"}}}, 422),
        ({"metadata": {"name": "a", "namespace": "elsewhere"}}, 400),
    ],
)
def test_secrets_that_are_refused(kubeflow: Stub, body: Any, status: int) -> None:
    url = f"{kubeflow.cluster.url}/api/v1/namespaces/{NAMESPACE}/secrets"
    assert raw(url, "POST", body)[0] == status
    assert kubeflow.secrets == {}
    assert raw(url, "POST", {"metadata": {"name": "a"}})[0] == 201
    assert raw(f"{url}?surprise=1")[0] == 400
    assert raw(f"{url}?fieldSelector=metadata.surprise%3D1")[0] == 400


def test_a_changed_secret_reaches_a_running_pod_when_the_kubelet_gets_to_it(kubeflow: Stub, core: Any) -> None:
    core.create_namespaced_secret(NAMESPACE, secret({"access.json": "old"}))
    poll = "F=/var/run/kwdbml/access.json; cat $F; until grep -q new $F; do sleep 0.01; done; cat $F"
    run_id = submit(kubeflow, ["sh", "-c", poll], platform=ACCESS)
    pod = pod_of(kubeflow, run_id)
    kubeflow.secrets_synced = False
    core.patch_namespaced_secret("access", NAMESPACE, {"stringData": {"access.json": "new"}})
    assert "new" not in pod.log.text
    kubeflow.secrets_synced = True
    kubeflow.secrets_changed()
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    assert "new" in pod.log.text


# -- the rest -------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_a_pod(kubeflow: Stub, core: Any) -> None:
    begun = time.monotonic()
    run_id = submit(kubeflow, ["sleep", "60"], platform={"activeDeadlineSeconds": "1"})
    assert finished(kubeflow, run_id) == "FAILED"
    assert time.monotonic() - begun < 20
    assert core.read_namespaced_pod(pod_of(kubeflow, run_id).name, NAMESPACE).status.reason == "DeadlineExceeded"


def test_a_pod_can_be_deleted_while_it_runs(kubeflow: Stub, core: Any) -> None:
    run_id = submit(kubeflow, ["sleep", "60"])
    core.delete_namespaced_pod(pod_of(kubeflow, run_id).name, NAMESPACE)
    assert finished(kubeflow, run_id) == "FAILED"
    assert kubeflow.pods_of(run_id) == []
    kubeflow.wait(lambda: not kubeflow.living())
