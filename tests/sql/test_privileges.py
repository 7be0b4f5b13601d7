"""Granting and revoking: who may, what it opens, and that it ends with the next statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.database import MakeRole, Role
from tests.sql.test_registry import imported

THINGS = ("model", "training_pipeline")


@pytest.fixture
def ann(role: MakeRole) -> psycopg.Connection[Any]:
    """Creator of the model and the training pipeline public.m."""
    connection = role("ann", create_on=["public"]).connect()
    connection.execute("CREATE TABLE public.d AS SELECT i::float8 AS x, i % 2 AS y FROM generate_series(1, 50) i")
    connection.execute("SELECT kwdbml.create_training_pipeline('m', 'logistic_regression', 'y', 'd', 'b')")
    imported(connection, features='[{"name": "x", "type": "FLOAT"}]', target='[{"name": "y", "type": "INT"}]')
    return connection


def call(connection: psycopg.Connection[Any], function: str, thing: str, who: str, privilege: str) -> Any:
    name = f"has_{thing}_privilege" if function == "has" else f"{function}_privilege_on_{thing}"
    row = connection.execute(f"SELECT kwdbml.{name}('m', %s, %s)".encode(), [who, privilege]).fetchone()
    assert row is not None
    return row[0]


def shown(connection: psycopg.Connection[Any], thing: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM kwdbml.show_{thing}s()".encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("thing", THINGS)
def test_a_grant_opens_and_a_revoke_closes_with_the_next_statement(
    ann: psycopg.Connection[Any], role: MakeRole, thing: str
) -> None:
    bob = role("bob")
    bobs = bob.connect()
    assert shown(bobs, thing) == 0
    assert call(ann, "grant", thing, bob.name, "select") == bob.name
    assert call(ann, "grant", thing, bob.name, "SELECT | Delete") == bob.name
    assert shown(bobs, thing) == 1
    assert call(bobs, "has", thing, bob.name, "SELECT|DELETE") is True
    assert call(bobs, "has", thing, bob.name, "ALL") is False
    assert call(ann, "revoke", thing, bob.name, "all") == bob.name
    assert shown(bobs, thing) == 0
    with pytest.raises(psycopg.errors.UndefinedObject):
        call(bobs, "has", thing, bob.name, "SELECT")


@pytest.mark.parametrize("thing", THINGS)
def test_everyone_and_members_of_a_role(ann: psycopg.Connection[Any], role: MakeRole, thing: str) -> None:
    group = role("readers")
    carl, dora = role("carl", member_of=[group.name]), role("dora")
    call(ann, "grant", thing, group.name, "SELECT")
    assert (shown(carl.connect(), thing), shown(dora.connect(), thing)) == (1, 0)
    assert call(ann, "has", thing, carl.name, "SELECT") is True
    assert call(ann, "has", thing, dora.name, "SELECT") is False
    assert call(ann, "has", thing, "syspublic", "SELECT") is False
    assert call(ann, "grant", thing, "SysPublic", "SELECT") == "SysPublic"
    assert shown(dora.connect(), thing) == 1
    assert call(ann, "has", thing, "public", "SELECT") is True
    call(ann, "revoke", thing, "syspublic", "SELECT")
    assert (shown(carl.connect(), thing), shown(dora.connect(), thing)) == (1, 0)


@pytest.mark.parametrize("thing", THINGS)
def test_a_grantee_passes_nothing_on_and_a_stranger_finds_nothing(
    ann: psycopg.Connection[Any], role: MakeRole, thing: str
) -> None:
    bob, eve = role("bob"), role("eve")
    call(ann, "grant", thing, bob.name, "ALL")
    for function in ("grant", "revoke"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            call(bob.connect(), function, thing, eve.name, "SELECT")
        assert "pass" in str(refused.value.diag.message_hint)
        with pytest.raises(psycopg.errors.UndefinedObject) as unknown:
            call(eve.connect(), function, thing, eve.name, "SELECT")
        assert "no such" in str(unknown.value)
    assert shown(eve.connect(), thing) == 0
    admin = role("root", member_of=["kwdbml_admin"]).connect()
    call(admin, "grant", thing, eve.name, "SELECT")
    assert shown(eve.connect(), thing) == 1


@pytest.mark.parametrize(
    ("who", "privilege", "state"),
    [
        ("nobody_of_that_name", "SELECT", "42704"), ("public", "FLY", "22023"), ("public", "", "22023"),
        ("public", "SELECT|", "22023"), ("public", None, "22004"), (None, "SELECT", "22004"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", ["grant", "revoke", "has"])
def test_bad_arguments(ann: psycopg.Connection[Any], function: str, who: Any, privilege: Any, state: str) -> None:
    for thing in THINGS:
        with pytest.raises(psycopg.Error) as refused:
            call(ann, function, thing, who, privilege)
        assert refused.value.sqlstate == state
        assert refused.value.diag.message_hint


def test_a_privilege_of_one_kind_is_none_of_the_other(ann: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="TRAIN"):
        call(ann, "grant", "model", "public", "TRAIN")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="PREDICT"):
        call(ann, "grant", "training_pipeline", "public", "PREDICT")


def test_who_may_predict_needs_no_select_and_sees_no_versions(ann: psycopg.Connection[Any], role: MakeRole) -> None:
    bob: Role = role("bob", create_on=["public"])
    ann.execute("GRANT SELECT ON public.d TO PUBLIC")
    call(ann, "grant", "model", bob.name, "PREDICT")
    bobs = bob.connect()
    assert bobs.execute("SELECT kwdbml.batch_predict('m', NULL, 'd', 'public.r', 'error')").fetchone() is not None
    assert bobs.execute("SELECT count(*) FROM kwdbml.model_version").fetchone() == (0,)
    for call_ in (
        "kwdbml.evaluate_model('', 'm', NULL, 'd', 'f1')",
        "kwdbml.set_active_version('m', 1)",
        "kwdbml.remove_model('m')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bobs.execute(f"SELECT {call_}".encode())
    call(ann, "revoke", "model", bob.name, "PREDICT")
    with pytest.raises(psycopg.errors.UndefinedObject):
        bobs.execute("SELECT kwdbml.batch_predict('m', NULL, 'd', 'public.r', 'error')")


def test_who_may_create_makes_versions_but_deploys_none(ann: psycopg.Connection[Any], role: MakeRole) -> None:
    bob = role("bob")
    call(ann, "grant", "model", bob.name, "CREATE")
    x, y = '[{"name": "x", "type": "FLOAT"}]', '[{"name": "y", "type": "INT"}]'
    assert imported(bob.connect(), features=x, target=y) == "public.m,2"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        bob.connect().execute("SELECT kwdbml.set_active_version('m', 2)")
    call(ann, "grant", "model", bob.name, "UPDATE")
    assert bob.connect().execute("SELECT kwdbml.set_active_version('m', 2)").fetchone() == (2,)


def test_a_running_job_keeps_its_version_and_its_model(ann: psycopg.Connection[Any]) -> None:
    imported(ann, features='[{"name": "x", "type": "FLOAT"}]', target='[{"name": "y", "type": "INT"}]')
    job = ann.execute("SELECT kwdbml.evaluate_model('', 'm', 2, 'd', 'f1')").fetchone()
    assert job is not None
    for call_ in ("kwdbml.remove_model('m', 2)", "kwdbml.remove_model('m')"):
        with pytest.raises(psycopg.errors.ObjectInUse) as refused:
            ann.execute(f"SELECT {call_}".encode())
        assert "running job" in str(refused.value)
    ann.execute("SELECT kwdbml.cancel_job(%s)", [job[0]])
    ann.execute("SELECT kwdbml.remove_model('m', 2)")
    assert ann.execute("SELECT status, model_version FROM kwdbml.show_job(%s)", [job[0]]).fetchone() == ("CANCELED", 2)


@pytest.fixture
def people(role: MakeRole, db: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """Roles whose names differ in case alone, and one whose name is no plain word: name in the test → real name."""
    lower = role("carl").name
    made = {"lower": lower, "capital": lower.capitalize(), "blank": f"a|b {lower}", "upper": f"DORA_{lower}"}
    others = [sql.Identifier(name) for name in made.values() if name != lower]
    for name in others:
        db.execute(sql.SQL("CREATE ROLE {}").format(name))
    yield made
    for name in others:
        db.execute(sql.SQL("DROP ROLE {}").format(name))


def grantees(db: psycopg.Connection[Any], thing: str) -> list[str]:
    table = "model" if thing == "model" else "pipeline"
    return [row[0] for row in db.execute(f"SELECT DISTINCT grantee FROM kwdbml.{table}_privilege".encode()).fetchall()]


@pytest.mark.parametrize("thing", THINGS)
def test_a_role_is_found_exactly_else_in_lower_case(
    ann: psycopg.Connection[Any], people: dict[str, str], db: psycopg.Connection[Any], thing: str
) -> None:
    lower = people["lower"]
    for given, means in (
        (lower, lower), (lower.upper(), lower), (people["capital"], people["capital"]), (f" {lower}\n", lower),
        (people["blank"], people["blank"]), (people["upper"], people["upper"]), ("pg_monitor", "pg_monitor"),
        (ann.info.user, ann.info.user), ("PUBLIC", "public"), (" SysPublic ", "public"),
    ):  # fmt: skip
        assert call(ann, "grant", thing, given, "SELECT") == given
        assert call(ann, "grant", thing, given, "SELECT") == given  # twice is once
        assert grantees(db, thing) == [means]
        assert call(ann, "has", thing, given, "SELECT") is True
        assert call(ann, "revoke", thing, given, "SELECT") == given
        assert call(ann, "revoke", thing, given, "SELECT") == given  # what is not granted is revoked already
        assert grantees(db, thing) == []
    for given in (people["upper"].lower(), f'"{lower}"', f"{lower},{lower}", "", " ", "none", "current_user", "x" * 99):
        for function in ("grant", "revoke", "has"):
            with pytest.raises(psycopg.errors.UndefinedObject, match="role") as refused:
                call(ann, function, thing, given, "SELECT")
            assert refused.value.diag.message_hint
    assert grantees(db, thing) == []


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("SELECT", "SELECT"), ("select", "SELECT"), (" Select ", "SELECT"), ("SELECT|DELETE", "DELETE SELECT"),
        ("delete | SELECT|select", "DELETE SELECT"), ("SELECT\t|\n DELETE", "DELETE SELECT"), ("all|SELECT", "ALL"),
        ("All", "ALL"),
    ],
)  # fmt: skip
def test_every_list_of_privileges(
    ann: psycopg.Connection[Any], db: psycopg.Connection[Any], thing: str, given: str, means: str
) -> None:
    known = {"model": "CREATE DELETE EVALUATE PREDICT SELECT UPDATE", "training_pipeline": "DELETE SELECT TRAIN"}
    table = "model" if thing == "model" else "pipeline"
    granted = f"SELECT privilege FROM kwdbml.{table}_privilege ORDER BY 1".encode()
    call(ann, "grant", thing, "public", given)
    expected = known[thing] if means == "ALL" else means
    assert [row[0] for row in db.execute(granted)] == expected.split()
    assert call(ann, "has", thing, "public", given) is True
    call(ann, "revoke", thing, "public", given)
    assert db.execute(granted).fetchall() == []


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    "given", ["", " ", "|", "SELECT|", "|SELECT", "SELECT||DELETE", "SELECT, DELETE", "*", "ALL PRIVILEGES", "GRANT",
              "\u017felect", "SELECT WITH GRANT OPTION", "x" * 5000]
)  # fmt: skip
def test_what_is_no_list_of_privileges(
    ann: psycopg.Connection[Any], db: psycopg.Connection[Any], thing: str, given: str
) -> None:
    for function in ("grant", "revoke", "has"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="unknown privilege") as refused:
            call(ann, function, thing, "public", given)
        assert "joined by |" in str(refused.value.diag.message_hint)
        assert len(str(refused.value.diag.message_primary)) < 300
    assert grantees(db, thing) == []


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("m", None), ("public.m", None), ("PUBLIC.m", None), (" m ", None), ("M", "42704"), ("x", "42704"),
        ("pg_catalog.m", "42704"), ("kwdbml.m", "42704"), (None, "22004"), ("", "22023"), (".m", "22023"),
        ("public.", "22023"), ("m m", "22023"), ('"m"', "22023"), ("m" * 64, "22023"), ("nowhere.m", "3F000"),
        ("hidden.m", "42501"),
    ],
)  # fmt: skip
def test_every_form_of_a_name(
    ann: psycopg.Connection[Any], db: psycopg.Connection[Any], thing: str, name: str | None, state: str | None
) -> None:
    db.execute("CREATE SCHEMA hidden")
    for function in (f"grant_privilege_on_{thing}", f"revoke_privilege_on_{thing}", f"has_{thing}_privilege"):
        statement = f"SELECT kwdbml.{function}(%s, 'public', 'SELECT')".encode()
        if state is None:
            assert ann.execute(statement, [name]).fetchone() is not None
            continue
        with pytest.raises(psycopg.Error) as refused:
            ann.execute(statement, [name])
        assert refused.value.sqlstate == state
        assert refused.value.diag.message_hint


@pytest.mark.parametrize("thing", THINGS)
def test_named_notation_and_bind_parameters(ann: psycopg.Connection[Any], role: MakeRole, thing: str) -> None:
    bob = role("bob").name
    argument = "model_name" if thing == "model" else "pipeline_name"
    named = f"{argument} => %s, user_name => %s, privilege => %s"
    for function, answer in (
        (f"grant_privilege_on_{thing}", bob), (f"has_{thing}_privilege", True), (f"revoke_privilege_on_{thing}", bob),
        (f"has_{thing}_privilege", False),
    ):  # fmt: skip
        assert ann.execute(f"SELECT kwdbml.{function}({named})".encode(), ["m", bob, "ALL"]).fetchone() == (answer,)


@pytest.mark.parametrize("thing", THINGS)
def test_owners_have_all_whatever_is_granted_or_revoked(
    ann: psycopg.Connection[Any], role: MakeRole, db: psycopg.Connection[Any], thing: str
) -> None:
    admin, group = role("root", member_of=["kwdbml_admin"]), role("group")
    for who in (ann.info.user, admin.name, db.info.user, "kwdbml_admin"):
        call(ann, "grant", thing, who, "SELECT")
        call(ann, "revoke", thing, who, "ALL")
        assert call(ann, "has", thing, who, "ALL") is True
    assert call(ann, "has", thing, group.name, "SELECT") is False
    db.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(ann.info.user), group.identifier))
    assert call(ann, "has", thing, group.name, "ALL") is True


@pytest.mark.parametrize("thing", THINGS)
def test_what_a_dropped_role_was_granted_is_revoked_here_and_nowhere_else(
    ann: psycopg.Connection[Any], role: MakeRole, db: psycopg.Connection[Any], thing: str
) -> None:
    gone, eve = f"gone_{ann.info.user}", role("eve", create_on=["public"]).connect()
    db.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(gone)))
    call(ann, "grant", thing, gone, "SELECT")
    db.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(gone)))
    for function in ("grant", "has"):
        with pytest.raises(psycopg.errors.UndefinedObject, match=gone):
            call(ann, function, thing, gone, "SELECT")
    imported(eve, "hers")
    with pytest.raises(psycopg.errors.UndefinedObject, match=gone):  # what others granted is no business of Eve's
        eve.execute("SELECT kwdbml.revoke_privilege_on_model('hers', %s, 'SELECT')", [gone])
    assert grantees(db, thing) == [gone]
    assert call(ann, "revoke", thing, gone, "ALL") == gone
    assert grantees(db, thing) == []
    with pytest.raises(psycopg.errors.UndefinedObject, match=gone):
        call(ann, "revoke", thing, gone, "ALL")
