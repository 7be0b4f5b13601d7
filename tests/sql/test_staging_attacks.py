"""The staging boundary: what a query tries while the worker reads it, and the canary that must not be touched.

The worker's role may do nothing but call the worker's functions, and what the query runs as is its creator. Each
attempt has a twin: the same shape of query with a harmless function, which is read.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from kwdbml.dataset import DatabaseError
from tests.sql.support import Connection, Person, Worker, one, refused_staging, rows, run

CATALOGUES = ("pg_proc", "pg_class", "pg_type", "pg_namespace", "pg_default_acl", "pg_largeobject_metadata")
#: The cluster's, without what other tests may be making at this moment: their roles' names end so.
ROLES = (
    "SELECT ARRAY[(SELECT count(*) FROM pg_roles WHERE rolname !~ '_[0-9a-f]{8}$'),"
    " (SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
    "  WHERE r.rolname !~ '_[0-9a-f]{8}$' OR r.rolname IN (%s, %s))]"
)


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
            f"CREATE OR REPLACE FUNCTION {name}(i integer) RETURNS integer LANGUAGE plpgsql {options}"
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
        own = [int(one(self.db, f"SELECT count(*) FROM pg_catalog.{c}")) for c in CATALOGUES]
        return [*own, *one(self.db, ROLES, [self.ann.name, str(conninfo_to_dict(self.worker.dsn)["user"])])]

    def canaries(self) -> list[Any]:
        """What no attempt may change."""
        told = [notify.channel for notify in self.db.notifies(timeout=0)]
        role = rows(self.db, "SELECT * FROM pg_roles WHERE rolname = %s", [self.ann.name])
        tables = (rows(self.db, f"TABLE {name}") for name in ("secret", "canary", "mine", "t"))
        return [self.catalogue(), told, role, *tables]


@pytest.fixture
def stage(ann: Person, db: Connection, worker: Worker, tmp_path: Path) -> Stage:
    return Stage(ann, db, worker, tmp_path)


#: what tries to become somebody else, write, stay, or reach further: by the SQLSTATE that it meets
ATTEMPTS = {
    "42501": (
        "PERFORM set_config('role', 'none', true)",
        "PERFORM set_config('role', session_user, false)",
        "PERFORM set_config('role', 'postgres', true)",
        "PERFORM set_config('session_authorization', 'postgres', true)",
        "SET LOCAL ROLE NONE",
        "RESET ROLE",
        "EXECUTE 'SET SESSION AUTHORIZATION DEFAULT'",
        "SET LOCAL SESSION AUTHORIZATION postgres",
        "PERFORM set_config('session_replication_role', 'replica', true)",
        "PERFORM x FROM secret",
        "PERFORM FROM kwdbml.worker_claim('x', '{local}', '1 min')",
        "PERFORM kwdbml.worker_cleaned('x')",
        "PERFORM FROM kwdbml.artefact_chunk",
        "PERFORM token FROM kwdbml.attempt",
        "COPY t TO PROGRAM 'touch {file}'",
        "COPY t TO '{file}'",
        "EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {file}'''",
        "EXECUTE 'COPY mine FROM PROGRAM ''echo 1'''",
        "PERFORM pg_read_file('/etc/passwd')",
        "PERFORM pg_ls_dir('/')",
        "PERFORM lo_export(1, '{file}')",
        "PERFORM lo_import('/etc/passwd')",
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        "PERFORM pg_cancel_backend(pg_backend_pid())",
        "PERFORM pg_reload_conf()",
        "LOAD 'plpython3'",
    ),
    "25006": (
        "INSERT INTO mine VALUES (1)",
        "UPDATE t SET amount = 0",
        "DELETE FROM t",
        "PERFORM FROM t FOR UPDATE",
        "CREATE TABLE left_behind (x int)",
        "CREATE TEMP TABLE left_behind (x int)",
        "EXECUTE 'CREATE FUNCTION left_behind() RETURNS int LANGUAGE sql AS ''SELECT 1'''",
        "EXECUTE 'CREATE RULE r AS ON INSERT TO mine DO ALSO SELECT 1'",
        "PERFORM nextval('mine_seq')",
        "ALTER TABLE t ADD COLUMN more int",
        "EXECUTE 'GRANT ALL ON t TO PUBLIC'",
        "EXECUTE 'ALTER ROLE ' || quote_ident(current_user) || ' PASSWORD ''x'''",
        "UPDATE kwdbml.job SET status = 'CANCELED'",
        "PERFORM kwdbml.create_training_pipeline('mine', 'random_forest', 'late', 't')",
    ),
    "25001": ("PERFORM set_config('transaction_read_only', 'off', true)", "SET TRANSACTION READ WRITE"),
    "2D000": ("COMMIT", "ROLLBACK", "EXECUTE 'DO $x$ BEGIN COMMIT; END $x$'"),
    "": (
        "EXECUTE 'LISTEN kwdbml_wake'",
        "NOTIFY canary, 'x'",
        "PERFORM lo_create(0)",
        "PERFORM set_config('search_path', 'kwdbml', false)",
        "NULL",
    ),
}  # fmt: skip


@pytest.mark.parametrize("sqlstate", ATTEMPTS)
def test_a_function_in_the_query(stage: Stage, sqlstate: str, tmp_path: Path) -> None:
    """Those of the last row are allowed: they change nothing that outlives the reading. NULL is the harmless twin."""
    file = tmp_path / "canary"
    tmp_path.chmod(0o777)
    run(stage.ann.connection, "CREATE SEQUENCE mine_seq")
    run(stage.db, "LISTEN canary")
    stage.function("NULL")
    stage.submit("SELECT evil(amount) AS amount, late FROM t")
    held = stage.worker.claim()
    before = stage.canaries()
    for body in ATTEMPTS[sqlstate]:
        stage.function(body.replace("{file}", str(file)))
        with refused_staging(sqlstate) if sqlstate else contextlib.nullcontext():
            assert stage.worker.stage(held, stage.path / "data.arrow")[1].num_rows == 10
        assert stage.canaries() == before, body
        assert not file.exists(), body
    stage.function("NULL")
    assert stage.worker.stage(held, stage.path / "data.arrow")[1].num_rows == 10


def test_the_token_is_not_to_be_seen(stage: Stage) -> None:
    """It is the right to end the job. The names of what reads, and the statement itself, are."""
    seen = "current_query(), (SELECT string_agg(proname, ' ') FROM pg_proc WHERE proname ~ '^_stage')"
    stage.function(f"RAISE 'seen: % %', {seen}")
    stage.submit("SELECT evil(amount) AS amount, late FROM t")
    held = stage.worker.claim()
    with pytest.raises(DatabaseError, match=r"seen: .*kwdbml\._stage_\w+.* _stage_") as caught:
        stage.worker.stage(held, stage.path / "data.arrow")
    assert held.token.hex not in caught.value.message.replace("-", "")


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


#: what a session can keep; the cursor's query would run at COMMIT, as the session's role
KEEPS = (
    "DECLARE c%s CURSOR WITH HOLD FOR SELECT pg_notify('canary', session_user)",
    "PREPARE s%s AS SELECT 1",
    "LISTEN canary%s",
    "SET application_name = kept%s",
    "SELECT pg_advisory_lock(%s)",
)


def test_what_a_session_keeps_is_gone_with_it(stage: Stage) -> None:
    run(stage.db, "LISTEN canary", "SET lock_timeout = '20s'")
    for number, kept in enumerate(KEEPS):
        stage.function(f"EXECUTE format($x${kept}$x$, i)", name=f"keeps_{number}")
    evil = " + ".join(f"0 * keeps_{number}(amount)" for number in range(len(KEEPS)))
    assert stage.read(f"SELECT amount + {evil} AS amount, late FROM t").num_rows == 10
    run(stage.db, "SELECT pg_advisory_lock(1)")  # the backend that held it is gone
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^kept'"
    assert one(stage.db, left) == 0
    assert list(stage.db.notifies(timeout=0)) == []
    own = stage.ann.role.connect(autocommit=False)  # the twin: in a session of hers that commits, all of it is there
    one(own, "SELECT keeps_0(11) + keeps_1(11)")
    own.commit()
    assert one(own, "SELECT count(*) FROM pg_prepared_statements WHERE name = 's11'") == 1
    (told,) = stage.db.notifies(timeout=20, stop_after=1)
    assert told.payload == stage.ann.name


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
                                    ("replace", "text, text, text", "text"), ("count", "integer", "bigint"),
                                    ("current_setting", "text", "text"))),
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
