"""Names of models and pipelines: which schema, which spelling, what is none."""

from __future__ import annotations

import pytest

from tests.sql.support import Connection, Person, Worker, import_pipeline, one, refused, rows, run

CHINESE = "模型"
LONGEST = "x" * 63


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("p", "public.p"),
        ("P", "public.P"),
        ("public.p", "public.p"),
        ("PUBLIC.P", "public.P"),
        ("Public.p_1", "public.p_1"),
        ("  p  ", "public.p"),
        (CHINESE, f"public.{CHINESE}"),
        (f"public.{CHINESE}_1", f"public.{CHINESE}_1"),
        ("é1", "public.é1"),
        (LONGEST, f"public.{LONGEST}"),
        ("型" * 21, "public." + "型" * 21),
        ("select", "public.select"),
        ("Lab.p", "Lab.p"),
        ("lab.p", "lab.p"),
        ("a.b.p", "a.b.p"),
    ],
)
def test_what_a_name_means(ann: Person, db: Connection, name: str, answer: str) -> None:
    for schema in ("Lab", "lab", "a.b"):
        run(db, f'CREATE SCHEMA "{schema}"', f'GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC')
    assert import_pipeline(ann.connection, name) == answer


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "p.", ".p", "1p", "_p", "p-1", "p q", "p;", 'p"', '"p"', "p'", "p/q", "public.1",
        "p\n", "x" * 64, "型" * 22, "public." + "x" * 64, "p%s", "*", "{RUNNING}",
    ],
)  # fmt: skip
def test_what_is_no_name(ann: Person, name: str) -> None:
    if name.strip() == "p":  # blanks around a name are nothing
        assert import_pipeline(ann.connection, name) == "public.p"
        return
    with refused("22023", f'invalid training pipeline name "{name}"'):
        import_pipeline(ann.connection, name)


def test_the_current_schema_is_the_callers(ann: Person, db: Connection) -> None:
    run(db, f'CREATE SCHEMA lab AUTHORIZATION "{ann.name}"')
    run(ann.connection, "SET search_path = nowhere, lab, public")
    assert import_pipeline(ann.connection, "p") == "lab.p"
    assert one(ann.connection, "SELECT schema FROM kwdbml.show_training_pipeline('p')") == "lab"
    run(ann.connection, "SET search_path = public")
    with refused("42704", "public.p"):
        run(ann.connection, "SELECT * FROM kwdbml.show_training_pipeline('p')")


def test_no_schema_is_selected(ann: Person) -> None:
    run(ann.connection, "SET search_path = ''")
    with refused("3F000", "no schema"):
        import_pipeline(ann.connection, "p")


def test_usage_on_the_schema_is_needed(ann: Person, db: Connection) -> None:
    run(db, "CREATE SCHEMA lab")
    with refused("42501", "schema lab"):
        import_pipeline(ann.connection, "lab.p")
    run(db, f'GRANT USAGE ON SCHEMA lab TO "{ann.name}"')
    assert import_pipeline(ann.connection, "lab.p") == "lab.p"


SYSTEM = ["kwdbml", "KWDBML", "pg_catalog", "information_schema", "pg_toast", "pg_temp", "pg_temp_3"]


@pytest.mark.parametrize("schema", SYSTEM)
def test_nothing_is_made_in_a_schema_of_the_system(
    shop: Connection, pipeline: str, db: Connection, schema: str
) -> None:
    create = "SELECT kwdbml.create_training_pipeline('{}.q', 'random_forest', 'late', 'shop')"
    train = "SELECT kwdbml.train_model('p', '{}.q', 'shop', true, true)"
    run(db, "CREATE TEMP TABLE makes_pg_temp_3 (x int)", "CREATE SCHEMA pgx", "GRANT USAGE ON SCHEMA pgx TO PUBLIC")
    for connection in (shop, db):
        for call in (create, train):
            with refused("3F000" if schema == "pg_temp_3" else "42501", schema.lower()):
                run(connection, call.format(schema))
        with refused("3F000" if schema == "pg_temp_3" else "42501", schema.lower()):
            import_pipeline(connection, f"{schema}.q")
    assert len(rows(db, "SELECT FROM kwdbml.pipeline")) == 1
    assert rows(db, "SELECT FROM kwdbml.job") == []
    run(shop, create.format("pgx"), train.format("pgx"))


@pytest.mark.parametrize("schema", ["kwdbml", "pg_catalog", "information_schema", "pg_temp_3"])
def test_nor_by_a_hand_written_insert(
    shop: Connection, pipeline: str, db: Connection, worker: Worker, schema: str
) -> None:
    by_hand = (
        "INSERT INTO kwdbml.pipeline (schema, name, problem_type, framework, runtime, features, target, content_hash)"
        " SELECT '{}', 'q', problem_type, framework, runtime, features, target, content_hash FROM kwdbml.pipeline"
    )
    # a schema that one may not use takes nothing at all, and the others nothing of ours
    with refused("42501" if schema == "pg_temp_3" else "23514", "pipeline", hint=False):
        run(shop, by_hand.format(schema))
    run(shop, by_hand.format("public"))
    run(
        shop,
        "INSERT INTO kwdbml.job (type, pipeline_name, pipeline_id, model_name, data_query, data_columns)"
        f" SELECT 'TRAIN', 'public.p', id, '{schema}.m', 'TABLE shop', '[]' FROM kwdbml.pipeline WHERE name = 'p'",
    )
    with refused("3F000" if schema == "pg_temp_3" else "42501", schema):
        worker.spec(worker.claim())
    with refused("23514", "model", hint=False):
        run(db, "INSERT INTO kwdbml.model (schema, name, problem_type, features, target)"
                f" VALUES ('{schema}', 'm', 'b', '[]', '[]')")  # fmt: skip


@pytest.mark.parametrize("call", ["train_model('p', {}, 'shop', true, true)", "show_model({})", "show_jobs({})"])
@pytest.mark.parametrize(("name", "sqlstate"), [("m-1", "22023"), ("nowhere.m", "3F000")])
def test_every_function_reads_names_alike(shop: Connection, pipeline: str, call: str, name: str, sqlstate: str) -> None:
    word = name if sqlstate == "22023" else "nowhere"
    with refused(sqlstate, word):
        run(shop, f"SELECT kwdbml.{call.format(repr(name))}")
