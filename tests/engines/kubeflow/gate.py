"""A place in a thread's work at which a test can stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest


class Gate:
    """``owner.name`` waits before the first of its calls that is ``mine``: ``reached``, until ``go``."""

    def __init__(
        self, patch: pytest.MonkeyPatch, owner: object, name: str, *, mine: Callable[..., bool] = lambda *_: True
    ) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self._real: Any = getattr(owner, name)
        self._mine = mine
        patch.setattr(owner, name, self._call)

    def _call(self, *arguments: Any, **named: Any) -> Any:
        if self._mine(*arguments) and not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(60)
        return self._real(*arguments, **named)
