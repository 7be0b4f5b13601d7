"""What a step in a pod prints: numbered lines on the pod's own output, and the part of them that outlives the pod."""

from __future__ import annotations

import os
import threading
from collections import deque
from datetime import UTC, datetime

from kwdbml.loglines import HEAD, TAIL, LineSplitter, pod_line, pod_progress, split_long


class PodLog:
    """Several threads may write. A reader that went away costs lines, not the run."""

    def __init__(self, fd: int = 1, *, head: int = HEAD, tail: int = TAIL) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._splitters: dict[str, LineSplitter] = {}
        self._seq = 0
        self._head: list[bytes] = []
        self._head_room, self._tail_room = head, tail
        self._tail: deque[bytes] = deque()

    def feed(self, stream: str, data: bytes, step: str, *, final: bool = False) -> None:
        """What was read from ``stream`` while ``step`` ran."""
        splitter = self._splitters.setdefault(stream, LineSplitter())
        self._lines(stream, splitter.feed(data, final=final), step)

    def remark(self, text: str, step: str = "") -> None:
        """A line of our own."""
        self._lines("kwdbml", [piece for line in text.splitlines() for piece in split_long(line)], step)

    def progress(self, step: str, fraction: float | None) -> None:
        with self._lock:
            self._print(pod_progress(step, fraction).encode())

    def kept(self) -> bytes:
        """The first and the last lines, each with its time."""
        with self._lock:
            return b"".join((*self._head, *self._tail))

    def _lines(self, stream: str, lines: list[str], step: str) -> None:
        if not lines:
            return
        with self._lock:
            made = [pod_line(seq, step, stream, line).encode() for seq, line in enumerate(lines, self._seq + 1)]
            self._seq += len(made)
            stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z ").encode()
            for line in made:
                self._keep(stamp + line)
            self._print(b"".join(made))

    def _keep(self, line: bytes) -> None:
        if self._head_room >= len(line):
            self._head.append(line)
            self._head_room -= len(line)
            return
        self._head_room = 0  # nothing after the cut may come before it
        self._tail.append(line)
        self._tail_room -= len(line)
        while self._tail_room < 0:
            self._tail_room += len(self._tail.popleft())

    def _print(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError:
                self._fd = -1
