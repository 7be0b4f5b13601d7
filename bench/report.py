"""Sides that take turns, medians, and the one line that each bench ends with."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

Series = Mapping[str, list[float]]


def say(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. ``smoke`` shrinks it until the bench only shows that it runs."""

    rounds: int
    smoke: bool

    def rows(self, full: int, smoke: int) -> int:
        return smoke if self.smoke else full


@dataclass(frozen=True, slots=True)
class Result:
    """What a bench claims. Values are texts with their unit and without spaces; an absent peer is ``-``."""

    name: str
    ours: str
    peer: str
    ratio: str
    goal: str
    met: bool

    @property
    def line(self) -> str:
        verdict = "met" if self.met else "missed"
        return f"{self.name} ours={self.ours} peer={self.peer} ratio={self.ratio} goal={self.goal} {verdict}"


def alternate(rounds: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Measure every side once a round, in the other order every other round, so that none is always the first."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            taken[name].append(sides[name]())
        say(f"  round {number + 1}: " + "  ".join(f"{name} {taken[name][-1]:.4g}" for name in sides))
    return taken


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(series: Series, unit: str, scale: float = 1.0) -> None:
    """Print median, least and greatest of every side."""
    for name, values in series.items():
        low, middle, high = (scale * x for x in (min(values), median(values), max(values)))
        say(f"  {name:<12} median {middle:.4g} {unit}   from {low:.4g} to {high:.4g}   n={len(values)}")


class Clock(AbstractContextManager["Clock"]):
    """``with Clock() as clock: …``, then ``clock.seconds``."""

    seconds = 0.0

    def __enter__(self) -> Clock:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began


def progress(text: str) -> None:
    """What takes long and is not measured."""
    print(f"  · {text}", file=sys.stderr, flush=True)
