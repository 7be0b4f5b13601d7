"""The engine protocol: how the worker has a job's step run somewhere, and follows it.

An engine is asynchronous to the worker. ``launch`` gives a handle that can be stored as JSON and outlives the worker;
``poll`` may answer LOST or UNKNOWN; ``cancel`` and ``cleanup`` may be called twice, and after a crash by a worker that
has never seen the run. A run is started once: its name holds installation, job and attempt, and ``find`` looks for it
before anyone launches. One conformance suite (``tests/engines``) holds for every engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from kwdbml.model import JobType

#: What is stored in the attempt's row: plain JSON, enough to find the run again from another process.
Handle = dict[str, Any]


class RunState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # the step wrote result.json and left with 0
    FAILED = "failed"  # the step failed, crashed, or was killed for a limit; see reason
    CANCELED = "canceled"  # ended because cancel() was called
    LOST = "lost"  # the engine knows that nothing of it lives and that it has no result
    UNKNOWN = "unknown"  # the engine cannot tell now; ask again


@dataclass(frozen=True, slots=True)
class Resources:
    """What one run may use. ``None``: the engine's default share."""

    cpu: float | None = None  # cores
    memory: int | None = None  # bytes
    scalar: Mapping[str, str] = field(default_factory=dict)  # e.g. {"nvidia.com/gpu": "1"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A shared file system that a run sees: of Kubernetes a persistent volume claim."""

    claim: str
    path: str  # where in the container
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """What a cluster needs to know of a run beside its resources; a single machine looks at none of it."""

    image: str | None = None  # None: the deployment's
    pull_policy: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    mounts: Sequence[Mount] = ()


@dataclass(frozen=True, slots=True)
class About:
    """Whose run it is and of what, for people who look at the engine's own pages. No secrets: everyone may read it."""

    type: JobType | None = None
    creator: str = ""
    model: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of one job, as the engine sees it."""

    name: str  # kwdbml-<installation>-<job>-<attempt>; unique for ever
    resources: Resources = Resources()
    ttl: float | None = None  # seconds of wall clock from launch; None: no limit
    env: Mapping[str, str] = field(default_factory=dict)  # the job's own variables, for user code to see
    trusted: bool = False  # only code that ships with kwdbml runs (a built-in algorithm): may run without a sandbox
    python: str = ""  # the local engine's name of the Python to run it in; "": the worker's own
    placement: Placement = Placement()
    about: About = About()


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory of the worker's machine with ``in/`` to fill and ``out/`` to collect from (see ``kwdbml.steps``)."""

    path: Path
    slot: str = ""  # the engine's own name for what stands behind it
    sealed: bool = False  # the run has no way to change what lies in in/, whoever owns it: hard links will do there

    @property
    def inputs(self) -> Path:
        return self.path / "in"

    @property
    def outputs(self) -> Path:
        return self.path / "out"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the worker needs of an ended run, by name. ``outputs``: each with the bytes that it may have, or None;
    all that there are, where nothing is said."""

    inputs: Sequence[str] = ()
    outputs: Mapping[str, int | None] | None = None


#: The outputs, and none of the inputs.
EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class RunStatus:
    state: RunState
    exit_code: int | None = None
    reason: str = ""  # OOMKilled, DeadlineExceeded, Signal, Error, Lost … (one word, as Kubernetes spells it)
    message: str = ""  # a sentence for the job's error
    step: str | None = None
    fraction: float | None = None  # 0 to 1

    @property
    def ended(self) -> bool:
        return self.state not in (RunState.RUNNING, RunState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class LogLine:
    seq: int  # counts from 1 over both streams of a run, also over lines that were cut
    at: float  # seconds since the epoch
    step: str
    stream: str  # "stdout" or "stderr", "kwdbml" for our own remarks
    line: str  # no newline, no NUL, valid Unicode, at most 8 KiB; longer ones are split


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Lines after a cursor. ``cut`` = (first seq, last seq) of lines that are gone for good: the middle was cut."""

    lines: tuple[LogLine, ...]
    cursor: int  # give it back to read on
    cut: tuple[int, int] | None = None


class Engine(Protocol):
    """What the worker asks of an engine. Every method is safe to call again after a crash."""

    name: str
    #: Runs can be reached only from the host that launched them.
    host_bound: bool

    async def start(self) -> None:
        """Get ready (warm sandboxes, connections). EngineError with the cure when it cannot work here."""

    async def close(self) -> None:
        """Let go: idle resources are freed, runs live on."""

    async def open(self, run: Run) -> Workspace:
        """Reserve a place for a run that has not been launched, with empty ``in/`` and ``out/``."""

    async def abandon(self, workspace: Workspace) -> None:
        """Give back a place whose run will not be launched."""

    async def launch(self, run: Run, workspace: Workspace) -> Handle:
        """Start the step on a filled workspace. Twice with one name: the second answers the first one's handle."""

    async def withdraw(self, run_name: str, *, ours: bool) -> None:
        """Nobody waits for this run's launch any more: end it where it can be ended. ``ours``: and take back what it
        has made. When it came to its end all the same, ``find`` finds the run."""

    async def find(self, run_name: str) -> Handle | None:
        """The handle of a run that was launched under this name here, running or ended; None if never launched."""

    def workspace(self, handle: Handle) -> Workspace:
        """Where the run's files lie on this machine, as far as they are here (see ``collect``)."""

    async def collect(self, handle: Handle, wanted: Wanted = EVERYTHING) -> Workspace:
        """The workspace of an ended run, with what is wanted of it here. EngineError when that is damaged,
        LimitExceeded when an output has more bytes than it may (an engine that need not fetch it may leave that to
        who reads it)."""

    async def poll(self, handle: Handle) -> RunStatus:
        """How it stands. An unknown handle is LOST."""

    async def wait(self, handle: Handle, timeout: float) -> RunStatus:
        """Like poll, but returns when the run has ended, its progress or log has grown, or after ``timeout`` s."""

    async def logs(self, handle: Handle, cursor: int = 0) -> LogChunk:
        """What the run printed after ``cursor`` (0: from the start)."""

    async def cancel(self, handle: Handle) -> None:
        """Stop everything of the run. When poll says that it has ended, nothing of it lives."""

    async def cleanup(self, handle: Handle) -> None:
        """Cancel, then delete all that the run left behind. Afterwards poll says LOST."""
