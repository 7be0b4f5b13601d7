"""The result table holds exactly the values of the data set: byte for byte what their own send functions say."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from tests.worker.conftest import Employ
from tests.worker.site import Site

_DIGITS = "9" * 500 + "." + "1" * 500
#: type → values; NULL is tried with each.
VALUES: dict[str, list[str]] = {
    "bool": ["true", "false"],
    "int2": ["-32768", "32767", "0"],
    "int4": ["-2147483648", "2147483647"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "float4": ["0.1", "-0", "NaN", "Infinity", "1e-45"],
    "float8": ["0.1", "-0", "NaN", "-Infinity", "5e-324"],
    "numeric": [_DIGITS, "NaN", "Infinity", "-Infinity", "0.000", "-1e-300"],
    "numeric(12,4)": ["12345678.9000", "-0.0001"],
    "money": ["12345.67", "-0.01"],
    "text": ["", "a\tb\\N\n", "汉字 😀 \u0301", "\\N"],
    "varchar(7)": ["", "äöü"],
    "char(5)": ["ab", ""],
    '"char"': ["x"],
    "name": ["relname"],
    "bytea": ["", "\\x00ff0a5c", "\\xffff"],
    "date": ["infinity", "-infinity", "0044-03-15 BC", "2024-02-29", "5874897-12-31"],
    "time": ["24:00:00", "00:00:00.000001"],
    "timetz": ["12:00:00+15:59", "12:00:00-03"],
    "timestamp": ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999"],
    "timestamp(3)": ["2024-01-01 12:00:00.123"],
    "timestamptz": ["infinity", "-infinity", "2024-01-01 12:00:00.123456+05:30"],
    "interval": ["1 year -3 days 04:05:06.789", "-178000000 years", "0"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "json": ['{"b":1,  "a":2, "b":3}', '"\\u00e4"'],
    "jsonb": ['{"b":1,"a":[null,1e400]}', "null"],
    "xml": ["<a>b</a>"],
    "int4[]": ["{}", "{1,NULL,3}", "[5:6]={1,2}", "{{1,2},{3,4}}"],
    "text[]": ['{"",NULL,"NULL","a\\"b"}'],
    "numeric[]": ["{NaN,1.10}"],
    "float8[]": ["{-0,Infinity}"],
    "inet": ["10.0.0.1/8", "::ffff:1.2.3.4/128"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(5)": ["10101"],
    "varbit": ["", "101"],
    "point": ["(1,-0)"],
    "box": ["(1,2),(0,0)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "circle": ["<(0,0),5>"],
    "int4range": ["empty", "[1,5)", "(,)"],
    "numrange": ["(1.10,)"],
    "tstzrange": ["[-infinity,infinity]"],
    "int8multirange": ["{}", "{[1,3),[5,9)}"],
    "tsvector": ["'fat':2A 'rat':3", ""],
    "tsquery": ["'fat' & !'rat'"],
    "pg_lsn": ["16/B374D848"],
    "oid": ["4294967295"],
    "txid_snapshot": ["10:20:10,14,15"],
    "mood": ["sad", "'; DROP"],
    "mood[]": ["{sad,NULL}"],
}


async def _bytes(site: Site, query: sql.Composed) -> bytes:
    async with site.db.cursor().copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)) as copy:
        return b"".join([bytes(block) async for block in copy])


async def _same(site: Site, names: list[str], table: str = "answers") -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    wanted = sql.SQL("SELECT {} FROM source ORDER BY id").format(columns)
    found = sql.SQL("SELECT {} FROM {} ORDER BY id").format(columns, sql.Identifier(table))
    assert await _bytes(site, found) == await _bytes(site, wanted)


async def _types(site: Site, table: str) -> list[Any]:
    return await site.rows(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND attname NOT IN ('y') ORDER BY attnum",
        table,
    )


@pytest.fixture
async def site(site: Site) -> Site:
    """With a model that needs nothing but x."""
    await site.as_ann.execute("CREATE TYPE mood AS ENUM ('sad', '''; DROP')")
    await site.model(target=[{"name": "y", "type": "FLOAT"}], problem_type="r")
    return site


async def _fill(site: Site, values: dict[str, list[str]]) -> list[str]:
    """A table ``source`` with a column per type, as many rows as there are values at most, and one of NULLs."""
    names = [f"v{n}" for n in range(len(values))]
    rows = max(map(len, values.values())) + 1
    columns = sql.SQL(", ").join(sql.Identifier(n) + sql.SQL(" " + t) for n, t in zip(names, values, strict=True))
    await site.as_ann.execute(sql.SQL("CREATE TABLE source (id int, x float8, {})").format(columns))
    for number in range(rows):
        literals = [sql.Literal(v[number] if number < len(v) else None) for v in values.values()]
        await site.as_ann.execute(
            sql.SQL("INSERT INTO source VALUES ({}, 1, {})").format(number, sql.SQL(", ").join(literals))
        )
    return ["id", "x", *names]


async def test_every_type_arrives_byte_for_byte(site: Site, employ: Employ) -> None:
    names = await _fill(site, VALUES)
    await employ()
    await site.succeeded(await site.predict("source"))
    await _same(site, names)
    assert await _types(site, "answers") == await _types(site, "source")


async def test_every_type_arrives_through_a_query_too(site: Site, employ: Employ) -> None:
    """A query is staged by a function of the creator's, a table by a view: two ways, one answer."""
    names = await _fill(site, VALUES)
    await employ()
    await site.succeeded(await site.predict("SELECT * FROM source WHERE id >= 0"))
    await _same(site, names)
    assert await _types(site, "answers") == await _types(site, "source")


async def test_an_existing_table_gets_the_same_bytes(site: Site, employ: Employ) -> None:
    names = await _fill(site, VALUES)
    await site.as_ann.execute("CREATE TABLE answers AS SELECT *, NULL::float8 AS y FROM source LIMIT 0")
    await employ()
    await site.succeeded(await site.predict("source", action="append"))
    await _same(site, names)


@pytest.mark.parametrize("kind", ["numeric", "text", "int4[]", "timestamptz", "bool"])
async def test_a_column_of_nulls_stays_one(site: Site, employ: Employ, kind: str) -> None:
    names = await _fill(site, {kind: []})
    await employ()
    await site.succeeded(await site.predict("source"))
    await _same(site, names)


async def test_many_rows_in_many_batches(site: Site, employ: Employ) -> None:
    """More than one Arrow batch is staged, and the predictions are cut at other places."""
    await site.as_ann.execute(
        "CREATE TABLE source AS SELECT n AS id, n::float8 AS x, repeat('x', 300) AS pad,"
        " CASE WHEN n % 3 > 0 THEN repeat(n::text, n % 7) END AS t,"
        " CASE WHEN n % 5 > 0 THEN n::numeric / 7 END AS d FROM generate_series(1, 60000) n"
    )
    await employ()
    await site.succeeded(await site.predict("source"))
    await _same(site, ["id", "x", "t", "d", "pad"])


async def test_a_domain_becomes_its_base_type_with_its_modifier(site: Site, employ: Employ) -> None:
    await site.as_ann.execute("CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE > 0)")
    await site.as_ann.execute("CREATE DOMAIN dear AS price CHECK (VALUE > 100)")
    await site.as_ann.execute("CREATE TABLE source AS SELECT 1 AS id, 1.5::float8 AS x, 120.5::dear AS p")
    await employ()
    await site.succeeded(await site.predict("source"))
    await _same(site, ["id", "p"])
    assert await _types(site, "answers") == [("id", "integer"), ("x", "double precision"), ("p", "numeric(8,2)")]


async def test_names_like_keywords_quotes_and_chinese(site: Site, employ: Employ) -> None:
    names = ["id", "x", "select", 'a"b', "with space", "Caps", "列", "%s", "a;b", "c0", "tableoid2", "é\u0301"]
    columns = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.Literal(f"v{n}"), sql.Identifier(name)) for n, name in enumerate(names[2:])
    )
    await site.as_ann.execute(sql.SQL("CREATE TABLE source AS SELECT 1 AS id, 1.5::float8 AS x, {}").format(columns))
    await employ()
    await site.succeeded(await site.predict("source"))
    await _same(site, names)


async def test_features_and_targets_may_have_such_names_too(site: Site, employ: Employ) -> None:
    await site.model(
        "odd",
        features=[{"name": '列 "1"', "type": "FLOAT"}],
        target=[{"name": "order", "type": "STRING"}],
        problem_type="m",
    )
    await site.as_ann.execute('CREATE TABLE source AS SELECT 1 AS id, 2.5::float8 AS "列 ""1"""')
    await employ()
    await site.succeeded(await site.predict("source", model="odd"))
    assert await site.value('SELECT "order" FROM answers') == "label 0"


async def test_a_table_without_rows_gives_one_without_rows(site: Site, employ: Employ) -> None:
    await _fill(site, {"text": []})
    await employ()
    assert await site.succeeded(await site.predict("SELECT * FROM source WHERE false")) == {
        "rows": 0,
        "table": "public.answers",
    }
    assert await site.value("SELECT count(*) FROM answers") == 0
