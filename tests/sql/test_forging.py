"""What a hand-written statement cannot do: forge jobs, read secrets, lock others out, play the worker."""

from __future__ import annotations

import pytest

from tests.sql.support import Connection, Person, Worker, grant_pipeline, one, refused, rows, run

REQUEST = "type, pipeline_name, pipeline_id, model_name, data_query, data_columns"
VALUES = "SELECT 'TRAIN', 'public.p', id, 'public.m', 'SELECT 1', '[]'::jsonb FROM kwdbml.pipeline"


def test_the_twin_of_the_forged_insert_works(shop: Connection, pipeline: str, ann: Person) -> None:
    run(shop, f"INSERT INTO kwdbml.job ({REQUEST}) ({VALUES})")
    assert rows(shop, "SELECT status, creator FROM kwdbml.show_jobs()") == [("RUNNING", ann.name)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "gen_random_uuid()"), ("status", "'SUCCEEDED'"), ("creator", "'postgres'"), ("creator_oid", "10"),
        ("created", "now()"), ("finished", "now()"), ("updated", "now()"), ("result", "'{}'"), ("error", "'{}'"),
        ("session", "'{}'"), ("installation", "gen_random_uuid()"), ("rows_read", "1"), ("main_score", "1"),
        ("decision", "'{}'"), ("pipeline_hash", "''"), ("libraries", "'{}'"),
    ],
)  # fmt: skip
def test_columns_that_nobody_inserts(shop: Connection, pipeline: str, column: str, value: str) -> None:
    with refused("42501", "job", hint=False):
        run(shop, f"INSERT INTO kwdbml.job ({REQUEST}, {column}) {VALUES.replace(' FROM', f', {value} FROM')}")
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []


@pytest.mark.parametrize("column", ["settings", "labels", "annotations"])
@pytest.mark.parametrize("value", ["[]", "5", '"text"', "null", "true"])
def test_what_must_be_an_object(shop: Connection, pipeline: str, column: str, value: str) -> None:
    with refused("23514", column, hint=False):
        run(shop, f"INSERT INTO kwdbml.job ({REQUEST}, {column}) {VALUES.replace(' FROM', f' , $v${value}$v$ FROM')}")
    run(shop, f"INSERT INTO kwdbml.job ({REQUEST}, {column}) {VALUES.replace(' FROM', ' , $v${}$v$ FROM')}")


@pytest.mark.parametrize(
    "assignment",
    [
        "status = 'SUCCEEDED'", "status = 'FAILED'", "status = 'RUNNING'", "result = '{}'", "error = '{}'",
        "creator = current_user", "model_name = 'public.x'", "data_query = 'SELECT 1'", "settings = '{}'",
        "priority = 1",
        "retries = 100", "labels = '{}'", "session = '{}'", "status = 'CANCELED', result = '{}'",
    ],
)  # fmt: skip
def test_updates_that_nobody_makes(shop: Connection, job: str, admin: Person, assignment: str) -> None:
    before = rows(shop, "SELECT * FROM kwdbml.job")
    for connection in (shop, admin.connection):
        with refused("42501", "job", hint=False):
            run(connection, f"UPDATE kwdbml.job SET {assignment}")
    assert rows(shop, "SELECT * FROM kwdbml.job") == before


def test_status_canceled_by_hand_is_cancel_job(shop: Connection, job: str, ann: Person) -> None:
    run(shop, "UPDATE kwdbml.job SET status = 'CANCELED'")
    found = rows(shop, "SELECT status, error, finished IS NOT NULL FROM kwdbml.show_jobs()")
    assert found == [("CANCELED", {"type": "Canceled", "message": f"canceled by {ann.name}"}, True)]
    run(shop, "UPDATE kwdbml.job SET status = 'CANCELED'")  # no row any more
    with refused("42501", "job", hint=False):
        run(shop, "UPDATE kwdbml.job SET status = 'RUNNING', error = NULL")


def test_a_stranger_changes_nothing(shop: Connection, job: str, bob: Person) -> None:
    for statement in ("UPDATE kwdbml.job SET status = 'CANCELED'", "SELECT FROM kwdbml.job FOR UPDATE"):
        assert bob.connection.execute(statement.encode()).rowcount == 0
    assert one(shop, "SELECT status FROM kwdbml.show_jobs()") == "RUNNING"


STATEMENTS = [
    *((f"LOCK TABLE kwdbml.{table} IN {mode}"
       f" MODE") for table in ("job", "attempt", "pipeline", "model", "job_log", "cleanup")
      for mode in ("ACCESS EXCLUSIVE", "ROW EXCLUSIVE")),
    "DELETE FROM kwdbml.job", "TRUNCATE kwdbml.job CASCADE", "DELETE FROM kwdbml.job_log", "DELETE FROM kwdbml.job_env",
    ("INSERT INTO kwdbml.attempt (job_id, number, worker, lease_until, engine, run_name)"
    " SELECT id, 1, 'me', now(), 'local', 'run' FROM kwdbml.job"),
    "INSERT INTO kwdbml.job_log SELECT id, 1, 1, now(), '', '', '' FROM kwdbml.job",
    "SELECT token FROM kwdbml.attempt", "SELECT handle FROM kwdbml.attempt", "SELECT run_name FROM kwdbml.attempt",
    "SELECT * FROM kwdbml.attempt", "SELECT a FROM kwdbml.attempt AS a", "SELECT * FROM kwdbml.artefact",
    "SELECT * FROM kwdbml.artefact_chunk", "SELECT * FROM kwdbml.cleanup", "UPDATE kwdbml.job_env SET env = '{}'",
    "UPDATE kwdbml.installation SET id = gen_random_uuid()", "DELETE FROM kwdbml.runtime", ("INSERT INTO kwdbml.model"
    " (schema, name, problem_type, features, target) VALUES ('public', 'x', 'b', '[]', '[]')"),
    "INSERT INTO kwdbml.model_version (model_id, version, framework, runtime) VALUES (gen_random_uuid(), 1, '', '')",
    "UPDATE kwdbml.model_version SET active = true", ("INSERT INTO kwdbml.model_privilege VALUES"
                                                      " (gen_random_uuid(), 'x', 'SELECT')"),
    "CREATE TABLE kwdbml.mine (x int)", "CREATE FUNCTION kwdbml.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE POLICY mine ON kwdbml.job USING (true)", "ALTER TABLE kwdbml.job DISABLE ROW LEVEL SECURITY",
    "SET ROLE kwdbml_admin", "SET ROLE kwdbml_worker", "GRANT kwdbml_admin TO current_user",
]  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_what_the_creator_cannot_do(shop: Connection, job: str, worker: Worker, statement: str) -> None:
    worker.claim(job)
    with refused("42501", hint=False), shop.transaction():
        run(shop, statement)
    assert one(shop, "SELECT phase FROM kwdbml.jobs") == "staging"


@pytest.mark.parametrize("column", ["token", "handle", "run_name"])
def test_the_admin_does_not_read_the_token_either(job: str, worker: Worker, admin: Person, column: str) -> None:
    worker.claim(job)
    assert one(admin.connection, "SELECT number FROM kwdbml.attempt") == 1
    with refused("42501", "attempt", hint=False):
        run(admin.connection, f"SELECT {column} FROM kwdbml.attempt")


def test_env_is_the_creators_alone(shop: Connection, pipeline: str, bob: Person, admin: Person, worker: Worker) -> None:
    job = one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, true, '{\"env\": {\"TOKEN\": \"s3cret\"}}')")
    assert one(shop, "SELECT env ->> 'TOKEN' FROM kwdbml.job_env") == "s3cret"
    for person in (bob, admin):
        assert rows(person.connection, "SELECT * FROM kwdbml.job_env") == []
    assert rows(worker.connection, "SELECT * FROM kwdbml.job_env") == []
    for source in ("kwdbml.job", "kwdbml.jobs", f"kwdbml.show_job('{job}')"):
        assert "s3cret" not in str(rows(admin.connection, f"SELECT * FROM {source}"))
    assert worker.spec(worker.claim(job))["env"] == {"TOKEN": "s3cret"}


def test_env_of_anothers_job(shop: Connection, job: str, bob: Person, admin: Person) -> None:
    for person in (bob, admin):
        with refused("42501", "job_env", hint=False):
            person.connection.execute("INSERT INTO kwdbml.job_env VALUES (%s, '{}')", [job])


def test_a_job_of_anothers_pipeline(shop: Connection, pipeline: str, bob: Person, db: Connection) -> None:
    """SELECT shows the pipeline; TRAIN is what a TRAIN job needs, also of a hand-written INSERT."""
    grant_pipeline(db, bob.name, "SELECT")
    with refused("42501", "job", hint=False):
        run(bob.connection, f"INSERT INTO kwdbml.job ({REQUEST}) ({VALUES})")
    grant_pipeline(db, bob.name, "TRAIN")
    run(bob.connection, f"INSERT INTO kwdbml.job ({REQUEST}) ({VALUES})")


@pytest.mark.parametrize("job_type", ["EVALUATE", "BATCH_PREDICT"])
def test_a_job_of_anothers_model(shop: Connection, model: str, bob: Person, db: Connection, job_type: str) -> None:
    version = one(db, "SELECT id FROM kwdbml.model_version")
    insert = (
        "INSERT INTO kwdbml.job (type, model_name, model_version, model_version_id, data_query, data_columns)"
        " VALUES (%s, 'public.m', 1, %s, 'SELECT 1', '[]')"
    )
    with refused("42501", "job", hint=False):
        bob.connection.execute(insert.encode(), [job_type, version])
    shop.execute(insert.encode(), [job_type, version])


@pytest.mark.parametrize(
    ("changes", "sqlstate"),
    [
        ("model_name = 'secret.m'", "42501"),
        ("model_name = 'nowhere.m'", "3F000"),
        ("model_name = 'm'", "22023"),
        ("pipeline_name = NULL", "22023"),
    ],
)
def test_the_worker_trusts_no_row(job: str, worker: Worker, db: Connection, changes: str, sqlstate: str) -> None:
    """As if INSERTed so by hand."""
    run(db, "CREATE SCHEMA secret", f"UPDATE kwdbml.job SET {changes}")
    held = worker.claim(job)
    with refused(sqlstate):
        worker.spec(held)


def worker_functions(db: Connection) -> list[str]:
    found = rows(db, (
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
        " AND p.proname LIKE 'worker\\_%'"
    ))  # fmt: skip
    return [str(r[0]) for r in found]


def test_nobody_but_the_worker_calls_its_functions(ann: Person, admin: Person, worker: Worker, db: Connection) -> None:
    functions = worker_functions(db)
    assert len(functions) > 12
    for function in functions:
        for who, may in ((ann.name, False), (admin.name, False), ("public", False), ("kwdbml_worker", True)):
            granted = one(db, "SELECT has_function_privilege(%s, %s, 'EXECUTE')", [who, function])
            assert granted is may, (function, who)


def test_the_worker_has_no_rights_of_its_own(shop: Connection, job: str, worker: Worker) -> None:
    assert rows(worker.connection, "SELECT * FROM kwdbml.job") == []
    for statement in ("SELECT * FROM shop", "SELECT * FROM kwdbml.artefact_chunk",
                      "UPDATE kwdbml.attempt SET token = NULL",
                      "DELETE FROM kwdbml.cleanup", "SELECT token FROM kwdbml.attempt"):  # fmt: skip
        with refused("42501", hint=False):
            run(worker.connection, statement)


def test_security_definer_functions_pin_their_path(db: Connection) -> None:
    unpinned = rows(db, (
        "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace AND p.prosecdef"
        " AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)"
    ))  # fmt: skip
    assert unpinned == []


def test_everything_has_a_comment(db: Connection) -> None:
    silent = rows(db, (
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
        " AND obj_description(p.oid, 'pg_proc') IS NULL"
        " UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'kwdbml'::regnamespace"
        " AND c.relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL"
    ))  # fmt: skip
    assert silent == []


@pytest.mark.parametrize("name", ["_fence", "_lock_plain", "_result_close", "_land_version"])
def test_internal_functions_that_act(db: Connection, name: str) -> None:
    found = rows(db, "SELECT has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc WHERE proname = %s", [name])
    assert found
    assert not any(r[0] for r in found)


def test_bundles_are_of_the_callers_own_new_pipelines(ann: Person) -> None:
    with refused("42501", "transaction", hint=False):
        run(ann.connection, "SELECT kwdbml._attach_bundle(gen_random_uuid(), 'model', '')")


def test_the_gateway_offers_nothing_else(ann: Person) -> None:
    for function in ("os", "query", "run", "parse_json", "__import__"):
        with refused("22023", function):
            run(ann.connection, f"SELECT kwdbml._call('{function}', '[]')")


@pytest.mark.parametrize("function", ["_request", "_attempt_ends", "_pipeline_in_use", "_version_in_use", "_job_ends"])
def test_our_trigger_functions_on_a_table_of_ones_own(bob: Person, function: str) -> None:
    """They believe their row: on another table it would be the caller's, with the owner's power behind it."""
    run(
        bob.connection,
        "CREATE TABLE forged (kind text, requester name, arguments jsonb, bundles bytea[], answer jsonb)",
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    )
    trigger = "CREATE TRIGGER t BEFORE INSERT ON forged FOR EACH ROW EXECUTE FUNCTION {}()"
    with refused("42501", function, hint=False):
        run(bob.connection, trigger.format(f"kwdbml.{function}"))
    run(bob.connection, trigger.format("own"), "INSERT INTO forged (kind) VALUES ('grant')")


ASK = "INSERT INTO kwdbml.request (kind, arguments)"


@pytest.fixture
def asked(model: str, db: Connection) -> str:
    """The values of a request to make GRANTEE an evaluator of Ann's model."""
    found = one(db, "SELECT id::text FROM kwdbml.model")
    arguments = f'{{"thing": "model", "id": "{found}", "user_name": "GRANTEE", "privilege": "EVALUATE"}}'
    return f"('grant', '{arguments}'::jsonb)"


def granted(db: Connection) -> list[str]:
    assert one(db, "SELECT count(*) FROM kwdbml.request") == 0
    return [row[0] for row in rows(db, "SELECT grantee FROM kwdbml.model_privilege ORDER BY 1")]


#: a request by hand, before which bob has set up what stands first → SQLSTATE
REQUESTS = [
    ("", ASK + " VALUES {asked}", "42704"),
    ("", ASK + " VALUES ('remove_model', '{}'), {asked}", "42704"),
    ("", ASK + " VALUES {asked} ON CONFLICT DO NOTHING", "42704"),
    ("", "WITH w AS (" + ASK + " VALUES {asked} RETURNING answer) SELECT * FROM w", "42704"),
    ("", "INSERT INTO kwdbml.request (requester, kind, arguments) SELECT '{ann}', * FROM (VALUES {asked}) v", "42501"),
    ("", "INSERT INTO kwdbml.request (kind, answer) VALUES ('grant', '1')", "42501"),
    ("", "INSERT INTO kwdbml.request VALUES ('grant', '{ann}')", "42501"),
    ("", "COPY kwdbml.request (kind, arguments) FROM STDIN", "0A000"),
    ("", "COPY kwdbml.request (kind, arguments) FROM PROGRAM 'echo'", "42501"),
    ("PREPARE ask AS " + ASK + " VALUES {asked}", "EXECUTE ask", "42704"),
    ("", "UPDATE kwdbml.request SET requester = '{ann}'", "42501"),
    ("", "DELETE FROM kwdbml.request", "42501"),
    ("", "TRUNCATE kwdbml.request", "42501"),
    ("", "SELECT arguments FROM kwdbml.request", "42501"),
    ("", "SELECT requester FROM kwdbml.request FOR UPDATE", "42501"),
    ("", "LOCK kwdbml.request IN ACCESS SHARE MODE; LOCK kwdbml.request IN SHARE MODE", "42501"),
    ("", "CREATE TRIGGER t AFTER INSERT ON kwdbml.request EXECUTE FUNCTION tsvector_update_trigger()", "42501"),
    ("", "CREATE RULE mine AS ON INSERT TO kwdbml.request DO ALSO SELECT 1", "42501"),
    ("", "ALTER TABLE kwdbml.request DISABLE TRIGGER ALL", "42501"),
    ("", "SET session_replication_role = replica", "42501"),
    ("", "SET ROLE \"{ann}\"", "42501"),
    ("CREATE VIEW v AS SELECT requester FROM kwdbml.request", "INSERT INTO v VALUES ('{ann}')", "42501"),
    ("", "INSERT INTO kwdbml.request (kind, arguments) VALUES ('drop everything', '{}')", "23514"),
    ("", "INSERT INTO kwdbml.request (kind, arguments) VALUES (NULL, NULL)", "23502"),
    ("", "INSERT INTO kwdbml.request (kind, arguments) VALUES ('remove_model', '[\"version\"]')", "42704"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "statement", "sqlstate"), REQUESTS)
def test_a_request_by_hand_gives_nothing(
    shop: Connection, asked: str, ann: Person, bob: Person, db: Connection, before: str, statement: str, sqlstate: str
) -> None:
    """The same words from Ann, whose model it is, are what grant_privilege_on_model does: the twin below."""
    for text in (before, statement):
        full = text.replace("{asked}", asked.replace("GRANTEE", bob.name)).replace("{ann}", ann.name)
        if text is before and text:
            run(bob.connection, full)
        elif text:
            with refused(sqlstate, hint=False):
                run(bob.connection, full)
    assert granted(db) == []
    assert rows(db, "SELECT version, active FROM kwdbml.model_version") == [(1, True)]


def test_the_twins_of_requests_by_hand(
    shop: Connection, asked: str, bob: Person, admin: Person, db: Connection
) -> None:
    """Several rows, an answer, a prepared statement: each is done once, and no row stays."""
    both = ", ".join(asked.replace("GRANTEE", grantee) for grantee in (bob.name, "syspublic"))
    told = rows(shop, f"{ASK} VALUES {both} RETURNING answer, requester")
    assert [row[0] for row in told] == [bob.name, "syspublic"]
    assert granted(db) == sorted([bob.name, "public"])
    run(shop, f"PREPARE ask AS {ASK} VALUES {asked.replace('GRANTEE', admin.name)}", "EXECUTE ask", "EXECUTE ask")
    assert granted(db) == sorted([bob.name, "public", admin.name])
    run(shop, "BEGIN", f"{ASK} VALUES {asked.replace('GRANTEE', 'kwdbml_worker')}", "ROLLBACK")
    assert granted(db) == sorted([bob.name, "public", admin.name])


@pytest.mark.parametrize("owner", ["ann", "bob"])
def test_a_request_is_of_who_the_function_runs_as(
    shop: Connection, asked: str, ann: Person, bob: Person, admin: Person, db: Connection, owner: str
) -> None:
    """In somebody's SECURITY DEFINER function that is its owner: Ann may lend her right to Bob, Bob not take Ann's."""
    makes, calls = (ann, bob) if owner == "ann" else (bob, ann)
    body = f"{ASK} VALUES {asked.replace('GRANTEE', bob.name)} RETURNING requester::text"
    run(makes.connection, f"CREATE FUNCTION lend() RETURNS text LANGUAGE sql SECURITY DEFINER AS $${body}$$")
    if owner == "ann":
        assert one(calls.connection, "SELECT lend()") == ann.name
        assert granted(db) == [bob.name]
    else:
        with refused("42704", "no such model"):
            one(calls.connection, "SELECT lend()")
        assert granted(db) == []


#: what an IMMUTABLE function tries when the planner runs it, at the call
PLANNED = (
    "PERFORM x FROM secret", "PERFORM token FROM kwdbml.attempt", "PERFORM set_config('role', 'kwdbml_worker', true)",
    "PERFORM FROM kwdbml.worker_claim('x', '{local}', '1 min')", "PERFORM pg_read_file('/etc/passwd')",
    "PERFORM kwdbml._do_grant('postgres', '{}')",
)  # fmt: skip


def test_what_is_planned_at_the_call_has_the_callers_rights(
    shop: Connection, pipeline: str, bob: Person, db: Connection
) -> None:
    """explain_train and the submitting functions have the query planned, which runs IMMUTABLE functions: as the caller,
    as a SELECT of his own would, and with nothing of ours lent to it."""
    run(db, "CREATE TABLE secret (x int)", "INSERT INTO secret VALUES (42)")
    run(shop, "GRANT SELECT ON shop TO PUBLIC")
    grant_pipeline(db, bob.name, "TRAIN")
    evil = "CREATE OR REPLACE FUNCTION evil() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $x$ BEGIN {}; RETURN 0; END $x$"
    calls = (
        "SELECT count(*) FROM kwdbml.explain_train('p', $q${}$q$)",
        "SELECT kwdbml.train_model('p', 'm', $q${}$q$, true, true)",
        "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', $q${}$q$)",
    )
    data = "SELECT * FROM shop WHERE id > evil()"
    for body in PLANNED:
        run(bob.connection, evil.format(body))
        for call in calls:
            with refused("42501", "permission denied"):
                one(bob.connection, call.format(data))
    assert rows(db, "SELECT x FROM secret") == [(42,)]
    assert one(db, "SELECT count(*) FROM kwdbml.job") == 0
    run(bob.connection, evil.format("NULL"))
    for call in calls:
        assert one(bob.connection, call.format(data))
