"""What up() makes inside the embedded server: the database, the extension, the worker's login role. Safe to repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from kwdbml.embedded.server import HOST, SUPERUSER
from kwdbml.errors import WrongState

DATABASE = "kwdbml"
WORKER = "kwdbml_embedded_worker"


def dsn(user: str, password: str | None, port: int, database: str = DATABASE) -> str:
    """One line that psql, pg_dump and psycopg take."""
    secret = f":{quote(password, safe='')}" if password is not None else ""
    return f"postgresql://{quote(user, safe='')}{secret}@{HOST}:{port}/{quote(database, safe='')}"


@contextmanager
def superuser(password: str, port: int, database: str) -> Iterator[psycopg.Connection]:
    try:
        # The caller's PGOPTIONS are about other servers.
        address = dsn(SUPERUSER, password, port, database)
        connection = psycopg.connect(address, autocommit=True, options="", connect_timeout=30)
    except psycopg.OperationalError as error:
        raise WrongState(f"the embedded server does not let us in: {error}".strip()) from error
    with connection:
        yield connection


def _exists(connection: psycopg.Connection, query: LiteralString, name: str) -> bool:
    return connection.execute(query, [name]).fetchone() is not None


def create_database(password: str, port: int, name: str = DATABASE) -> None:
    with superuser(password, port, "postgres") as connection:
        if not _exists(connection, "SELECT FROM pg_catalog.pg_database WHERE datname = %s", name):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def create_extension(password: str, port: int, name: str = DATABASE) -> bool:
    """Create or upgrade the extension; whether its SQL is another since."""
    version: LiteralString = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'kwdbml'"
    with superuser(password, port, name) as connection:
        before = connection.execute(version).fetchone()
        connection.execute("CREATE EXTENSION IF NOT EXISTS kwdbml CASCADE")
        connection.execute("ALTER EXTENSION kwdbml UPDATE")
        return connection.execute(version).fetchone() != before


def create_worker_role(superuser_password: str, port: int, password: str, name: str = WORKER) -> None:
    """A login role that can be the worker and nothing else."""
    with superuser(superuser_password, port, "postgres") as connection:
        role = sql.Identifier(name)
        if not _exists(connection, "SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", name):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        connection.execute(sql.SQL("GRANT kwdbml_worker TO {}").format(role))
        # Hashed here: the server's log never sees it.
        verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(verifier)))


def jobs_held(password: str, port: int, pid: int) -> int:
    """How many jobs a worker process of this machine is at."""
    with superuser(password, port, DATABASE) as connection:
        held = connection.execute(
            "SELECT pg_catalog.count(*) FROM kwdbml.attempt a"
            " WHERE a.ended IS NULL AND pg_catalog.regexp_replace(a.worker, '^.*:', '') = %s",
            [str(pid)],
        ).fetchone()
    return int(held[0]) if held else 0


def script_changed(recorded: Path, script: Path, *, created: bool) -> bool:
    """Whether the SQL has changed since the database's extension was made of it: no upgrade leads there."""
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    if created or not recorded.exists():
        recorded.write_text(digest, encoding="ascii")
    return recorded.read_text(encoding="ascii") != digest
