"""show_job, cancel_job, remove_job, wait_job, wait_for_job, job_logs, the view jobs; and whose a job is."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.fixtures.database import Connect
from tests.sql.support import Connection, Person, Worker, columns, one, refused, rows, run
from tests.sql.test_show_jobs import COLUMNS

NOBODY = "00000000-0000-0000-0000-000000000000"
TRAIN = "SELECT kwdbml.train_model('p', 'm', 'shop', true, true)"


@pytest.mark.parametrize("function", ["show_job", "cancel_job", "wait_job", "job_logs"])
@pytest.mark.parametrize(
    ("argument", "sqlstate", "word"),
    [
        ("NULL", "22004", "NULL"), ("NULL::uuid", "22004", "NULL"), ("NULL::text", "22004", "NULL"),
        (f"'{NOBODY}'", "42704", f"no such job: {NOBODY}"), (f"'{NOBODY}'::uuid", "42704", f"no such job: {NOBODY}"),
        ("'hello'", "22023", "hello"), ("''", "22023", '""'),
    ],
)  # fmt: skip
def test_what_is_refused(ann: Person, function: str, argument: str, sqlstate: str, word: str) -> None:
    with refused(sqlstate, word):
        rows(ann.connection, f"SELECT * FROM kwdbml.{function}({argument})")


@pytest.mark.parametrize("function", ["show_job", "cancel_job", "wait_job", "job_logs"])
def test_a_stranger_cannot_tell_it_from_nothing(shop: Connection, job: str, bob: Person, function: str) -> None:
    with refused("42704", f"no such job: {job}"):
        rows(bob.connection, f"SELECT * FROM kwdbml.{function}(%s)", [job])
    assert one(shop, "SELECT status FROM kwdbml.show_jobs()") == "RUNNING"


@pytest.mark.parametrize("argument", ["'{}'", "'{}'::text", "'{}'::uuid", "job_id => '{}'"])
def test_every_form_of_show_job(shop: Connection, job: str, ann: Person, argument: str) -> None:
    found = rows(shop, f"SELECT * FROM kwdbml.show_job({argument.format(job)})")[0]
    assert found[:7] == (job, "TRAIN", "RUNNING", "public.p", "public.m", None, ann.name)
    assert found[8] is found[10] is found[11] is None
    assert columns(shop, f"kwdbml.show_job('{job}')") == COLUMNS


def test_admin_and_superuser_see_it(job: str, admin: Person, db: Connection) -> None:
    for connection in (admin.connection, db):
        assert one(connection, "SELECT status FROM kwdbml.show_job(%s)", [job]) == "RUNNING"


def test_result_and_error(shop: Connection, job: str, worker: Worker) -> None:
    error = {"type": "ValueError", "message": "温度", "step": "train", "traceback": []}
    assert worker.call("worker_fail", worker.claim(job), json.dumps(error), False) == "FAILED"
    assert rows(shop, "SELECT status, result, error, finished > created FROM kwdbml.show_job(%s)", [job]) == [
        ("FAILED", None, error, True)
    ]
    other = worker.finish_training(one(shop, TRAIN)).job
    found = rows(shop, "SELECT status, result, error FROM kwdbml.show_job(%s)", [other])
    assert found == [("SUCCEEDED", [{"objective": "auc", "score": 0.9}], None)]


@pytest.mark.parametrize("argument", ["'{}'", "'{}'::text", "'{}'::uuid", "job_id => '{}'"])
def test_every_form_of_cancel_job(shop: Connection, job: str, ann: Person, argument: str) -> None:
    assert rows(shop, f"SELECT * FROM kwdbml.cancel_job({argument.format(job)})") == [(job,)]
    canceled = {"type": "Canceled", "message": f"canceled by {ann.name}"}
    assert rows(shop, "SELECT status, error FROM kwdbml.show_job(%s)", [job]) == [("CANCELED", canceled)]
    with refused("55000", job, "CANCELED"):
        run(shop, f"SELECT kwdbml.cancel_job('{job}')")


def test_an_admin_cancels_it(shop: Connection, job: str, admin: Person) -> None:
    one(admin.connection, "SELECT kwdbml.cancel_job(%s)", [job])
    assert one(shop, "SELECT error ->> 'message' FROM kwdbml.show_job(%s)", [job]) == f"canceled by {admin.name}"


def test_a_canceled_job_never_lands(shop: Connection, job: str, worker: Worker) -> None:
    held = worker.claim(job)
    one(shop, "SELECT kwdbml.cancel_job(%s)", [job])
    with refused("55000", job):
        worker.land(held, result=[])
    assert rows(shop, "SELECT * FROM kwdbml.show_models()") == []
    assert one(shop, "SELECT phase FROM kwdbml.jobs") == "canceling"
    worker.call("worker_end", held)
    assert one(shop, "SELECT phase FROM kwdbml.jobs") == "canceled"


def test_a_cancel_that_is_rolled_back(shop: Connection, job: str, worker: Worker) -> None:
    with shop.transaction(force_rollback=True):
        one(shop, "SELECT kwdbml.cancel_job(%s)", [job])
    worker.finish_training(job)


def test_remove_is_the_admins(shop: Connection, job: str, bob: Person, admin: Person, db: Connection) -> None:
    for connection in (shop, bob.connection):
        for argument in (f"'{job}'", f"'{job}'::uuid", f"'{NOBODY}'", "'hello'", "NULL"):
            with refused("42501", "remove jobs"):
                run(connection, f"SELECT kwdbml.remove_job({argument})")
    for argument, sqlstate in ((f"'{NOBODY}'", "42704"), ("'hello'", "22023"), ("NULL", "22004")):
        with refused(sqlstate):
            run(admin.connection, f"SELECT kwdbml.remove_job({argument})")
    assert one(admin.connection, "SELECT kwdbml.remove_job(%s)", [job]) == job
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []
    again = one(shop, TRAIN)
    assert one(db, f"SELECT kwdbml.remove_job('{again}'::uuid)") == again


def test_nothing_of_a_removed_job_stays_but_what_must_be_stopped(
    shop: Connection, pipeline: str, worker: Worker, admin: Person, db: Connection
) -> None:
    job = one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, true, '{\"env\": {\"A\": \"b\"}}')")
    held = worker.claim(job)
    worker.call(
        "worker_log", held, '[{"seq": 1, "at": 0, "step": "train", "stream": "stdout", "line": "x"}]', None, None
    )
    one(admin.connection, "SELECT kwdbml.remove_job(%s)", [job])
    for table in ("job", "job_env", "job_log", "attempt"):
        assert one(db, f"SELECT count(*) FROM kwdbml.{table}") == 0
    assert rows(db, "SELECT run_name FROM kwdbml.cleanup") == [(held.run_name,)]
    with refused("55000", str(held.job)):
        worker.land(held)


def test_models_of_a_removed_job_stay(shop: Connection, model: str, job: str, admin: Person) -> None:
    one(admin.connection, "SELECT kwdbml.remove_job(%s)", [job])
    assert one(shop, "SELECT name FROM kwdbml.show_models()") == "m"


@pytest.mark.parametrize("form", ["'{}', '0'", "'{}'::uuid, interval '0'", "job_id => '{}', timeout => '1 ms'"])
def test_wait_job_ends_with_the_time(shop: Connection, job: str, form: str) -> None:
    assert one(shop, f"SELECT kwdbml.wait_job({form.format(job)})") == "RUNNING"


def test_wait_job_ends_with_the_job(shop: Connection, job: str, worker: Worker) -> None:
    worker.finish_training(job)
    assert one(shop, "SELECT kwdbml.wait_job(%s)", [job]) == "SUCCEEDED"


@pytest.mark.parametrize("savepoint", [False, True])
def test_waiting_for_ones_own_transaction(shop: Connection, pipeline: str, savepoint: bool) -> None:
    with refused("55000", "transaction"), shop.transaction():
        if savepoint:
            run(shop, "SAVEPOINT s")
        job = one(shop, TRAIN)
        run(shop, f"SELECT kwdbml.wait_job('{job}', '1 min')")
    with refused("55000", "transaction"):
        run(shop, "SELECT kwdbml.wait_job(kwdbml.train_model('p', 'm', 'shop', true, true), '1 min')")


@pytest.mark.parametrize("form", ["'{}', '0'", "'{}'::uuid, interval '0', NULL", "job_id => '{}', timeout => '1 ms'"])
def test_wait_for_job(shop: Connection, job: str, worker: Worker, form: str) -> None:
    assert rows(shop, f"CALL kwdbml.wait_for_job({form.format(job)})") == [("RUNNING",)]
    worker.finish_training(job)
    assert rows(shop, f"CALL kwdbml.wait_for_job({form.format(job)})") == [("SUCCEEDED",)]


def test_wait_for_job_outside_a_transaction_only(shop: Connection, job: str) -> None:
    with refused("25001", "transaction"), shop.transaction():
        run(shop, f"CALL kwdbml.wait_for_job('{job}', '0')")
    for argument, sqlstate in ((NOBODY, "42704"), ("hello", "22023")):
        with refused(sqlstate, argument):
            run(shop, f"CALL kwdbml.wait_for_job('{argument}')")


def test_waiting_obeys_statement_timeout(shop: Connection, job: str) -> None:
    run(shop, "SET statement_timeout = '100ms'")
    for call in (f"SELECT kwdbml.wait_job('{job}')", f"CALL kwdbml.wait_for_job('{job}')"):
        with refused("57014", hint=False):
            run(shop, call)


def test_job_logs(shop: Connection, job: str, worker: Worker, ann: Person, admin: Person) -> None:
    held = worker.claim(job)
    line = {"at": 1.5, "step": "train", "stream": "stdout"}
    lines = json.dumps([{**line, "seq": 2, "line": "zwei"}, {**line, "seq": 1, "line": "一"}])
    for _ in range(2):
        worker.call("worker_log", held, lines, None, None)
    for connection in (shop, admin.connection):
        for argument in (f"'{job}'", f"'{job}'::uuid"):
            found = rows(connection, f"SELECT seq, step, stream, line FROM kwdbml.job_logs({argument})")
            assert found == [(1, "train", "stdout", "一"), (2, "train", "stdout", "zwei")]
    assert columns(shop, f"kwdbml.job_logs('{job}')") == [
        ("seq", "int8"), ("at", "timestamptz"), ("step", "text"), ("stream", "text"), ("line", "text"),
    ]  # fmt: skip


def test_the_view_is_flat(shop: Connection, job: str, worker: Worker) -> None:
    found = columns(shop, "kwdbml.jobs")
    assert found[:12] == COLUMNS
    assert [n for n, _ in found[12:]][:19] == [
        "phase", "progress", "step", "queue", "priority", "labels", "annotations", "engine", "attempt", "worker",
        "started",
        "updated", "duration", "rows_read", "rows_dropped", "rows_written", "main_score", "waiting_for", "decision",
    ]  # fmt: skip
    assert rows(shop, "SELECT phase, waiting_for, attempt FROM kwdbml.jobs") == [
        ("queued", "a worker for engine local", None)
    ]
    held = worker.claim(job)
    worker.connection.execute("SELECT kwdbml.worker_update(%s, %s, 'running', 'train', 0.5::real, NULL)", held.key)
    assert rows(shop, "SELECT phase, step, progress, attempt FROM kwdbml.jobs") == [("running", "train", 0.5, 1)]


def test_the_end_is_told(shop: Connection, job: str, db: Connection) -> None:
    run(db, "LISTEN kwdbml_job_finished")
    one(shop, "SELECT kwdbml.cancel_job(%s)", [job])
    assert next(db.notifies(timeout=10, stop_after=1)).payload == job


def test_rolled_back_it_never_was(shop: Connection, pipeline: str, worker: Worker, connect: Connect, dsn: str) -> None:
    with shop.transaction(force_rollback=True):
        one(shop, TRAIN)
        assert len(rows(shop, "SELECT * FROM kwdbml.show_jobs()")) == 1
        assert rows(connect(dsn), "SELECT * FROM kwdbml.show_jobs()") == []
        assert rows(worker.connection, "SELECT * FROM kwdbml.worker_claim('w', '{local}', '1 min')") == []
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []


def test_set_role_makes_it_that_roles(shop: Connection, job: str, bob: Person, ann: Person, db: Connection) -> None:
    run(db, f'GRANT "{ann.name}" TO "{bob.name}"')
    run(bob.connection, "SET search_path = public", f'SET ROLE "{ann.name}"')
    made = one(bob.connection, TRAIN)
    assert one(shop, "SELECT creator FROM kwdbml.show_job(%s)", [made]) == ann.name
    assert len(rows(bob.connection, "SELECT * FROM kwdbml.show_jobs()")) == 2
    run(bob.connection, "RESET ROLE")
    assert rows(bob.connection, "SELECT * FROM kwdbml.show_jobs()") == []


def test_a_job_of_a_dropped_role(shop: Connection, bob: Person, worker: Worker, db: Connection, admin: Person) -> None:
    run(shop, "GRANT SELECT ON shop TO public")
    run(bob.connection, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop')")
    job = one(bob.connection, "SELECT kwdbml.train_model('q', 'm', 'shop', true, true)")
    bob.connection.close()
    run(db, f'DROP OWNED BY "{bob.name}"', f'DROP ROLE "{bob.name}"')
    assert one(admin.connection, "SELECT creator FROM kwdbml.show_jobs()") == bob.name
    held = worker.claim(job)
    with refused("42704", bob.name):
        worker.spec(held)
    run(db, f"CREATE ROLE \"{bob.name}\" LOGIN PASSWORD '{bob.role.password}'")
    for function in ("worker_spec", "worker_stage"):
        with refused("42704", bob.name):
            worker.call(function, held)
    with refused("42704", bob.name):
        worker.land(held)
    with psycopg.connect(bob.role.dsn) as again:
        assert again.execute("SELECT count(*) FROM kwdbml.show_models()").fetchone() == (0,)
