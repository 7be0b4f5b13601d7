"""Looks do not wait for each other's work: an end that takes long keeps nobody from seeing how the others stand."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from kwdbml.engines.base import LogChunk, RunState
from kwdbml.engines.kfp import download
from kwdbml.engines.kfp.calls import Calls, Clock
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.podlog import PodLog
from tests.engines.conftest import finish
from tests.engines.kubeflow.conftest import NAME, start
from tests.engines.kubeflow.remote import RemoteSteps
from tests.engines.kubeflow.stub.stub import Stub


async def test_an_end_that_takes_long_holds_no_other(
    remote: RemoteSteps, kubeflow: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.simulate()
    slow, quick = await start(remote), await start(remote, name=f"{NAME}0")
    go, read = threading.Event(), download.read_manifest

    def held(store: ObjectStore, name: str) -> object:
        if name == slow["run"]:
            assert go.wait(30)
        return read(store, name)

    monkeypatch.setattr(download, "read_manifest", held)
    kubeflow.finish(slow["run_id"], 1)
    await asyncio.to_thread(kubeflow.wait, lambda: kubeflow.kfp.calls["GET /apis/v2beta1/runs/{run_id}"])
    kubeflow.finish(quick["run_id"], 1)
    assert (await finish(remote, quick)).state is RunState.FAILED
    assert not (await remote.wait(slow, 0.01)).ended
    go.set()
    assert (await finish(remote, slow)).state is RunState.FAILED


async def test_a_look_does_not_wait_for_a_free_thread() -> None:
    calls, go = Calls(Clock()), threading.Event()
    waiting = [asyncio.ensure_future(calls.call(go.wait, 30)) for _ in range(50)]
    assert await calls.ahead(str, 1) == "1"
    go.set()
    assert all(await asyncio.gather(*waiting))
    await calls.close()


def test_a_log_is_idle_until_it_grows(tmp_path: Path) -> None:
    log = PodLog(tmp_path)
    assert not log.idle(0)
    assert log.read(0) == LogChunk((), 0)
    assert log.idle(0)
    log.take(b"1 train stdout: one\n")
    assert not log.idle(0)
    assert [line.line for line in log.read(0).lines] == ["one"]
    assert not log.idle(1)
    assert log.read(1) == LogChunk((), 1)
    assert log.idle(1)
    log.take(b"1 train stdout: one\n")  # again
    assert log.idle(1)
    assert not log.idle(0)
