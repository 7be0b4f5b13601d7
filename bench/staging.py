"""staging: 2,000,000 rows × 8 columns from commit to the worker's Arrow file.

Ours is the whole way: commit, notification, claim, staging, the workspace complete (the attempt's phase becomes
*launching*). Peers: psycopg reads ``COPY (SELECT …) TO STDOUT (FORMAT binary)`` and keeps nothing, the least that
anybody can do; ``pandas.read_sql`` through SQLAlchemy and psycopg.
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import psycopg
from sqlalchemy import create_engine

from bench.report import Clock, Result, Scale, alternate, median, progress, say, spread
from bench.server import Server, Site, WorkerProcess

COLUMNS = ("id", "a", "b", "c", "d", "e", "k", "y")

_TABLE = """
CREATE TABLE bench.rows AS
SELECT i::bigint AS id, sin(i) * 100 AS a, cos(i) AS b, i / 7.0::float8 AS c, (i::bigint * 7919 %% 1000)::integer AS d,
       (i %% 365)::integer AS e, 'k' || i %% 50 AS k, i %% 3 = 0 AS y
FROM generate_series(1, %s) AS i"""
_PIPELINE = """
SELECT kwdbml.create_training_pipeline(pipeline_name => 'bench.p', algorithm => 'hist_gradient_boosting',
    target => 'y', train_data => 'bench.rows', features => ARRAY['id', 'a', 'b', 'c', 'd', 'e', 'k'])"""
_SUBMIT = "SELECT kwdbml.train_model('bench.p', 'bench.m', 'bench.rows', true, true)"
_COPY = "COPY (SELECT id, a, b, c, d, e, k, y FROM bench.rows) TO STDOUT (FORMAT binary)"


class _Sides:
    def __init__(self, site: Site, worker: WorkerProcess) -> None:
        self._site, self._worker = site, worker
        self._engine = create_engine(site.url)

    def ours(self) -> float:
        self._worker.warmed()
        with self._site.listening("bench_phase", "kwdbml_job_finished") as listener:
            self._site.person.execute("BEGIN")
            job = str(self._site.value(_SUBMIT))
            committed = time.time()
            self._site.person.execute("COMMIT")
            staged = _launching(listener, job)
            self._site.person.execute("SELECT kwdbml.cancel_job(%s)", [job])
        self._site.admin.execute("CHECKPOINT")
        return staged - committed

    def copy(self) -> float:
        with psycopg.connect(self._site.server.dsn(self._site.name, "bench")) as connection, Clock() as clock:
            cursor = connection.cursor()
            with cursor.copy(_COPY) as copy:
                while copy.read():
                    pass
        return clock.seconds

    def read_sql(self) -> float:
        with Clock() as clock:
            frame = pd.read_sql(f"SELECT {', '.join(COLUMNS)} FROM bench.rows", self._engine)
        assert len(frame.columns) == len(COLUMNS)
        return clock.seconds


def _launching(listener: psycopg.Connection[Any], job: str) -> float:
    """When, on the server's clock, the job's workspace was complete."""
    for told in listener.notifies(timeout=300):
        words = told.payload.split()
        if words[0] == job and len(words) == 1:
            raise RuntimeError(f"job {job} ended while it was staged")
        if words[:2] == [job, "launching"]:
            return float(words[2])
    raise RuntimeError("the job was not staged within five minutes")


def run(server: Server, scale: Scale) -> Result:
    rows = scale.rows(2_000_000, 5_000)
    with server.database("bench_staging") as site:
        progress(f"{rows:,} rows")
        site.person.execute(_TABLE, [rows])
        site.admin.execute("VACUUM (ANALYZE, FREEZE) bench.rows")
        site.rows(_PIPELINE)
        with site.worker() as worker:
            sides = _Sides(site, worker)
            sides.copy()  # the table is in memory from here on, for all sides
            taken = alternate(scale.rounds, ours=sides.ours, copy=sides.copy, read_sql=sides.read_sql)
    say(f"  {rows:,} rows × {len(COLUMNS)} columns, table in cache")
    say("  ours: from before COMMIT is sent, warm worker and sandbox; peers: warm interpreter, 1 thread")
    spread(taken, "s")
    ours, copy, pandas = (median(taken[name]) for name in ("ours", "copy", "read_sql"))
    return Result(
        "staging",
        f"{ours:.3f}s",
        f"COPY:{copy:.3f}s,read_sql:{pandas:.3f}s",
        f"{ours / copy:.2f},{ours / pandas:.2f}",
        "<=1.5xCOPY,<=0.25xread_sql",
        ours <= 1.5 * copy and ours <= 0.25 * pandas,
    )
