"""A run filled into the compiled pipeline, compared with what the kfp SDK makes of the same wishes."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st
from kfp import compiler, dsl, kubernetes
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from kwdbml.engines.base import About, Mount, Placement, Resources, Run
from kwdbml.engines.kfp import names, pipeline
from kwdbml.engines.kfp.settings import KubeflowSettings, S3Settings
from kwdbml.errors import EngineError
from kwdbml.model import JobType

SETTINGS = KubeflowSettings(
    host="http://kfp:8888",
    image="kwdbml/runtime:1",
    service_account="pipeline-runner",
    s3=S3Settings(endpoint="http://s3:9000", bucket="mlpipeline", access_key="key", secret_key="hush"),  # type: ignore[arg-type]
)
NAME = "kwdbml-0123456789ab-6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f-2"
ROOT = f"s3://mlpipeline/kwdbml/{NAME}/pipeline"
FULL = Run(
    NAME,
    Resources(cpu=1.5, memory=3 << 30, scalar={"nvidia.com/gpu": "2", "amd.com/gpu": "0"}),
    ttl=99.5,
    env={"PASSWORD": "hush-env"},
    placement=Placement(
        image="registry.example.org/kwdbml/gpu:2",
        pull_policy="Always",
        node_selector={"disktype": "ssd", "example.org/pool": "ml"},
        tolerations=(
            {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
            {"key": "slow", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30.0},
        ),
        mounts=(Mount("shared", "/data"), Mount("shared", "/more", sub_path="a/b")),
    ),
    about=About(
        JobType.TRAIN,
        creator="Ann of {{workflow}}",
        model="flüge",
        labels={"team": "delays", "note": "two words", "vault.example.com/inject": "true"},
        annotations={"why": "a long story, with commas"},
    ),
)


def filled(run: Run = FULL, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(container, platform configuration) of the only step."""
    spec = pipeline.fill(dataclasses.replace(run, **changes), SETTINGS, ROOT).spec
    [executor] = spec["pipeline_spec"]["deploymentSpec"]["executors"].values()
    [config] = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    return executor["container"], config


def of_the_sdk() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same step written with the kfp SDK."""

    def step():  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="registry.example.org/kwdbml/gpu:2", command=["true"])

    component = dsl.container_component(step)

    def same():  # type: ignore[no-untyped-def]
        task = component()
        task.set_cpu_request("1500m").set_cpu_limit("1500m")
        task.set_memory_request(str(3 << 30)).set_memory_limit(str(3 << 30))
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        kubernetes.use_secret_as_volume(task, secret_name=names.secret_name(NAME), mount_path="/var/run/kwdbml")
        kubernetes.set_image_pull_policy(task, "Always")
        kubernetes.add_node_selector(task, "disktype", "ssd")
        kubernetes.add_node_selector(task, "example.org/pool", "ml")
        kubernetes.add_toleration(task, "gpu", "Equal", "yes", "NoSchedule")
        kubernetes.add_toleration(task, "slow", "Exists", effect="NoExecute", toleration_seconds=30)
        kubernetes.mount_pvc(task, "shared", "/data")
        kubernetes.mount_pvc(task, "shared", "/more", sub_path="a/b")
        kubernetes.set_timeout(task, 160)
        for key, value in filled()[1]["podMetadata"]["labels"].items():
            kubernetes.add_pod_label(task, key, value)
        for key, value in filled()[1]["podMetadata"]["annotations"].items():
            kubernetes.add_pod_annotation(task, key, value)

    with tempfile.TemporaryDirectory() as directory:
        compiler.Compiler().compile(dsl.pipeline(name="same")(same), f"{directory}/same.yaml")
        spec, platform = yaml.safe_load_all(Path(directory, "same.yaml").read_text(encoding="utf-8"))
    [executor] = spec["deploymentSpec"]["executors"].values()
    [config] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    return executor["container"], config


def test_it_is_what_the_sdk_would_write() -> None:
    theirs, their_config = of_the_sdk()
    ours, our_config = filled()
    assert our_config == their_config
    assert ours["image"] == theirs["image"]
    # Beside the fields that take texts the SDK still writes those of KFP before 2.4, which are numbers.
    old = {"cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit"}
    wanted = {name: value for name, value in theirs["resources"].items() if name not in old}
    wanted["accelerator"] = {n: v for n, v in wanted["accelerator"].items() if n.startswith("resource")}
    assert ours["resources"] == wanted


def test_the_protobufs_of_kfp_read_it() -> None:
    spec = pipeline.fill(FULL, SETTINGS, ROOT).spec
    json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
    json_format.ParseDict(filled()[1], kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_a_run_can_be_found_and_understood() -> None:
    found = pipeline.fill(FULL, SETTINGS, ROOT)
    assert found.display_name == NAME
    assert found.pipeline_root == f"minio://mlpipeline/kwdbml/{NAME}/pipeline"
    assert found.service_account == "pipeline-runner"
    assert found.parameters == {
        "run": NAME, "job": "6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f", "attempt": 2, "installation": "0123456789ab",
        "type": "TRAIN", "model": "fl\\u00fcge", "creator": "Ann of { {workflow} }", "ttl": 99.5,
    }  # fmt: skip
    assert set(found.parameters) == set(found.spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"])
    assert found.description == (
        "kwdbml: TRAIN of fl\\u00fcge for Ann of { {workflow} };"
        " job 6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f, attempt 2, installation 0123456789ab"
    )
    metadata = filled()[1]["podMetadata"]
    assert metadata["labels"] == {
        "kwdbml.io/installation": "0123456789ab", "kwdbml.io/job": "6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f",
        "kwdbml.io/attempt": "2", "labels.kwdbml.io/team": "delays",
    }  # fmt: skip
    assert metadata["annotations"] == {
        "kwdbml.io/run": NAME, "kwdbml.io/type": "TRAIN", "kwdbml.io/creator": "Ann of { {workflow} }",
        "kwdbml.io/model": "fl\\u00fcge", "note": "two words", "why": "a long story, with commas",
        "kwdbml.io/labels": json.dumps({"vault.example.com/inject": "true"}),
    }  # fmt: skip


def test_no_secret_is_in_it() -> None:
    found = pipeline.fill(FULL, SETTINGS, ROOT)
    assert "hush" not in json.dumps(dataclasses.asdict(found))


@pytest.mark.parametrize("type_", [*JobType, None])
def test_every_type_of_job_has_its_pipeline(type_: JobType | None) -> None:
    found = pipeline.fill(Run(NAME, about=About(type_)), SETTINGS, ROOT)
    expected = {None: "train", JobType.TRAIN: "train", JobType.EVALUATE: "evaluate"}.get(type_, "batch-predict")
    assert found.spec["pipeline_spec"]["pipelineInfo"]["name"] == f"kwdbml-{expected}"


def test_a_plain_run_asks_for_nothing_special() -> None:
    container, config = filled(Run("kwdbml-test-1"))
    assert container["image"] == "kwdbml/runtime:1"
    assert "resources" not in container
    assert set(config) == {"secretAsVolume", "podMetadata", "imagePullPolicy"}
    assert config["imagePullPolicy"] == "IfNotPresent"
    assert "resources" not in filled(Run("kwdbml-test-1"))[0], "filling one run leaves the next one's pipeline alone"


@pytest.mark.parametrize(
    ("ttl", "deadline"), [(99.5, "160"), (2**31 - 61, "2147483647"), (2**31 - 60.5, None), (3e9, None), (1e12, None)]
)
def test_a_limit_beyond_what_kubernetes_takes_is_the_engines_alone(ttl: float, deadline: str | None) -> None:
    _, config = filled(Run("kwdbml-test-1", ttl=ttl))
    assert config.get("activeDeadlineSeconds") == deadline


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("two scalars", {"resources": Resources(scalar={"a.io/x": "1", "b.io/y": "2"})}, "not a.io/x, b.io/y"),
    ("no quantity", {"resources": Resources(scalar={"nvidia.com/gpu": "many"})}, '"nvidia.com/gpu": "many"'),
    ("no resource", {"resources": Resources(scalar={"{{x}}": "1"})}, '"{{x}}": "1"'),
    ("image", {"placement": Placement(image="Not An Image")}, '"Not An Image"'),
    ("placeholder", {"placement": Placement(image="a{{$.inputs}}")}, "is no name of an image"),
    ("pull policy", {"placement": Placement(pull_policy="Sometimes")}, '"Sometimes" is no pull policy'),
    ("read-only", {"placement": Placement(mounts=(Mount("c", "/c", read_only=True),))}, 'mount "c" read-only'),
    ("claim", {"placement": Placement(mounts=(Mount("my.claim", "/c"),))}, '"my.claim" is no name'),
    ("relative", {"placement": Placement(mounts=(Mount("c", "data"),))}, '"data" is no place'),
    ("root", {"placement": Placement(mounts=(Mount("c", "/"),))}, '"/" is no place'),
    ("over ours", {"placement": Placement(mounts=(Mount("c", "/var/run/kwdbml/"),))}, "is no place"),
    ("climbing", {"placement": Placement(mounts=(Mount("c", "/a/../b"),))}, "is no place"),
    ("sub path", {"placement": Placement(mounts=(Mount("c", "/c", sub_path="../x"),))}, '"../x" is no path'),
    ("argo", {"placement": Placement(mounts=(Mount("c", "/{{workflow.uid}}"),))}, "holds {{"),
    ("node", {"placement": Placement(node_selector={"disk type": "ssd"})}, '"disk type": "ssd"'),
    ("toleration", {"placement": Placement(tolerations=({"tolerationSecs": 3},))}, '"tolerationSecs": 3'),
    ("seconds", {"placement": Placement(tolerations=({"tolerationSeconds": "3"},))}, '"tolerationSeconds": "3"'),
    ("operator", {"placement": Placement(tolerations=({"key": "a", "operator": "Maybe"},))}, '"operator": "Maybe"'),
    ("effect", {"placement": Placement(tolerations=({"key": "a", "effect": "Never"},))}, '"effect": "Never"'),
    ("key", {"placement": Placement(tolerations=({"key": "a b"},))}, '"key": "a b"'),
    ("value", {"placement": Placement(tolerations=({"key": "a", "value": "ü"},))}, '"value": "'),
    ("no key", {"placement": Placement(tolerations=({"effect": "NoSchedule"},))}, "it has no key"),
    ("exists", {"placement": Placement(tolerations=({"operator": "Exists", "value": "x"},))}, "has no value"),
    ("a half second", {"placement": Placement(tolerations=({"tolerationSeconds": 1.5},))}, '"tolerationSeconds": 1.5'),
    ("no seconds", {"placement": Placement(tolerations=({"key": "a", "tolerationSeconds": 3},))}, "another effect"),
    ("long", {"about": About(annotations={"story": "x" * 200_000})}, "longer than Kubeflow takes"),
    ("many", {"about": About(labels={f"a{n}": "x" * 63 for n in range(900)})}, "longer than Kubeflow takes"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_kfp_cannot_express_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError) as caught:
        filled(**changes)
    assert message in caught.value.message
    assert caught.value.hint
    assert not caught.value.retryable


NAME_OF_A_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VALUE_OF_A_LABEL = re.compile(rf"({NAME_OF_A_LABEL.pattern})?")
PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_key(text: str) -> bool:
    """Whether Kubernetes takes it as the name of a label or an annotation."""
    prefix, slash, name = text.rpartition("/")
    return bool(NAME_OF_A_LABEL.fullmatch(name)) and (not slash or bool(PREFIX.fullmatch(prefix)))


words = st.text(max_size=80)
some = st.dictionaries(words, words, max_size=3)


@given(words, words, some, some)
@example("{{{", "}}}", {"app": "mysql"}, {"a" * 64: "{{"})
@example("モデル🚀", 'a"b\\c\n\x1b\x7f\0', {"": "", "x": "-"}, {"": "{{{{"})
def test_any_name_is_taken(model: str, creator: str, labels: dict[str, str], annotations: dict[str, str]) -> None:
    """By Kubernetes, by KFP's database, and by Argo, which replaces what stands in two braces."""
    about = About(JobType.BATCH_PREDICT, creator, model, labels, annotations)
    found = pipeline.fill(dataclasses.replace(FULL, about=about), SETTINGS, ROOT)
    metadata = filled(about=about)[1]["podMetadata"]
    assert all(is_key(name) for kind in ("labels", "annotations") for name in metadata[kind])
    assert all(VALUE_OF_A_LABEL.fullmatch(text) for text in metadata["labels"].values())
    told = [found.description, *metadata["annotations"].values(), *map(str, found.parameters.values())]
    assert all(re.fullmatch("[ -~]*", text) and "{{" not in text for text in told)
    assert len(found.description) <= 255
    assert "6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f, attempt 2, installation 0123456789ab" in found.description


def test_no_label_of_a_user_is_one_that_the_cluster_acts_on() -> None:
    """A Service would send to the pod what is meant for another."""
    about = About(labels={"app": "mysql", "pipeline/runid": "1", names.JOB: "other", "labels.kwdbml.io/x": "y"})
    labels = filled(about=about)[1]["podMetadata"]["labels"]
    assert labels == {**names.labels_of(NAME), "labels.kwdbml.io/app": "mysql"}


def test_names_of_a_run() -> None:
    assert names.identity(NAME) == names.Identity("0123456789ab", "6f1c4c2e-62a5-4dcf-9d3c-3a9a1f1f1f1f", 2)
    assert names.identity("kwdbml-test-1") == names.Identity("test", "", 1)
    assert names.labels_of("other")["kwdbml.io/job"] == "other"
    assert names.installation_of(NAME) == "0123456789ab"
    assert len(names.secret_name(NAME)) <= 63
    assert names.secret_name(NAME) != names.secret_name("kwdbml-test-1")
    assert names.is_label("a-b_c.d")
    assert not names.is_label("-a")
    assert not names.is_label("a" * 64)
    assert names.is_label(names.label("no label, this"))
