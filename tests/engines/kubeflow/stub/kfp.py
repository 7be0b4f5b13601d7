"""The KFP API (v2beta1): runs, experiments, pipelines, over the world's workflows."""

from __future__ import annotations

import json
import re
import time
import uuid
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import kfp_server_api
import yaml

from tests.engines.kubeflow.stub import ir
from tests.engines.kubeflow.stub.http import Answer, Refusal, Request
from tests.engines.kubeflow.stub.listing import page
from tests.engines.kubeflow.stub.pods import stamp
from tests.engines.kubeflow.stub.router import Router
from tests.engines.kubeflow.stub.schema import Operation, Schema
from tests.engines.kubeflow.stub.workflow import Workflow
from tests.engines.kubeflow.stub.world import RunRecord, World

Json = dict[str, Any]

#: HTTP status → gRPC code, as grpc-gateway maps them the other way.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}
_RUN_FIELDS = {
    name: name
    for name in (
        *("run_id", "display_name", "description", "created_at", "scheduled_at", "finished_at", "state", "namespace"),
        *("storage_state", "service_account", "experiment_id", "pipeline_version_id", "recurring_run_id"),
    )
} | {"name": "display_name", "id": "run_id", "status": "state"}
_OTHER_FIELDS = {
    one: one for one in ("display_name", "created_at", "description", "namespace", "name", "storage_state")
}
#: Of the columns for names and descriptions.
_COLUMN = 255
_APIS = ("RunServiceApi", "ExperimentServiceApi", "PipelineServiceApi", "PipelineUploadServiceApi", "HealthzServiceApi")


def refuse(refusal: Refusal) -> Answer:
    """An error as KFP's gateway writes it; uploads have a form of their own."""
    code = _CODES.get(refusal.status, 2)
    if refusal.reason == "upload":
        body: Json = {"error_message": refusal.message, "error_details": refusal.message}
    else:
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "value": ""}
        body = {"code": code, "message": refusal.message, "details": [detail]}
    return Answer(body, refusal.status)


def _store(document: Json) -> None:
    """What its database takes: columns of so many characters, and none of four bytes (MySQL's utf8)."""
    for name in ("display_name", "description"):
        if len(document.get(name, "")) > _COLUMN:
            raise Refusal(500, f"InternalServerError: Failed to store run: Error 1406: Data too long for {name!r}")
    if re.search("[\U00010000-\U0010ffff]", json.dumps(document, ensure_ascii=False)):
        raise Refusal(500, "InternalServerError: Failed to store run: Error 1366: Incorrect string value")


_READ_LOG = Operation(
    name="run_service_read_run_log",
    method="GET",
    template="/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log",
    pattern=re.compile("/apis/v1alpha1/runs/(?P<run_id>[^/]+)/nodes/(?P<node_id>[^/]+)/log"),
    query={"follow": "bool"},
    required=frozenset(),
    body=None,
    answer=None,
)


class KfpApi(Router):
    """One method per call, named as the generated client names it."""

    prefixes = ("run_service_", "experiment_service_", "pipeline_service_", "healthz_service_")

    def __init__(self, world: World) -> None:
        schema = Schema(kfp_server_api.models, kfp_server_api.ApiClient(), lenient_case=True)
        super().__init__(world, schema, [getattr(kfp_server_api, name) for name in _APIS])
        self.calls.append(_READ_LOG)

    def get_healthz(self, request: Request) -> Json:
        return {"multi_user": self.world.multi_user, "pipeline_store": "database"}

    def _namespace(self, namespace: str, what: str) -> None:
        """An installation with users of its own wants it; the other kind does not look at it."""
        if self.world.multi_user and not namespace:
            raise Refusal(400, f"InvalidInputError: {what} cannot have an empty namespace in multi-user mode")
        if self.world.multi_user and namespace != self.world.namespace:
            raise Refusal(403, f"PermissionDenied: no rights in namespace {namespace!r}")

    # -- runs ------------------------------------------------------------------------------------------------------

    def create_run(self, request: Request, body: Json) -> Json:
        if not body.get("display_name"):
            raise Refusal(400, "Failed to create a run: InvalidInputError: Run's display name cannot be empty")
        document = self._run_document(body, request.parameters.get("experiment_id", ""))
        _store(document)
        config = document["runtime_config"]
        try:
            pipeline = ir.read(self._spec_of(body))
            parameters = ir.run_parameters(pipeline, config.get("parameters") or {})
        except ir.ParameterError as error:
            raise Refusal(400, f"Failed to create a run: InvalidInputError: {error}") from error
        except ir.IrError as error:
            raise Refusal(500, f"Failed to create a run: InternalServerError: {error}") from error
        except ir.Unsupported as error:
            raise Refusal(501, str(error)) from error
        run = self._start(document, pipeline, parameters)
        shown = run.show()
        run.workflow.resume()
        return shown

    def _run_document(self, body: Json, experiment: str) -> Json:
        experiment = body.get("experiment_id") or experiment or self._default_experiment()
        self._experiment(experiment)
        kept = {name: body[name] for name in ("display_name", "description", "pipeline_spec") if body.get(name)}
        if reference := body.get("pipeline_version_reference"):
            kept["pipeline_version_reference"] = reference
        config = body.get("runtime_config") or {}
        kept["runtime_config"] = {"parameters": config.get("parameters") or {}}
        if config.get("pipeline_root"):
            kept["runtime_config"]["pipeline_root"] = config["pipeline_root"]
        account = body.get("service_account") or "pipeline-runner"
        return {"experiment_id": experiment, "service_account": account, **kept}

    def _spec_of(self, body: Json) -> Any:
        reference = body.get("pipeline_version_reference")
        if not reference:
            return body.get("pipeline_spec")
        for version in self.world.pipelines.get(reference.get("pipeline_id"), {}).get("versions", []):
            if version["pipeline_version_id"] == reference.get("pipeline_version_id"):
                return version["pipeline_spec"]
        raise Refusal(404, f"Failed to create a run: pipeline version {reference} not found")

    def _start(self, document: Json, pipeline: ir.Pipeline, parameters: Json) -> RunRecord:
        run_id = str(uuid.uuid4())
        root = document["runtime_config"].get("pipeline_root") or "minio://mlpipeline/v2/artifacts"
        workflow = Workflow(
            self.world,
            run_id,
            document["display_name"],
            pipeline,
            parameters,
            root.rstrip("/"),
            document["service_account"],
            lambda: self.world.report(record),
        )
        record = RunRecord(run_id, document, int(time.time()), workflow)
        record.enter("PENDING")
        self.world.runs[run_id] = record
        self.world.touch()
        return record

    def _run(self, run_id: str) -> RunRecord:
        if run_id not in self.world.runs:
            raise Refusal(404, f"Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found")
        return self.world.runs[run_id]

    def get_run(self, request: Request, run_id: str) -> Json:
        return self._run(run_id).show()

    def list_runs(self, request: Request) -> Json:
        experiment = request.parameters.get("experiment_id", "")
        if not experiment:
            self._namespace(request.parameters.get("namespace", ""), "A run")
        runs = [run.show(details=False) for run in self.world.runs.values()]
        runs = [run for run in runs if not experiment or run["experiment_id"] == experiment]
        return self._list(request, "runs", runs, "run_id", _RUN_FIELDS)

    def _list(self, request: Request, name: str, items: list[Json], key: str, fields: dict[str, str]) -> Json:
        found, token, total = page(items, request.parameters, key, fields, self.schema)
        answer: Json = {"total_size": total}
        if found:
            answer[name] = found
        return answer | ({"next_page_token": token} if token else {})

    def read_run_log(self, request: Request, run_id: str, node_id: str) -> Answer:
        """Outside the API's document. A node is known by its pod's name; with the pod, the log is gone."""
        pod = self.world.pods.get(node_id)
        if run_id not in self.world.runs or pod is None or pod.run_id != run_id:
            raise Refusal(500, f'InternalServerError: failed to open log stream: pods "{node_id}" not found', "upload")
        follow = request.parameters.get("follow", "").lower() == "true"
        lines = pod.log.follow(0, None) if follow else iter([pod.log.lines()])
        return Answer(b"".join(line for _, line in batch) for batch in lines)

    def terminate_run(self, request: Request, run_id: str) -> Json:
        run = self._run(run_id)
        if run.state not in ("PENDING", "RUNNING"):
            raise Refusal(400, f"Failed to terminate run {run_id}. Row not found")
        run.enter("CANCELING")
        run.workflow.terminate()
        self.world.touch()
        return {}

    def retry_run(self, request: Request, run_id: str) -> Json:
        run = self._run(run_id)
        if run.workflow.state != "FAILED" or run.archived:
            raise Refusal(400, f"Failed to retry run {run_id}: Workflow must be Failed/Error to retry")
        run.finished = None
        run.enter("PENDING")
        run.workflow.retry()
        return {}

    def archive_run(self, request: Request, run_id: str) -> Json:
        self._run(run_id).archived = True
        self.world.touch()
        return {}

    def unarchive_run(self, request: Request, run_id: str) -> Json:
        self._run(run_id).archived = False
        self.world.touch()
        return {}

    def delete_run(self, request: Request, run_id: str) -> Json:
        self._run(run_id)
        self.world.forget(run_id)
        return {}

    # -- experiments -----------------------------------------------------------------------------------------------

    def create_experiment(self, request: Request, body: Json) -> Json:
        name = body.get("display_name")
        self._namespace(body.get("namespace", ""), "An experiment")
        if not name:
            raise Refusal(400, "Failed to create an experiment: InvalidInputError: experiment name is empty")
        if any(one["display_name"] == name for one in self.world.experiments.values()):
            raise Refusal(409, f"Failed to create an experiment: AlreadyExistError: {name} already exists")
        return self._new_experiment(name, body.get("description", ""))

    def _new_experiment(self, name: str, description: str = "") -> Json:
        made = {"experiment_id": str(uuid.uuid4()), "display_name": name, "description": description}
        made |= {"created_at": stamp(), "storage_state": "AVAILABLE", "last_run_created_at": "1970-01-01T00:00:00Z"}
        self.world.experiments[made["experiment_id"]] = made
        return made

    def _default_experiment(self) -> str:
        for one in self.world.experiments.values():
            if one["display_name"] == "Default":
                return str(one["experiment_id"])
        return str(self._new_experiment("Default")["experiment_id"])

    def _experiment(self, experiment_id: str) -> Json:
        if experiment_id not in self.world.experiments:
            raise Refusal(404, f"ResourceNotFoundError: Experiment {experiment_id} not found")
        return self.world.experiments[experiment_id]

    def get_experiment(self, request: Request, experiment_id: str) -> Json:
        return self._experiment(experiment_id)

    def list_experiments(self, request: Request) -> Json:
        self._namespace(request.parameters.get("namespace", ""), "An experiment")
        items = list(self.world.experiments.values())
        fields = _OTHER_FIELDS | {"experiment_id": "experiment_id", "last_run_created_at": "last_run_created_at"}
        return self._list(request, "experiments", items, "experiment_id", fields)

    def archive_experiment(self, request: Request, experiment_id: str) -> Json:
        self._experiment(experiment_id)["storage_state"] = "ARCHIVED"
        return {}

    def unarchive_experiment(self, request: Request, experiment_id: str) -> Json:
        self._experiment(experiment_id)["storage_state"] = "AVAILABLE"
        return {}

    def delete_experiment(self, request: Request, experiment_id: str) -> Json:
        self._experiment(experiment_id)
        del self.world.experiments[experiment_id]
        return {}

    # -- pipelines -------------------------------------------------------------------------------------------------

    def create_pipeline(self, request: Request, body: Json) -> Json:
        name = body.get("name") or body.get("display_name")
        if not name:
            raise Refusal(400, "pipeline's name cannot be empty")
        return self._new_pipeline(name, body.get("display_name") or name, body.get("description", ""), 400)

    def _new_pipeline(self, name: str, display_name: str, description: str, upload: int) -> Json:
        if any(one["name"] == name for one in self.world.pipelines.values()):
            reason = "upload" if upload == 409 else ""
            raise Refusal(409, f"AlreadyExistError: The name {name} already exist. Please specify a new name.", reason)
        made = {"pipeline_id": str(uuid.uuid4()), "name": name, "display_name": display_name, "created_at": stamp()}
        made["description"] = description
        self.world.pipelines[made["pipeline_id"]] = {**made, "versions": []}
        return made

    def upload_pipeline(self, request: Request) -> Json:
        spec, query = self._uploaded(request), request.parameters
        name = query.get("name") or query.get("display_name") or ir.read(spec).name
        made = self._new_pipeline(name, query.get("display_name") or name, query.get("description", ""), 409)
        self._add_version(made["pipeline_id"], name, spec)
        return made

    def upload_pipeline_version(self, request: Request) -> Json:
        query = request.parameters
        self._pipeline(query.get("pipelineid", ""))
        return self._add_version(query["pipelineid"], query.get("name", "version"), self._uploaded(request))

    def _uploaded(self, request: Request) -> Any:
        """The file of a multipart form: YAML, the platform's part as a second document."""
        head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + request.body)
        files = [
            part for part in form.iter_parts() if part.get_param("name", header="content-disposition") == "uploadfile"
        ]
        try:
            documents = list(yaml.safe_load_all(files[0].get_content()))
            spec = (
                documents[0]
                if len(documents) == 1
                else dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
            )
            ir.read(spec)
        except (IndexError, ValueError, yaml.YAMLError, ir.IrError) as error:
            raise Refusal(500, f"Failed to upload: {error}", "upload") from error
        return spec

    def _add_version(self, pipeline_id: str, name: str, spec: Any) -> Json:
        made = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": name,
        }
        made |= {"created_at": stamp(), "pipeline_spec": json.loads(json.dumps(spec))}
        self.world.pipelines[pipeline_id]["versions"].append(made)
        return made

    def _pipeline(self, pipeline_id: str) -> Json:
        if pipeline_id not in self.world.pipelines:
            raise Refusal(404, f"ResourceNotFoundError: Pipeline {pipeline_id} not found")
        return self.world.pipelines[pipeline_id]

    def get_pipeline(self, request: Request, pipeline_id: str) -> Json:
        return {key: value for key, value in self._pipeline(pipeline_id).items() if key != "versions"}

    def list_pipelines(self, request: Request) -> Json:
        items = [self.get_pipeline(request, one) for one in self.world.pipelines]
        return self._list(request, "pipelines", items, "pipeline_id", _OTHER_FIELDS | {"pipeline_id": "pipeline_id"})

    def list_pipeline_versions(self, request: Request, pipeline_id: str) -> Json:
        versions = self._pipeline(pipeline_id)["versions"]
        fields = _OTHER_FIELDS | {"pipeline_version_id": "pipeline_version_id"}
        return self._list(request, "pipeline_versions", versions, "pipeline_version_id", fields)

    def delete_pipeline(self, request: Request, pipeline_id: str) -> Json:
        if self._pipeline(pipeline_id)["versions"] and request.parameters.get("cascade") != "true":
            raise Refusal(400, f"Failed to delete pipeline with id {pipeline_id} as it has existing pipeline versions")
        del self.world.pipelines[pipeline_id]
        return {}
