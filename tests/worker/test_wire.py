"""The database goes away and comes back, or says try again: jobs land once, and nothing is started twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kwdbml.engines.fake import FakeWorld
from kwdbml.queries import QUERIES
from kwdbml.worker import job as attempts
from tests.fixtures.faults import Wire
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import WAITING, WANTED_LOCKS, Gate, Site

MakeWire = Callable[[str], Wire]


@dataclass
class Line:
    """The worker's way to the server: ``fail`` breaks what is connected, ``mend`` lets it come back."""

    dsn: str
    fail: Callable[[], Any]
    mend: Callable[[], Any]


#: Not just any lock: those who notify at the same time wait for each other too.
_WAITED_FOR = f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND relation = %s::regclass"
_ROW_WAITED_FOR = f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND locktype IN ('tuple', 'transactionid')"


async def _nothing() -> None:
    pass


@pytest.fixture(params=["cut", "terminated"])
def line(request: pytest.FixtureRequest, wire: MakeWire, worker_dsn: str, site: Site) -> Line:
    """A wire that is cut, or a server that ends the worker's backends."""
    if request.param == "cut":
        through = wire(worker_dsn)
        return Line(through.dsn, lambda: asyncio.to_thread(through.cut), lambda: asyncio.to_thread(through.mend))
    user = str(conninfo_to_dict(worker_dsn)["user"])
    terminate = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s"
    return Line(worker_dsn, lambda: site.rows(terminate, user), _nothing)


async def test_while_staging(site: Site, employ: Employ, world: FakeWorld, gate: Gate, line: Line) -> None:
    await employ(dsn=line.dsn)
    job = await site.train(gate.data)
    await gate.waited_for(site)
    await line.fail()
    await gate.open()
    await line.mend()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_while_bundles_are_fetched(site: Site, employ: Employ, world: FakeWorld, line: Line, dsn: str) -> None:
    """Nothing is launched yet: it starts afresh, and waits for no lease."""
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("LOCK TABLE kwdbml.artefact_chunk")
        await employ(dsn=line.dsn, lease=600)
        job = await site.train()
        await site.until(_WAITED_FOR, "kwdbml.artefact_chunk")
        await line.fail()
    await line.mend()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_while_following(site: Site, employ: Employ, world: FakeWorld, line: Line) -> None:
    world.script = held = plays.Held()
    await employ(dsn=line.dsn)
    job = await site.train()
    await held.at.wait()
    await site.until("SELECT progress = 0.5 FROM kwdbml.jobs")
    await line.fail()
    world.jobs[world.launches[0]].print("said while nobody listened")
    await line.mend()
    await site.until("SELECT count(*) = 1 FROM kwdbml.job_logs(%s)", job)
    held.go.set()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_while_landing(site: Site, employ: Employ, world: FakeWorld, line: Line, dsn: str) -> None:
    await site.model()
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        await employ(dsn=line.dsn)
        job = await site.train(new_version=True)
        await site.until(_ROW_WAITED_FOR)
        await line.fail()
    await line.mend()
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]
    assert await site.versions() == [(1, True), (2, False)]
    assert len(world.launches) == 1


async def test_while_idle(site: Site, employ: Employ, line: Line) -> None:
    await employ(dsn=line.dsn)
    await line.fail()
    await line.mend()
    await site.one_landed(await site.train())


async def test_while_rows_are_written(site: Site, employ: Employ, world: FakeWorld, line: Line, dsn: str) -> None:
    await site.model(target=[{"name": "y", "type": "INT"}])
    await site.as_ann.execute("CREATE TABLE answers (id int, x float8, late int, y bigint)")
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("LOCK TABLE answers IN ROW EXCLUSIVE MODE")
        await employ(dsn=line.dsn)
        job = await site.predict(action="append")
        await site.until(_WAITED_FOR, "answers")
        await line.fail()
    await line.mend()
    await site.succeeded(job)
    assert await site.value("SELECT count(*) FROM answers") == 50
    assert len(world.launches) == 1


async def test_a_connection_that_a_query_breaks_again_and_again(
    site: Site, employ: Employ, world: FakeWorld, gate: Gate
) -> None:
    """It may be the query's fault: after a few tries that is an error."""
    await employ()
    job = await site.train(gate.data)
    seen: set[int] = set()
    for _ in range(3):
        victim = await gate.waited_for(site)
        assert victim not in seen
        seen.add(victim)
        await site.run("SELECT pg_terminate_backend(%s, 10000)", victim)
    error = await site.failed(job)
    assert error["type"] == "AdminShutdown"
    assert world.launches == []


async def test_a_deadlock_is_retried(site: Site, employ: Employ, world: FakeWorld, dsn: str) -> None:
    """We hold the job and then want the model, the landing the other way round; it is the victim."""
    await site.model()
    options = "-c deadlock_timeout=60s"
    async with await psycopg.AsyncConnection.connect(dsn, options=options) as blocker:
        world.script = held = plays.Held()
        job = await site.train(new_version=True)
        await employ()
        await held.at.wait()
        await blocker.execute("SELECT FROM kwdbml.job FOR UPDATE")
        held.go.set()
        await site.until(WAITING)
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
    await site.succeeded(job)
    assert await site.versions() == [(1, True), (2, False)]


async def test_a_serialization_failure_is_retried(site: Site, employ: Employ, dsn: str, worker_dsn: str) -> None:
    """Also where somebody has given the worker's role another isolation level."""
    await site.model()
    user = str(conninfo_to_dict(worker_dsn)["user"])
    await site.run(
        sql.SQL("ALTER ROLE {} SET default_transaction_isolation = 'repeatable read'").format(sql.Identifier(user))
    )
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("UPDATE kwdbml.model SET description = 'changed'")
        await employ()
        job = await site.train(new_version=True)
        await site.until(WAITING)
        await blocker.commit()
    await site.succeeded(job)
    assert await site.versions() == [(1, True), (2, False)]


async def test_a_lock_timeout_is_retried(site: Site, employ: Employ, dsn: str) -> None:
    await site.model()
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        await employ()
        job = await site.train(new_version=True)
        await site.until(WAITING)
        await site.until(f"SELECT NOT ({WAITING})")
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]
    assert await site.versions() == [(1, True), (2, False)]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A landing waits for a lock for a moment only, and is tried once where it is not a lock that it waits for."""
    monkeypatch.setitem(QUERIES, "lock_timeout", "SET LOCAL lock_timeout = '50ms'")
    monkeypatch.setattr(attempts, "_LANDING_TRIES", 1)
    return monkeypatch


_STEP = "SELECT step = %s FROM kwdbml.jobs WHERE id = %s"
_TOLD = "waiting for a lock on model public.m"


@pytest.fixture
async def held_model(site: Site) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Ann has begun to deploy a version, and does not end it."""
    await site.model()
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as holder:
        await holder.execute("SELECT kwdbml.set_active_version('m', 1)")
        yield holder


@pytest.mark.parametrize("kind", ["train", "evaluate"])
async def test_a_model_that_somebody_holds_is_waited_for(
    site: Site, employ: Employ, hasty: Any, held_model: psycopg.AsyncConnection[Any], kind: str
) -> None:
    await employ()
    if kind == "train":
        job = await site.train(new_version=True)
    else:
        job = await site.submit("SELECT kwdbml.evaluate_model('', 'm', NULL, 'trips', 'f1')")
    await site.until(_STEP, _TOLD, job)
    await held_model.commit()
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]


async def test_a_model_that_is_held_for_good(
    site: Site, employ: Employ, hasty: pytest.MonkeyPatch, held_model: psycopg.AsyncConnection[Any]
) -> None:
    hasty.setattr(attempts, "LOCK_PATIENCE", 0.5)
    await employ()
    error = await site.failed(await site.train(new_version=True))
    assert error["type"] == "LockNotAvailable"
    for word in ("model public.m", "pg_blocking_pids", "pg_locks", "pg_terminate_backend"):
        assert word in error["message"]
    await held_model.rollback()
    await site.succeeded(await site.train(new_version=True))
    assert await site.versions() == [(1, True), (2, False)]


async def test_who_waits_for_a_model_can_be_canceled(
    site: Site, employ: Employ, hasty: Any, held_model: psycopg.AsyncConnection[Any]
) -> None:
    await employ()
    job = await site.train(new_version=True)
    await site.until(_STEP, _TOLD, job)
    await site.submit("SELECT kwdbml.cancel_job(%s)", job)
    assert (await site.ended(job))[0] == "CANCELED"
    await held_model.rollback()
    assert await site.versions() == [(1, True)]


async def test_a_result_table_that_somebody_holds(
    site: Site, employ: Employ, hasty: pytest.MonkeyPatch, dsn: str
) -> None:
    await site.model()
    await site.as_ann.execute("CREATE TABLE answers (id int, x float8, late int, prediction bigint)")
    hasty.setattr(attempts, "LOCK_PATIENCE", 0.5)
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as holder:
        await holder.execute("LOCK answers")
        await employ()
        error = await site.failed(await site.predict(action="replace"))
    assert "lock on table public.answers" in error["message"]
    await site.succeeded(await site.predict(action="replace"))


async def test_a_job_that_its_creator_holds_is_given_up_soon(
    site: Site, employ: Employ, world: FakeWorld, hasty: Any, dsn: str
) -> None:
    """The place is for others."""
    world.script = held = plays.Held()
    job = await site.train()
    await employ()
    await held.at.wait()
    async with await psycopg.AsyncConnection.connect(dsn) as holder:
        await holder.execute("SELECT FROM kwdbml.job FOR UPDATE")
        held.go.set()
        await site.until(WAITING + " AND query LIKE '%worker_fail%'")
    error = await site.failed(job)
    assert (error["type"], "lock timeout" in error["message"]) == ("LockNotAvailable", True)
