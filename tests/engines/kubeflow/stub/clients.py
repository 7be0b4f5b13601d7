"""The official clients, pointed at the stub, and the smallest pipeline there is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import kfp_server_api
from kubernetes import client

from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.stub import Stub

Json = dict[str, Any]


def kfp_client(stub: Stub, token: str | None = None) -> Any:
    configuration = kfp_server_api.Configuration(host=stub.kfp.url)
    configuration.retries = False
    if token is not None:
        configuration.api_key, configuration.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
    return kfp_server_api.ApiClient(configuration)


def runs_api(stub: Stub, token: str | None = None) -> Any:
    return kfp_server_api.RunServiceApi(kfp_client(stub, token))


def core_api(stub: Stub) -> Any:
    return client.CoreV1Api(cluster_client(stub))


def cluster_client(stub: Stub) -> Any:
    configuration = client.Configuration(host=stub.cluster.url)
    configuration.retries = False
    return client.ApiClient(configuration)


def raw(url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    """A request that no generated client would make: the status and the JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def pipeline(command: list[str], *, image: str = RUNTIME_IMAGE, platform: Json | None = None, **container: Any) -> Json:
    """A pipeline of one component ``step`` with one parameter ``x``, as a run's ``pipeline_spec``."""
    inputs = {"parameters": {"x": {"parameterType": "NUMBER_INTEGER", "isOptional": True, "defaultValue": 1}}}
    ir: Json = {
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.0",
        "pipelineInfo": {"name": "tiny"},
        "components": {"comp-step": {"executorLabel": "exec-step", "inputDefinitions": inputs}},
        "deploymentSpec": {
            "executors": {"exec-step": {"container": {"image": image, "command": command, **container}}}
        },
        "root": {
            "inputDefinitions": inputs,
            "dag": {
                "tasks": {
                    "step": {
                        "taskInfo": {"name": "step"},
                        "cachingOptions": {},
                        "componentRef": {"name": "comp-step"},
                        "inputs": {"parameters": {"x": {"componentInputParameter": "x"}}},
                    }
                }
            },
        },
    }
    executors = {"exec-step": platform or {}}
    platforms = {"kubernetes": {"deploymentSpec": {"executors": executors}}}
    return {"pipeline_spec": ir, "platform_spec": {"platforms": platforms}}


def submit(stub: Stub, command: list[str], name: str = "run", **options: Any) -> str:
    """Start a run of the tiny pipeline; its id."""
    body = kfp_server_api.V2beta1Run(display_name=name, pipeline_spec=pipeline(command, **options))
    return str(runs_api(stub).run_service_create_run(body).run_id)


def finished(stub: Stub, run_id: str) -> str:
    """Wait for a run's end: its last state."""
    stub.wait(lambda: stub.runs[run_id].finished is not None)
    return stub.runs[run_id].state
