"""The local engine: every run in a sandbox of its own on this machine. The default.

``LocalEngine`` keeps nothing that matters in memory: records and workspaces are on disk (``runs.py``), each run has a
supervisor that survives the worker (``supervisor.py``), and any engine on the same scratch root can follow any run.
What a step is shut into is in ``sandbox.py``; sandboxes wait warm in a pool (``slots.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kwdbml.engines import cgroups, procs, pythons, sandbox
from kwdbml.engines.base import EVERYTHING, Handle, LogChunk, Run, RunState, RunStatus, Wanted, Workspace
from kwdbml.engines.follow import Following
from kwdbml.engines.runs import Records, lost
from kwdbml.engines.slots import Pool, Slot, Starter, discard, step_command
from kwdbml.engines.supervisor import CANCEL
from kwdbml.errors import EngineError

_DISK = 20 << 30
#: Seconds in which a killed run must be gone; the kernel needs milliseconds.
_END_WITHIN = 30.0


def default_root() -> Path:
    """Where runs live when nobody says otherwise."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "kwdbml" / "engine"


class LocalEngine:
    """``concurrency`` runs at once share this machine; each gets ``memory`` bytes and its part of the cores by default.

    ``command``: the step's, for tests. ``warm``: idle warm sandboxes at most (default: one per run that could still
    start). ``disk``: bytes a run may write. ``cgroups=False`` forces the watch over resident memory. ``extra_paths``
    are readable inside. ``host`` names this machine in handles. ``pythons``: others than the worker's own, by name.
    """

    name = "local"
    host_bound = True

    def __init__(
        self,
        root: Path | None = None,
        *,
        concurrency: int = 2,
        memory: int | None = None,
        disk: int = _DISK,
        warm: int | None = None,
        unsafe_no_sandbox: bool = False,
        command: Sequence[str] | None = None,
        cgroups: bool = True,
        extra_paths: Sequence[Path] = (),
        host: str | None = None,
        pythons: Mapping[str, Path] | None = None,
    ) -> None:
        self._pythons = pythons or {}
        self._records = Records((root or default_root()).absolute(), host or socket.gethostname())
        self._concurrency = max(1, concurrency)
        self._warm = self._concurrency if warm is None else warm
        self._cores = sorted(os.sched_getaffinity(0))
        self._memory = memory or _machine_memory() * 8 // 10 // self._concurrency
        self._disk = disk
        self._command = tuple(command) if command else step_command(sys.executable)
        self._use_cgroups = cgroups
        self._extra = extra_paths
        self._unsafe = unsafe_no_sandbox
        self._pools: dict[str, Pool] = {}  # by Python; "" is the worker's own
        self._inside: str | None = None
        self._opened: dict[str, tuple[Slot, Pool]] = {}
        self._runs: dict[str, Following] = {}
        self._launching: dict[str, asyncio.Lock] = {}
        self._unfinished: set[asyncio.Future[Handle]] = set()
        #: Why uploaded code is refused here, with the cure; None when it is not. Set by ``start``.
        self.sandbox_problem: EngineError | None = None

    # -- the engine's life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the sandbox that works here and begin to warm up. Does not wait for warmth (``warmed`` does)."""
        await asyncio.to_thread(self._records.prepare)
        await asyncio.to_thread(self._records.sweep)
        others = await asyncio.to_thread(pythons.look_at, self._pythons)
        box = await asyncio.to_thread(self._sandbox)
        self._inside = box.inside
        await self._add_pools(box, others)
        self._refill()

    def _sandbox(self) -> sandbox.Sandbox:
        if not self._unsafe:
            try:
                return sandbox.detect(extra=self._extra)
            except EngineError as error:
                self.sandbox_problem = error
        return sandbox.without()

    async def _add_pools(self, box: sandbox.Sandbox, others: Mapping[str, sandbox.Python]) -> None:
        """One for the worker's own Python, kept warm, and one for each other, whose sandboxes start when asked for."""
        group = await asyncio.to_thread(cgroups.find_base) if self._use_cgroups else None
        if group is not None:
            await asyncio.to_thread(cgroups.sweep, *group)
        own = Starter(box, self._records.workspaces, self._command, self._threads(None), self._disk, group, tick=0.1)
        self._pools[""] = Pool(own, self._wanted)
        for name, python in others.items():
            starter = replace(own, box=pythons.inside(box, python), command=step_command(python.executable))
            self._pools[name] = Pool(starter, lambda: 0)

    async def warmed(self) -> None:
        """Wait until the warm sandboxes are ready, for benchmarks and tests."""
        for pool in self._pools.values():
            await pool.warm()

    async def close(self) -> None:
        """Free the idle sandboxes and those opened but not launched; runs live on, also those just being launched."""
        if self._unfinished:
            await asyncio.wait(self._unfinished)
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        opened, self._opened = self._opened, {}
        await asyncio.gather(*(discard(slot) for slot, _ in opened.values()))
        for following in self._runs.values():
            following.close()
        self._runs.clear()

    def _busy(self) -> int:
        return len(self._opened) + sum(not following.gone.is_set() for following in self._runs.values())

    def _wanted(self) -> int:
        """How many sandboxes should be idle now. As a rule no more than ``concurrency`` exist: warming up would take
        the cores from the runs that they are for. But when a run must wait until its own is warm, jobs come faster than
        that, and a core that nobody uses makes the next one's ready too."""
        busy = self._busy()
        hurried = any(not slot.ready.is_set() for slot, _ in self._opened.values())
        return min(self._warm, max(self._concurrency, len(self._cores) if hurried else 0) - busy)

    def _refill(self) -> None:
        # Only the pool that untrusted runs use, or the one there is.
        for pool in self._pools.values():
            pool.refill()

    # -- one run -------------------------------------------------------------------------------------------------

    async def open(self, run: Run) -> Workspace:
        """A workspace in a warm sandbox, or in one that is just starting. EngineError with the cure when the run's
        code may not run here."""
        if not self._pools:
            raise EngineError("the local engine has not been started", hint="await start() first")
        if self.sandbox_problem is not None and not run.trusted and not self._unsafe:
            raise self.sandbox_problem
        pool = self._pools.get(run.python)
        if pool is None:
            raise EngineError(
                f'the runtime runs in Python "{run.python}", which this worker does not have',
                hint=f"Start workers with --python {run.python}=PATH, or change the runtime's row in kwdbml.runtime.",
            )
        try:
            slot = await pool.take()
        except OSError as error:
            raise EngineError(f"no sandbox could be started: {error}", retryable=True) from error
        self._opened[slot.name] = (slot, pool)
        if not slot.ready.is_set():
            self._refill()
        return Workspace(slot.process.workspace, slot.name, sealed=self._inside is not None)

    async def abandon(self, workspace: Workspace) -> None:
        opened = self._opened.pop(workspace.slot, None)
        if opened is not None:
            await discard(opened[0])
            self._refill()

    async def launch(self, run: Run, workspace: Workspace) -> Handle:
        """Start it. When the run was launched before, its workspace stays and this one is given back."""
        lock = self._launching.setdefault(run.name, asyncio.Lock())
        async with lock:
            handle = await self.find(run.name)
            if handle is not None:
                await self.abandon(workspace)
                return handle
            # whoever stops waiting does not stop it: told half-way, the run would be begun and still count as idle
            launching = asyncio.ensure_future(self._launch(run, workspace))
            self._unfinished.add(launching)
            launching.add_done_callback(self._unfinished.discard)
            return await asyncio.shield(launching)

    async def withdraw(self, run_name: str, *, ours: bool) -> None:  # noqa: ARG002 the protocol's
        """A launch takes a moment: its end is awaited."""
        if self._unfinished:
            await asyncio.wait(self._unfinished)

    async def _launch(self, run: Run, workspace: Workspace) -> Handle:
        opened = self._opened.get(workspace.slot)
        if opened is None:
            raise EngineError("this workspace was not opened by this worker, or its sandbox has ended", retryable=True)
        slot, pool = opened
        process = slot.process
        handle = await asyncio.to_thread(self._record, run.name, slot)
        order, cpus = self._order(run, workspace)
        try:
            await slot.go(order)
        except EngineError:
            await self.abandon(workspace)
            await self.find(run.name)  # removes the record of what never ran
            raise
        slot.release()
        del self._opened[workspace.slot]
        self._launching.pop(run.name, None)
        pool.mended()
        self._runs[run.name] = Following(handle, process.workspace / "ctl", self._refill, slot=slot, cpus=cpus)
        return handle

    def _record(self, name: str, slot: Slot) -> Handle:
        inputs = slot.process.workspace / "in"
        for path in filter(os.path.isfile, inputs.iterdir()):
            path.chmod(0o444)  # the run is another user; nobody else can come so far
        return self._records.write(name, slot.name, slot.process.pid, slot.process.start)

    def _order(self, run: Run, workspace: Workspace) -> tuple[dict[str, Any], list[int] | None]:
        """The go-line for the supervisor, and the cores the run is given."""
        threads = self._threads(run.resources.cpu)
        cpus = self._choose_cpus(threads)
        inside = self._inside or str(workspace.path)
        step = {"workspace": inside, "threads": threads, "env": dict(run.env)}
        memory = min(run.resources.memory or self._memory, _machine_memory() * 8 // 10)
        limits = {"memory": memory, "ttl": run.ttl, "cpus": cpus, "disk": self._disk}
        return {"run": run.name, "step": step, "limits": limits}, cpus

    def _threads(self, cpu: float | None) -> int:
        """How many threads and cores a run with this share gets: whole ones, at least one."""
        share = len(self._cores) / self._concurrency if cpu is None else cpu
        return max(1, min(len(self._cores), math.ceil(share)))

    def _choose_cpus(self, count: int) -> list[int] | None:
        """The cores on which the fewest runs are; None when it may use all."""
        if count >= len(self._cores):
            return None
        load = dict.fromkeys(self._cores, 0)
        for following in self._runs.values():
            if not following.gone.is_set():
                for cpu in following.cpus or self._cores:
                    load[cpu] = load.get(cpu, 0) + 1
        # Another worker chooses too and does not see our runs: chance keeps both from starting with the first core.
        return sorted(sorted(self._cores, key=lambda cpu: (load[cpu], random.random()))[:count])

    async def find(self, run_name: str) -> Handle | None:
        return await asyncio.to_thread(self._records.find, run_name)

    def workspace(self, handle: Handle) -> Workspace:
        return Workspace(self._records.workspace(handle), str(handle["slot"]))

    async def collect(self, handle: Handle, wanted: Wanted = EVERYTHING) -> Workspace:  # noqa: ARG002 it is all here
        return self.workspace(handle)

    def _follow(self, handle: Handle) -> Following | None:
        """Our view of a run that is recorded here, made when we meet it for the first time."""
        name = str(handle.get("run", ""))
        following = self._runs.get(name)
        if following is not None and following.handle == handle:
            return following
        if not self._records.mine(handle):
            return None
        control = self._records.workspace(handle) / "ctl"
        following = Following(handle, control, self._refill, here=self._records.here(handle))
        self._runs[name] = following
        return following

    async def poll(self, handle: Handle) -> RunStatus:
        if handle.get("engine") != self.name:
            return lost("this is no run of the local engine")
        self._follow(handle)
        return self._records.status(handle)

    async def wait(self, handle: Handle, timeout: float) -> RunStatus:
        following = self._follow(handle)
        deadline = asyncio.get_running_loop().time() + timeout
        if following is not None:
            await following.changed(timeout)
        status = await self.poll(handle)
        while status.state is RunState.UNKNOWN and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)  # killed, and gone in a moment
            status = await self.poll(handle)
        return status

    async def logs(self, handle: Handle, cursor: int = 0) -> LogChunk:
        following = self._follow(handle)
        if following is None:
            return LogChunk((), cursor)
        return await asyncio.to_thread(following.log.read, cursor)

    async def cancel(self, handle: Handle) -> None:
        if self._records.mine(handle) and self._records.here(handle):
            procs.signal_process(int(handle["pid"]), int(handle["start"]), CANCEL)

    async def cleanup(self, handle: Handle) -> None:
        """Cancel, wait for the end, delete. On another host than the run's it can do nothing, and does not complain."""
        following = self._follow(handle)
        if following is None:
            return
        await self.cancel(handle)
        try:
            await asyncio.wait_for(following.gone.wait(), _END_WITHIN)
        except TimeoutError:
            procs.signal_process(int(handle["pid"]), int(handle["start"]), signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(following.gone.wait(), _END_WITHIN)
        while self._records.status(handle).state is RunState.UNKNOWN:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._records.remove, handle)
        following.close()
        self._runs.pop(str(handle["run"]), None)


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
