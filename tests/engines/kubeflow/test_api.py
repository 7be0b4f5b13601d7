"""The KFP API as we use it, against the stub over a socket: every state, every fault, and runs that start once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp_server_api import V2beta1RuntimeState
from pydantic import SecretStr

from kwdbml.engines.base import About, Run, RunState
from kwdbml.engines.kfp import answers, names, pipeline
from kwdbml.engines.kfp import api as api_module
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError, NotItself
from kwdbml.engines.kfp.settings import KubeflowSettings, S3Settings
from kwdbml.errors import EngineError
from kwdbml.model import JobType
from tests.engines.kubeflow.stub.http import Answer
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE

NAME = "kwdbml-0123456789ab-job-1"
CREATE = "POST /apis/v2beta1/runs"


@pytest.fixture
def settings(kubeflow: Stub) -> KubeflowSettings:
    kubeflow.simulate()
    return KubeflowSettings(
        host=kubeflow.kfp.url,
        cluster_host=kubeflow.cluster.url,
        image=RUNTIME_IMAGE,
        timeout=2,
        s3=S3Settings(endpoint="http://s3:9000", bucket="mlpipeline", access_key="a", secret_key=SecretStr("s")),
    )


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def api(settings: KubeflowSettings, slept: list[float]) -> KfpApi:
    return KfpApi(settings, sleep=slept.append)


def filled(settings: KubeflowSettings, name: str = NAME, **about: Any) -> pipeline.Filled:
    return pipeline.fill(Run(name, **about), settings, f"s3://mlpipeline/kwdbml/{name}/pipeline")


@pytest.fixture
def run(api: KfpApi, settings: KubeflowSettings) -> KfpRun:
    return api.create(filled(settings))


def test_a_run_is_created_found_and_looked_at(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    made = api.create(filled(settings, ttl=30.0))
    assert (made.name, made.ended, made.ttl) == (NAME, False, 30.0)
    assert 0 <= made.age < 30
    document = kubeflow.run(NAME).document
    assert document["runtime_config"]["pipeline_root"] == f"minio://mlpipeline/kwdbml/{NAME}/pipeline"
    assert document["runtime_config"]["parameters"]["job"] == "job"
    assert api.get(made.run_id) == made or api.get(made.run_id).run_id == made.run_id  # type: ignore[union-attr]
    assert [one.run_id for one in api.find(NAME)] == [made.run_id]
    assert api.find(NAME.upper()) == []
    assert api.find("kwdbml-0123456789ab-job-2") == []
    assert [one.run_id for one in api.unfinished("kwdbml-0123456789ab-")] == [made.run_id]
    assert api.unfinished("kwdbml-0123456789a_-") == [], "no wildcard counts"


def test_age_is_by_the_clock_of_the_server(api: KfpApi, run: KfpRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "time", SimpleNamespace(time=lambda: run.created + 1e6))
    [found], looked_at = api.unfinished("kwdbml-"), api.get(run.run_id)
    assert looked_at is not None
    assert max(found.age, looked_at.age) < 60


def test_one_experiment_for_all_runs(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    first = api.check()
    api.create(filled(settings))
    api.create(filled(settings, "kwdbml-0123456789ab-job-2"))
    assert [one["display_name"] for one in kubeflow.experiments.values()] == ["kwdbml"]
    assert kubeflow.run(NAME).document["experiment_id"] == first
    assert KfpApi(settings).check() == first


def test_an_experiment_that_was_deleted_is_made_again(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    api.check()
    kubeflow.experiments.clear()
    assert api.create(filled(settings)).name == NAME
    kubeflow.experiments[api.check()]["storage_state"] = "ARCHIVED"
    with pytest.raises(EngineError, match="is archived"):
        api.check()


def test_all_pages_are_read(
    api: KfpApi, settings: KubeflowSettings, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "_PAGE", 3)
    for number in range(7):
        api.create(filled(settings, f"kwdbml-0123456789ab-job-{number}"))
    kubeflow.kfp.calls.clear()
    assert len({one.name for one in api.unfinished("kwdbml-0123456789ab-")}) == 7
    assert kubeflow.kfp.calls["GET /apis/v2beta1/runs"] == 3


# -- states ----------------------------------------------------------------------------------------------------------

STATES = {
    "PENDING": RunState.RUNNING, "RUNNING": RunState.RUNNING, "PAUSED": RunState.RUNNING,
    "CANCELING": RunState.RUNNING, "SUCCEEDED": RunState.SUCCEEDED, "SKIPPED": RunState.FAILED,
    "FAILED": RunState.FAILED, "CANCELED": RunState.CANCELED, "RUNTIME_STATE_UNSPECIFIED": RunState.UNKNOWN,
}  # fmt: skip


def test_every_state_of_kfp_has_its_meaning() -> None:
    assert set(STATES) == set(V2beta1RuntimeState.allowable_values)
    for state, meaning in STATES.items():
        found = KfpRun("id", NAME, state)
        assert found.run_state == meaning
        assert found.ended == (meaning not in (RunState.RUNNING, RunState.UNKNOWN)), state


def test_a_state_of_the_future_is_unknown(api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    kubeflow.force(run.run_id, "HIBERNATING")
    found = api.get(run.run_id)
    assert found is not None
    assert (found.state, found.run_state, found.ended) == ("HIBERNATING", RunState.UNKNOWN, False)
    assert [one.state for one in api.unfinished("kwdbml-")] == ["HIBERNATING"]


def test_a_terminated_run_ends_failed_and_was_canceled(api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    api.terminate(run.run_id)
    kubeflow.wait(lambda: kubeflow.run(NAME).state == "FAILED")
    found = api.get(run.run_id)
    assert found is not None
    assert (found.state, found.canceled, found.run_state) == ("FAILED", True, RunState.CANCELED)
    api.terminate(run.run_id)  # has ended: nothing to do
    assert api.unfinished("kwdbml-") == []


def test_a_failed_run_was_not_canceled(api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    kubeflow.put_secret(names.secret_name(NAME), {"access.json": "{}"})
    kubeflow.wait(lambda: any(pod.phase == "Running" for pod in kubeflow.pods_of(run.run_id)))
    kubeflow.finish(run.run_id, 3)
    kubeflow.wait(lambda: kubeflow.run(NAME).state == "FAILED")
    found = api.get(run.run_id)
    assert found is not None
    assert (found.canceled, found.run_state) == (False, RunState.FAILED)


def test_put_away_archives_or_deletes(api: KfpApi, settings: KubeflowSettings, run: KfpRun, kubeflow: Stub) -> None:
    api.put_away(run.run_id)
    found = api.get(run.run_id)
    assert found is not None
    assert found.archived
    assert api.find(NAME) == []
    api.put_away(run.run_id)
    deleting = KfpApi(settings.model_copy(update={"keep": "delete"}))
    deleting.put_away(run.run_id)
    assert api.get(run.run_id) is None
    deleting.put_away(run.run_id)
    api.put_away(run.run_id)
    api.terminate(run.run_id)


# -- faults ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": 2},
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "cut": {"kind": "cut"},
    "drop": {"kind": "drop"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_look_survives_two_faults(fault: str, api: KfpApi, run: KfpRun, kubeflow: Stub, slept: list[float]) -> None:
    kubeflow.kfp.faults.add("GET", r"/runs/", times=2, **FAULTS[fault])
    assert api.get(run.run_id) is not None
    assert len(slept) == 2
    assert max(slept) >= FAULTS[fault].get("retry_after", 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_more_faults_are_an_error_that_can_be_tried_again(fault: str, api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    kubeflow.kfp.faults.add("GET", r"/runs/", times=3, **FAULTS[fault])
    with pytest.raises(ApiError) as caught:
        api.get(run.run_id)
    assert caught.value.retryable
    assert caught.value.hint
    assert api.get(run.run_id) is not None


def test_a_server_that_is_down(api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    kubeflow.kfp.down()
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        api.get(run.run_id)
    assert caught.value.retryable
    assert "KWDBML_KFP_HOST" in caught.value.hint
    kubeflow.kfp.up()
    assert api.get(run.run_id) is not None


def test_a_server_that_hangs(settings: KubeflowSettings, run: KfpRun, kubeflow: Stub) -> None:
    fault = kubeflow.kfp.faults.add("GET", r"/runs/", kind="hang", times=3)
    impatient = KfpApi(settings.model_copy(update={"timeout": 0.2}), sleep=lambda seconds: None)
    with pytest.raises(ApiError, match="did not answer in time") as caught:
        impatient.get(run.run_id)
    assert (caught.value.retryable, caught.value.sent, fault.met) == (True, True, 3)


@pytest.mark.parametrize("status", [400, 403])
def test_a_no_is_not_asked_again(status: int, api: KfpApi, run: KfpRun, kubeflow: Stub, slept: list[float]) -> None:
    kubeflow.kfp.faults.add("GET", r"/runs/", status=status, message="the words of the server")
    with pytest.raises(ApiError) as caught:
        api.get(run.run_id)
    assert not caught.value.retryable
    assert "the words of the server" in caught.value.message + caught.value.detail
    assert slept == []


def test_a_run_that_was_deleted_under_us(api: KfpApi, run: KfpRun, kubeflow: Stub) -> None:
    kubeflow.forget(run.run_id)
    assert api.get(run.run_id) is None
    assert api.find(NAME) == []


@pytest.mark.parametrize(
    ("body", "words"), [(b" <html>log in</html>", "is not Kubeflow Pipelines: it answered with a page"),
                        (b"[]", "another kind of JSON"), (b'{"runs": [', "no JSON"), (b"", "no JSON"),
                        (b'{"message": "maintenance"}', "in other words"), (b"{}", "in other words"),
                        (b'{"run_id": "another"}', "in other words"), (b'{"run_id": 7}', "in other words")],
)  # fmt: skip
def test_an_answer_that_is_none(
    api: KfpApi, run: KfpRun, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch, body: bytes, words: str
) -> None:
    monkeypatch.setattr(kubeflow.kfp, "answer", lambda request: Answer(body))
    with pytest.raises(NotItself, match=words) as caught:
        api.get(run.run_id)
    assert (caught.value.retryable, caught.value.curable) == (True, True)


def test_something_else_answers(settings: KubeflowSettings, kubeflow: Stub) -> None:
    other = KfpApi(settings.model_copy(update={"host": kubeflow.cluster.url}), sleep=lambda seconds: None)
    with pytest.raises(NotItself, match=f"what answers at {kubeflow.cluster.url} is not Kubeflow Pipelines") as caught:
        other.check()
    assert "KWDBML_KFP_HOST" in caught.value.hint


def test_a_certificate_that_nobody_vouches_for(
    settings: KubeflowSettings, kubeflow: Stub, certificate: tuple[Path, Path]
) -> None:
    kubeflow.kfp.secure(*certificate)
    secure = settings.model_copy(update={"host": kubeflow.kfp.url})
    with pytest.raises(ApiError, match="certificate that is not trusted") as caught:
        KfpApi(secure).check()
    assert not caught.value.retryable
    assert "KWDBML_KFP_CA_FILE" in caught.value.hint
    assert KfpApi(secure.model_copy(update={"ca_file": certificate[0]})).check()


def test_no_tls_where_it_was_asked_for(settings: KubeflowSettings) -> None:
    url = settings.host.replace("http://", "https://")
    with pytest.raises(ApiError, match="does not speak TLS") as caught:
        KfpApi(settings.model_copy(update={"host": url}), sleep=lambda seconds: None).check()
    assert "KWDBML_KFP_HOST" in caught.value.hint


# -- a run is started once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "drop", "500", "503"])
def test_a_creation_whose_answer_was_lost_is_looked_up(
    fault: str, api: KfpApi, settings: KubeflowSettings, kubeflow: Stub
) -> None:
    api.check()
    kubeflow.kfp.faults.add("POST", r"/runs$", after=True, **FAULTS[fault])
    made = api.create(filled(settings))
    assert kubeflow.run(NAME).run_id == made.run_id


@pytest.mark.parametrize("fault", FAULTS)
def test_a_creation_that_did_not_happen_is_sent_again(
    fault: str, api: KfpApi, settings: KubeflowSettings, kubeflow: Stub, slept: list[float]
) -> None:
    api.check()
    after = FAULTS[fault]
    if fault == "cut":
        after = {"status": 504}  # a cut answer is of a run that was made
    met = kubeflow.kfp.faults.add("POST", r"/runs$", times=2, **after)
    made = api.create(filled(settings))
    assert met.met == 2
    assert max(slept) >= FAULTS[fault].get("retry_after", 0)
    assert kubeflow.run(NAME).run_id == made.run_id


def test_a_server_that_asks_for_long_holds_no_thread_so_long(
    api: KfpApi, settings: KubeflowSettings, kubeflow: Stub, slept: list[float]
) -> None:
    api.check()
    kubeflow.kfp.faults.add("POST", r"/runs$", status=429, retry_after=3600)
    api.create(filled(settings))
    assert slept == [10.0]


def test_a_later_creation_looks_it_up_first(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    """The answer is lost, and then the server is away: whoever tries again much later finds the run."""
    api.check()
    kubeflow.kfp.faults.add("POST", r"/runs$", kind="drop", after=True)
    kubeflow.kfp.faults.add("GET", r"/runs$", status=503, times=3)
    with pytest.raises(ApiError) as caught:
        api.create(filled(settings))
    assert caught.value.retryable
    made = api.create(filled(settings))
    assert kubeflow.run(NAME).run_id == made.run_id


def test_the_last_lost_answer_is_looked_up_too(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    api.check()
    kubeflow.kfp.faults.add("POST", r"/runs$", kind="drop", times=2)
    kubeflow.kfp.faults.add("POST", r"/runs$", status=500, after=True)
    made = api.create(filled(settings))
    assert kubeflow.run(NAME).run_id == made.run_id


def test_doubles_are_told_oldest_first(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    first = api.create(filled(settings))
    second = api.create(filled(settings))
    kubeflow.runs[second.run_id].created -= 5
    assert [one.run_id for one in api.find(NAME)] == [second.run_id, first.run_id]


def test_a_broken_pipeline_is_not_sent_for_ever(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    """KFP answers 500 to a pipeline that it cannot read: no reason to wait for better times."""
    body = filled(settings)
    body.spec["pipeline_spec"]["root"] = {"nonsense": True}
    with pytest.raises(ApiError) as caught:
        api.create(body)
    assert (caught.value.status, caught.value.retryable) == (500, False)
    assert kubeflow.runs == {}


def test_parameters_that_do_not_fit(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    body = filled(settings)
    body.parameters["attempt"] = "second"
    with pytest.raises(ApiError) as caught:
        api.create(body)
    assert (caught.value.status, caught.value.retryable) == (400, False)
    assert kubeflow.kfp.calls[CREATE] == 1


def test_a_multi_user_installation_is_told_the_namespace(
    api: KfpApi, settings: KubeflowSettings, kubeflow: Stub
) -> None:
    kubeflow.multi_user = True
    made = api.create(filled(settings))
    assert [one.run_id for one in api.find(NAME)] == [made.run_id]
    assert [one.run_id for one in api.unfinished("kwdbml-")] == [made.run_id]
    elsewhere = KfpApi(settings.model_copy(update={"namespace": "elsewhere"}))
    with pytest.raises(ApiError) as caught:
        elsewhere.find(NAME)
    assert caught.value.status == 403
    assert "in namespace elsewhere" in caught.value.hint


def test_an_experiment_that_another_worker_makes_at_the_same_time(
    api: KfpApi, settings: KubeflowSettings, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not there when one looks, there when one makes it: 409."""
    first, find = KfpApi(settings).check(), api._find_experiment
    answers = [None]
    monkeypatch.setattr(api, "_find_experiment", lambda: answers.pop() if answers else find())
    assert api.check() == first
    assert [one["display_name"] for one in kubeflow.experiments.values()] == ["kwdbml"]


@pytest.mark.parametrize("lost", [{"kind": "drop"}, {"kind": "cut"}, {"status": 503}], ids=str)
def test_an_experiment_whose_creation_got_no_answer(api: KfpApi, kubeflow: Stub, lost: dict[str, Any]) -> None:
    kubeflow.kfp.faults.add("POST", "/experiments$", after=True, **lost)
    assert api.check() in kubeflow.experiments
    assert len(kubeflow.experiments) == 1


def test_what_any_user_is_called_is_taken(api: KfpApi, settings: KubeflowSettings, kubeflow: Stub) -> None:
    """Also where KFP's database takes no letter of four bytes and no long description."""
    about = About(JobType.BATCH_PREDICT, "🚀" * 15, "{{" + "模" * 20, {"team": "a" * 64, "a" * 64: "b"}, {"why": "🚀"})
    made = api.create(filled(settings, about=about))
    (pod,) = kubeflow.wait(lambda: kubeflow.pods_of(made.run_id))
    assert pod.annotations["kwdbml.io/creator"].startswith("\\ud83d\\ude80")
