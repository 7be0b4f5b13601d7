"""A task's pod, from its container (IR) and its Kubernetes part (platform spec), and whether a node would take it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.engines.kubeflow.stub.ir import Unsupported
from tests.engines.kubeflow.stub.placeholders import DriverError, Execution

if TYPE_CHECKING:
    from tests.engines.kubeflow.stub.world import Node

Json = dict[str, Any]

_KNOWN = {
    "secretAsVolume", "secretAsEnv", "pvcMount", "nodeSelector", "podMetadata", "imagePullSecret", "imagePullPolicy",
    "activeDeadlineSeconds", "fieldPathAsEnv", "tolerations", "emptyDirMounts", "securityContext",
}  # fmt: skip
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ARGUMENT = 128 << 10  # Linux' MAX_ARG_STRLEN
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(slots=True)
class Volume:
    kind: str  # secret, claim, empty
    name: str
    path: str
    sub_path: str = ""
    optional: bool = False


@dataclass(slots=True)
class Plan:
    """What the driver decided for a task's pod."""

    image: str
    argv: list[str]
    env: dict[str, str]
    resources: Json
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    volumes: list[Volume] = field(default_factory=list)
    secret_env: list[tuple[str, str, str, bool]] = field(default_factory=list)  # variable, secret, key, optional
    fields: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[Json] = field(default_factory=list)
    pull_policy: str = ""
    deadline: int | None = None
    user: int | None = None

    @property
    def memory(self) -> int | None:
        limit = self.resources.get("limits", {}).get("memory")
        return None if limit is None else int(quantity(limit))


def quantity(text: str) -> float:
    """Kubernetes' numbers: 500m, 2Gi, 1e3."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in _UNITS:
        raise DriverError(f"quantities must match the regular expression: {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def plan(execution: Execution, run_parameters: Json) -> Plan:
    """DriverError when it cannot be made, as the driver's pod would fail."""
    container, platform = execution.task.container, execution.task.platform
    if beyond := set(platform) - _KNOWN:
        raise Unsupported(f"platform spec: {sorted(beyond)} is beyond this stub")
    env = {one["name"]: execution.fill([one.get("value", "")])[0] for one in container.get("env", [])}
    argv = execution.fill([*container.get("command", []), *container.get("args", [])])
    made = Plan(execution.fill([container["image"]])[0], argv, env, _resources(container.get("resources", {})))
    made.pull_policy = platform.get("imagePullPolicy", "")
    made.labels = dict(platform.get("podMetadata", {}).get("labels", {}))
    made.annotations = dict(platform.get("podMetadata", {}).get("annotations", {}))
    _check_metadata(made)
    made.volumes = _volumes(platform, execution, run_parameters)
    for one in platform.get("secretAsEnv", []):
        name = _named(one, "secretName", "secretNameParameter", execution, run_parameters)
        for entry in one.get("keyToEnv", []):
            made.secret_env.append((entry["envVar"], name, entry["secretKey"], one.get("optional", False)))
    made.fields = {one["name"]: one["fieldPath"] for one in platform.get("fieldPathAsEnv", [])}
    selector = platform.get("nodeSelector", {})
    made.node_selector = dict(selector.get("labels", {}))
    if "nodeSelectorJson" in selector:
        made.node_selector = _taken_apart(resolve(selector["nodeSelectorJson"], execution, run_parameters))
    made.tolerations = _tolerations(platform, execution, run_parameters)
    made.deadline = int(platform["activeDeadlineSeconds"]) if "activeDeadlineSeconds" in platform else None
    user = platform.get("securityContext", {}).get("runAsUser")
    made.user = None if user is None else int(user)
    return made


def _check_metadata(made: Plan) -> None:
    """Kubernetes makes no pod of other labels, and Argo gets no command line of its driver's that is so long."""
    for name, value in [*made.labels.items(), *((name, "") for name in made.annotations)]:
        prefix, slash, short = name.rpartition("/")
        if not _LABEL.fullmatch(value) or not _LABEL.fullmatch(short) or not short or (slash and not prefix):
            raise DriverError(f'Pod is invalid: metadata.labels: Invalid value: "{name}: {value}"')
    if len(json.dumps(made.labels | made.annotations)) > _ARGUMENT:
        raise DriverError("argument list too long")


def resolve(source: Json, execution: Execution, run_parameters: Json) -> Any:
    """The value that an InputParameterSpec means."""
    if "runtimeValue" in source:
        value = source["runtimeValue"].get("constant")
    elif "componentInputParameter" in source:
        name = source["componentInputParameter"]
        values = execution.parameters | run_parameters
        if name not in values:
            raise DriverError(f"parent DAG does not have input parameter {name}")
        value = values[name]
    else:
        raise Unsupported(f"parameter source {sorted(source)} is beyond this stub")
    return value


def _taken_apart(value: Any) -> Any:
    """Of a parameter that is JSON, as a structure or as a text."""
    return json.loads(value) if isinstance(value, str) else value


def _named(one: Json, plain: str, parameter: str, execution: Execution, run_parameters: Json) -> str:
    if parameter in one:
        return str(resolve(one[parameter], execution, run_parameters))
    return str(one.get(plain, ""))


def _volumes(platform: Json, execution: Execution, run_parameters: Json) -> list[Volume]:
    found = []
    for one in platform.get("secretAsVolume", []):
        name = _named(one, "secretName", "secretNameParameter", execution, run_parameters)
        found.append(Volume("secret", name, one["mountPath"], optional=one.get("optional", False)))
    for one in platform.get("pvcMount", []):
        name = _named(one, "constant", "pvcNameParameter", execution, run_parameters)
        found.append(Volume("claim", name, one["mountPath"], one.get("subPath", "")))
    found += [Volume("empty", one["volumeName"], one["mountPath"]) for one in platform.get("emptyDirMounts", [])]
    return found


def _tolerations(platform: Json, execution: Execution, run_parameters: Json) -> list[Json]:
    found: list[Json] = []
    for one in platform.get("tolerations", []):
        given = one
        if "tolerationJson" in one:
            given = _taken_apart(resolve(one["tolerationJson"], execution, run_parameters))
        found += given if isinstance(given, list) else [given]
    for one in found:
        if "tolerationSeconds" in one:
            one["tolerationSeconds"] = int(one["tolerationSeconds"])
    return found


def _resources(given: Json) -> Json:
    """Kubernetes' requests and limits; the older numbers of the IR are cores and 10^9 bytes."""
    found: Json = {}
    for kind, words in (("limits", "Limit"), ("requests", "Request")):
        part: dict[str, str] = {}
        for name in ("cpu", "memory"):
            unit = "G" if name == "memory" else ""
            if text := given.get(f"resource{name.capitalize()}{words}"):
                part[name] = text
            elif number := given.get(f"{name}{words}"):
                part[name] = f"{number:g}{unit}"
        if part:
            found[kind] = part
    accelerator = given.get("accelerator", {})
    kind, count = (
        accelerator.get("resourceType") or accelerator.get("type"),
        accelerator.get("resourceCount") or (accelerator.get("count")),
    )
    if kind and count:
        found.setdefault("limits", {})[kind] = str(count)
    for value in (one for part in found.values() for one in part.values()):
        quantity(value)
    return found


def pod_spec(made: Plan, execution: Execution, service_account: str) -> Json:
    """V1PodSpec: main with the launcher before the command, and Argo's sidecar."""
    launcher = ["/kfp-launcher/launch", "--executor_input", json.dumps(execution.document()), "--"]
    environment: list[Json] = [{"name": name, "value": value} for name, value in made.env.items()]
    environment += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": optional}}}
        for variable, secret, key, optional in made.secret_env
    ]
    environment += [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in made.fields.items()
    ]
    main: Json = {
        "name": "main",
        "image": made.image,
        "imagePullPolicy": made.pull_policy or ("Always" if made.image.endswith(":latest") else "IfNotPresent"),
        "command": launcher,
        "args": made.argv,
        "env": environment,
        "resources": made.resources,
        "volumeMounts": [
            {"name": f"volume-{number}", "mountPath": one.path} | ({"subPath": one.sub_path} if one.sub_path else {})
            for number, one in enumerate(made.volumes)
        ],
    }
    spec: Json = {
        "containers": [main, {"name": "wait", "image": "quay.io/argoproj/argoexec", "command": ["argoexec", "wait"]}],
        "volumes": [_volume(number, one) for number, one in enumerate(made.volumes)],
        "restartPolicy": "Never",
        "serviceAccountName": service_account,
        "nodeSelector": made.node_selector,
        "tolerations": made.tolerations,
    }
    return spec | ({"activeDeadlineSeconds": made.deadline} if made.deadline else {})


def _volume(number: int, one: Volume) -> Json:
    sources: Json = {
        "secret": {"secret": {"secretName": one.name, "optional": one.optional}},
        "claim": {"persistentVolumeClaim": {"claimName": one.name}},
        "empty": {"emptyDir": {}},
    }
    return {"name": f"volume-{number}", **sources[one.kind]}


def refusal(made: Plan, nodes: Sequence[Node]) -> str:
    """Why no node takes the pod, in the scheduler's words; "" when one does."""
    reasons: dict[str, int] = {}
    for node in nodes:
        reason = _why_not(made, node)
        if not reason:
            return ""
        reasons[reason] = reasons.get(reason, 0) + 1
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"0/{len(nodes)} nodes are available: {listed}. preemption: 0/{len(nodes)} nodes are available."


def _why_not(made: Plan, node: Node) -> str:
    if any(node.labels.get(key) != value for key, value in made.node_selector.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in node.taints:
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(one, taint) for one in made.tolerations):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    wanted = made.resources.get("limits", {}) | made.resources.get("requests", {})
    for name, value in wanted.items():
        if quantity(value) > quantity(node.offers.get(name, "0")):
            return f"Insufficient {name}"
    return ""


def _tolerates(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"]) and toleration.get("value", "") == taint.get("value", "")
