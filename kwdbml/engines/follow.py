"""One run as one engine object follows it: the end through a pidfd at once, log and progress by a look now and then."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from kwdbml.engines import procs
from kwdbml.engines.base import Handle
from kwdbml.engines.logreader import LogReader
from kwdbml.engines.slots import Slot

#: Seconds between two looks at a running run's log and progress while somebody waits for it.
LOOK_EVERY = 0.25


class Following:
    """``gone`` is set when the run's supervisor has ended; ``ended`` is called then, once.

    ``slot``: the supervisor as we have started it; without it the run is adopted through its pid and start time.
    """

    def __init__(
        self,
        handle: Handle,
        control: Path,
        ended: Callable[[], None],
        *,
        slot: Slot | None = None,
        cpus: list[int] | None = None,
        here: bool = True,
    ) -> None:
        self.handle = handle
        self.cpus = cpus
        self.log = LogReader(control)
        self._control = control
        self._ended = ended
        self._slot = slot
        self._seen: object = (("", 0), 0)
        self._pidfd: int | None = None
        self._loop = asyncio.get_running_loop()
        if slot is not None:
            self.gone = slot.gone
            slot.when_gone(ended)
            return
        self.gone = asyncio.Event()
        self._pidfd = procs.open_pidfd(int(handle["pid"]), int(handle["start"])) if here else None
        if self._pidfd is None:
            self.gone.set()
        else:
            self._loop.add_reader(self._pidfd, self._exited)

    def _exited(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # ours all the same when an earlier engine of this process made it
            os.waitpid(int(self.handle["pid"]), os.WNOHANG)
        self.gone.set()
        self._ended()

    async def changed(self, timeout: float) -> None:
        """Return when the run has ended, its log or progress differs from what the last call saw, or time is up."""
        deadline = self._loop.time() + timeout
        while not self.gone.is_set():
            now = (self.log.signature(), self._progress())
            if now != self._seen:
                self._seen = now
                return
            left = deadline - self._loop.time()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), min(LOOK_EVERY, left))

    def _progress(self) -> int:
        try:
            return (self._control / "progress.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Stop following; the run lives on."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._slot is not None:
            self._slot.forget()
            self._slot = None
