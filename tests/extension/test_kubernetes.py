"""deploy/kubernetes: manifests that Kubernetes takes, that belong together, and that say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import kwdbml
from kwdbml import configuration
from kwdbml.engines.kfp.calls import CLOSE_WITHIN
from kwdbml.engines.kfp.cluster import RIGHTS
from kwdbml.readiness import ALIVE_FILE
from kwdbml.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy" / "kubernetes"
Json = dict[str, Any]

KUSTOMIZATION: Json = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
DOCUMENTS: list[Json] = [
    one for name in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((BASE / name).read_text(encoding="utf-8"))
]


def the(kind: str) -> Json:
    [found] = [one for one in DOCUMENTS if one["kind"] == kind]
    return found


POD: Json = the("Deployment")["spec"]["template"]
[WORKER] = POD["spec"]["containers"]


@pytest.mark.parametrize("version", ["1.29", "1.36"])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one["kind"])
def test_kubernetes_takes_it(document: Json, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_refuse_a_slip() -> None:
    wrong = {**the("Role"), "rulez": []}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.36", strict=True)


# -- what belongs together -------------------------------------------------------------------------------------------


def test_every_file_is_used() -> None:
    generated = [name for one in KUSTOMIZATION["configMapGenerator"] for name in one["files"]]
    assert {*KUSTOMIZATION["resources"], *generated, "kustomization.yaml"} == {path.name for path in BASE.iterdir()}


def test_names_and_labels_agree() -> None:
    account, binding, deployment = the("ServiceAccount"), the("RoleBinding"), the("Deployment")
    assert POD["spec"]["serviceAccountName"] == account["metadata"]["name"]
    [subject] = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["metadata"]["name"], account["metadata"]["namespace"])
    assert binding["roleRef"]["name"] == the("Role")["metadata"]["name"]
    assert binding["metadata"]["namespace"] == the("Role")["metadata"]["namespace"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= POD["metadata"]["labels"].items()
    assert deployment["metadata"]["namespace"] == the("Namespace")["metadata"]["name"]


def test_volumes_and_the_config_map_that_is_generated() -> None:
    volumes = {one["name"]: one for one in POD["spec"]["volumes"]}
    assert {one["name"] for one in WORKER["volumeMounts"]} == set(volumes)
    [generated] = KUSTOMIZATION["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == generated["name"]
    assert generated["namespace"] == the("Deployment")["metadata"]["namespace"]
    mounts = {one["mountPath"] for one in WORKER["volumeMounts"]}
    assert environment()["KWDBML_CONFIG"] in {f"{mount}/{name}" for mount in mounts for name in generated["files"]}


def environment() -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in WORKER["env"]}


def test_the_overlay_of_the_guide_fits() -> None:
    """What docs/kubeflow.md has a reader write: it changes what is there, in both places of the rights."""
    text = (ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    [overlay] = [yaml.safe_load(one) for one in blocks if "kind: Kustomization" in one]
    assert overlay.keys() <= {"apiVersion", "kind", "resources", "configMapGenerator", "images", "patches"}
    assert overlay["resources"][0].endswith("deploy/kubernetes")
    [image] = overlay["images"]
    assert f"{image['name']}:{image['newTag']}" == WORKER["image"]
    [generated], [changed] = KUSTOMIZATION["configMapGenerator"], overlay["configMapGenerator"]
    assert changed == {**generated, "behavior": "replace"}
    [patch] = overlay["patches"]
    [operation] = yaml.safe_load(patch["patch"])
    assert (operation["op"], operation["path"]) == ("replace", "/metadata/namespace")
    patched = [one for one in DOCUMENTS if one["apiVersion"].partition("/")[0] == patch["target"]["group"]]
    assert {one["kind"] for one in patched} == {"Role", "RoleBinding"}
    assert all("namespace" in one["metadata"] for one in patched)


def test_the_base_is_made_of_what_kustomize_knows() -> None:
    assert KUSTOMIZATION.keys() == {"apiVersion", "kind", "resources", "configMapGenerator"}
    assert (KUSTOMIZATION["apiVersion"], KUSTOMIZATION["kind"]) == ("kustomize.config.k8s.io/v1beta1", "Kustomization")


# -- rights ----------------------------------------------------------------------------------------------------------


def test_the_role_is_exactly_what_the_worker_calls() -> None:
    """``RIGHTS`` is what is called: tests/engines/kubeflow/test_rights.py."""
    granted = [
        (verb, resource) for rule in the("Role")["rules"] for verb in rule["verbs"] for resource in rule["resources"]
    ]
    assert sorted(granted) == sorted(RIGHTS)
    assert all(rule["apiGroups"] == [""] for rule in the("Role")["rules"])
    assert not [one for one in DOCUMENTS if one["kind"].startswith("Cluster")]


def test_the_worker_may_little_on_its_node() -> None:
    """What the namespace's Pod Security Standard, restricted, asks for; and a file system that is not written."""
    pod, container = POD["spec"]["securityContext"], WORKER["securityContext"]
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert (container["allowPrivilegeEscalation"], container["readOnlyRootFilesystem"]) == (False, True)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & POD["spec"].keys()
    assert not any("hostPath" in one for one in POD["spec"]["volumes"])


def test_the_user_is_that_of_the_image() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    number = str(POD["spec"]["securityContext"]["runAsUser"])
    assert re.search(rf"--uid {number} ", text)
    assert re.search(rf"^USER {number}$", text.partition("AS worker")[2], re.MULTILINE)


# -- secrets and settings --------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_base() -> None:
    assert not [one for one in DOCUMENTS if one["kind"] == "Secret"]
    assert "secretGenerator" not in KUSTOMIZATION
    assert {one["secretRef"]["name"] for one in WORKER["envFrom"]} == {"kwdbml-worker"}
    text = (ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    made = text.partition("kubectl create secret generic kwdbml-worker -n kwdbml")[2].partition("kubectl apply")[0]
    assert set(re.findall(r"--from-file=(\w+)=", made)) == set(SECRET)


#: What is in the Secret.
SECRET = {"KWDBML_DSN": "host=db", "KWDBML_S3_ACCESS_KEY": "key", "KWDBML_S3_SECRET_KEY": "hush"}


def test_the_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRET.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "token").write_text("t", encoding="utf-8")
    given = {"kubeflow": {"token_file": tmp_path / "token"}}  # in the pod it is mounted
    found = configuration.load(given, BASE / "kwdbml.toml")
    assert isinstance(found, WorkerSettings)
    assert found.engine_names == ("kubeflow",)
    assert found.kubeflow is not None
    assert found.kubeflow.namespace == the("Role")["metadata"]["namespace"]
    assert found.kubeflow.cluster_access == "in-cluster"
    assert not found.install_requirements


def test_the_token_is_where_the_settings_look() -> None:
    text = (BASE / "kwdbml.toml").read_text(encoding="utf-8")
    [mount] = [one["mountPath"] for one in WORKER["volumeMounts"] if one["name"] == "token"]
    [volume] = [one for one in POD["spec"]["volumes"] if one["name"] == "token"]
    [source] = volume["projected"]["sources"]
    assert f'token_file = "{mount}/{source["serviceAccountToken"]["path"]}"' in text


def test_images_are_of_this_version() -> None:
    text = (BASE / "kwdbml.toml").read_text(encoding="utf-8")
    assert WORKER["image"] == f"kwdbml/worker:{kwdbml.__version__}"
    assert f'image = "kwdbml/runtime:{kwdbml.__version__}"' in text


# -- life ------------------------------------------------------------------------------------------------------------


def test_probes_look_at_the_file_that_the_worker_touches() -> None:
    path = environment()[ALIVE_FILE]
    assert any(path.startswith(f"{one['mountPath']}/") for one in WORKER["volumeMounts"])
    for probe in ("startupProbe", "livenessProbe"):
        assert path in " ".join(WORKER[probe]["exec"]["command"])
    assert "readinessProbe" not in WORKER  # nobody is sent to it


def test_it_drains_before_it_is_killed() -> None:
    [waits] = re.findall(r"kill -TERM 1; sleep (\d+)", WORKER["lifecycle"]["preStop"]["exec"]["command"][2])
    calls = 2 * CLOSE_WITHIN  # those that jobs wait for, then all others
    assert int(waits) + calls + 15 <= POD["spec"]["terminationGracePeriodSeconds"]
