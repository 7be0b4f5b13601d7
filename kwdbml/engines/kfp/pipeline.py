"""One run as Kubeflow Pipelines takes it: a compiled pipeline (``authoring.py``) with this run's particulars filled in.

What KFP cannot express is refused here, by name and with the cure, before anything is uploaded. What people named is
told in printable ASCII without ``{{`` (``_plain``): it passes through Argo's templates and KFP's database.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from kwdbml.engines.base import About, Mount, Resources, Run
from kwdbml.engines.kfp import names
from kwdbml.engines.kfp.settings import IMAGE, KubeflowSettings
from kwdbml.errors import EngineError
from kwdbml.model import JobType

ACCESS_DIRECTORY = "/var/run/kwdbml"
ACCESS_FILE = "access.json"
PIPELINES = ("train", "evaluate", "batch-predict")

Json = dict[str, Any]

_OF_TYPE = {JobType.TRAIN: "train", JobType.EVALUATE: "evaluate", JobType.BATCH_PREDICT: "batch-predict"}
_GRACE = 60  # seconds that a pod has, after the run's own time is up, to say so and upload its log
_DEADLINE_AT_MOST = 2**31 - 1  # Kubernetes refuses a pod with more
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_QUALIFIED = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_TOLERATION = {
    "key": re.compile(f"({_QUALIFIED.pattern})?"),
    "operator": re.compile("(Exists|Equal)?"),
    "value": names.LABEL,
    "effect": re.compile("(NoSchedule|PreferNoSchedule|NoExecute)?"),
}
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+([kMGTPE]i?|Ki)?")
#: As JSON. KFP gives the whole platform spec to its driver as one argument, and Linux takes 128 KiB in one.
_METADATA_AT_MOST = 64 << 10
_DESCRIPTION_AT_MOST = 255  # characters of KFP's column; longer ones are its error 500
_NAME_AT_MOST = 64  # of those, for a model's name and for a creator's


@dataclass(frozen=True, slots=True)
class Filled:
    """What a run is created with."""

    display_name: str
    description: str
    spec: Json  # {"pipeline_spec": …, "platform_spec": …}
    parameters: Json
    pipeline_root: str
    service_account: str | None


def fill(run: Run, settings: KubeflowSettings, pipeline_root: str) -> Filled:
    """The run, filled in. EngineError for what KFP or Kubernetes would not take."""
    # the store as KFP names it: minio:// is the one it was installed with, whose keys it has
    root = f"{settings.root_scheme}://{pipeline_root.partition('://')[2]}"
    kind = _OF_TYPE[run.about.type] if run.about.type else "train"
    spec = copy.deepcopy(_compiled(kind))
    [label] = spec["pipeline_spec"]["deploymentSpec"]["executors"]
    container = spec["pipeline_spec"]["deploymentSpec"]["executors"][label]["container"]
    container["image"] = _image(run.placement.image or settings.image)
    if resources := _resources(run.resources):
        container["resources"] = resources
    platform = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    platform[label] = _platform(run, settings, names.secret_name(run.name))
    return Filled(run.name, _description(run), spec, _parameters(run), root, settings.service_account)


@functools.cache
def _compiled(kind: str) -> Json:
    """The two documents that ``authoring.py`` wrote, in the form in which the API takes them inline."""
    text = importlib.resources.files("kwdbml.engines.kfp").joinpath("pipelines", f"{kind}.yaml").read_text("utf-8")
    pipeline_spec, platform_spec = yaml.safe_load_all(text)
    return {"pipeline_spec": pipeline_spec, "platform_spec": platform_spec}


def _description(run: Run) -> str:
    who, about = names.identity(run.name), run.about
    what = about.type.value if about.type else "job"
    of = f" of {_shown(about.model)}" if about.model else ""
    by = f" for {_shown(about.creator)}" if about.creator else ""
    found = f"kwdbml: {what}{of}{by}; job {who.job}, attempt {who.attempt}, installation {who.installation}"
    return found[:_DESCRIPTION_AT_MOST]


def _shown(name: str) -> str:
    plain = _plain(name)
    return plain if len(plain) <= _NAME_AT_MOST else f"{plain[: _NAME_AT_MOST - 3]}..."


def _parameters(run: Run) -> Json:
    """For people: everyone who sees the run sees them."""
    who, about = names.identity(run.name), run.about
    return {
        "run": run.name, "job": who.job, "attempt": who.attempt, "installation": who.installation,
        "type": about.type.value if about.type else "", "model": _plain(about.model), "creator": _plain(about.creator),
        "ttl": run.ttl or 0.0,
    }  # fmt: skip


def _plain(text: str) -> str:
    """Printable ASCII, other letters as JSON writes them (``\\u00fc``), and no two braces side by side.

    KFP's database takes no letter beyond the 65,536th, and often none beyond ASCII (its 500 says "Incorrect string
    value"); Argo replaces what stands in ``{{…}}``, and writes control characters so that it cannot read them again.
    """
    ascii_ = "".join(letter if " " <= letter <= "~" else json.dumps(letter)[1:-1] for letter in text)
    return re.sub(r"([{}])(?=\1)", r"\1 ", ascii_)


def _image(image: str) -> str:
    if not IMAGE.fullmatch(image):
        raise EngineError(f'"{image}" is no name of an image', hint="Correct the image of the row of kwdbml.runtime.")
    return image


def _resources(resources: Resources) -> Json:
    """Requests and limits are the same: a run has what it was promised, and no more."""
    found: Json = {}
    if resources.cpu is not None:
        found["resourceCpuRequest"] = found["resourceCpuLimit"] = f"{max(1, round(resources.cpu * 1000))}m"
    if resources.memory is not None:
        found["resourceMemoryRequest"] = found["resourceMemoryLimit"] = str(resources.memory)
    scalar = {name: amount for name, amount in resources.scalar.items() if amount != "0"}
    if len(scalar) > 1:
        raise EngineError(
            f"Kubeflow Pipelines gives a step one kind of scalar resource, not {', '.join(sorted(scalar))}",
            hint="Keep one key of settings.flavour.scalarResources.",
        )
    for name, amount in scalar.items():
        if not _QUALIFIED.fullmatch(name) or not _QUANTITY.fullmatch(amount):
            raise EngineError(
                f'settings.flavour.scalarResources: "{name}": "{amount}" is no Kubernetes resource and amount',
                hint='For instance {"nvidia.com/gpu": "1"}.',
            )
        found["accelerator"] = {"resourceType": name, "resourceCount": amount}
    return found


def _platform(run: Run, settings: KubeflowSettings, secret: str) -> Json:
    """KubernetesExecutorConfig of kfp-kubernetes, in its JSON form."""
    placement = run.placement
    config: Json = {
        "secretAsVolume": [
            {
                "mountPath": ACCESS_DIRECTORY,
                "optional": False,
                "secretName": secret,
                "secretNameParameter": _constant(secret),
            }
        ],
        "podMetadata": _metadata(run),
        "imagePullPolicy": _pull_policy(placement.pull_policy or settings.image_pull_policy),
    }
    if placement.mounts:
        config["pvcMount"] = [_mount(mount) for mount in placement.mounts]
    if placement.node_selector:
        config["nodeSelector"] = {"labels": _node_selector(placement.node_selector)}
    if placement.tolerations:
        config["tolerations"] = [_toleration(toleration) for toleration in placement.tolerations]
    if run.ttl is not None and (deadline := math.ceil(run.ttl) + _GRACE) <= _DEADLINE_AT_MOST:
        config["activeDeadlineSeconds"] = str(deadline)
    if any("{{" in text for text in _texts(config)):
        raise EngineError("a setting of the run's pod holds {{", hint="Argo would replace it: leave the braces out.")
    return config


def _constant(value: str) -> Json:
    return {"runtimeValue": {"constant": value}}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _pull_policy(policy: str) -> str:
    if policy not in _PULL_POLICIES:
        raise EngineError(f'"{policy}" is no pull policy', hint=f"Known are {', '.join(_PULL_POLICIES)}.")
    return policy


def _metadata(run: Run) -> Json:
    """Labels have a narrow alphabet, so what people named is an annotation.

    Of what a user gave, names with a prefix (``vault.example.com/inject``) are what add-ons of a cluster act upon, and
    could give a pod what it must not have: they are told, in one annotation of ours, and nothing reacts to them. Other
    labels get a prefix of ours: a Service finds its pods by such as ``app``, and policies do.
    """
    about = run.about
    annotations = {
        names.RUN: run.name,
        "kwdbml.io/type": about.type.value if about.type else "",
        "kwdbml.io/creator": about.creator,
        "kwdbml.io/model": about.model,
    }
    labels, others = _own_labels(about)
    annotations |= others
    annotations = {name: _plain(text) for name, text in annotations.items() if text}
    found: Json = {"labels": {**labels, **names.labels_of(run.name)}, "annotations": annotations}
    if len(json.dumps(found)) > _METADATA_AT_MOST:
        raise EngineError("labels and annotations are longer than Kubeflow takes", hint="Give fewer or shorter ones.")
    return found


def _own_labels(about: About) -> tuple[dict[str, str], dict[str, str]]:
    """A user's labels and annotations, as (labels, annotations) of the pod."""
    labels, annotations, told = {}, {}, {}
    for name, text in {**about.annotations, **about.labels}.items():
        if not names.is_label(name) or not name:
            told[name] = text
        elif name in about.labels and names.is_label(text):
            labels[f"{names.OWN_LABELS}/{name}"] = text
        else:
            annotations[name] = text
    if told:
        annotations["kwdbml.io/labels"] = json.dumps(told, sort_keys=True)
    return labels, annotations


def _mount(mount: Mount) -> Json:
    if mount.read_only:
        raise EngineError(
            f'Kubeflow Pipelines cannot mount "{mount.claim}" read-only',
            hint="Leave readOnly out, or have a claim whose access mode is ReadOnlyMany and leave it out too.",
        )
    if not _DNS_LABEL.fullmatch(mount.claim):
        raise EngineError(
            f'"{mount.claim}" is no name of a claim that Kubeflow Pipelines can mount',
            hint="A persistent volume claim's name of at most 63 lower-case letters, digits and hyphens.",
        )
    parts = mount.path.split("/")
    if parts[0] or not parts[1:] or not parts[1] or ".." in parts or ":" in mount.path or _is_ours(mount.path):
        raise EngineError(
            f'"{mount.path}" is no place to mount "{mount.claim}"', hint="An absolute path of its own, such as /data."
        )
    if mount.sub_path.startswith("/") or ".." in mount.sub_path.split("/"):
        raise EngineError(
            f'"{mount.sub_path}" is no path inside "{mount.claim}"', hint="A relative path without .. is one."
        )
    found = {"mountPath": mount.path, "constant": mount.claim, "pvcNameParameter": _constant(mount.claim)}
    return {**found, "subPath": mount.sub_path} if mount.sub_path else found


def _is_ours(path: str) -> bool:
    return f"{path.rstrip('/')}/".startswith((f"{ACCESS_DIRECTORY}/", "/kfp-launcher/", "/proc/", "/sys/", "/dev/"))


def _node_selector(selector: Mapping[str, Any]) -> dict[str, str]:
    for name, value in selector.items():
        if not _QUALIFIED.fullmatch(name) or not isinstance(value, str) or not names.is_label(value):
            raise EngineError(
                f'node selector: "{name}": "{value}" is no label of a node',
                hint='For instance {"disktype": "ssd"}: values are texts.',
            )
    return dict(selector)


def _toleration(toleration: Mapping[str, Any]) -> Json:
    for name, value in toleration.items():
        if not _is_toleration(name, value):
            raise EngineError(
                f'toleration: "{name}": {json.dumps(value)} is nothing that Kubernetes knows',
                hint="A toleration has key, operator, value and effect, which are texts, and tolerationSeconds.",
            )
    exists = toleration.get("operator") == "Exists"
    if exists and toleration.get("value"):
        raise EngineError("toleration: what Exists has no value", hint="Leave value out, or say Equal.")
    if not exists and not toleration.get("key"):
        raise EngineError("toleration: it has no key", hint="Only with the operator Exists may key be left out.")
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        raise EngineError("toleration: tolerationSeconds has another effect", hint='Its effect must be "NoExecute".')
    return {name: str(int(value) if name == "tolerationSeconds" else value) for name, value in toleration.items()}


def _is_toleration(name: str, value: object) -> bool:
    if name == "tolerationSeconds":
        return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0  # JSON's 300.0, too
    return isinstance(value, str) and name in _TOLERATION and bool(_TOLERATION[name].fullmatch(value))
