"""What ends a job outside its run, as the job's ``error``: what went wrong, and the cure at the end of the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from kwdbml.dataset import DatabaseError, QueryError
from kwdbml.errors import KwdbmlError
from kwdbml.model import DATA_ARGUMENTS, JobType
from kwdbml.worker import landing

_READ_ONLY = "The data are read in a transaction that is read only: what must be written, write before the call."
_BROKEN = "The connection broke each time that the data were read: the server's log says why."
_RIGHTS = "GRANT it to the role that submits the job, or let it submit a query that does without."
_NAMES = "It was there at the call, or is only in your session: make it anew, and use nothing temporary."
#: What cures an error of the data query, by the beginning of its SQLSTATE; the longest that fits. PostgreSQL's own
#: hint, or that of a user's function, goes before these.
CURES = {
    "": "Run the query yourself, as the role that submitted the job, to see more.",
    "08": _BROKEN,
    "0A": "Leave out of the query what PostgreSQL does not support there.",
    "21": "Let the subquery give one row: with LIMIT 1, or an aggregate.",
    "22": "Correct the values, or leave them out in the query, with WHERE, CASE or NULLIF.",
    "22004": "Replace NULL in the query, with coalesce.",
    "22012": "Divide by nullif(…, 0) in the query.",
    "23": "Correct the values, or cast them in the query to a type without that constraint.",
    "25": _READ_ONLY,
    "2F": _READ_ONLY,
    "38": "Call the function yourself to see more.",
    "39": "Call the function yourself to see more.",
    "3F": _NAMES,
    "40": "Another transaction was in the way: submit the job again.",
    "42501": _RIGHTS,
    "42703": "Name the columns in the query as they were named at the call (q is the query), or submit the job again.",
    "42704": "What SET has set is only in your session: use current_setting(name, true), or write the value itself.",
    "42883": _NAMES,
    "42P01": _NAMES,
    "53": "The server is short of something: read less at a time, or ask who runs it.",
    "54": "Make the query smaller: fewer columns, and less of it in one expression.",
    "55P03": "Another transaction holds a lock: submit the job when it has ended.",
    "57014": "Make the query faster, or have it as a table; an admin may raise statement_timeout of the worker's role.",
    "57P": _BROKEN,
    "58": "The server could not reach a file or a system: ask who runs it.",
    "P0": "A function in the query raised this: call it yourself to see more.",
    "XX": "This is an error inside the server, maybe of damaged data: its log says more.",
}


def described(error: Exception, job_type: str | None) -> dict[str, Any]:
    """An exception as a job's ``error``; the cure follows the message."""
    message, hint, name = str(error), "", type(error).__name__
    if isinstance(error, DatabaseError):
        message, hint, name = _of_data(error, DATA_ARGUMENTS[JobType(str(job_type))]), _cure(error), error.type_name
    elif isinstance(error, KwdbmlError):
        message, hint, name = error.message, error.hint, error.type_name
    elif isinstance(error, psycopg.Error):
        message, hint = error.diag.message_primary or message, error.diag.message_hint or ""
    text = f"{message} ({hint})" if hint else message
    return {"type": name, "message": landing.clean(text), "step": "worker", "traceback": []}


def _of_data(error: DatabaseError, argument: str) -> str:
    """Which argument, and which column when it is known, and what PostgreSQL says."""
    told = f"{error.message}: {error.detail}" if error.detail else error.message
    if not isinstance(error, QueryError):
        return f"{argument}: {told}"
    if error.column:
        return f'{argument}: column "{error.column}" cannot be read as {error.wanted}: {told}'
    if error.suspects:
        return f"{argument}: {told}; of the columns that are cast, one of {_listed(error.suspects)}"
    return f"{argument}: {told}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _cure(error: DatabaseError) -> str:
    return error.hint or CURES[max((key for key in CURES if error.sqlstate.startswith(key)), key=len)]
