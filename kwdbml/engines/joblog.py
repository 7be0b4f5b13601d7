"""What a step prints, kept in bounded space: the writing half, for the supervisor (``logreader.py`` reads).

A log is a row of files ``log.<first seq>`` in the run's ctl/ directory. Each holds JSON lines, one per batch::

    {"seq": 17, "at": 1700000000.5, "step": "train", "stream": "stdout", "lines": ["…", "…"]}

``seq`` is the number of the first line of the batch, the others follow. The first file takes HEAD bytes and stays; of
the files after it the oldest go when the rest still holds TAIL bytes, so that a job that prints for ever costs ten
mebibytes. Batches and not lines: a job that prints 100 MB must not be slowed down by its supervisor.

Standard library only and light to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from kwdbml.loglines import HEAD, LINE_COST, TAIL, LineSplitter, split_long

SEGMENT = 1 << 20
#: Lines of a batch: a read is 64 KiB at most, but it may be 64 Ki empty lines, and a batch must not burst its segment.
_BATCH = 2000
PREFIX = "log."


class LogWriter:
    """Appends to the log in ``directory``."""

    def __init__(self, directory: str, *, head: int = HEAD, tail: int = TAIL, segment: int = SEGMENT) -> None:
        self._directory = directory
        self._head, self._tail, self._segment = head, tail, segment
        self._splitters: dict[str, LineSplitter] = {}
        self._next = 1
        self._fd = -1
        self._name = ""  # of the file that is written
        self._room = head
        self._sizes: list[tuple[str, int]] = []  # of the files after the first, oldest first

    def feed(self, stream: str, data: bytes, step: str) -> None:
        """Take what was read from ``stream`` while ``step`` ran."""
        splitter = self._splitters.setdefault(stream, LineSplitter())
        self._append(stream, splitter.feed(data), step)

    def remark(self, line: str, step: str) -> None:
        """A line of our own."""
        self._append("kwdbml", split_long(line), step)

    def put(self, seq: int, at: float, step: str, stream: str, lines: list[str]) -> None:
        """Lines that have their numbers already, the first of them ``seq``; never a number that was there before."""
        for begin in range(0, len(lines), _BATCH):
            self._next = seq + begin
            with contextlib.suppress(OSError):
                self._write(stream, lines[begin : begin + _BATCH], step, at)

    def close(self, step: str) -> None:
        """Write what has no newline yet, and end."""
        for stream, splitter in self._splitters.items():
            self._append(stream, splitter.feed(b"", final=True), step)
        self.let_go()

    def let_go(self) -> None:
        """Hold no descriptor until the next line comes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, stream: str, lines: list[str], step: str) -> None:
        for begin in range(0, len(lines), _BATCH):
            with contextlib.suppress(OSError):  # a full disk costs lines, not the run
                self._write(stream, lines[begin : begin + _BATCH], step, time.time())

    def _write(self, stream: str, lines: list[str], step: str, at: float) -> None:
        if not self._name or self._room <= 0:
            self._rotate()
        if self._fd < 0:
            self._fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        batch = {"seq": self._next, "at": at, "step": step, "stream": stream, "lines": lines}
        data = json.dumps(batch, ensure_ascii=False).encode() + b"\n"
        written = 0
        while written < len(data):
            written += os.write(self._fd, data[written:])
        self._next += len(lines)
        size = sum(map(len, lines)) + LINE_COST * len(lines)
        self._room -= size
        if self._sizes:
            name, before = self._sizes[-1]
            self._sizes[-1] = (name, before + size)

    def _rotate(self) -> None:
        name = os.path.join(self._directory, f"{PREFIX}{self._next:015d}")
        if self._name:
            self.let_go()
            self._room = self._segment
            self._sizes.append((name, 0))
            while sum(size for _, size in self._sizes[1:]) >= self._tail:
                os.unlink(self._sizes.pop(0)[0])
        self._name = name
