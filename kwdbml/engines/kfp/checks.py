"""What ``kwdbml doctor`` looks at of Kubeflow: its API, our rights in the cluster; the store is in ``storechecks.py``.

Each check makes the calls that the worker makes, with the worker's own clients.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import urlsplit

from kwdbml.doctor.checks import Check, Remark
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.cluster import RIGHTS, Cluster
from kwdbml.engines.kfp.probing import authorities, expecting, skew
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.storechecks import StoreChecks
from kwdbml.engines.kfp.token import Token
from kwdbml.errors import EngineError

_PATIENCE = 10.0  # seconds that one call may take at most: who asks is waiting
_KFP = "It is the service ml-pipeline (port 8888), or from outside what leads there: correct KWDBML_KFP_HOST."
_CLUSTER = "Correct KWDBML_KFP_CLUSTER_HOST, or the server in the kubeconfig (KWDBML_KFP_KUBECONFIG)."
_LOCAL = re.compile(r"localhost|127\.[\d.]+|::1|[^.]+|.*\.svc(\.cluster\.local)?")


class KubeflowChecks:
    """``close`` takes away what they may have left in the store."""

    def __init__(self, settings: KubeflowSettings) -> None:
        self._settings = settings.model_copy(update={"timeout": min(settings.timeout, _PATIENCE)})
        self._store = StoreChecks(settings.s3)

    def checks(self) -> list[Check]:
        reached, known = ("kubeflow.api",), ("kubeflow.token",)
        cluster = ("kubernetes.api",)
        return [
            Check("kubeflow.settings", self.told),
            Check("kubeflow.image", self.image),
            Check("kubeflow.landlock", self.landlock),
            Check("kubeflow.ca_file", self.ca_file),
            Check("kubeflow.token", self.token),
            Check("kubeflow.api", self.api, ("kubeflow.ca_file", *known)),
            Check("kubeflow.version", self.version, reached),
            Check("kubeflow.clock", self.clock, reached),
            Check("kubeflow.experiment", self.experiment, reached),
            Check("kubeflow.runs", self.runs, reached),
            Check("kubernetes.api", self.cluster),
            *(Check(f"kubernetes.{_spoken(r)}.{v}", functools.partial(self.right, v, r), cluster) for v, r in RIGHTS),
            Check("kubernetes.namespace", self.namespace, (*cluster, "kubernetes.secrets.create")),
            Check("kubernetes.pods", self.pods, (*cluster, "kubernetes.pods.list")),
            *self._store.checks(),
        ]

    def close(self) -> None:
        self._store.close()

    @functools.cached_property
    def _api(self) -> KfpApi:
        return KfpApi(self._settings)

    @functools.cached_property
    def _cluster(self) -> Cluster:
        return Cluster(self._settings)

    # -- settings ------------------------------------------------------------------------------------------------

    def told(self) -> str:
        settings = self._settings
        return f"{settings.host}, namespace {settings.namespace}, cluster by {settings.cluster_access}"

    def image(self) -> str | Remark:
        image = self._settings.image
        name = image.rpartition("/")[2]
        if "@" not in name and (":" not in name or name.endswith(":latest")):
            return Remark(
                f"the runtime image {image} names no version: it may change between two runs",
                "Name it with its tag or digest as KWDBML_KFP_IMAGE: the one of this kwdbml's version.",
            )
        return f"{image}, pulled {self._settings.image_pull_policy}: whether it can be, the first run shows"

    def landlock(self) -> str | Remark:
        if self._settings.unsafe_no_landlock:
            return Remark(
                "on nodes without Landlock, uploaded code may read its pod's Secret, as unsafe_no_landlock says",
                "Leave out KWDBML_KFP_UNSAFE_NO_LANDLOCK unless you trust everyone who may upload code.",
            )
        return "uploaded code runs only on nodes whose kernel hides the pod's Secret from it"

    def ca_file(self) -> str:
        return authorities(self._settings.ca_file, "KWDBML_KFP_CA_FILE")

    def token(self) -> str | Remark:
        settings = self._settings
        if not Token(settings).value():  # an EngineError when its file cannot be read
            return "none is set"
        found = urlsplit(settings.host)
        if found.scheme == "http" and not _LOCAL.fullmatch(str(found.hostname)):
            return Remark(f"the token goes to {found.hostname} without encryption", "Use https:// in KWDBML_KFP_HOST.")
        return f"from {settings.token_file}" if settings.token_file else "as it is set"

    # -- the KFP API ---------------------------------------------------------------------------------------------

    def api(self) -> str:
        with expecting("Kubeflow Pipelines", self._settings.host, _KFP):
            found = self._api.health()
        return f"it answers{', with users of its own' if found.multi_user else ''}"

    def version(self) -> str | Remark:
        found = self._api.version()
        if not found:
            return "it speaks v2beta1 and does not tell its version"
        if not found.startswith("2."):
            return Remark(f"Kubeflow Pipelines {found} is none that we know", "Use Kubeflow Pipelines 2.")
        return f"Kubeflow Pipelines {found}"

    def clock(self) -> str | Remark:
        return skew(self._api.health().now, "Kubeflow Pipelines")

    def experiment(self) -> str:
        identity = self._api.check()
        return f'"{self._settings.experiment}" is there ({identity})'

    def runs(self) -> str:
        count = len(self._api.unfinished("kwdbml-"))
        return f"can be listed; {count} of kwdbml {'is' if count == 1 else 'are'} unfinished"

    # -- Kubernetes ----------------------------------------------------------------------------------------------

    def cluster(self) -> str:
        with expecting("the Kubernetes API", self._settings.cluster_host or "that address", _CLUSTER):
            return f"Kubernetes {self._cluster.version()}"

    def right(self, verb: str, resource: str) -> str:
        namespace = self._settings.namespace
        if not self._cluster.allowed(verb, resource):
            raise EngineError(
                f"the worker's account may not {verb} {resource} in namespace {namespace}",
                hint="Bind it to the role of deploy/kubernetes, or correct KWDBML_KFP_NAMESPACE: "
                f"kubectl auth can-i {verb} {resource} -n {namespace}.",
            )
        return "allowed"

    def namespace(self) -> str:
        """Rights can be had in a namespace that is not there, and so can lists: empty ones."""
        namespace = self._settings.namespace
        try:
            self._cluster.rehearse()
        except ApiError as error:
            if error.status != 404:
                raise
            raise EngineError(
                f'the cluster has no namespace "{namespace}"',
                hint="Name the one that Kubeflow's runs have their pods in as KWDBML_KFP_NAMESPACE.",
                detail=error.detail,
            ) from None
        return f'a Secret could be made in "{namespace}"'

    def pods(self) -> str:
        """What was allowed is really done: something between may still refuse it."""
        return f"{len(self._cluster.pods('kwdbml.io/installation'))} of kwdbml in namespace {self._settings.namespace}"


def _spoken(resource: str) -> str:
    return resource.replace("/", "-")
