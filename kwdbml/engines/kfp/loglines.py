"""Reading a pod's log: the lines that ``kwdbml.steps.pod`` prints (``kwdbml.loglines``), with or without the time that
Kubernetes puts before each.

Anything may stand in a pod's log, also what Kubeflow's own launcher prints: a line that is none of ours is skipped.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from datetime import datetime

from kwdbml.engines.base import LogLine
from kwdbml.loglines import LINE, NO_STEP, split_long

#: A line of ours is at most LINE bytes of text and a little before it.
_MOST = LINE + 512
_LINE = re.compile(r"(\d{1,15}) ([^\W\d]\w{0,31}|-) (stdout|stderr|kwdbml): (.*)", re.DOTALL)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d) ")
_PROGRESS = re.compile(r"progress (-|[01](?:\.\d{1,10})?)")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the step stands."""

    step: str
    fraction: float | None


class Parser:
    """Bytes of one log in, from a line's beginning on; lines and progress out."""

    def __init__(self) -> None:
        self._rest = b""
        self._skips = False  # the line that has begun is too long to be one of ours

    def feed(self, data: bytes) -> list[LogLine | Progress]:
        *lines, rest = (self._rest + data).split(b"\n")
        found: list[LogLine | Progress] = []
        for line in lines:
            if not self._skips and (one := parse(line)) is not None:
                found.append(one)
            self._skips = False
        if len(rest) > _MOST:
            rest, self._skips = b"", True
        self._rest = rest
        return found

    def close(self) -> list[LogLine | Progress]:
        """What has no end yet: a log that was cut inside a line is read again from that line on."""
        self._rest, self._skips = b"", False
        return []


def parse(line: bytes) -> LogLine | Progress | None:
    """None for a line that is not one of ours."""
    if len(line) > _MOST:
        return None
    text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    at = _TIME.match(text)
    if (found := _LINE.fullmatch(text, at.end() if at else 0)) is None:
        return None
    seq, step, stream, said = int(found[1]), found[2], found[3], found[4]
    step = "" if step == NO_STEP else step
    if seq == 0:
        told = _PROGRESS.fullmatch(said) if stream == "kwdbml" else None
        return Progress(step, _fraction(told[1])) if told else None
    return LogLine(seq, _seconds(at) if at else time.time(), step, stream, split_long(said)[0])


def _fraction(text: str) -> float | None:
    value = math.nan if text == NO_STEP else float(text)
    return value if 0 <= value <= 1 else None


def _seconds(at: re.Match[str]) -> float:
    try:
        whole = datetime.fromisoformat(at[1] + at[3].replace("Z", "+00:00")).timestamp()
    except ValueError:  # the 30th of February
        return time.time()
    return whole + float(at[2] or 0)
