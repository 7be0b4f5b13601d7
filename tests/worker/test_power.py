"""The worker has no power of its own, says so where it is given some, and passes nothing of itself on."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kwdbml.engines.fake import FakeJob, FakeWorld
from kwdbml.errors import InsufficientPrivilege, WrongState
from tests.fixtures.database import MakeRole
from tests.fixtures.server import TestServer
from tests.worker import plays
from tests.worker.conftest import Employ, Launch
from tests.worker.site import Site

_TABLES = (
    "SELECT c.oid::regclass::text FROM pg_class c"
    " WHERE c.relnamespace = 'kwdbml'::regnamespace AND c.relkind IN ('r', 'v')"
)


async def _worker(dsn: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def _claim(worker: psycopg.AsyncConnection[Any]) -> tuple[str, str]:
    """(job, token)"""
    claim = "SELECT job_id::text, token::text FROM kwdbml.worker_claim('w', '{local}', '1 minute')"
    found = await (await worker.execute(claim)).fetchone()
    assert found is not None
    return found[0], found[1]


async def test_a_superuser_is_refused(site: Site, employ: Employ, dsn: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="superuser"):
        await employ(dsn=dsn)


async def test_a_superuser_is_taken_when_told(site: Site, employ: Employ, dsn: str) -> None:
    await employ(dsn=dsn, allow_superuser=True)
    await site.one_landed(await site.train())


async def test_a_role_that_is_no_worker_is_refused(site: Site, employ: Employ, role: MakeRole) -> None:
    with pytest.raises(InsufficientPrivilege, match="kwdbml_worker"):
        await employ(dsn=role("nobody").dsn)


async def test_a_database_without_the_extension_is_refused(site: Site, employ: Employ, server: TestServer) -> None:
    await site.run("DROP EXTENSION kwdbml CASCADE")
    with pytest.raises(WrongState, match="no extension kwdbml"):
        await employ()


ANOTHER = "UPDATE pg_catalog.pg_extension SET extversion = '0.0.1' WHERE extname = 'kwdbml'"


async def test_a_database_of_another_version_is_refused(site: Site, employ: Employ) -> None:
    await site.run(ANOTHER)
    with pytest.raises(WrongState, match=r"has kwdbml 0\.0\.1, this worker is \d") as refused:
        await employ()
    assert "ALTER EXTENSION kwdbml UPDATE" in refused.value.hint


async def test_an_upgrade_ends_a_worker_that_runs(site: Site, launch: Launch) -> None:
    """It takes nothing more, and says why: a job that comes then waits for a worker of the new version."""
    worker = await launch()
    await site.run(ANOTHER)
    assert await worker.code() == 1
    assert "error: the database has kwdbml 0.0.1" in worker.log
    job = await site.train()
    assert await site.attempts(job) == []


async def test_a_refusal_is_told_with_the_cure(worker_dsn: str, launch: Launch, dsn: str, site: Site) -> None:
    with pytest.raises(AssertionError) as refused:
        await launch(dsn=dsn)
    assert "error: the worker's role is a superuser" in str(refused.value)
    assert "hint: " in str(refused.value)


@pytest.mark.parametrize("privilege", ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"])
async def test_the_worker_has_no_more_rights_on_tables_than_everyone(
    site: Site, worker_dsn: str, role: MakeRole, privilege: str
) -> None:
    """Column rights too: what PUBLIC has is behind row security, and more there is not."""
    worker, nobody = str(conninfo_to_dict(worker_dsn)["user"]), role("nobody").name
    tables = [r[0] for r in await site.rows(_TABLES)]
    assert len(tables) > 10
    kind = "any_column" if privilege in ("SELECT", "INSERT", "UPDATE", "REFERENCES") else "table"
    ask = f"SELECT has_{kind}_privilege(%s, %s, %s)".encode()
    for table in tables:
        assert await site.value(ask, worker, table, privilege) == await site.value(ask, nobody, table, privilege), table


async def test_the_worker_sees_no_row(site: Site, employ: Employ, world: FakeWorld, worker_dsn: str) -> None:
    def script(job: FakeJob) -> int:
        job.print("a line")
        return plays.step(job)

    world.script = script
    await employ()
    await site.succeeded(await site.train(env={"SECRET": "x"}))
    hidden = ("job", "job_env", "job_log", "attempt", "pipeline", "model", "model_version")
    async with await _worker(worker_dsn) as worker:
        for table in hidden:
            assert await site.value(f"SELECT count(*) FROM kwdbml.{table}".encode()) > 0, table
            query = sql.SQL("SELECT count(*) FROM kwdbml.{}").format(sql.Identifier(table))
            assert await (await worker.execute(query)).fetchone() == (0,), table


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM kwdbml.artefact",
        "SELECT * FROM kwdbml.cleanup",
        "SELECT token FROM kwdbml.attempt",
        "CREATE TABLE kwdbml.mine ()",
        "SELECT * FROM public.trips",
    ],
)
async def test_the_worker_may_not(site: Site, worker_dsn: str, statement: str) -> None:
    async with await _worker(worker_dsn) as worker:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await worker.execute(statement.encode())


async def test_only_workers_call_worker_functions(site: Site) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await site.as_ann.execute("SELECT kwdbml.worker_claim('me', '{local}', '1 minute')")
    functions = await site.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
        " AND p.proname LIKE 'worker\\_%%' AND has_function_privilege(%s, p.oid, 'EXECUTE')",
        site.ann.name,
    )
    assert functions == []


async def test_worker_functions_pin_their_search_path(site: Site) -> None:
    loose = await site.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace AND p.prosecdef"
        " AND NOT coalesce(array_to_string(p.proconfig, ',') LIKE '%search_path=pg_catalog, pg_temp%', false)"
    )
    assert loose == []


async def test_a_token_of_another_job_opens_nothing(site: Site, worker_dsn: str) -> None:
    one, other = await site.train(), await site.train(model="other")
    async with await _worker(worker_dsn) as worker:
        job, token = await _claim(worker)
        strange = other if job == one else one
        for call in ("worker_spec", "worker_artefacts", "worker_stage", "worker_result_open"):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                await worker.execute(f"SELECT kwdbml.{call}(%s, %s)".encode(), [strange, token])


async def test_an_artefact_of_somebody_else_is_not_read(site: Site, worker_dsn: str) -> None:
    await site.train()
    await site.model(content=b"another one's model")
    artefact = await site.value("SELECT id FROM kwdbml.artefact WHERE kind = 'model'")
    async with await _worker(worker_dsn) as worker:
        claimed = await _claim(worker)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await worker.execute("SELECT kwdbml.worker_chunk(%s, %s, %s, 0)", [*claimed, artefact])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await worker.execute("SELECT kwdbml.worker_put(%s, %s, %s, 'model', 9, 'x')", [*claimed, artefact])


SHOWS = """
import json, os
def model_train(x_train, y_train, x_test, y_test):
    from sklearn.linear_model import LogisticRegression
    print(json.dumps(dict(os.environ)))
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                print(open(f"/proc/{name}/environ").read().replace("\\0", " "), open(f"/proc/{name}/cmdline").read())
            except OSError:
                pass
    return LogisticRegression().fit(x_train, y_train.iloc[:, 0] if y_train.ndim > 1 else y_train)
"""


async def test_nothing_of_the_workers_environment_reaches_user_code(
    site: Site, launch: Launch, worker_dsn: str
) -> None:
    """Its harmless twin, the job's own variable, does."""
    await site.pipeline("shows", train=SHOWS)
    await launch(WORKER_SECRET="canary", PGPASSWORD="canary", KWDBML_DSN=worker_dsn)
    job = await site.train(pipeline="shows", env={"MINE": "yes"})
    await site.succeeded(job)
    lines = await site.lines(job)
    seen = json.loads(next(line for line in lines if line.startswith("{")))
    assert seen["MINE"] == "yes"
    assert {name for name in seen if name.startswith(("KWDBML", "PG", "WORKER"))} == set()
    everything = "\n".join(lines)
    assert "canary" not in everything
    assert worker_dsn.rsplit("@", 1)[0] not in everything
