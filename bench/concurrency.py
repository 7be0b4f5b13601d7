"""concurrency: two trainings at once, one core each, against one alone on one core, on one worker that runs two."""

from __future__ import annotations

from bench import flights
from bench.report import Clock, Result, Scale, alternate, median, say, spread
from bench.server import Server, Site, WorkerProcess

_SUBMIT = "SELECT kwdbml.train_model('bench.late', %s, 'bench.late_flights', true, true, %s::text)"
_ONE_CORE = '{"flavour": {"cpu": "1"}}'


def trained(site: Site, worker: WorkerProcess, models: list[str]) -> float:
    """Seconds until all of these, submitted at once, have SUCCEEDED."""
    worker.warmed(slots=2)
    with site.listening("kwdbml_job_finished") as listener, Clock() as clock:
        jobs = [str(site.value(_SUBMIT, model, _ONE_CORE)) for model in models]
        site.wait(listener, *jobs)
    return clock.seconds


def run(server: Server, scale: Scale) -> Result:
    with server.database("bench_concurrency") as site:
        rows = flights.load(site, smoke=scale.smoke)
        with site.worker(concurrency=2) as worker:
            trained(site, worker, ["bench.one"])
            taken = alternate(
                scale.rounds,
                two=lambda: trained(site, worker, ["bench.one", "bench.two"]),
                one=lambda: trained(site, worker, ["bench.one"]),
            )
    say(f"  {rows:,} rows × {len(flights.FEATURES)} features each, tables in cache, warm sandboxes, 1 core a training")
    spread(taken, "s")
    two, one = median(taken["two"]), median(taken["one"])
    return Result("concurrency", f"{two:.2f}s", f"{one:.2f}s", f"{two / one:.2f}", "<=1.2x", two <= 1.2 * one)
