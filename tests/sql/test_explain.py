"""explain_train: what train_model would do, said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kwdbml
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

EXPLAIN = "SELECT * FROM kwdbml.explain_train(%s, %s)"
Told = list[tuple[Any, ...]]


def explain(connection: Connection, data: str = "shop", pipeline: str = "p") -> Told:
    return rows(connection, EXPLAIN, [pipeline, data])


def verdict(told: Told) -> str:
    assert told[0][0] == "verdict"
    return str(told[0][4])


def of(told: Told, item: str) -> Told:
    """(name, found, wanted, verdict, detail) of the rows of an item."""
    return [row[1:] for row in told if row[0] == item]


def declared(connection: Connection, features: str, target: str = '{"name": "y", "type": "int"}') -> None:
    """A pipeline "d" that declares these columns."""
    import_pipeline(connection, "d", input=features, output=target)


@pytest.mark.parametrize(
    "call",
    [
        "'p', 'shop'",
        "'public.p', 'public.shop'",
        "pipeline_name => 'p', train_data => 'shop'",
        "train_data => 'TABLE shop;', pipeline_name => 'p'",
        "'p', 'SELECT * FROM shop WHERE id > 3; -- most'",
        "'p', 'WITH s AS (SELECT * FROM shop) SELECT late, kind, amount FROM s'",
    ],
)
def test_every_form(shop: Connection, pipeline: str, call: str) -> None:
    assert one(shop, f"SELECT verdict FROM kwdbml.explain_train({call}) WHERE item = 'verdict'") == "accepted"
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []


def test_what_a_person_sees(shop: Connection, pipeline: str) -> None:
    run(shop, "ANALYZE shop")
    told = explain(shop)
    assert [t[1] for t in columns(shop, "kwdbml.explain_train('p', 'shop')")] == ["text"] * 6
    assert told == [
        ("verdict", "public.p", None, None, "accepted", "train_model would take it. No value has been read."),
        ("data set", "public.shop", "4 columns", "3 columns", "readable", ""),
        ("target", "late", "integer", "INT", "as it is", ""),
        ("feature", "amount", "double precision", "FLOAT", "as it is", ""),
        ("feature", "kind", "text", "STRING", "as it is", ""),
        ("column", "id", "bigint", None, "unused", ""),
        ("estimate", "rows", "30", None, "estimated", "PostgreSQL's estimate"),
        ("estimate", "bytes", told[7][2], None, "estimated", "of the columns that are read"),
        ("estimate", "seconds", None, None, "unknown", "no finished training of this pipeline among your jobs"),
    ]
    assert 30 * 12 <= int(told[7][2]) <= 30 * 20
    assert explain(shop) == told


@pytest.mark.parametrize(
    ("column_type", "wanted", "verdict_", "word"),
    [
        ("integer", "INT", "as it is", ""), ("boolean", "INT", "as it is", "true is 1"),
        ("real", "FLOAT", "as it is", ""), ("text", "STRING", "as it is", ""), ("uuid", "STRING", "as it is", ""),
        ("varchar(9)", "STRING", "as it is", ""), ("integer", "FLOAT", "cast", "double precision"),
        ("numeric(8,2)", "FLOAT", "cast", "double precision"), ("numeric", "INT", "cast", "rounded"),
        ("real", "INT", "cast", "NaN"), ("date", "FLOAT", "cast", "1970"), ("timestamptz", "FLOAT", "cast", "1970"),
        ("interval", "FLOAT", "cast", "seconds"), ("text", "FLOAT", "cast", "fails the job"),
        ("char(3)", "INT", "cast", "fails the job"), ("integer", "STRING", "cast", "text"),
        ("short", "INT", "cast", "fails the job"), ("date", "INT", "refused", "FLOAT"),
        ("uuid", "FLOAT", "refused", "STRING"), ("jsonb", "STRING", "refused", "cannot be read at all"),
        ("integer[]", "FLOAT", "refused", "cannot be read at all"), ("int4range", "INT", "refused", "at all"),
    ],
)  # fmt: skip
def test_how_a_column_is_read(ann: Person, column_type: str, wanted: str, verdict_: str, word: str) -> None:
    db = ann.connection
    run(db, "CREATE DOMAIN short AS varchar(3)", f"CREATE TABLE t (y integer, x {column_type})",
        "INSERT INTO t VALUES (1, NULL)")  # fmt: skip
    declared(db, f'{{"name": "x", "type": "{wanted}"}}')
    told = explain(db, "t", "d")
    (row,) = of(told, "feature")
    shown = {"varchar(9)": "character varying(9)", "timestamptz": "timestamp with time zone", "char(3)": "character(3)"}
    assert row[:4] == ("x", shown.get(column_type, column_type), wanted, verdict_)
    assert word in row[4]
    assert verdict(told) == ("refused" if verdict_ == "refused" else "accepted")
    train = "SELECT kwdbml.train_model('d', 'm', 't', true, true)"
    if verdict_ == "refused":
        with refused("22023", '"x"'):
            run(db, train)
    else:
        assert one(db, train)


def test_what_is_missing(shop: Connection, pipeline: str) -> None:
    told = explain(shop, 'SELECT amount AS "Amount", late FROM shop')
    assert told[0][4:] == ("refused", 'train_model would refuse it: "amount" is missing, "kind" is missing.')
    assert of(told, "feature") == [
        ("amount", None, "FLOAT", "missing", 'There is "Amount", but names are case-sensitive here.'),
        ("kind", None, "STRING", "missing", "Add it to the query."),
    ]
    assert of(told, "column") == [("Amount", "double precision", None, "unused", "")]
    assert of(told, "target")[0][3] == "as it is"
    with refused("22023", '"amount"', '"kind"'):
        run(shop, "SELECT kwdbml.train_model('p', 'm', 'SELECT amount AS \"Amount\", late FROM shop', true, true)")
    assert verdict(explain(shop, "SELECT 1 AS a")) == "refused"  # nothing of it is used


@pytest.mark.parametrize(
    ("name", "data", "sqlstate", "word"),
    [
        ("nope", "shop", "42704", "public.nope"), (None, "shop", "22004", "training pipeline"),
        ("a b", "shop", "22023", "a b"), ("p", None, "22004", "train_data"), ("p", "", "22023", "train_data"),
        ("p", "nothing", "42P01", "nothing"), ("p", "SELECT nope FROM shop", "42703", "nope"),
        ("p", "SELECT 1 AS a; SELECT 2", "22023", "more than one"), ("p", "DELETE FROM shop", "22023", "changes data"),
        ("p", "SELECT 1 AS a, 2 AS a", "22023", '"a"'), ("p", "SELECT * FROM shop FOR UPDATE", "22023", "locks"),
    ],
)  # fmt: skip
def test_what_raises_as_train_model_does(
    shop: Connection, pipeline: str, name: str | None, data: str | None, sqlstate: str, word: str
) -> None:
    for call in ("SELECT * FROM kwdbml.explain_train(%s, %s)", "SELECT kwdbml.train_model(%s, 'm', %s, true, true)"):
        with refused(sqlstate, word):
            rows(shop, call, [name, data])
    assert one(shop, "SELECT count(*) FROM shop") == 30


def test_who_may_ask(shop: Connection, pipeline: str, bob: Person, db: Connection) -> None:
    run(shop, "GRANT SELECT ON shop TO public")
    with refused("42704", "no such training pipeline"):
        explain(bob.connection)
    grant_pipeline(db, bob.name, "SELECT")
    with refused("42501", "public.p", hint="TRAIN"):
        explain(bob.connection)
    grant_pipeline(db, bob.name, "TRAIN")
    assert verdict(explain(bob.connection)) == "accepted"
    run(shop, "REVOKE SELECT ON shop FROM public")
    for data in ("shop", "SELECT * FROM shop"):
        with refused("42501", "shop"):
            explain(bob.connection, data)


def test_a_view_whose_owner_lacks_a_right(shop: Connection, pipeline: str, bob: Person) -> None:
    run(shop, "GRANT SELECT ON shop TO public")
    run(bob.connection, "CREATE VIEW seen AS SELECT * FROM shop", "GRANT SELECT ON seen TO public")
    assert verdict(explain(shop, "seen")) == "accepted"
    run(shop, "REVOKE SELECT ON shop FROM public")
    told = explain(shop, "seen")
    assert told[0][4:] == (
        "would fail", "train_model would take it, the job would fail: permission denied for table shop."
    )  # fmt: skip
    assert of(told, "data set")[0][3:] == ("not readable", "permission denied for table shop")
    assert of(told, "estimate") == []


def test_a_view_that_the_planner_cannot_plan(shop: Connection, pipeline: str) -> None:
    run(shop, "CREATE VIEW broken AS SELECT amount, kind, 1 / 0 AS late FROM shop")
    assert explain(shop, "broken")[0][4:] == (
        "would fail", "train_model would take it, the job would fail: division by zero."
    )  # fmt: skip


def test_a_materialized_view_without_content(shop: Connection, pipeline: str) -> None:
    run(shop, "CREATE MATERIALIZED VIEW kept AS SELECT * FROM shop WITH NO DATA")
    assert verdict(told := explain(shop, "kept")) == "would fail"
    assert 'materialized view "kept" has not been populated' in told[0][5]
    with refused("55000", '"kept" has not been populated', hint="REFRESH"):
        explain(shop, "SELECT s.* FROM shop s JOIN kept USING (id)")
    run(shop, "REFRESH MATERIALIZED VIEW kept")
    assert verdict(explain(shop, "kept")) == "accepted"


def test_a_schema_that_is_not_ones_own(shop: Connection, pipeline: str, db: Connection) -> None:
    run(db, "CREATE SCHEMA closed", "CREATE TABLE closed.t AS SELECT * FROM public.shop",
        "GRANT SELECT ON closed.t TO public")  # fmt: skip
    for data in ("closed.t", "SELECT * FROM closed.t", "SELECT t.* FROM closed.t"):
        with refused("42501", "train_data: permission denied for schema closed", hint="SELECT on each"):
            explain(shop, data)
    run(db, "GRANT USAGE ON SCHEMA closed TO public")
    assert verdict(explain(shop, "closed.t")) == "accepted"


def test_past_trainings_are_found_by_their_index(shop: Connection, pipeline: str, db: Connection, ann: Person) -> None:
    """Whether a person has thousands with this pipeline, or thousands with another and none with this one."""
    run(shop, "SELECT kwdbml.create_training_pipeline('fresh', 'random_forest', 'late', 'shop')")
    run(
        db,
        "INSERT INTO kwdbml.job (type, status, model_name, creator, finished, data_query, data_columns, rows_read,"
        " pipeline_hash) SELECT 'TRAIN', 'SUCCEEDED', 'public.m', p.creator, now(), 'SELECT 1', '[]', 10, content_hash"
        " FROM kwdbml.pipeline p, generate_series(1, 3000) WHERE p.name = 'p'",
        "ANALYZE kwdbml.job",
    )
    source = (Path(str(kwdbml.__file__)).parent / "plpy" / "queries.sql").read_text(encoding="utf-8")
    statement = source.split("-- name: past_trainings(text)\n")[1].split("-- name:")[0]
    run(shop, f"PREPARE past(text) AS {statement}", "SET plan_cache_mode = force_generic_plan")
    for name in ("p", "fresh"):
        pipeline_id = one(shop, "SELECT id::text FROM kwdbml.pipeline WHERE name = %s", [name])
        plan = "\n".join(row[0] for row in rows(shop, f"EXPLAIN EXECUTE past('{pipeline_id}')"))
        assert "Index Scan using job_trained" in plan, plan
        assert "Index Cond: ((creator = CURRENT_USER) AND (pipeline_hash = " in plan, plan


def test_a_wide_table_and_odd_names(ann: Person) -> None:
    names = [f"c{n}" for n in range(1590)] + ["select", 'a "b" c', "温度", "Up", "x.y", "%s", "$1", "a'; --"]
    quoted = ", ".join('"' + n.replace('"', '""') + '" real' for n in names)
    run(ann.connection, f"CREATE TABLE t ({quoted}, y boolean)", "INSERT INTO t (y) VALUES (true), (false)",
        "SELECT kwdbml.create_training_pipeline('q', 'random_forest', 'y', 't')")  # fmt: skip
    told = explain(ann.connection, "t", "q")
    assert verdict(told) == "accepted"
    assert [row[0] for row in of(told, "feature")] == names
    assert {row[3] for row in of(told, "feature")} == {"as it is"}
    assert of(told, "target") == [("y", "boolean", "BOOL", "as it is", "")]
    few = explain(ann.connection, 'SELECT c0, "a ""b"" c", y FROM t', "q")
    assert "and 1591 more" in few[0][5]


POLICIES = {"session_user": 1, "current_user": 0, "'SESSION_USER'::text": 0}


@pytest.mark.parametrize(("who", "warnings"), POLICIES.items())
def test_a_policy_behind_a_view_that_asks_for_session_user(
    shop: Connection, pipeline: str, bob: Person, who: str, warnings: int
) -> None:
    run(shop, "CREATE VIEW seen AS SELECT * FROM shop", "ALTER TABLE shop ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE shop FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY mine ON shop USING (kind IS DISTINCT FROM {who})")  # fmt: skip
    for data in ("seen", "shop", "SELECT s.* FROM seen s JOIN shop USING (id)"):
        told = explain(shop, data)
        assert verdict(told) == "accepted"
        assert [row[0] for row in of(told, "warning")] == ["session_user"] * warnings


@pytest.mark.parametrize("data", ["SELECT late, amount, session_user::text AS kind FROM shop", "who"])
def test_a_query_or_view_that_asks_for_session_user(shop: Connection, pipeline: str, data: str) -> None:
    run(shop, "CREATE VIEW who AS SELECT * FROM shop WHERE kind <> session_user")
    assert [row[0] for row in of(explain(shop, data), "warning")] == ["session_user"]


@pytest.mark.parametrize("data", ["empty", "SELECT * FROM empty WHERE amount > 0", "SELECT * FROM shop WHERE false"])
def test_no_rows(shop: Connection, pipeline: str, data: str) -> None:
    run(shop, "CREATE TABLE empty (LIKE shop)")
    told = explain(shop, data)
    assert told[0][4:] == (
        "would fail", "train_model would take it, the job would fail: the data set has no rows."
    )  # fmt: skip
    assert [row[1] for row in of(told, "estimate")] == ["0", "0", None]
    assert [row[0] for row in of(told, "warning")] == ["rows"]
    run(shop, "INSERT INTO empty SELECT * FROM shop")
    assert verdict(explain(shop, "empty")) == "accepted"


def test_a_table_that_was_never_analyzed(shop: Connection, pipeline: str) -> None:
    run(shop, "ALTER TABLE shop SET (autovacuum_enabled = off)")
    assert "never analyzed: shop" in of(explain(shop), "estimate")[0][4]
    run(shop, "ANALYZE shop")
    assert "never analyzed" not in of(explain(shop), "estimate")[0][4]


def test_nothing_of_the_query_runs(shop: Connection, pipeline: str) -> None:
    """What would fail in the job is not found out, because nothing is executed: also what would change something."""
    run(shop, "CREATE TABLE canary (n int)",
        "CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql VOLATILE AS"
        " $$ BEGIN INSERT INTO canary VALUES (1); RETURN 1; END $$")  # fmt: skip
    for data in ("SELECT id, amount, kind, 1 / (id - 3) AS late FROM shop", "SELECT *, evil() AS e FROM shop",
                 "SELECT s.* FROM shop s, evil() WHERE evil() = 1",
                 "SELECT s.* FROM shop s, (SELECT pg_sleep(3600)) z"):  # fmt: skip
        assert verdict(explain(shop, data)) == "accepted"
    assert one(shop, "SELECT count(*) FROM canary") == 0
    run(shop, "SELECT *, evil() AS e FROM shop LIMIT 1")
    assert one(shop, "SELECT count(*) FROM canary") == 1


def test_in_a_transaction_that_only_reads(shop: Connection, pipeline: str) -> None:
    with shop.transaction():
        run(shop, "SET TRANSACTION READ ONLY")
        assert verdict(explain(shop)) == "accepted"


def test_seconds_from_past_jobs(shop: Connection, model: str, db: Connection, worker: Worker, bob: Person) -> None:
    """The median of the caller's own, by pipeline content, scaled by rows."""
    for _ in range(2):
        worker.finish_training(one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, false)"))
    run(shop, "ANALYZE shop")
    # one was quick, one slow, and the median is 2 s for 10 rows
    run(db, "UPDATE kwdbml.job SET rows_read = 10", "UPDATE kwdbml.attempt a SET started = j.finished - s.took"
        " FROM (SELECT *, ('{1 s,2 s,99 s}'::interval[])[row_number() OVER (ORDER BY created)] AS took"
        " FROM kwdbml.job) s, kwdbml.job j WHERE j.id = a.job_id AND s.id = j.id")  # fmt: skip
    assert of(explain(shop), "estimate")[2] == (
        "seconds", "6.0", None, "estimated",
        "median of your last 3 trainings with this pipeline, of 10 rows, scaled by rows",
    )  # fmt: skip
    run(shop, "SELECT kwdbml.create_training_pipeline('same', 'logistic_regression', 'late', 'shop',"
              " features => ARRAY['amount', 'kind'])",
              "SELECT kwdbml.create_training_pipeline('other', 'random_forest', 'late', 'shop')",
              "GRANT SELECT ON shop TO public")  # fmt: skip
    assert of(explain(shop, pipeline="same"), "estimate")[2][1] == "6.0"
    assert of(explain(shop, pipeline="other"), "estimate")[2][1] is None
    grant_pipeline(db, bob.name, "TRAIN")
    assert of(explain(bob.connection), "estimate")[2][1:4] == (None, None, "unknown")  # they are ann's
