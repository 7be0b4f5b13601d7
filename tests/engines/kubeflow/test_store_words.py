"""A store's success has its own words too: a page with a 200 is no empty list, and nothing that was written.

And what the worker and a pod do meanwhile: one wrong look ends no run, a store that hangs holds up nobody else, and a
pod says what it waits for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from kwdbml.engines.base import Run, RunState
from kwdbml.engines.kfp import upload
from kwdbml.engines.kfp.access import delete_run
from kwdbml.engines.kfp.calls import THREADS
from kwdbml.engines.kfp.objectstore import ObjectStore, Part
from kwdbml.engines.kfp.storeerrors import StoreError
from kwdbml.errors import EngineError
from kwdbml.steps import pod_http
from tests.engines.conftest import MakeEngine, finish, reach
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.pod_process import COMMAND, MakePod
from tests.engines.kubeflow.remote import Hurry, RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.objectstore import Fault, Flaky, MakeSettings

PAGES = [b"<html><body><h1>It works!</h1></body></html>", b"", b'{"message": "maintenance"}']
PAGE = Fault(200, code="", page=PAGES[0])
KEY = f"kwdbml/{NAME}/in/1/model.zip"

CALLS: dict[str, tuple[str, Callable[[ObjectStore], object]]] = {
    "check": ("GET", lambda store: store.check()),
    "put": ("PUT", lambda store: store.put(KEY, b"x")),
    "get": ("GET", lambda store: store.get(KEY, limit=9)),
    "size": ("GET", lambda store: store.size(KEY)),
    "names": ("GET", lambda store: store.names(KEY)),
    "runs": ("GET", lambda store: store.runs()),
    "begin": ("POST", lambda store: store.begin(KEY)),
    "part": ("PUT", lambda store: store.part(KEY, "1", 1, b"x")),
    "complete": ("POST", lambda store: store.complete(KEY, "1", [Part(1, "x")])),
    "abort": ("DELETE", lambda store: store.abort(KEY, "1")),
    "unfinished": ("GET", lambda store: list(store.unfinished(KEY))),
    "delete": ("POST", lambda store: delete_run(store, NAME)),
}


#: Nothing at all is what a store says to an abort.
@pytest.mark.parametrize(
    ("call", "page"), [(call, page) for call in CALLS for page in PAGES if (call, page) != ("abort", b"")]
)
def test_a_200_of_something_else(s3_settings: MakeSettings, flaky: Flaky, call: str, page: bytes) -> None:
    store = ObjectStore(s3_settings(endpoint=flaky.endpoint))
    store.put(KEY, b"x")
    method, ask = CALLS[call]
    flaky.fail("", *[Fault(200, code="", page=page, method=method)] * 8)
    with pytest.raises(StoreError) as caught:
        ask(store)
    assert (caught.value.retryable, caught.value.missing) == (True, False)


def test_what_a_store_says_is_taken(store: ObjectStore) -> None:
    """The same calls, to a real one."""
    upload_id = store.begin(KEY)
    store.complete(KEY, upload_id, [store.part(KEY, upload_id, 1, b"x")])
    store.abort(KEY, store.begin(KEY))
    assert (store.get(KEY, limit=9), store.size(KEY), [*store.runs()]) == (b"x", 1, [NAME])
    delete_run(store, NAME)
    assert (store.names(KEY), store.runs(), list(store.unfinished(KEY))) == ([], {}, [])


# -- runs ------------------------------------------------------------------------------------------------------------


async def test_one_wrong_look_ends_no_run(
    make_remote: MakeEngine, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that takes it over: all its runs are asked for at once then."""
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"]])
    await reach(first, handle)
    clock = Hurry()
    second: RemoteSteps = await make_remote(clock)
    names, asked = second._store.names, []

    def once(prefix: str) -> list[tuple[str, float]]:
        asked.append(prefix)
        return [] if len(asked) == 1 else names(prefix)

    monkeypatch.setattr(second._store, "names", once)
    for seconds in (0, 1, 61, 61):
        clock.advance(seconds)
        assert (await second.poll(handle)).state is RunState.RUNNING
    assert len(asked) == 2
    first.resume(handle)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED


async def test_a_renewal_that_fails_otherwise_ends_no_run(
    make_remote: MakeEngine, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: RemoteSteps = await make_remote(Hurry())
    handle = await start(first, [["pause"]])
    await reach(first, handle)
    clock = Hurry()
    second: RemoteSteps = await make_remote(clock)
    asked = []

    def damaged(*_: object) -> str:
        asked.append(1)
        raise EngineError("the access document is damaged", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(upload, "renew", damaged)
        for seconds in (0, 61, 61):
            clock.advance(seconds)
            await second.poll(handle)
    assert len(asked) >= 3
    assert kubeflow.run(NAME).state == "RUNNING"
    first.resume(handle)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED


async def test_a_store_that_hangs_does_not_keep_a_run_from_being_terminated(
    remote: RemoteSteps, kubeflow: Stub
) -> None:
    handle = await start(remote, [["pause"]])
    await reach(remote, handle)
    go = threading.Event()
    hang: Callable[[ObjectStore], bool] = lambda _: go.wait(60)  # noqa: E731
    hanging = [asyncio.create_task(remote._calls.call(hang, remote._store)) for _ in range(2 * THREADS)]
    await asyncio.sleep(0)
    canceling = asyncio.create_task(remote.cancel(handle))
    try:
        await asyncio.to_thread(kubeflow.wait, lambda: not kubeflow.living())
    finally:
        go.set()
    await asyncio.gather(canceling, *hanging)
    assert (await finish(remote, handle)).state is RunState.CANCELED


# -- pods ------------------------------------------------------------------------------------------------------------


class Time(SimpleNamespace):
    """Nobody waits: it goes by."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Time:
    hurried = Time()
    monkeypatch.setattr(pod_http, "time", hurried)
    return hurried


def waited(hurried: Time, address: str, said: list[str], *, first: bool) -> tuple[str, float]:
    """Until a pod gives up: with what, and after how long."""
    http, began = pod_http.Http(None, 900.0, lambda: False, say=said.append, first=first), hurried.now
    with pytest.raises(pod_http.Failed) as caught:
        http.read(lambda: address, lambda: "", "the document", 9)
    assert caught.value.passing
    return str(caught.value), hurried.now - began


#: A pod's address of the store that is another name of it, or leads to something else.
WRONG = [Fault(403, code="SignatureDoesNotMatch"), Fault(404, code=""), Fault(302, code=""), PAGE]


@pytest.mark.parametrize("fault", WRONG)
def test_a_pod_that_never_had_anything_tells_soon(
    hurried: Time, s3_settings: MakeSettings, flaky: Flaky, fault: Fault
) -> None:
    address = ObjectStore(s3_settings(pod_endpoint=flaky.endpoint)).url_get(KEY, 60)
    flaky.fail(KEY, *[fault] * 200)
    first: list[str] = []
    text, seconds = waited(hurried, address, first, first=True)
    assert text.endswith("is KWDBML_S3_POD_ENDPOINT right?")
    assert 20 < seconds < 60
    later: list[str] = []
    text, seconds = waited(hurried, address, later, first=False)
    assert "KWDBML_S3_POD_ENDPOINT" not in text
    assert 800 < seconds <= 900, "it had something: the store is the right one"
    assert first == later
    assert [line.partition(". ")[0] for line in first] == ["Waiting for the object store"]
    assert f"{fault.status}" in first[0]


def test_a_host_that_nobody_knows(hurried: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text, seconds = waited(hurried, "http://minio:9000/x", [], first=True)
    assert "Name or service not known" in text
    assert seconds < 60


@pytest.mark.parametrize("fault", [Fault(503), Fault(403, code="InvalidAccessKeyId")])
def test_a_pod_that_begins_while_the_store_is_in_trouble_waits(
    hurried: Time, s3_settings: MakeSettings, flaky: Flaky, fault: Fault
) -> None:
    address = ObjectStore(s3_settings(pod_endpoint=flaky.endpoint)).url_get(KEY, 60)
    flaky.fail(KEY, *[fault] * 200)
    said: list[str] = []
    assert waited(hurried, address, said, first=True)[1] > 800
    assert len(said) == 1


def test_a_wrong_address_in_the_log_of_a_pod(make_pod: MakePod, flaky: Flaky) -> None:
    hurried = (
        "import sys; from kwdbml.steps import pod, pod_http; "
        "pod_http._QUIET, pod_http._DOUBTFUL = 0.0, 0.3; pod._leave(pod.main(sys.argv[1:]))"
    )
    pod = make_pod(pod_endpoint=flaky.endpoint)
    flaky.fail("/access/", *[Fault(403, code="SignatureDoesNotMatch", method="GET")] * 99)
    pod.start([["say", "never"]], patience=60, module=hurried)
    why = "the access document: the object store answered 403 SignatureDoesNotMatch"
    assert pod.end() == (
        3,
        [
            f"kwdbml: Waiting for the object store. {why}",
            f"kwdbml: Unavailable: {why}: is KWDBML_S3_POD_ENDPOINT right?",
        ],
    )


def test_the_inputs_of_another_launch_are_not_mixed_with_the_first_ones(make_pod: MakePod, flaky: Flaky) -> None:
    """Its addresses come while the pod has one file of the first one's, and waits for the other."""
    pod = make_pod(pod_endpoint=flaky.endpoint)
    (pod.workspace.inputs / "model.zip").write_bytes(os.urandom(1000))
    flaky.fail("/in/1/model.zip", *[Fault(503, method="GET")] * 99)
    pod.start([["say", "one"]], patience=60)
    while not any(seen.method == "GET" and seen.path.endswith("/in/1/model.zip") for seen in flaky.seen):
        assert pod.process is not None
        assert pod.process.poll() is None
    job = pod.workspace.inputs / "job.json"
    job.write_text(job.read_text().replace("one", "another"))
    (pod.workspace.inputs / "model.zip").write_bytes(os.urandom(2000))
    secret = upload.upload_run(
        pod.store, Run(NAME), pod.workspace.inputs, threads=1, presign=600, turn="2", command=COMMAND
    )
    pod.replace_secret(secret)
    assert pod.end() == (0, ["stdout: another"])
    assert pod.manifest().turn == "2"


def test_a_result_is_not_lost_to_a_page(make_pod: MakePod, flaky: Flaky) -> None:
    pod = make_pod(pod_endpoint=flaky.endpoint)
    for path in ("/access/", "/job.json", "/out/model.zip", "/out/result.json", "/out/log", "/manifest.json"):
        flaky.fail(path, PAGE)
    pod.start([["write", "model.zip", "x"], ["say", "done"]])
    assert pod.end() == (0, ["stdout: done"])
    pod.result()
    assert (pod.workspace.outputs / "model.zip").read_text() == "x"
