"""docs/sql.md says what the catalogue says: its second half is generated, and compared.

``KWDBML_UPDATE_DOCS=1 scripts/test tests/docs`` writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
MARK = "<!-- From here on generated from the catalogue"

#: Everything that a user may call: not what begins with _, and not the workers' own.
_FUNCTIONS = r"""
SELECT p.proname::text, p.prokind::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
       obj_description(p.oid, 'pg_proc')
FROM pg_proc p
WHERE p.pronamespace = 'kwdbml'::regnamespace AND p.proname !~ '^(_|worker_)'
ORDER BY p.proname, coalesce(p.proargnames, '{}') = '{}', p.pronargs DESC, 3"""

_ROWS = """
SELECT c.relname::text, c.relkind::text, obj_description(c.oid, 'pg_class'),
       string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'kwdbml'::regnamespace
  AND (c.relname = 'jobs' OR c.relkind = 'c' AND c.relname <> 'worker_job')
GROUP BY c.oid ORDER BY c.relkind DESC, c.relname"""


def generated(db: psycopg.Connection[Any]) -> str:
    """The second half of the reference."""
    return "\n".join([*_functions(db), *_row_types(db)])


def _functions(db: psycopg.Connection[Any]) -> Iterator[str]:
    yield "\n## Functions"
    for name, overloads in groupby(db.execute(_FUNCTIONS.encode()).fetchall(), key=lambda row: row[0]):
        yield f"\n### {name}\n"
        for _, kind, arguments, result, comment in overloads:
            call = f"CALL {name}({arguments})" if kind == "p" else f"{name}({arguments}) → {result}"
            yield f"- `{call}`\n  {comment}"


def _row_types(db: psycopg.Connection[Any]) -> Iterator[str]:
    yield "\n## Rows\n"
    for name, kind, comment, columns in db.execute(_ROWS.encode()).fetchall():
        what = f"the view `kwdbml.{name}`, {comment}" if kind == "v" else f"`kwdbml.{name}`"
        yield f"- {what}: {columns}"
    yield ""


def test_every_function_has_a_comment(db: psycopg.Connection[Any]) -> None:
    rows = db.execute(_FUNCTIONS.encode()).fetchall()
    assert [row[:3] for row in rows if not row[4]] == []
    assert {"train_model", "wait_for_job", "show_jobs"} <= {row[0] for row in rows}


def test_the_reference_is_the_catalogue(db: psycopg.Connection[Any]) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    by_hand = text[: text.index("\n", text.index(MARK)) + 1]
    wanted = by_hand + generated(db)
    if os.environ.get("KWDBML_UPDATE_DOCS"):
        REFERENCE.write_text(wanted, encoding="utf-8")
    else:
        assert text == wanted, "write it anew: KWDBML_UPDATE_DOCS=1 scripts/test tests/docs"
