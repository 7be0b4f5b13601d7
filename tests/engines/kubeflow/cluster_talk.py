"""What the engine says to a cluster, all of it, as one program: the tests run it with two releases of ``kubernetes``.

Nothing but what kwdbml has, because it also runs in an environment that has nothing else. ``inside``: where it finds
what the kubelet gives to a pod.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kubernetes.config import incluster_config

from kwdbml.engines.kfp.cluster import RIGHTS, Cluster
from kwdbml.engines.kfp.settings import KubeflowSettings

RUN = "kwdbml-test-1"
LABELS = {"kwdbml.io/installation": "test", "kwdbml.io/attempt": "1"}


def settings(**given: Any) -> KubeflowSettings:
    store = {"endpoint": "http://s3:9000", "bucket": "mlpipeline", "access_key": "a", "secret_key": "s"}
    return KubeflowSettings.model_validate({"host": "http://kfp", "image": "i", "timeout": 5, "s3": store, **given})


def converse(cluster: Cluster, pod_name: str) -> dict[str, Any]:
    """Every call, and what came of it."""
    cluster.put_secret("kwdbml-1", LABELS, {"kwdbml.io/run": RUN}, {"access.json": '{"a": "ä"}'})
    cluster.put_secret("kwdbml-1", LABELS, {"kwdbml.io/run": RUN}, {"access.json": '{"a": "b"}'})
    cluster.renew_secret("kwdbml-1", LABELS, {"kwdbml.io/run": RUN}, {"access.json": '{"a": "c"}'})
    kept = cluster.kept("kwdbml.io/installation=test")
    found: dict[str, Any] = {"secrets": [[one.run_name, one.name, one.run_id] for one in kept]}
    cluster.delete_secret("kwdbml-1")
    cluster.delete_secret("kwdbml-1")
    [pod] = [one for one in cluster.pods("kwdbml.io/installation=test") if one.name == pod_name]
    found["pod"] = [pod.run_name, pod.alive, pod.running, pod.started, pod.ended, pod.raw["kind"]]
    text = cluster.log(pod_name).decode()
    found["log"] = [line.partition(" ")[2] for line in text.splitlines() if "hello" in line]
    found["later"] = "hello" in cluster.log(pod_name, since=4e9).decode()
    found["cut"] = len(cluster.log(pod_name, limit=7))
    found["no log"] = cluster.log("nobody").decode()
    found["events"] = sorted({event["reason"] for event in cluster.events(pod_name)})
    found["version"] = cluster.version()
    found["allowed"] = [cluster.allowed(*right) for right in RIGHTS] + [cluster.allowed("delete", "nodes")]
    return found


if __name__ == "__main__":
    access, pod_name = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    for name, path in access.pop("inside", {}).items():
        setattr(incluster_config, name, path)
    answer = converse(Cluster(settings(**access)), pod_name)
    print(json.dumps({"kubernetes": version("kubernetes"), **answer}))
