"""The worker's loop: claim, keep leases, listen, sweep, drain.

A notification is a hint to look, anybody can send one; what it misses, the sweep finds. SIGTERM drains: no new job is
taken, those at work are finished; a second one lets go at once: the attempts are given back, and the runs live on for
the next worker to follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import structlog

from kwdbml import __version__
from kwdbml.dataset import Connections
from kwdbml.engines.base import Engine
from kwdbml.engines.local import default_root
from kwdbml.errors import InsufficientPrivilege, WrongState
from kwdbml.settings import WorkerSettings
from kwdbml.store import Claim, Store
from kwdbml.worker.job import Attempt
from kwdbml.worker.packages import Packages

log = structlog.get_logger()

_CONNECTIONS = 16  # to the database at most, of those that are shared; PostgreSQL has 100 by default
_STAGING = 8  # jobs of one engine at most whose data are read at once: each has a connection and a thread of its own
_CLEANING = 100  # runs at once that nobody waits for: each ends when its pods have
_CLEAN_WITHIN = 60.0  # seconds for one run that nobody waits for, in one sweep


@dataclass
class Worker:
    """Jobs on the given engines by name, ``settings.slots`` of each at once."""

    settings: WorkerSettings
    engines: Mapping[str, Engine]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _letting_go: bool = False
    _attempts: dict[UUID, Attempt] = field(default_factory=dict)
    _problem: WrongState | None = None  # why no job is taken any more
    _let_go: list[Claim] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        dsn = self.settings.dsn.get_secret_value()
        self._connections = Connections(dsn)
        slots = {name: self.settings.slots(name) for name in self.engines}
        self._store = Store(dsn, max_size=min(max(4, 2 * sum(slots.values())), _CONNECTIONS))
        self._turns = {name: asyncio.Semaphore(min(count, _STAGING)) for name, count in slots.items()}
        self._packages: Packages | None = None
        if self.settings.install_requirements:
            scratch = self.settings.scratch or default_root()
            self._packages = Packages(scratch, unsafe_no_sandbox=self.settings.unsafe_no_sandbox)
        self._host = socket.gethostname()
        self._name = f"{self.settings.name}:{os.getpid()}"

    async def run(self) -> None:
        """Until drained. Raises when the database is not one this worker may or can serve."""
        await self._store.open()
        try:
            self._check_role(await self._store.whoami())
            for engine in self.engines.values():
                await engine.start()
                if (problem := getattr(engine, "sandbox_problem", None)) is not None:
                    log.warning("sandbox.missing", why=problem.message, cure=problem.hint)
            await self._store.sweep()
            self._connections.prepare()
            self._on_signals()
            await self._serve()
            if self._problem is not None:
                raise self._problem
        finally:
            for engine in self.engines.values():
                await engine.close()
            await self._give_back()
            await self._store.close()
            await asyncio.to_thread(self._connections.close)

    def stop(self) -> None:
        """Drain; the second time: let go."""
        if self._stopping.is_set():
            self._letting_go = True
            for task in self._tasks:
                task.cancel()
        self._stopping.set()
        self._wake.set()

    async def _serve(self) -> None:
        helpers = [asyncio.create_task(t()) for t in (self._listen, self._beat, self._sweep, self._tidy)]
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                if (free := self._free()) and await self._take(free):
                    continue
                self.ready.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self.settings.sweep)
            log.info("worker.draining", jobs=len(self._tasks))
            while self._tasks and not self._letting_go:
                await asyncio.wait(self._tasks, timeout=1.0)
        finally:
            await _cancel([*helpers, *self._tasks])

    async def _give_back(self) -> None:
        """What we have let go of is for the next worker at once. Only when our engines are closed: a launch that was
        under way has come to its end, and is found."""
        for claim in self._let_go:  # one that has ended meanwhile is not ours, and stays as it is
            try:
                await self._store.release(claim)
            except (psycopg.Error, OSError) as error:
                log.warning("release.failed", why=str(error))
                return

    def _free(self) -> list[str]:
        """The engines on which one more job may be at work."""
        busy = Counter(attempt.claim.engine for attempt in self._attempts.values())
        return [name for name in self.engines if busy[name] < self.settings.slots(name)]

    async def _take(self, free: list[str]) -> bool:
        """Claim a job of one of these engines and set to work on it; whether there was one."""
        try:
            claim = await self._store.claim(
                self._name, free, self.settings.lease_interval, self._host, self.settings.queues
            )
        except (psycopg.Error, OSError) as error:
            log.warning("claim.failed", why=str(error))
            await asyncio.sleep(1.0)
            return False
        if claim is None:
            return False
        log.info("job.claimed", job=str(claim.job_id), attempt=claim.attempt, takeover=claim.takeover)
        engine = self.engines[claim.engine]
        elsewhere = engine.host_bound and claim.host not in ("", self._host)
        turn = self._turns[claim.engine]
        attempt = Attempt(self._store, engine, claim, self._connections, turn, self._packages, elsewhere=elsewhere)
        self._attempts[claim.token] = attempt
        task = asyncio.create_task(attempt.run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, claim.token))
        return True

    def _done(self, task: asyncio.Task[None], token: UUID) -> None:
        self._tasks.discard(task)
        attempt = self._attempts.pop(token)
        if task.cancelled():
            self._let_go.append(attempt.claim)
        self._wake.set()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            await self._look()

    async def _look(self, job: str | None = None) -> None:
        """Renew the leases, of one job alone or of all; tell attempts whose job was canceled or taken."""
        held = [token for token, a in self._attempts.items() if job is None or str(a.claim.job_id) == job]
        if not held:
            return
        try:
            answers = await self._store.heartbeat(held, self.settings.lease_interval)
        except (psycopg.Error, OSError) as error:
            log.warning("heartbeat.failed", why=str(error))
            return
        for token in held:
            attempt = self._attempts.get(token)
            if attempt is None:
                continue
            if token not in answers:
                attempt.lose()
            elif answers[token] == "CANCELED":
                attempt.cancel()

    async def _listen(self) -> None:
        """Wake on notifications; a connection that breaks is made anew."""
        while True:
            try:
                async with self._store.listening() as connection:
                    self._wake.set()
                    async for told in connection.notifies():
                        self._wake.set()
                        # with a job's id: it ended; perhaps somebody canceled one of ours
                        await self._look(told.payload)
            except (psycopg.Error, OSError) as error:
                log.warning("listen.failed", why=str(error))
                await asyncio.sleep(1.0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.settings.sweep)
            try:
                if await self._outdated():
                    return
                await self._store.sweep()
            except Exception as error:  # noqa: BLE001 the next sweep tries again
                log.warning("sweep.failed", why=str(error))

    async def _tidy(self) -> None:
        """Work off kwdbml.cleanup: apart from all else, for an engine that is away takes long to say so."""
        bound = [name for name, engine in self.engines.items() if engine.host_bound]
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while self._problem is None:
                await asyncio.sleep(self.settings.sweep)
                try:
                    while len(under_way) < _CLEANING and (
                        rows := await self._store.cleanup(list(self.engines), self._host, bound)
                    ):
                        for row in rows:
                            self._begin_cleaning(row, under_way)
                except Exception as error:  # noqa: BLE001 the next sweep tries again
                    log.warning("cleanup.failed", why=str(error))
        finally:
            await _cancel([*under_way.values()])

    def _begin_cleaning(self, row: dict[str, Any], under_way: dict[str, asyncio.Task[None]]) -> None:
        name = row["run_name"]
        if name not in under_way:
            task = under_way[name] = asyncio.create_task(self._clean(self.engines[row["engine"]], row))
            task.add_done_callback(lambda _: under_way.pop(name))

    async def _outdated(self) -> bool:
        """Whether the extension has become another version than ours: then no new job is taken."""
        version = (await self._store.whoami())["version"]
        if version not in (None, __version__) and self._problem is None:
            self._problem = _other_version(version)
            log.error("worker.outdated", why=self._problem.message, cure=self._problem.hint)
            self.stop()
        return self._problem is not None

    async def _clean(self, engine: Engine, row: dict[str, Any]) -> None:
        """A run that nobody waits for any more. One that cannot be stopped now comes again later."""
        try:
            async with asyncio.timeout(_CLEAN_WITHIN):
                handle = row["handle"] or await engine.find(row["run_name"])
                if handle is not None:
                    await engine.cleanup(handle)
            await self._store.cleaned(row["run_name"])
        except Exception as error:  # noqa: BLE001 whatever it is, it is this run's
            log.warning("cleanup.later", run=row["run_name"], why=str(error))

    def _check_role(self, who: dict[str, Any]) -> None:
        if who["version"] is None:
            raise WrongState(
                "the database has no extension kwdbml", hint="As a superuser: CREATE EXTENSION kwdbml CASCADE;"
            )
        if who["version"] != __version__:
            raise _other_version(who["version"])
        if who["superuser"] and not self.settings.allow_superuser:
            raise InsufficientPrivilege(
                "the worker's role is a superuser",
                hint="Give it a login role that is only a member of kwdbml_worker, or pass --allow-superuser.",
            )
        if not who["is_worker"]:
            raise InsufficientPrivilege(
                "the worker's role is no member of kwdbml_worker", hint="GRANT kwdbml_worker TO it;"
            )

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)


def _other_version(found: str) -> WrongState:
    return WrongState(
        f"the database has kwdbml {found}, this worker is {__version__}",
        hint="ALTER EXTENSION kwdbml UPDATE where the database is older, else a worker of its version.",
    )


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until they have ended: Python 3.11's wait_for, also psycopg's, swallows a cancellation that comes together
    with what it waits for."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)
