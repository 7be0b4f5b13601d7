"""Whether anybody still waits for what a thread does.

``Calls`` gives every call an event, which it sets when nobody waits for that call any more: its task was cancelled, or
the worker ends. Clients look here before each request that they send, transfers before each piece. So such a call ends
soon, sends nothing that somebody else has deleted already, and its thread is free for others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import TypeVar

from kwdbml.errors import EngineError

T = TypeVar("T")


class Ending(EngineError):
    """Nothing was found out: nobody waits any more."""

    def __init__(self) -> None:
        super().__init__("the worker ends", retryable=True)


_ended: ContextVar[threading.Event | None] = ContextVar("ended", default=None)


def watching(ended: threading.Event, function: Callable[[], T]) -> Callable[[], T]:
    """The function, to be called in a thread: what it calls there ends when the event is set."""
    context = copy_context()
    context.run(_ended.set, ended)
    return lambda: context.run(function)


def go_on() -> None:
    """Ending when nobody waits any more. Who has cancelled a call does not see it."""
    if (ended := _ended.get()) is not None and ended.is_set():
        raise Ending
