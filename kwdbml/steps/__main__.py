"""``python -m kwdbml.steps <workspace>`` runs a job; ``--warm`` imports what is heavy first and waits for one.

Exit code 0: result.json was written; 1: error.json; 2: called wrongly. Warm: writes ``{"event": "ready"}`` to file
descriptor 3, then reads one line of JSON from standard input: ``{"workspace": …, "threads": N, "env": {…}}``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

# Before anything that brings OpenMP: threads that spin while they wait slow two jobs on two cores down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from kwdbml.steps.control import Control

_USAGE = "usage: python -m kwdbml.steps <workspace> | --warm\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write(_USAGE)
        return 2
    control = Control()  # looks at descriptor 3 before anything else can take it
    sys.dont_write_bytecode = True  # a bundle goes out as it came in
    _stream_logs()
    if arguments[0] == "--warm":
        from kwdbml.steps import warm

        go = warm.wait(control)
        if go is None:
            return 0  # the engine went away before there was a job
        workspace = go
    else:
        workspace = Path(arguments[0])
        _own_threads(workspace)
    _close_stdin()

    from kwdbml.steps.run import run

    return run(workspace.absolute(), control)


def _own_threads(workspace: Path) -> None:
    """As many threads as the job has cores, said before libraries are loaded; job.json is checked later."""
    import json

    from kwdbml.steps import warm

    try:
        threads = int(json.loads((workspace / "in" / "job.json").read_bytes()).get("threads") or 1)
    except (OSError, ValueError, TypeError, AttributeError):
        return
    warm.use_threads(max(1, threads))


def _stream_logs() -> None:
    """What is printed appears in the job's log line by line, and no character can make printing fail."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def _close_stdin() -> None:
    """User code that reads from it finds the end."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def _leave(code: int) -> NoReturn:
    """At once: threads that user code left running must not hold the job."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
