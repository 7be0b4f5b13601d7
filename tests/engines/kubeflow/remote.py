"""A Kubeflow engine whose pods run ``step.py``: the conformance suite's, on the stub and on a real cluster alike.

The step comes as the text of its command, so the runtime image needs nothing of the tests. A paused step waits for an
object beside its inputs, because no file of the test's machine can reach it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from kwdbml.engines.base import Handle, Run, Workspace
from kwdbml.engines.kfp import names
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.calls import Clock
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kubeflow import KubeflowEngine

STEP = Path(__file__).parent.with_name("step.py")


class Hurry(Clock):
    """Nobody waits long, and time can be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.01))

    async def pause(self, seconds: float, ends: asyncio.Event) -> None:
        await super().pause(min(seconds, 0.05) if seconds < 600 else seconds, ends)


class RemoteSteps(KubeflowEngine):
    """``launched``: the installations of its runs. ``clock`` is a ``Hurry``, unless the cluster is a real one."""

    def __init__(self, settings: KubeflowSettings, root: Path, clock: Clock | None = None) -> None:
        super().__init__(settings, root, command=["python", "-c", STEP.read_text()], clock=clock)
        self.launched: set[str] = set()

    async def launch(self, run: Run, workspace: Workspace) -> Handle:
        job = workspace.inputs / "job.json"
        if job.exists():
            go = self._store.url_get(self._store.key(run.name, "go"), 3600)
            near = urlsplit(self._settings.s3.pod_endpoint).hostname in ("localhost", "127.0.0.1")
            trusted = self._settings.s3.ca_file
            asked = {"go": go, "look_every": 0.005 if near else 0.5, "authority": trusted and trusted.read_text()}
            job.write_text(json.dumps({**json.loads(job.read_text()), **asked}))
        self.launched.add(names.installation_of(run.name))
        return await super().launch(run, workspace)

    def resume(self, handle: Handle) -> None:
        self._store.put(self._store.key(str(handle["run"]), "go"), b"go")

    def standing(self, installation: str) -> set[str]:
        """The runs of which there is something: in the store, a Secret, or in Kubeflow and not in its archive."""
        stored = {name for name in self._store.runs() if names.installation_of(name) == installation}
        kept = {one.run_name for one in self._cluster.kept(f"{names.INSTALLATION}={names.label(installation)}")}
        return stored | kept | {run.name for run in self.shown(installation) if not run.archived}

    def shown(self, installation: str) -> list[KfpRun]:
        """What Kubeflow has of its runs, ended and archived ones too."""
        prefix = f"kwdbml-{installation}-"
        wanted = {"key": "display_name", "operation": "IS_SUBSTRING", "string_value": prefix}
        return [run for run in self._api._list([wanted]) if run.name.startswith(prefix)]

    async def clear(self, installation: str) -> None:
        """End every run of an installation that nobody else is at work on, and take it from Kubeflow's archive too."""
        for name in await asyncio.to_thread(self.standing, installation):
            if (handle := await self.find(name)) is not None:
                await self.cleanup(handle)
            else:
                await self._delete_files(name)
        for run in await asyncio.to_thread(self.shown, installation):
            await asyncio.to_thread(self._api.put_away, run.run_id)
        left = await asyncio.to_thread(self.standing, installation)
        assert not left, "something of ended runs was left in cluster or store"


async def clear(settings: KubeflowSettings, root: Path, installations: Collection[str]) -> None:
    """Afterwards nothing of them is left anywhere."""
    broom = RemoteSteps(settings.model_copy(update={"keep": "delete"}), root)
    await broom.start()
    try:
        for installation in installations:
            await broom.clear(installation)
    finally:
        await broom.close()
