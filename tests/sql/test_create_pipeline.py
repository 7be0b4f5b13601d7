"""create_training_pipeline and algorithms(): what is read off the data, and every form of the call."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.support import Connection, Person, columns, one, refused, rows, run

CREATE_Q = "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', %s, %s)"
SHOW = "SELECT problem_type, features, target, framework, runtime FROM kwdbml.show_training_pipeline('q')"


def test_algorithms(ann: Person) -> None:
    assert columns(ann.connection, "kwdbml.algorithms()") == [
        ("name", "text"), ("description", "text"), ("problem_types", "text"), ("framework", "text"),
        ("hyperparameters", "jsonb"),
    ]  # fmt: skip
    found = {r[0]: r[1:] for r in rows(ann.connection, "SELECT * FROM kwdbml.algorithms()")}
    assert set(found) == {
        "logistic_regression", "linear_regression", "random_forest", "hist_gradient_boosting", "xgboost", "lightgbm",
    }  # fmt: skip
    assert found["linear_regression"][1] == ["r"]
    assert found["logistic_regression"][1] == ["b", "m"]
    assert found["random_forest"][1] == ["r", "b", "m"]
    for description, _, framework, parameters in found.values():
        assert description
        assert framework in ("sklearn", "xgboost", "lightgbm")
        assert all("type" in p and "default" in p for p in parameters.values())


@pytest.mark.parametrize(
    "call",
    [
        "'q', 'random_forest', 'late', 'shop'",
        "'q', 'random_forest', 'late', 'shop', 'B'",
        "'q', 'random_forest', 'late', 'shop', NULL, '{id,amount,kind}'",
        "'q', 'random_forest', 'late', 'shop', NULL, ARRAY['id', 'amount', 'kind']",
        "'q', 'random_forest', 'late', 'shop', NULL, ARRAY['id', 'amount', 'kind'], '{}'",
        "'q', 'random_forest', 'late', 'shop', 'b', NULL, '{}'::jsonb, 'about'",
        "'q', 'random_forest', 'late', 'shop', 'b', NULL, '{}'::text, 'about'",
        "'q', 'random_forest', 'late', 'shop', 'b', NULL, NULL, NULL",
        "pipeline_name => 'q', algorithm => 'RANDOM_FOREST', target => 'late', train_data => 'shop'",
        "'q', 'random_forest', 'late', 'shop', hyperparameters => '{}'",
        "'q', 'random_forest', 'late', 'shop', description => 'about', features => '{id,amount,kind}'",
        "'q', 'random_forest', 'late', 'SELECT * FROM shop WHERE late IS NOT NULL; -- all'",
    ],
)
def test_every_form(shop: Connection, call: str) -> None:
    assert one(shop, f"SELECT kwdbml.create_training_pipeline({call})") == "public.q"
    kind, features, target, framework, runtime = rows(shop, SHOW)[0]
    assert (kind, framework, runtime) == ("b", "sklearn", "builtin")
    assert [f["name"] for f in features] == ["id", "amount", "kind"]
    assert target == [{"name": "late", "type": "INT"}]


@pytest.mark.parametrize("hyperparameters", [Jsonb({"max_depth": 3}), '{"max_depth": 3}', None])
def test_bind_parameters(shop: Connection, hyperparameters: object) -> None:
    call = "SELECT kwdbml.create_training_pipeline(%s, %s, %s, %s, %s, %s, %s, %s)"
    arguments = ["q", "random_forest", "late", "shop", "b", ["amount"], hyperparameters, "about"]
    assert one(shop, call, arguments) == "public.q"
    assert one(shop, "SELECT description FROM kwdbml.show_training_pipeline('q')") == "about"


COLUMN_TYPES = [
    ("boolean", "INT"), ("smallint", "INT"), ("integer", "INT"), ("bigint", "INT"), ("numeric(8,2)", "FLOAT"),
    ("real", "FLOAT"), ("double precision", "FLOAT"), ("text", "STRING"), ("varchar(9)", "STRING"),
    ("char(3)", "STRING"), ("mood", "STRING"), ("uuid", "STRING"), ("date", "FLOAT"), ("timestamp", "FLOAT"),
    ("timestamptz", "FLOAT"), ("interval", "FLOAT"), ("positive", "INT"), ("email", "STRING"),
]  # fmt: skip


@pytest.fixture
def typed(ann: Person) -> Connection:
    run(
        ann.connection,
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
        "CREATE DOMAIN email AS varchar(40)",
        "CREATE TYPE pair AS (a int, b int)",
    )
    return ann.connection


@pytest.mark.parametrize(("column_type", "feature"), COLUMN_TYPES)
def test_column_types_become_features(typed: Connection, column_type: str, feature: str) -> None:
    run(typed, f"CREATE TABLE t (x {column_type}, y boolean)", "INSERT INTO t (y) VALUES (true), (false)",
        "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', 't')")  # fmt: skip
    assert one(typed, "SELECT features FROM kwdbml.show_training_pipeline('q')") == [{"name": "x", "type": feature}]


@pytest.mark.parametrize(
    "column_type", ["json", "jsonb", "bytea", "integer[]", "pair", "int4range", "inet", "xml", "point"]
)
def test_column_types_that_are_refused_by_name(typed: Connection, column_type: str) -> None:
    run(typed, f"CREATE TABLE t (x {column_type}, y boolean)")
    with refused("22023", '"x"', column_type.removesuffix("[]")):
        run(typed, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', 't')")


@pytest.mark.parametrize(
    ("expression", "problem_type", "target_type"),
    [
        ("n % 2 = 0", "b", "BOOL"),
        ("n % 2", "b", "INT"),
        ("n % 3", "m", "INT"),
        ("n", "r", "FLOAT"),
        ("n::numeric", "r", "FLOAT"),
        ("n::double precision", "r", "FLOAT"),
        ("now() + n * interval '1 day'", "r", "FLOAT"),
        ("(n % 2)::text", "b", "STRING"),
        ("(n % 3)::text", "m", "STRING"),
    ],
)
def test_the_problem_type_is_read_off_the_target(
    ann: Person, expression: str, problem_type: str, target_type: str
) -> None:
    query = f"SELECT n AS x, {expression} AS y FROM generate_series(1, 60) AS n"
    one(ann.connection, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', %s)", [query])
    kind, _, target, _, _ = rows(ann.connection, SHOW)[0]
    assert (kind, target) == (problem_type, [{"name": "y", "type": target_type}])


@pytest.mark.parametrize(
    ("changes", "sqlstate", "word"),
    [
        ({"name": None}, "22004", "name is NULL"),
        ({"algorithm": None}, "22004", "algorithm"),
        ({"algorithm": "magic"}, "22023", "magic"),
        ({"target": None}, "22004", "target"),
        ({"target": "Late"}, "22023", "Late"),
        ({"data": None}, "22004", "train_data"),
        ({"data": "nothing"}, "42P01", "nothing"),
        ({"problem_type": "x"}, "22023", '"x"'),
        ({"problem_type": "r", "algorithm": "logistic_regression"}, "22023", "logistic_regression"),
        ({"problem_type": "r", "target": "kind"}, "22023", "kind"),
        ({"features": []}, "22023", "feature"),
        ({"features": ["nope"]}, "22023", "nope"),
        ({"features": ["late"]}, "22023", "late"),
        ({"features": ["id", "id"]}, "22023", "twice"),
        ({"features": [None]}, "22004", "features"),
        ({"features": [["id"], ["kind"]]}, "22023", "features"),
        ({"hyperparameters": '{"nope": 1}'}, "22023", "nope"),
        ({"hyperparameters": '{"max_depth": "deep"}'}, "22023", "deep"),
        ({"hyperparameters": "[1]"}, "22023", "hyperparameters"),
        ({"hyperparameters": "nope"}, "22023", "hyperparameters"),
    ],
)
def test_bad_arguments(shop: Connection, changes: dict[str, Any], sqlstate: str, word: str) -> None:
    arguments = {
        "name": "q", "algorithm": "random_forest", "target": "late", "data": "shop", "problem_type": None,
        "features": None, "hyperparameters": "{}", **changes,
    }  # fmt: skip
    with refused(sqlstate, word):
        one(shop, (
            "SELECT kwdbml.create_training_pipeline(%(name)s, %(algorithm)s, %(target)s, %(data)s, %(problem_type)s,"
            " %(features)s::text[], %(hyperparameters)s::text)"
        ), arguments)  # fmt: skip
    assert rows(shop, "SELECT * FROM kwdbml.show_training_pipelines()") == []


def test_it_reads_as_the_caller(shop: Connection, bob: Person) -> None:
    with refused("42501", "shop"):
        run(bob.connection, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop')")
    run(shop, "GRANT SELECT ON shop TO public")
    assert one(bob.connection, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop')")


@pytest.mark.parametrize(
    ("target", "problem_type", "words"),
    [
        ("NULL::boolean", None, ["no rows with a target"]),
        ("NULL::float8", None, ["no rows with a target"]),
        ("float8 'NaN'", "m", ["no rows with a target"]),
        ("'only'", None, ["one value", '"y"', "only"]),
        ("true", None, ["one value", "true"]),
        ("7", "M", ["one value", "7"]),
        ("n % 3", "B", ["more than two values", "0, 1, 2"]),
        ("n", "b", ["more than two values"]),
        ("left('long', 1) || repeat('x', 1000) || n", "b", ["more than two values"]),
    ],
)
def test_a_target_that_teaches_nothing(ann: Person, target: str, problem_type: str | None, words: list[str]) -> None:
    """Seen at the call, in one pass over the target."""
    data = f"SELECT n AS x, {target} AS y FROM generate_series(1, 60) AS n"
    with refused("22023", *words) as error:
        one(ann.connection, CREATE_Q, [data, problem_type])
    assert len(str(error.value)) < 500
    assert rows(ann.connection, "SELECT * FROM kwdbml.show_training_pipelines()") == []


@pytest.mark.parametrize(
    ("target", "problem_type"),
    [("n % 2", "b"), ("n % 2", "m"), ("CASE WHEN n > 40 THEN float8 'NaN' ELSE n % 2 END", "b"), ("1.5", "r")],
)
def test_a_target_that_teaches_just_enough(ann: Person, target: str, problem_type: str) -> None:
    data = f"SELECT n AS x, {target} AS y FROM generate_series(1, 60) AS n"
    assert one(ann.connection, CREATE_Q, [data, problem_type]) == "public.q"


@pytest.mark.parametrize(
    ("limit", "problem_type", "word"),
    [(0, "b", "no rows"), (0, "r", "no rows"), (1, "b", "one value"), (1, "r", "one row")],
)
def test_too_few_rows(shop: Connection, limit: int, problem_type: str, word: str) -> None:
    call = "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', %s, %s)"
    with refused("22023", "train_data", word):
        one(shop, call, [f"SELECT * FROM shop LIMIT {limit}", problem_type])
    assert one(shop, call, ["SELECT * FROM shop LIMIT 2", problem_type]) == "public.q"


def test_an_error_while_the_target_is_looked_at(shop: Connection) -> None:
    with refused("22012", "train_data: division by zero"):
        one(shop, CREATE_Q, ["SELECT id, 1 / (id - 3) AS y FROM shop", None])


@pytest.mark.parametrize("problem_type", ["r", "m"])
def test_positive_label_of_no_binary_problem(shop: Connection, problem_type: str) -> None:
    call = "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop', %s, NULL, %s::jsonb)"
    with refused("22023", "positive_label is for binary classification"):
        one(shop, call, [problem_type, '{"positive_label": 1}'])
    assert one(shop, call, ["b", '{"positive_label": 1}']) == "public.q"


def test_odd_column_names(ann: Person) -> None:
    run(ann.connection, ('CREATE TABLE t ("select" int, "a ""b"" c" text, "温度" real, "Up" int, "x.y"'
                         ' int, "%s" int, y boolean)'), "INSERT INTO t (y) VALUES (true), (false)",
        "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', 't')")  # fmt: skip
    features = one(ann.connection, "SELECT features FROM kwdbml.show_training_pipeline('q')")
    assert [f["name"] for f in features] == ["select", 'a "b" c', "温度", "Up", "x.y", "%s"]
