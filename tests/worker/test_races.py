"""Two workers that land while somebody changes the model: ``tests/sql/test_races.py`` has the pairs one by one."""

from __future__ import annotations

import psycopg

from kwdbml.engines.fake import FakeWorld
from tests.fixtures.bundles import zipped
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import WANTED_LOCKS, Site

IMPORT = """
SELECT kwdbml.import_model('m', '', 'b', 'sklearn_1.3', 'python_3.8', '{"name": "x", "type": "FLOAT"}'::jsonb,
                           '{"name": "late", "type": "INT"}'::jsonb, %s, NULL)
"""
WAITING = f"SELECT count(*) = %s FROM {WANTED_LOCKS} AND locktype IN ('tuple', 'transactionid')"


async def test_two_workers_land_after_an_import_that_was_open(site: Site, employ: Employ, world: FakeWorld) -> None:
    """Each version has a number of its own, one is active, and it is that of who came last."""
    world.script = held = plays.Held()
    for _ in range(2):
        await employ()
    await site.model()
    jobs = [await site.train(new_version=True), await site.train(new_version=True)]
    await site.until("SELECT count(*) = 2 FROM kwdbml.attempt WHERE phase = 'running'")
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as importer:
        await importer.execute(IMPORT, [zipped({"model/model.joblib": "not looked at here"})])
        held.go.set()
        await site.until(WAITING, 2)
        await importer.commit()
    for job in jobs:
        await site.succeeded(job)
    assert await site.versions() == [(1, True), (2, False), (3, False), (4, False)]
    assert await site.value("SELECT count(DISTINCT job_id) FROM kwdbml.model_version WHERE version > 2") == 2
