"""show_jobs: the first page (50 newest) of a user who owns 300,000 of 1,000,000 jobs, against 3,000 of 10,000.

The same role, the same server, two databases. The claim is the page as people ask for it; the other ways to list are
measured beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import LiteralString

from psycopg import sql

from bench.report import Clock, Result, Scale, alternate, median, progress, say, spread
from bench.server import Server, Site

LIMIT = 0.010  # seconds
CALLS = 20
_STRANGERS = 7
#: Three tenths are the role's, the rest strangers'; of every hundred one failed, and the newest ten run.
_JOBS = """
INSERT INTO kwdbml.job (type, status, pipeline_name, model_name, creator, creator_oid, created, finished, settings,
    result, data_query, data_columns)
SELECT CASE i % 3 WHEN 0 THEN 'TRAIN' WHEN 1 THEN 'EVALUATE' ELSE 'BATCH_PREDICT' END::kwdbml.job_type,
       CASE WHEN i <= 10 THEN 'RUNNING' WHEN i % 100 = 0 THEN 'FAILED' ELSE 'SUCCEEDED' END::kwdbml.job_status,
       'bench.p', 'bench.m' || i % 21, c.name, to_regrole(c.name), now() - i * interval '10 s',
       CASE WHEN i > 10 THEN now() - i * interval '10 s' + interval '5 s' END,
       '{"train_data": "bench.rows", "immediately_deploy": true, "new_version_if_exists": true}',
       '[{"objective": "auc", "score": 0.9}, {"objective": "f1", "score": 0.8}]', 'SELECT * FROM bench.rows',
       '[{"name": "a", "oid": 23, "type": "integer", "typmod": -1}]'
FROM generate_series(1, __ROWS__) AS i,
     LATERAL (SELECT CASE WHEN i % 10 < 3 THEN 'bench' ELSE 'stranger' || i % 7 END) AS c(name)"""
_ATTEMPTS = """
INSERT INTO kwdbml.attempt (job_id, number, worker, lease_until, engine, run_name, ended, outcome)
SELECT j.id, 1, 'w', now(), 'local', 'run-' || j.id, now(), 'SUCCEEDED'
FROM kwdbml.job j WHERE j.status <> 'RUNNING'"""

PAGES: dict[str, LiteralString] = {
    "first page": "SELECT * FROM kwdbml.show_jobs() ORDER BY created DESC LIMIT 50",
    "as it comes": "SELECT * FROM kwdbml.show_jobs() LIMIT 50",
    "one status": "SELECT * FROM kwdbml.show_jobs(ARRAY['SUCCEEDED']) ORDER BY created DESC LIMIT 50",
    "one model": "SELECT * FROM kwdbml.show_jobs('bench.m3') ORDER BY created DESC LIMIT 50",
    "the view": "SELECT * FROM kwdbml.jobs ORDER BY created DESC LIMIT 50",
}


def _fill(site: Site, rows: int) -> None:
    for number in range(_STRANGERS):
        name = f"stranger{number}"
        if site.admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
            site.admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    site.admin.execute(_JOBS.replace("__ROWS__", str(rows)).encode())
    with site.admin.transaction():
        site.admin.execute("SET LOCAL session_replication_role = replica")  # without looking up a million foreign keys
        site.admin.execute(_ATTEMPTS)
    site.admin.execute("VACUUM ANALYZE kwdbml.job")
    site.admin.execute("VACUUM ANALYZE kwdbml.attempt")
    site.admin.execute("CHECKPOINT")


def _page(site: Site, query: LiteralString) -> Callable[[], float]:
    """Median seconds of a page, as a driver asks for it."""

    def once() -> float:
        taken = []
        for _ in range(CALLS):
            with Clock() as clock:
                assert site.rows(query)
            taken.append(clock.seconds)
        return median(taken)

    return once


def run(server: Server, scale: Scale) -> Result:
    many, few = scale.rows(1_000_000, 2_000), scale.rows(10_000, 200)
    with ExitStack() as stack:
        big, small = (stack.enter_context(server.database(f"bench_show_jobs_{size}")) for size in ("big", "small"))
        for site, rows in ((big, many), (small, few)):
            progress(f"{rows:,} jobs")
            _fill(site, rows)
        found = {}
        for name, query in PAGES.items():
            say(f"  {name}: {query}")
            found[name] = alternate(scale.rounds, many=_page(big, query), few=_page(small, query))
            spread(found[name], "ms", 1000)
    say(f"  own {many * 3 // 10:,} of {many:,} jobs against {few * 3 // 10:,} of {few:,}; {CALLS} calls a round, warm")
    slow, fast = (median(found["first page"][side]) for side in ("many", "few"))
    return Result(
        "show_jobs",
        f"{slow * 1000:.2f}ms",
        f"{fast * 1000:.2f}ms",
        f"{slow / fast:.2f}",
        f"<=2x,<{LIMIT * 1000:.0f}ms",
        slow <= 2 * fast and slow < LIMIT,
    )
