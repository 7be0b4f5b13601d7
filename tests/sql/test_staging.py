"""What staging reads: values, types, the caller's session, and when a table may be read the fast way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.sql.support import Connection, Person, Worker, one, refused, refused_staging, rows, run


def stage(ann: Person, worker: Worker, path: Path, data: str) -> Any:
    """(names by Arrow column, table) of a TRAIN job over the data, y the target."""
    one(ann.connection, "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'y', %s)", [data])
    one(ann.connection, "SELECT kwdbml.train_model('p', 'm', %s, true, true)", [data])
    columns, table = worker.stage(worker.claim(), path / "data.arrow")
    return {c["name"]: table[c["column"]] for c in columns}


VALUES = [
    ("true", "bool", True),
    ("7::smallint", "int16", 7),
    ("7", "int32", 7),
    ("7::bigint", "int64", 7),
    ("1.5::real", "float", 1.5),
    ("1.5::double precision", "double", 1.5),
    ("1.25::numeric(8,2)", "double", 1.25),
    ("'x'::text", "string", "x"),
    ("'x'::varchar(3)", "string", "x"),
    ("'x'::char(3)", "string", "x"),
    ("'00000000-0000-0000-0000-000000000001'::uuid", "string", "00000000-0000-0000-0000-000000000001"),
    ("date '1970-01-02'", "double", 86400.0),
    ("timestamp '1970-01-01 00:00:01.5'", "double", 1.5),
    ("timestamptz '1970-01-01 01:00:00+01'", "double", 0.0),
    ("interval '2 hours'", "double", 7200.0),
    ("NULL::integer", "int32", None),
    ("'NaN'::double precision", "double", "nan"),
    ("'infinity'::real", "float", float("inf")),
]


@pytest.mark.parametrize("materialised", [True, False])
@pytest.mark.parametrize(("expression", "arrow", "value"), VALUES)
def test_values(
    ann: Person, worker: Worker, tmp_path: Path, expression: str, arrow: str, value: object, materialised: bool
) -> None:
    data = f"SELECT {expression} AS x, n % 2 = 0 AS y FROM generate_series(1, 3) AS n"
    if materialised:
        run(ann.connection, f"CREATE TABLE t AS {data}")
        data = "t"
    x = stage(ann, worker, tmp_path, data)["x"]
    assert str(x.type).replace("large_", "") == arrow
    assert len(x) == 3
    assert (str(x[0].as_py()) if value == "nan" else x[0].as_py()) == value


def test_a_seeded_order_and_the_callers_time_zone(ann: Person, worker: Worker, tmp_path: Path) -> None:
    run(ann.connection, "SET TimeZone = 'Asia/Shanghai'", "SET DateStyle = 'SQL, DMY'")
    data = (
        "SELECT timestamptz '2024-01-01 00:00:00' AS t, '02/01/1970'::date AS d, n AS y FROM"
        " generate_series(1, 30) AS n"
    )
    one(ann.connection, "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'y', %s)", [data])
    one(ann.connection, "SELECT kwdbml.train_model('p', 'm', %s, true, true)", [data])
    columns, table = worker.stage(worker.claim(), tmp_path / "data.arrow")
    found = {c["name"]: table[c["column"]] for c in columns}
    assert found["d"][0].as_py() == 86400.0
    assert found["t"][0].as_py() == 1704038400.0  # midnight in Shanghai


def test_columns_are_found_by_name(ann: Person, worker: Worker, tmp_path: Path) -> None:
    run(ann.connection, 'CREATE TABLE t ("select" int, "a ""b""" int, "温度 %s" int, "UP" int, y int)',
        "INSERT INTO t VALUES (1, 2, 3, 4, 0), (1, 2, 3, 4, 1)",
        "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'y', 't')")  # fmt: skip
    for data in ("t", 'SELECT y, "UP", "温度 %s", "a ""b""", "select", 9 AS unused FROM t'):
        one(ann.connection, "SELECT kwdbml.train_model('p', 'm', %(data)s, true, true)", {"data": data})
        columns, table = worker.stage(worker.claim(), tmp_path / "data.arrow")
        first = {c["name"]: table[c["column"]][0].as_py() for c in columns}
        assert first == {"select": 1, 'a "b"': 2, "温度 %s": 3, "UP": 4, "y": 0}


def test_nothing_is_left(shop: Connection, job: str, worker: Worker, db: Connection, tmp_path: Path) -> None:
    count = "SELECT (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_type)"
    before = rows(db, count)
    held = worker.claim(job)
    for _ in range(2):  # reading again is harmless
        assert worker.stage(held, tmp_path / "data.arrow")[1].num_rows == 30
    assert rows(db, count) == before


PLAIN = "CREATE TABLE t (x int, y int)"
EVIL = "CREATE FUNCTION evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1; END $$"
SHAPES = [
    (["CREATE INDEX ON t (x)"], True),
    (["ALTER TABLE t ADD PRIMARY KEY (x)"], True),
    (["ALTER TABLE t ADD CHECK (evil(x) > 0)"], True),
    (["CREATE STATISTICS s ON x, y FROM t"], True),
    (["ALTER TABLE t ADD z int GENERATED ALWAYS AS (evil(x)) STORED"], True),
    (["CREATE INDEX ON t (evil(x))"], False),
    (["CREATE INDEX ON t (x) WHERE evil(x) > 0"], False),
    (["CREATE STATISTICS s ON evil(x), y FROM t"], False),
    (["ALTER TABLE t ENABLE ROW LEVEL SECURITY"], False),
    (["CREATE TABLE child () INHERITS (t)"], False),
    (["CREATE RULE r AS ON INSERT TO t DO ALSO SELECT evil(1)"], False),
    (["CREATE DOMAIN d AS int CHECK (evil(VALUE) > 0)", "ALTER TABLE t ALTER x TYPE d"], False),
    (["CREATE TYPE e AS ENUM ('a')", "ALTER TABLE t ALTER x TYPE e USING 'a'::e"], False),
    (["DROP TABLE t", "CREATE VIEW t AS SELECT evil(1) AS x, 1 AS y"], False),
    (["DROP TABLE t", "CREATE TABLE t (x int, y int) PARTITION BY LIST (x)"], False),
    (["ALTER TABLE t DROP x"], False),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "plain"), SHAPES)
def test_which_tables_are_read_the_fast_way(ann: Person, db: Connection, statements: list[str], plain: bool) -> None:
    run(ann.connection, PLAIN, EVIL, *statements)
    claimed = '[{"name": "x", "oid": 23}, {"name": "y", "oid": 23}]'
    assert one(db, "SELECT kwdbml._reads_plainly('public.t'::regclass, %s::jsonb)", [claimed]) is plain


def test_a_claimed_type_is_not_believed(ann: Person, db: Connection) -> None:
    """The columns in a job's row are what the creator says they are."""
    run(ann.connection, PLAIN)
    lie = '[{"name": "x", "oid": 25}]'
    assert one(db, "SELECT kwdbml._reads_plainly('public.t'::regclass, %s::jsonb)", [lie]) is False


def test_an_index_on_an_expression_does_not_run_as_the_worker(
    ann: Person, db: Connection, worker: Worker, tmp_path: Path
) -> None:
    """The planner folds an IMMUTABLE function of constants: as the worker, it would have read what is the worker's."""
    run(
        db,
        "CREATE TABLE calls (who name, really name)",
        "GRANT INSERT ON calls TO PUBLIC",
        "CREATE TABLE secret (x int)",
    )
    run(
        ann.connection, PLAIN, "INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 9) AS n",
        "CREATE FUNCTION evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN"
        f" IF current_user <> '{ann.name}' THEN RAISE 'ran as %', current_user USING ERRCODE ="
        " 'XX999'; END IF; RETURN $1; END $$",
        "CREATE INDEX ON t ((x + evil(1)))", "CREATE INDEX ON t (x) WHERE x > evil(0)",
    )  # fmt: skip
    assert len(stage(ann, worker, tmp_path, "t")["x"]) == 9


def test_made_evil_between_call_and_run(ann: Person, worker: Worker, tmp_path: Path) -> None:
    run(ann.connection, PLAIN, EVIL, "INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 9) AS n",
        "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'y', 't')",
        "SELECT kwdbml.train_model('p', 'm', 't', true, true)")  # fmt: skip
    run(ann.connection, "ALTER TABLE t RENAME TO real", "CREATE VIEW t AS SELECT evil(x) AS x, y FROM real")
    assert worker.stage(worker.claim(), tmp_path / "data.arrow")[1].num_rows == 9


@pytest.mark.parametrize("data", ["shop", "SELECT * FROM shop WHERE true"])
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("REVOKE SELECT ON shop FROM {bob}", "42501"),
        ("DROP TABLE shop", "42P01"),
        ("ALTER TABLE shop DROP COLUMN kind", "42703"),
        ("ALTER TABLE shop ALTER amount TYPE jsonb USING '{{}}'", "22023"),
    ],
)
def test_what_changes_between_call_and_run(
    shop: Connection,
    pipeline: str,
    bob: Person,
    worker: Worker,
    tmp_path: Path,
    data: str,
    statement: str,
    sqlstate: str,
) -> None:
    run(shop, f'GRANT SELECT ON shop TO "{bob.name}"')
    one(bob.connection, "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'late', 'shop')")
    one(bob.connection, "SELECT kwdbml.train_model('q', 'm', %s, true, true)", [data])
    run(shop, statement.format(bob=f'"{bob.name}"'))
    with refused_staging(sqlstate):
        worker.stage(worker.claim(), tmp_path / "data.arrow")


def test_a_table_that_is_locked_is_read_the_other_way(
    shop: Connection, job: str, worker: Worker, ann: Person, tmp_path: Path
) -> None:
    other = ann.role.connect(autocommit=False)
    run(other, "LOCK TABLE shop IN SHARE UPDATE EXCLUSIVE MODE")
    assert worker.stage(worker.claim(job), tmp_path / "data.arrow")[1].num_rows == 30


def test_only_with_the_token(job: str, worker: Worker) -> None:
    held = worker.claim(job)
    with refused("55000", job):
        one(worker.connection, "SELECT statement FROM kwdbml.worker_stage(%s, gen_random_uuid())", [held.job])
