"""What the SQL functions call: thin work between SQL and the state machine, with ``plpy`` as an argument.

``sql/functions/internal/_load.sql`` has the one PL/Python body; it calls ``run``. Errors of ours carry their SQLSTATE;
errors of PostgreSQL pass through with theirs. Both are answers, not exceptions: PL/Python would put "plpy.Error: "
before the message, so PL/pgSQL raises them.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from importlib import resources
from typing import Any

from kwdbml.errors import InvalidParameter, KwdbmlError

#: What may be called from SQL, by name: everybody may EXECUTE the gateway, so nothing else is reachable.
FUNCTIONS = {
    "resolve": "names",
    "import_model": "models",
    "import_training_pipeline": "pipelines",
    "create_training_pipeline": "pipelines",
    "algorithms": "pipelines",
    "explain_train": "explain",
    "train_model": "submit",
    "evaluate_model": "submit",
    "batch_predict": "submit",
}


def run(plpy: Any, function: str, arguments: str, bundles: list[bytes | None] | None) -> list[str]:
    """Call a function of this package: ``["ok", JSON]`` or ``["error", SQLSTATE, message, detail, hint]``."""
    try:
        if function not in FUNCTIONS:
            raise InvalidParameter(
                f'no such function: "{function}"', hint="Call the functions of schema kwdbml without a leading _."
            )
        called = getattr(importlib.import_module(f"kwdbml.plpy.{FUNCTIONS[function]}"), function)
        return ["ok", json.dumps(called(plpy, *json.loads(arguments), *(bundles or ())))]
    except KwdbmlError as error:
        return ["error", error.sqlstate, error.message, error.detail, error.hint]
    except plpy.SPIError as error:
        # spidata: sqlerrcode, detail, hint, query, position, schema, table, column, datatype, constraint
        data = getattr(error, "spidata", None) or (None, None, None)
        sqlstate = getattr(error, "sqlstate", None) or "XX000"
        return ["error", sqlstate, str(error), data[1] or "", data[2] or _CURES.get(sqlstate, "")]


#: What PostgreSQL gives no hint for, and what helps against it when a call of ours meets it.
_CURES = {
    "25006": "The call writes a row: it needs a transaction that may write (BEGIN READ WRITE), on the primary server.",
}


def query(plpy: Any, name: str, *args: Any) -> list[dict[str, Any]]:
    """Rows of a statement of ``queries.sql``, prepared once per backend."""
    plan = _PLANS.get(name)
    if plan is None:
        plan = _PLANS[name] = plpy.prepare(*_statements()[name])
    return list(plpy.execute(plan, list(args)))


def about_types(plpy: Any, name: str, oids: list[int], *more: list[Any]) -> list[dict[str, Any]]:
    """``query`` for statements that answer one row per element of their arrays, the first of which are types: of
    PostgreSQL's own types, which never change, each is asked once per backend."""
    wanted = list(zip(oids, *more, strict=True))
    new = [w for w in dict.fromkeys(wanted) if (name, w) not in _TYPES]
    found = dict(zip(new, query(plpy, name, *map(list, zip(*new, strict=True))), strict=True)) if new else {}
    _TYPES.update({(name, w): row for w, row in found.items() if w[0] < _FIRST_USER_OID})
    return [found.get(w) or _TYPES[name, w] for w in wanted]


_PLANS: dict[str, Any] = {}
_TYPES: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = {}
_FIRST_USER_OID = 16384  # PostgreSQL's FirstNormalObjectId


@functools.cache
def _statements() -> dict[str, tuple[str, list[str]]]:
    """Text and parameter types by name."""
    text = resources.files("kwdbml.plpy").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\((.*)\)$", text, flags=re.MULTILINE)
    return {
        name: (body.strip(), [t.strip() for t in types.split(",") if t.strip()])
        for name, types, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def parse_json(value: Any, what: str, hint: str) -> Any:
    """The value of a jsonb or text argument: JSON that came as text is parsed, the rest is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value, parse_constant=_no_constant)
        if re.search(r"(?<!\\)(?:\\\\)*\\u0000", value):
            raise ValueError("PostgreSQL's text cannot hold \\u0000")
        json.dumps(parsed, ensure_ascii=False).encode()  # an escaped half of a character has no bytes
        return parsed
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{what} is not JSON: {error}", hint=hint) from None


def as_shown(value: Any) -> str:
    """A value as a message shows it: text as it is, anything else as JSON, a long one cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def _no_constant(name: str) -> Any:
    """Python reads NaN and Infinity, which are no JSON and would not go into a jsonb column."""
    raise ValueError(f"{name} is no JSON value")
