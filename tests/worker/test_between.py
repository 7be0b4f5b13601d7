"""What may change between the call and the end: rights, data, models. All is checked again."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kwdbml.engines.fake import FakeWorld
from tests.fixtures.database import MakeRole
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import Site


async def _meanwhile(site: Site, employ: Employ, job: str, *statements: str) -> dict[str, Any]:
    """The error of a queued job after the superuser has done this, before any worker looked."""
    for statement in statements:
        await site.run(statement.format(ann=site.ann.name).encode())
    await employ()
    return await site.failed(job)


#: what the superuser does to ann's trips while the job waits: the error's type and a word of it
DATA = {
    "dropped": ("DROP TABLE trips", "UndefinedTable", "trips"),
    "select revoked": (
        "ALTER TABLE trips OWNER TO CURRENT_USER; REVOKE ALL ON trips FROM {ann}",
        "InsufficientPrivilege",
        "trips",
    ),
    "column revoked": (
        "ALTER TABLE trips OWNER TO CURRENT_USER; GRANT SELECT (id, late) ON trips TO {ann}",
        "InsufficientPrivilege",
        "trips",
    ),
    "schema revoked": (
        "CREATE SCHEMA s; ALTER TABLE trips SET SCHEMA s",
        "UndefinedTable",
        "trips",
    ),
    "column dropped": ("ALTER TABLE trips DROP COLUMN x", "UndefinedColumn", "x"),
    "column renamed": ("ALTER TABLE trips RENAME COLUMN late TO never", "UndefinedColumn", "late"),
    "type changed": ("ALTER TABLE trips ALTER COLUMN x TYPE text USING 'a lot'", "InvalidTextRepresentation", "a lot"),
    "role dropped": (
        "REASSIGN OWNED BY {ann} TO CURRENT_USER; DROP OWNED BY {ann}; DROP ROLE {ann}",
        "UndefinedObject",
        "was dropped",
    ),
    "another of that name": (
        "REASSIGN OWNED BY {ann} TO CURRENT_USER; DROP OWNED BY {ann}; DROP ROLE {ann}; CREATE ROLE {ann} SUPERUSER",
        "UndefinedObject",
        "was dropped",
    ),
}


@pytest.mark.parametrize("case", list(DATA))
@pytest.mark.parametrize("data", ["trips", "SELECT * FROM trips WHERE id > 0"])
async def test_the_data(site: Site, employ: Employ, world: FakeWorld, case: str, data: str) -> None:
    statement, kind, word = DATA[case]
    error = await _meanwhile(site, employ, await site.train(data), statement)
    assert (error["type"], word in error["message"]) == (kind, True), error
    assert world.launches == []
    assert await site.versions() == []


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("1 / (id - 40)", "DivisionByZero"),
        ("nextval('s')", "ReadOnlySqlTransaction"),
        ("currval('s')", "ObjectNotInPrerequisiteState"),
        ("bad()", "ConnectionFailure"),
    ],
)
async def test_a_query_that_fails_when_it_runs(site: Site, employ: Employ, expression: str, kind: str) -> None:
    """With its own SQLSTATE, also where that is one of those that mean something between us and the database."""
    await site.as_ann.execute("CREATE SEQUENCE s")
    await site.as_ann.execute(
        "CREATE FUNCTION bad() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'bad' USING ERRCODE = '08006'; END $$"
    )
    await employ()
    error = await site.failed(await site.train(f"SELECT ({expression})::float8 AS x, late FROM trips"))
    assert error["type"] == kind, error


async def _belongs_to(site: Site, what: str, owner: str) -> None:
    await site.run(f"UPDATE kwdbml.{what} SET creator = %s".encode(), owner)


async def test_the_right_to_train_is_revoked(site: Site, employ: Employ, role: MakeRole) -> None:
    await _belongs_to(site, "pipeline", role("bob").name)
    await site.run(
        "INSERT INTO kwdbml.pipeline_privilege SELECT id, %s, 'TRAIN' FROM kwdbml.pipeline"
        " UNION ALL SELECT id, %s, 'SELECT' FROM kwdbml.pipeline",
        site.ann.name, site.ann.name,
    )  # fmt: skip
    job = await site.train()
    error = await _meanwhile(site, employ, job, "DELETE FROM kwdbml.pipeline_privilege WHERE privilege = 'TRAIN'")
    assert (error["type"], "pipeline" in error["message"]) == ("InsufficientPrivilege", True)


@pytest.mark.parametrize("when", ["queued", "running"])
async def test_the_right_to_predict_is_revoked(
    site: Site, employ: Employ, world: FakeWorld, role: MakeRole, when: str
) -> None:
    await site.model(target=[{"name": "y", "type": "INT"}])
    await _belongs_to(site, "model", role("bob").name)
    for privilege in ("PREDICT", "SELECT"):
        await site.run(
            "INSERT INTO kwdbml.model_privilege SELECT id, %s, %s FROM kwdbml.model", site.ann.name, privilege
        )
    world.script = held = plays.Held()
    job = await site.predict()
    if when == "running":
        await employ()
        await held.at.wait()
    await site.run("DELETE FROM kwdbml.model_privilege WHERE privilege = 'PREDICT'")
    held.go.set()
    if when == "queued":
        await employ()
    error = await site.failed(job)
    assert (error["type"], "model" in error["message"]) == ("InsufficientPrivilege", True)
    assert await site.value("SELECT to_regclass('answers')::text") is None


async def test_the_model_stays_while_a_job_needs_it(site: Site, employ: Employ) -> None:
    await site.model(target=[{"name": "y", "type": "INT"}])
    job = await site.predict()
    with pytest.raises(psycopg.errors.ObjectInUse):
        await site.run("DELETE FROM kwdbml.model")
    await employ()
    await site.succeeded(job)
    await site.run("DELETE FROM kwdbml.model")


async def test_of_two_that_race_for_a_name_the_second_fails(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ(concurrency=2)
    jobs = [await site.train(), await site.train()]
    await site.until("SELECT count(*) = 2 FROM kwdbml.attempt WHERE phase = 'running'")
    held.go.set()
    ends = sorted([await site.ended(job) for job in jobs], key=lambda end: end[0])
    assert [status for status, _ in ends] == ["FAILED", "SUCCEEDED"]
    assert (ends[0][1]["type"], "already exists" in ends[0][1]["message"]) == ("DuplicateObject", True)
    assert await site.versions() == [(1, True)]


async def test_of_two_that_may_add_versions_both_land(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ(concurrency=2)
    jobs = [await site.train(new_version=True), await site.train(new_version=True)]
    await site.until("SELECT count(*) = 2 FROM kwdbml.attempt WHERE phase = 'running'")
    held.go.set()
    for job in jobs:
        await site.succeeded(job)
    assert await site.versions() == [(1, True), (2, False)]


async def test_a_model_of_another_shape_appears(site: Site, employ: Employ, world: FakeWorld) -> None:
    world.script = held = plays.Held()
    await employ()
    job = await site.train(new_version=True)
    await held.at.wait()
    await site.model(features=[{"name": "z", "type": "FLOAT"}])
    held.go.set()
    error = await site.failed(job)
    assert error["type"] == "InvalidParameterValue"
    assert 'does not fit model public.m: its features: [{"name": "x", "type": "FLOAT"}], the model' in error["message"]
    assert await site.versions() == [(1, True)]


async def test_another_persons_model_appears(site: Site, employ: Employ, world: FakeWorld, role: MakeRole) -> None:
    """Its name is taken and not the creator's to extend, as at the call; that is all that is told."""
    world.script = held = plays.Held()
    await employ()
    job = await site.train(new_version=True)
    await held.at.wait()
    await site.model()
    await _belongs_to(site, "model", role("bob").name)
    held.go.set()
    error = await site.failed(job)
    assert error["type"] == "InsufficientPrivilege"


async def test_a_model_over_the_limit(site: Site, employ: Employ) -> None:
    await site.run("INSERT INTO kwdbml.settings VALUES ('model_limit', %s)", Jsonb(10))
    await employ()
    error = await site.failed(await site.train())
    assert error["type"] == "LimitExceeded"
    assert f"{len(plays.MODEL)} bytes" in error["message"]
    assert "limit is 10" in error["message"]
    assert await site.value("SELECT count(*) FROM kwdbml.artefact WHERE kind = 'model'") == 0


async def test_a_model_at_the_limit(site: Site, employ: Employ) -> None:
    await site.run("INSERT INTO kwdbml.settings VALUES ('model_limit', %s)", Jsonb(len(plays.MODEL)))
    await employ()
    await site.succeeded(await site.train())


async def test_a_damaged_bundle(site: Site, employ: Employ) -> None:
    job = await site.train()
    spoil = "UPDATE kwdbml.artefact_chunk SET chunk = overlay(chunk PLACING '\\x00' FROM 5)"
    error = await _meanwhile(site, employ, job, spoil)
    assert "damaged" in error["message"]
