"""Reading a job's data into its workspace: in a thread, seen from outside, ended when the job is, and tried again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import structlog

from kwdbml.dataset import Connections, DatabaseError, Reader, Staged
from kwdbml.store import Claim, Store, away
from kwdbml.worker.interrupt import Interrupt

log = structlog.get_logger()

_TRIES = 3
_CANCEL_WITHIN = 5.0  # seconds in which a query must heed its cancellation, and a backend its termination
_TELL_EVERY = 1.0


async def stage(
    store: Store, claim: Claim, connections: Connections, turn: asyncio.Semaphore, inputs: Path, told: Interrupt
) -> Staged:
    """Write ``data.arrow`` and its hash, when it is our turn; again when the connection broke, but not for ever: the
    query may break it."""
    for n in range(1, _TRIES):
        try:
            return await told.during(_in_turn(store, claim, connections, turn, inputs))
        except DatabaseError as error:
            if not away(error):
                raise
            log.info("staging.again", job=str(claim.job_id), why=str(error))
        await told.pause(n)
    return await told.during(_in_turn(store, claim, connections, turn, inputs))


def hash_of(inputs: Path) -> str:
    """SHA-256 of the staged data, kept beside it, because whoever lands the job need not be who staged it."""
    return (inputs / "data.sha256").read_text(encoding="ascii")


async def _in_turn(
    store: Store, claim: Claim, connections: Connections, turn: asyncio.Semaphore, inputs: Path
) -> Staged:
    async with turn:
        return await _once(store, claim, connections, inputs)


async def _once(store: Store, claim: Claim, connections: Connections, inputs: Path) -> Staged:
    reader = Reader(connections)
    work = asyncio.ensure_future(
        asyncio.to_thread(reader.stage, str(claim.job_id), str(claim.token), inputs / "data.arrow")
    )
    work.add_done_callback(lambda done: done.cancelled() or done.exception())  # asyncio complains of unseen ones
    try:
        await _show(store, claim, reader, work)
        staged = work.result()
    except asyncio.CancelledError:
        await _end(store, reader, work)
        raise
    finally:
        connections.prepare()
    (inputs / "data.sha256").write_text(staged.sha256, encoding="ascii")
    return staged


async def _show(store: Store, claim: Claim, reader: Reader, work: asyncio.Future[Staged]) -> None:
    """Until the work is done, tell how far it is. How many rows there will be nobody knows."""
    shown = 0
    while not (await asyncio.wait({work}, timeout=_TELL_EVERY))[0]:
        if reader.rows != shown:
            shown = reader.rows
            try:
                await store.update(claim, step=f"read {shown:,} rows")
            except psycopg.Error as error:  # the work goes on: whether the attempt is ours still, the heartbeat says
                log.info("staging.untold", job=str(claim.job_id), why=str(error))


async def _end(store: Store, reader: Reader, work: asyncio.Future[Staged]) -> None:
    """Stop reading. A thread that waits for more than the server's answer is left behind: it reads nothing more."""
    reader.cancel()
    if (await asyncio.wait({work}, timeout=_CANCEL_WITHIN))[0]:
        return
    if reader.backend is not None:  # the query swallows what cancels it
        await store.terminate(reader.backend)
        await asyncio.wait({work}, timeout=_CANCEL_WITHIN)
