"""show_training_pipelines, show_training_pipeline, remove_training_pipeline: columns, rights, and what is refused."""

from __future__ import annotations

import pytest

from tests.sql.support import (
    Connection,
    Person,
    Worker,
    columns,
    grant_pipeline,
    import_pipeline,
    one,
    refused,
    rows,
    run,
)

COLUMNS = [
    ("schema", "text"), ("name", "text"), ("description", "text"), ("creator", "text"), ("created", "timestamptz"),
    ("problem_type", "text"), ("features", "jsonb"), ("target", "jsonb"), ("framework", "text"), ("runtime", "text"),
]  # fmt: skip


@pytest.mark.parametrize("call", ["show_training_pipelines()", "show_training_pipeline('up')"])
def test_columns(ann: Person, call: str) -> None:
    import_pipeline(ann.connection)
    assert columns(ann.connection, f"kwdbml.{call}") == COLUMNS


@pytest.mark.parametrize(
    "argument", ["'up'", "'public.up'", "'PUBLIC.up'", "pipeline_name => 'up'", "'up'::text", "' up '"]
)
def test_every_form_of_show(ann: Person, argument: str) -> None:
    import_pipeline(ann.connection)
    import_pipeline(ann.connection, "other")
    assert one(ann.connection, f"SELECT name FROM kwdbml.show_training_pipeline({argument})") == "up"


@pytest.mark.parametrize("function", ["show_training_pipeline", "remove_training_pipeline"])
@pytest.mark.parametrize(
    ("name", "sqlstate", "word"),
    [
        (None, "22004", "NULL"),
        ("nobody", "42704", "public.nobody"),
        ("UP", "42704", "public.UP"),
        ("a b", "22023", "a b"),
        ("", "22023", '""'),
        ("nowhere.up", "3F000", "nowhere"),
    ],
)
def test_what_is_refused(ann: Person, function: str, name: str | None, sqlstate: str, word: str) -> None:
    import_pipeline(ann.connection)
    with refused(sqlstate, word):
        rows(ann.connection, f"SELECT * FROM kwdbml.{function}(%s)", [name])


def test_a_stranger_cannot_tell_it_from_nothing(ann: Person, bob: Person) -> None:
    import_pipeline(ann.connection)
    assert rows(bob.connection, "SELECT * FROM kwdbml.show_training_pipelines()") == []
    for function in ("show_training_pipeline", "remove_training_pipeline"):
        with refused("42704", "no such training pipeline: public.up"):
            rows(bob.connection, f"SELECT * FROM kwdbml.{function}('up')")


def test_admin_and_superuser_may_all(ann: Person, admin: Person, db: Connection) -> None:
    for person in (admin.connection, db):
        import_pipeline(ann.connection)
        assert one(person, "SELECT name FROM kwdbml.show_training_pipeline('public.up')") == "up"
        assert one(person, "SELECT kwdbml.remove_training_pipeline('public.up')") == "public.up"
        assert rows(ann.connection, "SELECT * FROM kwdbml.show_training_pipelines()") == []


def test_privileges_of_a_grantee(ann: Person, bob: Person, db: Connection) -> None:
    import_pipeline(ann.connection)
    grant_pipeline(db, bob.name, "SELECT")
    assert one(bob.connection, "SELECT creator FROM kwdbml.show_training_pipeline('public.up')") == ann.name
    with refused("42501", "public.up"):
        run(bob.connection, "SELECT kwdbml.remove_training_pipeline('up')")
    grant_pipeline(db, bob.name, "DELETE")
    assert one(bob.connection, "SELECT kwdbml.remove_training_pipeline('up')") == "public.up"


def test_remove_takes_the_bundle_along(ann: Person, db: Connection) -> None:
    import_pipeline(ann.connection)
    assert one(ann.connection, "SELECT kwdbml.remove_training_pipeline(pipeline_name => 'up')") == "public.up"
    assert one(db, "SELECT count(*) FROM kwdbml.artefact_chunk") == 0


def test_remove_rolled_back(ann: Person) -> None:
    import_pipeline(ann.connection)
    with ann.connection.transaction(force_rollback=True):
        run(ann.connection, "SELECT kwdbml.remove_training_pipeline('up')")
    assert one(ann.connection, "SELECT name FROM kwdbml.show_training_pipelines()") == "up"


def test_not_while_a_job_uses_it(shop: Connection, job: str, worker: Worker) -> None:
    with refused("55006", "public.p"):
        run(shop, "SELECT kwdbml.remove_training_pipeline('p')")
    worker.finish_training(job)
    assert one(shop, "SELECT kwdbml.remove_training_pipeline('p')") == "public.p"
    assert one(shop, "SELECT name FROM kwdbml.show_models()") == "m"
    assert one(shop, "SELECT pipeline_name FROM kwdbml.show_jobs()") == "public.p"


def test_a_model_and_a_pipeline_may_bear_the_same_name(shop: Connection, pipeline: str, worker: Worker) -> None:
    worker.finish_training(one(shop, "SELECT kwdbml.train_model('p', 'p', 'shop', true, true)"))
    assert one(shop, "SELECT version FROM kwdbml.show_model('p')") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM kwdbml.pipeline",
        "UPDATE kwdbml.pipeline SET name = 'mine'",
        "UPDATE kwdbml.pipeline SET creator = current_user",
        (
            "INSERT INTO kwdbml.pipeline (id, schema, name, problem_type, framework, runtime,"
            " features, target, content_hash)"
            " VALUES (gen_random_uuid(), 'public', 'x', 'b', 'f', 'r', '[]', '[]', '')"
        ),
        (
            "INSERT INTO kwdbml.pipeline (creator, schema, name, problem_type, framework, runtime,"
            " features, target, content_hash)"
            " VALUES ('postgres', 'public', 'x', 'b', 'f', 'r', '[]', '[]', '')"
        ),
        (
            "INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege) SELECT id,"
            " current_user, 'TRAIN' FROM kwdbml.pipeline"
        ),
        "LOCK TABLE kwdbml.pipeline IN ACCESS EXCLUSIVE MODE",
        "LOCK TABLE kwdbml.pipeline IN ROW EXCLUSIVE MODE",
        "TRUNCATE kwdbml.pipeline CASCADE",
        "SELECT * FROM kwdbml.artefact",
        "SELECT * FROM kwdbml.artefact_chunk",
    ],
)
def test_what_a_grantee_cannot_do_by_hand(ann: Person, bob: Person, db: Connection, statement: str) -> None:
    import_pipeline(ann.connection)
    grant_pipeline(db, bob.name, "SELECT")
    before = rows(db, "SELECT * FROM kwdbml.pipeline"), rows(db, "SELECT * FROM kwdbml.pipeline_privilege")
    with refused("42501", hint=False), bob.connection.transaction():
        run(bob.connection, statement)
    assert (rows(db, "SELECT * FROM kwdbml.pipeline"), rows(db, "SELECT * FROM kwdbml.pipeline_privilege")) == before
