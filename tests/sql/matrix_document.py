"""docs/privileges.md, made from the tables of the privilege matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from tests.sql import matrix, matrix_tables
from tests.sql.matrix import ROLES, SAME_AS, Cells

INTRODUCTION = """# Who may do what

<!-- Generated from tests/sql/matrix.py and matrix_tables.py, whose every cell the tests try.
     KWDBML_UPDATE_DOCS=1 scripts/test tests/sql/test_matrix.py writes it anew. -->

What a privilege opens is in the column of who has been granted that one alone, on this model or pipeline and on
nothing else. *member* has the rights of a role that was granted ALL on both, *syspublic* is anybody after ALL on both
was granted to everyone; *creator* is whose model, pipeline and jobs they are, *colleague* has the rights of the
creator's role, *admin* those of `kwdbml_admin`. Everybody may read the data set and create tables in the schema.

`ok`: it is done; `no`: the answer is false; of rows: `empty`, none; `granted`, those of the model or pipeline on which
something was granted; `own`, all of the creator's; `all`; else the SQLSTATE: 42501 you may not; 42704 there is no such
thing, in the same words whether it is not there or not yours; 55000 and 42809: views take no writes; 0A000: COPY FROM
would pass by row-level security.

Who is a member has what a role has only as long as PostgreSQL says that the role's rights are his. So these meet what
others meet:
"""


def table_of(found: Mapping[str, Cells], first: str) -> Iterator[str]:
    yield "| " + " | ".join((first, *ROLES)) + " |"
    yield "| --- " * (1 + len(ROLES)) + "|"
    for what, wanted in found.items():
        yield "| " + " | ".join((f"`{what}`", *(wanted[role] for role in ROLES))) + " |"


def verbs(table: str) -> Iterator[tuple[str, Cells]]:
    yield f"{table}: SELECT", matrix_tables.READABLE[table]
    writes = [(verb, matrix_tables.WRITABLE.get((table, verb), matrix.NOBODY)) for verb in matrix_tables.WRITES]
    for wanted, group in groupby(sorted(writes, key=lambda w: sorted(w[1].items())), key=lambda w: w[1]):
        yield f"{table}: {', '.join(verb for verb, _ in group)}", wanted


def columns() -> Iterator[str]:
    """A column that is not here is the owner's, but for SELECT of whole tables."""
    yield "| table | statement | columns | who |"
    yield "| --- | --- | --- | --- |"
    for who, granted in (("everybody", matrix_tables.EVERYBODYS), ("admins", matrix_tables.ADMINS_COLUMNS)):
        for (table, verb), names in granted.items():
            yield f"| `{table}` | {verb} | {listed(names.split())} | {who} |"
    secret = listed(matrix_tables.SECRETS)
    yield f"\nSELECT: all columns of all tables and views but {secret}. Which rows, the tables above say."


def generated() -> str:
    sections = {
        "Functions": {name: wanted for name, (_, wanted) in matrix.FUNCTIONS.items()},
        "The same functions, asked for something else": {row.what: row.cells for row in matrix.FURTHER_CALLS},
        "Tables and views, directly": dict(pair for table in matrix_tables.READABLE for pair in verbs(table)),
        "Columns and rows of tables, directly": {row.what: row.cells for row in matrix.PARTS},
        "Requests written by hand": {row.what: row.cells for row in matrix.REQUESTS},
        "Internal functions that run as the owner": {name: wanted for name, (_, wanted) in matrix.DEFINERS.items()},
    }
    lines = [INTRODUCTION, *(f"- {twin}: *{role}*" for twin, role in SAME_AS.items()), ""]
    for title, found in sections.items():
        lines += [f"## {title}\n", *table_of(found, "what"), ""]
    return "\n".join([
        *lines, "## Columns that may be named\n", *columns(), "", "## Other internal functions\n",
        "With the rights of whoever calls them: " + listed(sorted(matrix.CALLERS)) + ".\n",
        "The owner's alone: all that begin with `_do_`, all trigger functions, "
        + listed(sorted(matrix.OWNER_ONLY)) + ".\n",
        "The worker's (members of `kwdbml_worker`): all that begin with `worker_`.", "",
    ])  # fmt: skip


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
