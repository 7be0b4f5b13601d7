"""One attempt of one job, from claim to end: stage → launch → follow → land.

Every write to the database carries the token. When the token is lost (``FENCED``), somebody else follows the run, or
the job is gone and its run is in ``kwdbml.cleanup``: then this worker lets go without touching anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
import structlog

from kwdbml.dataset import Connections
from kwdbml.engines.base import Engine, Handle, Run, RunState, RunStatus, Workspace
from kwdbml.errors import EngineError, KwdbmlError
from kwdbml.model import JobType, lower_is_better
from kwdbml.store import FENCED, RETRYABLE, Claim, Store, away
from kwdbml.worker import inputs, landing, locks
from kwdbml.worker.failure import described
from kwdbml.worker.interrupt import Canceled, Fenced, Interrupt
from kwdbml.worker.logs import KeptLog, remarks
from kwdbml.worker.packages import Packages
from kwdbml.worker.staging import hash_of, stage

log = structlog.get_logger()
T = TypeVar("T")

_FOLLOW = 0.5  # seconds between looks at a run's log, unless the engine says otherwise
_AT_A_LOOK, _EVERYTHING = 4, 1_000_000  # chunks of a log, of at most a MiB
_LANDING_TRIES = 6
_CLEAN_WITHIN = 600.0  # seconds that an ended attempt may take to clean up; later it is the sweep's
_MOST_STEP = 200  # characters
#: Seconds for which a landing waits for a lock on the model or result table, which people may hold.
LOCK_PATIENCE = 600.0


class Elsewhere(Exception):
    """The run is on a host of which nothing has been heard for a lease."""


class Attempt:
    """Takes one claimed attempt to its end. ``cancel()`` and ``lose()`` may be called at any time."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        claim: Claim,
        connections: Connections,
        turn: asyncio.Semaphore,
        packages: Packages | None = None,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._turn = turn  # to read data
        self._elsewhere = elsewhere  # it may have been launched on a host that we cannot reach
        self._packages = packages  # None: requirements are not installed here
        self._store, self._engine, self.claim, self._connections = store, engine, claim, connections
        self._interrupt = Interrupt()
        self._spec: dict[str, Any] = {}
        self._log = log.bind(job=str(claim.job_id), attempt=claim.attempt)
        if claim.status == "CANCELED":
            self._interrupt.cancel()
        self.cancel, self.lose = self._interrupt.cancel, self._interrupt.lose

    async def run(self) -> None:
        """Never raises but for asyncio's own cancellation: a job's failure is the job's."""
        handle: Handle | None = None
        try:
            if self._elsewhere:
                raise Elsewhere
            handle = await self._find()
            self._interrupt.check()
            self._spec = await self._outlast(self._store.spec, self.claim)
            if handle is None:
                handle = await self._outlast(self._start)
            status = await self._outlast(self._follow, handle)
            await self._outlast(self._land, handle, status)
        except Canceled:
            await self._guard(self._stop(handle))
        except Fenced:
            self._log.info("attempt.fenced")
        except Elsewhere:
            await self._guard(self._give_up())
        except Exception as error:  # noqa: BLE001 whatever it is, it is this job's
            await self._guard(self._failed(error, handle))

    # -- phases --------------------------------------------------------------------------------------------------

    async def _find(self) -> Handle | None:
        """The run of an attempt that another worker began; a run is started once, so look before launching."""
        if not self.claim.takeover:
            return None
        if self.claim.handle:
            return self.claim.handle
        find = self._interrupt.during(self._engine.find(self.claim.run_name))
        return await self._shown(self.claim.phase, find)

    async def _found(self, handle: Handle | None) -> Handle | None:
        """The run, also one of which we have not heard that it was launched."""
        return handle or await self._engine.find(self.claim.run_name)

    async def _start(self) -> Handle:
        """Stage the data, fill the workspace, launch; the handle, written down."""
        run = inputs.run_of(self.claim, self._spec)
        compared = await self._store.compared(self.claim) if self._promotes else None
        if compared and compared["user_code"] and not compared["problem"]:
            run = replace(run, trusted=False)
        workspace = await self._engine.open(run)
        try:
            staged = await stage(
                self._store, self.claim, self._connections, self._turn, workspace.inputs, self._interrupt
            )
            files = await inputs.fetch_bundles(self._store, self.claim, workspace.inputs)
            if not run.python:  # another has its own libraries, and the step says what they lack
                await self._install(workspace)
            inputs.write_spec(workspace.inputs, self.claim, self._spec, staged, files, compared)
            self._interrupt.check()
            await self._store.update(self.claim, phase="launching")
            return await self._launched(run, workspace)
        except Exception:
            await self._engine.abandon(workspace)
            raise

    async def _launched(self, run: Run, workspace: Workspace) -> Handle:
        """Launch. Told meanwhile, we end that; also of one that came to its end all the same the run will be found."""
        try:
            return await self._interrupt.during(self._shown("launching", self._engine.launch(run, workspace)))
        except Canceled:
            await self._interrupt.unless_lost(self._engine.withdraw(run.name, ours=True))
            raise
        except Fenced:
            await self._engine.withdraw(run.name, ours=False)
            raise

    async def _shown(self, phase: str, work: Coroutine[Any, Any, T]) -> T:
        """What the work answers. While the engine waits for a server that is away, the job's step says so."""
        task, told = asyncio.ensure_future(work), ""
        try:
            while not (await asyncio.wait({task}, timeout=_FOLLOW))[0]:
                trouble = self._trouble()
                if trouble != told and not self._interrupt.told:
                    told = trouble
                    with contextlib.suppress(psycopg.Error):  # whether it is ours still, the heartbeat says
                        step = f"waiting: {trouble}"[:_MOST_STEP] if trouble else ""
                        await self._store.update(self.claim, phase=phase, step=step)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _trouble(self) -> str:
        """What the engine waits for, if it is one that tells."""
        told = getattr(self._engine, "trouble", None)
        return str(told(self.claim.run_name)) if told is not None else ""

    @property
    def _promotes(self) -> bool:
        return "promote" in self._spec["settings"]

    async def _install(self, workspace: Workspace) -> None:
        """What the bundles' requirements.txt ask for, into the workspace; told before the run's own lines."""
        if self._packages is None:
            return
        said: list[str] = []
        try:
            await self._interrupt.during(self._packages.place(workspace, said.append))
            if self._promotes:
                await self._interrupt.during(self._packages.place_active(workspace, said.append))
        finally:
            if said and not self._interrupt.told:
                await self._store.log(self.claim, remarks(said), None)

    async def _follow(self, handle: Handle) -> RunStatus:
        """Until the run has ended: its log and progress go to the database as they come."""
        await self._store.update(self.claim, phase="running", handle=handle)
        kept, every = KeptLog(), getattr(self._engine, "follow", _FOLLOW)
        seen: tuple[str | None, float | None] = (None, None)
        while True:
            self._interrupt.check()
            status = await self._interrupt.during(self._engine.wait(handle, every))
            await self._copy_log(handle, kept, _EVERYTHING if status.ended else _AT_A_LOOK)
            if status.ended:
                return status
            if (status.step, status.fraction) != seen and (status.state == RunState.RUNNING or status.step):
                seen = (status.step, status.fraction)
                await self._store.update(self.claim, phase="running", step=status.step, progress=status.fraction)

    async def _copy_log(self, handle: Handle, kept: KeptLog, most: int) -> None:
        """Store what was printed since, at most so many chunks: a run that never stops printing must not hold us."""
        for _ in range(most):
            chunk = await self._engine.logs(handle, kept.cursor)
            if not chunk.lines and not chunk.cut:
                return
            lines, cut = kept.add(chunk)
            await self._store.log(self.claim, lines, cut)

    async def _collected(self, handle: Handle, status: RunStatus) -> Workspace:
        """What the run left. Of one that failed as far as it can be had: its reason is known."""
        try:
            wanted = landing.wanted(status, JobType(self._spec["type"]), int(self._spec["model_limit"]))
            return await self._interrupt.during(self._shown("collecting", self._engine.collect(handle, wanted)))
        except EngineError as error:
            if status.state == RunState.SUCCEEDED:
                raise
            self._log.warning("collect.failed", why=str(error))
            return self._engine.workspace(handle)

    async def _land(self, handle: Handle, status: RunStatus) -> None:
        workspace = await self._collected(handle, status)
        if status.state != RunState.SUCCEEDED:
            error = landing.error_of(workspace, status)
            self._log.info("run.failed", error=error["type"])
            await self._store.fail(self.claim, error, retry=True)
        else:
            await self._store.update(self.claim, phase="collecting")
            outcome = await asyncio.to_thread(landing.outcome_of, workspace, self._spec["problem_type"])
            outcome["data_hash"] = hash_of(workspace.inputs)
            if self._promotes:
                outcome["better"] = "lower" if lower_is_better(self._spec["settings"]["objective"]) else "higher"
            await self._store.update(self.claim, phase="finalizing")
            await self._retried(lambda: self._land_once(workspace, outcome))
            self._log.info("job.succeeded")
        await self._clean(handle)

    async def _land_once(self, workspace: Workspace, outcome: dict[str, Any]) -> None:
        kind = self._spec["type"]
        if kind == "TRAIN":
            await landing.land_model(self._store, self.claim, workspace, outcome, int(self._spec["model_limit"]))
        elif kind == "EVALUATE":
            await landing.land_metrics(self._store, self.claim, outcome)
        else:
            carried, table = inputs.carried(workspace.inputs), self._spec["settings"]["result_table"]
            await landing.land_rows(self._store, self.claim, workspace, carried, outcome, table)

    async def _retried(self, land: Callable[[], Awaitable[None]]) -> None:
        """Land; again after a deadlock, lost connection or lock timeout. FENCED may then mean that it had landed."""
        others, until = 0, time.monotonic() + LOCK_PATIENCE
        for n in itertools.count():
            began = time.monotonic()
            try:
                await land()
                return
            except psycopg.Error as error:
                if locks.of_others(error):
                    if time.monotonic() >= until:
                        raise locks.held(self._spec) from error
                    await self._store.update(self.claim, step=f"waiting for a lock on {locks.wanted(self._spec)}")
                else:
                    others += 1
                    if others == _LANDING_TRIES or not (error.sqlstate in RETRYABLE or away(error)):
                        raise
                self._log.info("landing.again", why=str(error))
            # as long as the try took, too: a big model is not sent again and again
            await self._interrupt.pause(n, least=time.monotonic() - began if n > _LANDING_TRIES else 0.0)

    async def _outlast(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Do it, and again for as long as the database is away: the run goes on. Fenced when somebody else has it."""
        n = 0
        while True:
            try:
                return await work(*arguments)
            except psycopg.Error as error:
                if not away(error):
                    raise
                self._log.warning("database.away", why=str(error))
            n += 1
            await self._interrupt.pause(n)

    # -- ends ----------------------------------------------------------------------------------------------------

    async def _stop(self, handle: Handle | None) -> None:
        """The job was canceled: its phase stays *canceling* until nothing of it runs."""
        handle = await self._interrupt.unless_lost(self._stopped(handle))
        await self._store.end(self.claim)
        self._log.info("job.canceled")
        await self._clean(handle)

    async def _stopped(self, handle: Handle | None) -> Handle | None:
        handle = await self._found(handle)
        if handle is not None:
            await self._engine.cancel(handle)
            while not (await self._engine.wait(handle, 5.0)).ended:
                pass
        return handle

    async def _give_up(self) -> None:
        """End the attempt of a lost host. Its run is in kwdbml.cleanup for when a worker there comes back."""
        if self.claim.status == "CANCELED":
            await self._store.end(self.claim)
            return
        message = f"nothing has been heard of {self.claim.host}, the host that the run was launched on"
        error = {"type": "Lost", "message": message, "step": "run", "traceback": []}
        await self._store.fail(self.claim, error, retry=True)
        self._log.info("run.lost", host=self.claim.host)

    async def _failed(self, error: Exception, handle: Handle | None) -> None:
        """What went wrong outside the run: the user's data or rights, the engine, the database, or ourselves."""
        # code of a user may raise that one too, while the data is read
        fenced = getattr(error, "sqlstate", None) == FENCED and not isinstance(error, EngineError)
        if self._interrupt.lost or (fenced and await self._let_go(handle)):
            return
        if isinstance(error, psycopg.Error) and away(error):
            # the lease runs out, and whoever comes next finds the run
            self._log.warning("database.away", why=str(error))
            return
        self._log.info("attempt.failed", error=str(error), exc_info=not isinstance(error, KwdbmlError | psycopg.Error))
        retry = (isinstance(error, EngineError) and error.retryable) or away(error)
        await self._store.fail(self.claim, described(error, self._spec.get("type")), retry=retry)
        await self._clean(handle)

    async def _let_go(self, handle: Handle | None) -> bool:
        """Whether somebody else decided. When that was a cancel, the attempt is still ours to end."""
        answers = await self._store.heartbeat([self.claim.token], timedelta(seconds=30))
        status = answers.get(self.claim.token)
        if status == "CANCELED":
            await self._stop(handle)
        elif status is None:
            self._log.info("attempt.fenced")
        return status != "RUNNING"

    async def _clean(self, handle: Handle | None) -> None:
        """Best effort: the row in kwdbml.cleanup stays until it has worked."""
        try:
            async with asyncio.timeout(_CLEAN_WITHIN):
                handle = await self._found(handle)
                if handle is not None:
                    await self._engine.cleanup(handle)
        except (EngineError, TimeoutError) as error:
            self._log.warning("cleanup.later", why=str(error))
            return
        await self._store.cleaned(self.claim.run_name)

    async def _guard(self, ending: Awaitable[None]) -> None:
        try:
            await ending
        except Fenced:
            self._log.info("attempt.fenced")
        except Exception as error:  # noqa: BLE001 the lease runs out, and the next worker ends it
            self._log.warning("attempt.unfinished", why=str(error), exc_info=True)
