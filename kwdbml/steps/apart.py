"""Code of somebody else in a process beside ours, of the same user: what it cannot touch, and what it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kwdbml.steps.failure import StepError

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36


@contextmanager
def apart(files: Sequence[Path]) -> Iterator[None]:
    """While it runs, nobody reads or writes our memory; afterwards no process that it has started is left. StepError
    when these files of ours are not what they were."""
    prctl = ctypes.CDLL(None).prctl
    before, digests = _children(), [_digest(path) for path in files]
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who loses its parent becomes ours, so none gets away
    try:
        yield
    finally:
        while left := _children() - before:
            for pid in left:
                _end(pid)
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    changed = [path.name for path, digest in zip(files, digests, strict=True) if _digest(path) != digest]
    if changed:
        raise StepError(
            f"the code of the active version has changed {' and '.join(changed)} of the new one",
            hint="train without settings.promote, or make another version the active one",
        )


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _children() -> set[int]:
    ours, found = os.getpid(), set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
                if int(status.rpartition(")")[2].split()[1]) == ours:
                    found.add(int(entry.name))
    return found


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
