"""A pod whose way to the object store is bad: faults that pass, answers of others, addresses that hold no longer."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kwdbml.engines.kfp import reasons
from kwdbml.engines.kfp.download import read_manifest
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.upload import renew
from tests.engines.kubeflow.pod_process import NAME, MakePod, Pod
from tests.fixtures.objectstore import Fault, Flaky, MakeSettings


def test_a_bad_line_is_survived(make_pod: MakePod, flaky: Flaky) -> None:
    pod = make_pod(pod_endpoint=flaky.endpoint)
    (pod.workspace.inputs / "model.zip").write_bytes(os.urandom(3 << 20))
    flaky.fail("/access/", Fault(status=503))
    flaky.fail("/model.zip", Fault(after=2 << 20), Fault(status=500))
    flaky.fail("/out/result.json", Fault(status=503, code="SlowDown"))
    flaky.fail("/manifest.json", Fault(after=10))
    pod.start([["say", "done"]])
    assert pod.end() == (0, ["stdout: done"])
    pod.result()
    assert max(seen.first for seen in flaky.seen if seen.path.endswith("/model.zip")) >= 1 << 20


def test_a_store_that_is_away_leaves_the_last_line(make_pod: MakePod, flaky: Flaky) -> None:
    """No manifest can be written: code and line are all there is."""
    pod = make_pod(pod_endpoint=flaky.endpoint)
    flaky.fail("/out/result.json", *[Fault(status=503)] * 99)
    flaky.fail("/out/log", Fault(status=404, code="NoSuchBucket"))
    pod.start([["say", "done"]], patience=0.5)
    code, lines = pod.end()
    assert (code, lines) == (
        3,
        ["stdout: done", "kwdbml: Unavailable: out/result.json: the object store answered 503 InternalError"],
    )
    assert read_manifest(pod.store, NAME) is None
    reason = reasons.explain([terminated(1)], (), [line.partition(": ")[2] for line in lines])
    assert reason is not None
    assert (reason.reason, reason.what) == (
        "Unavailable",
        "out/result.json: the object store answered 503 InternalError",
    )


def terminated(code: int) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error"}}
    return {"metadata": {}, "status": {"phase": "Failed", "containerStatuses": [{"name": "main", "state": state}]}}


def test_the_secret_is_read_again_before_the_outputs_go(s3_settings: MakeSettings, flaky: Flaky, pod: Pod) -> None:
    """The new addresses lead another way, so that we see which were taken."""
    pod.start([["say", "begun"], ["pause"], ["write", "model.zip", "x"]])
    pod.await_line("begun")
    secret = renew(ObjectStore(s3_settings(pod_endpoint=flaky.endpoint)), NAME, 600)
    pod.replace_secret(secret)
    assert flaky.seen == []
    pod.go_on()
    assert pod.end()[0] == 0
    assert pod.result()["0"] is None
    assert (pod.workspace.outputs / "model.zip").read_text() == "x"
    ends = [seen.path.rpartition("/")[2] for seen in flaky.seen if seen.method == "PUT"]
    assert sorted(ends) == ["log", "manifest.json", "model.zip", "result.json"]


def test_addresses_that_have_expired_are_waited_for(s3_settings: MakeSettings, make_pod: MakePod, flaky: Flaky) -> None:
    """The worker was away when it should have renewed them."""
    pod = make_pod(pod_endpoint=flaky.endpoint)
    flaky.fail("/out/result.json", *[Fault(status=403, code="ExpiredToken")] * 99)
    pod.start([], patience=60)
    while not any("/out/result.json" in seen.path for seen in flaky.seen):
        assert pod.process is not None
        assert pod.process.poll() is None
    pod.replace_secret(renew(ObjectStore(s3_settings()), NAME, 600))
    assert pod.end() == (0, [])
    pod.result()


#: Of something before the store, and of the store itself when its key was changed while the run worked.
REFUSED = [(404, ""), (403, ""), (405, ""), (302, ""), (403, "InvalidAccessKeyId"), (403, "AccessDenied")]


@pytest.mark.parametrize(("status", "code"), REFUSED)
def test_a_no_that_passes_loses_no_result(make_pod: MakePod, flaky: Flaky, status: int, code: str) -> None:
    pod = make_pod(pod_endpoint=flaky.endpoint)
    for path in ("/access/", "/job.json", "/out/result.json", "/out/log", "/manifest.json"):
        flaky.fail(path, Fault(status=status, code=code))
    pod.start([["say", "done"]])
    assert pod.end() == (0, ["stdout: done"])
    pod.result()


def test_an_input_that_is_gone_is_not_waited_for(make_pod: MakePod, flaky: Flaky) -> None:
    pod = make_pod(pod_endpoint=flaky.endpoint)
    flaky.fail("/job.json", *[Fault(status=404, code="NoSuchKey", method="GET")] * 99)
    pod.start([["say", "never"]], patience=60)
    assert pod.end() == (3, ["kwdbml: in/job.json: the object store answered 404 NoSuchKey"])


def test_a_pod_that_begins_with_old_addresses_gets_new_ones(
    s3_settings: MakeSettings, make_pod: MakePod, flaky: Flaky
) -> None:
    """It has waited for a node for long, and the store's key is another one now."""
    pod = make_pod(pod_endpoint=flaky.endpoint)
    flaky.fail("/access/", *[Fault(status=403, code="InvalidAccessKeyId")] * 99)
    pod.start([], patience=60)
    while not any("/access/" in seen.path and seen.method == "GET" for seen in flaky.seen):
        assert pod.process is not None
        assert pod.process.poll() is None
    pod.replace_secret(renew(ObjectStore(s3_settings()), NAME, 600))
    assert pod.end() == (0, [])
    pod.result()
