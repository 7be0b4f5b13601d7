"""What somebody puts into a schema of other people's search_path: nothing of ours that runs as they meets it.

An operator that fits better than PostgreSQL's own is taken, wherever in the path it is. The traps here are such ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.bundles import zipped
from tests.sql.support import INPUT, OUTPUT, Connection, Person, Worker, import_pipeline, one, rows, run

#: what our statements compare and compute with
TYPES = (
    "oid", "regclass", "regtype", "regproc", "smallint", "integer", "bigint", "real", "double precision", "numeric",
    "text", "name", "\"char\"", "text[]", "jsonb", "uuid", "xid", "boolean", "timestamptz", "interval",
    "kwdbml.job_status", "kwdbml.job_type",
)  # fmt: skip
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "->", "->>", "#>>", "?", "~")
#: a trap for each pair and operator that is not PostgreSQL's
TRAPS = """
DO $do$
DECLARE
    l regtype;
    r regtype;
    o text;
BEGIN
    FOR l, r IN SELECT a::regtype, b::regtype FROM jsonb_array_elements_text('{types}') AS a,
                jsonb_array_elements_text('{types}') AS b LOOP
        EXECUTE format('CREATE FUNCTION trip(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN'
            ' INSERT INTO public.tripped VALUES (current_user, %L); RETURN NULL; END $$', l, r, format('%s %s', l, r));
        FOREACH o IN ARRAY '{operators}'::text[] LOOP
            IF to_regoperator(format('pg_catalog.%s(%s, %s)', o, l, r)) IS NULL THEN
                EXECUTE format('CREATE OPERATOR %s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trip)', o, l, r);
            END IF;
        END LOOP;
    END LOOP;
END
$do$
"""


@pytest.fixture
def trapped(bob: Person, db: Connection) -> Connection:
    """The superuser's connection, and public full of Bob's traps."""
    traps = TRAPS.replace("{types}", json.dumps(TYPES)).replace("{operators}", "{" + ",".join(OPERATORS) + "}")
    run(bob.connection, "CREATE TABLE tripped (who text, types text)", "GRANT ALL ON tripped TO PUBLIC", traps)
    assert one(db, "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace") > 5_000
    return db


def live(person: Connection, db: Connection, expression: str) -> None:
    """The twin: who writes the operator without its schema walks into the trap, and nobody else has."""
    assert rows(db, "SELECT * FROM tripped") == []
    assert one(person, f"SELECT {expression}") is None
    assert one(db, "SELECT count(*) FROM tripped") == 1


CALLS = (
    "kwdbml.train_model('p', 'n', 'shop', true, true)",
    "kwdbml.train_model('p', 'n', 'SELECT * FROM shop WHERE true', true, true)",
    "kwdbml.evaluate_model('p', 'm', 0, 'shop', 'f1')",
    "kwdbml.batch_predict('m', '1', 'shop', 'r', 'replace', '{}')",
    "kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop')",
    "kwdbml.set_active_version('m', 2)",
    "kwdbml.grant_privilege_on_model('m', 'syspublic', 'SELECT')",
    "kwdbml.has_model_privilege('m', 'syspublic', 'SELECT')",
    "kwdbml.revoke_privilege_on_model('m', 'syspublic', 'SELECT')",
    "kwdbml.grant_privilege_on_training_pipeline('p', 'syspublic', 'SELECT')",
    "count(*) FROM kwdbml.explain_train('p', 'shop')",
    "count(*) FROM kwdbml.show_models()",
    "count(*) FROM kwdbml.show_model('m', 1)",
    "count(*) FROM kwdbml.show_jobs('m', 0)",
    "count(*) FROM kwdbml.show_jobs(ARRAY['RUNNING'])",
    "count(*) FROM kwdbml.jobs",
    "max(kwdbml.wait_job(id, '30 ms')) FROM kwdbml.show_jobs(ARRAY['RUNNING'])",
    "max(kwdbml.cancel_job(id)) FROM kwdbml.show_jobs(ARRAY['RUNNING'])",
    "kwdbml.remove_model('m', 1)",
    "kwdbml.remove_model('m')",
    "kwdbml.remove_training_pipeline('q')",
)


def test_operators_that_stand_in_the_callers_way(
    shop: Connection, two_versions: str, trapped: Connection, ann: Person, bob: Person, admin: Person
) -> None:
    """The fronts run as the caller, with his search_path: an admin's too."""
    for call in CALLS:
        assert one(shop, f"SELECT {call}"), call
    imported = "SELECT kwdbml.import_model('i', '', 'b', 'sklearn_1.3', 'python_3.8', %s, %s, %s, NULL)"
    assert one(shop, imported, [INPUT, OUTPUT, zipped({"model/model.pkl": b""})]) == "public.i,1"
    assert import_pipeline(shop) == "public.up"
    assert one(admin.connection, "SELECT kwdbml.reassign_owned(%s, %s)", [ann.name, bob.name]) == bob.name
    job = one(admin.connection, "SELECT id FROM kwdbml.show_jobs() LIMIT 1")
    assert one(admin.connection, "SELECT kwdbml.remove_job(%s)", [job]) == job
    live(admin.connection, trapped, "'{}'::jsonb #>> '{}'")


def test_operators_that_stand_in_the_workers_way(
    shop: Connection, job: str, trapped: Connection, worker: Worker, tmp_path: Path
) -> None:
    """The driver that reads asks the catalogue in words of its own, which name no operator in full."""
    held = worker.claim(job)
    assert worker.stage(held, tmp_path / "data.arrow")[1].num_rows == 30
    live(worker.connection, trapped, "typreceive <> 0 FROM pg_type WHERE typname = 'int4'")
