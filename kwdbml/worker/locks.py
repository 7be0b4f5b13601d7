"""Locks that keep a finished run from landing: those on a model or result table, which people hold, and may for long.

Who holds CREATE, UPDATE or DELETE on a model can lock its row, as every open transaction does that has used such a
right; whoever owns a result table can lock that. The row of a job is another thing: its creator alone is harmed.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg

from kwdbml.errors import LockNotAvailable

_TIMEOUT = "55P03"
#: The end of the context's first line, in any language: while updating tuple (0,3) in relation "job".
_OF_THE_JOB = re.compile(r"\b(job|attempt)\W*$")
_WHO = (
    "SELECT pid, usename, pg_blocking_pids(pid) FROM pg_stat_activity shows who waits for whom, pg_locks what is held."
    " That transaction has to end: by who began it, or an admin (pg_terminate_backend). Then submit the job again."
)


def of_others(error: psycopg.Error) -> bool:
    """Whether it is a lock timeout on something that is not the job's own."""
    first = (error.diag.context or "").partition("\n")[0]
    return error.sqlstate == _TIMEOUT and not _OF_THE_JOB.search(first)


def wanted(spec: dict[str, Any]) -> str:
    """What a job changes when it lands."""
    if spec["type"] == "BATCH_PREDICT":
        return f"table {spec['settings']['result_table']}"
    return f"model {spec['model']}"


def held(spec: dict[str, Any]) -> LockNotAvailable:
    """Nobody let go of it in time."""
    return LockNotAvailable(f"another transaction has held a lock on {wanted(spec)} for too long", hint=_WHO)
