"""The Kubeflow engine: every run is a Kubeflow Pipelines v2 run, on a cluster.

What matters is never in memory alone: the run is found by its name in KFP, its files and its manifest lie in the object
store below that name, its access in a Secret. The workspaces on this machine are copies that any engine can make again.
Who looks at runs is ``kfp/watch.py`` and ``kfp/look.py``, what an end means ``kfp/verdict.py``; what happens in the pod
is ``kwdbml.steps.pod``.

A run is started once. Its name is looked up before it is created; which one counts, should it be created twice all the
same, is ``kfp/runs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from kwdbml.engines.base import EVERYTHING, Handle, LogChunk, Run, RunState, RunStatus, Wanted, Workspace
from kwdbml.engines.kfp import access, download, names, pipeline, upload, verdict
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.calls import RUN, Calls, Clock
from kwdbml.engines.kfp.cluster import Cluster
from kwdbml.engines.kfp.look import Followed, Look
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.places import Places, is_slot
from kwdbml.engines.kfp.podlog import PodLog
from kwdbml.engines.kfp.runs import Runs
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.storeerrors import on_disk
from kwdbml.engines.kfp.sweep import EVERY, sweep
from kwdbml.engines.kfp.upload import STEP_COMMAND
from kwdbml.engines.kfp.watch import Watch
from kwdbml.errors import EngineError

log = structlog.get_logger()

_GONE_WITHIN = 300.0  # seconds in which a terminated run's pods must be gone
_NO_RUN = "Kubeflow has no such run"


class KubeflowEngine:
    """``root``: where copies of workspaces lie on this machine. ``disk``: bytes that a run's outputs may take there;
    None: no limit. ``command``: the step's in the pod, ``clock``: both for tests."""

    name = "kubeflow"
    host_bound = False

    def __init__(
        self,
        settings: KubeflowSettings,
        root: Path,
        *,
        disk: int | None = None,
        command: Sequence[str] = STEP_COMMAND,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._disk, self._command = settings, disk, command
        self.follow = max(0.5, settings.poll)  # seconds: ``wait`` ends when there is something new, lines included
        self._clock = clock or Clock()
        self._places = Places(root)
        self._store = ObjectStore(settings.s3)
        self._api = KfpApi(settings, sleep=self._clock.sleep)
        self._cluster = Cluster(settings, sleep=self._clock.sleep)
        self._calls = Calls(self._clock)
        self._runs = Runs(self._calls, self._api, self._cluster)
        self._look = Look(settings, self._calls, self._api, self._cluster, self._store)
        self._watch = Watch(self._look, self._places.let_go)
        self._sweeping: asyncio.Task[None] | None = None
        self._opened: set[str] = set()  # slots
        self._launches: dict[str, asyncio.Task[Handle]] = {}  # under way, by run name
        self._installations: set[str] = set()  # whose runs we are asked for: one, but in tests
        self._asked = asyncio.Event()

    # -- the engine's life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Nobody is asked anything yet: a server that is away must not keep the worker from its other engines."""
        await asyncio.to_thread(self._places.sweep)
        self._watch.start()
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """A launch that is under way ends when its call has: whoever comes next finds the run, or nothing."""
        self._calls.end()
        if self._launches:
            await asyncio.wait(self._launches.values(), timeout=self._calls.left)
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        await self._watch.close()
        await self._calls.close()
        for slot in self._opened:
            await asyncio.to_thread(self._places.remove, slot)
        self._opened.clear()
        await asyncio.to_thread(self._places.close)

    async def _sweep(self) -> None:
        """What is ours is known as soon as we are asked for a run."""
        await self._asked.wait()
        while not self._calls.closing.is_set():
            try:
                work = self._settings, self._api, self._cluster, self._store, self._busy
                for installation in sorted(self._installations):
                    await self._calls.call(sweep, *work, installation, bulk=True)
                await asyncio.to_thread(self._places.sweep)
            except Exception as error:  # noqa: BLE001 the next one tries again
                log.warning("kubeflow.sweep", why=str(error))
            await self._clock.pause(EVERY, self._calls.closing)

    def _learn(self, run_name: str) -> None:
        RUN.set(run_name)
        if installation := names.installation_of(run_name):
            self._installations.add(installation)
            self._asked.set()

    def _busy(self) -> set[str]:
        return {*self._launches, *(one.name for one in list(self._watch.followed.values()))}

    def trouble(self, run_name: str) -> str:
        """Who is waited for, when somebody does not answer."""
        return self._calls.trouble(run_name)

    # -- places on this machine ----------------------------------------------------------------------------------

    def workspace(self, handle: Handle) -> Workspace:
        slot = str(handle.get("slot", ""))
        return Workspace(self._places.path(slot), slot, sealed=True)

    async def open(self, run: Run) -> Workspace:  # noqa: ARG002 the protocol's
        slot = secrets.token_hex(8)
        await asyncio.to_thread(self._make, slot)
        self._opened.add(slot)
        return Workspace(self._places.path(slot), slot, sealed=True)

    def _make(self, slot: str) -> Path:
        with on_disk(f"workspace {slot}"):
            return self._places.make(slot)

    async def abandon(self, workspace: Workspace) -> None:
        if workspace.slot in self._opened:
            self._opened.discard(workspace.slot)
            await asyncio.to_thread(self._places.remove, workspace.slot)

    # -- launch --------------------------------------------------------------------------------------------------

    async def launch(self, run: Run, workspace: Workspace) -> Handle:
        """Upload, give access, start. EngineError for what is refused; while somebody is away, or does not let us, this
        waits. Whoever stops waiting does not stop it: ``withdraw`` does."""
        self._learn(run.name)
        if (launching := self._launches.get(run.name)) is None:
            launching = self._launches[run.name] = asyncio.create_task(self._launch(run, workspace))
            launching.add_done_callback(lambda done: self._launched(run.name, done))
            return await asyncio.shield(launching)
        handle = await asyncio.shield(launching)
        await self.abandon(workspace)
        return handle

    def _launched(self, name: str, done: asyncio.Task[Handle]) -> None:
        self._launches.pop(name, None)
        done.cancelled() or done.exception()  # looked at: whoever launched it may have stopped waiting

    async def _launch(self, run: Run, workspace: Workspace) -> Handle:
        self._runs.begin(run.name)
        if (found := await self._runs.find(run.name)) is not None:
            await self.abandon(workspace)
            return _handle(found)
        if workspace.slot not in self._opened:
            text = "this workspace was not opened by this worker, or was given back"
            raise EngineError(text, retryable=True)
        created, signed = await self._create(run, workspace)
        handle = _handle(created)
        await self.abandon(workspace)  # the store has it all: ``collect`` brings back what landing needs
        one = await self._follow(handle, self._calls.outlast)
        one.renew_at = signed + self._settings.presign / 2
        one.pods_asked, one.ttl = self._clock.now(), run.ttl
        return handle

    async def _create(self, run: Run, workspace: Workspace) -> tuple[KfpRun, float]:
        """The run, and when its addresses were signed: Kubeflow may have been away for long since."""
        filled = pipeline.fill(run, self._settings, self._store.uri(run.name, "pipeline"))  # refuses, before all else
        outlast, created = functools.partial(self._calls.outlast, patient=True), None
        threads = max(1, math.ceil(run.resources.cpu or 1))
        try:
            content = await outlast(
                upload.upload_run, self._store, run, workspace.inputs,
                threads=threads, presign=self._settings.presign, turn=secrets.token_hex(8),
                unsafe=self._settings.unsafe_no_landlock, command=self._command, bulk=True,
            )  # fmt: skip
            signed = self._clock.now()
            secret, labels = names.secret_name(run.name), names.labels_of(run.name)
            await outlast(self._cluster.put_secret, secret, labels, {names.RUN: run.name}, {"access.json": content})
            created = await outlast(self._api.create, filled)
            return await self._runs.choose(run.name, [created]), signed
        except EngineError as error:
            if not self._calls.closing.is_set():
                await self._take_back(run.name, created, error)
            raise

    async def withdraw(self, run_name: str, *, ours: bool) -> None:
        """Nothing is tried again; the call that is under way ends first: what it still writes would be there when all
        the rest is deleted. ``ours``: nobody else may be launching it."""
        self._learn(run_name)
        if (launching := self._launches.get(run_name)) is None:
            return
        launching.cancel()
        await asyncio.wait({launching})
        if not ours or not launching.cancelled() or not await self._calls.over(launching):
            return
        try:
            if await self._runs.surely(run_name) is None:
                self._runs.refuse(run_name)
                await self._delete_files(run_name)
        except EngineError as error:  # we are closing
            log.warning("kubeflow.left", run=run_name, why=str(error))

    async def _take_back(self, name: str, created: KfpRun | None, error: EngineError) -> None:
        """A launch that was refused leaves nothing; unless another worker's launch of it was not. Best effort: the
        sweep finds the rest."""
        log.info("kubeflow.refused", run=name, why=str(error))
        call = self._calls.call
        try:
            if created is not None:
                await call(self._api.terminate, created.run_id)
                await call(self._api.put_away, created.run_id)
            # of a creation that got no answer the run may come yet: then its files stay, for the sweep at the latest
            if not await call(self._api.find, name) and not self._api.is_unsure(name):
                self._runs.refuse(name)
                await self._delete_files(name)
        except EngineError as other:
            log.warning("kubeflow.left", run=name, why=str(other))

    async def _delete_files(self, name: str) -> None:
        """What a run has in cluster and store. EngineError when not all of it could be deleted."""
        secret, failed = self._cluster.delete_secret, None
        todo = (
            (secret, names.secret_name(name)),
            (access.delete_run, self._store, name),
            (secret, names.claim_name(name)),
        )
        for what in todo:
            try:
                await self._calls.call(*what)
            except EngineError as error:
                log.warning("kubeflow.left", run=name, why=str(error))
                failed = error
        if failed is not None:
            raise failed

    async def find(self, run_name: str) -> Handle | None:
        """The run of that name. While nobody can tell, this waits."""
        self._learn(run_name)
        if (launching := self._launches.get(run_name)) is not None:
            await asyncio.wait({launching})
        found = await self._runs.surely(run_name)
        return None if found is None else _handle(found)

    # -- following -----------------------------------------------------------------------------------------------

    async def _follow(self, handle: Handle, do: Callable[..., Awaitable[Path]]) -> Followed:
        own = await do(self._make, str(handle["slot"]))
        known = self._watch.followed.get(str(handle["run_id"]))
        return known or self._watch.follow(Followed(handle, own.parent, PodLog(own)))

    async def _known(self, handle: Handle, *, wait: bool = False) -> Followed | None:
        """The run of a handle that can be one of ours; None for any other. ``wait``: while nobody can tell."""
        run_id = str(handle.get("run_id", ""))
        self._learn(str(handle.get("run", "")))
        if handle.get("engine") != self.name or handle.get("slot") != _slot(run_id):
            return None
        one = self._watch.followed.get(run_id)
        if one is None:
            ask = self._calls.outlast(self._api.get, run_id, patient=True) if wait else self._calls.call(
                self._api.get, run_id
            )  # fmt: skip
            run = await ask
            if run is None or run.archived or _handle(run) != handle:
                return None
            one = await self._follow(handle, self._calls.outlast if wait else self._calls.call)
            one.ttl = run.ttl  # lists may lack it
        one.asked_at = self._clock.now()
        return one if one.handle == handle else None

    async def poll(self, handle: Handle) -> RunStatus:
        try:
            one = await self._known(handle)
            if one is None:
                return verdict.lost(_NO_RUN)
            if one.status.ended:  # somebody may have put it away since
                run = await self._calls.call(self._api.get, one.run_id)
                if run is None or run.archived:
                    self._watch.forget(one)
                    return verdict.lost(_NO_RUN)
            else:
                await self._look.at(one, read=True)
        except EngineError as error:
            return RunStatus(RunState.UNKNOWN, message=str(error))
        return one.status

    async def wait(self, handle: Handle, timeout: float) -> RunStatus:
        try:
            one = await self._known(handle)
        except EngineError as error:
            await self._clock.pause(min(timeout, self._settings.poll), self._calls.closing)
            return RunStatus(RunState.UNKNOWN, step=f"waiting: {error}", message=str(error))
        if one is None:
            return verdict.lost(_NO_RUN)
        if not one.status.ended:
            with contextlib.suppress(TimeoutError):  # not wait_for, which swallows a cancel that comes with the event
                async with asyncio.timeout(timeout):
                    await one.changed.wait()
            one.changed.clear()
        return one.status

    async def logs(self, handle: Handle, cursor: int = 0) -> LogChunk:
        try:
            one = await self._known(handle)
        except EngineError:
            one = None
        if one is None or one.log.idle(cursor):  # a thread for each look at each of a thousand logs is a core's work
            return LogChunk((), cursor)
        return await asyncio.to_thread(one.log.read, cursor)

    async def collect(self, handle: Handle, wanted: Wanted = EVERYTHING) -> Workspace:
        """What is wanted, from the store. Every file is what it was when it was written."""
        workspace, name = self.workspace(handle), str(handle["run"])
        self._learn(name)
        if one := self._watch.followed.get(str(handle["run_id"])):
            one.collected = True
        outlast = self._calls.outlast
        await outlast(self._make, workspace.slot)
        manifest = await outlast(download.read_manifest, self._store, name, patient=True)
        if manifest is None:
            return workspace
        outputs = self._store, name, manifest, workspace.outputs, wanted.outputs
        await outlast(download.fetch_outputs, *outputs, disk=self._disk, patient=True, bulk=True)
        inputs = self._store, name, workspace.inputs, wanted.inputs, manifest.turn
        await outlast(download.fetch_inputs, *inputs, patient=True, bulk=True)
        return workspace

    # -- ends ----------------------------------------------------------------------------------------------------

    async def cancel(self, handle: Handle) -> None:
        one = await self._known(handle, wait=True)
        if one is not None and not one.status.ended:
            await self._look.stop(one, verdict.canceled(), patient=True)

    async def cleanup(self, handle: Handle) -> None:
        """Cancel, wait until no pod lives, put the run away, delete Secrets and files. EngineError when somebody does
        not answer: to be tried again."""
        one = await self._known(handle)
        if one is not None:
            if not one.status.ended:
                await self._look.at(one, read=False)
            if not one.status.ended:
                await self._look.stop(one, verdict.canceled())
                await self._gone(one)
            await self._put_away(one)
        if is_slot(handle.get("slot")) and handle.get("slot") == _slot(str(handle.get("run_id"))):
            await asyncio.to_thread(self._places.remove, str(handle["slot"]))
            if one is None and not await self._calls.call(self._api.find, str(handle["run"])):
                await self._delete_files(str(handle["run"]))  # of a run that somebody else deleted or archived

    async def _gone(self, one: Followed) -> None:
        try:
            async with asyncio.timeout(_GONE_WITHIN):
                while not (await self.wait(one.handle, 5.0)).ended:
                    pass
        except TimeoutError:
            text = f"pods of run {one.name} are still there {_GONE_WITHIN:g} seconds after it was terminated"
            raise EngineError(text, hint="Look at them with kubectl.", retryable=True) from None

    async def _put_away(self, one: Followed) -> None:
        """The run last: while it is there, whoever comes after a crash finds the rest by it."""
        await self._delete_files(one.name)
        await self._calls.call(self._api.terminate, one.run_id)  # one of which KFP has not seen the end
        await self._calls.call(self._api.put_away, one.run_id)
        self._watch.forget(one)


def _slot(run_id: str) -> str:
    return hashlib.sha256(run_id.encode()).hexdigest()[:16]


def _handle(run: KfpRun) -> Handle:
    return {"engine": KubeflowEngine.name, "run": run.name, "slot": _slot(run.run_id), "run_id": run.run_id}
