"""batch_predict: 1,000,000 rows and their prediction into a new table, against read_sql + predict + to_sql.

The peer (``peers/predict.py``) is a fresh process per round and counts from after its imports. Its ``to_sql`` uses a
COPY callable, the fastest that pandas' documentation offers.
"""

from __future__ import annotations

import subprocess
import sys

from bench.report import Clock, Result, Scale, alternate, median, progress, say, spread
from bench.server import Server, Site, WorkerProcess

_TABLE = """
CREATE TABLE bench.events AS
SELECT i::bigint AS id, sin(i) * 100 AS a, cos(i) AS b, CASE WHEN i %% 10 > 0 THEN i %% 97 / 7.0::float8 END AS c,
       (i::bigint * 7919 %% 1000)::integer AS d, (i %% 365)::integer AS e, 'k' || i %% 50 AS k, 'g' || i %% 7 AS g,
       sin(i) + i %% 50 / 50.0 > 0.7 AS y
FROM generate_series(1, %s) AS i"""
_PIPELINE = """
SELECT kwdbml.create_training_pipeline(pipeline_name => 'bench.p', algorithm => 'hist_gradient_boosting',
    target => 'y', train_data => 'bench.events', features => ARRAY['a', 'b', 'c', 'd', 'e', 'k', 'g'])"""
_TRAIN = "SELECT kwdbml.train_model('bench.p', 'bench.m', 'SELECT * FROM bench.events WHERE id <= 100000', true, true)"
_PREDICT = """
SELECT kwdbml.batch_predict('bench.m', NULL::bigint, 'SELECT id, a, b, c, d, e, k, g FROM bench.events',
    'bench.predictions', 'error')"""
_COMPARE = """
SELECT count(*), count(*) FILTER (WHERE m.y = p.prediction)
FROM bench.predictions m JOIN bench.peer_predictions p USING (id)"""


def _peer(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.peers.predict", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class _Sides:
    def __init__(self, site: Site, worker: WorkerProcess) -> None:
        self._site, self._worker = site, worker
        self.model = str(site.server.base / "peer_predict.joblib")

    def ours(self) -> float:
        self._clean()
        self._worker.warmed()
        with self._site.listening("kwdbml_job_finished") as listener, Clock() as clock:
            job = str(self._site.value(_PREDICT))
            self._site.wait(listener, job)
        return clock.seconds

    def peer(self) -> float:
        self._clean()
        return float(_peer("predict", self._site.url, self.model))

    def _clean(self) -> None:
        """Both write new tables, and neither writes the other's dirty pages."""
        self._site.person.execute("DROP TABLE IF EXISTS bench.predictions, bench.peer_predictions")
        self._site.admin.execute("CHECKPOINT")

    def check(self) -> None:
        """Say how far the answers agree: the two models have held out other rows."""
        self.peer()
        self._site.run(_PREDICT)
        ((rows, same),) = self._site.rows(_COMPARE)
        say(f"  {rows:,} rows on both sides, {same / max(rows, 1):.1%} of the answers agree")


def run(server: Server, scale: Scale) -> Result:
    rows = scale.rows(1_000_000, 5_000)
    with server.database("bench_batch_predict") as site:
        progress(f"{rows:,} rows")
        site.person.execute(_TABLE, [rows])
        site.admin.execute("VACUUM (ANALYZE, FREEZE) bench.events")
        site.rows(_PIPELINE)
        with site.worker() as worker:
            site.run(_TRAIN)
            sides = _Sides(site, worker)
            _peer("train", site.url, sides.model)
            taken = alternate(scale.rounds, ours=sides.ours, peer=sides.peer)
            sides.check()
    say(f"  {rows:,} rows, 8 columns carried, 7 features, table in cache, both with every core")
    say("  ours: call to SUCCEEDED, warm worker and sandbox; the peer: imports not counted, to_sql by COPY")
    spread(taken, "s")
    mine, theirs = median(taken["ours"]), median(taken["peer"])
    return Result(
        "batch_predict", f"{mine:.2f}s", f"{theirs:.2f}s", f"{mine / theirs:.2f}", "<=0.5x", mine <= 0.5 * theirs
    )
