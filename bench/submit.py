"""submit: ``train_model`` calls a second on one connection, a transaction each, against procrastinate's ``defer``.

Nobody works the jobs off meanwhile, on either side. procrastinate has its synchronous psycopg connector with a pool of
one connection, an opened app, and a task with one argument per argument of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import procrastinate
import psycopg

from bench.report import Clock, Result, Scale, alternate, median, say, spread
from bench.server import Server, Site

_TABLE = """
CREATE TABLE bench.rows AS
SELECT i AS a, sin(i) AS b, 'k' || i % 5 AS k, i % 3 = 0 AS y FROM generate_series(1, 1000) AS i"""
_PIPELINE = """
SELECT kwdbml.create_training_pipeline(pipeline_name => 'bench.p', algorithm => 'hist_gradient_boosting',
    target => 'y', train_data => 'bench.rows', features => ARRAY['a', 'b', 'k'])"""
_SUBMIT = "SELECT kwdbml.train_model(%s, %s, %s, true, true)"
_ARGUMENTS = ("bench.p", "bench.m", "bench.rows")


@contextmanager
def _defer(site: Site) -> Iterator[Callable[..., object]]:
    """procrastinate in a database of its own on the same server."""
    with psycopg.connect(site.server.dsn("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE bench_procrastinate OWNER bench")
    dsn = site.server.dsn("bench_procrastinate", "bench")
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn, min_size=1, max_size=1))
    with app.open():
        app.schema_manager.apply_schema()

        @app.task(name="train")
        def train(pipeline: str, model: str, data: str, new_version: bool, deploy: bool) -> None:
            raise NotImplementedError

        yield train.defer


def run(server: Server, scale: Scale) -> Result:
    calls = scale.rows(500, 20)
    with server.database("bench_submit") as site, _defer(site) as defer:
        site.person.execute(_TABLE)
        site.rows(_PIPELINE)

        def ours() -> float:
            with Clock() as clock:
                for _ in range(calls):
                    site.person.execute(_SUBMIT, _ARGUMENTS).fetchone()
            return calls / clock.seconds

        def peer() -> float:
            pipeline, model, data = _ARGUMENTS
            with Clock() as clock:
                for _ in range(calls):
                    defer(pipeline=pipeline, model=model, data=data, new_version=True, deploy=True)
            return calls / clock.seconds

        ours(), peer()  # both warm
        taken = alternate(scale.rounds, ours=ours, peer=peer)
    say(f"  {calls} calls a round, one connection, a transaction each, durable commits, warm; no worker")
    spread(taken, "calls/s")
    mine, theirs = median(taken["ours"]), median(taken["peer"])
    return Result("submit", f"{mine:.0f}/s", f"{theirs:.0f}/s", f"{mine / theirs:.2f}", ">=1x", mine >= theirs)
