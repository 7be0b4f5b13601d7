"""The reading half of ``joblog.py``: lines after a cursor, while the supervisor writes on and throws old files away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kwdbml.engines.base import LogChunk, LogLine
from kwdbml.engines.joblog import PREFIX

#: One answer of ``read`` holds about this much, so that a worker that reads a big log stays small.
CHUNK_LINES = 4000
CHUNK_BYTES = 1 << 20


class LogReader:
    """Reads one run's log. Remembers where the last answer ended, so reading on does not read all again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._at: tuple[int, str, int] = (0, "", 0)  # cursor, file, offset of the batch that follows it

    def read(self, cursor: int = 0) -> LogChunk:
        """Lines after ``cursor``, about CHUNK_LINES or CHUNK_BYTES at once; empty when there is nothing new."""
        while True:
            try:
                return self._read(cursor)
            except FileNotFoundError:  # cut away between listing and opening: what follows it is there
                self._at = (0, "", 0)

    def signature(self) -> tuple[str, int]:
        """Changes whenever the log has grown."""
        names = self._names()
        if not names:
            return ("", 0)
        try:
            return (names[-1], (self._directory / names[-1]).stat().st_size)
        except FileNotFoundError:
            return (names[-1], -1)

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._directory.iterdir() if path.name.startswith(PREFIX))
        except FileNotFoundError:
            return []

    def _files(self, cursor: int) -> list[tuple[str, int]]:
        """Files that may hold lines after ``cursor``, in order, with the offset to start at."""
        names = self._names()
        first = 0
        for index, name in enumerate(names):
            if int(name.removeprefix(PREFIX)) <= cursor + 1:
                first = index
        known_cursor, known_name, offset = self._at
        return [(name, offset if cursor == known_cursor and name == known_name else 0) for name in names[first:]]

    def _read(self, cursor: int) -> LogChunk:
        lines: list[LogLine] = []
        size, reached, cut = 0, cursor, None
        for name, offset in self._files(cursor):
            for start, batch in _batches(self._directory / name, offset):
                first, texts = int(batch["seq"]), batch["lines"]
                if first + len(texts) - 1 <= reached:
                    continue
                if first > reached + 1:
                    if lines:  # the gap is told by the next answer, before what follows it
                        return LogChunk(tuple(lines), reached, cut)
                    cut = (reached + 1, first - 1)
                    reached = first - 1
                for number, text in enumerate(texts[reached + 1 - first :], reached + 1):
                    lines.append(LogLine(number, batch["at"], batch["step"], batch["stream"], text))
                    size += len(text)
                    reached = number
                    if len(lines) >= CHUNK_LINES or size >= CHUNK_BYTES:
                        self._at = (reached, name, start)
                        return LogChunk(tuple(lines), reached, cut)
                self._at = (reached, name, start)
        return LogChunk(tuple(lines), reached, cut)


def _batches(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Batches of one file with their offsets; a last one that is still being written is left for later."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield offset, json.loads(line)
            offset += len(line)
