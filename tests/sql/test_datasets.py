"""What a data set argument may be: relations in every spelling, one query in every form; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sql.support import Connection, Person, Worker, one, refused, rows, run

CREATE = "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', %s)"


def described(connection: Connection, data: str | None) -> list[str]:
    """The features that a pipeline reads off the data."""
    one(connection, CREATE, [data])
    features: Any = one(connection, "SELECT features FROM kwdbml.show_training_pipeline('q')")
    return [f["name"] for f in features]


@pytest.fixture
def things(ann: Person, db: Connection, database: str) -> Connection:
    """Relations of every kind with x integer, y boolean, and three rows."""
    run(db, f'CREATE SCHEMA lab AUTHORIZATION "{ann.name}"', f'CREATE SCHEMA "Lab" AUTHORIZATION "{ann.name}"')
    run(
        ann.connection,
        "CREATE TABLE t AS SELECT n AS x, n > 1 AS y FROM generate_series(1, 3) AS n",
        'CREATE TABLE "T t" AS TABLE t', 'CREATE TABLE "q""q" AS TABLE t', 'CREATE TABLE "order" AS TABLE t',
        'CREATE TABLE "表" AS TABLE t', "CREATE TABLE lab.only_here AS TABLE t", 'CREATE TABLE "Lab".t AS TABLE t',
        "CREATE VIEW v AS TABLE t", "CREATE MATERIALIZED VIEW mv AS TABLE t",
        "CREATE TABLE parts (x int, y boolean) PARTITION BY LIST (y)",
        "CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (true)",
        "CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (false)", "INSERT INTO parts TABLE t",
        "CREATE UNLOGGED TABLE u AS TABLE t",
        "CREATE FUNCTION pairs() RETURNS TABLE (x int, y boolean) LANGUAGE sql AS 'TABLE t'",
    )  # fmt: skip
    return ann.connection


RELATIONS = [
    "t", "T", " t ", '"t"', '"T t"', '"q""q"', "order", '"order"', "表", "lab.only_here", "LAB.only_here",
    'lab."only_here"',
    '"Lab".t', "public.t", "{db}.public.t", "{db}.t", "{db} . public . t", "v", "mv", "parts", "part1", "u",
]  # fmt: skip
QUERIES = [
    "SELECT * FROM t", "select x, y from t", "SELECT * FROM t;", "SELECT * FROM t ; ; ", "(SELECT * FROM t)",
    "((SELECT * FROM t))", "(SELECT * FROM t) UNION ALL (SELECT * FROM t)", "TABLE t", "table t;",
    "VALUES (1, true), (2, false)", "WITH w AS (SELECT * FROM t) SELECT * FROM w",
    "WITH RECURSIVE w(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM w WHERE x < 5) SELECT x, x > 2 AS y FROM w",
    "-- all of it\nSELECT * FROM t -- really", "/* a /* nested */ one; */ SELECT * FROM t /* ; */",
    "SELECT x, y FROM t WHERE ';' <> '--' AND $$;$$ <> $a$;$a$ AND E'\\';' <> '/*'",
    'SELECT x AS ";", x, y FROM t', "SELECT * FROM t ORDER BY x DESC LIMIT 2", "SELECT * FROM pairs()",
    "SELECT * FROM generate_series(1, 3) AS x, LATERAL (SELECT x > 1) AS l(y)",
    "SELECT x, y FROM t GROUP BY GROUPING SETS ((x, y), (y))", "SELECT a.x, b.y FROM t a JOIN t b USING (x)",
    ("SELECT x, y FROM t TABLESAMPLE BERNOULLI (50) REPEATABLE"
     " (1)"), "SELECT x, y FROM ONLY t", "SELECT * FROM {db}.public.t",
    "SELECT x, y FROM t WHERE x % 2 = 0 AND y::text LIKE '%%'", "SELECT x, 'SELECT 1; DROP TABLE t' = '' AS y FROM t",
]  # fmt: skip


@pytest.mark.parametrize("data", RELATIONS + QUERIES)
def test_what_is_taken(things: Connection, database: str, data: str) -> None:
    text = data.replace("{db}", database)
    if data.startswith("VALUES"):
        things.execute("SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'column2', %s)", [text])
        return
    described(things, "t")
    assert one(things, "SELECT kwdbml.train_model('q', 'm', %s, true, true)", [text])


@pytest.mark.parametrize("data", [d for d in RELATIONS + QUERIES if not d.startswith("VALUES")])
def test_what_is_taken_is_read(things: Connection, worker: Worker, database: str, data: str, tmp_path: Path) -> None:
    """Through the worker, with the caller's search_path."""
    text = data.replace("{db}", database)
    expected = one(things, f"SELECT count(*) FROM ({text.rstrip('; ')}\n) AS d") if data in QUERIES else None
    described(things, "t")
    one(things, "SELECT kwdbml.train_model('q', 'm', %s, true, true)", [text])
    _, table = worker.stage(worker.claim(), tmp_path / "data.arrow")
    if "TABLESAMPLE" not in data:
        assert table.num_rows == (expected if expected is not None else 2 if data == "part1" else 3)


@pytest.mark.parametrize(
    ("data", "sqlstate", "word"),
    [
        ("SELECT 1 AS x, true AS y; SELECT 2", "22023", "more than one statement"),
        ("TABLE t; DROP TABLE t", "22023", "more than one statement"),
        ("SELECT * FROM t); DROP TABLE t; SELECT * FROM (SELECT 1", "22023", "more than one statement"),
        ("SELECT * FROM t) AS a, (SELECT 1", "22023", "syntax error"),
        ("SELECT * FROM t --\n) AS x; DROP TABLE t --", "22023", "more than one statement"),
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "22023", "changes data"),
        ("WITH d AS (INSERT INTO t VALUES (1, true) RETURNING *) SELECT * FROM d", "22023", "changes data"),
        (
            "WITH a AS (WITH d AS (UPDATE t SET x = 1 RETURNING *) SELECT * FROM d) SELECT * FROM a",
            "22023",
            "data-modifying",
        ),
        ("SELECT * INTO other FROM t", "22023", "INTO"),
        ("CREATE TABLE other AS TABLE t", "22023", "CREATE"),
        ("SELECT * FROM t FOR UPDATE", "22023", "locks rows"),
        ("SELECT * FROM t FOR KEY SHARE", "22023", "locks rows"),
        ("SELECT * FROM (SELECT * FROM t FOR SHARE) AS s", "22023", "locks rows"),
        ("SHOW ALL", "22023", "SHOW"),
        ("EXPLAIN SELECT * FROM t", "22023", "EXPLAIN"),
        ("INSERT INTO t VALUES (1, true) RETURNING *", "22023", "changes data"),
        ("UPDATE t SET x = 1 RETURNING *", "22023", "changes data"),
        ("DELETE FROM t RETURNING *", "22023", "changes data"),
        ("DROP TABLE t", "22023", "DROP"),
        ("COPY t TO PROGRAM 'id'", "22023", "COPY"),
        ("SET ROLE postgres", "22023", "SET"),
        ("DO $$BEGIN END$$", "22023", "DO"),
        ("CALL pairs()", "22023", "CALL"),
        ("ANALYZE SELECT * FROM t", "22023", "query"),
        ("(ANALYZE) SELECT * FROM t", "22023", "query"),
        ("ANALYZE DELETE FROM t", "22023", "query"),
        ("hello world", "22023", "hello"),
        ("SELEC * FROM t", "22023", "SELEC"),
        ("", "22023", "empty"),
        (" \n ", "22023", "empty"),
        ("-- nothing", "22023", "train_data"),
        (";", "22023", "train_data"),
        (None, "22004", "train_data"),
        ("nothing", "42P01", "nothing"),
        ("lab.nothing", "42P01", "lab.nothing"),
        ("nowhere.t", "42P01", "nowhere.t"),
        ("other.public.t", "22023", "other.public.t"),
        ("t_x_seq", "22023", "t_x_seq"),
        ("t_index", "22023", "t_index"),
        ("temporary", "22023", "temporary"),
        ("SELECT * FROM temporary", "22023", "temporary"),
        ("SELECT x, y FROM temporary JOIN t USING (x, y)", "22023", "temporary"),
        ("SELECT x, y FROM t WHERE x IN (SELECT x FROM temporary)", "22023", "temporary"),
        ("tempview", "22023", "tempview"),
        ("SELECT 1 AS x, 2 AS x, true AS y", "22023", '"x"'),
        ("SELECT a.*, b.* FROM t a, t b", "22023", '"x"'),
        ("SELECT", "42P01", "select"),
        ("SELECT FROM t", "22023", "columns"),
    ],
)
def test_what_is_refused(things: Connection, data: str | None, sqlstate: str, word: str) -> None:
    run(
        things, "CREATE SEQUENCE t_x_seq", "CREATE INDEX t_index ON t (x)", "CREATE TEMP TABLE temporary AS TABLE t",
        "CREATE TEMP VIEW tempview AS TABLE temporary",
    )  # fmt: skip
    with refused(sqlstate, word):
        one(things, CREATE, [data])
    assert one(things, "SELECT count(*) FROM t") == 3
    assert one(things, "SELECT to_regclass('other')") is None


@pytest.mark.parametrize(
    ("data", "sqlstate", "word"),
    [
        ("SELECT nope FROM t", "42703", "nope"),
        ("SELECT * FROM nope AS n WHERE x = 1", "42P01", "nope"),
        ("SELECT nope(x) AS x, y FROM t", "42883", "nope"),
        ("SELECT x + 'a' AS x, y FROM t", "22P02", "a"),
    ],
)
def test_what_postgresql_says_of_a_query_passes_through(
    things: Connection, data: str, sqlstate: str, word: str
) -> None:
    with refused(sqlstate, word, hint=False):
        one(things, CREATE, [data])


def test_nothing_of_a_query_runs_at_the_call(things: Connection) -> None:
    run(
        things, "CREATE SEQUENCE called",
        ("CREATE FUNCTION evil(i int) RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM"
         " nextval('called'); RETURN i; END$$"),
    )  # fmt: skip
    described(things, "t")
    one(things, "SELECT kwdbml.train_model('q', 'm', 'SELECT evil(x) AS x, y FROM t WHERE evil(x) > 0', true, true)")
    assert one(things, "SELECT is_called FROM called") is False


def test_the_row_says_what_is_read(things: Connection) -> None:
    described(things, "t")
    for data in ("t", "SELECT * FROM t", "TABLE public.t;", "SELECT x, y FROM t;"):
        one(things, "SELECT kwdbml.train_model('q', 'm', %s, true, true)", [data])
    found = rows(things, "SELECT data_relation, data_query, data_columns FROM kwdbml.job ORDER BY created")
    assert [r[0] for r in found] == ["public.t"] * 3 + [None]
    assert found[3][1] == "SELECT x, y FROM t"
    assert [(c["name"], c["type"]) for c in found[3][2]] == [("x", "integer"), ("y", "boolean")]
    assert json.dumps(found[0][2]) == json.dumps(found[3][2])


def test_a_foreign_table(
    things: Connection, db: Connection, ann: Person, dsn: str, worker: Worker, tmp_path: Path
) -> None:
    from psycopg.conninfo import conninfo_to_dict

    where = conninfo_to_dict(dsn)
    run(
        db, "CREATE EXTENSION postgres_fdw",
        f"CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{where['port']}',"
        f" dbname '{where['dbname']}')",
        (f"CREATE USER MAPPING FOR \"{ann.name}\" SERVER itself OPTIONS (user '{ann.name}', password"
         f" '{ann.role.password}')"),
        f'GRANT USAGE ON FOREIGN SERVER itself TO "{ann.name}"',
    )  # fmt: skip
    run(things, "CREATE FOREIGN TABLE far (x int, y boolean) SERVER itself OPTIONS (table_name 't')")
    assert described(things, "far") == ["x"]
    one(things, "SELECT kwdbml.train_model('q', 'm', 'far', true, true)")
    assert worker.stage(worker.claim(), tmp_path / "data.arrow")[1].num_rows == 3
