"""The stand-in for KFP behaves as the real one was seen to: each oddity, through the official clients."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import kfp_server_api
import pytest
from kfp_server_api import ApiException, V2beta1Experiment, V2beta1Pipeline, V2beta1Run, V2beta1RuntimeConfig

from tests.engines.kubeflow.stub.clients import finished, kfp_client, pipeline, raw, runs_api, submit
from tests.engines.kubeflow.stub.http import Request

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.stub import Stub

SLEEP = ["sleep", "60"]


@pytest.fixture
def runs(kubeflow: Stub) -> Any:
    return runs_api(kubeflow)


def create(runs: Any, name: str = "run", command: list[str] | None = None, **fields: Any) -> Any:
    spec = pipeline(command or ["true"])
    return runs.run_service_create_run(V2beta1Run(**{"display_name": name, "pipeline_spec": spec, **fields}))


def states(run: Any) -> list[str]:
    return [one.state for one in run.state_history]


def error_of(caught: pytest.ExceptionInfo[ApiException]) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = json.loads(caught.value.body)
    assert set(body) == {"code", "message", "details"}
    return caught.value.status, body


# -- a run's life ---------------------------------------------------------------------------------------------------


def test_a_run_goes_from_pending_to_its_end_and_is_finished_in_1970_until_then(kubeflow: Stub, runs: Any) -> None:
    kubeflow.hold("RUNNING")
    made = create(runs)
    assert (made.state, states(made), made.finished_at.year) == ("PENDING", ["PENDING"], 1970)
    kubeflow.wait(lambda: kubeflow.run("run").workflow.state == "SUCCEEDED")
    seen = runs.run_service_get_run(made.run_id)
    assert (seen.state, seen.finished_at.year) == ("RUNNING", 1970)
    kubeflow.release("RUNNING")
    seen = runs.run_service_get_run(made.run_id)
    assert (seen.state, states(seen)) == ("SUCCEEDED", ["PENDING", "RUNNING", "SUCCEEDED"])
    assert seen.finished_at.year > 2000
    assert seen.storage_state == "AVAILABLE"
    assert seen.created_at.microsecond == 0


def test_a_failed_run_says_nowhere_why(kubeflow: Stub, runs: Any) -> None:
    made = create(runs, command=["sh", "-c", "exit 7"])
    assert finished(kubeflow, made.run_id) == "FAILED"
    seen = runs.run_service_get_run(made.run_id)
    assert seen.error is None
    details = seen.run_details.task_details
    assert all(one.error is one.inputs is one.outputs is one.pod_name is one.execution_id is None for one in details)
    shown = {one.display_name for one in details}
    assert {"root", "root-driver", "step", "step-driver", "executor"} <= shown  # flat: nodes and tasks alike
    assert [one.task_id for one in details] == sorted(one.task_id for one in details)  # in no order of time


def test_a_terminated_run_ends_failed_with_canceling_in_its_history(kubeflow: Stub, runs: Any) -> None:
    made = create(runs, command=SLEEP)
    runs.run_service_terminate_run(made.run_id)
    assert finished(kubeflow, made.run_id) == "FAILED"
    assert states(runs.run_service_get_run(made.run_id)) == ["PENDING", "RUNNING", "CANCELING", "FAILED"]
    kubeflow.wait(lambda: not kubeflow.living())
    with pytest.raises(ApiException) as caught:
        runs.run_service_terminate_run(made.run_id)
    status, body = error_of(caught)
    assert (status, body["code"]) == (400, 3)


def test_canceling_lasts_as_long_as_argo_takes(kubeflow: Stub, runs: Any) -> None:
    kubeflow.hold("CANCELING")
    made = create(runs, command=SLEEP)
    runs.run_service_terminate_run(made.run_id)
    assert runs.run_service_get_run(made.run_id).state == "CANCELING"
    assert kubeflow.living()
    with pytest.raises(ApiException) as caught:
        runs.run_service_terminate_run(made.run_id)
    assert caught.value.status == 400
    kubeflow.release("CANCELING")
    assert finished(kubeflow, made.run_id) == "FAILED"


def test_a_run_that_was_faster_than_its_termination_has_succeeded(kubeflow: Stub, runs: Any) -> None:
    kubeflow.hold("CANCELING")
    kubeflow.simulate()
    made = create(runs)
    runs.run_service_terminate_run(made.run_id)
    kubeflow.finish(made.run_id)
    kubeflow.release("CANCELING")
    assert states(runs.run_service_get_run(made.run_id)) == ["PENDING", "RUNNING", "CANCELING", "SUCCEEDED"]


def test_without_the_persistence_agent_a_run_stays_pending_though_it_has_ended(kubeflow: Stub, runs: Any) -> None:
    kubeflow.agent(alive=False)
    made = create(runs)
    kubeflow.wait(lambda: kubeflow.run("run").workflow.state == "SUCCEEDED")
    assert runs.run_service_get_run(made.run_id).state == "PENDING"
    kubeflow.agent(alive=True)
    assert runs.run_service_get_run(made.run_id).state == "SUCCEEDED"


def test_retry_reopens_the_same_run(kubeflow: Stub, runs: Any) -> None:
    kubeflow.script("Exit", exit_code=3)
    made = create(runs)
    assert finished(kubeflow, made.run_id) == "FAILED"
    runs.run_service_retry_run(made.run_id)
    assert finished(kubeflow, made.run_id) == "SUCCEEDED"
    seen = runs.run_service_get_run(made.run_id)
    assert seen.run_id == made.run_id
    assert states(seen) == ["PENDING", "RUNNING", "FAILED", "PENDING", "RUNNING", "SUCCEEDED"]
    with pytest.raises(ApiException) as caught:
        runs.run_service_retry_run(made.run_id)
    assert caught.value.status == 400


def test_an_unfinished_run_can_be_deleted_and_is_gone_with_its_pods(kubeflow: Stub, runs: Any) -> None:
    made = create(runs, command=SLEEP)
    assert kubeflow.pods_of(made.run_id)
    workflow = kubeflow.run("run").workflow
    runs.run_service_delete_run(made.run_id)
    workflow.join()
    assert kubeflow.pods == {}
    with pytest.raises(ApiException) as caught:
        runs.run_service_get_run(made.run_id)
    status, body = error_of(caught)
    assert (status, body["code"]) == (404, 5)


def test_archiving_changes_the_storage_state_alone(kubeflow: Stub, runs: Any) -> None:
    made = create(runs)
    finished(kubeflow, made.run_id)
    runs.run_service_archive_run(made.run_id)
    seen = runs.run_service_get_run(made.run_id)
    assert (seen.state, seen.storage_state) == ("SUCCEEDED", "ARCHIVED")
    runs.run_service_unarchive_run(made.run_id)
    assert runs.run_service_get_run(made.run_id).storage_state == "AVAILABLE"


def test_a_state_that_no_client_knows(kubeflow: Stub, runs: Any) -> None:
    made = create(runs, command=SLEEP)
    kubeflow.force(made.run_id, "HIBERNATING")
    assert runs.run_service_get_run(made.run_id).state == "HIBERNATING"


# -- what is refused ------------------------------------------------------------------------------------------------


def broken(change: str) -> dict[str, Any]:
    spec = pipeline(["true"])
    match change:
        case "unknown field":
            spec["pipeline_spec"]["surprise"] = 1
        case "no executor":
            spec["pipeline_spec"]["deploymentSpec"]["executors"] = {}
        case "no component":
            spec["pipeline_spec"]["components"] = {}
        case "schema version":
            spec["pipeline_spec"]["schemaVersion"] = "9"
        case "name":
            spec["pipeline_spec"]["pipelineInfo"]["name"] = "Bad Name"
        case "platform field":
            executors = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
            executors["exec-step"] = {"pvcMount": [{"readOnly": True}]}
        case "platform executor":
            spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] = {"exec-other": {}}
    return spec


@pytest.mark.parametrize(
    "change",
    ["unknown field", "no executor", "no component", "schema version", "name", "platform field", "platform executor"],
)
def test_a_broken_pipeline_is_the_servers_error(kubeflow: Stub, runs: Any, change: str) -> None:
    with pytest.raises(ApiException) as caught:
        create(runs, pipeline_spec=broken(change))
    status, body = error_of(caught)
    assert (status, body["code"]) == (500, 13)
    assert kubeflow.runs == {}
    create(runs, pipeline_spec=broken("nothing"))


@pytest.mark.parametrize("parameters", [{"y": 1}, {"x": "one"}, {"x": 1.5}, {"x": True}])
def test_unknown_and_mistyped_parameters_are_the_clients_error(
    kubeflow: Stub, runs: Any, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ApiException) as caught:
        create(runs, runtime_config=V2beta1RuntimeConfig(parameters=parameters))
    assert error_of(caught)[0] == 400
    assert kubeflow.runs == {}
    create(runs, runtime_config=V2beta1RuntimeConfig(parameters={"x": 2}))


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("runs", "POST", {"display_name": "run", "surprise": 1}),
        ("runs", "POST", {"display_name": 1}),
        ("runs", "POST", {"display_name": "run", "runtime_config": {"params": {}}}),
        ("runs", "POST", {"display_name": "run", "state": "LIVELY"}),
        ("runs", "POST", {"display_name": ""}),
        ("runs", "POST", []),
        ("runs?surprise=1", "GET", None),
        ("runs?page_size=many", "GET", None),
        ("runs?page_size=-1", "GET", None),
        ("runs?page_token=rubbish", "GET", None),
        ("runs?sort_by=surprise", "GET", None),
        ("runs?sort_by=created_at%20sideways", "GET", None),
        ("runs?filter=rubbish", "GET", None),
        ('runs?filter={"predicates":[{"key":"surprise","operation":"EQUALS","string_value":"x"}]}', "GET", None),
        ('runs?filter={"predicates":[{"key":"state","operation":"IN","string_value":"x"}]}', "GET", None),
        ('runs?filter={"predicates":[{"key":"state","operation":"LIKE","string_value":"x"}]}', "GET", None),
        ('runs?filter={"predicates":[{"key":"state","operation":"EQUALS","values":"x"}]}', "GET", None),
        ("runs/1:terminate", "POST", {"reason": "none"}),
    ],
)
def test_what_the_api_document_does_not_know_is_refused(kubeflow: Stub, path: str, method: str, body: Any) -> None:
    status, answer = raw(f"{kubeflow.kfp.url}/apis/v2beta1/{path.replace(' ', '%20')}", method, body)
    assert (status, answer["code"]) == (400, 3)
    assert kubeflow.runs == {}


def test_unknown_ids_and_paths(kubeflow: Stub, runs: Any) -> None:
    for call in (runs.run_service_get_run, runs.run_service_terminate_run, runs.run_service_archive_run):
        with pytest.raises(ApiException) as caught:
            call("00000000-0000-0000-0000-000000000000")
        assert error_of(caught)[0] == 404
    with pytest.raises(ApiException) as caught:
        create(runs, experiment_id="nowhere")
    assert error_of(caught)[0] == 404
    assert raw(f"{kubeflow.kfp.url}/apis/v2beta1/dreams")[0] == 404


# -- lists ----------------------------------------------------------------------------------------------------------


def predicates(*given: tuple[str, str, str, Any]) -> str:
    return json.dumps({"predicates": [{"key": key, "operation": how, kind: value} for key, how, kind, value in given]})


def names(answer: Any) -> list[str]:
    return sorted(one.display_name for one in answer.runs or [])


def test_runs_are_found_by_filters(kubeflow: Stub, runs: Any) -> None:
    kubeflow.simulate()
    made = {name: create(runs, name) for name in ("kwdbml-a-1", "kwdbml-a-2", "KWDBML-A-1", "other")}
    kubeflow.finish(made["other"].run_id)

    def found(*given: tuple[str, str, str, Any]) -> list[str]:
        return names(runs.run_service_list_runs(filter=predicates(*given)))

    both = ["KWDBML-A-1", "kwdbml-a-1"]
    assert found(("display_name", "EQUALS", "string_value", "kwdbml-a-1")) == both  # the database ignores case
    assert found(("display_name", "IN", "string_values", {"values": ["other", "nobody"]})) == ["other"]
    assert found(("display_name", "IS_SUBSTRING", "stringValue", "a-2")) == ["kwdbml-a-2"]
    assert found(("display_name", "IS_SUBSTRING", "string_value", "kwdbml_a_2")) == ["kwdbml-a-2"]  # LIKE's wildcard
    assert found(("state", "EQUALS", "string_value", "SUCCEEDED")) == ["other"]
    assert found(("state", "NOT_EQUALS", "string_value", "RUNNING")) == ["other"]
    assert found(("run_id", "EQUALS", "string_value", made["other"].run_id)) == ["other"]
    assert found(("created_at", "LESS_THAN", "timestamp_value", "2020-01-01T00:00:00Z")) == []
    assert len(found(("created_at", "GREATER_THAN_EQUALS", "timestamp_value", "2020-01-01T00:00:00Z"))) == 4
    assert found(("finished_at", "GREATER_THAN", "timestamp_value", "2020-01-01T00:00:00Z")) == ["other"]
    assert len(found(("finished_at", "LESS_THAN_EQUALS", "timestamp_value", "1970-01-01T00:00:00Z"))) == 3
    experiment = made["other"].experiment_id
    assert len(found(("experiment_id", "EQUALS", "string_value", experiment))) == 4
    assert found(("experiment_id", "NOT_EQUALS", "string_value", experiment)) == []
    runs.run_service_archive_run(made["other"].run_id)
    assert len(found(("storage_state", "EQUALS", "string_value", "AVAILABLE"))) == 3
    with_two = (
        ("storage_state", "EQUALS", "string_value", "AVAILABLE"),
        ("state", "EQUALS", "string_value", "RUNNING"),
    )
    assert len(found(*with_two)) == 3


def test_lists_come_in_pages_oldest_first(kubeflow: Stub, runs: Any) -> None:
    kubeflow.simulate()
    spec = pipeline(["true"])
    for number in range(45):
        create(runs, f"run-{number:02}", pipeline_spec=spec)
    for number, run in enumerate(kubeflow.runs.values()):
        run.created += number // 2  # two in each second
    seen: list[str] = []
    token = ""
    while True:
        answer = runs.run_service_list_runs(page_token=token)
        assert answer.total_size == 45
        assert len(answer.runs) <= 20
        assert all(one.run_details is None for one in answer.runs)
        seen += [one.display_name for one in answer.runs]
        if not (token := answer.next_page_token):
            break
    assert sorted(seen) == [f"run-{number:02}" for number in range(45)]
    assert [int(name[4:]) // 2 for name in seen] == sorted(int(name[4:]) // 2 for name in seen)
    assert len(runs.run_service_list_runs(page_size=1000).runs) == 45
    newest = runs.run_service_list_runs(sort_by="created_at desc", page_size=1)
    assert newest.runs[0].display_name == "run-44"
    with pytest.raises(ApiException) as caught:
        runs.run_service_list_runs(page_token=newest.next_page_token, sort_by="display_name")
    assert caught.value.status == 400
    assert runs.run_service_list_runs(filter=predicates(("state", "EQUALS", "string_value", "FAILED"))).runs is None


# -- experiments and pipelines --------------------------------------------------------------------------------------


def test_experiments(kubeflow: Stub, runs: Any) -> None:
    api = kfp_server_api.ExperimentServiceApi(kfp_client(kubeflow))
    made = api.experiment_service_create_experiment(V2beta1Experiment(display_name="kwdbml"))
    with pytest.raises(ApiException) as caught:
        api.experiment_service_create_experiment(V2beta1Experiment(display_name="kwdbml"))
    assert error_of(caught)[0] == 409
    run = create(runs, experiment_id=made.experiment_id)
    assert names(runs.run_service_list_runs(experiment_id=made.experiment_id)) == ["run"]
    assert run.experiment_id == made.experiment_id
    other = create(runs, "in the default one")
    assert other.experiment_id != made.experiment_id
    assert api.experiment_service_get_experiment(other.experiment_id).display_name == "Default"


def test_a_second_pipeline_of_a_name_conflicts_and_uploads_have_errors_of_their_own(
    kubeflow: Stub, tmp_path: Any
) -> None:
    api = kfp_server_api.PipelineServiceApi(kfp_client(kubeflow))
    api.pipeline_service_create_pipeline(V2beta1Pipeline(display_name="tiny", name="tiny"))
    with pytest.raises(ApiException) as caught:
        api.pipeline_service_create_pipeline(V2beta1Pipeline(display_name="tiny", name="tiny"))
    assert error_of(caught)[0] == 409
    upload = kfp_server_api.PipelineUploadServiceApi(kfp_client(kubeflow))
    package = tmp_path / "tiny.yaml"
    package.write_text(json.dumps(pipeline(["true"])["pipeline_spec"]))
    with pytest.raises(ApiException) as caught:
        upload.upload_pipeline(str(package), name="tiny")
    assert set(json.loads(caught.value.body)) == {"error_message", "error_details"}
    assert upload.upload_pipeline(str(package), name="tiny-2").display_name == "tiny-2"


def test_healthz(kubeflow: Stub) -> None:
    assert kfp_server_api.HealthzServiceApi(kfp_client(kubeflow)).healthz_service_get_healthz().multi_user is False


# -- many -----------------------------------------------------------------------------------------------------------


def test_a_thousand_simulated_runs_are_cheap(kubeflow: Stub, runs: Any) -> None:
    kubeflow.simulate()
    kubeflow.check_answers = False
    before = threading.active_count()
    body = json.dumps({"display_name": "one of many", "pipeline_spec": pipeline(["true"])}).encode()
    for _ in range(999):
        kubeflow.kfp.answer(Request("POST", "/apis/v2beta1/runs", [], {}, body))
    submit(kubeflow, ["true"], "the last")
    assert threading.active_count() - before < 5  # nobody waits for them
    assert kubeflow.kfp.calls["POST /apis/v2beta1/runs"] == 1
    assert runs.run_service_list_runs(page_size=1).total_size == 1000
    assert [len(runs.run_service_list_runs(page_size=size).runs) for size in (0, 200, 1000)] == [20, 200, 200]
    for run_id in kubeflow.runs:
        kubeflow.finish(run_id)
    assert all(run.state == "SUCCEEDED" for run in kubeflow.runs.values())
