"""The database in which the cells of the privilege matrix are tried: people, their things, what each of them meets."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tests.fixtures.server import TestServer
from tests.sql import matrix
from tests.sql.conftest import SHOP
from tests.sql.matrix import ROLES, SAME_AS
from tests.sql.matrix_tables import READABLE, SHOWN
from tests.sql.support import INPUT, OUTPUT, PIPELINE_ZIP, Connection, Worker, one, rows, run
from tests.sql.test_registry import MODEL

GRANTS = {
    "model": (
        "INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege)"
        " SELECT %(model_id)s, %(who)s, unnest(%(named)s::text[])"
    ),
    "pipeline": (
        "INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege)"
        " SELECT %(pipeline_id)s, %(who)s, unnest(%(named)s::text[])"
    ),
}
Judge = Callable[[psycopg.Cursor[Any]], str]
PRIVILEGES = {"model": matrix.MODEL_PRIVILEGES, "pipeline": matrix.PIPELINE_PRIVILEGES}
#: Those of whom we hear only: the group that was granted ALL, one between it and others, whom owners grant something,
#: the creator of other things.
OTHERS = ("team", "middle", "deaf middle", "friend", "bystander")
#: group → its members
MEMBERS = {
    "team": ("member", "middle", "deaf middle", "member by SET ROLE", "member that inherits nothing",
             "whose grants and membership were revoked"),
    "middle": ("member of a member",),
    "deaf middle": ("member behind one that inherits nothing",),
    "creator": ("colleague",),
    "kwdbml_admin": ("admin", "admin by SET ROLE", "admin that inherits nothing"),
    "kwdbml_worker": ("worker",),
}  # fmt: skip
INHERIT_NOTHING = (
    "deaf middle", "member by SET ROLE", "admin by SET ROLE", "member that inherits nothing",
    "admin that inherits nothing",
)  # fmt: skip
BECOMES = {"member by SET ROLE": "team", "admin by SET ROLE": "kwdbml_admin"}
REVOKED = "whose grants and membership were revoked"


@dataclass(frozen=True, slots=True)
class World:
    """A database with people and things in it, made once; each cell is a transaction that is rolled back."""

    connection: Connection  #: the superuser's
    names: Mapping[str, str]
    given: dict[str, Any]
    connect: Callable[[str], Connection]
    _sessions: dict[str, Connection] = field(default_factory=dict)

    def session(self, role: str) -> Connection:
        """A role's own connection, kept."""
        if role not in self._sessions:
            self._sessions[role] = self.connect(role)
        return self._sessions[role]

    @contextmanager
    def granted(self, role: str) -> Iterator[None]:
        """What was granted to everyone is only for as long as somebody tries it: the others would have it too."""
        if role == "syspublic":
            grant(self.connection, self.given, "public")
        try:
            yield
        finally:
            if role == "syspublic":
                for thing in GRANTS:
                    run(self.connection, f"DELETE FROM kwdbml.{thing}_privilege WHERE grantee = 'public'")

    @contextmanager
    def as_role(self, role: str) -> Iterator[Connection]:
        """A transaction of a role, undone at its end."""
        with self.granted(role), self.session(role).transaction(force_rollback=True):
            yield self.session(role)

    def cell(self, role: str, statement: str, judge: Judge) -> str:
        """What a role meets."""
        try:
            with self.as_role(role) as connection:
                return judge(self.executed(connection, statement))
        except psycopg.Error as error:
            return error.sqlstate or f"lost: {error}"

    def executed(self, connection: Connection, statement: str) -> psycopg.Cursor[Any]:
        cursor = connection.cursor()
        if not statement.startswith("COPY"):
            return cursor.execute(statement.encode(), self.given)
        with cursor.copy(statement.encode()) as copy:
            for _ in copy if statement.endswith("TO STDOUT") else ():
                pass
        return cursor

    def cells(self, statement: str, judge: Judge | None = None) -> dict[str, str]:
        return {role: self.cell(role, statement, judge or verdict) for role in (*ROLES, *SAME_AS)}

    def shares(self, statement: str, key: str, table: str) -> dict[str, str]:
        """Which rows of a table the rows of a statement, which are named as ``key`` says, are for each role."""
        return {role: self.cell(role, statement, self.share(role, key, table)) for role in (*ROLES, *SAME_AS)}

    def share(self, role: str, key: str, table: str) -> Judge:
        def judge(cursor: psycopg.Cursor[Any]) -> str:
            seen = {row[0] for row in cursor.fetchall()}
            return next((word for word, true in self.truth(role, key, table).items() if seen == true), f"some: {seen}")

        return judge

    def truth(self, role: str, key: str, table: str) -> dict[str, set[str]]:
        """The rows of a table that each word means, for a role."""
        _, granted, own = SHOWN[table]
        grantees = [self.names[role], *(["public"] if role == "syspublic" else [])]
        grantees += [self.names["team"]] if SAME_AS.get(role, role) == "member" else []
        words = {"empty": "false", "granted": granted, "own": own, "all": "true"}
        found = {
            word: rows(self.connection, f"SELECT {key} FROM kwdbml.{table} t WHERE {condition}",
                       {**self.given, "grantees": grantees})
            for word, condition in words.items()
        }  # fmt: skip
        return {word: {row[0] for row in keys} for word, keys in found.items()}


def verdict(cursor: psycopg.Cursor[Any]) -> str:
    if cursor.description is None:
        return "empty" if cursor.rowcount == 0 else "ok"
    found = cursor.fetchall()
    return "empty" if not found else "no" if found[0][0] is False else "ok"


def done(cursor: psycopg.Cursor[Any]) -> str:
    """The verdict on what touches no row on purpose."""
    return "ok"


def be(connection: Connection, name: str) -> None:
    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(name)))


def grant(connection: Connection, given: Mapping[str, Any], who: str, *privileges: str) -> None:
    """Privileges as ``model SELECT``; none named: all."""
    for thing, statement in GRANTS.items():
        named = [p for p in PRIVILEGES[thing] if not privileges or f"{thing} {p}" in privileges]
        connection.execute(statement.encode(), {**given, "who": who, "named": named})


def things(connection: Connection, names: Mapping[str, str]) -> str:
    """Two pipelines and two models, the first with two versions, for the creator and for a bystander; the creator's
    first job's id."""
    worker, jobs = Worker("", connection), []
    for person, schema in (("creator", "public"), ("bystander", "other")):
        for pipeline, model in (("p", "m"), ("q", "m"), (None, "k")):
            be(connection, names[person])
            if pipeline:
                one(connection, (
                    "SELECT kwdbml.create_training_pipeline(%s, 'logistic_regression', 'late', 'public.shop',"
                    " features => ARRAY['amount', 'kind'])"
                ), [f"{schema}.{pipeline}"])  # fmt: skip
            jobs.append(one(connection, (
                "SELECT kwdbml.train_model(%s, %s, 'public.shop', true, false)"
            ), [f"{schema}.p", f"{schema}.{model}"]))  # fmt: skip
            connection.execute("RESET SESSION AUTHORIZATION")
            held = worker.finish_training(jobs[-1])
            log = "INSERT INTO kwdbml.job_log VALUES (%s, %s, 1, now(), 'train', 'stdout', 'x')"
            connection.execute(log, [held.job, held.attempt])
    return str(jobs[0])


def running(connection: Connection, names: Mapping[str, str]) -> dict[str, str]:
    """Jobs that no worker has claimed: one with env, one without."""
    train = "SELECT kwdbml.train_model('{0}.q', '{0}.n', 'public.shop', true, false, '{1}'::jsonb)"
    secret = '{"env": {"TOKEN": "secret"}}'
    be(connection, names["bystander"])
    one(connection, train.format("other", secret))
    be(connection, names["creator"])
    found = {
        "running": one(connection, train.format("public", secret)),
        "bare": one(connection, train.format("public", "{}")),
    }
    connection.execute("RESET SESSION AUTHORIZATION")
    return found


def ids(connection: Connection) -> dict[str, Any]:
    (found,) = rows(connection, (
        "SELECT m.id, v.id, m.problem_type, m.features::text, m.target::text, p.id FROM kwdbml.model m"
        " JOIN kwdbml.model_version v ON v.model_id = m.id AND v.active, kwdbml.pipeline p"
        " WHERE (m.schema, m.name) = ('public', 'm') AND (p.schema, p.name) = ('public', 'p')"
    ))  # fmt: skip
    return dict(zip(("model_id", "version_id", "problem", "features", "target", "pipeline_id"), found, strict=True))


#: Tries statements, each for itself, as whoever calls it: what it answers is ``ok`` or an SQLSTATE.
TRIED = """
CREATE FUNCTION other.tried(statements text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    answers text[] := '{}';
    statement text;
BEGIN
    FOREACH statement IN ARRAY statements LOOP
        BEGIN
            EXECUTE statement;
            answers := answers || 'ok'::text;
        EXCEPTION WHEN OTHERS THEN
            answers := answers || SQLSTATE::text;
        END;
    END LOOP;
    RETURN answers;
END
$$
"""


def populate(connection: Connection, names: Mapping[str, str]) -> dict[str, Any]:
    run(
        connection, "GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE SCHEMA hidden",
        "CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO PUBLIC", SHOP, "GRANT SELECT ON shop TO PUBLIC", TRIED,
        "INSERT INTO kwdbml.settings VALUES ('bundle_limit', '1000000')",
        "INSERT INTO kwdbml.flavour (name, cpu) VALUES ('small', '1')",
        "INSERT INTO kwdbml.file_system (name, claim, roles)"
        f" VALUES ('shared', 'a', ARRAY['{names['team']}']), ('closed', 'b', '{{}}')",
    )  # fmt: skip
    given = {
        "model": "public.m", "pipeline": "public.p", "input": INPUT, "output": OUTPUT, "model_zip": MODEL,
        "pipeline_zip": PIPELINE_ZIP, **{role: names[role] for role in ("friend", "creator", "admin")},
        "job": things(connection, names), **running(connection, names),
    }  # fmt: skip
    given |= ids(connection)
    for everything in ("team", REVOKED):
        grant(connection, given, names[everything])
    for role in (*matrix.ON_MODEL, *matrix.ON_PIPELINE):
        grant(connection, given, names[role], role)
    for thing in GRANTS:
        run(connection, f"INSERT INTO kwdbml.{thing}_privilege SELECT id, 'nobody', 'SELECT' FROM kwdbml.{thing}")
        run(connection, f"DELETE FROM kwdbml.{thing}_privilege WHERE grantee = '{names[REVOKED]}'")
    revoke = sql.SQL("REVOKE {} FROM {}").format(*(sql.Identifier(names[name]) for name in ("team", REVOKED)))
    connection.execute(revoke)
    empty = [table for table in READABLE if not one(connection, f"SELECT count(*) FROM kwdbml.{table}")]
    assert empty == ["request"], "nothing to see there"
    return given


@contextmanager
def people(maintenance: Connection) -> Iterator[tuple[dict[str, str], str]]:
    """The real name of each role, and everybody's password: roles are the cluster's, so a name ends in something
    unique."""
    end, password = secrets.token_hex(4), secrets.token_hex(8)
    real = {role: f"{role.replace(' ', '_').lower()[:50]}_{end}" for role in (*ROLES, *SAME_AS, *OTHERS)}
    for role, name in real.items():
        how = "SUPERUSER" if role == "superuser" else "NOINHERIT" if role in INHERIT_NOTHING else "INHERIT"
        create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}")
        maintenance.execute(create.format(sql.Identifier(name), sql.Literal(password), sql.SQL(how)))
    for group, members in MEMBERS.items():
        for member in members:
            to = sql.SQL("GRANT {} TO {}")
            names = (sql.Identifier(real.get(group, group)), sql.Identifier(real[member]))
            maintenance.execute(to.format(*names))
    yield real, password
    for name in real.values():
        maintenance.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def made_world(server: TestServer, template: str, maintenance: Connection) -> Iterator[World]:
    """What the fixture ``world`` of a module is."""
    database, opened = f"matrix_{secrets.token_hex(4)}", []
    with people(maintenance) as (names, password):
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        maintenance.execute(create.format(sql.Identifier(database), sql.Identifier(template)))

        def connect(role: str) -> Connection:
            opened.append(psycopg.connect(server.dsn(database, names[role], password), autocommit=True))
            if role in BECOMES:
                become = BECOMES[role]
                opened[-1].execute(sql.SQL("SET ROLE {}").format(sql.Identifier(names.get(become, become))))
            return opened[-1]

        try:
            with psycopg.connect(server.dsn(database), autocommit=True) as connection:
                yield World(connection, names, populate(connection, names), connect)
        finally:
            for session in opened:
                session.close()
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
