"""The staging boundary: what a query tries while the worker reads it, and the canary that must not be touched.

The worker's role may do nothing but call the worker's functions, and what the query runs as is its creator. Each
attempt has a twin: the same shape of query with a harmless function, which is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.support import Connection, Person, Worker, one, refused_staging, rows, run

CATALOGUES = ("pg_proc", "pg_class", "pg_type", "pg_namespace", "pg_authid", "pg_auth_members", "pg_default_acl")


class Stage:
    """Ann's pipeline over (amount, late), a secret that is not hers, and what must not have happened."""

    def __init__(self, ann: Person, db: Connection, worker: Worker, path: Path) -> None:
        self.ann, self.db, self.worker, self.path = ann, db, worker, path
        run(db, "CREATE TABLE secret (x int)", "INSERT INTO secret VALUES (42)", "CREATE SEQUENCE canary")
        run(
            ann.connection, "CREATE TABLE t AS SELECT n AS amount, n % 2 AS late FROM generate_series(1, 10) AS n",
            "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'late', 't')",
            "CREATE TABLE mine (x int)",
        )  # fmt: skip

    def function(self, body: str, *, options: str = "VOLATILE", name: str = "evil") -> None:
        """``evil(integer) RETURNS integer`` of Ann's, whose body is PL/pgSQL."""
        run(self.ann.connection, (
            f"CREATE FUNCTION {name}(i integer) RETURNS integer LANGUAGE plpgsql {options}"
            f" AS $$ BEGIN {body}; RETURN i; END $$"
        ))  # fmt: skip

    def submit(self, data: str) -> None:
        one(self.ann.connection, "SELECT kwdbml.train_model('p', 'm', %s, true, true)", [data])

    def stage(self) -> Any:
        return self.worker.stage(self.worker.claim(), self.path / "data.arrow")[1]

    def read(self, data: str) -> Any:
        self.submit(data)
        return self.stage()

    def catalogue(self) -> list[int]:
        return [int(one(self.db, f"SELECT count(*) FROM pg_catalog.{c}")) for c in CATALOGUES]


@pytest.fixture
def stage(ann: Person, db: Connection, worker: Worker, tmp_path: Path) -> Stage:
    return Stage(ann, db, worker, tmp_path)


#: what tries to become somebody else, write, or stay: (body, SQLSTATE)
ATTEMPTS = [
    ("PERFORM set_config('role', 'none', true)", "42501"),
    ("PERFORM set_config('role', session_user, false)", "42501"),
    ("PERFORM set_config('role', 'postgres', true)", "42501"),
    ("PERFORM set_config('session_authorization', 'postgres', true)", "42501"),
    ("SET LOCAL ROLE NONE", "42501"),
    ("RESET ROLE", "42501"),
    ("EXECUTE 'SET SESSION AUTHORIZATION DEFAULT'", "42501"),
    ("SET LOCAL SESSION AUTHORIZATION postgres", "42501"),
    ("PERFORM x FROM secret", "42501"),
    ("PERFORM FROM kwdbml.worker_claim('x', '{local}', '1 min')", "42501"),
    ("PERFORM FROM kwdbml.artefact_chunk", "42501"),
    ("PERFORM token FROM kwdbml.attempt", "42501"),
    ("INSERT INTO mine VALUES (1)", "25006"),
    ("UPDATE t SET amount = 0", "25006"),
    ("DELETE FROM t", "25006"),
    ("CREATE TABLE left_behind (x int)", "25006"),
    ("EXECUTE 'CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql AS ''SELECT 1'''", "25006"),
    ("PERFORM nextval('mine_seq')", "25006"),
    ("ALTER TABLE t ADD COLUMN more int", "25006"),
    ("EXECUTE 'GRANT ALL ON t TO PUBLIC'", "25006"),
    ("PERFORM set_config('transaction_read_only', 'off', true)", "25001"),
    ("SET TRANSACTION READ WRITE", "25001"),
    ("COMMIT", "2D000"),
    ("ROLLBACK", "2D000"),
    ("COPY t TO PROGRAM 'touch {canary}'", "42501"),
    ("COPY t TO '{canary}'", "42501"),
    ("EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {canary}'''", "42501"),
    ("PERFORM pg_read_file('/etc/passwd')", "42501"),
    ("PERFORM lo_export(1, '{canary}')", "42501"),
    ("EXECUTE 'LISTEN kwdbml_wake'", None),
    ("NOTIFY kwdbml_wake, 'x'", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "sqlstate"), ATTEMPTS)
def test_a_function_in_the_query(stage: Stage, body: str, sqlstate: str | None, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    tmp_path.chmod(0o777)
    run(stage.ann.connection, "CREATE SEQUENCE mine_seq")
    stage.function(body.replace("{canary}", str(canary)))
    stage.submit("SELECT evil(amount) AS amount, late FROM t")
    before = stage.catalogue()
    if sqlstate is None:
        assert stage.stage().num_rows == 10
    else:
        with refused_staging(sqlstate):
            stage.stage()
    assert stage.catalogue() == before
    assert not canary.exists()
    assert rows(stage.db, "SELECT x FROM secret") == [(42,)]
    assert one(stage.db, "SELECT count(*) FROM mine") == 0


SHAPES = {
    "in the target list": ("SELECT evil(amount) AS amount, late FROM t", []),
    "in WHERE": ("SELECT * FROM t WHERE evil(amount) > 0", []),
    "in ORDER BY": ("SELECT * FROM t ORDER BY evil(amount)", []),
    "in LIMIT": ("SELECT * FROM t LIMIT evil(5)", []),
    "in a view": ("v", ["CREATE VIEW v AS SELECT evil(amount) AS amount, late FROM t"]),
    "in a view's column": ("v", [("CREATE VIEW v AS SELECT amount, late, evil(1) AS unused FROM t"
                                  " WHERE evil(amount) > 0")]),
    "in a cast": (
        "SELECT ROW(amount)::box1::int AS amount, late FROM t",
        ["CREATE TYPE box1 AS (i int)", "CREATE FUNCTION unbox(box1) RETURNS int LANGUAGE sql AS 'SELECT evil($1.i)'",
         "CREATE CAST (box1 AS int) WITH FUNCTION unbox(box1)"],
    ),
    "in an operator": (
        "SELECT amount @@@ late AS amount, late FROM t",
        ["CREATE FUNCTION op(int, int) RETURNS int LANGUAGE sql AS 'SELECT evil($1)'",
         "CREATE OPERATOR @@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = op)"],
    ),
    "in a domain": (
        "SELECT amount::checked AS amount, late FROM t",
        ["CREATE DOMAIN checked AS int CHECK (evil(VALUE) > 0)"],
    ),
    "in an aggregate": (
        "SELECT agg(amount) AS amount, late FROM t GROUP BY late",
        ["CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'SELECT evil($2)'",
         "CREATE AGGREGATE agg(int) (SFUNC = step, STYPE = int)"],
    ),
    "in a policy": (
        "SELECT * FROM guarded",
        ["CREATE TABLE guarded AS TABLE t", "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
         "CREATE POLICY p ON guarded USING (evil(amount) > 0)"],
    ),
    "in a set-returning function": (
        "SELECT a.amount, 1 AS late FROM rows_of() AS a(amount)",
        ["CREATE FUNCTION rows_of() RETURNS SETOF int LANGUAGE sql AS 'SELECT evil(amount) FROM t'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_the_function_is_called(stage: Stage, shape: str) -> None:
    data, statements = SHAPES[shape]
    stage.function("PERFORM set_config('role', 'none', true); PERFORM x FROM secret", name="evil")
    run(stage.ann.connection, *statements)
    stage.submit(data)
    with refused_staging("42501"):
        stage.stage()
    twin = "CREATE OR REPLACE FUNCTION evil(i integer) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN i; END'"
    run(stage.ann.connection, twin)
    stage.worker.call("worker_release", stage_held(stage))
    assert stage.stage().num_rows > 0


def stage_held(stage: Stage) -> Any:
    """The attempt that the worker held when its staging failed."""
    from tests.sql.support import Held

    return Held(*rows(stage.db, "SELECT job_id, token, number, run_name FROM kwdbml.attempt WHERE ended IS NULL")[0])


def test_an_immutable_function_runs_at_plan_time_as_its_creator(stage: Stage) -> None:
    stage.function(
        "IF session_user <> current_user THEN PERFORM x FROM secret; END IF", options="IMMUTABLE", name="evil"
    )
    stage.submit("SELECT * FROM t WHERE amount > evil(0)")
    with refused_staging("42501", "secret"):
        stage.stage()


def test_who_the_query_runs_as(stage: Stage) -> None:
    text = (
        f"SELECT CASE WHEN current_user = '{stage.ann.name}' THEN 1 ELSE 0 END AS amount,"
        " CASE WHEN pg_has_role(session_user, 'kwdbml_worker', 'MEMBER') THEN 1 ELSE 0 END AS late"
    )
    table = stage.read(text)
    assert [c.to_pylist() for c in table.columns] == [[1], [1]]


def test_what_a_session_keeps_is_gone_with_it(stage: Stage) -> None:
    stage.function("EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT set_config(''role'', ''none'', true)'")
    stage.submit("SELECT evil(amount) AS amount, late FROM t")
    with pytest.raises(Exception, match=r"cursor|DECLARE|CREATE|cannot"):
        stage.stage()
    stage.function("EXECUTE format('PREPARE s%s AS SELECT 1', i)", name="prepares")
    assert stage.read("SELECT prepares(amount) AS amount, late FROM t").num_rows == 10
    with psycopg.connect(stage.worker.dsn) as other:
        assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert (
        one(stage.db, "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'worker%' AND state LIKE 'idle in%'")
        == 0
    )


@pytest.mark.parametrize("before", [True, False])
def test_a_hostile_search_path(stage: Stage, before: bool) -> None:
    """What Ann puts before pg_catalog is hers to be fooled by, and nobody else's."""
    hostile = "evil, pg_catalog" if before else "evil"
    run(
        stage.db, f'CREATE SCHEMA evil AUTHORIZATION "{stage.ann.name}"',
    )  # fmt: skip
    trap = (
        "CREATE FUNCTION evil.{}({}) RETURNS {} LANGUAGE plpgsql AS $$ BEGIN PERFORM x FROM"
        " public.secret; RETURN NULL; END $$"
    )
    run(
        stage.ann.connection,
        *(trap.format(*f) for f in (("set_config", "text, text, boolean", "text"), ("format", "text, text", "text"),
                                    ("replace", "text, text, text", "text"), ("count", "integer", "bigint"))),
        "CREATE TABLE evil.pg_type (oid oid)", "CREATE TABLE evil.pg_class (oid oid)", "CREATE TABLE evil.job (x int)",
        "CREATE TABLE evil.t AS SELECT n AS amount, 1 AS late FROM generate_series(1, 3) AS n",
        f"SET search_path = {hostile}",
    )  # fmt: skip
    run(
        stage.ann.connection,
        "SELECT kwdbml.train_model('public.p', 'public.m', 'SELECT * FROM t WHERE true', true, true)",
    )
    assert stage.stage().num_rows == 3
    assert rows(stage.db, "SELECT x FROM secret") == [(42,)]


@pytest.mark.parametrize("setting", ["search_path", "TimeZone", "DateStyle"])
def test_a_captured_setting_is_no_code(stage: Stage, setting: str) -> None:
    """A captured search_path pasted into DDL was SQL injection up to superuser."""
    evil = 'public, "x\'; ALTER ROLE postgres NOLOGIN; --"'
    if setting == "search_path":
        run(stage.ann.connection, f"SET search_path = {evil}")
    stage.submit("SELECT * FROM public.t WHERE late > -1")
    evil_value = '{"search_path": "public", "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres"}'
    stage.db.execute(
        "UPDATE kwdbml.job SET session = %s::jsonb || jsonb_build_object(%s::text, session ->> %s)",
        [evil_value, setting, setting],
    )
    assert stage.stage().num_rows == 10
    assert one(stage.db, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'postgres'")


def test_a_connection_back_to_the_server(stage: Stage) -> None:
    """dblink asks whoever is no superuser for a password: nobody gets in as the server, or as the worker."""
    info = stage.db.info
    if not rows(stage.db, "SELECT FROM pg_available_extensions WHERE name = 'dblink'"):
        pytest.skip("this server has no dblink")
    run(stage.db, "CREATE EXTENSION dblink")
    where = f"host=127.0.0.1 port={info.port} dbname={info.dbname}"
    stage.function(f"PERFORM dblink_exec('{where} user=postgres', 'UPDATE secret SET x = 0')")
    stage.submit("SELECT evil(amount) AS amount, late FROM t")
    with refused_staging("2F003"):
        stage.stage()
    assert rows(stage.db, "SELECT x FROM secret") == [(42,)]
    stage.worker.call("worker_release", stage_held(stage))
    own = f"{where} user={stage.ann.name} password={stage.ann.role.password}"
    run(stage.ann.connection, (
        "CREATE OR REPLACE FUNCTION evil(i integer) RETURNS integer LANGUAGE sql"
        f" AS $$ SELECT x FROM dblink('{own}', 'SELECT 7') AS d(x int) $$"
    ))  # fmt: skip
    assert stage.stage().columns[0].to_pylist() == [7] * 10


NAMES = ['a"; DROP TABLE secret; --', "b'); DROP TABLE secret; --", "$q$; DROP TABLE secret; $q$", "%s", "select", "\\"]


def test_column_names_that_are_sql(stage: Stage) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    columns = ", ".join(f"n + {i} AS {name}" for i, name in enumerate(quoted))
    run(
        stage.ann.connection, f"CREATE TABLE odd AS SELECT {columns}, n % 2 AS late FROM generate_series(1, 10) AS n",
        "SELECT kwdbml.create_training_pipeline('odd', 'random_forest', 'late', 'odd')",
    )  # fmt: skip
    for data in ("odd", "SELECT * FROM odd WHERE late >= 0"):
        one(stage.ann.connection, "SELECT kwdbml.train_model('odd', 'm', %s, true, true)", [data])
        held = stage.worker.claim()
        columns_read, table = stage.worker.stage(held, stage.path / "odd.arrow")
        assert [c["name"] for c in columns_read] == [*NAMES, "late"]
        first = [column.to_pylist()[0] for column in table.columns[: len(NAMES)]]
        assert [value - first[0] for value in first] == list(range(len(NAMES)))
    assert rows(stage.db, "SELECT x FROM secret") == [(42,)]


def test_temporary_things_that_shadow_ours(stage: Stage, db: Connection) -> None:
    """In the caller's session pg_temp comes first; in the worker's there is none of it."""
    shadows = ("pg_class", "pg_type", "pg_proc", "pg_roles", "pg_namespace", "job", "model", "model_version", "request")
    ann = stage.ann.connection
    run(
        ann, *(f"CREATE TEMP TABLE {name} (x int)" for name in shadows),
        "CREATE FUNCTION pg_temp.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT x::text FROM public.secret'",
    )  # fmt: skip
    job = one(ann, "SELECT kwdbml.train_model('p', 'm', 't', true, true)")
    assert rows(ann, "SELECT id FROM kwdbml.show_jobs()") == [(job,)]
    assert stage.stage().num_rows == 10
    assert one(ann, "SELECT kwdbml.cancel_job(%s)", [job]) == job
    assert one(ann, "SELECT kwdbml.remove_training_pipeline('p')") == "public.p"
    assert one(db, "SELECT count(*) FROM kwdbml.pipeline") == 0
    assert rows(db, "SELECT x FROM secret") == [(42,)]
