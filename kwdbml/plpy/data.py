"""What a data set argument is: a relation or one query, seen as the caller, who must be able to read it.

PostgreSQL decides what a query may be, not we: it must be one statement that EXPLAIN takes, without ModifyTable or
LockRows in its plan, and it must work as a sub-select. Nothing of it runs here but the planner, as the caller.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from kwdbml.cures import cure_of
from kwdbml.errors import InsufficientPrivilege, InvalidParameter, KwdbmlError, NullNotAllowed, UndefinedTable
from kwdbml.plpy import as_shown, query

_PART = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
_RELATION = re.compile(rf"\s*({_PART})(?:\s*\.\s*({_PART}))?(?:\s*\.\s*({_PART}))?\s*\Z")
#: the two spellings of "all of one relation" that may be read the fast way
_WHOLE = re.compile(rf"\s*(?:SELECT\s+\*\s+FROM|TABLE)\s+({_PART}(?:\s*\.\s*{_PART}){{0,2}})\s*;?\s*\Z", re.IGNORECASE)
#: what may stand between tokens or inside literals, so that a semicolon there separates nothing
_TOKEN = re.compile(
    r"""--[^\n]*|(?P<comment>/\*)|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"
    |(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$|(?P<semicolon>;)|[^\s]|\s+""",
    re.VERBOSE | re.DOTALL,
)
#: classes of errors that speak of a query, and not of the server, the session or a cancelation
_ABOUT_QUERIES = {"0A", "21", "22", "23", "25", "3F", "38", "39", "42", "P0"}
_QUERY_HINT = "Give a relation, or one SELECT, WITH, TABLE or VALUES that changes and locks nothing."


@dataclass(frozen=True)
class DataSet:
    """A readable data set: its query, the relation it is all of (or None), and its columns."""

    query: str
    relation: str | None
    columns: list[dict[str, Any]]  # {"name", "oid", "typmod", "type"}
    rows: float  # PostgreSQL's estimate

    @property
    def names(self) -> dict[str, dict[str, Any]]:
        return {c["name"]: c for c in self.columns}


class QueryError(KwdbmlError):
    """What PostgreSQL says of a query, with the argument's name before it and a cure after it."""

    def __init__(self, error: Any, argument: str) -> None:
        _, detail, hint = (tuple(getattr(error, "spidata", None) or ()) + (None,) * 3)[:3]
        self.sqlstate = str(error.sqlstate)
        super().__init__(f"{argument}: {error}", hint=hint or cure_of(self.sqlstate), detail=detail or "")


def unquote(part: str) -> str:
    """An identifier as PostgreSQL reads it: folded unless quoted."""
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def relation_parts(text: str) -> list[str] | None:
    """The parts of a relation name, or None when the text is none."""
    match = _RELATION.match(text)
    return [unquote(p) for p in match.groups() if p is not None] if match else None


def describe(plpy: Any, text: str | None, argument: str) -> DataSet:
    """Look at a data set argument as the caller. 22004, 22023, 42P01, 42501, or what PostgreSQL says of it."""
    if text is None:
        raise NullNotAllowed(f"{argument} is NULL", hint=_QUERY_HINT)
    if not text.strip():
        raise InvalidParameter(f"{argument} is empty", hint=_QUERY_HINT)
    whole = _WHOLE.match(text)
    parts = relation_parts(whole.group(1) if whole else text)
    data = _relation(plpy, parts, argument) if parts else _query(plpy, text, argument)
    _check_names(data.columns, argument)
    return data


def _relation(plpy: Any, parts: list[str], argument: str) -> DataSet:
    shown = as_shown(".".join(parts))
    name = _qualify(plpy, parts, shown)
    try:
        rows = query(plpy, "relation", name)
    except plpy.SPIError as error:  # no USAGE on its schema
        raise explained(error, argument) from None
    if not rows:
        raise UndefinedTable(
            f'{argument}: relation "{shown}" does not exist',
            hint="Name a relation that exists, with its schema where search_path does not lead to it; or give a query.",
        )
    rel = rows[0]
    if rel["kind"] not in "rvmfp":
        raise InvalidParameter(f'{argument}: "{shown}" is not a table or view', hint=_QUERY_HINT)
    if not rel["readable"]:
        raise InsufficientPrivilege(
            f"{argument}: permission denied for relation {shown}", hint="You need SELECT on it."
        )
    if rel["persistence"] == "t":
        raise _temporary(shown)
    qualified = f"{plpy.quote_ident(rel['schema'])}.{plpy.quote_ident(rel['name'])}"
    columns = json.loads(rel["columns"] or "[]")
    return DataSet(f"SELECT * FROM {qualified}", qualified, columns, max(rel["rows"], 0))  # noqa: S608 quoted


def _qualify(plpy: Any, parts: list[str], shown: str) -> str:
    """``X.t`` is schema X; when there is none and X is this database, ``public.t``."""
    quoted = [plpy.quote_ident(p) for p in parts]
    if len(parts) == 1:
        return str(quoted[0])
    here = query(plpy, "place", quoted[0])[0]
    if len(parts) == 3:
        if parts[0] != here["db"]:
            raise InvalidParameter(f'"{shown}" is in another database', hint=f"This database is {here['db']}.")
        return ".".join(quoted[1:])
    if not here["schema"] and parts[0] == here["db"]:
        return f"public.{quoted[1]}"
    return ".".join(quoted)


def _temporary(shown: str) -> InvalidParameter:
    return InvalidParameter(
        f'"{shown}" is a temporary table, which the worker cannot see', hint="Copy it into an ordinary table."
    )


def one_statement(text: str) -> str:
    """The text without trailing semicolons and comments; 22023 when a second statement follows."""
    end = position = 0
    seen = False
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:  # an open quote: PostgreSQL will say so better
            return text
        start, position = match.start(), match.end()
        if match.group("comment"):
            position = _comment_end(text, start)
        elif match.group("semicolon"):
            seen = True
        elif not match.group().isspace() and not match.group().startswith("--"):
            if seen:
                raise InvalidParameter("the data set is more than one statement", hint=_QUERY_HINT)
            end = position
    return text[:end]


def _comment_end(text: str, start: int) -> int:
    """Where a comment ends; PostgreSQL's nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _query(plpy: Any, text: str, argument: str) -> DataSet:
    statement = one_statement(text)
    rows = 0.0
    with_cursor = None
    try:
        # a cursor takes one statement only, and EXPLAIN runs nothing of it
        with_cursor = plpy.cursor("EXPLAIN (VERBOSE, FORMAT JSON) " + statement)
        plan = json.loads(next(iter(with_cursor))["QUERY PLAN"])[0]["Plan"]
        rows = float(plan.get("Plan Rows", 0))
    except plpy.SPIError as error:
        raise explained(error, argument, statement) from None
    finally:
        if with_cursor is not None:
            with_cursor.close()
    _check_plan(plan, argument)
    try:
        result = plpy.execute(f"SELECT * FROM (\n{statement}\n) AS kwdbml_data_set LIMIT 0")  # noqa: S608 one SELECT
    except plpy.SPIError as error:
        raise explained(error, argument, statement) from None
    types = query(plpy, "type_names", result.coltypes(), result.coltypmods())
    columns = [
        {"name": n, "oid": o, "typmod": m, "type": t["type"]}
        for n, o, m, t in zip(result.colnames(), result.coltypes(), result.coltypmods(), types, strict=True)
    ]
    return DataSet(statement, None, columns, rows)


def _check_plan(node: dict[str, Any], argument: str) -> None:
    """Refuse plans that write or lock, and temporary tables."""
    kind = node.get("Node Type")
    if kind in ("ModifyTable", "LockRows"):
        does = "changes data" if kind == "ModifyTable" else "locks rows"
        raise InvalidParameter(f"the query in {argument} {does}", hint=_QUERY_HINT)
    if str(node.get("Schema", "")).startswith("pg_temp"):
        raise _temporary(str(node.get("Relation Name", "?")))
    for child in node.get("Plans", ()):
        _check_plan(child, argument)


def explained(error: Any, argument: str, statement: str | None = None) -> Exception:
    """PostgreSQL's own error, where it speaks of the query; a clearer one where it would speak of our EXPLAIN."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    if statement is None or sqlstate not in ("42601", "0A000", "42P11"):
        return QueryError(error, argument) if sqlstate[:2] in _ABOUT_QUERIES else error
    from kwdbml.dialect import statement_kind

    kind = statement_kind(statement)
    what = f"is {kind}, not a query" if kind else f"is not a query that PostgreSQL takes: {error}"
    return InvalidParameter(f"{argument} {what}", hint=_QUERY_HINT)


def _check_names(columns: list[dict[str, Any]], argument: str) -> None:
    if not columns:
        raise InvalidParameter(f"{argument} has no columns", hint=_QUERY_HINT)
    seen: set[str] = set()
    for c in columns:
        if c["name"] in seen:
            raise InvalidParameter(
                f'column "{c["name"]}" appears twice in {argument}',
                hint="Give each column a name of its own: SELECT … AS name.",
            )
        seen.add(c["name"])
