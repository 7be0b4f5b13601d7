"""Faults on demand: what the next requests that match get instead of, or after, their true answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["status", "hang", "cut", "drop"]


@dataclass(slots=True)
class Fault:
    """``status``: an error answer. ``hang``: none, until released. ``cut``: half of it. ``drop``: a closed socket."""

    method: str
    path: re.Pattern[str]
    kind: Kind
    times: int
    status: int = 500
    message: str = "told to fail"
    body: bytes | None = None  # for its own words: those of something that stands before the server
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False  # the request is carried out first: the answer alone is lost
    released: threading.Event = field(default_factory=threading.Event)
    met: int = 0  # requests that got it

    def release(self) -> None:
        """End a hang: the connection is closed without an answer."""
        self.released.set()


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._all: list[Fault] = []

    def add(
        self,
        method: str = ".*",
        path: str = ".*",
        *,
        status: int | None = None,
        kind: Kind = "status",
        times: int = 1,
        message: str = "told to fail",
        body: bytes | None = None,
        retry_after: int | None = None,
        after: bool = False,
    ) -> Fault:
        """For the next ``times`` requests: ``add("POST", "/runs$", status=503)``, ``add("GET", kind="hang")``.

        ``method`` and ``path`` are regular expressions: the method's whole name, a part of the path.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        chosen = Fault(method, re.compile(path), kind, times, status or 500, message, body, headers, after)
        with self._lock:
            self._waiting.append(chosen)
            self._all.append(chosen)
        return chosen

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            for fault in self._waiting:
                if re.fullmatch(fault.method, method) and fault.path.search(path):
                    fault.times -= 1
                    fault.met += 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        """Forget all and end every hang."""
        with self._lock:
            self._waiting.clear()
            for fault in self._all:
                fault.release()
            self._all.clear()
