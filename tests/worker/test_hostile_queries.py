"""What a creator's SQL tries while a real worker reads her data and lands her rows; tests/sql has more of each kind."""

from __future__ import annotations

import psycopg
import pytest

from tests.worker.conftest import Employ
from tests.worker.site import Site

#: what she can read of it: that it is there
SECRET = """
CREATE TABLE public.secret (x int);
INSERT INTO public.secret VALUES (42);
CREATE SEQUENCE public.touched;
GRANT USAGE ON SEQUENCE public.touched TO PUBLIC;
"""
#: the body of a function in the query, and the type of the job's error
QUERIES = {
    "PERFORM set_config('role', 'none', true); PERFORM x FROM secret": "InsufficientPrivilege",
    "SET LOCAL ROLE NONE": "InsufficientPrivilege",
    "PERFORM x FROM secret": "InsufficientPrivilege",
    "PERFORM FROM kwdbml.worker_claim('x', '{local}', '1 min')": "InsufficientPrivilege",
    "COPY trips TO PROGRAM 'cat'": "InsufficientPrivilege",
    "PERFORM pg_terminate_backend(pg_backend_pid())": "InsufficientPrivilege",
    "PERFORM nextval('touched')": "ReadOnlySqlTransaction",
    "UPDATE trips SET late = 0": "ReadOnlySqlTransaction",
    "COMMIT": "InvalidTransactionTermination",
}
#: allowed, and gone with the session: at COMMIT the cursor would draw from the sequence as the worker
KEPT = (
    "EXECUTE format('DECLARE c%s CURSOR WITH HOLD FOR SELECT nextval(''touched'')', i); EXECUTE 'LISTEN x';"
    " EXECUTE format('PREPARE s%s AS SELECT 1', i); PERFORM pg_advisory_lock(i)"
)


async def _function(site: Site, body: str) -> None:
    text = "CREATE OR REPLACE FUNCTION evil(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN {}; RETURN 0; END $$"
    await site.as_ann.execute(text.format(body).encode())


async def test_a_function_in_the_query(site: Site, employ: Employ) -> None:
    await site.run(SECRET)
    await _function(site, "NULL")
    await employ()
    data = "SELECT x, late + evil(id) AS late FROM trips"
    for body, kind in QUERIES.items():
        await _function(site, body)
        job = await site.train(data)
        error = await site.failed(job)
        assert error["type"] == kind, (body, error)
        assert await site.attempts(job) == [(1, kind)], body
    assert await site.versions() == []
    for body in ("NULL", KEPT):  # the harmless twins
        await _function(site, body)
        await site.succeeded(await site.train(data, new_version=True))
    await site.until("SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND database ="
                     " (SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip
    assert await site.rows("SELECT x, is_called FROM secret, touched") == [(42, False)]
    assert await site.value("SELECT sum(late) FROM trips") == 25


#: what her tables become while the jobs wait: each would run her code with the rows, or at COMMIT
TABLES = {
    "deferred trigger": "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
                        " EXECUTE FUNCTION trap()",
    "rule": "CREATE RULE r AS ON INSERT TO {} DO ALSO SELECT trap(NEW.id)",
    "policy": "CREATE POLICY p ON {0} WITH CHECK (trap(id) > 0); ALTER TABLE {0} FORCE ROW LEVEL SECURITY;"
              " ALTER TABLE {0} ENABLE ROW LEVEL SECURITY",
    "generated column": "ALTER TABLE {0} DROP y; ALTER TABLE {0} ADD y bigint GENERATED ALWAYS AS (trap(id)) STORED",
    "domain": "CREATE DOMAIN checked AS int CHECK (trap(VALUE) > 0); ALTER TABLE {} ALTER id TYPE checked",
    "index": "CREATE INDEX ON {} ((trap(id)))",
}  # fmt: skip
TRAP = """
CREATE FUNCTION trap(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM nextval('public.touched'); RETURN i; END $$;
CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('public.touched'); RETURN NULL; END $$;
"""


async def test_code_on_the_result_table(site: Site, employ: Employ) -> None:
    await site.run(SECRET)
    await site.model(target=[{"name": "y", "type": "INT"}])
    await site.as_ann.execute(TRAP.encode())
    jobs = {}
    for number, case in enumerate([*TABLES, "twin"]):
        table = f"answers{number}"
        await site.as_ann.execute(f"CREATE TABLE {table} (id int, x float8, late int, y bigint)".encode())
        jobs[case] = table, await site.predict(table=table, action="append")
        await site.as_ann.execute(TABLES.get(case, "SELECT 1").format(table).encode())
    await employ()
    for case in TABLES:
        table, job = jobs[case]
        assert (await site.failed(job))["type"] == "WrongObjectType", case
        assert await site.value(f"SELECT count(*) FROM {table}".encode()) == 0, case
    assert (await site.succeeded(jobs["twin"][1]))["rows"] == 50
    assert await site.rows("SELECT is_called FROM touched") == [(False,)]
    await site.as_ann.execute("INSERT INTO answers0 VALUES (1)")  # the trap is one
    assert await site.rows("SELECT is_called FROM touched") == [(True,)]


async def test_an_operator_in_the_workers_way(site: Site, employ: Employ, worker_dsn: str) -> None:
    """It fits a statement of the driver's own better than PostgreSQL's: it would run as the worker."""
    await site.run(SECRET)
    await site.as_ann.execute(
        b"CREATE FUNCTION trap(regproc, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN"
        b" PERFORM nextval('public.touched'), kwdbml.worker_sweep(); RETURN true; END $$;"
        b"CREATE OPERATOR <> (LEFTARG = regproc, RIGHTARG = int, FUNCTION = trap)"
    )
    await employ()
    await site.one_landed(await site.train())
    assert await site.rows("SELECT is_called FROM touched") == [(False,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):  # the trap is one: for Ann herself it is not allowed
        await site.as_ann.execute("SELECT typreceive <> 0 FROM pg_type LIMIT 1")
    async with await psycopg.AsyncConnection.connect(worker_dsn, autocommit=True) as unguarded:
        await unguarded.execute("SELECT typreceive <> 0 FROM pg_type LIMIT 1")
    assert await site.rows("SELECT is_called FROM touched") == [(True,)]
