"""A step's output as lines: valid Unicode without NUL, none too long; and as the lines of a pod's log.

What a pod prints is read back by the worker, so each line says which it is::

    <seq> <step> <stream>: <text>            seq counts from 1; stream is stdout, stderr or kwdbml
    0 <step> kwdbml: progress <fraction|->   where the step stands; no line of the log

Standard library only and light to import: supervisors and pods start with it.
"""

from __future__ import annotations

import codecs

#: Of a log the first HEAD and the last TAIL bytes are kept.
HEAD = 1 << 20
TAIL = 9 << 20
LINE = 8192
#: What a line costs beside its bytes, here and later as a row of a table: a million empty lines are not free.
LINE_COST = 32
NO_STEP = "-"
#: So begins the last line of a pod that could not fetch or store: what it wanted to say may not be in the store either.
UNAVAILABLE = "Unavailable: "


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


def pod_line(seq: int, step: str, stream: str, text: str) -> str:
    """A line of a pod's log, with its end."""
    return f"{seq} {step or NO_STEP} {stream}: {text}\n"


def pod_progress(step: str, fraction: float | None) -> str:
    """The line that says where the step stands."""
    return pod_line(0, step, "kwdbml", f"progress {NO_STEP if fraction is None else f'{fraction:.4f}'}")
