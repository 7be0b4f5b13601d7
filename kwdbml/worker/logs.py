"""How much of a run's log the database keeps: the first MiB and the last nine, one line in place of what was cut."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from kwdbml.engines.base import LogChunk
from kwdbml.worker.landing import clean

HEAD = 1 << 20  # bytes
TAIL = 9 << 20
_MOST_REMARKS = 1000
_PER_LINE = 32  # a line costs something even when it is empty


def remarks(said: list[str]) -> list[dict[str, Any]]:
    """Rows for what we did before the run: lines of our own, numbered up to 0, because the run's count from 1."""
    said, now = said[:_MOST_REMARKS], time.time()
    first = 1 - len(said)
    return [
        {"seq": seq, "at": now, "step": "", "stream": "kwdbml", "line": clean(line)}
        for seq, line in enumerate(said, first)
    ]


@dataclass
class KeptLog:
    """What of the log is kept so far; ``add`` says what to store and which range of lines is gone."""

    cursor: int = 0
    _head: int = 0
    _tail: int = 0
    _recent: deque[tuple[int, int]] = field(default_factory=deque)  # (seq, bytes)
    _cut: tuple[int, int] | None = None

    def add(self, chunk: LogChunk) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
        """(lines to store, the whole range of lines that are cut, when it has grown)."""
        self.cursor = chunk.cursor
        before = self._cut
        if chunk.cut:
            self._widen(*chunk.cut)
        lines = []
        for line in chunk.lines:
            text = clean(line.line)
            self._count(line.seq, len(text) + _PER_LINE)
            lines.append({"seq": line.seq, "at": line.at, "step": line.step or "", "stream": line.stream, "line": text})
        cut = self._cut if self._cut != before else None
        return [n for n in lines if self._cut is None or not self._cut[0] <= n["seq"] <= self._cut[1]], cut

    def _count(self, seq: int, size: int) -> None:
        if self._head + size <= HEAD and not self._recent:
            self._head += size
            return
        self._recent.append((seq, size))
        self._tail += size
        while self._tail > TAIL:
            gone, size = self._recent.popleft()
            self._tail -= size
            self._widen(gone, gone)

    def _widen(self, first: int, last: int) -> None:
        self._cut = (min(first, self._cut[0]), max(last, self._cut[1])) if self._cut else (first, last)
