"""train: ``train_model`` on the flights from call to SUCCEEDED, against a script by hand that does the same.

The peer (``peers/train.py``) reads with ``pandas.read_sql``, encodes, holds out a fifth, trains scikit-learn's gradient
boosting, measures it and saves it, in a fresh interpreter. Both have the whole machine.
"""

from __future__ import annotations

import subprocess
import sys

from bench import flights
from bench.report import Clock, Result, Scale, alternate, median, say, spread
from bench.server import Server, Site, WorkerProcess

_SUBMIT = "SELECT kwdbml.train_model('bench.late', 'bench.late', 'bench.late_flights', true, true)"
_METRICS = """
SELECT string_agg(m ->> 'objective' || ' ' || round((m ->> 'score')::numeric, 3), ', ')
FROM (SELECT result FROM kwdbml.show_jobs() LIMIT 1) AS newest, jsonb_array_elements(result) AS m
WHERE m ->> 'score' IS NOT NULL"""


def ours(site: Site, worker: WorkerProcess) -> float:
    worker.warmed()
    with site.listening("kwdbml_job_finished") as listener, Clock() as clock:
        job = str(site.value(_SUBMIT))
        site.wait(listener, job)
    return clock.seconds


def peer(site: Site) -> float:
    command = [sys.executable, "-m", "bench.peers.train", site.url, str(site.server.base / "peer.joblib")]
    with Clock() as clock:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return clock.seconds


def run(server: Server, scale: Scale) -> Result:
    with server.database("bench_train") as site:
        rows = flights.load(site, smoke=scale.smoke)
        with site.worker() as worker:
            peer(site)  # the tables are in cache from here on, and so are the libraries' files
            taken = alternate(scale.rounds, ours=lambda: ours(site, worker), peer=lambda: peer(site))
            say(f"  ours answers {site.value(_METRICS)}")
    say(f"  {rows:,} rows × {len(flights.FEATURES)} features, tables in cache, both with every core")
    say("  ours: warm worker and sandbox; the peer: fresh interpreter, its imports counted")
    spread(taken, "s")
    mine, theirs = median(taken["ours"]), median(taken["peer"])
    return Result("train", f"{mine:.2f}s", f"{theirs:.2f}s", f"{mine / theirs:.2f}", "<=1.0x", mine <= theirs)
