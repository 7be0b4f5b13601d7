"""show_jobs: every form of the call, filters, order, and that the planner sees through it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.support import Connection, Person, Worker, columns, one, refused, rows, run

COLUMNS = [
    ("id", "text"), ("type", "text"), ("status", "text"), ("pipeline_name", "text"), ("model_name", "text"),
    ("model_version", "int4"), ("creator", "text"), ("created", "timestamptz"), ("finished", "timestamptz"),
    ("settings", "jsonb"), ("result", "jsonb"), ("error", "jsonb"),
]  # fmt: skip
ALL = {"train", "train2", "evaluate", "predict", "failed", "canceled", "other"}


@pytest.fixture
def jobs(shop: Connection, two_versions: str, worker: Worker, db: Connection) -> dict[str, str]:
    """Jobs of Ann's by a short name; all on public.m but ``other``, which is on public.n."""
    found = [str(r[0]) for r in rows(shop, "SELECT id FROM kwdbml.show_jobs() ORDER BY created")]
    named = {"train": found[0], "train2": found[1]}
    calls = {
        "failed": "train_model('p', 'm', 'shop', true, true)",
        "canceled": "train_model('p', 'm', 'shop', true, true)",
        "other": "train_model('p', 'n', 'shop', true, true)",
        "evaluate": "evaluate_model('', 'm', 1, 'shop', 'auc')",
        "predict": "batch_predict('m', 2, 'shop', 'r', 'replace')",
    }
    for name, call in calls.items():
        named[name] = str(one(shop, f"SELECT kwdbml.{call}"))
        if name == "failed":
            worker.call("worker_fail", worker.claim(named[name]), '{"type": "X", "message": "m"}', False)
        if name == "canceled":
            one(shop, "SELECT kwdbml.cancel_job(%s)", [named[name]])
    return named


FORMS = [
    ("", ALL),
    ("NULL", ALL),
    ("'*'", ALL),
    ("NULL, NULL, NULL, NULL", ALL),
    ("'*', NULL, '{*}', '{*}'", ALL),
    ("'public.m'", ALL - {"other"}),
    ("'m'", ALL - {"other"}),
    ("'m'::text", ALL - {"other"}),
    ("'m'::varchar", ALL - {"other"}),
    ("'PUBLIC.n'", {"other"}),
    ("'public.nobody'", set()),
    ("'public.m', 2", {"predict"}),
    ("'public.m', '2'", {"predict"}),
    ("'public.m', 1::smallint", {"evaluate"}),
    ("'public.m', 9", set()),
    ("'public.m', 0", {"predict"}),
    ("'m', '0'", {"predict"}),
    ("'m', 0, '{EVALUATE}'", set()),
    ("'m', '0', '{BATCH_PREDICT}'", {"predict"}),
    ("'n', 0", set()),
    ("'nobody', 0", set()),
    ("'m', model_version => 0", {"predict"}),
    ("'m', NULL", ALL - {"other"}),
    ("'m', 1, ARRAY['EVALUATE']", {"evaluate"}),
    ("'m', 1, '{EVALUATE}'", {"evaluate"}),
    ("'m', NULL, ARRAY['EVALUATE']", {"evaluate"}),
    ("'m', NULL, '{EVALUATE}'", {"evaluate"}),
    ("'m', '1', '{EVALUATE}'", {"evaluate"}),
    ("'m', 1, '{TRAIN}'", set()),
    ("'m', 1, NULL, NULL", {"evaluate"}),
    ("'m', 1, '{*}', '{RUNNING}'", {"evaluate"}),
    ("NULL, NULL, '{TRAIN}', '{RUNNING}'", {"other"}),
    ("NULL, 2", {"predict"}),
    ("'public.m', ARRAY['TRAIN','EVALUATE'], ARRAY['*']", {"train", "train2", "failed", "canceled", "evaluate"}),
    ("'public.m','{TRAIN}','{*}'", {"train", "train2", "failed", "canceled"}),
    ("'m', '{train, Evaluate}', '{succeeded,running}'", {"train", "train2", "evaluate"}),
    ("'m', ARRAY['TRAIN'], '{FAILED}'", {"failed"}),
    ("'m', '{TRAIN}', ARRAY['FAILED']", {"failed"}),
    ("'m', ARRAY['TRAIN']::varchar[], ARRAY['FAILED']::varchar[]", {"failed"}),
    ("NULL, ARRAY['TRAIN'], ARRAY['FAILED']", {"failed"}),
    ("'*', '{TRAIN}', '{FAILED}'", {"failed"}),
    ("ARRAY['RUNNING']", {"other", "evaluate", "predict"}),
    ("ARRAY['RUNNING']::varchar[]", {"other", "evaluate", "predict"}),
    ("'{RUNNING}'", {"other", "evaluate", "predict"}),
    ("'{running, FAILED}'", {"other", "evaluate", "predict", "failed"}),
    ("'{FAILED}'::text[]", {"failed"}),
    ("ARRAY['CANCELED']", {"canceled"}),
    ("ARRAY['*']", ALL),
    ("ARRAY['FAILED', '*']", ALL),
    ("ARRAY[]::text[]", set()),
    ("'{}'", set()),
    ("job_status => ARRAY['FAILED']", {"failed"}),
    ("job_status => '{FAILED}'", {"failed"}),
    ("job_type => '{BATCH_PREDICT}'", {"predict"}),
    ("job_type => '{}'", set()),
    ("model_version => 1", {"evaluate"}),
    ("model_name => 'n'", {"other"}),
    ("model_name => 'm', job_type => '{TRAIN}', job_status => '{SUCCEEDED}'", {"train", "train2"}),
    ("'m', job_status => '{FAILED}'", {"failed"}),
    ("'m', 1, job_status => '{RUNNING}'", {"evaluate"}),
]  # fmt: skip


def test_every_form(shop: Connection, jobs: dict[str, str]) -> None:
    by_id = {v: k for k, v in jobs.items()}
    for arguments, expected in FORMS:
        found = {by_id[r[0]] for r in rows(shop, f"SELECT id FROM kwdbml.show_jobs({arguments})")}
        assert found == expected, arguments


BOUND: list[tuple[list[Any], set[str]]] = [
    (["m"], ALL - {"other"}),
    ([None], ALL),
    (["*"], ALL),
    (["{RUNNING}"], {"other", "evaluate", "predict"}),
    ([["RUNNING"]], {"other", "evaluate", "predict"}),
    ([[]], set()),
    (["m", 2], {"predict"}),
    (["m", None], ALL - {"other"}),
    (["m", ["TRAIN"], ["FAILED"]], {"failed"}),
    (["m", "{TRAIN}", "{FAILED}"], {"failed"}),
    (["m", 1, ["EVALUATE"]], {"evaluate"}),
    (["m", None, ["EVALUATE"]], {"evaluate"}),
    (["m", 1, ["EVALUATE"], ["RUNNING"]], {"evaluate"}),
    ([None, None, ["TRAIN"], ["FAILED"]], {"failed"}),
    (["m", None, None, None], ALL - {"other"}),
]


def test_bind_parameters(shop: Connection, jobs: dict[str, str]) -> None:
    by_id = {v: k for k, v in jobs.items()}
    for arguments, expected in BOUND:
        places = ", ".join(["%s"] * len(arguments))
        found = {by_id[r[0]] for r in rows(shop, f"SELECT id FROM kwdbml.show_jobs({places})", arguments)}
        assert found == expected, arguments


def test_bound_typed_text(shop: Connection, jobs: dict[str, str]) -> None:
    """As a driver sends it that gives every string a type; generic plans too."""
    run(shop, "PREPARE a (text) AS SELECT id FROM kwdbml.show_jobs($1)",
        ("PREPARE b (text, text, text[]) AS SELECT id FROM kwdbml.show_jobs($1, $2,"
         " $3)"), "SET plan_cache_mode = force_generic_plan")  # fmt: skip
    assert len(rows(shop, "EXECUTE a ('{FAILED}')")) == 1
    assert len(rows(shop, "EXECUTE a ('n')")) == 1
    assert len(rows(shop, "EXECUTE b ('m', '{TRAIN}', '{FAILED}')")) == 1
    assert len(rows(shop, "EXECUTE b ('m', '1', '{EVALUATE}')")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ARRAY['DONE']", ["status", "DONE"]),
        ("'{DONE}'", ["status", "DONE"]),
        ("job_status => ARRAY['RUNNING', NULL]", ["status", "NULL"]),
        ("job_type => '{DANCE}'", ["type", "DANCE"]),
        ("'m', '{DANCE}', '{*}'", ["type", "DANCE"]),
        ("'m', '{TRAIN}', '{DONE}'", ["status", "DONE"]),
        ("'a b'", ["a b"]),
        ("''", ['""']),
        ("'{RUNNING'", ['invalid list "{RUNNING"']),
        ("'m', 'TRAIN', '{*}'", ['invalid list "TRAIN"']),
        ("'m', '99999999999999999999', '{*}'", ['invalid model version "99999999999999999999"']),
        ("'m', -1", ["-1"]),
        ("'m', '-1', '{TRAIN}'", ["-1"]),
        ("model_version => -7", ["-7"]),
        ("model_version => 0", ["version 0", "no model"]),
        ("'*', 0", ["version 0", "no model"]),
        ("job_type => '{DANCE,*}'", ["type", "DANCE"]),
    ],
)
def test_what_is_refused(shop: Connection, arguments: str, words: list[str]) -> None:
    """Also where there is no row to filter, and with the valid values."""
    with refused("22023", *words, hint="TRAIN, EVALUATE, BATCH_PREDICT" if "type" in words else True):
        rows(shop, f"SELECT * FROM kwdbml.show_jobs({arguments})")


def test_columns(shop: Connection) -> None:
    assert columns(shop, "kwdbml.show_jobs()") == COLUMNS
    assert columns(shop, "kwdbml.show_jobs('m', '{TRAIN}', '{*}')") == COLUMNS


def test_newest_first(shop: Connection, jobs: dict[str, str]) -> None:
    created = [r[0] for r in rows(shop, "SELECT created FROM kwdbml.show_jobs()")]
    assert created == sorted(created, reverse=True)


def test_who_sees_what(shop: Connection, job: str, bob: Person, admin: Person, db: Connection) -> None:
    for connection, seen in ((shop, 1), (bob.connection, 0), (admin.connection, 1), (db, 1)):
        assert len(rows(connection, "SELECT * FROM kwdbml.show_jobs()")) == seen
        assert len(rows(connection, "SELECT * FROM kwdbml.jobs")) == seen
        assert len(rows(connection, "SELECT * FROM kwdbml.job")) == seen


def test_cancel_over_rows(shop: Connection, jobs: dict[str, str]) -> None:
    canceled = rows(shop, "SELECT kwdbml.cancel_job(id) FROM kwdbml.show_jobs(ARRAY['RUNNING'])")
    assert {r[0] for r in canceled} == {jobs[n] for n in ("other", "evaluate", "predict")}
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs(ARRAY['RUNNING'])") == []


@pytest.fixture
def many(shop: Connection, job: str, db: Connection, bob: Person) -> Connection:
    """25,000 jobs, every second one Ann's."""
    run(
        db,
        "INSERT INTO kwdbml.job (type, status, pipeline_name, model_name, creator, created, data_query, data_columns)"
        " SELECT 'TRAIN', 'SUCCEEDED', 'public.p', 'public.m' || n % 50, CASE WHEN n % 2 = 0 THEN j.creator"
        f" ELSE '{bob.name}' END, now() - n * interval '1 s', '', '[]' FROM generate_series(1, 25000)"
        " AS n, kwdbml.job j",
        "ANALYZE kwdbml.job",
    )
    return shop


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM kwdbml.show_jobs() ORDER BY created DESC LIMIT 50", "Scan using job_"),
        ("SELECT * FROM kwdbml.show_jobs() LIMIT 50", "Scan using job_"),
        ("SELECT * FROM kwdbml.show_jobs(model_name => 'm7') LIMIT 50", "Scan using job_"),
        ("SELECT * FROM kwdbml.show_jobs(ARRAY['SUCCEEDED']) LIMIT 50", "Scan using job_"),
        ("SELECT * FROM kwdbml.show_jobs('m', 0) LIMIT 50", "can on job_model_created"),
        ("SELECT id, phase FROM kwdbml.jobs ORDER BY created DESC LIMIT 50", "Scan using job_"),
    ],
)
def test_the_planner_sees_through_it(many: Connection, query: str, index: str) -> None:
    plan = "\n".join(r[0] for r in rows(many, f"EXPLAIN {query}"))
    assert "Function Scan" not in plan
    assert index in plan
    assert "Seq Scan on job" not in plan


def test_an_admins_page_uses_the_index(many: Connection, admin: Person) -> None:
    plan = "\n".join(r[0] for r in rows(admin.connection, "EXPLAIN SELECT * FROM kwdbml.show_jobs() LIMIT 50"))
    assert "job_created" in plan
    assert "Sort" not in plan
