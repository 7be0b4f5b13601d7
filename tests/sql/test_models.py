"""show_models and show_model: rows, columns, versions, and who sees them."""

from __future__ import annotations

import pytest

from tests.sql.support import Connection, Person, Worker, columns, grant_model, one, refused, rows, run

COLUMNS = [
    ("schema", "text"), ("name", "text"), ("description", "text"), ("creator", "text"), ("created", "timestamptz"),
    ("last_updated", "timestamptz"), ("problem_type", "text"), ("features", "jsonb"), ("target", "jsonb"),
    ("framework", "text"), ("runtime", "text"), ("active_version", "int4"), ("last_metrics", "jsonb"),
    ("status", "jsonb"),
]  # fmt: skip


def test_show_models_has_one_row_per_model(shop: Connection, model: str, ann: Person) -> None:
    found = rows(shop, "SELECT schema, name, description, creator, problem_type, features, target, framework, runtime,"
                       " active_version, last_metrics, status FROM kwdbml.show_models()")  # fmt: skip
    assert found == [(
        "public", "m", "Model trained by pipeline public.p.", ann.name, "b",
        [{"name": "amount", "type": "FLOAT"}, {"name": "kind", "type": "STRING"}], [{"name": "late", "type": "INT"}],
        "sklearn", "builtin", 1, [{"objective": "auc", "score": 0.9}], {"status": "Ready"},
    )]  # fmt: skip


def test_columns_of_show_models(shop: Connection) -> None:
    assert columns(shop, "kwdbml.show_models()") == COLUMNS


@pytest.mark.parametrize("call", ["kwdbml.show_model('m')", "kwdbml.show_models('public.m')"])
def test_columns_of_show_model(shop: Connection, model: str, call: str) -> None:
    assert columns(shop, call) == [*COLUMNS, ("version", "int4"), ("lineage", "jsonb")]


@pytest.mark.parametrize(
    ("call", "versions"),
    [
        ("kwdbml.show_model('m')", [1, 2]),
        ("kwdbml.show_model('public.m')", [1, 2]),
        ("kwdbml.show_model('PUBLIC.m')", [1, 2]),
        ("kwdbml.show_model('m', NULL)", [1, 2]),
        ("kwdbml.show_model('m', 2)", [2]),
        ("kwdbml.show_model('m', '1')", [1]),
        ("kwdbml.show_model('m', 0)", [2]),
        ("kwdbml.show_model(model_name => 'm', model_version => 1)", [1]),
        ("kwdbml.show_models('m')", [1, 2]),
        ("kwdbml.show_models('m', 2)", [2]),
        ("kwdbml.show_models(model_name => 'm')", [1, 2]),
        ("kwdbml.show_models(model_version => 2, model_name => 'm')", [2]),
    ],
)
def test_every_form_of_show_model(shop: Connection, two_versions: str, call: str, versions: list[int]) -> None:
    assert rows(shop, f"SELECT version, active_version FROM {call}") == [(v, 1) for v in versions]


@pytest.mark.parametrize("function", ["show_model", "show_models"])
def test_bind_parameters(shop: Connection, two_versions: str, function: str) -> None:
    assert len(rows(shop, f"SELECT * FROM kwdbml.{function}(%s, %s)", ["m", 2])) == 1
    assert len(rows(shop, f"SELECT * FROM kwdbml.{function}(%s)", ["m"])) == 2


def test_immediately_deploy_moves_the_active_version(shop: Connection, model: str, worker: Worker) -> None:
    worker.finish_training(one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, true)"))
    assert rows(shop, "SELECT version, active_version FROM kwdbml.show_model('m')") == [(1, 2), (2, 2)]


@pytest.mark.parametrize("function", ["show_model", "show_models"])
@pytest.mark.parametrize(
    ("argument", "sqlstate", "word"),
    [
        ("NULL", "22004", "NULL"),
        ("'nobody'", "42704", "public.nobody"),
        ("'m', 7", "42704", "model public.m has no version 7"),
        ("'nobody', 7", "42704", "no such model: public.nobody"),
        ("'m', -1", "22023", "-1"),
        ("'m m'", "22023", "m m"),
        ("'nowhere.m'", "3F000", "nowhere"),
    ],
)
def test_what_show_model_refuses(
    shop: Connection, model: str, function: str, argument: str, sqlstate: str, word: str
) -> None:
    with refused(sqlstate, word):
        rows(shop, f"SELECT * FROM kwdbml.{function}({argument})")


def test_a_stranger_cannot_tell_it_from_nothing(model: str, bob: Person) -> None:
    assert rows(bob.connection, "SELECT * FROM kwdbml.show_models()") == []
    told = set()
    for call in ("'m'", "'m', 1", "'m', 9", "'nobody'", "'nobody', 1"):
        with refused("42704", "no such model: public.") as error:
            rows(bob.connection, f"SELECT * FROM kwdbml.show_model({call})")
        told.add((error.value.diag.message_primary or "").replace("nobody", "m"))
    assert told == {"no such model: public.m"}


def test_admin_and_superuser_see_all(model: str, admin: Person, db: Connection) -> None:
    for connection in (admin.connection, db):
        assert one(connection, "SELECT name FROM kwdbml.show_models()") == "m"
        assert one(connection, "SELECT version FROM kwdbml.show_model('public.m')") == 1


@pytest.mark.parametrize("grantee", ["him", "everyone", "a role of his"])
def test_select_shows_it(model: str, bob: Person, db: Connection, grantee: str) -> None:
    name = {"him": bob.name, "everyone": "public", "a role of his": "kwdbml_worker"}[grantee]
    if grantee == "a role of his":
        run(db, f'GRANT kwdbml_worker TO "{bob.name}"')
    grant_model(db, name, "SELECT")
    assert one(bob.connection, "SELECT name FROM kwdbml.show_models()") == "m"


def test_another_privilege_does_not_show_it(model: str, bob: Person, db: Connection) -> None:
    grant_model(db, bob.name, "PREDICT")
    assert rows(bob.connection, "SELECT * FROM kwdbml.show_models()") == []
    with refused("42704", "public.m"):
        rows(bob.connection, "SELECT * FROM kwdbml.show_model('m')")
