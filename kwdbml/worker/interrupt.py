"""What may come between while an attempt is at work: its job is canceled, or the attempt is not ours any more."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_LONGEST = 5.0  # seconds between two tries


class Interrupted(Exception):
    """Whatever was going on for this attempt ends here."""


class Fenced(Interrupted):
    """The attempt is not ours any more."""


class Canceled(Interrupted):
    """The job was canceled: stop what runs, confirm, clean up."""


class Interrupt:
    """Told from outside by ``cancel`` and ``lose``, at any time; heeded inside by ``check`` and by whatever waits."""

    def __init__(self) -> None:
        self._told, self._lost = asyncio.Event(), asyncio.Event()

    def cancel(self) -> None:
        self._told.set()

    def lose(self) -> None:
        self._lost.set()
        self._told.set()

    @property
    def lost(self) -> bool:
        return self._lost.is_set()

    @property
    def told(self) -> bool:
        return self._told.is_set()

    def check(self) -> None:
        if self.lost:
            raise Fenced
        if self._told.is_set():
            raise Canceled

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work answers. When we are told meanwhile, the work is cancelled, and its end awaited."""
        return await self._until(self._told, work)

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for what a canceled job still needs: only that somebody else has it ends that."""
        return await self._until(self._lost, work)

    async def _until(self, event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
        task, told = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            task.cancel()  # once: it may take long to end what it has begun
            await asyncio.wait({task})
        task.cancelled() or task.exception()  # looked at: asyncio would complain of one that nobody has seen
        if event.is_set():
            self.check()
        return task.result()

    async def pause(self, n: int, least: float = 0.0) -> None:
        """Some time, longer with each try; ends early, with the reason, when we are told."""
        with contextlib.suppress(TimeoutError):
            seconds = max(min(random.uniform(0.1, 0.3) * 2 ** min(n, 10), _LONGEST), least)
            await asyncio.wait_for(self._told.wait(), seconds)
        self.check()
