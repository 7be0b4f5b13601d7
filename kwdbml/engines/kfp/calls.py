"""Blocking calls of the clients, made in threads of ours; and how long they are tried again.

``call`` tries once (the clients themselves try a few times within seconds), ``outlast`` for as long as it can help.
Who stops waiting for a call tells it so (``ending.py``), and its end is awaited, so that nobody closes or deletes what
it works with; but not for ever, because the other side may hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog

from kwdbml.engines.kfp import backoff, ending
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.storeerrors import StoreError
from kwdbml.errors import EngineError

log = structlog.get_logger()
T = TypeVar("T")
THREADS = 16  # calls at once: of Kubeflow and the cluster, and as many of the store
_BULK_THREADS = 8
CLOSE_WITHIN = 20.0  # seconds that calls have to end in, when nobody waits for them any more
_LONGEST = 30.0  # seconds between two tries, unless the server asks for more …
_MOST_ASKED = 60.0  # … than which it is not believed: it may be a proxy that speaks of a day
#: The run that calls are made for: what stands in the way of one is no other's trouble.
RUN: ContextVar[str] = ContextVar("run", default="")


class Clock:
    """Time as it is; tests have others."""

    def now(self) -> float:
        """Seconds of a clock that nobody sets."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def pause(self, seconds: float, ends: asyncio.Event) -> None:
        """Some time, or until the event. (Python 3.11's wait_for swallows a cancellation that comes with its end.)"""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ends.wait()


class Calls:
    """``closing``: nothing is begun or tried again from then on."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.closing = asyncio.Event()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kubeflow")
        self._store = ThreadPoolExecutor(THREADS, thread_name_prefix="kfp-store")
        self._bulk = ThreadPoolExecutor(_BULK_THREADS, thread_name_prefix="kfp-bulk")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="kwdbml-look")
        self._waits: dict[object, tuple[str, str]] = {}  # (run, why) of those that try again
        self._under_way: dict[asyncio.Future[Any], tuple[threading.Event, asyncio.Task[Any] | None]] = {}
        self._close_by = 0.0

    def end(self) -> None:
        """What is under way ends soon, and is not waited for long."""
        if not self.closing.is_set():
            self.closing.set()
            for ended, _ in self._under_way.values():
                ended.set()
            self._close_by = time.monotonic() + CLOSE_WITHIN

    @property
    def left(self) -> float:
        """Seconds that a call has that nobody waits for."""
        return max(0.0, self._close_by - time.monotonic()) if self.closing.is_set() else CLOSE_WITHIN

    async def call(self, function: Callable[..., T], *arguments: Any, bulk: bool = False, **named: Any) -> T:
        """``bulk``: it may take minutes, and has threads of its own so that nothing short waits for it. So has what
        asks the store: while that hangs, runs are found, followed and terminated all the same."""
        short = self._store if _asks_store(function, arguments) else self._threads
        return await self._in(self._bulk if bulk else short, lambda: function(*arguments, **named))

    async def ahead(self, function: Callable[..., T], *arguments: Any) -> T:
        """One call that does not wait until a thread is free: hundreds of launches may have come before."""
        return await self._in(self._ahead, lambda: function(*arguments))

    async def _in(self, threads: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        if self.closing.is_set():  # who was waiting for a call that hung goes on when it ends
            raise ending.Ending
        ended = threading.Event()
        begun = threads.submit(ending.watching(ended, function))
        future = asyncio.wrap_future(begun)
        self._under_way[future] = ended, asyncio.current_task()
        future.add_done_callback(self._under_way.pop)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ended.set()
            begun.cancel()  # one that has no thread yet never gets one
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains of it
            await asyncio.wait({future}, timeout=self.left)
            raise

    async def over(self, task: asyncio.Task[Any]) -> bool:
        """Wait until nothing that a task has called is under way, however long the other side hangs. False: we close
        before that."""
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            for future in [future for future, (_, of) in self._under_way.items() if of is task]:
                await asyncio.wait({future, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
        return not any(of is task for _, of in self._under_way.values())

    async def outlast(self, function: Callable[..., T], *arguments: Any, patient: bool = False, **named: Any) -> T:
        """Until it works. EngineError when that cannot help; ``patient``: what an administrator can cure does help."""
        pauses, me = backoff.pauses(0.5, _LONGEST), object()
        try:
            while True:
                try:
                    return await self.call(function, *arguments, **named)
                except EngineError as error:
                    if self.closing.is_set() or not (passing(error) or (patient and _curable(error))):
                        raise
                    asked = min(getattr(error, "retry_after", None) or 0.0, _MOST_ASKED)
                    wait = max(next(pauses), asked)
                    self._waits[me] = RUN.get(), str(error)
                    log.warning("kubeflow.away", why=str(error), again_in=round(wait, 1))
                await self.clock.pause(wait, self.closing)
        finally:
            self._waits.pop(me, None)

    def trouble(self, run_name: str) -> str:
        """What a run's calls wait for; empty when that is nothing."""
        return next((why for run, why in reversed(self._waits.values()) if run == run_name), "")

    async def close(self) -> None:
        self.end()
        for threads in (self._threads, self._store, self._bulk, self._ahead):
            threads.shutdown(wait=False, cancel_futures=True)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.left)
        if self._under_way:
            log.warning("kubeflow.hanging", calls=len(self._under_way))


def _asks_store(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    return any(isinstance(one, ObjectStore) for one in (getattr(function, "__self__", None), *arguments))


def passing(error: EngineError) -> bool:
    """Whether the same call may work later. ``retryable`` alone says that the job may be run again."""
    return isinstance(error, ApiError | StoreError) and error.retryable


def _curable(error: EngineError) -> bool:
    """Somebody gives us the right again, or renews the token: what has begun is not lost over that."""
    return isinstance(error, ApiError | StoreError) and error.curable
