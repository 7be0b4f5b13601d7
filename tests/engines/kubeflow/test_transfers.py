"""Transfers: those that nobody waits for end, two of the same do not meet, a full disk is waited for."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kwdbml.engines.base import Run, RunState
from kwdbml.engines.kfp import access
from kwdbml.engines.kfp import calls as calls_module
from kwdbml.engines.kfp.calls import Calls
from kwdbml.engines.kfp.download import fetch_inputs
from kwdbml.engines.kfp.objectstore import ObjectStore, Stored
from kwdbml.engines.kfp.upload import upload_run
from kwdbml.errors import EngineError
from tests.engines.conftest import finish
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.gate import Gate
from tests.engines.kubeflow.remote import Hurry, RemoteSteps

CONTENT = os.urandom(4 << 20)
EXPECTED = Stored(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
WAYS = ["cancelled", "closing"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(calls_module, "CLOSE_WITHIN", 0.1)
    return Calls(Hurry())


async def abandoned(calls: Calls, work: asyncio.Task[Any], gate: Gate, way: str) -> None:
    """Nobody waits for it any more, while it is at the gate."""
    await asyncio.to_thread(gate.reached.wait)
    if way == "cancelled":
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        gate.go.set()
        assert await calls.over(work)
    else:
        calls.end()
        gate.go.set()
        with pytest.raises(EngineError, match="the worker ends"):
            await work
    await calls.close()


def staged(inputs: Path, content: bytes = b"{}") -> Path:
    """More than two parts of data."""
    inputs.mkdir()
    (inputs / "job.json").write_bytes(content)
    table = pa.table({"c0": pa.array([os.urandom(1000) for _ in range(12_000)])})
    with pa.OSFile(str(inputs / "data.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return inputs


# -- nobody waits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_an_upload_that_nobody_waits_for_ends(
    calls: Calls, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    inputs, gate = staged(tmp_path / "in"), Gate(monkeypatch, store, "part")
    work = asyncio.create_task(calls.call(upload_run, store, Run(NAME), inputs, threads=1, presign=60, bulk=True))
    await abandoned(calls, work, gate, way)
    assert [key.split("/")[-1] for key, _ in store.names(store.key(NAME, ""))] == ["job.json"], "as at the gate"
    assert not list(store.unfinished(store.key(NAME, ""))), "what was begun is taken back"


@pytest.mark.parametrize("way", WAYS)
async def test_a_download_that_nobody_waits_for_ends(
    calls: Calls, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    key = store.key(NAME, "out", "predictions.arrow")
    store.put(key, CONTENT)
    gate = Gate(monkeypatch, store, "_from")
    work = asyncio.create_task(calls.call(store.fetch, key, tmp_path / "data", EXPECTED, bulk=True))
    await abandoned(calls, work, gate, way)
    assert not await asyncio.to_thread(os.listdir, tmp_path)


async def test_small_objects_that_nobody_waits_for_are_not_written(
    calls: Calls, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, store, "put")
    work = asyncio.create_task(calls.call(store.put, store.key(NAME, "access", "1.json"), b"{}"))
    await abandoned(calls, work, gate, "cancelled")
    assert not store.names(store.key(NAME, ""))


async def test_what_has_no_thread_yet_never_begins(calls: Calls) -> None:
    go, begun = threading.Event(), threading.Event()
    before = [asyncio.create_task(calls.call(go.wait, 60, bulk=True)) for _ in range(calls_module._BULK_THREADS)]
    await asyncio.sleep(0)
    last = asyncio.create_task(calls.call(begun.set, bulk=True))
    await asyncio.sleep(0)
    last.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({last})
        assert await calls.over(last)
    go.set()
    assert all(await asyncio.gather(*before))
    await calls.close()
    assert not begun.is_set()


async def test_closing_does_not_wait_for_a_server_that_hangs(calls: Calls) -> None:
    go = threading.Event()
    hanging = asyncio.create_task(calls.call(go.wait, 60))
    await asyncio.sleep(0)
    hanging.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await hanging
        await calls.close()
        assert not await calls.over(hanging)
    go.set()


# -- two of the same ---------------------------------------------------------------------------------------------------


async def test_two_downloads_into_one_place(
    calls: Calls, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has lost his lease, and does not know it yet."""
    key, path = store.key(NAME, "out", "predictions.arrow"), tmp_path / "predictions.arrow"
    store.put(key, CONTENT)
    gate = Gate(monkeypatch, store, "_from")
    first = asyncio.create_task(calls.call(store.fetch, key, path, EXPECTED, bulk=True))
    await asyncio.to_thread(gate.reached.wait)
    await calls.call(store.fetch, key, path, EXPECTED, bulk=True)
    assert path.read_bytes() == CONTENT
    gate.go.set()
    await first
    assert path.read_bytes() == CONTENT
    assert await asyncio.to_thread(os.listdir, tmp_path) == [path.name]
    await calls.close()


def test_a_launch_writes_over_nothing_of_another(store: ObjectStore, tmp_path: Path) -> None:
    """One that its worker goes on with, not knowing that the run has been launched by somebody else."""
    upload_run(store, Run(NAME), staged(tmp_path / "new", b"new"), threads=1, presign=60, turn="new")
    document = access.read_document(store, NAME)
    upload_run(store, Run(NAME), staged(tmp_path / "old", b"old"), threads=1, presign=60, turn="old")
    for item in document["inputs"]:
        key = access.input_key(store, NAME, document["turn"], item["name"])
        store.fetch(key, tmp_path / item["name"], access.recorded(item))
    assert (tmp_path / "job.json").read_bytes() == b"new"
    fetch_inputs(store, NAME, tmp_path / "back", ["job.json"])
    assert (tmp_path / "back" / "job.json").read_bytes() == b"old", "the newest document leads to what belongs to it"
    access.delete_run(store, NAME)
    assert not store.names(store.key(NAME, ""))


# -- a full disk -------------------------------------------------------------------------------------------------------


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["copy", "place"])
async def test_a_full_disk_is_waited_for(remote: RemoteSteps, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    handle = await start(remote)
    assert (await finish(remote, handle)).state is RunState.SUCCEEDED
    with monkeypatch.context() as patch:
        if where == "copy":
            patch.setattr(remote._store, "copy", _full)
        else:
            patch.setattr(remote._places, "make", _full)
        collecting = asyncio.create_task(remote.collect(handle))
        async with asyncio.timeout(30):
            while "No space left on device" not in remote.trouble(NAME):
                assert not collecting.done()
                await asyncio.sleep(0.01)
    assert ((await collecting).outputs / "result.json").exists()
    assert not list(remote.workspace(handle).outputs.glob(".*"))


async def test_a_full_disk_ends_no_run_that_is_taken_over(
    make_remote: Any, remote: RemoteSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await start(remote)
    second: RemoteSteps = await make_remote(Hurry(), root=tmp_path / "second")
    with monkeypatch.context() as patch:
        patch.setattr(second._places, "make", _full)
        status = await second.wait(handle, 0.1)
        assert status.state is RunState.UNKNOWN
        assert "No space left on device" in str(status.step)
    assert (await finish(second, handle)).state is RunState.SUCCEEDED
