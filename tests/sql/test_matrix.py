"""Every cell of the privilege matrix (``matrix.py``), tried; and that nothing in the schema is without a row in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.server import TestServer
from tests.sql import matrix
from tests.sql.matrix import ROLES, Cells, Row
from tests.sql.matrix_world import OTHERS, World, be, done, populate, verdict
from tests.sql.support import Connection, one, rows

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "privileges.md"


@pytest.fixture(scope="module")
def names(maintenance: Connection) -> Iterator[dict[str, str]]:
    """The real name of each role: roles are the cluster's, so it ends in something unique."""
    end = secrets.token_hex(4)
    real = {role: f"{role.replace(' ', '_').lower()}_{end}" for role in (*ROLES, *OTHERS)}
    for role, name in real.items():
        kind = sql.SQL("SUPERUSER" if role == "superuser" else "NOSUPERUSER")
        maintenance.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), kind))
    for group, role in ((real["team"], "member"), ("kwdbml_admin", "admin")):
        maintenance.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(real[role])))
    yield real
    for name in real.values():
        maintenance.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def world(server: TestServer, template: str, maintenance: Connection, names: dict[str, str]) -> Iterator[World]:
    database = sql.Identifier(f"matrix_{secrets.token_hex(4)}")
    maintenance.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, sql.Identifier(template)))
    try:
        with psycopg.connect(server.dsn(database.as_string(None).strip('"')), autocommit=True) as connection:
            yield populate(connection, names)
    finally:
        maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


def signatures(world: World, condition: str) -> dict[str, str]:
    """Signature → what it returns, of the schema's functions."""
    return dict(rows(world.connection, (
        "SELECT substr(p.oid::regprocedure::text, 8), p.prorettype::regtype::text FROM pg_proc p"
        f" WHERE p.pronamespace = 'kwdbml'::regnamespace AND {condition}"
    )))  # fmt: skip


def names_of(found: Mapping[str, str]) -> set[str]:
    return {signature.partition("(")[0] for signature in found}


def test_every_function_has_a_row(world: World) -> None:
    assert set(signatures(world, r"p.proname !~ '^(_|worker_)'")) == set(matrix.FUNCTIONS)
    everybody = "has_function_privilege('public', p.oid, 'EXECUTE')"
    assert set(signatures(world, rf"p.proname LIKE '\_%' AND p.prosecdef AND {everybody}")) == set(matrix.DEFINERS)
    internal = r"p.proname LIKE '\_%' AND p.prorettype <> 'trigger'::regtype AND p.proname NOT LIKE '\_do\_%'"
    assert names_of(signatures(world, f"{internal} AND NOT p.prosecdef AND {everybody}")) == matrix.CALLERS
    assert names_of(signatures(world, f"{internal} AND NOT {everybody}")) == matrix.OWNER_ONLY


def test_every_table_and_view_has_a_row(world: World) -> None:
    found = rows(world.connection, (
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind NOT IN ('i', 'c')"
    ))  # fmt: skip
    assert {name for (name,) in found} == set(matrix.READABLE)
    assert all(world.totals[table] or table == "request" for table in matrix.READABLE), world.totals


@pytest.mark.parametrize("signature", [s for s in matrix.FUNCTIONS if not s.startswith("wait_for_job")])
def test_functions(world: World, signature: str) -> None:
    arguments, wanted = matrix.FUNCTIONS[signature]
    assert world.cells(matrix.call(signature, arguments), verdict) == wanted


@pytest.mark.parametrize("signature", [s for s in matrix.FUNCTIONS if s.startswith("wait_for_job")])
def test_procedures_that_commit(world: World, signature: str) -> None:
    arguments, wanted = matrix.FUNCTIONS[signature]
    found = {}
    for role in ROLES:
        be(world.connection, world.names[role])
        try:
            found[role] = verdict(world.connection.execute(matrix.call(signature, arguments).encode(), world.given))
        except psycopg.Error as error:
            found[role] = str(error.sqlstate)
        finally:
            world.connection.execute("RESET SESSION AUTHORIZATION")
    assert found == wanted


@pytest.mark.parametrize("row", [*matrix.FURTHER_CALLS, *matrix.REQUESTS, *matrix.PARTS], ids=lambda row: row.what)
def test_further_statements(world: World, row: Row) -> None:
    assert world.cells(row.statement, verdict) == row.cells


@pytest.mark.parametrize("table", matrix.READABLE)
def test_reading(world: World, table: str) -> None:
    assert world.cells(f"SELECT count(*) FROM kwdbml.{table}", world.share(table)) == matrix.READABLE[table]


@pytest.mark.parametrize("verb", matrix.WRITES)
@pytest.mark.parametrize("table", matrix.READABLE)
def test_writing(world: World, table: str, verb: str) -> None:
    column = one(world.connection, (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
    ), [f"kwdbml.{table}"])  # fmt: skip
    found = world.cells(matrix.WRITES[verb].format(table, column), done)
    assert found == matrix.WRITABLE.get((table, verb), matrix.NOBODY)


@pytest.mark.parametrize("signature", matrix.DEFINERS)
def test_definer_functions(world: World, signature: str) -> None:
    arguments, wanted = matrix.DEFINERS[signature]
    assert world.cells(f"SELECT kwdbml.{signature.partition('(')[0]}({arguments})", verdict) == wanted


def test_what_is_the_owners_or_the_workers_nobody_else_calls(world: World) -> None:
    """By name, and one call each with NULLs: refused before anything is looked at."""
    found = signatures(world, r"(p.proname ~ '^(_do_|worker_)' OR p.prorettype = 'trigger'::regtype)")
    found |= {s: t for s, t in signatures(world, "true").items() if s.partition("(")[0] in matrix.OWNER_ONLY}
    assert len(found) > 30
    for signature in found:
        name, _, types = signature.rstrip(")").partition("(")
        nulls = ", ".join(f"NULL::{type_}" for type_ in types.split(",") if type_)
        for role in ROLES[:-1]:
            cell = world.cell(role, f"SELECT kwdbml.{name}({nulls})", done)
            assert cell in ("42501", "0A000"), (signature, role)
            execute = one(world.connection, "SELECT has_function_privilege(%s, %s, 'EXECUTE')",
                          [world.names[role], f"kwdbml.{signature}"])  # fmt: skip
            assert execute is False, (signature, role)


def told(world: World, role: str, statement: str, given: Mapping[str, Any]) -> list[Any]:
    """All that an error says, the names in it taken out."""
    with pytest.raises(psycopg.Error) as caught, world.as_role(role) as connection:
        connection.execute(statement.encode(), given)
    diagnosis = caught.value.diag
    parts = [
        diagnosis.message_primary,
        diagnosis.message_detail,
        diagnosis.message_hint,
        diagnosis.context,
        caught.value.sqlstate,
    ]
    for name in (*THINGS, *THINGS.values()):
        for value in (given.get(name), world.given.get(name)):
            parts = [part and part.replace(str(value), "NAME") for part in parts]
    return parts


#: What is there and a name or id that nothing has.
THINGS = {
    "model": "public.z", "pipeline": "public.z", "job": "6f1a2b3c-0000-4000-8000-000000000000",
    "running": "6f1a2b3c-0000-4000-8000-000000000000",
}  # fmt: skip
#: Making something under a name tells whether it is taken (decision 8).
TELLS_TAKEN = ("import_model",)


def hides() -> list[str]:
    return [
        signature
        for signature, (arguments, wanted) in matrix.FUNCTIONS.items()
        if any(f"%({thing})s" in arguments for thing in THINGS) and wanted["stranger"] != "ok"
        and not signature.startswith((*TELLS_TAKEN, "wait_for_job"))
    ]  # fmt: skip


@pytest.mark.parametrize("signature", hides())
def test_a_stranger_cannot_tell_not_yours_from_not_there(world: World, signature: str) -> None:
    statement = matrix.call(signature, matrix.FUNCTIONS[signature][0])
    there = told(world, "stranger", statement, world.given)
    assert there == told(world, "stranger", statement, world.given | THINGS)
    assert there[-1] in ("42704", "42501")


def test_the_list_of_what_hides_is_not_empty() -> None:
    named = {signature.partition("(")[0] for signature in hides()}
    assert {
        "show_model", "show_job", "train_model", "evaluate_model", "batch_predict", "cancel_job", "remove_model",
        "job_logs", "grant_privilege_on_model", "has_training_pipeline_privilege", "remove_training_pipeline",
    } <= named  # fmt: skip


@pytest.mark.parametrize("row", matrix.REQUESTS, ids=lambda row: row.what)
def test_who_kept_an_id_cannot_tell_either(world: World, row: Row) -> None:
    nothing = dict.fromkeys(("model_id", "pipeline_id"), UUID(THINGS["job"]))
    there = told(world, "stranger", row.statement, world.given)
    assert there == told(world, "stranger", row.statement, world.given | nothing)


#: One call for each privilege, that changes nothing for the next one.
USES = {
    "model SELECT": "SELECT kwdbml.show_model('public.m')",
    "model UPDATE": "SELECT kwdbml.set_active_version('public.m', 2)",
    "model DELETE": "SELECT kwdbml.remove_model('public.m', 2)",
    "model EVALUATE": "SELECT kwdbml.evaluate_model('', 'public.m', 1, 'public.shop', 'f1')",
    "model PREDICT": "SELECT kwdbml.batch_predict('public.m', 1, 'public.shop', 'public.result', 'error')",
    "model CREATE": "SELECT kwdbml.has_model_privilege('public.m', current_user::text, 'CREATE')",
    "pipeline SELECT": "SELECT kwdbml.show_training_pipeline('public.p')",
    "pipeline DELETE": "SELECT kwdbml.remove_training_pipeline('public.p')",
    "pipeline TRAIN": "SELECT kwdbml.train_model('public.p', 'public.new', 'public.shop', true, true)",
}


@pytest.mark.parametrize("privilege", USES)
def test_a_revoke_takes_effect_on_the_next_statement(world: World, connect_world: Any, privilege: str) -> None:
    """In an open READ COMMITTED transaction, of a statement that was prepared and has run before."""
    thing, _, word = privilege.partition(" ")
    function = {"model": "model", "pipeline": "training_pipeline"}[thing]
    ask = f"SELECT kwdbml.{{}}_privilege_on_{function}('public.{thing[0]}', '{world.names['stranger']}', '{word}')"
    creator, grantee = connect_world("creator"), connect_world("stranger")
    grantee.execute(f"PREPARE use AS {USES[privilege]}".encode())
    with grantee.transaction(force_rollback=True):
        grantee.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        for _ in range(2):
            one(creator, ask.format("grant"))
            with grantee.transaction(force_rollback=True):
                assert grantee.execute("EXECUTE use").fetchall()
            one(creator, ask.format("revoke"))
            with pytest.raises(psycopg.errors.UndefinedObject), grantee.transaction():
                grantee.execute("EXECUTE use")


@pytest.fixture
def connect_world(world: World) -> Iterator[Any]:
    """``connect_world(role)``: a session of its own."""
    opened: list[Connection] = []

    def connect(role: str) -> Connection:
        opened.append(
            psycopg.connect(world.connection.info.dsn, password=world.connection.info.password, autocommit=True)
        )
        be(opened[-1], world.names[role])
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


INTRODUCTION = """# Who may do what

<!-- Generated from tests/sql/matrix.py, whose every cell the tests try.
     KWDBML_UPDATE_DOCS=1 scripts/test tests/sql/test_matrix.py writes it anew. -->

What a privilege opens is in the column of who has been granted that one alone, on this model or pipeline and on
nothing else. *member* has the rights of a role that was granted ALL on both, *syspublic* is anybody after ALL on both
was granted to everyone; *creator* is whose model, pipeline and jobs they are, *admin* a member of `kwdbml_admin`.
Everybody may read the data set and create tables in the schema. `ok`: it is done; `empty`: no rows; `some`, `all`: of
the rows that there are; `no`: the answer is false; else the SQLSTATE: 42501 you may not, 42704 there is no such thing,
in the same words whether it is not there or not yours; 55000 and 42809: the view takes no writes.
"""


def table_of(found: Mapping[str, Cells], first: str) -> Iterator[str]:
    yield "| " + " | ".join((first, *ROLES)) + " |"
    yield "| --- " * (1 + len(ROLES)) + "|"
    for what, wanted in found.items():
        yield "| " + " | ".join((f"`{what}`", *(wanted[role] for role in ROLES))) + " |"


def verbs(table: str) -> Iterator[tuple[str, Cells]]:
    yield f"{table}: SELECT", matrix.READABLE[table]
    writes = [(verb, matrix.WRITABLE.get((table, verb), matrix.NOBODY)) for verb in matrix.WRITES]
    for wanted, group in groupby(sorted(writes, key=lambda w: sorted(w[1].items())), key=lambda w: w[1]):
        yield f"{table}: {', '.join(verb for verb, _ in group)}", wanted


def generated() -> str:
    sections = {
        "Functions": {name: wanted for name, (_, wanted) in matrix.FUNCTIONS.items()},
        "The same functions, asked for something else": {row.what: row.cells for row in matrix.FURTHER_CALLS},
        "Tables and the view, directly": dict(pair for table in matrix.READABLE for pair in verbs(table)),
        "Columns and rows of tables, directly": {row.what: row.cells for row in matrix.PARTS},
        "Requests written by hand": {row.what: row.cells for row in matrix.REQUESTS},
        "Internal functions that run as the owner": {name: wanted for name, (_, wanted) in matrix.DEFINERS.items()},
    }
    lines = [INTRODUCTION]
    for title, found in sections.items():
        lines += [f"## {title}\n", *table_of(found, "what"), ""]
    return "\n".join([
        *lines, "## Other internal functions\n",
        "With the rights of whoever calls them: " + listed(matrix.CALLERS) + ".\n",
        "The owner's alone: all that begin with `_do_`, all trigger functions, " + listed(matrix.OWNER_ONLY) + ".\n",
        "The worker's (members of `kwdbml_worker`): all that begin with `worker_`.", "",
    ])  # fmt: skip


def listed(functions: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(functions))


def test_the_document_is_the_matrix() -> None:
    if os.environ.get("KWDBML_UPDATE_DOCS"):
        DOCUMENT.write_text(generated(), encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == generated(), (
        "write it anew: KWDBML_UPDATE_DOCS=1 scripts/test tests/sql/test_matrix.py"
    )
