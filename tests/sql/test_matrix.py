"""Every cell of the privilege matrix (``matrix.py``), tried as the role it speaks of, with a connection of its own; and
that nothing in the schema is without a row in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.server import TestServer
from tests.sql import matrix, matrix_document, matrix_tables
from tests.sql.matrix import ROLES, SAME_AS, Row, expanded
from tests.sql.matrix_world import World, done, made_world, verdict
from tests.sql.support import Connection, one, rows, run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "privileges.md"


@pytest.fixture(scope="module")
def world(server: TestServer, template: str, maintenance: Connection) -> Iterator[World]:
    yield from made_world(server, template, maintenance)


def signatures(world: World, condition: str) -> dict[str, str]:
    """Signature → what it returns, of the schema's functions."""
    return dict(rows(world.connection, (
        "SELECT substr(p.oid::regprocedure::text, 8), p.prorettype::regtype::text FROM pg_proc p"
        f" WHERE p.pronamespace = 'kwdbml'::regnamespace AND {condition}"
    )))  # fmt: skip


def names_of(found: Mapping[str, str]) -> set[str]:
    return {signature.partition("(")[0] for signature in found}


def of_the_catalogue(world: World) -> dict[str, set[str]]:
    """All that is in the schema, by the table of the matrix that must have it."""
    everybody = "has_function_privilege('public', p.oid, 'EXECUTE')"
    internal = r"p.proname LIKE '\_%' AND p.prorettype <> 'trigger'::regtype AND p.proname NOT LIKE '\_do\_%'"
    inside = "'kwdbml'::regnamespace"
    return {
        "functions": set(signatures(world, rf"(p.proname !~ '^(_|worker_)' OR {everybody} AND p.proname !~ '^_')")),
        "definers": set(signatures(world, rf"p.proname LIKE '\_%' AND p.prosecdef AND {everybody}")),
        "callers": names_of(signatures(world, f"{internal} AND NOT p.prosecdef AND {everybody}")),
        "the owner's": names_of(signatures(world, f"{internal} AND NOT {everybody}")),
        "tables": {name for (name,) in rows(world.connection, (
            f"SELECT relname::text FROM pg_class WHERE relnamespace = {inside} AND relkind NOT IN ('i', 'c')"
        ))},
        "types": {name for (name,) in rows(world.connection, (
            "SELECT typname::text FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid"
            f" WHERE typnamespace = {inside} AND typcategory <> 'A' AND coalesce(c.relkind, 'c') = 'c'"
        ))},
        "others": {name for (name,) in rows(world.connection, (
            "SELECT DISTINCT i.type || ' ' || i.identity FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) i"
            f" WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = {inside} AND d.classid NOT IN"
            " ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass)"
        ))},
    }  # fmt: skip


LISTED = {
    "functions": set(matrix.FUNCTIONS),
    "definers": set(matrix.DEFINERS),
    "callers": matrix.CALLERS,
    "the owner's": matrix.OWNER_ONLY,
    "tables": set(matrix_tables.READABLE),
    "types": matrix.TYPES,
    "others": set[str](),
}


def unlisted(world: World) -> set[str]:
    """What is in the schema and not in the matrix, or the other way round."""
    found = of_the_catalogue(world)
    return {f"{kind}: {name}" for kind, names in LISTED.items() for name in found[kind] ^ names}


def test_everything_in_the_schema_has_a_row(world: World) -> None:
    assert unlisted(world) == set()
    assert set(matrix_tables.SHOWN) == set(matrix_tables.READABLE)


@pytest.mark.parametrize(
    ("statement", "reported"),
    [
        ("CREATE FUNCTION kwdbml.new(integer) RETURNS integer LANGUAGE sql RETURN 1", "functions: new(integer)"),
        ("CREATE PROCEDURE kwdbml.new() LANGUAGE sql AS ''", "functions: new()"),
        ("CREATE FUNCTION kwdbml.show_models(uuid) RETURNS integer LANGUAGE sql RETURN 1",
         "functions: show_models(uuid)"),
        ("CREATE FUNCTION kwdbml.worker_new() RETURNS integer LANGUAGE sql RETURN 1", "functions: worker_new()"),
        ("CREATE FUNCTION kwdbml._new() RETURNS integer LANGUAGE sql RETURN 1", "callers: _new"),
        ("CREATE FUNCTION kwdbml._new() RETURNS integer LANGUAGE sql SECURITY DEFINER RETURN 1", "definers: _new()"),
        ("ALTER FUNCTION kwdbml._setting(text) SECURITY DEFINER", "definers: _setting(text)"),
        ("GRANT EXECUTE ON FUNCTION kwdbml._fence TO PUBLIC", "the owner's: _fence"),
        ("CREATE TABLE kwdbml.new ()", "tables: new"),
        ("CREATE VIEW kwdbml.new AS SELECT 1", "tables: new"),
        ("CREATE MATERIALIZED VIEW kwdbml.new AS SELECT 1", "tables: new"),
        ("CREATE SEQUENCE kwdbml.new", "tables: new"),
        ("CREATE TYPE kwdbml.new AS (x integer)", "types: new"),
        ("CREATE DOMAIN kwdbml.new AS integer", "types: new"),
        ("CREATE OPERATOR kwdbml.### (RIGHTARG = integer, FUNCTION = pg_catalog.int4abs)",
         "others: operator kwdbml.###(NONE,integer)"),
        ("DROP VIEW kwdbml.jobs CASCADE", "tables: jobs"),
    ],
)  # fmt: skip
def test_what_has_no_row_is_found(world: World, statement: str, reported: str) -> None:
    before = unlisted(world)
    with world.connection.transaction(force_rollback=True):
        if statement.startswith("DROP"):
            run(world.connection, "ALTER EXTENSION kwdbml DROP VIEW kwdbml.jobs")
        run(world.connection, statement)
        assert reported in unlisted(world) - before


def test_everybody_is_who_he_seems(world: World) -> None:
    for role in (*ROLES, *SAME_AS):
        is_super = one(world.session(role), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert is_super == (role == "superuser")
    assert one(world.session("admin by SET ROLE"), "SELECT current_user::text") == "kwdbml_admin"
    assert one(world.session("member by SET ROLE"), "SELECT current_user::text") == world.names["team"]
    assert one(world.connection, "SELECT count(DISTINCT rolname) FROM pg_roles WHERE rolname::text = ANY (%s)", [
        [world.names[role] for role in (*ROLES, *SAME_AS)]
    ]) == len(ROLES) + len(SAME_AS)  # fmt: skip


@pytest.mark.parametrize("signature", [s for s in matrix.FUNCTIONS if not s.startswith("wait_for_job")])
def test_functions(world: World, signature: str) -> None:
    arguments, wanted = matrix.FUNCTIONS[signature]
    statement = matrix.call(signature, arguments)
    if signature in matrix_tables.LISTS:
        key, table = matrix_tables.LISTS[signature]
        found = world.shares(statement.replace("*", f"{key.replace('::text', '')}::text", 1) + " t", key, table)
    else:
        found = world.cells(statement)
    assert found == expanded(wanted)
    if signature in matrix_tables.READS:
        assert len(answers(world, statement, [role for role, cell in found.items() if cell == "ok"])) == 1


def answers(world: World, statement: str, roles: list[str]) -> set[str]:
    """The different answers that roles get."""
    found = set()
    for role in roles:
        with world.as_role(role) as connection:
            found.add(str(rows(connection, statement, world.given)))
    return found


@pytest.mark.parametrize("signature", [s for s in matrix.FUNCTIONS if s.startswith("wait_for_job")])
def test_procedures_that_commit(world: World, signature: str) -> None:
    arguments, wanted = matrix.FUNCTIONS[signature]
    found = {}
    for role in (*ROLES, *SAME_AS):
        try:
            with world.granted(role):
                statement = matrix.call(signature, arguments).encode()
                found[role] = verdict(world.session(role).execute(statement, world.given))
        except psycopg.Error as error:
            found[role] = str(error.sqlstate)
    assert found == expanded(wanted)


@pytest.mark.parametrize("row", [*matrix.FURTHER_CALLS, *matrix.REQUESTS, *matrix.PARTS], ids=lambda row: row.what)
def test_further_statements(world: World, row: Row) -> None:
    assert world.cells(row.statement) == expanded(row.cells)


@pytest.mark.parametrize("table", matrix_tables.READABLE)
def test_reading(world: World, table: str) -> None:
    key = matrix_tables.SHOWN[table][0]
    found = world.shares(f"SELECT {key} FROM kwdbml.{table} t", key, table)
    assert found == expanded(matrix_tables.READABLE[table])


@pytest.mark.parametrize("verb", matrix_tables.WRITES)
@pytest.mark.parametrize("table", matrix_tables.READABLE)
def test_writing(world: World, table: str, verb: str) -> None:
    column = one(world.connection, (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
    ), [f"kwdbml.{table}"])  # fmt: skip
    found = world.cells(matrix_tables.WRITES[verb].format(table, column), done)
    assert found == expanded(matrix_tables.WRITABLE.get((table, verb), matrix.NOBODY))


@pytest.mark.parametrize("table", matrix_tables.READABLE)
def test_columns(world: World, table: str) -> None:
    """Each column, for itself, in each of the statements that can name it; foreign keys to it are the owner's."""
    columns = rows(world.connection, (
        "SELECT quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    ), [f"kwdbml.{table}"])  # fmt: skip
    tries = [(verb, name, type_) for name, type_ in columns for verb in matrix_tables.COLUMN_VERBS]
    statements = [matrix_tables.COLUMN_VERBS[verb].format(table, name, type_) for verb, name, type_ in tries]
    wanted = {(verb, name): expanded(matrix_tables.column(table, verb, name)) for verb, name, _ in tries}
    for role in (*ROLES, *SAME_AS):
        with world.as_role(role) as connection:
            found = one(connection, "SELECT other.tried(%s)", [statements])
            refers = one(connection, "SELECT has_any_column_privilege(%s, 'REFERENCES')", [f"kwdbml.{table}"])
        met = {(verb, name): cell for (verb, name, _), cell in zip(tries, found, strict=True)}
        assert met == {key: cells[role] for key, cells in wanted.items()}, role
        assert refers == (role == "superuser")


@pytest.mark.parametrize("signature", matrix.DEFINERS)
def test_definer_functions(world: World, signature: str) -> None:
    arguments, wanted = matrix.DEFINERS[signature]
    found = world.cells(f"SELECT kwdbml.{signature.partition('(')[0]}({arguments})")
    assert found == expanded(wanted)


def test_what_is_the_owners_or_the_workers_nobody_else_calls(world: World) -> None:
    """By name, and one call each with NULLs: refused before anything is looked at."""
    found = signatures(world, r"(p.proname ~ '^(_do_|worker_)' OR p.prorettype = 'trigger'::regtype)")
    found |= {s: t for s, t in signatures(world, "true").items() if s.partition("(")[0] in matrix.OWNER_ONLY}
    assert len(found) > 30
    for role in (*ROLES, *SAME_AS):
        if role == "superuser":
            continue
        statements = []
        for signature in found:
            name, _, types = signature.rstrip(")").partition("(")
            statements.append(f"SELECT kwdbml.{name}({', '.join(f'NULL::{t}' for t in types.split(',') if t)})")
        with world.as_role(role) as connection:
            met = dict(zip(found, one(connection, "SELECT other.tried(%s)", [statements]), strict=True))
            may = {s: one(connection, "SELECT has_function_privilege(%s, 'EXECUTE')", [f"kwdbml.{s}"]) for s in found}
        for signature in found:
            works = role == "worker" and signature.startswith("worker_")
            assert may[signature] is works, (signature, role)
            assert works or met[signature] in ("42501", "0A000"), (signature, role, met[signature])


def test_the_document_is_the_matrix() -> None:
    if os.environ.get("KWDBML_UPDATE_DOCS"):
        DOCUMENT.write_text(matrix_document.generated(), encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == matrix_document.generated(), (
        "write it anew: KWDBML_UPDATE_DOCS=1 scripts/test tests/sql/test_matrix.py"
    )
