"""Real worker processes and real steps: SIGKILL at any moment, and the next worker goes on where the dead one was."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.worker.conftest import Launch
from tests.worker.site import WAITING, Gate, Site

#: Waits, without burning time, until the test writes into the FIFO; then trains.
WAITS = """
import os
def model_train(x_train, y_train, x_test, y_test):
    from sklearn.linear_model import LogisticRegression
    gate = os.path.join(os.environ["HOME"], "gate")
    os.mkfifo(gate)
    print("waiting", flush=True)
    print("told to", open(gate).read(), flush=True)
    return LogisticRegression().fit(x_train, y_train.values.ravel()), [{"objective": "auc", "score": 0.75}]
"""


@pytest.fixture
async def site(site: Site) -> Site:
    """With a pipeline whose step waits for the test."""
    await site.pipeline("waits", train=WAITS)
    return site


async def _go(scratch: Path) -> None:
    """Let the waiting step go on."""

    def tell() -> None:
        (gate,) = scratch.glob("ws/*/out/**/gate")
        gate.write_text("go")

    await asyncio.to_thread(tell)


async def _waits(site: Site, job: str) -> None:
    await site.until("SELECT count(*) = 1 FROM kwdbml.job_logs(%s) WHERE line = 'waiting'", job)


def _processes(scratch: Path) -> list[str]:
    """Processes that name the scratch root on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(scratch) in line and process.pid != os.getpid():
            found.append(line)
    return found


async def test_killed_while_staging(
    site: Site, launch: Launch, gate: Gate, scratch: Path, empty: Callable[[], bool]
) -> None:
    first = await launch()
    job = await site.train(gate.data, pipeline="waits")
    await gate.waited_for(site)
    await first.end()
    await launch()
    await site.until("SELECT worker NOT LIKE '%%:' || %s FROM kwdbml.jobs", str(first.process.pid))
    await gate.open()
    await _waits(site, job)
    await _go(scratch)
    await site.one_landed(job)
    assert empty()


async def test_killed_while_the_step_runs(site: Site, launch: Launch, scratch: Path, empty: Callable[[], bool]) -> None:
    first = await launch()
    job = await site.train(pipeline="waits")
    await _waits(site, job)
    await first.end()
    await launch()
    await site.until("SELECT worker NOT LIKE '%%:' || %s FROM kwdbml.jobs", str(first.process.pid))
    await _go(scratch)
    await site.one_landed(job)
    assert await site.lines(job) == ["waiting", "told to go"]
    assert empty()


async def test_killed_while_landing(
    site: Site, launch: Launch, dsn: str, scratch: Path, empty: Callable[[], bool]
) -> None:
    await site.model()
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        first = await launch()
        job = await site.train(pipeline="waits", new_version=True)
        await _waits(site, job)
        await _go(scratch)
        await site.until(WAITING)
        await first.end()
        await launch()
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]
    assert await site.versions() == [(1, True), (2, False)]
    assert await site.lines(job) == ["waiting", "told to go"]
    assert empty()


async def test_cancelled_while_it_runs_no_process_is_left(
    site: Site, launch: Launch, scratch: Path, empty: Callable[[], bool]
) -> None:
    worker = await launch()
    job = await site.train(pipeline="waits")
    await _waits(site, job)
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    assert (await site.ended(job))[0] == "CANCELED"
    assert await site.versions() == []
    assert await worker.end(signal.SIGTERM) == 0
    assert empty()
    assert _processes(scratch) == []


async def test_sigterm_finishes_what_runs(site: Site, launch: Launch, scratch: Path) -> None:
    worker = await launch()
    job = await site.train(pipeline="waits")
    await _waits(site, job)
    worker.process.send_signal(signal.SIGTERM)
    await _go(scratch)
    await site.one_landed(job)
    assert await worker.code() == 0


async def test_a_second_sigterm_leaves_at_once(site: Site, launch: Launch, gate: Gate) -> None:
    """Even while the server is reading: the query is cancelled."""
    worker = await launch()
    await site.train(gate.data)
    waiting = await gate.waited_for(site)
    worker.process.send_signal(signal.SIGTERM)
    await site.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", waiting)
    await worker.end(signal.SIGTERM)
    await site.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", waiting)


async def test_let_go_while_the_step_runs_the_next_worker_follows_at_once(
    site: Site, launch: Launch, scratch: Path, empty: Callable[[], bool]
) -> None:
    """Long before the lease is over."""
    first = await launch(KWDBML_LEASE="600")
    job = await site.train(pipeline="waits")
    await _waits(site, job)
    first.process.send_signal(signal.SIGTERM)
    assert await first.end(signal.SIGINT) == 0
    assert await site.value("SELECT worker IS NULL AND phase = 'running' FROM kwdbml.jobs")
    second = await launch()
    await site.until("SELECT worker LIKE '%%:' || %s FROM kwdbml.jobs", str(second.process.pid))
    await _go(scratch)
    await site.one_landed(job)
    assert await site.lines(job) == ["waiting", "told to go"]
    assert empty()


async def test_the_real_steps_train_evaluate_and_predict(site: Site, launch: Launch, empty: Callable[[], bool]) -> None:
    await site.as_ann.execute(
        "SELECT kwdbml.create_training_pipeline('lr', 'logistic_regression', 'late', 'SELECT x, late FROM trips')"
    )
    await launch()
    trained = await site.succeeded(await site.train(pipeline="lr"))
    assert {m["objective"] for m in trained} >= {"auc", "f1"}
    job = await site.submit("SELECT kwdbml.evaluate_model('', 'm', NULL, 'trips', 'f1,auc')")
    assert [m["objective"] for m in await site.succeeded(job)] == ["f1", "auc"]
    assert await site.succeeded(await site.predict()) == {"rows": 50, "table": "public.answers"}
    assert await site.value("SELECT count(*) FROM answers WHERE prediction IN (0, 1)") == 50
    assert empty()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("SELECT * FROM trips WHERE false", "row"),
        ("SELECT id, x, NULL::int AS late FROM trips", "row"),
        ("SELECT id, x, 1 AS late FROM trips", "class"),
    ],
)
async def test_data_that_nothing_can_be_learnt_from(site: Site, launch: Launch, data: str, word: str) -> None:
    await launch()
    await site.pipeline("plain", train=WAITS)
    error = await site.failed(await site.train(data, pipeline="plain"))
    assert word in error["message"], error
    assert await site.versions() == []
