"""What the stand-in takes and what it does not: the limits of KFP's database and drivers, users, logs, errors."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

import kfp_server_api
import pytest
from kfp_server_api import ApiException, V2beta1Experiment, V2beta1Run, V2beta1RuntimeConfig
from kubernetes import client

from tests.engines.kubeflow.stub import cluster, kfp
from tests.engines.kubeflow.stub.clients import finished, kfp_client, pipeline, raw, runs_api, submit
from tests.engines.kubeflow.stub.http import Refusal
from tests.engines.kubeflow.stub.schema import Schema, SchemaError

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.stub import Stub

STATUSES = [400, 401, 403, 404, 405, 409, 415, 422, 429, 500, 501, 503, 504]


# -- answers are those of the official models ------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_errors_are_those_that_the_official_clients_read(status: int) -> None:
    refusal = Refusal(status, "why")
    Schema(kfp_server_api.models, kfp_server_api.ApiClient(), lenient_case=True).check_answer(
        kfp.refuse(refusal).body, "GoogleRpcStatus"
    )
    Schema(client.models, client.ApiClient(), lenient_case=False).check_answer(cluster.refuse(refusal).body, "V1Status")


@pytest.mark.parametrize(
    "changes", [{"surprise": 1}, {"state": "LIVELY"}, {"created_at": "yesterday"}, {"run_id": 1}], ids=str
)
def test_an_answer_that_no_official_client_reads_is_noticed(kubeflow: Stub, changes: dict[str, Any]) -> None:
    run_id = submit(kubeflow, ["true"])
    shown = kubeflow.runs[run_id].show()
    schema = Schema(kfp_server_api.models, kfp_server_api.ApiClient(), lenient_case=True)
    schema.check_answer(shown, "V2beta1Run")
    with pytest.raises(SchemaError):
        schema.check_answer(shown | changes, "V2beta1Run")


def test_a_state_that_was_forced_is_checked_where_clients_know_it(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["sleep", "60"])
    kubeflow.force(run_id, "CANCELED")
    assert not kubeflow.has_forced()
    kubeflow.force(run_id, "HIBERNATING")
    assert kubeflow.has_forced()


# -- its database ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"display_name": "x" * 256}, "Data too long"),
        ({"description": "x" * 256}, "Data too long"),
        ({"description": "\U0001f680"}, "Incorrect string value"),
        ({"runtime_config": V2beta1RuntimeConfig(pipeline_root="s3://b/\U0001f680")}, "Incorrect string value"),
    ],
)
def test_what_the_database_does_not_take_is_the_servers_error(
    kubeflow: Stub, fields: dict[str, Any], says: str
) -> None:
    body = {"display_name": "run", "pipeline_spec": pipeline(["true"])}
    with pytest.raises(ApiException) as caught:
        runs_api(kubeflow).run_service_create_run(V2beta1Run(**body | fields))
    assert (caught.value.status, says in caught.value.body) == (500, True)
    assert kubeflow.runs == {}
    runs_api(kubeflow).run_service_create_run(V2beta1Run(**body, description="x" * 254 + "ü"))


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"a": "x" * 64}},
        {"labels": {"a": "two words"}},
        {"labels": {"a b": "x"}},
        {"labels": {"/a": "x"}},
        {"annotations": {"ü": "x"}},
        {"annotations": {"a": "x" * 132_000}},
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_pod_that_kubernetes_would_not_make(kubeflow: Stub, metadata: dict[str, Any]) -> None:
    run_id = submit(kubeflow, ["true"], platform={"podMetadata": metadata})
    assert finished(kubeflow, run_id) == "FAILED"
    assert kubeflow.pods_of(run_id) == []
    good = {"podMetadata": {"labels": {"kwdbml.io/a": "x" * 63}, "annotations": {"b": "two words, ü"}}}
    assert finished(kubeflow, submit(kubeflow, ["true"], "good", platform=good)) == "SUCCEEDED"


# -- users -----------------------------------------------------------------------------------------------------------


def test_an_installation_with_users_wants_the_namespace(kubeflow: Stub) -> None:
    runs, experiments = runs_api(kubeflow), kfp_server_api.ExperimentServiceApi(kfp_client(kubeflow))
    runs.run_service_list_runs(namespace="anything")  # the other kind does not look at it
    kubeflow.multi_user = True
    assert kfp_server_api.HealthzServiceApi(kfp_client(kubeflow)).healthz_service_get_healthz().multi_user
    for namespace, status in ((None, 400), ("elsewhere", 403)):
        named = {"namespace": namespace} if namespace else {}
        body = V2beta1Experiment(display_name="x", **named)
        for call in (
            partial(runs.run_service_list_runs, **named),
            partial(experiments.experiment_service_list_experiments, **named),
            partial(experiments.experiment_service_create_experiment, body),
        ):
            with pytest.raises(ApiException) as caught:
                call()
            assert caught.value.status == status
    made = experiments.experiment_service_create_experiment(V2beta1Experiment(display_name="x", namespace="kubeflow"))
    assert runs.run_service_list_runs(namespace="kubeflow").total_size == 0
    assert runs.run_service_list_runs(experiment_id=made.experiment_id).total_size == 0


# -- logs, outside the swagger ---------------------------------------------------------------------------------------


def log_of(stub: Stub, run_id: str, node: str, **query: str) -> str:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    url = f"{stub.kfp.url}/apis/v1alpha1/runs/{run_id}/nodes/{node}/log?{asked}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_nodes_log_is_gone_with_its_pod(kubeflow: Stub) -> None:
    run_id = submit(kubeflow, ["sh", "-c", "echo one; echo two"])
    (pod,) = kubeflow.pods_of(run_id)
    assert "one\ntwo\n" in log_of(kubeflow, run_id, pod.name, follow="true")
    assert finished(kubeflow, run_id) == "SUCCEEDED"
    assert "one\ntwo\n" in log_of(kubeflow, run_id, pod.name)
    assert raw(f"{kubeflow.kfp.url}/apis/v1alpha1/runs/{run_id}/nodes/{pod.name}/log?tail=1")[0] == 400
    kubeflow.delete_pod(pod.name)
    with pytest.raises(urllib.error.HTTPError) as caught:
        log_of(kubeflow, run_id, pod.name)
    assert caught.value.code == 500
    assert set(json.loads(caught.value.read())) == {"error_message", "error_details"}
