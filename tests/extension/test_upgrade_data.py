"""An upgrade in a database that is in use: every row stays as it was, and what runs goes on under the new version.

The older version's server-side Python is not here, so what people made with it is written as its functions left it.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql

from kwdbml.worker.request import settings_of
from tests.extension.test_upgrade import EARLIER
from tests.fixtures.database import Connect, MakeRole, Role
from tests.sql.support import Connection, Worker, one, refused, rows
from tests.sql.test_races import land

X, LATE = '[{"name": "x", "type": "FLOAT"}]', '[{"name": "late", "type": "INT"}]'
MADE = """
INSERT INTO kwdbml.settings VALUES ('default_ttl', '3600');
INSERT INTO kwdbml.runtime (framework, runtime, runs_as, image)
VALUES ('sklearn_0.23', 'python_3.7', 'sklearn', 'ours:1');
INSERT INTO kwdbml.pipeline (id, schema, name, creator, problem_type, framework, runtime, features, target,
    content_hash)
VALUES (%(pipeline)s, 'public', 'p', %(ann)s, 'b', 'sklearn_0.23', 'python_3.7', %(x)s, %(late)s, 'abc');
INSERT INTO kwdbml.model (id, schema, name, creator, problem_type, features, target, next_version)
VALUES (%(model)s, 'public', 'm', %(ann)s, 'b', %(x)s, %(late)s, 2);
INSERT INTO kwdbml.model_version (id, model_id, version, active, creator, framework, runtime, last_metrics,
    pipeline_name, pipeline_hash, job_id, data_query, data_hash, rows_read, duration)
VALUES (%(version)s, %(model)s, 1, true, %(ann)s, 'sklearn_0.23', 'python_3.7', '[{"objective": "f1", "score": 0.5}]',
    'public.p', 'abc', gen_random_uuid(), 'SELECT 1', 'def', 7, '3 s');
INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege, grantor)
VALUES (%(model)s, %(bob)s, 'SELECT', %(ann)s);
INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege, grantor)
VALUES (%(pipeline)s, %(bob)s, 'TRAIN', %(ann)s);
INSERT INTO kwdbml.artefact (id, model_version_id, kind, bytes, sha256)
VALUES (%(version)s, %(version)s, 'model', 5, encode(sha256('model'), 'hex'));
INSERT INTO kwdbml.artefact_chunk VALUES (%(version)s, 0, 'model');
INSERT INTO kwdbml.job (type, status, pipeline_name, pipeline_id, model_name, creator, creator_oid, created, finished,
    settings, result, data_query, data_relation, data_columns)
SELECT 'TRAIN', status, 'public.p', %(pipeline)s, 'public.m', %(ann)s, to_regrole(quote_ident(%(ann)s)),
    now() - ago * interval '1 min', CASE status WHEN 'SUCCEEDED' THEN now() END,
    '{"train_data": "trips", "new_version_if_exists": true, "immediately_deploy": true, "env": ["KEY"]}',
    CASE status WHEN 'SUCCEEDED' THEN '[]'::jsonb END, 'SELECT * FROM public.trips', 'public.trips',
    '[{"name": "x", "oid": 701, "type": "double precision", "typmod": -1},
      {"name": "late", "oid": 23, "type": "integer", "typmod": -1}]'
FROM (VALUES ('SUCCEEDED'::kwdbml.job_status, 3), ('RUNNING', 2), ('RUNNING', 1)) AS j(status, ago);
INSERT INTO kwdbml.job_env SELECT id, '{"KEY": "secret"}' FROM kwdbml.job;
INSERT INTO kwdbml.attempt (job_id, number, worker, lease_until, engine, run_name, ended, outcome)
SELECT id, 1, 'w', now(), 'local', 'kwdbml-x', now(), 'SUCCEEDED' FROM kwdbml.job WHERE status = 'SUCCEEDED';
INSERT INTO kwdbml.job_log
SELECT id, 1, 1, now(), 'train', 'stdout', 'hello' FROM kwdbml.job WHERE status = 'SUCCEEDED';
INSERT INTO kwdbml.cleanup (engine, run_name) VALUES ('local', 'kwdbml-x');
"""


def everything(db: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, as JSON."""
    tables = rows(db, "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind = 'r'")
    whole = "SELECT to_jsonb(t) FROM kwdbml.{} AS t ORDER BY to_jsonb(t)::text"
    return {name: [row[0] for row in db.execute(sql.SQL(whole).format(sql.Identifier(name)))] for (name,) in tables}


@pytest.fixture
def people(role: MakeRole) -> tuple[Role, Role]:
    return role("ann", create_on=["public"]), role("bob")


def use(db: Connection, ann: str, bob: str, version: str = "0.1.0") -> None:
    """An earlier version is there and in use: a model, an ended job, and two that are to run."""
    db.execute(sql.SQL("CREATE EXTENSION kwdbml VERSION {} CASCADE").format(sql.Literal(version)))
    db.execute("CREATE TABLE public.trips AS SELECT n::float8 AS x, n % 2 AS late FROM generate_series(1, 9) AS n")
    ids = {name: f"00000000-0000-4000-8000-00000000000{n}" for n, name in enumerate(("pipeline", "model", "version"))}
    with psycopg.ClientCursor(db) as cursor:
        cursor.execute(MADE.encode(), {"ann": ann, "bob": bob, "x": X, "late": LATE, **ids})


@pytest.fixture
def older(db: Connection, people: tuple[Role, Role], request: pytest.FixtureRequest) -> Connection:
    db.execute("DROP EXTENSION kwdbml")
    use(db, people[0].name, people[1].name, getattr(request, "param", "0.1.0"))
    return db


every_version = pytest.mark.parametrize("older", EARLIER, indirect=True)
#: Columns that an upgrade took away.
GONE = {"0.1.0": {"pipeline.doomed"}}


@every_version
def test_no_row_is_lost_or_changed(older: Connection, people: tuple[Role, Role]) -> None:
    """Columns that are new have their default, those that went are gone, and all others are as they were."""
    version = one(older, "SELECT extversion FROM pg_extension WHERE extname = 'kwdbml'")
    before = {name: found for name, found in everything(older).items() if name != "request"}
    older.execute("ALTER EXTENSION kwdbml UPDATE")
    after = everything(older)
    assert [name for name in before if not before[name]] == []
    gone = {f"{name}.{key}" for name, old in before.items() for key in old[0].keys() - after[name][0].keys()}
    assert gone == GONE.get(version, set())
    for name, old in before.items():
        kept = [{k: v for k, v in row.items() if k in after[name][0]} for row in old]
        shared = [{k: v for k, v in row.items() if k in kept[0]} for row in after[name]]
        assert sorted(map(str, shared)) == sorted(map(str, kept)), name
    ann, bob = (person.connect() for person in people)
    shown = "SELECT name, creator, active_version, last_metrics -> 0 ->> 'score' FROM kwdbml.show_models()"
    assert rows(ann, shown) == rows(bob, shown) == [("m", people[0].name, 1, "0.5")]
    lineage = "SELECT lineage ->> 'pipeline_hash', lineage ->> 'data_hash' FROM kwdbml.show_model('public.m')"
    assert rows(bob, lineage) == [("abc", "def")]
    jobs = "SELECT status, count(*) FROM kwdbml.show_jobs() GROUP BY 1 ORDER BY 1"
    assert (rows(ann, jobs), rows(bob, jobs)) == ([("RUNNING", 2), ("SUCCEEDED", 1)], [])
    assert one(bob, "SELECT kwdbml.has_training_pipeline_privilege('public.p', %s, 'TRAIN')", [people[1].name])
    with refused("42501"):
        one(bob, "SELECT kwdbml.remove_model('public.m')")


@every_version
def test_what_was_begun_before_lands_after(
    older: Connection, people: tuple[Role, Role], worker_dsn: str, connect: Connect
) -> None:
    """One job was held when the extension changed, the other one waited."""
    worker = Worker(worker_dsn, connect(worker_dsn, autocommit=False))
    held = [worker.claim()]
    worker.connection.commit()
    older.execute("ALTER EXTENSION kwdbml UPDATE")
    held.append(worker.claim())
    for one_held in held:
        assert worker.spec(one_held)["env"] == {"KEY": "secret"}
        land(one_held)(worker.connection)
        worker.connection.commit()
    ann = people[0].connect()
    assert rows(ann, "SELECT version, active_version FROM kwdbml.show_model('public.m')") == [(1, 3), (2, 3), (3, 3)]
    assert rows(ann, "SELECT DISTINCT status FROM kwdbml.show_jobs()") == [("SUCCEEDED",)]


@every_version
@pytest.mark.parametrize("scalar", ['{"gpu": "one", "tpu": 1.0}', '{"gpu": {"a": 1}}', '{"gpu": null}'])
def test_what_meant_nothing_in_a_flavour_is_no_error_in_a_job_that_waits(
    older: Connection, worker_dsn: str, connect: Connect, scalar: str
) -> None:
    asked = '{"flavour": {"name": "any", "cpu": "500m", "scalarResources": ' + scalar + "}}"
    older.execute("UPDATE kwdbml.job SET settings = settings || %s", [asked])
    older.execute("ALTER EXTENSION kwdbml UPDATE")
    names = "SELECT DISTINCT status::text, settings #>> '{flavour,name}' FROM kwdbml.job"
    assert set(rows(older, names)) == {("RUNNING", "customFlavour"), ("SUCCEEDED", "any")}
    worker = Worker(worker_dsn, connect(worker_dsn))
    spec = worker.spec(worker.claim())
    assert (spec["flavour"], settings_of(spec).flavour) == (None, {"name": "customFlavour", "cpu": "500m"})
    ended = "SELECT settings #> '{flavour,scalarResources}' FROM kwdbml.job WHERE status = 'SUCCEEDED'"
    assert one(older, ended) == json.loads(scalar), "and what has ended stays as it was"


#: What 0.2.0 took of kubeflow, with what is left of it.
ODD = {
    '{"kubeflow": {"image": "x", "cpu": "2", "mem": "much"}, "local": {"python": "old"}}':
        {"kubeflow": {"cpu": "2"}, "local": {"python": "old"}},
    '{"kubeflow": {"pull_policy": ["Always"]}, "other": {"x": 1}}': {"kubeflow": {}, "other": {"x": 1}},
    '{"kubeflow": {"pull_policy": "Never", "mem": "4Gi", "cpu": null}}':
        {"kubeflow": {"pull_policy": "Never", "mem": "4Gi", "cpu": None}},
}  # fmt: skip


def add_odd(db: Connection) -> None:
    insert = "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, engines) VALUES (%s, 'r', 'sklearn', %s)"
    for number, engines in enumerate(ODD):
        db.execute(insert, [f"odd_{number}", engines])


def odd(db: Connection) -> list[Any]:
    found = rows(db, "SELECT engines FROM kwdbml.runtime WHERE framework ^@ 'odd_' ORDER BY framework")
    return [engines for (engines,) in found]


@pytest.mark.parametrize("older", ["0.2.0"], indirect=True)
def test_what_a_runtime_said_of_kubeflow_without_meaning_is_told_and_left_out(older: Connection) -> None:
    add_odd(older)
    told: list[str] = []
    older.add_notice_handler(lambda notice: told.append(f"{notice.message_primary} ({notice.message_hint})"))
    older.execute("ALTER EXTENSION kwdbml UPDATE")
    assert odd(older) == list(ODD.values())
    first, second = sorted(told)
    assert ['"image": "x"' in first, "in the column image" in first, '["Always"]' in second] == [True] * 3


def test_an_upgrade_that_fails_changes_nothing(older: Connection) -> None:
    """Something of somebody's that depends on what goes: all is rolled back, and the cure is PostgreSQL's own."""
    older.execute("CREATE VIEW public.doomed AS SELECT doomed FROM kwdbml.pipeline")
    before = everything(older)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        older.execute("ALTER EXTENSION kwdbml UPDATE")
    assert everything(older) == before
    assert one(older, "SELECT extversion FROM pg_extension WHERE extname = 'kwdbml'") == "0.1.0"
    older.execute("DROP VIEW public.doomed")
    older.execute("ALTER EXTENSION kwdbml UPDATE")
