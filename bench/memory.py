"""memory: the worker's resident memory at most while 3 GB are staged and predicted back. No peer: a limit."""

from __future__ import annotations

from bench.report import Clock, Result, Scale, progress, say
from bench.server import Server, Site

LIMIT = 300 * 1000 * 1000  # bytes
#: 1,000 bytes a row: a number to carry, three to learn from, and a long text.
_TABLE = """
CREATE UNLOGGED TABLE bench.wide AS
SELECT i::bigint AS id, sin(i) AS a, cos(i) AS b, i %% 100 AS c, sin(i) > 0.3 AS y, repeat(md5(i::text), 30) AS note
FROM generate_series(1, %s) AS i"""
_PIPELINE = """
SELECT kwdbml.create_training_pipeline(pipeline_name => 'bench.p', algorithm => 'logistic_regression',
    target => 'y', train_data => 'bench.wide', features => ARRAY['a', 'b', 'c'])"""
_TRAIN = "SELECT kwdbml.train_model('bench.p', 'bench.m', 'SELECT * FROM bench.wide WHERE id <= 1000', true, true)"
_PREDICT = """
SELECT kwdbml.batch_predict('bench.m', NULL::bigint, 'bench.wide', 'bench.predicted', 'error')"""


def _sizes(site: Site) -> str:
    return str(site.value("SELECT pg_size_pretty(pg_relation_size('bench.wide'))"))


def run(server: Server, scale: Scale) -> Result:
    rows = scale.rows(3_000_000, 2_000)
    with server.database("bench_memory") as site:
        progress(f"{rows:,} rows of 1,000 bytes")
        site.person.execute(_TABLE, [rows])
        site.admin.execute("ANALYZE bench.wide")
        site.rows(_PIPELINE)
        with site.worker() as worker:
            site.run(_TRAIN)
            before = worker.peak()
            with Clock() as clock:
                site.run(_PREDICT)
            peak = worker.peak()
        written = site.value("SELECT count(*) FROM bench.predicted")
        assert written == rows
        say(f"  {rows:,} rows, {_sizes(site)} as a table, staged, predicted and written back in {clock.seconds:.1f} s")
    say(f"  the worker's VmHWM: {before / 1e6:.0f} MB before, {peak / 1e6:.0f} MB after")
    return Result("memory", f"{peak / 1e6:.0f}MB", "-", f"{peak / LIMIT:.2f}", f"<{LIMIT / 1e6:.0f}MB", peak < LIMIT)
