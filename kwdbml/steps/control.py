"""The control pipe to the engine: JSON lines on file descriptor 3, silent where there is none.

User code could write there too; all it could forge is its own progress.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import Any

CONTROL_FD = 3
_INTERVAL = 0.2  # seconds between two fractions of one step


class Control:
    """Says where the step stands. Once the engine no longer listens, it goes silent."""

    def __init__(self, fd: int = CONTROL_FD) -> None:
        self.step = "prepare"
        self._fd: int | None = fd if _is_pipe(fd) else None
        self._last = 0.0
        if self._fd is not None:
            os.set_inheritable(self._fd, False)  # what user code starts must not keep the pipe open

    def ready(self) -> None:
        self._send({"event": "ready"})

    def enter(self, step: str) -> None:
        """A new step begins: prepare, train, evaluate, predict, save or compare."""
        self.step = step
        self._last = 0.0
        self._send({"event": "progress", "step": step, "fraction": None})

    def fraction(self, done: float) -> None:
        """How much of the step is done, 0 to 1; sent a few times a second at most."""
        now = time.monotonic()
        if now - self._last >= _INTERVAL or done >= 1.0:
            self._last = now
            self._send({"event": "progress", "step": self.step, "fraction": round(min(max(done, 0.0), 1.0), 4)})

    def _send(self, event: dict[str, Any]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, json.dumps(event).encode() + b"\n")
        except OSError:
            self._fd = None


def _is_pipe(fd: int) -> bool:
    """Only a pipe or socket was put there by an engine; a file is somebody else's."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
