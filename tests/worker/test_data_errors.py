"""A data query that fails: the job's error says which argument, what PostgreSQL says, which column, and the cure."""

from __future__ import annotations

import psycopg
import pytest

from kwdbml.cures import CURES
from tests.worker.conftest import Employ
from tests.worker.site import Site

#: Ann's functions with which her query goes wrong when it is read, and not before.
SETUP = """
CREATE TABLE texts AS SELECT n AS id, n::text AS x, n::text AS "Other x", n % 2 AS late FROM generate_series(1, 50) n;
CREATE TABLE notes (n int);
CREATE DOMAIN small AS float8 CHECK (VALUE < 5);
CREATE FUNCTION fails(n int, code text, told text DEFAULT 'so', hint text DEFAULT '') RETURNS float8
LANGUAGE plpgsql AS $$ BEGIN
    IF n < 30 THEN RETURN n; END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = told, HINT = hint;
END $$;
CREATE FUNCTION notes(n int) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN INSERT INTO notes VALUES (n); RETURN n; END $$;
CREATE FUNCTION deep(n int) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN RETURN deep(n + 1); END $$;
"""


@pytest.fixture
async def prepared(site: Site) -> Site:
    await site.as_ann.execute(SETUP)
    features = [{"name": "x", "type": "FLOAT"}, {"name": "Other x", "type": "INT"}]
    await site.pipeline("two", features=features)
    return site


BAD_CASTS = [
    pytest.param("UPDATE texts SET x = 'abc' WHERE id = 30", "x", "FLOAT", 'double precision: "abc"', id="no-number"),
    pytest.param("UPDATE texts SET x = '1e999' WHERE id = 30", "x", "FLOAT", '"1e999" is out of range', id="too-large"),
    pytest.param("UPDATE texts SET x = '' WHERE id = 30", "x", "FLOAT", 'double precision: ""', id="empty"),
    pytest.param(
        """UPDATE texts SET "Other x" = '1.5' WHERE id = 30""", "Other x", "INT", 'bigint: "1.5"', id="a-fraction"
    ),
    pytest.param(
        """UPDATE texts SET x = 'é"\n', "Other x" = 7e3 WHERE id = 30""", "x", "FLOAT", 'é" "', id="both-first-is-told"
    ),
    pytest.param(
        """ALTER TABLE texts ALTER "Other x" TYPE float8 USING "Other x"::float8 * 1e18""",
        "Other x", "INT", "bigint out of range", id="overflow",
    ),
]  # fmt: skip


@pytest.mark.parametrize("data", ["texts", "SELECT n.* FROM texts n, (SELECT 1) q ORDER BY n.id -- the end"])
@pytest.mark.parametrize(("change", "column", "wanted", "said"), BAD_CASTS)
async def test_a_cast_that_fails_names_its_column(
    prepared: Site, employ: Employ, data: str, change: str, column: str, wanted: str, said: str
) -> None:
    await prepared.as_ann.execute(change.encode())
    await employ()
    error = await prepared.failed(await prepared.train(data, pipeline="two"))
    assert error["message"].startswith(f'train_data: column "{column}" cannot be read as {wanted}: ')
    assert said in error["message"]
    assert error["message"].endswith(f"({CURES['22']})")
    assert set(error) == {"type", "message", "step", "traceback"}


@pytest.mark.parametrize("data", ["texts", "SELECT n.* FROM texts n, (SELECT 1) q ORDER BY n.id -- the end"])
async def test_casts_that_work(prepared: Site, employ: Employ, data: str) -> None:
    await employ()
    await prepared.succeeded(await prepared.train(data, pipeline="two"))


X_OF = [
    pytest.param("1.0 / (30 - id)", "22012", "division by zero", "22012", id="division"),
    pytest.param("ln(5 - id)", "2201E", "cannot take logarithm", "22", id="logarithm"),
    pytest.param("(id || 'k')::int", "22P02", 'integer: "1k"', "22", id="cast-of-the-query"),
    pytest.param("date_part('day', ('0' || id)::date)", "22007", "type date", "22", id="date"),
    pytest.param("date_part('day', ('2026-02-' || id)::date)", "22008", "out of range", "22", id="no-such-day"),
    pytest.param("(SELECT x FROM trips)", "21000", "more than one row", "21", id="two-rows"),
    pytest.param("id::float8::small", "23514", "small_check", "23", id="domain"),
    pytest.param("notes(id)", "25006", "INSERT in a read-only transaction", "25", id="writing"),
    pytest.param("deep(id)", "54001", "stack depth limit", None, id="recursion"),
    pytest.param("current_setting('my.own')::float8", "42704", '"my.own"', "42704", id="setting"),
    pytest.param("fails(id, '2F002')", "2F002", "so", "2F", id="routine"),
    pytest.param("fails(id, 'P0001')", "P0001", "so", "P0", id="raised"),
    pytest.param("fails(id, 'P0001', 'so', 'do it')", "P0001", "so", "do it", id="raised-with-a-hint"),
    pytest.param("fails(id, '57014')", "57014", "so", "57014", id="timeout"),
    pytest.param("fails(id, '55000')", "55000", "so", "", id="as-if-fenced"),
    pytest.param("fails(id, '53100')", "53100", "so", "53", id="resources"),
    pytest.param("fails(id, '08006')", "08006", "so", "08", id="as-if-broken"),
    pytest.param("fails(id, 'U0001')", "U0001", "so", "", id="nobodys"),
]


@pytest.mark.parametrize(("x", "sqlstate", "said", "cure"), X_OF)
async def test_a_query_that_fails(
    prepared: Site, employ: Employ, x: str, sqlstate: str, said: str, cure: str | None
) -> None:
    await employ()
    error = await prepared.failed(await prepared.train(f"SELECT {x} AS x, late FROM trips"))
    assert error["message"].startswith("train_data: ")
    assert said in error["message"]
    assert "column" not in error["message"].split(" (")[0]
    assert error["message"].endswith(")" if cure is None else f"({CURES.get(cure, cure)})")
    assert error["type"] == type_of(sqlstate)
    assert await prepared.rows("SELECT FROM notes") == []


def type_of(sqlstate: str) -> str:
    try:
        return psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "DatabaseError"


@pytest.mark.parametrize("x", ["fails(id % 10, 'P0001')", "ln(id)", "1.0 / nullif(30 - id, 0)", "id::text::int"])
async def test_a_query_that_does_not(prepared: Site, employ: Employ, x: str) -> None:
    await employ()
    await prepared.succeeded(await prepared.train(f"SELECT {x} AS x, late FROM trips"))


LATER = [
    pytest.param("DROP TABLE texts", "UndefinedTable", 'texts" does not exist', id="table"),
    pytest.param("ALTER TABLE texts DROP x", "UndefinedColumn", "q.x", id="column"),
    pytest.param("REVOKE ALL ON texts FROM CURRENT_USER", "InsufficientPrivilege", "texts", id="right"),
]


@pytest.mark.parametrize("data", ["texts", "SELECT * FROM texts"])
@pytest.mark.parametrize(("change", "kind", "said"), LATER)
async def test_what_is_gone_since_the_call(
    prepared: Site, employ: Employ, data: str, change: str, kind: str, said: str
) -> None:
    job = await prepared.train(data, pipeline="two")
    await prepared.as_ann.execute(change.encode())
    await employ()
    error = await prepared.failed(job)
    assert error["type"] == kind
    assert error["message"].startswith("train_data: ")
    assert said in error["message"]
    assert error["message"].endswith(".)"), "a cure"


@pytest.mark.parametrize("kind", ["EVALUATE", "BATCH_PREDICT"])
async def test_the_argument_is_named(prepared: Site, employ: Employ, kind: str) -> None:
    await prepared.model()
    data, argument = "SELECT fails(id, 'P0001') AS x, late FROM trips", "evaluate_data"
    if kind == "EVALUATE":
        job = await prepared.submit("SELECT kwdbml.evaluate_model('', 'm', NULL, %s, 'f1')", data)
    else:
        job, argument = await prepared.predict(data), "batch_data"
    await employ()
    assert (await prepared.failed(job))["message"] == f"{argument}: so ({CURES['P0']})"


async def test_what_a_function_says_is_bounded_and_clean(prepared: Site, employ: Employ) -> None:
    told = """E'say "what"\\nHINT:  \\x1b[31mno\\x01\\u202e\\ufffd' || repeat('long ', 20000)"""
    await employ()
    error = await prepared.failed(
        await prepared.train(f"SELECT fails(id, 'P0001', {told}, repeat('x', 100000)) AS x, late FROM trips")
    )
    message = error["message"]
    assert message.startswith('train_data: say "what" HINT: [31mno \ufffdlong long')
    assert len(message) < 5_000
    assert message.isprintable()


async def test_who_the_column_is_may_stay_unknown(prepared: Site, employ: Employ) -> None:
    """A value that is bad only the first time that it is read: its column is one of those that are cast."""
    await prepared.as_ann.execute(
        "CREATE FUNCTION word() RETURNS text LANGUAGE sql VOLATILE AS"
        " $$ SELECT CASE WHEN current_query() LIKE '%trace%' THEN '1' ELSE 'abc' END $$"
    )
    await employ()
    error = await prepared.failed(await prepared.train("SELECT word() AS x, late FROM trips"))
    assert error["message"].startswith('train_data: invalid input syntax for type double precision: "abc"; ')
    assert 'one of "x"' in error["message"]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("RETURN current_user", "the creator"),
        ("PERFORM set_config('role', 'none', true); RETURN 'nobody'", "cannot set parameter"),
        ("INSERT INTO notes VALUES (1); RETURN 'written'", "read-only transaction"),
    ],
)
async def test_looking_for_the_column_is_reading(prepared: Site, employ: Employ, does: str, said: str) -> None:
    """The second reading is as shut in as the first: what the query does then, it does as its creator, read only."""
    await prepared.as_ann.execute(
        "CREATE FUNCTION word() RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
        f" IF current_query() NOT LIKE '%trace%' THEN RETURN 'abc'; END IF; {does};"
        " EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$".encode()
    )
    await employ()
    error = await prepared.failed(await prepared.train("SELECT word() AS x, late FROM trips"))
    assert error["message"].startswith('train_data: column "x" cannot be read as FLOAT: ')
    assert (prepared.ann.name if said == "the creator" else said) in error["message"]
    assert await prepared.rows("SELECT FROM notes") == []
    left = "SELECT FROM pg_proc WHERE proname ~ '^_(stage|trace)_[0-9a-f]{32}$'"
    assert await prepared.rows(left) == []
