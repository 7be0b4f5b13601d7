"""Names of models and training pipelines: ``schema.object`` or ``object``."""

from __future__ import annotations

from typing import Any

from kwdbml.errors import InsufficientPrivilege, InvalidParameter, InvalidSchema, NullNotAllowed
from kwdbml.plpy import as_shown, query

_HINT = (
    "A name is object or schema.object; the object part is a letter, then letters, digits and underscores,"
    " at most 63 bytes."
)


def split(kind: str, name: str | None) -> tuple[str | None, str]:
    """(schema or None, object) of a well-formed name."""
    if name is None:
        raise NullNotAllowed(f"{kind} name is NULL", hint=_HINT)
    schema, dot, obj = name.strip().rpartition(".")
    well_formed = (
        obj
        and (obj[0].isalpha())
        and all(c.isalnum() or c == "_" for c in obj)
        and len(obj.encode()) <= 63
        and (bool(schema) or not dot)
        and "\0" not in schema
    )
    if not well_formed:
        raise InvalidParameter(f'invalid {kind} name "{as_shown(name)}"', hint=_HINT)
    return (schema or None), obj


def resolve(plpy: Any, kind: str, name: str | None, *, to_make: bool = False) -> list[str]:
    """[schema, object] as the caller means it: an existing schema on which the caller has USAGE, and that is not the
    system's when something of this name is to be made."""
    schema, obj = split(kind, name)
    if to_make and schema and schema.lower() == "pg_temp":
        raise _of_the_system(kind, name, schema)
    rows = query(plpy, "resolve_schema", schema)
    if not rows:
        what = (
            f'schema "{as_shown(schema)}" does not exist'
            if schema
            else "no schema is selected: search_path names none that exists"
        )
        raise InvalidSchema(what, hint="Name an existing schema before the dot, or set search_path.")
    if not rows[0]["usage"]:
        raise InsufficientPrivilege(f"permission denied for schema {rows[0]['name']}", hint="You need USAGE on it.")
    if to_make and rows[0]["system"]:
        raise _of_the_system(kind, name, rows[0]["name"])
    return [rows[0]["name"], obj]


def _of_the_system(kind: str, name: str | None, schema: str) -> InsufficientPrivilege:
    return InsufficientPrivilege(
        f'permission denied to make {kind} "{as_shown(name)}": schema {schema} is the system\'s',
        hint="Name a schema of yours, for example public, before the dot.",
    )
