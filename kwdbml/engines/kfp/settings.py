"""What the Kubeflow engine may be told: ``KWDBML_KFP_…`` and ``KWDBML_S3_…``, or [kubeflow] and [s3] of a file.

The models read nothing by themselves, so that a test's settings hold what it gave and nothing of its environment;
``from_environment`` reads, and ``kwdbml.settings`` merges it with the file and the flags.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, SecretStr, model_validator

KFP_PREFIX = "KWDBML_KFP_"
S3_PREFIX = "KWDBML_S3_"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KEY = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?")


def _url(text: str) -> str:
    """Kept as given but for slashes at its end; without user and password, which would end up in messages."""
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError("must be an address like https://host:port")
    if found.username is not None or found.password is not None:
        raise ValueError("must not hold a user or a password; there are settings of their own for those")
    if found.query or found.fragment:
        raise ValueError("must not hold a query (?) or a fragment (#)")
    _ = found.port  # raises when it is no number
    return text.rstrip("/")


def _file(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise ValueError("there is no such file")
    return path


def _prefix(text: str) -> str:
    text = text.strip("/")
    if not _KEY.fullmatch(text) or any(part in (".", "..") for part in text.split("/")):
        raise ValueError("must be names of letters, digits, _, . and -, with / between them")
    return text


def is_word(text: str) -> bool:
    """Whether a header can hold it: what cannot would come back in an error, the secret in it."""
    return text.isascii() and text.isprintable() and " " not in text


def _word(text: str) -> str:
    """Whoever writes a credential to a file ends its line; that end is not meant."""
    if not (text := text.strip()) or not is_word(text):
        raise ValueError("must be one word of printable ASCII")
    return text


def _hidden_word(secret: SecretStr) -> SecretStr:
    return SecretStr(_word(secret.get_secret_value()))


def _hidden_line(secret: SecretStr) -> SecretStr:
    """One that is used for signatures alone may hold anything."""
    return SecretStr(secret.get_secret_value().rstrip("\r\n"))


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {what}")
        return text

    return AfterValidator(check)


Url = Annotated[str, AfterValidator(_url)]
ExistingFile = Annotated[Path, AfterValidator(_file)]
DnsName = Annotated[str, _matching(_DNS, "at most 63 lower-case letters, digits and hyphens")]
BucketName = Annotated[str, _matching(_BUCKET, "3 to 63 lower-case letters, digits, dots and hyphens")]
Image = Annotated[str, _matching(IMAGE, "an image's name, like registry.example.org/kwdbml/runtime:1")]
Word = Annotated[str, AfterValidator(_word)]
HiddenWord = Annotated[SecretStr, AfterValidator(_hidden_word)]
HiddenLine = Annotated[SecretStr, Field(min_length=1), AfterValidator(_hidden_line)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


class S3Settings(_Section):
    """The object store that worker and pods share: the one that Kubeflow Pipelines has anyway will do."""

    endpoint: Url = Field(description="address of the store, as the worker reaches it")
    pod_endpoint: Url = Field(default="", description="address of the store, as pods reach it; the same by default")
    bucket: BucketName = Field(description="an existing bucket")
    prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="kwdbml", description="every object of ours lies below this prefix, one more level per run"
    )
    region: str = Field(default="us-east-1", min_length=1, description="part of every signature")
    access_key: Word = Field(description="may read, write, list and delete below the prefix")
    secret_key: HiddenLine = Field(description="the access key's secret")
    ca_file: ExistingFile | None = Field(default=None, description="certificates that vouch for the endpoint")
    part_size: ByteSize = Field(
        default=ByteSize(16 << 20), ge=5 << 20, le=5 << 30, description="bytes of one part of a large object"
    )

    @model_validator(mode="before")
    @classmethod
    def _pods_use_the_same(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and not given.get("pod_endpoint") and "endpoint" in given:
            return {**given, "pod_endpoint": given["endpoint"]}
        return given


class KubeflowSettings(_Section):
    """One Kubeflow Pipelines installation, its Kubernetes cluster and its object store. Times are in seconds."""

    host: Url = Field(description="address of the Kubeflow Pipelines API; setting it switches the engine on")
    namespace: DnsName = Field(default="kubeflow", description="where runs and their pods live")
    experiment: str = Field(
        default="kwdbml", min_length=1, max_length=128, description="our runs' experiment; made if it is not there"
    )
    service_account: str | None = Field(default=None, min_length=1, description="of the pods; KFP's own by default")
    token: HiddenWord | None = Field(default=None, description="bearer token for the Kubeflow Pipelines API")
    token_file: ExistingFile | None = Field(default=None, description="the same in a file that may be renewed")
    ca_file: ExistingFile | None = Field(default=None, description="certificates that vouch for the host")
    concurrency: int = Field(default=100, ge=1, le=10_000, description="jobs at once, beside the local engine's")
    timeout: float = Field(default=30.0, gt=0, le=600, description="how long one call may take")
    poll: float = Field(default=2.0, gt=0, le=600, description="how often runs are looked at")
    patience: float = Field(
        default=600.0,
        gt=0,
        le=604800,
        description="how long a pod may wait for what will hardly come, such as an image",
    )
    keep: Literal["archive", "delete"] = Field(default="archive", description="what becomes of an ended run in KFP")
    presign: int = Field(
        default=43200, ge=60, le=604800, description="how long a pod's addresses hold; renewed at half time"
    )
    kubeconfig: ExistingFile | None = Field(default=None, description="access to the cluster")
    context: str | None = Field(default=None, min_length=1, description="a context of the kubeconfig")
    in_cluster: bool | None = Field(
        default=None, description="use the pod's own service account; by default when there is no kubeconfig"
    )
    cluster_host: Url | None = Field(
        default=None, description="address of a Kubernetes API that asks for no credentials, such as kubectl proxy"
    )
    root_scheme: Literal["minio", "s3"] = Field(
        default="minio",
        description="how KFP names its store: minio for the one it was installed with, s3 for one of its own choice",
    )
    image: Image = Field(description="the runtime image of jobs whose runtime names none")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="of the runtime image"
    )
    unsafe_no_landlock: bool = Field(
        default=False, description="run uploaded code on nodes whose kernel cannot hide the pod's Secret from it"
    )
    s3: S3Settings

    @model_validator(mode="after")
    def _one_of_each(self) -> KubeflowSettings:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file exclude each other: keep one")
        ways = {"in_cluster": bool(self.in_cluster), "kubeconfig": self.kubeconfig, "cluster_host": self.cluster_host}
        if len(given := [name for name, value in ways.items() if value]) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: keep one")
        if self.context is not None and (self.in_cluster or self.cluster_host):
            raise ValueError("context is a kubeconfig's: leave it out with in_cluster or cluster_host")
        return self

    @property
    def cluster_access(self) -> Literal["host", "kubeconfig", "in-cluster"]:
        """How the cluster is reached: what was said, else a kubeconfig if one is named anywhere, else from inside."""
        if self.cluster_host:
            return "host"
        if self.in_cluster:
            return "in-cluster"
        if self.kubeconfig or self.in_cluster is False or os.environ.get("KUBECONFIG"):
            return "kubeconfig"
        return "in-cluster"


def _section(environ: Mapping[str, str], prefix: str, model: type[BaseModel]) -> dict[str, str]:
    """An empty variable counts as not set: that is how a compose file or a manifest passes on what it was not given."""
    names = {prefix + name.upper(): name for name, field in model.model_fields.items() if name != "s3"}
    found = {name: value for name, value in environ.items() if name.startswith(prefix)}
    for name in found.keys() - names.keys():
        close = difflib.get_close_matches(name, names, 1)
        raise UnknownVariable(name, close[0] if close else None)
    return {names[name]: value for name, value in found.items() if value}


class UnknownVariable(ValueError):
    """An environment variable with our prefix that is no setting: most likely a slip."""

    def __init__(self, name: str, close: str | None) -> None:
        super().__init__(name)
        self.name = name
        self.close = close


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What the environment says, unchecked: the arguments of KubeflowSettings, with ``s3`` inside. May be partial."""
    kubeflow: dict[str, Any] = dict(_section(environ, KFP_PREFIX, KubeflowSettings))
    if s3 := _section(environ, S3_PREFIX, S3Settings):
        kubeflow["s3"] = s3
    return kubeflow
