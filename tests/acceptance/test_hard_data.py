"""Data at the edges, and a server that restarts, through the real worker and sandbox."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from tests.acceptance.conftest import Serve
from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole
from tests.fixtures.server import MakeServer


def ended(ann: psycopg.Connection[Any], call: str) -> tuple[str, Any, Any]:
    """(status, error, result) of a job, waited for."""
    row = ann.execute(f"SELECT kwdbml.{call}".encode()).fetchone()
    assert row is not None
    ann.execute("SELECT kwdbml.wait_job(%s, '120 s')", [row[0]])
    found = ann.execute("SELECT status, error, result FROM kwdbml.show_job(%s)", [row[0]]).fetchone()
    assert found is not None
    return cast("tuple[str, Any, Any]", found)


def test_1600_columns_train_but_are_too_wide_to_write_back(serve: Serve, role: MakeRole) -> None:
    serve()
    ann = role("ann", create_on=["public"]).connect()
    features = ", ".join(f"((n * {k}) % 7)::real AS c{k}" for k in range(1, 1600))
    ann.execute(f"CREATE TABLE wide AS SELECT n % 2 = 0 AS y, {features} FROM generate_series(1, 300) AS n".encode())
    ann.execute("SELECT kwdbml.create_training_pipeline('p', 'lightgbm', 'y', 'wide')")
    for data in ("wide", "SELECT * FROM wide WHERE true"):
        assert ended(ann, f"train_model('p', 'm', '{data}', true, true)")[0] == "SUCCEEDED"
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=r"1601 columns, a table holds 1600"):
        ann.execute("SELECT kwdbml.batch_predict('m', NULL, 'wide', 'out', 'error')")
    ann.execute("ALTER TABLE wide DROP COLUMN y")
    status, error, result = ended(ann, "batch_predict('m', NULL, 'wide', 'out', 'error')")
    assert (status, error, result["rows"]) == ("SUCCEEDED", None, 300)


def test_nan_and_infinity(serve: Serve, role: MakeRole) -> None:
    serve()
    ann = role("ann", create_on=["public"]).connect()
    ann.execute(
        "CREATE TABLE odd AS SELECT CASE n % 5 WHEN 0 THEN float8 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-Infinity'"
        " ELSE n END AS x, n AS z, CASE WHEN n % 50 = 0 THEN float8 'NaN' ELSE 2.0 * n END AS y"
        " FROM generate_series(1, 500) AS n"
    )
    ann.execute("SELECT kwdbml.create_training_pipeline('p', 'linear_regression', 'y', 'odd')")
    assert ended(ann, "train_model('p', 'm', 'odd', true, true)")[0] == "SUCCEEDED"
    dropped = ann.execute("SELECT rows_read, rows_dropped FROM kwdbml.jobs").fetchone()
    assert dropped == (500, 10), "rows whose target is NaN"
    assert ended(ann, "batch_predict('m', NULL, 'odd', 'out', 'error')")[0] == "SUCCEEDED"
    same = "SELECT count(*) FROM (SELECT x, z FROM odd EXCEPT ALL SELECT x, z FROM out) AS d"
    assert ann.execute(same).fetchone() == (0,)


#: y and x of 60 rows → what the error says, and the cure that it ends in.
BAD = {
    "NULL::float8, n": ("the target y is NULL", "give rows in which the target has a value"),
    "3.5, n": ('the target "y" is 3.5 in all 60 rows of train_data', "give rows in which it differs"),
    "n, NULL::float8": ("no feature has a single value in train_data: x", "give rows or columns that have values"),
    "n, float8 'Infinity'": ("no feature has a single value in train_data: x", "give rows or columns that have values"),
    "n, CASE n WHEN 9 THEN 'nine' ELSE n::text END": ('column "x" cannot be read as FLOAT', "CASE or NULLIF.)"),
    "n, 1.0 / (n - 9)": ("train_data: division by zero", "Divide by nullif(…, 0) in the query.)"),
}


def test_bad_data_say_what_and_the_cure(serve: Serve, role: MakeRole) -> None:
    serve()
    ann = role("ann", create_on=["public"]).connect()
    ann.execute("CREATE TABLE good AS SELECT n::float8 AS y, n::float8 AS x FROM generate_series(1, 60) AS n")
    ann.execute("SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'y', 'good')")
    assert ended(ann, "train_model('p', 'm', 'good', true, true)")[0] == "SUCCEEDED"
    data = "SELECT v.* FROM generate_series(1, {}) AS n, LATERAL (SELECT {}) AS v(y, x)"
    call = f"train_model('p', 'm', $${data}$$, true, true)"
    for columns, (said, cure) in BAD.items():
        status, error, _ = ended(ann, call.format(60, columns))
        assert (status, said in error["message"], error["message"].endswith(cure)) == ("FAILED", True, True), error
    assert "train_data has no rows; " in ended(ann, call.format(0, "n, n"))[1]["message"]
    assert ann.execute("SELECT version FROM kwdbml.show_model('m')").fetchall() == [(1,)]


SLOW = """
def model_train(x_train, y_train, x_test, y_test):
    import time
    from sklearn.tree import DecisionTreeClassifier
    print("here we go", flush=True)
    time.sleep(4)
    return DecisionTreeClassifier().fit(x_train, y_train)
"""


def test_a_server_that_is_killed_while_a_job_runs(make_server: MakeServer, serve: Serve) -> None:
    """The run goes on without the database; the worker lands it, once, when the server is back."""
    server = make_server({"synchronous_commit": "on"})  # what is committed outlives a killed server
    with psycopg.connect(server.dsn(), autocommit=True) as root:
        root.execute("CREATE EXTENSION kwdbml CASCADE")
        root.execute("CREATE ROLE worker LOGIN PASSWORD 'w' IN ROLE kwdbml_worker")
        root.execute("CREATE ROLE ann LOGIN PASSWORD 'a'")
        root.execute("GRANT CREATE ON SCHEMA public TO ann")
    serve(dsn=server.dsn("postgres", "worker", "w"))
    ann = server.dsn("postgres", "ann", "a")
    with psycopg.connect(ann, autocommit=True) as before:
        before.execute("CREATE TABLE t AS SELECT n AS a, n % 2 AS y FROM generate_series(1, 200) AS n")
        before.execute(
            "SELECT kwdbml.import_training_pipeline('p', '', 'b', 'sklearn_1.3', 'python_3.10',"
            ' \'{"name": "a", "type": "INT"}\', \'{"name": "y", "type": "INT"}\', %s, NULL)',
            [zipped({"pipeline/train.py": SLOW})],
        )
        row = before.execute("SELECT kwdbml.train_model('p', 'm', 't', true, true)").fetchone()
        assert row is not None
        # the log is written by the worker: it follows the run
        before.execute(
            "DO $$ BEGIN SET LOCAL statement_timeout = '120s';"
            " WHILE NOT EXISTS (SELECT FROM kwdbml.job_log WHERE line = 'here we go') LOOP"
            " PERFORM pg_sleep(0.02); END LOOP; END $$"
        )
        server.kill()
    server.start()
    with psycopg.connect(ann, autocommit=True) as after:
        assert after.execute("SELECT kwdbml.wait_job(%s, '120 s')", [row[0]]).fetchone() == ("SUCCEEDED",)
        assert after.execute("SELECT attempt FROM kwdbml.jobs").fetchall() == [(1,)]
        assert after.execute("SELECT version FROM kwdbml.show_model('m')").fetchall() == [(1,)]
        printed = after.execute("SELECT count(*) FROM kwdbml.job_logs(%s) WHERE line = 'here we go'", [row[0]])
        assert printed.fetchone() == (1,)
