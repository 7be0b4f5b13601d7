"""What a dump carries: a real pg_dump of a busy database, restored where some of its roles do not exist."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.conftest import Serve, serve
from tests.extension.test_upgrade_data import ODD, add_odd, everything, odd, use
from tests.fixtures.bundles import zipped
from tests.fixtures.local import LocalServer
from tests.fixtures.server import MakeServer

__all__ = ["serve"]  # a fixture

#: Every table of the schema is one or the other: see sql/tables/09_dump.sql.
CARRIED = {
    "settings", "pipeline", "pipeline_privilege", "model", "model_version", "model_privilege", "artefact",
    "artefact_chunk", "job", "attempt", "job_log", "runtime", "flavour", "file_system",
}  # fmt: skip
LEFT_OUT = {
    "installation",  # a copy is another installation
    "cleanup",  # the original cleans up after itself
    "job_env",  # secrets, of use only to jobs that do not run again
    "request",  # always empty, and its trigger would do everything once more
}
SERVER = {"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "256MB", "min_wal_size": "80MB"}
CHUNK, CHUNKS = 8 * 1024 * 1024, 75  # 600 MiB
SLEEPER = """
import time

def model_train(x_train, y_train, x_test, y_test):
    print('begun', flush=True)
    time.sleep(100)
"""
DATA = "SELECT n / 10.0::float8 AS x, n % 2 AS late FROM generate_series(1, 60) AS n"
LOUD = """
def model_train(x_train, y_train, x_test, y_test):
    print('begun')
    raise ValueError('enough')
"""
IMPORTED = "'', 'b', 'sklearn_1.3', 'python_3.10', %s::jsonb, %s::jsonb, %s, NULL"
X, LATE = '[{"name": "x", "type": "FLOAT"}]', '[{"name": "late", "type": "INT"}]'

#: What must be as before, asked as the superuser.
SAME = [
    "SELECT * FROM kwdbml.show_models() ORDER BY schema, name",
    "SELECT * FROM kwdbml.show_model('public.trained') ORDER BY version",
    "SELECT * FROM kwdbml.show_training_pipelines() ORDER BY schema, name",
    "SELECT * FROM kwdbml.show_jobs() WHERE status <> 'RUNNING' ORDER BY id",
    "SELECT j.id, l.* FROM kwdbml.jobs j, kwdbml.job_logs(j.id) AS l WHERE status <> 'RUNNING' ORDER BY j.id, l.seq",
    "SELECT * FROM kwdbml.model_privilege ORDER BY 1, 2, 3",
    "SELECT * FROM kwdbml.pipeline_privilege ORDER BY 1, 2, 3",
    "SELECT * FROM kwdbml.settings",
    "SELECT * FROM kwdbml.runtime ORDER BY 1, 2",
    "SELECT * FROM kwdbml.flavour ORDER BY 1",
    "SELECT * FROM kwdbml.file_system ORDER BY 1",
    "SELECT * FROM kwdbml.artefact ORDER BY id",
    "SELECT artefact_id, seq, sha256(chunk) FROM kwdbml.artefact_chunk ORDER BY 1, 2",
    "SELECT p, kwdbml.has_model_privilege('public.trained', 'bob', p) FROM unnest('{SELECT,PREDICT,ALL}'::text[]) AS p",
    "SELECT kwdbml.has_training_pipeline_privilege('public.p', 'bob', 'TRAIN')",
    "SELECT kwdbml.has_model_privilege('public.gones', 'syspublic', 'SELECT')",
]

Ask = psycopg.Connection[Any]


def rows(connection: Ask, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(statement.encode(), parameters or None).fetchall()


def one(connection: Ask, statement: str, *parameters: Any) -> Any:
    ((value,),) = rows(connection, statement, *parameters)
    return value


def until(connection: Ask, statement: str, *parameters: Any, seconds: float = 120.0) -> None:
    """Wait until it is true."""
    end = time.monotonic() + seconds
    while not one(connection, statement, *parameters):
        assert time.monotonic() < end, (statement, rows(connection, "SELECT * FROM kwdbml.jobs"))
        for _ in connection.notifies(timeout=0.1, stop_after=1):
            pass


def ended(connection: Ask, job: str, status: str) -> None:
    until(connection, "SELECT status <> 'RUNNING' FROM kwdbml.jobs WHERE id = %s", job)
    found = rows(connection, "SELECT status, error FROM kwdbml.jobs WHERE id = %s", job)
    assert found[0][0] == status, found


def program(server: LocalServer, name: str, *arguments: str, database: str) -> list[str]:
    return [str(server.cluster.postgres.bindir / name), "--dbname", server.dsn(database), *arguments]


def piped(source: LocalServer, target: LocalServer, into: str = "shop") -> str:
    """pg_dump | psql, which stops at the first error, and what it said then."""
    with subprocess.Popen(program(source, "pg_dump", database="shop"), stdout=subprocess.PIPE) as dump:
        psql = program(target, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", os.devnull, database=into)
        restored = subprocess.run(psql, stdin=dump.stdout, capture_output=True, check=False, text=True)
    assert restored.stderr or (dump.returncode, restored.returncode) == (0, 0)
    return restored.stderr


def people(server: LocalServer, *names: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as root:
        root.execute("CREATE DATABASE shop")
        for name in names:
            root.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'".encode())


@pytest.fixture
def connect_as() -> Any:
    """``connect_as(server, "ann")``; the superuser when nobody is named."""
    opened: list[Ask] = []

    def connect(server: LocalServer, user: str | None = None) -> Ask:
        dsn = server.dsn("shop") if user is None else server.dsn("shop", user, "x")
        opened.append(psycopg.connect(dsn, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def grant(connection: Ask, thing: str, name: str, privilege: str, *grantees: str) -> None:
    for who in grantees:
        one(connection, f"SELECT kwdbml.grant_privilege_on_{thing}(%s, %s, %s)", name, who, privilege)


def populate(root: Ask, ann: Ask, gone: Ask) -> str:
    """Ann's and gone's things; the id of a TRAIN job of ann's that is to succeed."""
    for who, name in ((ann, "p"), (gone, "gones_p")):
        rows(who, "SELECT kwdbml.create_training_pipeline(%s, 'logistic_regression', 'late', %s, 'b')", name, DATA)
    for name, script in (("sleeper", SLEEPER), ("loud", LOUD)):
        content = zipped({"pipeline/train.py": script})
        rows(ann, f"SELECT kwdbml.import_training_pipeline(%s, {IMPORTED})", name, X, LATE, content)
    for who, name in ((gone, "gones"), (ann, "big")):
        content = zipped({"model/model.joblib": "not looked at"})
        rows(who, f"SELECT kwdbml.import_model(%s, {IMPORTED})", name, X, LATE, content)
    grant(gone, "model", "gones", "SELECT", "syspublic", "ann")
    grant(ann, "model", "big", "SELECT|PREDICT", "bob", "gone")
    grant(ann, "training_pipeline", "p", "TRAIN", "bob", "gone")
    rows(gone, "SELECT kwdbml.cancel_job(kwdbml.train_model('gones_p', 'never', %s, true, true))", DATA)
    root.execute("INSERT INTO kwdbml.settings VALUES ('model_limit', '5000000000')")
    root.execute(
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as) VALUES ('sklearn_0.23', 'python_3.7', 'sklearn')"
    )
    root.execute("INSERT INTO kwdbml.flavour (name, cpu, tolerations) VALUES ('small', '1', '[{\"key\": \"gpu\"}]')")
    root.execute("INSERT INTO kwdbml.file_system (name, claim, roles) VALUES ('shared', 'pvc', '{gone}')")
    train = "SELECT kwdbml.train_model('p', 'trained', %s, true, true, '{\"env\": {\"KEY\": \"secret\"}}'::jsonb)"
    return str(one(ann, train, DATA))


def fatten(root: Ask) -> None:
    """The model big becomes 600 MiB of bytes that no compression makes smaller."""
    root.execute("""
        WITH a AS (SELECT f.id FROM kwdbml.artefact f JOIN kwdbml.model_version v ON v.id = f.model_version_id
                   JOIN kwdbml.model m ON m.id = v.model_id WHERE m.name = 'big'),
             noise AS MATERIALIZED (
                 SELECT string_agg(sha256(int4send(n)), NULL) AS bytes FROM generate_series(1, 262144) AS n)
        INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk)
        SELECT a.id, n, int4send(n) || substr(noise.bytes, 5) FROM a, noise, generate_series(1, 75) AS n""")
    size = "SELECT sum(octet_length(chunk)), max(octet_length(chunk)) FROM kwdbml.artefact_chunk WHERE seq > 0"
    assert rows(root, size) == [(CHUNK * CHUNKS, CHUNK)]


def running(root: Ask) -> list[tuple[Any, ...]]:
    """Which jobs run, under which attempt, held by whom: nobody but their own worker may change that."""
    return rows(root, (
        "SELECT j.id, j.status, a.number, a.token, a.worker, a.handle, a.ended FROM kwdbml.job j"
        " LEFT JOIN kwdbml.attempt a ON a.job_id = j.id WHERE j.status = 'RUNNING' ORDER BY j.created"
    ))  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dump_of_a_busy_database_is_all_there_and_touches_nothing(
    make_server: MakeServer, connect_as: Callable[..., Ask], serve: Serve
) -> None:
    original, copy = make_server(SERVER), make_server(SERVER)
    people(original, "ann", "bob", "gone", "worker")
    root = connect_as(original)
    root.execute("CREATE EXTENSION kwdbml CASCADE; GRANT kwdbml_worker TO worker; GRANT CREATE ON SCHEMA public TO ann")
    ann = connect_as(original, "ann")
    ended_job = populate(root, ann, connect_as(original, "gone"))
    fatten(root)
    serve(dsn=original.dsn("shop", "worker", "x"))
    ended(root, ended_job, "SUCCEEDED")
    grant(ann, "model", "trained", "SELECT|PREDICT", "bob", "gone")
    evaluate = "SELECT kwdbml.evaluate_model('', 'trained', NULL, %s, 'auc,f1')"
    evaluated = str(one(ann, evaluate, DATA))
    ended(root, evaluated, "SUCCEEDED")
    loud = str(one(ann, "SELECT kwdbml.train_model('loud', 'never', %s, true, true)", DATA))
    ended(root, loud, "FAILED")
    held = str(one(ann, "SELECT kwdbml.train_model('sleeper', 'slept', %s, true, true)", DATA))
    queued = str(one(ann, "SELECT kwdbml.train_model('p', 'waits', %s, true, true)", DATA))
    until(root, "SELECT EXISTS (SELECT FROM kwdbml.job_logs(%s) WHERE line = 'begun')", held)
    before, at_work = [rows(root, statement) for statement in SAME], running(root)
    assert [str(row[0]) for row in at_work] == [held, queued]

    assert [statement for statement, found in zip(SAME, before, strict=True) if not found] == []

    people(copy, "ann", "bob", "worker")
    assert piped(original, copy) == ""

    restored = connect_as(copy)
    for statement, expected in zip(SAME, before, strict=True):
        assert rows(restored, statement) == expected, statement
    assert rows(restored, "SELECT * FROM kwdbml.job_env") == []
    assert one(restored, "SELECT id FROM kwdbml.installation") != one(root, "SELECT id FROM kwdbml.installation")
    assert [row[:5] for row in running(restored)] == [row[:5] for row in at_work]

    for shown in SAME[:2]:
        as_bob = [rows(connect_as(server, "bob"), shown) for server in (original, copy)]
        assert as_bob[0] == as_bob[1] != []

    restored.execute("GRANT kwdbml_worker TO worker")
    restored.execute("""
        CREATE TABLE cleaned AS SELECT run_name FROM kwdbml.cleanup;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN INSERT INTO public.cleaned VALUES (NEW.run_name); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT ON kwdbml.cleanup FOR EACH ROW EXECUTE FUNCTION note()""")
    serve(dsn=copy.dsn("shop", "worker", "x"))
    for job in (held, queued):
        ended(restored, job, "FAILED")
        error = one(restored, "SELECT error FROM kwdbml.show_job(%s)", job)
        assert (error["type"], "restored from a backup" in error["message"]) == ("Restored", True)
    assert rows(restored, "SELECT number, outcome FROM kwdbml.attempt WHERE job_id = %s::uuid", held) == [
        (1, "RESTORED")
    ]
    again = str(one(connect_as(copy, "ann"), evaluate, DATA))
    ended(restored, again, "SUCCEEDED")
    result = "SELECT result FROM kwdbml.show_job(%s)"
    assert one(restored, result, again) == one(root, result, evaluated)
    assert [name for (name,) in rows(restored, "SELECT run_name FROM cleaned") if again not in name] == []
    assert running(root) == at_work
    assert one(root, "SELECT phase FROM kwdbml.jobs WHERE id = %s", held) == "running"

    for job in (held, queued):
        rows(ann, "SELECT kwdbml.cancel_job(%s)", job)
    until(root, "SELECT NOT EXISTS (SELECT FROM kwdbml.attempt WHERE ended IS NULL)")


def test_an_archive_is_restored_in_order(
    make_server: MakeServer, connect_as: Callable[..., Ask], tmp_path: Path
) -> None:
    server = make_server(SERVER)
    people(server, "ann", "bob", "gone")
    root = connect_as(server)
    root.execute("CREATE EXTENSION kwdbml CASCADE; GRANT CREATE ON SCHEMA public TO ann")
    populate(root, connect_as(server, "ann"), connect_as(server, "gone"))
    statements = [s for s in SAME if "trained" not in s and "job_logs" not in s]
    before = [rows(root, statement) for statement in statements]
    archive = str(tmp_path / "archive")
    subprocess.run(program(server, "pg_dump", "-Fd", "-j2", "-f", archive, database="shop"), check=True)
    root.execute("CREATE DATABASE again")
    # by one job: for several, PostgreSQL 15 does not keep the tables of an extension in the order of their foreign keys
    restore = program(server, "pg_restore", "--exit-on-error", archive, database="again")
    subprocess.run(restore, check=True)
    with psycopg.connect(server.dsn("again"), autocommit=True) as restored:
        for statement, expected in zip(statements, before, strict=True):
            assert rows(restored, statement) == expected, statement


def test_a_dump_of_an_older_version_is_restored_through_it(
    make_server: MakeServer, connect_as: Callable[..., Ask]
) -> None:
    """The new server has both; a dump says of an extension that it is there, and not which version of it."""
    server = make_server(SERVER)
    people(server, "ann", "bob")
    root = connect_as(server)
    use(root, "ann", "bob")
    for name in ("straight", "through"):
        root.execute(f"CREATE DATABASE {name}".encode())
    assert 'column "doomed" of relation "pipeline" does not exist' in piped(server, server, into="straight")
    with psycopg.connect(server.dsn("through"), autocommit=True) as restored:
        restored.execute("CREATE EXTENSION kwdbml VERSION '0.1.0' CASCADE")
        assert piped(server, server, into="through") == ""
        before, after = everything(root), everything(restored)
        for name in before.keys() & CARRIED:
            assert after[name] == before[name]
        restored.execute("ALTER EXTENSION kwdbml UPDATE")
        assert rows(restored, "SELECT name, active_version FROM kwdbml.show_models()") == [("m", 1)]
        assert one(restored, "SELECT count(*) FROM kwdbml.show_jobs()") == 3


def test_a_dump_of_0_2_0_is_restored_as_it_is(make_server: MakeServer, connect_as: Callable[..., Ask]) -> None:
    """What 0.2.0 took and this version does not is left out, with a warning."""
    server = make_server(SERVER)
    people(server, "ann", "bob")
    root = connect_as(server)
    use(root, "ann", "bob", "0.2.0")
    add_odd(root)
    root.execute("CREATE DATABASE straight")
    told = piped(server, server, into="straight")
    assert told.count("WARNING") == 2
    assert 'kwdbml.runtime (odd_0, r): mem = "much", image = "x" is left out of engines' in told
    with psycopg.connect(server.dsn("straight"), autocommit=True) as restored:
        assert odd(restored) == list(ODD.values())
        before, after = everything(root), everything(restored)
        for name in (before.keys() & CARRIED) - {"runtime"}:
            assert after[name] == before[name]


def test_every_table_is_dumped_or_left_out_on_purpose(db: Ask) -> None:
    tables = rows(
        db, "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind IN ('r', 'p', 'S')"
    )
    assert {name for (name,) in tables} == CARRIED | LEFT_OUT
    dumped = rows(db, (
        "SELECT c.relname, condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS d(id, condition)"
        " JOIN pg_class c ON c.oid = d.id WHERE e.extname = 'kwdbml'"
    ))  # fmt: skip
    assert dict(dumped) == dict.fromkeys(CARRIED, "") | {"runtime": "WHERE NOT builtin"}
