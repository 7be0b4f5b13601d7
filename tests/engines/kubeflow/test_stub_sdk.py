"""A pipeline of the kfp SDK, compiled and run through ``kfp.Client``, as a user of KFP would."""

# No "from __future__ import annotations" here: the SDK reads the parameters' types themselves, not their names.
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kfp import Client, compiler, dsl, kubernetes

from kwdbml.engines.base import About, Run
from kwdbml.engines.kfp import pipeline
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.model import JobType
from tests.engines.kubeflow.stub.clients import core_api
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE
from tests.fixtures.s3 import S3Server

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.stub import Stub

pytestmark = [
    pytest.mark.filterwarnings("ignore:This client only works with Kubeflow Pipeline:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
MAKE = """
mkdir -p "$(dirname "$1")" "$(dirname "$2")"
echo "$3 $(cat /secret/word)" > "$1"
printf 42 > "$2"
"""


def compiled(path: Path, *, cached: bool = False) -> str:
    @dsl.container_component  # type: ignore[untyped-decorator]
    def make(text: str, made: dsl.Output[dsl.Artifact], number: dsl.OutputPath(int)):  # type: ignore[no-untyped-def,valid-type]
        return dsl.ContainerSpec(
            image=RUNTIME_IMAGE, command=["sh", "-euc", MAKE, "make"], args=[made.path, number, text]
        )

    @dsl.container_component  # type: ignore[untyped-decorator]
    def use(made: dsl.Input[dsl.Artifact], number: int):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(
            image=RUNTIME_IMAGE, command=["sh", "-c", 'cat "$0"; echo "number $1"'], args=[made.path, number]
        )

    @dsl.pipeline(name="two-steps")  # type: ignore[untyped-decorator,unused-ignore]
    def two_steps(text: str = "hello"):  # type: ignore[no-untyped-def]
        first = make(text=text)
        first.set_caching_options(cached)
        kubernetes.use_secret_as_volume(first, secret_name="word", mount_path="/secret")
        second = use(made=first.outputs["made"], number=first.outputs["number"])
        second.set_caching_options(cached)

    compiler.Compiler().compile(two_steps, str(path))
    return str(path)


@pytest.fixture
def sdk(kubeflow: "Stub", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    return Client(host=kubeflow.kfp.url)


def test_a_pipeline_runs_from_end_to_end(kubeflow: "Stub", sdk: Any, s3_bucket: S3Server, tmp_path: Path) -> None:
    kubeflow.put_secret("word", {"word": "of the Secret"})
    package = compiled(tmp_path / "pipeline.yaml")
    made = sdk.create_run_from_pipeline_package(
        package,
        arguments={"text": "good morning"},
        run_name="first",
        experiment_name="kwdbml",
        pipeline_root=f"s3://{s3_bucket.bucket}/roots",
    )
    assert sdk.wait_for_run_completion(made.run_id, timeout=30, sleep_duration=0.05).state == "SUCCEEDED"
    (pod,) = [pod for pod in kubeflow.pods_of(made.run_id) if pod.task == "use"]
    assert "good morning of the Secret" in pod.log.text
    assert "number 42" in pod.log.text
    assert len(kubeflow.pods_of(made.run_id, executors=False)) == 5
    (key,) = s3_bucket.keys()
    assert re.fullmatch(rf"roots/two-steps/{made.run_id}/make/[0-9a-f-]{{36}}/made", key)
    (listed,) = sdk.list_runs(experiment_id=sdk.get_experiment(experiment_name="kwdbml").experiment_id).runs
    assert listed.display_name == "first"


def test_a_run_of_ours_is_found_and_understood(kubeflow: "Stub", sdk: Any, kubeflow_settings: KubeflowSettings) -> None:
    """By somebody who knows KFP and not us: its experiment, its words, its pods."""
    kubeflow.simulate()
    job = "6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f"
    run = Run(f"kwdbml-0123456789ab-{job}-2", about=About(JobType.TRAIN, "ann", "late_rides"))
    made = KfpApi(kubeflow_settings).create(pipeline.fill(run, kubeflow_settings, "s3://bucket/root"))
    experiment = sdk.get_experiment(experiment_name="kwdbml")
    (listed,) = sdk.list_runs(experiment_id=experiment.experiment_id).runs
    assert listed.run_id == made.run_id
    assert listed.display_name == run.name
    assert listed.description == (
        f"kwdbml: TRAIN of late_rides for ann; job {job}, attempt 2, installation 0123456789ab"
    )
    by_job = {"predicates": [{"key": "display_name", "operation": "IS_SUBSTRING", "string_value": job}]}
    assert [one.run_id for one in sdk.list_runs(filter=json.dumps(by_job)).runs] == [made.run_id]
    found = sdk.get_run(made.run_id)
    assert found.runtime_config.parameters["model"] == "late_rides"
    assert found.pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"] == "kwdbml-train"
    (pod,) = core_api(kubeflow).list_namespaced_pod("kubeflow", label_selector=f"kwdbml.io/job={job}").items
    told = {name: pod.metadata.annotations[f"kwdbml.io/{name}"] for name in ("creator", "model", "type", "run")}
    assert told == {"creator": "ann", "model": "late_rides", "type": "TRAIN", "run": run.name}


def test_a_run_is_terminated_by_the_sdk(kubeflow: "Stub", sdk: Any, tmp_path: Path) -> None:
    made = sdk.create_run_from_pipeline_package(compiled(tmp_path / "pipeline.yaml"))  # its Secret is missing
    sdk.terminate_run(made.run_id)
    assert sdk.wait_for_run_completion(made.run_id, timeout=30, sleep_duration=0.05).state == "FAILED"
    sdk.archive_run(made.run_id)
    assert sdk.get_run(made.run_id).storage_state == "ARCHIVED"
    sdk.delete_run(made.run_id)
    assert sdk.list_runs().runs is None


def test_what_is_cached_is_not_run_again(kubeflow: "Stub", sdk: Any, s3_bucket: S3Server, tmp_path: Path) -> None:
    kubeflow.put_secret("word", {"word": "cached"})
    package = compiled(tmp_path / "pipeline.yaml", cached=True)
    pods = []
    for _ in range(2):
        made = sdk.create_run_from_pipeline_package(package, pipeline_root=f"s3://{s3_bucket.bucket}/roots")
        assert sdk.wait_for_run_completion(made.run_id, timeout=30, sleep_duration=0.05).state == "SUCCEEDED"
        pods.append(len(kubeflow.pods_of(made.run_id)))
    assert pods == [2, 0]


def test_uploaded_pipelines_run_by_reference(kubeflow: "Stub", sdk: Any, s3_bucket: S3Server, tmp_path: Path) -> None:
    kubeflow.put_secret("word", {"word": "by reference"})
    two = sdk.upload_pipeline(compiled(tmp_path / "pipeline.yaml"), pipeline_name="two")
    (version,) = sdk.list_pipeline_versions(two.pipeline_id).pipeline_versions
    assert sdk.get_pipeline_id("two") == two.pipeline_id
    run = sdk.run_pipeline(
        sdk.create_experiment("kwdbml").experiment_id,
        "by reference",
        pipeline_id=two.pipeline_id,
        version_id=version.pipeline_version_id,
        pipeline_root=f"s3://{s3_bucket.bucket}/roots",
    )
    assert sdk.wait_for_run_completion(run.run_id, timeout=30, sleep_duration=0.05).state == "SUCCEEDED"
