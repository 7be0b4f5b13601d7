"""One run, looked at: whether it lasts, what it needs meanwhile, and how it ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import structlog

from kwdbml.engines.base import Handle, RunState, RunStatus
from kwdbml.engines.kfp import access, download, names, reasons, upload, verdict
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.calls import Calls, passing
from kwdbml.engines.kfp.cluster import Cluster, Pod
from kwdbml.engines.kfp.ending import Ending
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.podlog import PodLog
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.storeerrors import StoreError
from kwdbml.errors import EngineError

log = structlog.get_logger()

_MOST_LOG = 8 << 20  # bytes of a log in one call
_LINGER = 300.0  # seconds after which a pod on a node that does not answer counts as gone
_SILENT = 60.0  # seconds after which KFP's own word on an ended pod is no longer waited for
_TOLD = 10.0  # seconds of trouble after which a run's status tells it
_MOST_TOLD = 200  # characters
_LAST = 10  # lines


@dataclass
class Followed:
    """One run as this engine sees it. Times are the engine's clock's."""

    handle: Handle
    place: Path
    log: PodLog
    status: RunStatus = field(default_factory=lambda: RunStatus(RunState.RUNNING))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    renew_at: float | None = None
    renewal: tuple[str, float] | None = None  # signed then, but the Secret could not be written
    missed: bool = False  # its files were not there when its addresses were to be renewed
    over_since: float | None = None  # KFP, or its pod, has ended
    stuck_since: float | None = None
    unstarted_since: float | None = None  # its pod has a node and does not start
    unstarted: reasons.Reason | None = None
    trouble_since: float | None = None
    stop: RunStatus | None = None  # why we have terminated it
    noted: bool = False  # that stands beside its files
    log_read: float = 0.0
    had_pods: bool = False
    pods_asked: float | None = None
    manifest_asked: float | None = None
    collected: bool = False
    ttl: float | None = None  # kept, because a list of runs may lack their parameters
    asked_at: float = 0.0

    @property
    def name(self) -> str:
        return str(self.handle["run"])

    @property
    def run_id(self) -> str:
        return str(self.handle["run_id"])

    def tell(self, status: RunStatus) -> None:
        if status != self.status:
            self.status = status
            self.changed.set()

    def in_trouble(self, why: str, now: float) -> None:
        """We do not see how it stands. Said when it lasts."""
        since = self.trouble_since = self.trouble_since or now
        if now - since >= _TOLD and not self.status.ended:
            self.tell(replace(self.status, step=f"waiting: {why}"[:_MOST_TOLD]))


class Look:
    """What KFP, cluster and store say of a run."""

    def __init__(
        self, settings: KubeflowSettings, calls: Calls, api: KfpApi, cluster: Cluster, store: ObjectStore
    ) -> None:
        self.settings, self.calls, self.api, self.cluster, self.store = settings, calls, api, cluster, store
        self._now = calls.clock.now

    async def at(self, one: Followed, run: KfpRun | None = None, pods: list[Pod] | None = None, *, read: bool) -> None:
        """See how one stands; ``pods``: those of it that have not ended. EngineError when somebody does not answer."""
        async with one.looking:
            if one.status.ended:
                return
            run = run or await self.calls.call(self.api.get, one.run_id)
            if run is None or run.name != one.name or run.archived:
                one.tell(verdict.lost("Kubeflow has no such run any more: somebody deleted or archived it"))
                return
            pods = await self._pods(one, run, pods or [])
            if read and not run.ended:
                await self._read_log(one, pods)
            if await self._over(one, run, pods):
                await self._end(one, run, pods)
            else:
                await self._tend(one, run, pods)
            one.trouble_since = None

    async def _pods(self, one: Followed, run: KfpRun, living: list[Pod]) -> list[Pod]:
        """Those that have ended as well, where they matter: one call per run, so not in every look."""
        now = self._now()
        asked = one.pods_asked is not None and now - one.pods_asked < _SILENT
        if run.ended or not (living or (asked and not one.had_pods)):
            one.pods_asked = now
            selector = ",".join(f"{label}={value}" for label, value in names.labels_of(one.name).items())
            living = [pod for pod in await self.calls.call(self.cluster.pods, selector) if pod.run_name == one.name]
        one.had_pods = one.had_pods or bool(living)
        return living

    # -- the end -------------------------------------------------------------------------------------------------

    async def _over(self, one: Followed, run: KfpRun, pods: list[Pod]) -> bool:
        """Whether it has ended: KFP says so and no pod lives; or its pod has ended, or gone, and KFP keeps silent."""
        if run.ended:
            living = [pod for pod in await self._all_pods(one) if _lives(pod)]
            return not living or self._only_lingers(one, living)
        if any(_lives(pod) for pod in pods):
            one.over_since = None
            return False
        one.over_since = one.over_since or self._now()
        stopped = one.stop is not None or run.canceling
        if one.had_pods and stopped:
            return True  # nothing more is to come
        if self._now() - one.over_since < _SILENT:
            return False
        if one.had_pods:
            return True
        return not await self._others_live(one) if stopped else await self._has_manifest(one)

    def _only_lingers(self, one: Followed, living: list[Pod]) -> bool:
        """KFP has seen the end, and of its pods only something beside the step stays, such as a sidecar."""
        one.over_since = one.over_since or self._now()
        return self._now() - one.over_since >= _LINGER and all(pod.started and not pod.running for pod in living)

    async def _has_manifest(self, one: Followed) -> bool:
        """Of a run whose pods nobody has seen: they may have come and gone before the first look. Once a minute."""
        if one.manifest_asked is not None and self._now() - one.manifest_asked < _SILENT:
            return False
        one.manifest_asked = self._now()
        return await self.calls.call(self.store.exists, self.store.key(one.name, access.MANIFEST))

    async def _others_live(self, one: Followed) -> bool:
        return any(_lives(pod) for pod in await self._all_pods(one))

    async def _all_pods(self, one: Followed) -> list[Pod]:
        """With Kubeflow's own, such as a driver."""
        return await self.calls.call(self.cluster.pods, f"{names.KFP_RUN}={one.run_id}")

    async def _end(self, one: Followed, run: KfpRun, pods: list[Pod]) -> None:
        try:
            manifest = await self.calls.call(download.read_manifest, self.store, one.name)
        except (ApiError, StoreError, Ending):
            raise  # the store's trouble is not the run's, whatever it is
        except EngineError as error:
            await self._last_lines(one, pods, None)
            one.tell(verdict.failed("Error", str(error)))
            return
        await self._last_lines(one, pods, manifest)
        content = await self.calls.call(
            self.store.get, self.store.key(one.name, verdict.STOP), limit=verdict.STOP_LIMIT
        )
        stop, why = one.stop or verdict.noted(content), None
        if manifest is None and stop is None:
            why = await self._why(one, pods)
        one.tell(verdict.of_end(run, manifest, why, stop))

    async def _why(self, one: Followed, pods: list[Pod]) -> reasons.Reason | None:
        if pods:
            return reasons.explain([pod.raw for pod in pods], await self._events(pods), one.log.last_lines)
        own = await self._all_pods(one)  # it may not have come to a pod of ours
        lines = [line for pod in own for line in await self._own_lines(pod)]
        why = reasons.explain([pod.raw for pod in own], await self._events(own), lines)
        return why and replace(why, what=f"Kubeflow's own pod, which goes before the step's: {why.what}")

    async def _own_lines(self, pod: Pod) -> list[str]:
        """The last lines of a pod of Kubeflow's that failed, without their times."""
        if pod.phase != "Failed" or not pod.started:
            return []
        text = await self.calls.call(self.cluster.log, pod.name, limit=_MOST_LOG)
        return [line.partition(b" ")[2].decode(errors="replace") for line in text.splitlines()[-_LAST:]]

    async def _events(self, pods: list[Pod]) -> list[reasons.Json]:
        try:
            return [event for pod in pods for event in await self.calls.call(self.cluster.events, pod.name)]
        except EngineError as error:
            log.warning("kubeflow.events", why=str(error))
            return []

    async def _last_lines(self, one: Followed, pods: list[Pod], manifest: download.Manifest | None) -> None:
        """What the step itself has kept of its log, else what its pod still has. A log that cannot be read is no
        reason not to end."""
        try:
            if not await self.calls.call(self._take_kept, self.store, one, manifest):
                await self._read_log(one, pods)
        except EngineError as error:
            if passing(error):
                raise
            log.warning("kubeflow.log", run=one.name, why=str(error))

    @staticmethod
    def _take_kept(store: ObjectStore, one: Followed, manifest: download.Manifest | None) -> bool:
        """Read and taken in one call: of a thousand runs that end together only a few logs are in memory."""
        try:
            kept = download.read_log(store, one.name, manifest.log if manifest else None)
        except StoreError:
            raise
        except EngineError as error:  # damaged: the pod may still have it
            log.warning("kubeflow.log", run=one.name, why=str(error))
            return False
        one.log.take(kept)
        return bool(kept)

    # -- while it lasts ------------------------------------------------------------------------------------------

    async def _tend(self, one: Followed, run: KfpRun, pods: list[Pod]) -> None:
        """Its time is watched, its addresses are renewed."""
        waiting = await self._waiting(one, pods)
        one.tell(self._standing(one, run, waiting))
        if run.ended:
            return
        if one.stop is not None and not one.noted:
            await self._note(one, one.stop)
        if one.stop is None and (why := self._reason_to_stop(one, run, waiting)) is not None:
            await self.stop(one, why)
        elif one.stop is not None and not run.canceling:
            await self.calls.call(self.api.terminate, one.run_id)
        await self._renew(one)

    async def _waiting(self, one: Followed, pods: list[Pod]) -> reasons.Reason | None:
        """What keeps its pod from starting. Of a volume or a network that it cannot have, its events alone tell: they
        are asked when it takes long, once a minute."""
        if not pods or any(pod.started for pod in pods):
            one.unstarted_since, one.unstarted = None, None
            return None
        if (found := reasons.waiting([pod.raw for pod in pods])) is not None:
            return found
        one.unstarted_since = one.unstarted_since or self._now()
        if self._now() - one.unstarted_since >= _SILENT:
            one.unstarted_since = self._now()
            one.unstarted = reasons.unstarted(await self._events(pods))
        return one.unstarted

    def _standing(self, one: Followed, run: KfpRun, waiting: reasons.Reason | None) -> RunStatus:
        if run.run_state is RunState.UNKNOWN and run.state not in ("", "RUNTIME_STATE_UNSPECIFIED"):
            return RunStatus(RunState.UNKNOWN, message=f"Kubeflow says {run.state}, which this version does not know")
        if waiting is not None:
            return RunStatus(RunState.RUNNING, step=f"waiting: {waiting.reason}")
        if run.state == "PAUSED":
            return RunStatus(RunState.RUNNING, step="waiting: paused in Kubeflow Pipelines")
        if run.ended or run.canceling:
            return RunStatus(RunState.RUNNING, step="waiting: pods end")
        if (told := one.log.progress) is None:
            return RunStatus(RunState.RUNNING)
        return RunStatus(RunState.RUNNING, step=told.step, fraction=told.fraction)

    def _reason_to_stop(self, one: Followed, run: KfpRun, waiting: reasons.Reason | None) -> RunStatus | None:
        one.ttl = run.ttl or one.ttl
        if one.ttl is not None and run.age > one.ttl:
            text = f"The run had not ended {one.ttl:g} seconds after its launch (settings.ttl)."
            why = f" It still waited ({waiting.reason}): {waiting.message}" if waiting else ""
            return verdict.failed("DeadlineExceeded", text + why)
        if waiting is None or not waiting.hopeless:
            one.stuck_since = None
            return None
        one.stuck_since = one.stuck_since or self._now()
        if self._now() - one.stuck_since < self.settings.patience:
            return None
        return verdict.failed(waiting.reason, waiting.message)

    async def stop(self, one: Followed, why: RunStatus, *, patient: bool = False) -> None:
        """Terminate it, and say why beside its files, so that whoever else sees the end knows; but it does not run on
        for want of a store."""
        one.stop = why
        noting = asyncio.create_task(self._note(one, why))
        try:
            if patient:
                await self.calls.outlast(self.api.terminate, one.run_id, patient=True)
            else:
                await self.calls.call(self.api.terminate, one.run_id)
        except asyncio.CancelledError:
            noting.cancel()
            raise
        finally:
            await asyncio.wait({noting})

    async def _note(self, one: Followed, why: RunStatus) -> None:
        """Best effort, and again at each look while it lasts."""
        try:
            await self.calls.call(self.store.put, self.store.key(one.name, verdict.STOP), verdict.note(why))
            one.noted = True
        except EngineError as error:
            log.warning("kubeflow.note", run=one.name, why=str(error))

    async def _renew(self, one: Followed) -> None:
        """New addresses at half time; at once where somebody else has launched it: his key may be another one."""
        now, half = self._now(), self.settings.presign / 2
        if one.renew_at is not None and now < one.renew_at:
            return
        one.renew_at = now + _SILENT  # unless it works: every document that no Secret leads to is one too many
        if one.renewal is None or now - one.renewal[1] > half / 2:
            try:
                text = await self.calls.call(upload.renew, self.store, one.name, self.settings.presign)
            except access.FilesGone as error:  # there is nothing that it could still leave; but one look may err
                if one.missed and one.stop is None:
                    await self.stop(one, verdict.failed("Error", str(error)))
                one.missed = True
                return
            one.renewal, one.missed = (text, now), False
        text, signed = one.renewal
        about = names.labels_of(one.name), {names.RUN: one.name}
        await self.calls.call(self.cluster.renew_secret, names.secret_name(one.name), *about, {"access.json": text})
        one.renewal, one.renew_at = None, signed + half

    async def _read_log(self, one: Followed, pods: list[Pod]) -> None:
        one.log_read = self._now()
        for pod in pods:
            if not pod.started:
                continue
            if await self.calls.call(self._take_piece, one, pod):
                one.changed.set()

    def _take_piece(self, one: Followed, pod: Pod) -> bool:
        text = self.cluster.log(pod.name, since=one.log.since, limit=_MOST_LOG)
        return one.log.take(text, cut=len(text) >= _MOST_LOG)

    # -- started twice -------------------------------------------------------------------------------------------

    async def drop_double(self, one: Followed, double: KfpRun) -> None:
        """A run of the same name that does not count. Never raises: the next look finds it again."""
        try:
            if await self.calls.call(self.cluster.claim, one.name, one.run_id) == one.run_id:
                await self.calls.call(self.api.terminate, double.run_id)
                await self.calls.call(self.api.put_away, double.run_id)
        except EngineError as error:
            log.warning("kubeflow.double", run=one.name, why=str(error))


def _lives(pod: Pod) -> bool:
    """Whether something of it may run. On a node that does not answer nobody can tell, and nobody ever will."""
    if not pod.alive:
        return False
    leaves = pod.raw.get("metadata", {}).get("deletionTimestamp")
    try:
        return not leaves or time.time() - datetime.fromisoformat(str(leaves)).timestamp() < _LINGER
    except ValueError:
        return True
