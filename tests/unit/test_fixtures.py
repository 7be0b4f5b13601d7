"""The fixtures themselves: that a database is a test's own, a role ordinary, and a cut wire cut."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.fixtures.database import Connect, MakeRole
from tests.fixtures.faults import Wire


@pytest.mark.parametrize("_", [1, 2])
def test_every_test_has_a_database_of_its_own_with_the_extension(db: psycopg.Connection[Any], _: int) -> None:
    db.execute("CREATE TABLE once ()")
    found = db.execute(
        "SELECT extname FROM pg_extension WHERE extname IN ('kwdbml', 'plpython3u') ORDER BY 1"
    ).fetchall()
    assert found == [("kwdbml",), ("plpython3u",)]


def test_a_role_is_ordinary_and_may_own_things(db: psycopg.Connection[Any], role: MakeRole) -> None:
    ann, bob = role("ann", create_on=["public"]), role("Bob's")
    ann.connect().execute("CREATE TABLE mine AS SELECT 1 AS x")
    with pytest.raises(errors.InsufficientPrivilege):
        bob.connect().execute("SELECT * FROM mine")
    rights = db.execute("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = %s", [ann.name])
    assert rights.fetchone() == (False, False, False)


def test_the_worker_is_a_member_and_no_more(worker_dsn: str, connect: Connect) -> None:
    worker = connect(worker_dsn)
    row = worker.execute("SELECT pg_has_role(current_user, 'kwdbml_worker', 'USAGE'), current_setting('is_superuser')")
    assert row.fetchone() == (True, "off")


def test_a_cut_wire_breaks_and_a_mended_one_carries(dsn: str, wire: Callable[[str], Wire], connect: Connect) -> None:
    line = wire(dsn)
    connection = connect(line.dsn)
    assert connection.execute("SELECT 1").fetchone() == (1,)
    line.cut()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(line.dsn)
    line.mend()
    assert connect(line.dsn).execute("SELECT 2").fetchone() == (2,)
    assert line.accepted == 2


def test_a_stalled_wire_keeps_what_was_sent(dsn: str, wire: Callable[[str], Wire], connect: Connect) -> None:
    line = wire(dsn)
    connection = connect(line.dsn)
    line.stall()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(connection.execute, "SELECT 3")
        with pytest.raises(TimeoutError):
            answer.result(0.2)
        line.mend()
        assert answer.result(10).fetchone() == (3,)


def test_a_killed_backend_is_gone(
    dsn: str, connect: Connect, kill_backend: Callable[[psycopg.Connection[Any]], None]
) -> None:
    victim = connect(dsn)
    kill_backend(victim)
    with pytest.raises(psycopg.OperationalError):
        victim.execute("SELECT 1")
