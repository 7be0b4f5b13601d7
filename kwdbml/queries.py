"""What the worker says to the database: the named statements of ``queries.sql``, and how it connects."""

from __future__ import annotations

import re
from importlib import resources

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str) -> dict[str, str]:
    """The statements of a package's queries.sql, by name."""
    text = resources.files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


QUERIES = load("kwdbml")


#: A search_path without a schema that somebody can write to: a driver's own statements name no operator in full, and
#: one that somebody made, and that fits better than PostgreSQL's, would run as the worker.
_SAFE = "-c search_path=pg_catalog,pg_temp -c client_connection_check_interval=2s"


def attentive(dsn: str, *, impatient: bool = False) -> str:
    """The DSN, with a safe search_path, and a server that notices within seconds when this worker is gone: a query that
    waits for a lock would otherwise hold its own locks for as long as it waits. ``impatient``: waits for no lock for
    long, since anybody may lock the rows of his own jobs; not for reading a user's data, who may have good reasons to
    wait."""
    given = conninfo_to_dict(dsn).get("options") or ""
    return make_conninfo(dsn, options=f"{given} {_SAFE}{' -c lock_timeout=5s' if impatient else ''}".strip())
