"""Cancelling and removing: final at once for the job, and confirmed only when nothing of it runs any more."""

from __future__ import annotations

import asyncio
import threading
from typing import NoReturn

import psycopg
import pytest

from kwdbml.dataset import Connections, DatabaseError
from kwdbml.engines.base import Handle
from kwdbml.engines.fake import FakeEngine, FakeWorld
from kwdbml.errors import EngineError
from kwdbml.worker import staging
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import DEADLINE, WAITING, Gate, Site


async def _cancel(site: Site, job: str) -> None:
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])


async def _nothing_landed(site: Site, world: FakeWorld, job: str) -> None:
    status, error = await site.ended(job)
    assert (status, error) == ("CANCELED", {"type": "Canceled", "message": f"canceled by {site.ann.name}"})
    assert await site.versions() == []
    assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", job) == "canceled"
    assert world.jobs == {}
    assert list(world.root.iterdir()) == []


async def test_a_queued_job(site: Site, employ: Employ, world: FakeWorld) -> None:
    job = await site.train()
    await _cancel(site, job)
    await employ()
    await site.succeeded(await site.train(model="next"))
    await _nothing_landed(site, world, job)
    assert len(world.launches) == 1


async def test_while_the_data_is_read(site: Site, employ: Employ, world: FakeWorld, gate: Gate) -> None:
    """The query in the server ends too, although what it waits for never comes."""
    await employ()
    job = await site.train(gate.data)
    waiting = await gate.waited_for(site)
    await _cancel(site, job)
    await site.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", waiting)
    await _nothing_landed(site, world, job)
    assert world.launches == []


async def test_while_it_runs(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train()
    await held.at.wait()
    await _cancel(site, job)
    await _nothing_landed(site, world, job)


async def test_it_is_canceling_until_the_engine_confirms(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    world.hold_cancels = True
    await employ()
    job = await site.train()
    await held.at.wait()
    await _cancel(site, job)
    assert await site.row("SELECT status, phase FROM kwdbml.jobs") == ("CANCELED", "canceling")
    run = world.jobs[world.launches[0]]
    while not run.canceled:
        await site.until("SELECT phase = 'canceling' FROM kwdbml.jobs")
    assert await site.value("SELECT phase FROM kwdbml.jobs") == "canceling"
    world.finish_cancels()
    await _nothing_landed(site, world, job)


async def test_while_it_lands(site: Site, employ: Employ, world: FakeWorld, dsn: str) -> None:
    """The landing waits for the model's row; the cancel does not wait for the landing, and wins."""
    await site.model()
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        await employ()
        job = await site.train(new_version=True)
        await site.in_phase(job, "finalizing")
        await site.until(WAITING)
        await _cancel(site, job)
        assert await site.value("SELECT status::text FROM kwdbml.job") == "CANCELED"
        await blocker.rollback()
    status, _ = await site.ended(job)
    assert status == "CANCELED"
    assert await site.versions() == [(1, True)]
    assert await site.attempts(job) == [(1, "CANCELED")]
    assert world.jobs == {}


async def test_while_the_result_is_fetched(
    site: Site, employ: Employ, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's store may be away for long."""
    fetching = asyncio.Event()

    async def collect(*_: object) -> NoReturn:
        fetching.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FakeEngine, "collect", collect)
    await employ()
    job = await site.train()
    await fetching.wait()
    await _cancel(site, job)
    await _nothing_landed(site, world, job)


async def test_somebody_else_has_it_while_its_engine_is_away(
    site: Site, employ: Employ, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no slot until the engine comes back."""
    world.script = held = plays.Held()
    asked = asyncio.Event()

    async def cancel(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    worker = await employ()
    job = await site.train()
    await held.at.wait()
    with monkeypatch.context() as away:
        away.setattr(FakeEngine, "cancel", cancel)
        await _cancel(site, job)
        await asked.wait()
        await site.run("UPDATE kwdbml.attempt SET token = gen_random_uuid() WHERE job_id = %s", job)
        async with asyncio.timeout(DEADLINE):
            while worker._attempts:  # noqa: ASYNC110 nobody tells
                await asyncio.sleep(0.01)
    await site.expire()
    await _nothing_landed(site, world, job)


async def test_a_late_cancel_is_refused(site: Site, employ: Employ) -> None:
    await employ()
    job = await site.train()
    await site.succeeded(job)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="SUCCEEDED"):
        await _cancel(site, job)
    assert await site.versions() == [(1, True)]


async def test_a_landing_waits_for_an_open_cancel_and_loses(site: Site, employ: Employ, world: FakeWorld) -> None:
    """Whoever commits first has decided."""
    world.script = held = plays.Held()
    await employ()
    job = await site.train()
    await held.at.wait()
    async with site.as_ann.transaction():
        await _cancel(site, job)
        held.go.set()
        await site.until(WAITING)
    await _nothing_landed(site, world, job)


async def test_a_dead_workers_canceled_job_is_confirmed_by_the_next(
    site: Site, employ: Employ, world: FakeWorld
) -> None:
    world.script = held = plays.Held()
    worker = await employ()
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    worker.stop()
    worker.stop()
    await _cancel(site, job)
    assert await site.value("SELECT phase FROM kwdbml.jobs") == "canceling"
    await employ()
    await site.expire()
    await _nothing_landed(site, world, job)


async def test_removing_a_running_job_leaves_nothing(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train()
    await held.at.wait()
    await site.run("SELECT kwdbml.remove_job(%s)", job)
    await site.until("SELECT NOT EXISTS (SELECT FROM kwdbml.cleanup)")
    for left in ("SELECT count(*) FROM kwdbml.attempt", "SELECT count(*) FROM kwdbml.job_log"):
        assert await site.value(left.encode()) == 0
    assert world.jobs == {}
    assert list(world.root.iterdir()) == []
    assert await site.versions() == []


async def test_removing_a_job_whose_worker_is_dead(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    worker = await employ()
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    worker.stop()
    worker.stop()
    await site.run("SELECT kwdbml.remove_job(%s)", job)
    assert await site.value("SELECT count(*) FROM kwdbml.cleanup") == 1
    await employ()
    await site.until("SELECT NOT EXISTS (SELECT FROM kwdbml.cleanup)")
    assert world.jobs == {}


async def test_one_that_does_not_end_holds_up_no_other(site: Site, employ: Employ, world: FakeWorld) -> None:
    left, others = set(range(1, 20)), asyncio.Event()

    class Engine(FakeEngine):
        async def cleanup(self, handle: Handle) -> None:
            if handle["run"] == "0":
                await others.wait()
                raise EngineError("its pods are still there", retryable=True)
            left.discard(int(str(handle["run"])))
            if not left:
                others.set()

    await site.run(
        "INSERT INTO kwdbml.cleanup (engine, run_name, handle)"
        " SELECT 'local', n, jsonb_build_object('run', n::text) FROM generate_series(0, 19) n"
    )
    await employ(engine=Engine(world))
    await site.until("SELECT count(*) = 1 FROM kwdbml.cleanup")
    assert await site.row("SELECT run_name, tries FROM kwdbml.cleanup") == ("0", 1)


async def test_removing_a_finished_job_leaves_its_model(site: Site, employ: Employ) -> None:
    await employ()
    job = await site.train()
    await site.succeeded(job)
    await site.run("SELECT kwdbml.remove_job(%s)", job)
    assert await site.versions() == [(1, True)]


async def test_while_the_reading_connection_does_not_come_up(
    site: Site, employ: Employ, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no backend to terminate yet: the thread is left behind, the job is not."""
    asked, answer = threading.Event(), threading.Event()

    def take(_: Connections) -> None:
        asked.set()
        answer.wait()
        raise DatabaseError("08006", "too late")

    monkeypatch.setattr(Connections, "take", take)
    monkeypatch.setattr(staging, "_CANCEL_WITHIN", 0.1)
    await employ()
    job = await site.train()
    await asyncio.to_thread(asked.wait, DEADLINE)
    await _cancel(site, job)
    try:
        assert (await site.ended(job))[0] == "CANCELED"
    finally:
        answer.set()
    assert world.launches == []
