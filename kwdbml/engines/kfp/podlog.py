"""A pod's log, copied to this machine as it grows, in the form that every engine's log has (``joblog.py``).

Lines carry their number (``loglines.py``), so reading a log again, from another pod's copy or from the store, adds
nothing twice, and a hole is seen.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from pathlib import Path

from kwdbml.engines.base import LogChunk, LogLine
from kwdbml.engines.joblog import LogWriter
from kwdbml.engines.kfp.loglines import Parser, Progress
from kwdbml.engines.logreader import LogReader

_OVERLAP = 1.0  # seconds: Kubernetes gives a log from a whole second on
_LAST = 10  # lines that explain an end


class PodLog:
    """The copy of one run's log in ``directory``; ``progress`` is the last that was told."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = LogWriter(str(directory))
        self._reader = LogReader(directory)
        self._recent: deque[str] = deque(maxlen=_LAST)
        self._grown = 0  # how often there was more to read
        self._read_to: tuple[int, int] | None = None  # cursor and _grown of the last answer that had nothing new
        self._last = 0  # number of the last line that is here
        self.since: float | None = None  # from when on to ask for the log again: seconds since the epoch
        self.progress: Progress | None = None

    @property
    def last_lines(self) -> list[str]:
        return list(self._recent)

    def take(self, data: bytes, *, cut: bool = False) -> bool:
        """Add what is new in a piece of a log that begins at a line's start; whether anything was. A last line without
        its end comes again, whole. ``cut``: there was more than was asked for."""
        found = Parser().feed(data)
        told = [one for one in found if isinstance(one, Progress)]
        moved = bool(told) and told[-1] != self.progress
        if told:
            self.progress = told[-1]
        lines = [one for one in found if isinstance(one, LogLine)]
        fresh = _rising(lines, self._last)
        for (_, step, stream), run in groupby(enumerate(fresh), lambda n: (n[1].seq - n[0], n[1].step, n[1].stream)):
            batch = [line for _, line in run]
            self._writer.put(batch[0].seq, batch[0].at, step, stream, [line.line for line in batch])
        self._writer.let_go()  # a thousand runs would take a thousand descriptors
        if fresh:
            self._grown += 1
            self._last = fresh[-1].seq
            self._recent.extend(line.line for line in fresh[-_LAST:])
        if lines:
            # with an overlap a log that grows by more than one piece in it would give the same piece for ever
            self.since = lines[-1].at - (0.0 if cut else _OVERLAP)
        return moved or bool(fresh)

    def idle(self, cursor: int) -> bool:
        """Whether it is known, without looking at a file, that nothing follows."""
        return self._read_to == (cursor, self._grown)

    def read(self, cursor: int) -> LogChunk:
        grown = self._grown
        chunk = self._reader.read(cursor)
        if not chunk.lines and not chunk.cut:
            self._read_to = (chunk.cursor, grown)
        return chunk


def _rising(lines: list[LogLine], last: int) -> list[LogLine]:
    """Those with a higher number than any before them."""
    fresh = []
    for line in lines:
        if line.seq > last:
            fresh.append(line)
            last = line.seq
    return fresh
