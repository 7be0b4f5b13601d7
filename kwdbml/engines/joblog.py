"""What a step prints, kept in bounded space: the writing half, for the supervisor (``logreader.py`` reads).

A log is a row of files ``log.<first seq>`` in the run's ctl/ directory. Each holds JSON lines, one per batch::

    {"seq": 17, "at": 1700000000.5, "step": "train", "stream": "stdout", "lines": ["…", "…"]}

``seq`` is the number of the first line of the batch, the others follow. The first file takes HEAD bytes and stays; of
the files after it the oldest go when the rest still holds TAIL bytes, so that a job that prints for ever costs ten
mebibytes. Batches and not lines: a job that prints 100 MB must not be slowed down by its supervisor.

Standard library only and light to import.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import time

HEAD = 1 << 20
TAIL = 9 << 20
SEGMENT = 1 << 20
LINE = 8192
#: What a line costs beside its bytes, here and later as a row of a table: a million empty lines are not free.
LINE_COST = 32
PREFIX = "log."


def split_long(line: str, limit: int = LINE) -> list[str]:
    """``line`` in pieces of at most ``limit`` bytes of UTF-8, never inside a character."""
    if len(line) * 4 <= limit:
        return [line]
    rest = line.encode()
    pieces = []
    while len(rest) > limit:
        end = limit
        while rest[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(rest[:end].decode())
        rest = rest[end:]
    pieces.append(rest.decode())
    return pieces


class LineSplitter:
    """One stream's bytes in, its lines out: valid Unicode without NUL, at most LINE bytes each."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        text = self._rest + self._decoder.decode(data, final).replace("\0", "\ufffd")
        *complete, self._rest = text.split("\n")
        lines: list[str] = []
        for line in complete:
            lines.extend(split_long(line.removesuffix("\r")))
        if final or len(self._rest) > LINE // 4:
            pieces = split_long(self._rest)
            self._rest = "" if final else pieces.pop()
            lines.extend(piece for piece in pieces if piece)
        return lines


class LogWriter:
    """Appends to the log in ``directory``."""

    def __init__(self, directory: str, *, head: int = HEAD, tail: int = TAIL, segment: int = SEGMENT) -> None:
        self._directory = directory
        self._head, self._tail, self._segment = head, tail, segment
        self._splitters: dict[str, LineSplitter] = {}
        self._next = 1
        self._fd = -1
        self._room = head
        self._sizes: list[tuple[str, int]] = []  # of the files after the first, oldest first

    def feed(self, stream: str, data: bytes, step: str) -> None:
        """Take what was read from ``stream`` while ``step`` ran."""
        splitter = self._splitters.setdefault(stream, LineSplitter())
        self._append(stream, splitter.feed(data), step)

    def remark(self, line: str, step: str) -> None:
        """A line of our own."""
        self._append("kwdbml", split_long(line), step)

    def close(self, step: str) -> None:
        """Write what has no newline yet, and end."""
        for stream, splitter in self._splitters.items():
            self._append(stream, splitter.feed(b"", final=True), step)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, stream: str, lines: list[str], step: str) -> None:
        # A read is 64 KiB at most, but it may be 64 Ki empty lines: a batch must not burst its segment.
        for at in range(0, len(lines), 2000):
            with contextlib.suppress(OSError):  # a full disk costs lines, not the run
                self._write(stream, lines[at : at + 2000], step)

    def _write(self, stream: str, lines: list[str], step: str) -> None:
        if self._fd < 0 or self._room <= 0:
            self._rotate()
        batch = {"seq": self._next, "at": time.time(), "step": step, "stream": stream, "lines": lines}
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
        if self._fd >= 0:
            os.close(self._fd)
            self._room = self._segment
            self._sizes.append((name, 0))
            while sum(size for _, size in self._sizes[1:]) >= self._tail:
                os.unlink(self._sizes.pop(0)[0])
        self._fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
