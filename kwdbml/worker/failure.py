"""What ends a job outside its run, as the job's ``error``: what went wrong, and the cure at the end of the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from kwdbml.cures import cure_of
from kwdbml.dataset import DatabaseError, QueryError
from kwdbml.errors import KwdbmlError
from kwdbml.model import DATA_ARGUMENTS, JobType
from kwdbml.worker import landing


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
    return error.hint or cure_of(error.sqlstate)
