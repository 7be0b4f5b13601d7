"""The database in which the cells of the privilege matrix are tried: people, their things, what each of them meets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from tests.sql import matrix
from tests.sql.conftest import SHOP
from tests.sql.matrix import ROLES
from tests.sql.support import INPUT, OUTPUT, PIPELINE_ZIP, Connection, Worker, one, rows
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
#: Unlike matrix.ROLES these only have or are something: the team's member and the creator of other things.
OTHERS = ("team", "friend", "bystander")


@dataclass(frozen=True, slots=True)
class World:
    """A database with people and things in it, made once; each cell is a transaction that is rolled back."""

    connection: Connection
    names: Mapping[str, str]
    given: dict[str, Any]
    totals: dict[str, int]

    @contextmanager
    def as_role(self, role: str) -> Iterator[Connection]:
        """A transaction of a role, undone at its end."""
        with self.connection.transaction(force_rollback=True):
            if role == "syspublic":
                grant(self.connection, self.given, "public")
            be(self.connection, self.names[role])
            yield self.connection

    def cell(self, role: str, statement: str, judge: Judge) -> str:
        """What a role meets."""
        try:
            with self.as_role(role) as connection:
                return judge(connection.execute(statement.encode(), self.given))
        except psycopg.Error as error:
            return error.sqlstate or "lost"

    def cells(self, statement: str, judge: Judge) -> dict[str, str]:
        return {role: self.cell(role, statement, judge) for role in ROLES}

    def share(self, table: str) -> Judge:
        """How many rows of a table a role sees."""

        def judge(cursor: psycopg.Cursor[Any]) -> str:
            ((seen,),) = cursor.fetchall()
            return "empty" if not seen else "all" if seen == self.totals[table] else "some"

        return judge


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
    """Two pipelines and a model with two versions for the creator and for a bystander; the creator's first job's id."""
    worker, jobs = Worker("", connection), []
    for person, schema in (("creator", "public"), ("bystander", "other")):
        for name in ("p", "q"):
            be(connection, names[person])
            one(connection, (
                "SELECT kwdbml.create_training_pipeline(%s, 'logistic_regression', 'late', 'public.shop',"
                " features => ARRAY['amount', 'kind'])"
            ), [f"{schema}.{name}"])  # fmt: skip
            jobs.append(one(connection, (
                "SELECT kwdbml.train_model(%s, %s, 'public.shop', true, false)"
            ), [f"{schema}.p", f"{schema}.m"]))  # fmt: skip
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


def populate(connection: Connection, names: Mapping[str, str]) -> World:
    connection.execute(
        "GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO PUBLIC"
    )
    connection.execute(SHOP.encode())
    connection.execute("GRANT SELECT ON shop TO PUBLIC; INSERT INTO kwdbml.settings VALUES ('bundle_limit', '1000000')")
    given = {
        "model": "public.m", "pipeline": "public.p", "input": INPUT, "output": OUTPUT, "model_zip": MODEL,
        "pipeline_zip": PIPELINE_ZIP, **{role: names[role] for role in ("friend", "creator", "admin")},
        "job": things(connection, names), **running(connection, names),
    }  # fmt: skip
    given |= ids(connection)
    grant(connection, given, names["team"])
    for role in (*matrix.ON_MODEL, *matrix.ON_PIPELINE):
        grant(connection, given, names[role], role)
    for thing in ("model", "pipeline"):
        connection.execute(
            f"INSERT INTO kwdbml.{thing}_privilege SELECT id, 'nobody', 'SELECT' FROM kwdbml.{thing}".encode()
        )
    totals = {table: one(connection, f"SELECT count(*) FROM kwdbml.{table}") for table in matrix.READABLE}
    return World(connection, names, given, totals)
