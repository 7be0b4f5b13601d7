"""Who does a job: one worker at a time, the next one when the first is gone, and nobody too late."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from kwdbml.engines.base import RunState, RunStatus
from kwdbml.engines.fake import FakeEngine, FakeJob, FakeWorld
from kwdbml.errors import EngineError
from kwdbml.model import JobType
from kwdbml.worker.loop import Worker
from tests.fixtures.database import Connect, MakeRole
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import DEADLINE, WAITING, Gate, Site

#: A worker that never renews its lease: as good as dead, except that it comes back.
ASLEEP = 3600.0


async def test_two_workers_run_no_job_twice(site: Site, employ: Employ, world: FakeWorld) -> None:
    await employ(concurrency=2)
    await employ(concurrency=2)
    jobs = [await site.train(model=f"m{n}") for n in range(16)]
    for job in jobs:
        await site.succeeded(job)
    assert len(world.launches) == len(set(world.launches)) == len(jobs)
    assert await site.value("SELECT count(*) FROM kwdbml.model_version WHERE version = 1") == len(jobs)
    assert await site.value("SELECT count(*) FROM kwdbml.attempt") == len(jobs)


async def test_as_many_jobs_at_once_as_allowed(site: Site, employ: Employ, world: FakeWorld) -> None:
    running: list[str] = []
    both, go = asyncio.Event(), asyncio.Event()

    async def script(job: FakeJob) -> int:
        running.append(job.run.name)
        if len(running) == 2:
            both.set()
        await go.wait()
        return plays.step(job)

    world.script = script
    await employ(concurrency=2)
    jobs = [await site.train(model=f"m{n}") for n in range(3)]
    await asyncio.wait_for(both.wait(), 30)
    await site.until(
        "SELECT count(*) = 1 FROM kwdbml.jobs WHERE phase = 'queued' AND waiting_for = 'a worker for engine local'"
    )
    assert len(running) == 2
    go.set()
    for job in jobs:
        await site.succeeded(job)


async def test_an_engine_that_is_full_holds_up_no_other(
    site: Site, employ: Employ, world: FakeWorld, tmp_path: Path
) -> None:
    far = FakeWorld(tmp_path / "far", held := plays.Held())
    await employ(kubeflow=FakeEngine(far))
    first = await site.train(model="first", engine="kubeflow")
    await held.at.wait()
    second = await site.train(model="second", engine="kubeflow", priority="HIGH")
    near = await site.train(model="near")
    await site.until("SELECT status = 'SUCCEEDED' FROM kwdbml.job WHERE id = %s", near)
    assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", second) == "queued"
    assert len(far.launches) == 1
    held.go.set()
    for job in (first, second):
        await site.succeeded(job)
    assert (len(world.launches), len(far.launches)) == (1, 2)


async def test_higher_priority_first_then_the_older(site: Site, employ: Employ, world: FakeWorld) -> None:
    jobs = {p: await site.train(model=f"m_{p}", priority=p) for p in ("LOW", "NORMAL", "HIGH")}
    last = await site.train(model="later")
    await employ()
    for job in (*jobs.values(), last):
        await site.succeeded(job)
    order = [name.split("-", 2)[2].rsplit("-", 1)[0] for name in world.launches]
    assert order == [jobs["HIGH"], jobs["NORMAL"], last, jobs["LOW"]]


async def test_sigterm_drains(site: Site, employ: Employ, world: FakeWorld) -> None:
    held = plays.Held()
    world.script = held
    worker = await employ()
    job = await site.train()
    await held.at.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    queued = await site.train(model="other")
    held.go.set()
    await site.one_landed(job)
    assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", queued) == "queued"
    assert worker.ready.is_set()


async def test_a_second_sigterm_lets_go_and_the_next_worker_goes_on(
    site: Site, employ: Employ, world: FakeWorld
) -> None:
    held = plays.Held()
    world.script = held
    worker = await employ()
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    worker.stop()
    worker.stop()
    await site.until("SELECT waiting_for = 'a worker for engine local' AND worker IS NULL FROM kwdbml.jobs")
    await employ()
    await site.until("SELECT worker LIKE 'w2:%%' FROM kwdbml.jobs")
    held.go.set()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_a_run_that_was_given_back_waits_for_its_host(
    site: Site, employ: Employ, world: FakeWorld, worker_dsn: str
) -> None:
    """A worker elsewhere could not follow it, and gets it only after the lease; the old token decides nothing more."""
    world.script = held = plays.Held()
    worker = await employ()
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    token = await site.value("SELECT token FROM kwdbml.attempt")
    worker.stop()
    worker.stop()
    await site.until("SELECT worker IS NULL FROM kwdbml.jobs")
    claim = "SELECT job_id::text FROM kwdbml.worker_claim('other', '{local}', '30 s', %s)"
    async with await psycopg.AsyncConnection.connect(worker_dsn, autocommit=True) as other:
        assert await (await other.execute(claim, ["elsewhere"])).fetchall() == []
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            await other.execute("SELECT kwdbml.worker_fail(%s, %s, '{}', false)", [job, token])
        assert await (await other.execute(claim, [socket.gethostname()])).fetchall() == [(job,)]
        await site.expire()
        assert await (await other.execute(claim, ["elsewhere"])).fetchall() == [(job,)]
        await site.expire()
    await employ()
    held.go.set()
    await site.one_landed(job)
    assert len(world.launches) == 1
    assert re.fullmatch("[0-9a-f]{64}", await site.value("SELECT data_hash FROM kwdbml.jobs"))


async def test_a_run_is_found_and_followed_after_the_lease(site: Site, employ: Employ, world: FakeWorld) -> None:
    held = plays.Held()
    world.script = held
    await employ(heartbeat=ASLEEP)
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    await employ()
    await site.expire()
    await site.until("SELECT worker LIKE 'w2:%%' FROM kwdbml.jobs")
    held.go.set()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_the_old_workers_late_landing_is_refused(site: Site, employ: Employ, world: FakeWorld) -> None:
    """It wakes up after another has the job, and lands first if it could: the token decides, not the clock."""
    world.script = held = plays.Held()
    old = await employ(heartbeat=ASLEEP, sweep=ASLEEP)
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    await _taken_and_let_go(site, old, held.go.set)
    await employ()
    await site.expire()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_a_landing_that_waited_for_a_lock_is_refused_too(
    site: Site, employ: Employ, world: FakeWorld, connect: Connect, dsn: str
) -> None:
    """It still held the token when it began."""
    await site.model()
    blocker = connect(dsn, autocommit=False)
    blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
    old = await employ(heartbeat=ASLEEP, sweep=ASLEEP)
    job = await site.train(new_version=True)
    await site.until(WAITING)
    await _taken_and_let_go(site, old, blocker.rollback)
    await employ()
    await site.expire()
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]
    assert await site.versions() == [(1, True), (2, False)]
    assert len(world.launches) == 1


async def _taken_and_let_go(site: Site, old: Worker, go: Callable[[], None]) -> None:
    """Another worker has the attempt, then the old one goes on: it lets go, and nothing has landed."""
    before = await site.value("SELECT count(*) FROM kwdbml.model_version")
    token = await site.value("UPDATE kwdbml.attempt SET token = gen_random_uuid() RETURNING token")
    tasks = set(old._tasks)
    go()
    await asyncio.wait(tasks, timeout=DEADLINE)
    assert await site.row("SELECT token, ended FROM kwdbml.attempt") == (token, None)
    assert await site.value("SELECT status::text FROM kwdbml.job") == "RUNNING"
    assert await site.value("SELECT count(*) FROM kwdbml.model_version") == before


async def test_a_retry_is_a_new_attempt_with_a_run_of_its_own(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = plays.fail
    await employ()
    job = await site.train(retries=2)
    error = await site.failed(job)
    assert error["type"] == "ValueError"
    assert await site.attempts(job) == [(1, "ValueError"), (2, "ValueError"), (3, "ValueError")]
    assert [name.rsplit("-", 1)[1] for name in world.launches] == ["1", "2", "3"]


async def test_a_retry_that_succeeds_is_a_success(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = lambda job: plays.fail(job) if job.run.name.endswith("-1") else plays.step(job)
    await employ()
    job = await site.train(retries=1)
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "ValueError"), (2, "SUCCEEDED")]
    assert await site.versions() == [(1, True)]


@pytest.mark.parametrize("point", ["before launch", "after launch"])
async def test_a_worker_that_dies_around_the_launch_costs_no_retry(
    site: Site, employ: Employ, world: FakeWorld, point: str
) -> None:
    world.crashes.add(point)
    await employ()
    job = await site.train()
    await site.until("SELECT phase = 'launching' FROM kwdbml.attempt")
    await site.until("SELECT %s", True)
    while point in world.crashes:
        await site.until("SELECT phase = 'launching' FROM kwdbml.attempt")
    await site.expire()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_a_worker_that_dies_while_staging_costs_no_retry(
    site: Site, employ: Employ, world: FakeWorld, gate: Gate
) -> None:
    worker = await employ()
    job = await site.train(gate.data)
    await gate.waited_for(site)
    worker.stop()
    worker.stop()
    await gate.open()
    await employ()
    await site.expire()
    await site.one_landed(job)
    assert len(world.launches) == 1


async def test_a_lost_run_fails_the_job(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train()
    await held.at.wait()
    world.lose(world.launches[0])
    error = await site.failed(job)
    assert error["type"] == "Lost"


async def test_a_lost_run_is_retried(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train(retries=1)
    await held.at.wait()
    held.go.set()
    world.script = plays.step
    world.lose(world.launches[0])
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "Lost"), (2, "SUCCEEDED")]


async def test_a_run_of_another_host_is_lost(site: Site, employ: Employ, world: FakeWorld) -> None:
    """The first worker's host is gone; a second one on another host knows nothing of its runs."""
    world.script = held = plays.Held()
    await employ(heartbeat=ASLEEP)
    job = await site.train()
    await held.at.wait()
    await site.in_phase(job, "running")
    other = FakeWorld(world.root.parent / "other", plays.step)
    await employ(engine=FakeEngine(other))
    await site.expire()
    error = await site.failed(job)
    assert error["type"] == "Lost"
    assert other.launches == []


async def test_an_engine_that_cannot_tell_is_asked_again(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train()
    await held.at.wait()
    world.states[world.launches[0]] = RunStatus(RunState.UNKNOWN)
    held.go.set()
    await world.run(world.launches[0])
    assert await site.value("SELECT status::text FROM kwdbml.job WHERE id = %s", job) == "RUNNING"
    world.states.clear()
    await site.one_landed(job)


@pytest.mark.parametrize(("retryable", "attempts"), [(True, 2), (False, 1)])
async def test_an_engine_that_refuses(
    site: Site, employ: Employ, world: FakeWorld, retryable: bool, attempts: int
) -> None:
    world.refuse = EngineError("no room", hint="Make some.", retryable=retryable)
    await employ()
    job = await site.train(retries=1)
    error = await site.failed(job)
    assert (error["type"], error["message"]) == ("EngineError", "no room (Make some.)")
    assert len(await site.attempts(job)) == attempts


async def test_a_restored_job_never_runs(site: Site, employ: Employ, world: FakeWorld) -> None:
    """Running when the dump was made: one whose attempt is open, and one that was queued."""
    jobs = [await site.train(), await site.train(model="queued")]
    await site.run(
        "INSERT INTO kwdbml.attempt (job_id, number, worker, lease_until, engine, run_name)"
        " VALUES (%s, 1, 'far away', '-infinity', 'local', 'kwdbml-elsewhere')",
        jobs[0],
    )
    await site.run("UPDATE kwdbml.installation SET id = gen_random_uuid()")
    await employ()
    for job in jobs:
        error = await site.failed(job)
        assert (error["type"], "restored from a backup" in error["message"]) == ("Restored", True)
    assert world.launches == []
    assert await site.attempts(jobs[0]) == [(1, "RESTORED")]


async def test_a_job_of_another_engine_is_left_alone(site: Site, employ: Employ, world: FakeWorld) -> None:
    job = await site.train()
    await site.run("UPDATE kwdbml.job SET engine = 'elsewhere' WHERE id = %s", job)
    await employ()
    await site.succeeded(await site.train(model="other"))
    assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", job) == "queued"


async def test_a_worker_serves_only_its_queues(site: Site, employ: Employ, world: FakeWorld) -> None:
    job = await site.train(queue="night")
    await employ(queues=["default"])
    await site.succeeded(await site.train(model="other"))
    assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", job) == "queued"
    await employ(queues=["night", "weekend"])
    await site.succeeded(job)


@pytest.mark.parametrize("phase", ["launching", "running"])
async def test_what_a_lost_host_launched_is_lost(site: Site, employ: Employ, world: FakeWorld, phase: str) -> None:
    job = await site.train()
    await site.run(
        "INSERT INTO kwdbml.attempt (job_id, number, worker, host, lease_until, engine, run_name, phase)"
        " VALUES (%s, 1, 'gone', 'a-host-of-the-past', '-infinity', 'local', 'run-of-the-past', %s)", job, phase,
    )  # fmt: skip
    engine = FakeEngine(world)
    engine.host_bound = True
    await employ(engine=engine)
    await site.until("SELECT status = 'FAILED' FROM kwdbml.jobs WHERE id = %s", job)
    assert (await site.value("SELECT error FROM kwdbml.jobs WHERE id = %s", job))["type"] == "Lost"
    left = "SELECT count(*) FROM kwdbml.cleanup WHERE run_name = 'run-of-the-past'"
    assert await site.value(left) == 1, "for when a worker there comes back"


async def test_what_a_lost_host_only_staged_starts_again(site: Site, employ: Employ, world: FakeWorld) -> None:
    job = await site.train()
    await site.run(
        "INSERT INTO kwdbml.attempt (job_id, number, worker, host, lease_until, engine, run_name)"
        " VALUES (%s, 1, 'gone', 'a-host-of-the-past', '-infinity', 'local', 'run-of-the-past')", job,
    )  # fmt: skip
    engine = FakeEngine(world)
    engine.host_bound = True
    await employ(engine=engine)
    await site.succeeded(job)


async def test_the_run_is_told_resources_time_and_environment(site: Site, employ: Employ, world: FakeWorld) -> None:
    seen = []

    def script(job: FakeJob) -> int:
        seen.append(job.run)
        return plays.step(job)

    world.script = script
    await employ()
    await site.succeeded(await site.train(flavour={"cpu": "500m", "mem": "1Gi"}, ttl=90, env={"A": "b"}))
    run = seen[0]
    assert (run.resources.cpu, run.resources.memory, run.ttl, run.env) == (0.5, 1 << 30, 90.0, {"A": "b"})
    assert not run.trusted


async def test_the_run_is_told_what_its_flavour_is(
    site: Site, employ: Employ, world: FakeWorld, role: MakeRole
) -> None:
    """Under the name that the job gave; and whose job of what it is."""
    with role("chief", member_of=["kwdbml_admin"]).connect() as chief:
        insert = "INSERT INTO kwdbml.flavour (name, cpu, mem, node_selector) VALUES ('small', '250m', '1Gi', %s)"
        chief.execute(insert, ['{"a": "b"}'])
    seen = []

    def script(job: FakeJob) -> int:
        seen.append(job.run)
        return plays.step(job)

    world.script = script
    await employ()
    await site.succeeded(await site.train(flavour={"name": "small", "cpu": "9"}, labels={"team": "x"}, image="own:1"))
    resources, placement, about = seen[0].resources, seen[0].placement, seen[0].about
    assert (resources.cpu, resources.memory) == (0.25, 1 << 30)
    assert (placement.image, placement.node_selector, placement.mounts) == ("own:1", {"a": "b"}, [])
    assert (about.type, about.model, about.labels) == (JobType.TRAIN, "public.m", {"team": "x"})


async def test_only_built_in_code_is_trusted(site: Site, employ: Employ, world: FakeWorld) -> None:
    seen = []

    def script(job: FakeJob) -> int:
        seen.append(job.run.trusted)
        return plays.step(job)

    world.script = script
    make = "SELECT kwdbml.create_training_pipeline('built_in', 'logistic_regression', 'late', 'trips')"
    await site.as_ann.execute(make)
    await employ()
    await site.succeeded(await site.train(pipeline="built_in"))
    assert seen == [True]
