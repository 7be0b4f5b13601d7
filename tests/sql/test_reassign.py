"""reassign_owned: everything of a role becomes another's, before DROP ROLE and after RENAME; and nobody gains by it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.database import MakeRole
from tests.sql.support import Connection, Person, Worker, one, refused, rows, run
from tests.sql.test_registry import imported

REASSIGN = "SELECT kwdbml.reassign_owned(%s, %s)"
#: Where names of roles stand: a new table or column of that kind belongs here and into the function.
NAMES = {
    "job": ["creator"], "model": ["creator"], "model_privilege": ["grantee", "grantor"], "model_version": ["creator"],
    "pipeline": ["creator"], "pipeline_privilege": ["grantee", "grantor"], "request": ["requester"],
}  # fmt: skip


def named(db: Connection, name: str) -> set[str]:
    """The columns in which a role's name stands."""
    return {
        f"{table}.{column}" for table, columns in NAMES.items() for column in columns
        if one(db, f"SELECT count(*) FROM kwdbml.{table} WHERE {column} = %s", [name])
    }  # fmt: skip


ALL = {f"{table}.{column}" for table, columns in NAMES.items() for column in columns} - {"request.requester"}


@pytest.fixture
def estate(shop: Connection, model: str, bob: Person, ann: Person, role: MakeRole) -> Connection:
    """Ann's model, version, pipeline and ended job; her grants to bob, and carl's to her. Bob's has one of them too."""
    carl = role("carl")
    imported(carl.connect(), "public.carls")
    for who in (ann, bob):
        run(carl.connect(), f"SELECT kwdbml.grant_privilege_on_model('carls', '{who.name}', 'SELECT')")
    run(carl.connect(), f"SELECT kwdbml.grant_privilege_on_model('carls', '{ann.name}', 'PREDICT')")
    run(shop, f"SELECT kwdbml.grant_privilege_on_model('m', '{bob.name}', 'SELECT')")
    run(shop, f"SELECT kwdbml.grant_privilege_on_training_pipeline('p', '{bob.name}', 'TRAIN')")
    run(shop, f"SELECT kwdbml.grant_privilege_on_training_pipeline('p', '{ann.name}', 'SELECT')")
    return shop


def test_the_columns_that_name_roles_are_listed(db: Connection) -> None:
    found = rows(
        db,
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attname)"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'kwdbml'::regnamespace"
        " AND c.relkind = 'r' AND a.atttypid = 'name'::regtype GROUP BY 1",
    )
    assert dict(found) == NAMES


def test_an_admin_gives_everything_to_another(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person
) -> None:
    assert named(db, ann.name) == ALL
    assert one(admin.connection, REASSIGN, [ann.name, bob.name]) == bob.name
    assert named(db, ann.name) == set()
    assert named(db, bob.name) == ALL
    oid = "SELECT DISTINCT creator_oid = %s::regrole FROM kwdbml.job"
    assert rows(db, oid, [bob.name]) == [(True,)]
    granted = (
        "SELECT privilege FROM kwdbml.model_privilege g JOIN kwdbml.model m ON m.id = model_id WHERE m.name = 'carls'"
    )
    assert sorted(rows(db, granted)) == [("PREDICT",), ("SELECT",)]
    assert [r[0] for r in rows(bob.connection, "SELECT name FROM kwdbml.show_models() ORDER BY 1")] == ["carls", "m"]
    assert one(bob.connection, "SELECT count(*) FROM kwdbml.show_jobs()") == 1
    for listing in ("show_jobs", "show_models", "show_training_pipelines"):
        assert rows(ann.connection, f"SELECT * FROM kwdbml.{listing}()") == []
    assert one(bob.connection, "SELECT kwdbml.remove_model('m')") == "public.m"
    assert rows(db, "SELECT * FROM kwdbml.request") == []


@pytest.mark.parametrize(
    "call", [REASSIGN, "INSERT INTO kwdbml.request (kind, arguments) VALUES ('reassign_owned', %s)"]
)
def test_others_are_refused_before_any_look_up(
    estate: Connection, db: Connection, bob: Person, ann: Person, call: str
) -> None:
    pairs: list[tuple[Any, Any]] = [(ann.name, bob.name), (bob.name, ann.name), ("nobody", "no one"), (None, None)]
    for pair in pairs:
        arguments = list(pair) if call == REASSIGN else [Jsonb(dict(zip(("from_name", "to_name"), pair, strict=True)))]
        for connection in (estate, bob.connection):
            with refused("42501", "reassign", hint="kwdbml_admin"):
                connection.execute(call.encode(), arguments)
    assert named(db, ann.name) == ALL


def test_a_request_by_hand_is_the_function(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person
) -> None:
    ask = "INSERT INTO kwdbml.request (kind, arguments) VALUES ('reassign_owned', %s)"
    assert (
        one(admin.connection, f"{ask} RETURNING answer", [Jsonb({"from_name": ann.name, "to_name": bob.name})])
        == bob.name
    )
    assert named(db, ann.name) == set()
    with refused("42501", "request", hint=False):
        run(
            bob.connection,
            "INSERT INTO kwdbml.request (kind, requester, arguments) VALUES ('reassign_owned', 'postgres', '{}')",
        )


@pytest.mark.parametrize(
    ("names", "state"),
    [
        ((None, "bob"), "22004"), (("ann", None), "22004"), (("ann", "nobody of this name"), "42704"),
        (("nobody of this name", "bob"), "42704"), (("ann", "public"), "22023"), (("public", "bob"), "22023"),
        (("syspublic", "bob"), "22023"), (("ann", "SysPublic"), "22023"), (("ANN", "bob"), "42704"),
    ],
)  # fmt: skip
def test_wrong_names(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person, names: tuple[Any, Any], state: str
) -> None:
    run(estate, "SELECT kwdbml.grant_privilege_on_model('m', 'public', 'SELECT')")
    real = {"ann": ann.name, "bob": bob.name, "ANN": ann.name.upper()}
    with refused(state) as caught:
        one(admin.connection, REASSIGN, [real.get(name, name) for name in names])
    assert "syspublic" not in (caught.value.diag.message_hint or "")  # which is refused here
    assert named(db, ann.name) == ALL
    assert one(db, "SELECT count(*) FROM kwdbml.model_privilege WHERE grantee = 'public'") == 1


def test_from_and_to_alike_changes_nothing(estate: Connection, db: Connection, admin: Person, ann: Person) -> None:
    before = rows(db, "SELECT xmin::text, * FROM kwdbml.model")
    assert one(admin.connection, REASSIGN, [ann.name, ann.name]) == ann.name
    assert named(db, ann.name) == ALL
    assert rows(db, "SELECT xmin::text, * FROM kwdbml.model") == before


def test_who_has_nothing_leaves_nothing(admin: Person, ann: Person, bob: Person, db: Connection) -> None:
    assert one(admin.connection, REASSIGN, [ann.name, bob.name]) == bob.name
    assert named(db, bob.name) == set()


def test_running_jobs_must_end_first(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person, worker: Worker
) -> None:
    """Or an admin would have his query read by a superuser's rights."""
    for held in (False, True):
        waiting = one(estate, "SELECT kwdbml.train_model('p', 'other', 'shop', true, true)")
        if held:
            worker.claim(waiting)
        with refused("55006", ann.name, hint="cancel_job"):
            one(admin.connection, REASSIGN, [ann.name, bob.name])
        assert named(db, ann.name) == ALL
        assert one(db, "SELECT status = 'RUNNING' AND creator = %s FROM kwdbml.job WHERE id = %s", [ann.name, waiting])
        one(admin.connection, "SELECT kwdbml.cancel_job(%s::text)", [waiting])
    assert one(admin.connection, REASSIGN, [ann.name, bob.name]) == bob.name
    assert named(db, ann.name) == set()


def test_secrets_are_no_inheritance(
    shop: Connection, pipeline: str, db: Connection, admin: Person, ann: Person
) -> None:
    job = one(shop, """SELECT kwdbml.train_model('p', 'm', 'shop', true, true, '{"env": {"KEY": "secret"}}'::jsonb)""")
    assert one(shop, "SELECT env ->> 'KEY' FROM kwdbml.job_env") == "secret"
    one(shop, "SELECT kwdbml.cancel_job(%s::text)", [job])
    one(admin.connection, REASSIGN, [ann.name, admin.name])
    assert one(admin.connection, "SELECT creator FROM kwdbml.show_job(%s::text)", [job]) == admin.name
    for connection in (admin.connection, db):
        assert rows(connection, "SELECT * FROM kwdbml.job_env") == []


def dropped(db: Connection, name: str) -> None:
    who = sql.Identifier(name)
    db.execute(sql.SQL("DROP OWNED BY {}").format(who))
    db.execute(sql.SQL("DROP ROLE {}").format(who))


def test_nothing_of_kwdbml_keeps_a_role(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person, role: MakeRole
) -> None:
    """DROP ROLE alone does, for somebody who has models, grants, memberships and no tables; all others go on."""
    dora = role("dora", member_of=["kwdbml_admin", ann.name])
    mine = dora.connect()
    imported(mine, "public.doras")
    for who in ("syspublic", bob.name):
        run(mine, f"SELECT kwdbml.grant_privilege_on_model('doras', '{who}', 'SELECT')")
    run(estate, f"SELECT kwdbml.grant_privilege_on_model('m', '{dora.name}', 'PREDICT')",
                f"SELECT kwdbml.grant_privilege_on_training_pipeline('p', '{dora.name}', 'ALL')")  # fmt: skip
    assert one(admin.connection, REASSIGN, [dora.name, bob.name]) == bob.name
    mine.close()
    db.execute(sql.SQL("DROP ROLE {}").format(dora.identifier))
    seen = "SELECT array_agg(name ORDER BY name) FROM kwdbml.show_models()"
    people = ((ann, ["carls", "doras", "m"]), (bob, ["carls", "doras", "m"]), (admin, ["carls", "doras", "m"]))
    for person, names in people:
        assert one(person.connection, seen) == names
    assert one(role("anybody").connect(), seen) == ["doras"]
    assert one(bob.connection, "SELECT kwdbml.has_model_privilege('m', %s, 'PREDICT')", [bob.name])


def test_tables_are_postgresqls_to_reassign(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person
) -> None:
    """In either order, and what ann owned is bob's: her table, and the model that learned from it."""
    one(admin.connection, REASSIGN, [ann.name, bob.name])
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.execute(sql.SQL("DROP ROLE {}").format(ann.role.identifier))
    db.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(ann.role.identifier, bob.role.identifier))
    dropped(db, ann.name)
    assert one(bob.connection, "SELECT count(*) FROM shop") == 30
    assert one(bob.connection, "SELECT kwdbml.train_model('p', 'm', 'shop', true, true)")


@pytest.mark.parametrize("first", ["reassign", "drop"])
def test_a_new_role_of_the_old_name_inherits_nothing(
    estate: Connection, db: Connection, admin: Person, ann: Person, bob: Person, first: str
) -> None:
    if first == "reassign":
        one(admin.connection, REASSIGN, [ann.name, bob.name])
    dropped(db, ann.name)
    if first == "drop":
        one(admin.connection, REASSIGN, [ann.name, bob.name])
    db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(ann.role.identifier, sql.Literal(ann.role.password)))
    new = ann.role.connect()
    for listing in ("show_jobs", "show_models", "show_training_pipelines"):
        assert rows(new, f"SELECT * FROM kwdbml.{listing}()") == []
    with refused("42704", "no such model"):
        one(new, "SELECT kwdbml.remove_model('public.m')")
    assert one(bob.connection, "SELECT kwdbml.has_model_privilege('public.m', %s, 'ALL')", [bob.name])


def test_after_a_rename(estate: Connection, db: Connection, admin: Person, ann: Person) -> None:
    new = f"{ann.name}_new"
    password = sql.Literal(ann.role.password)
    try:
        db.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(ann.role.identifier, sql.Identifier(new)))
        db.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(new), password))
        renamed = psycopg.connect(ann.role.dsn.replace(ann.name, new), autocommit=True)
        with renamed:
            assert rows(renamed, "SELECT * FROM kwdbml.show_jobs()") == []
            assert one(admin.connection, REASSIGN, [ann.name, new]) == new
            assert one(renamed, "SELECT count(*) FROM kwdbml.show_jobs()") == 1
            assert one(renamed, "SELECT kwdbml.set_active_version('m', 1)") == 1
        with refused("42704", ann.name, hint="exactly"):
            one(admin.connection, REASSIGN, [ann.name, new])
    finally:
        db.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(new), ann.role.identifier))
