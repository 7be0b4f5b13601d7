"""Bob asks a model of Ann's: her code sees his rows, and nothing of them comes to her but the scores he asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kwdbml.engines.fake import FakeJob, FakeWorld
from tests.fixtures.database import MakeRole, Role
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import Site, metrics, result

SECRET = "bob's own row"
EVALUATE = "SELECT kwdbml.evaluate_model('', 'm', NULL, 'SELECT * FROM hers_not', 'F1 ,accuracy')"
PREDICT = "SELECT kwdbml.batch_predict('m', NULL::bigint, 'hers_not', 'answers', 'error')"


def spies(job: FakeJob) -> int:
    """What a model may do whose code has seen the rows: it writes them wherever a step can write."""
    plays.step(job)
    found = [{"objective": f"{SECRET} {n}", "score": n} for n in range(900)]
    found += [{"objective": "f1", "score": 0.25}, {"objective": "f1", "score": 0.125}, {"objective": "F1", "score": 1}]
    written = result(metrics=found, libraries={SECRET: SECRET}, notes=[SECRET], positive_label=SECRET)
    (job.outputs / "result.json").write_text(written)
    for name in ("model.zip", "transformer.zip", "error.json", SECRET):
        (job.outputs / name).write_text(SECRET)
    job.progress(SECRET, 0.5)
    job.print(SECRET)
    return 0


@dataclass
class Two:
    """Ann, who has made the model, and Bob, who may use it."""

    site: Site
    bob: Role
    as_bob: psycopg.AsyncConnection[Any]

    async def asks(self, query: str) -> str:
        row = await (await self.as_bob.execute(query.encode())).fetchone()
        assert row is not None
        return str(row[0])

    async def seen_by_ann(self) -> dict[str, Any]:
        """Every row that Ann sees, by table; of attempts what everybody may read."""
        tables = "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind IN ('r', 'v')"
        seen = {}
        for (table,) in await self.site.rows(tables):
            columns = await self.site.value(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = %s::regclass"
                " AND attnum > 0 AND has_column_privilege(%s, attrelid, attnum, 'SELECT')",
                f"kwdbml.{table}", self.site.ann.name,
            )  # fmt: skip
            if columns:
                query = f"SELECT to_jsonb(t) FROM (SELECT {columns} FROM kwdbml.{table}) AS t ORDER BY 1"
                seen[table] = await (await self.site.as_ann.execute(query.encode())).fetchall()
        return seen


@pytest.fixture
async def two(site: Site, role: MakeRole) -> AsyncIterator[Two]:
    bob = role("bob", create_on=["public"])
    await site.model()
    async with await psycopg.AsyncConnection.connect(bob.dsn, autocommit=True) as as_bob:
        await as_bob.execute(
            "CREATE TABLE hers_not AS SELECT n / 10.0::float8 AS x, n % 2 AS late FROM generate_series(1, 50) n"
        )
        await site.as_ann.execute("SELECT kwdbml.grant_privilege_on_model('m', %s, 'EVALUATE|PREDICT')", [bob.name])
        yield Two(site, bob, as_bob)


async def test_a_prediction_tells_its_model_nothing(two: Two, employ: Employ, world: FakeWorld) -> None:
    world.script = spies
    await employ()
    before = await two.seen_by_ann()
    assert {"job", "job_log", "attempt", "model_version", "jobs"} <= before.keys()
    job = await two.asks(PREDICT)
    assert (await two.site.succeeded(job))["rows"] == 50
    assert await two.seen_by_ann() == before
    assert SECRET in await two.site.lines(job)
    for look in ("show_job", "job_logs"):
        with pytest.raises(psycopg.errors.UndefinedObject, match="no such job"):
            await two.site.as_ann.execute(f"SELECT * FROM kwdbml.{look}(%s)".encode(), [job])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await two.site.as_ann.execute("TABLE answers")
    assert await two.asks("SELECT count(*) FROM answers") == "50"


async def test_an_evaluation_tells_the_scores_that_were_asked_for(two: Two, employ: Employ, world: FakeWorld) -> None:
    world.script = spies
    await employ()
    before = await two.seen_by_ann()
    job = await two.asks(EVALUATE)
    assert SECRET in json.dumps(await two.site.succeeded(job))
    after = await two.seen_by_ann()
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"model", "model_version"}
    assert SECRET not in json.dumps(after)
    told = [{"objective": "F1", "score": 1.0}, {"objective": "f1", "score": 0.25}]
    assert await two.site.value("SELECT last_metrics FROM kwdbml.model_version") == told
    await two.site.run(
        "UPDATE kwdbml.model SET creator = 'somebody gone'; UPDATE kwdbml.model_version SET last_metrics = NULL"
    )
    await two.site.succeeded(await two.asks(EVALUATE))
    assert await two.site.value("SELECT last_metrics FROM kwdbml.model_version") == told


@pytest.mark.parametrize("who", ["ann", "a member of bob's role"])
async def test_who_may_read_the_rows_is_told_all(two: Two, employ: Employ, world: FakeWorld, who: str) -> None:
    """The harmless twins: Ann's own evaluation, and that of somebody whose rights she has."""
    world.script = lambda job: plays.step(job) or bool((job.outputs / "result.json").write_text(
        result(metrics=[*metrics(), {"objective": "of my own", "score": 1}])) < 0)  # fmt: skip
    await employ()
    if who == "ann":
        job = await two.site.submit("SELECT kwdbml.evaluate_model('', 'm', NULL, 'trips', 'f1')")
    else:
        await two.site.run(f"GRANT {two.bob.name} TO {two.site.ann.name}".encode())
        job = await two.asks(EVALUATE)
    await two.site.succeeded(job)
    told = await two.site.value("SELECT last_metrics FROM kwdbml.model_version")
    assert [m["objective"] for m in told] == ["f1", "auc", "of my own"]


#: what no import takes as target, and a hand-written request may hold
DECLARED: list[Any] = [
    [{}], [5], [{"name": "y"}], [{"name": 5, "type": "INT"}], [{"name": ["y"], "type": "INT"}],
    [{"name": "", "type": "INT"}], [{"name": "y" * 64, "type": "INT"}], [{"name": "é" * 32, "type": "INT"}],
    [{"name": "y", "type": "bigint); DROP TABLE hers_not; --"}], [{"name": "y", "type": ["INT"]}],
]  # fmt: skip


async def test_a_declaration_by_hand(two: Two, employ: Employ) -> None:
    """Refused at the call, and in the worker where it became so after that; a name that is SQL is just a name."""
    await employ()
    by_hand: dict[str, Any] = {
        "schema": "public",
        "problem_type": "b",
        "framework": "sklearn_1.3",
        "runtime": "python_3.8",
    }
    by_hand |= {"creator": "postgres", "algorithm": "random_forest", "next_version": 7}  # nobody asks these
    predict = ""
    for number, target in enumerate([*DECLARED, [{"name": 'a"; DROP TABLE hers_not; --', "type": "INT"}]]):
        name = f"hand{number}"
        columns = {"features": [{"name": "x", "type": "FLOAT"}], "target": target}
        await two.site.as_ann.execute(
            "INSERT INTO kwdbml.request (kind, arguments, bundles) VALUES ('import_model', %s, ARRAY[%s::bytea])",
            [Jsonb({**by_hand, **columns, "name": name}), b"no bundle"],
        )
        await two.site.as_ann.execute("SELECT kwdbml.grant_privilege_on_model(%s, 'public', 'PREDICT')", [name])
        predict = PREDICT.replace("'m'", f"'{name}'")
        if number < len(DECLARED):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"target of model public.{name} is not a"):
                await two.asks(predict)
    assert (await two.site.succeeded(await two.asks(predict)))["rows"] == 50
    assert await two.asks("SELECT count(*) FROM answers JOIN hers_not USING (x, late)") == "50"
    made = (
        "SELECT DISTINCT m.creator, v.creator, v.algorithm, v.version FROM kwdbml.model m JOIN kwdbml.model_version v"
    )
    assert await two.site.rows(f"{made} ON v.model_id = m.id WHERE m.name ~ '^hand'".encode()) == [
        (two.site.ann.name, two.site.ann.name, None, 1)
    ]


async def test_a_declaration_that_became_so(two: Two, employ: Employ) -> None:
    """As if it had been so at the call: each of the jobs that wait, one after the other."""
    jobs = [await two.asks(PREDICT.replace("'answers'", f"'answers{number}'")) for number in range(len(DECLARED))]
    for number, (job, target) in enumerate(zip(jobs, DECLARED, strict=True)):
        await two.site.run(
            "UPDATE kwdbml.job SET queue = CASE id WHEN %s THEN 'default' ELSE 'later' END WHERE status = 'RUNNING'",
            job,
        )
        await two.site.run("UPDATE kwdbml.model SET target = %s", Jsonb(target))
        if number == 0:
            await employ()
        await two.site.run("NOTIFY kwdbml_wake")
        error = await two.site.failed(job)
        assert error["type"] in ("InvalidParameter", "InvalidParameterValue"), (target, error)
        assert "column" in error["message"], (target, error)
    assert await two.asks("SELECT count(*) FROM hers_not") == "50"
