"""Which table a prediction goes to, and what may happen to it between the call and the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from kwdbml.engines.fake import FakeWorld
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import Site


@pytest.fixture
async def site(site: Site) -> Site:
    """With a model whose target the data set lacks."""
    await site.model(target=[{"name": "y", "type": "INT"}])
    return site


async def _columns(site: Site, table: str = "answers") -> list[str]:
    found = await site.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum", table
    )
    return [r[0] for r in found]


@pytest.mark.parametrize(
    ("data", "target", "wanted"),
    [
        ("SELECT 1.0::float8 AS x", ["y"], ["x", "y"]),
        ("SELECT 1.0::float8 AS x, 1 AS y", ["y"], ["x", "y", "prediction"]),
        ("SELECT 1.0::float8 AS x, 1 AS y, 2 AS prediction", ["y"], ["x", "y", "prediction", "prediction_y"]),
        ("SELECT 1.0::float8 AS x, 1 AS y", ["y", "z"], ["x", "y", "prediction_y", "z"]),
        ("SELECT 1.0::float8 AS x", ["y", "z"], ["x", "y", "z"]),
    ],
)
async def test_the_prediction_columns_name(
    site: Site, employ: Employ, data: str, target: Sequence[str], wanted: list[str]
) -> None:
    kinds: list[Mapping[str, str]] = [{"name": name, "type": "INT"} for name in target]
    await site.model("named", target=kinds)
    await employ()
    await site.succeeded(await site.predict(data, model="named"))
    assert await _columns(site) == wanted


async def test_the_types_of_predictions(site: Site, employ: Employ) -> None:
    kinds = ["FLOAT", "INT", "STRING", "BOOL"]
    await site.model("all", target=[{"name": k.lower(), "type": k} for k in kinds])
    await employ()
    await site.succeeded(await site.predict("SELECT 1.0::float8 AS x", model="all"))
    found = await site.row('SELECT "float", "int", "string", bool FROM answers')
    assert found == (0.5, 0, "label 0", True)


async def test_replace_deletes_and_append_adds(site: Site, employ: Employ) -> None:
    await employ()
    for action, rows in (("error", 50), ("append", 100), ("replace", 50), ("Append", 100)):
        await site.succeeded(await site.predict(action=action))
        assert await site.value("SELECT count(*) FROM answers") == rows


async def test_a_quoted_table_in_another_schema(site: Site, employ: Employ) -> None:
    await site.run('CREATE SCHEMA "My ""S"')
    await site.run('GRANT USAGE, CREATE ON SCHEMA "My ""S" TO PUBLIC')
    await employ()
    await site.succeeded(await site.predict(table='"My ""S"."My.T"'))
    assert await site.value('SELECT count(*) FROM "My ""S"."My.T"') == 50


MAKE = "CREATE TABLE answers (id int, x float8, late int, y bigint)"

#: what happens meanwhile, as whom ("db": the superuser), by which action: the error's type and a word of its message
MEANWHILE: dict[str, tuple[str, list[tuple[str, str]], str, str]] = {
    "created": ("error", [("ann", MAKE)], "DuplicateTable", "already exists"),
    "created by another": ("append", [("db", MAKE)], "InsufficientPrivilege", "permission denied for table"),
    "created as a view": (
        "append",
        [("ann", "CREATE VIEW answers AS SELECT 1 AS id")],
        "WrongObjectType",
        "not an ordinary table",
    ),
    "other shape": (
        "append",
        [("ann", "CREATE TABLE answers (id int, x float8, late int)")],
        "DatatypeMismatch",
        "lacks column y",
    ),
    "further column": (
        "append",
        [("ann", MAKE.replace("y bigint", "y bigint, z int"))],
        "DatatypeMismatch",
        "further column z",
    ),
    "trigger": (
        "append",
        [
            ("ann", MAKE),
            ("ann", "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$"),
            ("ann", "CREATE TRIGGER evil AFTER INSERT ON answers EXECUTE FUNCTION evil()"),
        ],
        "WrongObjectType",
        "triggers",
    ),
    "check": ("append", [("ann", MAKE.replace("x float8", "x float8 CHECK (x > 0)"))], "WrongObjectType", "CHECK"),
    "row security": (
        "append",
        [("ann", MAKE), ("ann", "ALTER TABLE answers ENABLE ROW LEVEL SECURITY")],
        "WrongObjectType",
        "row-level",
    ),
    "schema gone": (
        "error",
        [("db", "ALTER SCHEMA public RENAME TO elsewhere")],
        "InvalidSchemaName",
        "does not exist",
    ),
    "create revoked": (
        "error",
        [("db", "REVOKE CREATE ON SCHEMA public FROM {ann}")],
        "InsufficientPrivilege",
        "permission denied to create",
    ),
}


@pytest.mark.parametrize("case", list(MEANWHILE))
async def test_meanwhile_the_table_is(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    action, statements, kind, word = MEANWHILE[case]
    held = plays.Held()
    world.script = held
    await employ()
    job = await site.predict(action=action)
    await held.at.wait()
    for who, statement in statements:
        query = statement.format(ann=site.ann.name).encode()
        await (site.db if who == "db" else site.as_ann).execute(query)
    held.go.set()
    error = await site.failed(job)
    assert (error["type"], word in error["message"]) == (kind, True), error


async def test_a_table_that_was_dropped_meanwhile_is_made(site: Site, employ: Employ, world: FakeWorld) -> None:
    held = plays.Held()
    world.script = held
    await site.as_ann.execute(MAKE.encode())
    await employ()
    job = await site.predict(action="append")
    await held.at.wait()
    await site.as_ann.execute("DROP TABLE answers")
    held.go.set()
    await site.succeeded(job)
    assert await site.value("SELECT count(*) FROM answers") == 50


async def test_a_failed_prediction_leaves_the_old_rows(site: Site, employ: Employ, world: FakeWorld) -> None:
    await site.as_ann.execute((MAKE + "; INSERT INTO answers VALUES (7, 7, 7, 7)").encode())
    world.script = plays.fail
    await employ()
    await site.failed(await site.predict(action="replace"))
    assert await site.rows("SELECT id FROM answers") == [(7,)]


async def test_columns_in_another_order_are_filled_by_name(site: Site, employ: Employ) -> None:
    await site.as_ann.execute("CREATE TABLE answers (y bigint, late int, id int, x float8)")
    await employ()
    await site.succeeded(await site.predict(action="append"))
    same = "SELECT count(*) FROM answers a JOIN trips t USING (id, x, late) WHERE a.y = t.id - 1"
    assert await site.value(same) == 50
