"""The stub fails on demand, in each of the ways that a server, a network and a workflow have, and in no other."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfp_server_api
import pytest
import urllib3
from kfp_server_api import ApiException, V2beta1Run
from kubernetes import client
from kubernetes.client.exceptions import ApiException as ClusterException

from tests.engines.kubeflow.stub.clients import cluster_client, core_api, finished, pipeline, raw, runs_api, submit
from tests.engines.kubeflow.stub.containers import REPOSITORY

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.stub import Stub


@pytest.mark.parametrize(("status", "code"), [(401, 16), (403, 7), (404, 5), (409, 6), (429, 8), (500, 13), (503, 14)])
def test_errors_for_the_next_requests(kubeflow: Stub, status: int, code: int) -> None:
    fault = kubeflow.kfp.faults.add("GET", "/runs$", status=status, times=2, retry_after=7)
    runs = runs_api(kubeflow)
    submit(kubeflow, ["true"])  # another method
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            runs.run_service_list_runs()
        assert caught.value.status == status
        assert f'"code": {code}' in caught.value.body
        assert caught.value.headers["Retry-After"] == "7"
    assert runs.run_service_list_runs().total_size == 1
    assert fault.met == 2


def test_errors_of_kubernetes_are_a_status(kubeflow: Stub) -> None:
    kubeflow.cluster.faults.add("GET", "/pods$", status=403)
    with pytest.raises(ClusterException) as caught:
        core_api(kubeflow).list_namespaced_pod("kubeflow")
    assert '"reason": "Forbidden"' in caught.value.body


def test_a_create_whose_answer_is_lost_has_created(kubeflow: Stub) -> None:
    body = V2beta1Run(display_name="run", pipeline_spec=pipeline(["true"]))
    for lost in ({"status": 504}, {"kind": "drop"}, {"kind": "cut"}):
        kubeflow.kfp.faults.add("POST", "/runs$", after=True, **lost)
        with pytest.raises((ApiException, urllib3.exceptions.HTTPError)):
            runs_api(kubeflow).run_service_create_run(body)
    assert len(kubeflow.runs) == 3
    kubeflow.kfp.faults.add("POST", "/runs$", kind="drop")
    with pytest.raises(urllib3.exceptions.HTTPError):
        runs_api(kubeflow).run_service_create_run(body)
    assert len(kubeflow.runs) == 3


def test_half_an_answer(kubeflow: Stub) -> None:
    kubeflow.kfp.faults.add(kind="cut")
    runs = runs_api(kubeflow)
    with pytest.raises((urllib3.exceptions.HTTPError, ValueError)):
        runs.run_service_list_runs()
    assert runs.run_service_list_runs().total_size == 0


def test_no_answer_until_the_client_gives_up(kubeflow: Stub) -> None:
    fault = kubeflow.kfp.faults.add("GET", kind="hang")
    runs = runs_api(kubeflow)
    with pytest.raises(urllib3.exceptions.HTTPError):
        runs.run_service_list_runs(_request_timeout=(1, 0.1))
    fault.release()
    assert runs.run_service_list_runs().total_size == 0


def test_a_server_that_is_down_is_back_at_the_same_address(kubeflow: Stub) -> None:
    runs = runs_api(kubeflow)
    submit(kubeflow, ["true"])
    runs.run_service_list_runs()  # leaves a connection open
    kubeflow.kfp.down()
    for _ in range(2):
        with pytest.raises(urllib3.exceptions.HTTPError):
            runs.run_service_list_runs()
    assert core_api(kubeflow).list_namespaced_pod("kubeflow").items  # the other one is up
    kubeflow.kfp.up()
    assert runs.run_service_list_runs().total_size == 1


def test_a_token_that_has_expired(kubeflow: Stub) -> None:
    kubeflow.kfp.tokens = {"new"}
    for token in ("old", None):
        with pytest.raises(ApiException) as caught:
            runs_api(kubeflow, token).run_service_list_runs()
        assert caught.value.status == 401
    assert runs_api(kubeflow, "new").run_service_list_runs().total_size == 0


def test_tls(kubeflow: Stub, certificate: tuple[Path, Path]) -> None:
    kubeflow.kfp.secure(*certificate)
    configuration = kfp_server_api.Configuration(host=kubeflow.kfp.url)
    configuration.retries = False
    with pytest.raises(AttributeError):  # the official client trips over its own error for a TLS failure
        kfp_server_api.RunServiceApi(kfp_server_api.ApiClient(configuration)).run_service_list_runs()
    configuration.ssl_ca_cert = str(certificate[0])
    api = kfp_server_api.RunServiceApi(kfp_server_api.ApiClient(configuration))
    assert api.run_service_list_runs().total_size == 0


def test_a_log_that_breaks_off(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["sh", "-c", "echo one; sleep 60"])
    (pod,) = kubeflow.pods_of(run_id)
    assert any(b"one" in line for lines in pod.log.follow(0, None) for _, line in lines)
    core = core_api(kubeflow)
    kubeflow.cluster.faults.add("GET", "/log$", kind="cut")
    with pytest.raises(urllib3.exceptions.HTTPError):
        core.read_namespaced_pod_log(pod.name, "kubeflow", container="main", follow=True)
    answer = core.read_namespaced_pod_log(pod.name, "kubeflow", container="main", follow=True, _preload_content=False)
    threading.Timer(0.1, kubeflow.cluster.down).start()
    with pytest.raises(urllib3.exceptions.HTTPError):
        answer.read()


def test_calls_are_counted_by_their_template(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["true"])
    runs = runs_api(kubeflow)
    for _ in range(3):
        runs.run_service_get_run(run_id)
    raw(f"{kubeflow.kfp.url}/apis/v2beta1/runs?surprise=1")
    assert kubeflow.kfp.calls == {
        "POST /apis/v2beta1/runs": 1,
        "GET /apis/v2beta1/runs/{run_id}": 3,
        "GET /apis/v2beta1/runs": 1,
    }


def test_an_error_of_the_stub_is_nobodys_answer(kubeflow: Stub, monkeypatch: Any) -> None:
    """It fails the test that met it, when the fixture looks."""
    monkeypatch.setattr("tests.engines.kubeflow.stub.world.EPOCH", "no time")
    run_id = submit_raw(kubeflow)
    assert run_id == 599
    (said,) = kubeflow.kfp.broken
    assert "SchemaError" in said
    kubeflow.kfp.broken.clear()


def submit_raw(stub: Stub) -> int:
    body = {"display_name": "run", "pipeline_spec": pipeline(["true"])}
    return raw(f"{stub.kfp.url}/apis/v2beta1/runs", "POST", body)[0]


def test_who_may_do_what(kubeflow: Stub) -> None:
    api = cluster_client(kubeflow)
    assert client.VersionApi(api).get_code().minor == "36"
    kubeflow.allowed = lambda attributes: attributes["verb"] != "delete"
    answers = []
    for verb in ("create", "delete"):
        attributes = client.V1ResourceAttributes(namespace="kubeflow", verb=verb, resource="secrets")
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        answers.append(client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed)
    assert answers == [True, False]


# -- workflows ------------------------------------------------------------------------------------------------------


def with_task(command: list[str], **changes: Any) -> Any:
    spec = pipeline(command)
    spec["pipeline_spec"]["root"]["dag"]["tasks"]["step"] |= changes
    return V2beta1Run(display_name="run", pipeline_spec=spec)


def test_argo_tries_a_task_again_when_it_was_told_to(kubeflow: Stub) -> None:
    kubeflow.script("Exit", exit_code=9)
    body = with_task(["true"], retryPolicy={"maxRetryCount": 1})
    run_id = runs_api(kubeflow).run_service_create_run(body).run_id
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    assert [pod.phase for pod in kubeflow.pods_of(run_id)] == ["Failed", "Succeeded"]
    kubeflow.script("Exit", times=2)
    run_id = runs_api(kubeflow).run_service_create_run(body).run_id
    assert finished(kubeflow, run_id) == "FAILED"


def test_a_driver_fails_where_the_pipeline_asks_for_what_is_not_there(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["echo", "{{$.inputs.parameters['y']}}"])
    assert finished(kubeflow, run_id) == "FAILED"
    assert kubeflow.pods_of(run_id) == []


def test_a_run_that_somebody_has_deleted(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["sleep", "60"])
    workflow = kubeflow.runs[run_id].workflow
    kubeflow.forget(run_id)
    workflow.join()
    assert kubeflow.pods == {}
    with pytest.raises(ApiException) as caught:
        runs_api(kubeflow).run_service_get_run(run_id)
    assert caught.value.status == 404


_ALONE = """
import pathlib, sys
from tests.engines.kubeflow.stub.clients import submit
from tests.engines.kubeflow.stub.stub import Stub
stub = Stub(pathlib.Path(sys.argv[1]))
submit(stub, ["sleep", "600"])
print(*stub.wait(lambda: pids if len(pids := stub.living()) >= 2 else None), flush=True)
sys.stdin.read()
"""


def test_no_container_outlives_a_stub_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ALONE, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as alone:
        assert alone.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in alone.stdout.readline().split()]
        alone.kill()
    assert handles
    for handle in handles:
        assert select.select([handle], [], [], 20)[0]  # readable: it has ended
        os.close(handle)
