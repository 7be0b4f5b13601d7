"""What cures an error of PostgreSQL's in a data query, at the call and when the job reads it: one table for both.

PostgreSQL's own hint, or that of a user's function, goes before these.
"""

from __future__ import annotations

_READ_ONLY = "The data are read in a transaction that is read only: what must be written, write before the call."
_BROKEN = "The connection broke each time that the data were read: the server's log says why."
_NAMES = (
    "Name what exists, with its schema where search_path does not lead to it, and what is still there when the job"
    " runs: nothing temporary."
)
#: By the beginning of an SQLSTATE; the longest that fits.
CURES = {
    "": "Run the query by itself, as the role that submits the job, to see more.",
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
    "42501": "The role that submits the job needs the right itself: SELECT on each relation, EXECUTE on each function.",
    "42702": "Put the relation's name or alias before the column.",
    "42703": (
        "Name a column that is there, and still is when the job runs; PostgreSQL folds names to lower case unless they"
        " are in double quotes."
    ),
    "42704": f"{_NAMES} What SET has set is only in your session: write the value itself.",
    "42725": "Cast the arguments, so that one function fits best.",
    "42803": "Put the column into GROUP BY or into an aggregate.",
    "42846": "PostgreSQL knows no such cast: cast by way of a third type, or compute the value.",
    "42883": f"Cast the arguments to the types of a function that is there. {_NAMES}",
    "42P01": _NAMES,
    "42P02": "A query has no parameters here: write the value into it, for example with format('… %L …', value).",
    "53": "The server is short of something: read less at a time, or ask who runs it.",
    "54": "Make the query smaller: fewer columns, and less of it in one expression.",
    "55P03": "Another transaction holds a lock: submit the job when it has ended.",
    "57014": "Make the query faster, or have it as a table; an admin may raise statement_timeout of the worker's role.",
    "57P": _BROKEN,
    "58": "The server could not reach a file or a system: ask who runs it.",
    "P0": "A function in the query raised this: call it yourself to see more.",
    "XX": "This is an error inside the server, maybe of damaged data: its log says more.",
}


def cure_of(sqlstate: str) -> str:
    """What to do about an error with this SQLSTATE."""
    return CURES[max((key for key in CURES if sqlstate.startswith(key)), key=len)]
