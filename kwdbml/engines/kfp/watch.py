"""Looking at runs: a few calls for all of them at once, so that a thousand runs cost hardly more than ten.

One look is a list of our unfinished runs (200 to a page), a list of our pods that have not ended, and, for runs that
are no longer in the first, a few calls each (``look.py``). Logs are read from the pods in turn, at most LOGS of them in
one look. When the servers are slow or away, looks become rarer by themselves; what is followed stays followed. A look
does not wait for what it begins: hundreds of runs that end together keep nobody from seeing how the others stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from kwdbml.engines.kfp import names
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.cluster import Pod
from kwdbml.engines.kfp.look import Followed, Look
from kwdbml.errors import EngineError

log = structlog.get_logger()

LOGS = 40  # pods whose log is read in one look
_RAREST = 60.0  # seconds between two looks when nobody answers
_UNREAD = 86_400.0  # seconds that somebody may still read what he has collected: a landing may wait for a lock
_UNASKED = 900.0  # seconds after which a run that nobody asks about is not followed any more


class Watch:
    """The runs that are followed, and the task that looks at them. ``let_go``: of the slot of one that no longer is."""

    def __init__(self, look: Look, let_go: Callable[[str], None]) -> None:
        self._look, self._let_go = look, let_go
        self._calls, self._clock, self._poll = look.calls, look.calls.clock, look.settings.poll
        self.followed: dict[str, Followed] = {}  # by run id
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._work: dict[str, asyncio.Task[None]] = {}  # begun by looks, by run id
        self._reading: set[str] = set()  # those of them that read a log

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop())

    async def close(self) -> None:
        left = [*self._work.values(), *([self._task] if self._task else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for one in list(self.followed.values()):
            self.forget(one)

    def follow(self, one: Followed) -> Followed:
        self.followed[one.run_id] = one
        one.asked_at = self._clock.now()
        self._some.set()
        return one

    def forget(self, one: Followed) -> None:
        self.followed.pop(one.run_id, None)

    # -- looks ---------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        pause, clock = self._poll, self._clock
        while not self._calls.closing.is_set():
            await self._some.wait()
            began = clock.now()
            try:
                await self._forget_unasked()
                await self._look_at_all()
                # a slow server is asked less often: never more than a fifth of its time is ours
                pause = max(self._poll, min(4 * (clock.now() - began), _RAREST))
            except EngineError as error:
                pause = min(max(2 * pause, getattr(error, "retry_after", None) or 0.0), _RAREST)
                log.warning("kubeflow.away", why=str(error), again_in=round(pause, 1))
                for one in self._living():
                    one.in_trouble(str(error), clock.now())
            except Exception as error:  # the next look tries again
                log.warning("kubeflow.look", why=str(error), exc_info=True)
            if not self._living():
                self._some.clear()
            await clock.pause(pause, self._calls.closing)

    def _living(self) -> list[Followed]:
        return [one for one in self.followed.values() if not one.status.ended]

    async def _forget_unasked(self) -> None:
        """Attempts that are no longer ours tell nobody."""
        for one in list(self.followed.values()):
            most = _UNREAD if one.collected else _UNASKED
            if self._clock.now() - one.asked_at > most and one.run_id not in self._work:
                self.forget(one)
                try:
                    await asyncio.to_thread(self._let_go, str(one.handle["slot"]))
                except OSError as error:  # the next sweep of places tries again
                    log.warning("kubeflow.left", run=one.name, why=str(error))

    async def look_at_all(self) -> None:
        """See how all stand, to its end."""
        await self._look_at_all()
        await asyncio.gather(*self._work.values())

    async def _look_at_all(self) -> None:
        """List what there is, and begin what follows from it. EngineError when KFP or the cluster does not answer;
        trouble with one run is that one's."""
        if not (ones := self._living()):
            return
        installations = {names.installation_of(one.name) for one in ones}
        runs = {run.run_id: run for name in installations for run in await self._unfinished(name)}
        pods: dict[str, list[Pod]] = {}
        for name in installations:
            for pod in await self._calls.ahead(self._look.cluster.pods, self._of(name)):
                pods.setdefault(pod.run_name, []).append(pod)
        ones.sort(key=lambda one: one.log_read)
        room = LOGS - len(self._reading)
        for one in ones:
            if one.run_id in self._work:
                continue  # of an earlier look
            run, read = runs.get(one.run_id), room > 0
            room -= read
            if read:
                self._reading.add(one.run_id)
            self._begin(one.run_id, self._try(one, run, pods.get(one.name, []), read=read))
        for one, double in _doubles(ones, runs.values()):
            if double.run_id not in self._work:
                self._begin(double.run_id, self._look.drop_double(one, double))

    def _begin(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._work[run_id] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._done(run_id))

    def _done(self, run_id: str) -> None:
        self._work.pop(run_id, None)
        self._reading.discard(run_id)

    async def _unfinished(self, installation: str) -> list[KfpRun]:
        return await self._calls.ahead(self._look.api.unfinished, f"kwdbml-{installation}-")

    def _of(self, installation: str) -> str:
        """Those pods that Argo still has work with: ended ones stay for days."""
        return f"{names.INSTALLATION}={names.label(installation)},workflows.argoproj.io/completed!=true"

    async def _try(self, one: Followed, run: KfpRun | None, pods: list[Pod], *, read: bool) -> None:
        try:
            await self._look.at(one, run, pods, read=read)
        except EngineError as error:
            if one.trouble_since is None:  # said once, not at every look
                log.warning("kubeflow.run", run=one.name, why=str(error))
            one.in_trouble(str(error), self._clock.now())
        except Exception as error:  # the next look tries again
            log.warning("kubeflow.run", run=one.name, why=str(error), exc_info=True)


def _doubles(ones: Iterable[Followed], runs: Iterable[KfpRun]) -> list[tuple[Followed, KfpRun]]:
    """Runs of the name of one that is followed, which came from a creation that was sent twice."""
    by_name = {one.name: one for one in ones}
    return [(one, run) for run in runs if (one := by_name.get(run.name)) is not None and one.run_id != run.run_id]
