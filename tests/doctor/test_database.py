"""kwdbml doctor on a real PostgreSQL: every fault by itself, each with its cure, and the worker's role without any."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import kwdbml
from kwdbml import queries
from kwdbml.doctor import database
from kwdbml.doctor.checks import Examination, Finding, Outcome
from kwdbml.doctor.database import Database
from tests.fixtures.database import MakeRole

Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look() -> Iterator[Look]:
    """``look(dsn)``: what is found, by check."""
    with ExitStack() as stack:

        def look(dsn: str, **options: Any) -> dict[str, Finding]:
            one = Database(dsn, **options)
            stack.callback(one.close)
            return {finding.check: finding for finding in Examination().run(one.checks())}

        yield look


def bad(found: dict[str, Finding]) -> dict[str, Outcome]:
    return {name: finding.outcome for name, finding in found.items() if finding.outcome is not Outcome.OK}


def skipped(first: str) -> dict[str, Outcome]:
    names = [check.name for check in Database("").checks()]
    return dict.fromkeys(names[names.index(first) + 1 :], Outcome.SKIPPED) | {first: Outcome.FAIL}


def test_a_worker_s_role_has_nothing_to_cure(look: Look, worker_dsn: str) -> None:
    found = look(worker_dsn)
    assert bad(found) == {}
    assert len(found) == 8
    assert "member of kwdbml_worker and nothing else" in found["database.role"].message
    assert found["database.extension"].message == f"kwdbml {kwdbml.__version__}"


# -- no connection ---------------------------------------------------------------------------------------------------


def test_a_dsn_that_is_none_is_not_quoted(look: Look) -> None:
    found = look("postgresql://worker:hush hush@db.example:port/shop?x=y")
    assert bad(found) == skipped("database.dsn")
    assert "hush" not in str(found)
    assert "postgresql://user@host" in found["database.dsn"].cure


CONNECTIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("away", {"port": 1}, "Connection refused", "Start the server"),
    ("host", {"host": "db.invalid"}, "db.invalid", "Correct the host"),
    ("password", {"password": "other"}, "password authentication failed", "Correct user and password"),
    ("no password", {"password": "", "passfile": "/dev/null"}, "no password supplied", "PGPASSFILE"),
    ("database", {"dbname": "shop_of_nobody"}, 'database "shop_of_nobody" does not exist', "Create the database"),
    ("tls", {"sslmode": "require"}, "does not support SSL", "Switch ssl on"),
    ("socket", {"host": "/nowhere"}, "No such file or directory", "name a host"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message", "cure"), [c[1:] for c in CONNECTIONS], ids=[c[0] for c in CONNECTIONS])
def test_why_there_is_no_connection(
    look: Look, worker_dsn: str, change: dict[str, Any], message: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    found = look(make_conninfo(worker_dsn, **change))
    assert bad(found) == skipped("database.connection")
    assert message in found["database.connection"].message
    assert cure in found["database.connection"].cure


def test_a_server_that_is_silent_is_not_waited_for(look: Look, worker_dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        change = {"port": silent.getsockname()[1], "connect_timeout": 2}
        found = look(make_conninfo(worker_dsn, **change))["database.connection"]
    assert (found.outcome, "timeout" in found.message) == (Outcome.FAIL, True)
    assert "firewall" in found.cure


# -- encryption ------------------------------------------------------------------------------------------------------


class Connected:
    """As much of a connection as is looked at: servers on other machines cannot be had here."""

    def __init__(self, host: str, secured: bool) -> None:
        self.info = type("Info", (), {"host": host, "hostaddr": "192.0.2.7"})()
        self.pgconn = type("Wire", (), {"ssl_in_use": secured})()


@pytest.mark.parametrize(
    ("secured", "dsn", "cure"),
    [
        (False, "host=db.example", "Switch ssl on in the server"),
        (True, "host=db.example", "Set sslmode=verify-full"),
        (True, "host=db.example sslmode=verify-full", ""),
    ],
)
def test_what_goes_over_the_network_should_be_encrypted(secured: bool, dsn: str, cure: str) -> None:
    one = Database(dsn)
    one._connection = Connected("db.example", secured)  # type: ignore[assignment]
    [finding] = Examination().run([check for check in one.checks() if check.name == "database.encryption"][:1])
    assert finding.outcome is (Outcome.WARN if cure else Outcome.OK)
    assert finding.cure.startswith(cure)


# -- the extension ---------------------------------------------------------------------------------------------------


def test_a_database_without_the_extension(look: Look, db: psycopg.Connection[Any], worker_dsn: str) -> None:
    db.execute("DROP EXTENSION kwdbml CASCADE")
    found = look(worker_dsn)
    assert found["database.extension"].outcome is Outcome.FAIL
    assert "CREATE EXTENSION kwdbml CASCADE" in found["database.extension"].cure
    assert found["database.python"].outcome is Outcome.SKIPPED
    assert found["database.role"].outcome is Outcome.OK


@pytest.mark.parametrize(
    ("version", "cure"), [("0.0.9", "ALTER EXTENSION kwdbml UPDATE"), ("99.0.0", "Install kwdbml 99.0.0 here")]
)
def test_an_extension_of_another_version(
    look: Look, db: psycopg.Connection[Any], worker_dsn: str, version: str, cure: str
) -> None:
    db.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'kwdbml'", [version])
    found = look(worker_dsn)
    assert bad(found)["database.extension"] is Outcome.FAIL
    assert version in found["database.extension"].message
    assert cure in found["database.extension"].cure


def test_a_server_whose_python_fails(look: Look, db: psycopg.Connection[Any], worker_dsn: str) -> None:
    db.execute(
        "CREATE OR REPLACE FUNCTION kwdbml.algorithms() RETURNS SETOF kwdbml.algorithm_row LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'there is no package kwdbml' USING HINT = 'install it'; END $$"
    )
    found = look(worker_dsn)
    assert bad(found) == {"database.python": Outcome.FAIL}
    assert "there is no package kwdbml" in found["database.python"].message
    assert found["database.python"].cure == "install it"


def test_an_old_server_is_refused(look: Look, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SUPPORTED", range(98, 100))
    found = look(worker_dsn)
    assert bad(found) == {"database.version": Outcome.FAIL}
    assert found["database.version"].cure == "Use PostgreSQL 98 to 99."


# -- the role --------------------------------------------------------------------------------------------------------


def test_a_superuser_is_refused_unless_allowed(look: Look, dsn: str) -> None:
    found = look(dsn)
    assert bad(found) == {"database.role": Outcome.FAIL}
    assert "is a superuser" in found["database.role"].message
    assert bad(look(dsn, allow_superuser=True)) == {"database.role": Outcome.WARN}


def test_a_role_that_is_no_worker(look: Look, role: MakeRole) -> None:
    found = look(role("ann").dsn)
    assert bad(found) == {"database.role": Outcome.FAIL}
    assert "GRANT kwdbml_worker" in found["database.role"].cure


def test_a_worker_with_more_than_it_needs(look: Look, role: MakeRole, db: psycopg.Connection[Any]) -> None:
    one = role("worker", member_of=["kwdbml_worker", "pg_read_all_data"])
    db.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(one.identifier))
    found = look(one.dsn)
    assert bad(found) == {"database.role": Outcome.WARN}
    assert "CREATEROLE, pg_read_all_data" in found["database.role"].message


# -- notifications ---------------------------------------------------------------------------------------------------


def test_a_notification_that_is_lost(look: Look, worker_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(queries.QUERIES, "listen", "SELECT 1")  # as a pooler does that gives the session to another
    monkeypatch.setattr(database, "_PATIENCE", 0.1)
    found = look(make_conninfo(worker_dsn, connect_timeout=10))
    assert bad(found) == {"database.notifications": Outcome.FAIL}
    assert "pooler" in found["database.notifications"].cure
