"""What jobs put on their way to a pod and back: as it was sent, no longer than it may be, and seen by nobody else."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.kubeflow.jobs import Workers, environment, on
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky
from tests.fixtures.s3 import S3Server
from tests.worker.site import Site

MakeWorkers = Callable[..., Workers]

LEARNS = """
import os
def model_train(x_train, y_train, x_test, y_test):
    print("sees", *sorted(os.environ))
    assert os.environ.get("TOKEN", "s3cret-of-ann") == "s3cret-of-ann"
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression().fit(x_train, y_train)
"""


@pytest.fixture
def make_workers(
    worker_dsn: str, scratch: Path, tmp_path: Path, kubeflow_settings: KubeflowSettings, flaky: Flaky
) -> Iterator[MakeWorkers]:
    """``make_workers(endpoint=…)``: worker processes, and pods, whose way to the store may be ``flaky``'s."""
    made: list[Workers] = []

    def make(*, token: str = "", **s3: str) -> Workers:
        changed = {"s3": kubeflow_settings.s3.model_copy(update=s3)}
        told = kubeflow_settings.model_copy(update=changed | ({"token": SecretStr(token)} if token else {}))
        made.append(Workers(worker_dsn, scratch, tmp_path / "worker.log", environment(told)))
        return made[-1]

    yield make
    for one in made:
        for process in one.made:
            if process.process.poll() is None:
                process.process.kill()
                process.process.wait()


@pytest.mark.parametrize(
    ("way", "path", "type_name", "said"),
    [
        ("endpoint", "/out/model.zip", "EngineError", "out/model.zip is damaged: its SHA-256"),
        ("endpoint", "/out/result.json", "EngineError", "out/result.json is damaged: its SHA-256"),
        ("pod_endpoint", "/data.parquet", "Unavailable", "in/data.parquet is damaged: its SHA-256"),
        ("pod_endpoint", "/access/", "", ""),
    ],
)
async def test_a_byte_that_was_flipped_on_its_way(
    site: Site, make_workers: MakeWorkers, flaky: Flaky, kubeflow: Stub, s3_bucket: S3Server,
    way: str, path: str, type_name: str, said: str,
) -> None:  # fmt: skip
    """In each direction: told, and nothing lands. The access document is fetched again: it has no other way to fail."""
    await site.pipeline("learns", train=LEARNS)
    flaky.fail(path, Fault(flip=True, method="GET"))
    await make_workers(**{way: flaky.endpoint})()
    job = await site.train(pipeline="learns", **on("kubeflow"))
    if not said:
        await site.one_landed(job)
    else:
        error = await site.failed(job)
        assert error["type"] == type_name
        assert said in error["message"]
        assert await site.versions() == []
        assert await site.value("SELECT count(*) FROM kwdbml.artefact WHERE kind = 'model'") == 0
    assert not flaky._faults, "it was met"
    assert not kubeflow.secrets
    assert not s3_bucket.keys("kwdbml/")


async def test_a_model_over_the_limit_is_not_even_fetched(
    site: Site, make_workers: MakeWorkers, flaky: Flaky, s3_bucket: S3Server
) -> None:
    await site.run("INSERT INTO kwdbml.settings VALUES ('model_limit', '10')")
    await site.pipeline("learns", train=LEARNS)
    await make_workers(endpoint=flaky.endpoint)()
    errors = []
    for engine in ("kubeflow", "local"):
        error = await site.failed(await site.train(pipeline="learns", **on(engine)))
        errors.append(error | {"message": re.sub("has [0-9]+ bytes", "has N bytes", error["message"])})
    assert errors[0] == errors[1]
    assert errors[0]["type"] == "LimitExceeded"
    assert "has N bytes, the limit is 10" in errors[0]["message"]
    asked = [seen for seen in flaky.seen if seen.method == "GET" and seen.path.endswith("model.zip")]
    assert not asked
    assert not s3_bucket.keys("kwdbml/")


async def test_no_secret_is_seen_where_others_look(
    site: Site, make_workers: MakeWorkers, kubeflow: Stub, s3_bucket: S3Server, worker_dsn: str, tmp_path: Path
) -> None:
    """Run, workflow, pods, Secrets' names, logs, and the Secret itself: who may read which differs in clusters."""
    await site.pipeline("learns", train=LEARNS)
    kubeflow.hold("PENDING")
    await make_workers(token="t0ken-of-kubeflow")()
    job = await site.train(pipeline="learns", env={"TOKEN": "s3cret-of-ann"}, **on("kubeflow"))
    await site.until("SELECT phase = 'running' FROM kwdbml.jobs WHERE id = %s", job)
    database = urlsplit(worker_dsn).path.strip("/") or worker_dsn
    hidden = ["s3cret-of-ann", "t0ken-of-kubeflow", s3_bucket.secret_key, database]
    with kubeflow.lock:
        [secret] = [one for one in kubeflow.secrets.values() if one["data"].get("access.json")]
    content = base64.b64decode(secret["data"]["access.json"]).decode()
    assert set(json.loads(content)) == {"version", "document", "expires", "ca"}
    assert not [word for word in hidden if word in content]
    kubeflow.release("PENDING")
    await site.one_landed(job)
    [printed] = await site.lines(job)
    seen = printed.split()
    assert "TOKEN" in seen, "where it belongs it is"
    assert not [name for name in seen if re.match("KWDBML|PG|AWS|S3|KUBERNETES|KFP|ARGO", name)]
    with kubeflow.lock:
        [run] = kubeflow.runs.values()
        pods = kubeflow.pods_of(run.run_id, executors=False)
        looked = json.dumps([run.show(), run.workflow.parameters, [pod.document() for pod in pods], kubeflow.events])
        looked += json.dumps(secret["metadata"]) + "".join(pod.log.text for pod in pods)
    looked += (tmp_path / "worker.log").read_text()
    for word in [*hidden[:3], "X-Amz-Signature", "X-Amz-Credential"]:
        assert word not in looked
    assert database not in looked.replace((tmp_path / "worker.log").read_text(), "")
    assert job in looked
