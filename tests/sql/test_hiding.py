"""A stranger cannot tell what is not his from what is not there; what was revoked is over with the next statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.fixtures.server import TestServer
from tests.sql import matrix
from tests.sql.matrix_world import World, made_world
from tests.sql.support import Connection, Worker, one, rows, run


@pytest.fixture(scope="module")
def world(server: TestServer, template: str, maintenance: Connection) -> Iterator[World]:
    yield from made_world(server, template, maintenance)


#: What is there and a name or id that nothing has.
NOTHING = "6f1a2b3c-0000-4000-8000-000000000000"
THINGS = {
    "model": "public.z", "pipeline": "public.z", "job": NOTHING, "running": NOTHING, "bare": NOTHING,
    "model_id": UUID(NOTHING), "version_id": UUID(NOTHING), "pipeline_id": UUID(NOTHING),
}  # fmt: skip
#: Who has nothing on model and pipeline, in several ways.
STRANGERS = ("stranger", *(twin for twin, role in matrix.SAME_AS.items() if role == "stranger"))


def told(world: World, role: str, statement: str, given: Mapping[str, Any], **settings: str) -> list[Any]:
    """All that a statement says: rows, or the whole error, and the notices; names and ids in it taken out."""
    said: list[psycopg.errors.Diagnostic] = []
    session = world.session(role)
    session.add_notice_handler(said.append)
    answer: Any = None
    try:
        if statement.startswith("CALL"):
            answer = session.execute(statement.encode(), given).fetchall()
        else:
            with world.as_role(role) as connection:
                for name, value in settings.items():
                    run(connection, f"SET LOCAL {name} = '{value}'")
                cursor = connection.execute(statement.encode(), given)
                answer = cursor.fetchall() if cursor.description else cursor.rowcount
    except psycopg.Error as error:
        said.append(error.diag)
    finally:
        session.remove_notice_handler(said.append)
    parts = ("sqlstate", "severity", "message_primary", "message_detail", "message_hint", "context",
             "schema_name", "table_name", "constraint_name", "source_function", "source_line")  # fmt: skip
    return [str(answer), *(nameless(str(getattr(diagnosis, part)), world) for diagnosis in said for part in parts)]


def nameless(text: str, world: World) -> str:
    for thing, nothing in THINGS.items():
        text = text.replace(str(world.given[thing]), "NAME").replace(str(nothing), "NAME")
    return text


#: Making something under a name tells whether it is taken (docs/decisions/0008).
TELLS_TAKEN = ("import_model",)
#: Calls of what is known by name or id: of each function, and what was said of the same ones in further ways.
CALLS = [
    matrix.call(signature, arguments)
    for signature, (arguments, _) in matrix.FUNCTIONS.items()
    if any(f"%({thing})s" in arguments for thing in THINGS) and not signature.startswith(TELLS_TAKEN)
] + [
    "SELECT kwdbml.evaluate_model(%(pipeline)s, %(model)s, 1, 'public.shop', 'f1')",
    "SELECT kwdbml.evaluate_model('', %(model)s, 99, 'public.shop', 'nonsense')",
    "SELECT kwdbml.batch_predict(%(pipeline)s, %(model)s, NULL, 'nowhere', 'public.shop', 'append')",
    "SELECT kwdbml.train_model(%(pipeline)s, 'public.new', 'nowhere', true, true, '{\"queue\": 5}'::text)",
    "SELECT kwdbml.explain_train(%(pipeline)s, 'nowhere')",
    "SELECT kwdbml.set_active_version(%(model)s, 99)",
    "SELECT kwdbml.remove_model(%(model)s, 99)",
    "SELECT kwdbml.show_model(%(model)s, 99)",
    "SELECT kwdbml.show_model(%(model)s)",
    "SELECT kwdbml.show_jobs(%(model)s)",
    "SELECT kwdbml.show_jobs(%(model)s, 1)",
    "SELECT kwdbml.show_jobs(%(model)s, 0)",
    "SELECT kwdbml.show_jobs(%(model)s, 99, NULL, NULL)",
    "SELECT kwdbml.has_model_privilege(%(model)s, 'nobody_of_that_name', 'SELECT')",
    "SELECT kwdbml.has_model_privilege(%(model)s, current_user::text, 'FLY')",
    "SELECT kwdbml.grant_privilege_on_model(%(model)s, NULL, NULL)",
    "SELECT kwdbml.revoke_privilege_on_model(%(model)s, 'nobody', 'SELECT')",
    "SELECT kwdbml.revoke_privilege_on_training_pipeline(%(pipeline)s, 'nobody', 'SELECT')",
]
#: By hand, by somebody who has kept an id.
BY_HAND = [
    *(row.statement for row in matrix.REQUESTS),
    *(row.statement for row in matrix.PARTS if any(f"%({thing})s" in row.statement for thing in THINGS)),
    ("INSERT INTO kwdbml.job (type, model_name, pipeline_id, model_version_id, data_query, data_columns)"
     " VALUES ('EVALUATE', %(model)s, %(pipeline_id)s, %(version_id)s, 'SELECT 1', '[]')"),
    "INSERT INTO kwdbml.job_env (job_id, env) VALUES (%(job)s, '{}') ON CONFLICT DO NOTHING",
    "SELECT * FROM kwdbml.job WHERE id = %(job)s FOR KEY SHARE",
    "UPDATE kwdbml.job SET status = 'CANCELED' WHERE id = %(running)s RETURNING 1",
    "SELECT * FROM kwdbml.model WHERE schema || '.' || name = %(model)s",
    "SELECT * FROM kwdbml.model_privilege WHERE model_id = %(model_id)s",
    "SELECT * FROM kwdbml.model_version WHERE id = %(version_id)s",
    "SELECT * FROM kwdbml.pipeline WHERE id = %(pipeline_id)s",
    "SELECT * FROM kwdbml.pipeline_privilege WHERE pipeline_id = %(pipeline_id)s",
    "SELECT * FROM kwdbml._usable WHERE model_id = %(model_id)s",
    "SELECT * FROM kwdbml._usable_version(%(model_id)s, 0)",
    "SELECT * FROM kwdbml.jobs WHERE id = %(job)s::text",
    "SELECT number FROM kwdbml.attempt WHERE job_id = %(job)s",
    "SELECT * FROM kwdbml.job_log WHERE job_id = %(job)s",
    "SELECT * FROM kwdbml.job_env WHERE job_id = %(bare)s",
    *(matrix.call(signature, arguments) for signature, (arguments, _) in matrix.DEFINERS.items()
      if "_id)s" in arguments),
]  # fmt: skip


@pytest.mark.parametrize("statement", [*CALLS, *BY_HAND])
def test_a_stranger_cannot_tell_not_yours_from_not_there(world: World, statement: str) -> None:
    there = [told(world, role, statement, world.given) for role in STRANGERS]
    assert there == [told(world, role, statement, world.given | THINGS) for role in STRANGERS]


def test_what_is_there_is_told_to_those_whose_it_is(world: World) -> None:
    """The twin: the same comparison finds a difference for the creator."""
    told_apart = [
        told(world, "creator", statement, world.given) != told(world, "creator", statement, world.given | THINGS)
        for statement in CALLS
    ]
    assert told_apart.count(False) <= 8, [s for s, apart in zip(CALLS, told_apart, strict=True) if not apart]
    assert len(CALLS) > 50


#: Names of models and training pipelines are taken or not (docs/decisions/0008), without waiting too.
MAKES = [
    matrix.call(signature, arguments)
    for signature, (arguments, _) in matrix.FUNCTIONS.items()
    if signature.startswith(("import_model", "train_model"))
]


def test_nobodys_locks_are_met_by_a_stranger(world: World) -> None:
    """Somebody changes all there is and has not committed: whoever waited for him would know that it is there."""
    with world.connection.transaction(force_rollback=True):
        for table in ("job", "model", "model_version", "pipeline", "model_privilege", "pipeline_privilege", "job_env"):
            run(world.connection, f"SELECT FROM kwdbml.{table} FOR UPDATE")
        for role in STRANGERS:
            for statement in [*CALLS, *BY_HAND, *MAKES]:
                if not statement.startswith("CALL") and "wait_job" not in statement:
                    answer = told(world, role, statement, world.given, lock_timeout="50ms")
                    assert "55P03" not in answer, (role, statement)
        whose = "SELECT kwdbml.cancel_job(%(running)s::text)"
        assert "55P03" in told(world, "creator", whose, world.given, lock_timeout="50ms")  # the twin: it is locked


def test_a_schema_keeps_its_names_to_those_who_may_use_it(world: World) -> None:
    """By hand too: a name that is taken there, one that is free, and a schema that is not there are all the same."""
    insert = next(row.statement for row in matrix.PARTS if "hidden" in row.statement)
    run(world.connection, insert)
    try:
        answers = [
            told(world, "stranger", insert.replace("byhand", name).replace("hidden", schema), world.given)
            for name, schema in (("byhand", "hidden"), ("free", "hidden"), ("byhand", "nowhere"))
        ]
        assert answers[0] == answers[1] == answers[2]
        assert "42501" in answers[0]
        twin = told(world, "stranger", insert.replace("hidden", "public"), world.given)
        assert twin == ["1"]
    finally:
        run(world.connection, "DELETE FROM kwdbml.pipeline WHERE schema = 'hidden'")


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


def asking(world: World, privilege: str) -> str:
    """The call that grants or revokes a privilege from the stranger."""
    thing, _, word = privilege.partition(" ")
    function = {"model": "model", "pipeline": "training_pipeline"}[thing]
    return f"SELECT kwdbml.{{}}_privilege_on_{function}('public.{thing[0]}', '{world.names['stranger']}', '{word}')"


@pytest.mark.parametrize("privilege", USES)
def test_a_revoke_takes_effect_on_the_next_statement(world: World, privilege: str) -> None:
    """In an open READ COMMITTED transaction, of a statement that was prepared and has run before."""
    ask = asking(world, privilege)
    creator, grantee = world.session("creator"), world.connect("stranger")
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


@pytest.mark.parametrize("privilege", ["model UPDATE", "model DELETE", "model CREATE", "pipeline DELETE"])
def test_a_transaction_that_sees_the_past_changes_nothing_by_what_was_revoked(world: World, privilege: str) -> None:
    """REPEATABLE READ sees the grants of its beginning: it may look at what there was then, and no more."""
    ask = asking(world, privilege)
    use = MAKES[0] if privilege == "model CREATE" else USES[privilege]
    creator, grantee = world.session("creator"), world.session("stranger")
    for revoked in (False, True):
        one(creator, ask.format("grant"))
        with grantee.transaction(force_rollback=True):
            run(grantee, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT FROM kwdbml.model")
            if revoked:
                one(creator, ask.format("revoke"))
                with pytest.raises(psycopg.errors.SerializationFailure), grantee.transaction():
                    grantee.execute(use.encode(), world.given)
            else:
                assert rows(grantee, use, world.given)
        one(creator, ask.format("revoke"))


def test_who_no_longer_owns_a_model_grants_nothing_on_it(world: World) -> None:
    """Nor in a transaction that still sees him as its creator."""
    model, creator, friend = world.given["model"], world.names["creator"], world.names["friend"]
    grant = "SELECT kwdbml.grant_privilege_on_model(%s, %s, 'SELECT')"
    session = world.session("creator")
    with session.transaction(force_rollback=True):
        assert one(session, grant, [model, friend]) == friend
    update = "UPDATE kwdbml.model SET creator = %s WHERE schema || '.' || name = %s"
    with session.transaction(force_rollback=True):
        run(session, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT FROM kwdbml.model")
        world.connection.execute(update, [friend, model])
        try:
            with pytest.raises(psycopg.errors.SerializationFailure):
                one(session, grant, [model, friend])
        finally:
            world.connection.execute(update, [creator, model])


def test_what_everybody_had_goes_with_the_next_statement(world: World) -> None:
    creator, session = world.session("creator"), world.session("stranger")
    ask = "SELECT kwdbml.{}_privilege_on_model('public.m', 'syspublic', 'SELECT')"
    with session.transaction(force_rollback=True):
        for _ in range(2):
            one(creator, ask.format("grant"))
            assert len(rows(session, USES["model SELECT"])) == 2
            one(creator, ask.format("revoke"))
            with pytest.raises(psycopg.errors.UndefinedObject), session.transaction():
                rows(session, USES["model SELECT"])


def test_what_came_by_a_role_goes_with_it(world: World) -> None:
    """Of membership PostgreSQL itself hears at the latest when the next transaction begins."""
    roles = (world.names["team"], world.names["stranger"])
    session = world.session("stranger")
    for _ in range(2):
        run(world.connection, 'GRANT "{}" TO "{}"'.format(*roles))
        assert len(rows(session, USES["model SELECT"])) == 2
        run(world.connection, 'REVOKE "{}" FROM "{}"'.format(*roles))
        with pytest.raises(psycopg.errors.UndefinedObject):
            rows(session, USES["model SELECT"])


@pytest.mark.parametrize("privilege", ["model EVALUATE", "model PREDICT", "pipeline TRAIN"])
@pytest.mark.parametrize("when", ["before it is claimed", "before it lands"])
def test_a_job_of_whose_right_was_revoked_ends_without_result(world: World, privilege: str, when: str) -> None:
    ask = asking(world, privilege)
    creator, grantee = world.session("creator"), world.session("stranger")
    run(world.connection, "UPDATE kwdbml.job SET priority = -1 WHERE status = 'RUNNING'")
    for revoked in (False, True):
        one(creator, ask.format("grant"))
        job = one(grantee, USES[privilege].replace("public.result", f"public.r{int(revoked)}"))
        worker = Worker("", world.connection)
        if revoked and when == "before it is claimed":
            one(creator, ask.format("revoke"))
        held = worker.claim(job)
        try:
            if revoked and when == "before it is claimed":
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="public"):
                    worker.spec(held)
                continue
            assert worker.spec(held)["type"]
            if revoked:
                one(creator, ask.format("revoke"))
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="public"):
                    worker.land(held)
        finally:
            one(creator, ask.format("revoke"))
            one(world.connection, "SELECT kwdbml.remove_job(%s)", [job])


def test_the_rows_of_the_matrix_are_what_is_looked_at() -> None:
    named = {call.partition("kwdbml.")[2].partition("(")[0] for call in CALLS}
    assert {
        "show_model", "show_models", "show_job", "show_jobs", "train_model", "evaluate_model", "batch_predict",
        "cancel_job", "remove_job", "remove_model", "job_logs", "wait_job", "wait_for_job", "set_active_version",
        "grant_privilege_on_model", "revoke_privilege_on_model", "has_model_privilege", "explain_train",
        "grant_privilege_on_training_pipeline", "revoke_privilege_on_training_pipeline",
        "has_training_pipeline_privilege", "remove_training_pipeline", "show_training_pipeline",
    } <= named  # fmt: skip
