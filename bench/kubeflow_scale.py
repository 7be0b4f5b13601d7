"""kubeflow_scale: how many calls, how much memory and how much patience 10, 100 and 1,000 concurrent runs cost.

A real worker with the Kubeflow engine and a real database; Kubeflow Pipelines, Kubernetes and the pods are simulated
(``kubeflow_stub.py``), so what is measured is the worker's part: nothing here says how fast a cluster is. The jobs are
evaluations of three rows. All are submitted at once; when all run, some time of steady state; then a half ends one by
one in random order, and the other half is canceled at once. No peer: the claim is that an end of one of 1,000 runs is
noticed within three of the engine's looks.
"""

from __future__ import annotations

import io
import random
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import psutil
import psycopg

from bench.kubeflow_stub import StubProcess, stub
from bench.report import Result, Scale, progress, say
from bench.server import Server, Site, WorkerProcess
from kwdbml.embedded import database

POLL = 2.0  # seconds between looks, as by default
LIMIT = 3 * POLL
POD_BYTES = 12_000  # by which a pod of a real cluster is longer than a simulated one
PRINTS = 5.0  # seconds between two lines of a run
_FEATURES, _TARGET = '[{"name": "x", "type": "float"}]', '[{"name": "y", "type": "int"}]'
_MODEL = """
SELECT kwdbml.import_model('bench.m', '', 'b', 'sklearn_1.3', 'python_3.10', %s::jsonb, %s::jsonb, %b, NULL)"""
_SUBMIT = """
SELECT count(kwdbml.evaluate_model('', 'bench.m', 1, 'bench.rows', 'auc', '{"engine": "kubeflow"}'::jsonb))
FROM generate_series(1, %s)"""
_PHASES = "SELECT count(*) FROM kwdbml.attempt WHERE phase = ANY (%s::text[])"
_LEFT = "SELECT (SELECT count(*) FROM kwdbml.cleanup) + (SELECT count(*) FROM kwdbml.job WHERE status = 'RUNNING')"
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
_FINISHED = """
SELECT a.handle ->> 'run_id', extract(epoch FROM j.finished)::float8
FROM kwdbml.attempt a JOIN kwdbml.job j ON j.id = a.job_id WHERE j.status = 'SUCCEEDED'"""
_CANCEL = "SELECT count(kwdbml.cancel_job(id)) FROM kwdbml.jobs WHERE status = 'RUNNING'"
_KINDS = {
    "GET /apis/v2beta1/runs": "KFP list", "GET /apis/v2beta1/runs/{run_id}": "KFP get",
    "POST /apis/v2beta1/runs": "KFP create", "POST /apis/v2beta1/runs/{run_id}:terminate": "KFP terminate",
    "POST /apis/v2beta1/runs/{run_id}:archive": "KFP archive",
    "GET /api/v1/namespaces/{namespace}/pods": "pods list",
    "GET /api/v1/namespaces/{namespace}/pods/{name}/log": "pod log",
    "POST /api/v1/namespaces/{namespace}/secrets": "Secret create",
    "PATCH /api/v1/namespaces/{namespace}/secrets/{name}": "Secret patch",
    "DELETE /api/v1/namespaces/{namespace}/secrets/{name}": "Secret delete",
    "GET /api/v1/namespaces/{namespace}/secrets": "Secrets list",
}  # fmt: skip


@dataclass
class Meter:
    """What one phase has cost: calls by kind, bytes answered, CPU seconds of worker and server, seconds."""

    stub: StubProcess
    worker: WorkerProcess
    calls: dict[str, int] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0
    stub_cpu: float = 0.0
    seconds: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before, cpu, stub_cpu, began = self._counts(), _cpu(self.worker.pid), _cpu(self.stub.pid), time.monotonic()
        yield
        self.seconds, after = time.monotonic() - began, self._counts()
        self.cpu, self.stub_cpu = _cpu(self.worker.pid) - cpu, _cpu(self.stub.pid) - stub_cpu
        self.calls = {kind: n - before[0].get(kind, 0) for kind, n in after[0].items() if n > before[0].get(kind, 0)}
        sent = {kind: (n - before[1].get(kind, 0)) / 1e6 for kind, n in after[1].items()}
        self.megabytes = {kind: n for kind, n in sent.items() if n >= 0.05}
        self._say(name)

    def _counts(self) -> tuple[dict[str, int], dict[str, int]]:
        told = self.stub.ask("counts")
        if told["broken"]:
            raise RuntimeError(f"the stub is broken: {told['broken'][:3]}")
        calls = {_KINDS.get(call, call): n for call, n in told["calls"].items()}
        return calls | {f"S3 {kind}": n for kind, n in told["s3"].items()}, {
            _KINDS.get(call, call): n for call, n in told["sent"].items()
        }

    def _say(self, name: str) -> None:
        share, theirs = 100 * self.cpu / self.seconds, 100 * self.stub_cpu / self.seconds
        say(f"  {name}: {self.seconds:.1f} s, worker {share:.0f} % of a core, stub {theirs:.0f} %")
        minutes = self.seconds / 60
        for kind, n in sorted(self.calls.items()):
            told = f", {self.megabytes[kind] / minutes:.1f} MB a minute" if kind in self.megabytes else ""
            say(f"    {kind:<18} {n:6}  {n / minutes:8.1f} a minute{told}")


class Most:
    """The largest number of the worker's connections to the database, looked at four times a second."""

    def __init__(self, dsn: str) -> None:
        self._dsn, self._stop, self.connections = dsn, Event(), 0
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Most:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.wait(0.25):
                row = connection.execute(_CONNECTIONS, [database.WORKER]).fetchone()
                self.connections = max(self.connections, row[0] if row else 0)


@dataclass(frozen=True)
class Found:
    runs: int
    noticed: list[float]


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _until(what: str, done: Callable[[], bool], timeout: float = 1800.0, every: float = 0.25) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout:.0f} s: {what}")
        time.sleep(every)


def model() -> bytes:
    """Of which only the bytes count: no pod opens it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/model.joblib", random.Random(0).randbytes(20_000))
    return buffer.getvalue()


def _prepare(site: Site) -> None:
    site.person.execute("CREATE TABLE bench.rows AS SELECT i::float8 AS x, i % 2 AS y FROM generate_series(1, 3) i")
    site.rows(_MODEL, _FEATURES, _TARGET, model())


def _launch(site: Site, meter: Meter, runs: int) -> float:
    """Submit all, wait until all run; runs a second."""
    with meter.phase("launch"):
        site.rows(_SUBMIT, runs)
        _until("every run runs", lambda: _phase(site, "running") >= runs)
    return runs / meter.seconds


def _phase(site: Site, *names: str) -> int:
    return int(site.admin.execute(_PHASES, [list(names)]).fetchone()[0])  # type: ignore[index]


def _end(site: Site, meter: Meter, ids: list[str], pause: float) -> tuple[list[float], list[float]]:
    """End them one by one; seconds until each was noticed, and until its job had SUCCEEDED."""
    ended = {}
    with meter.phase("ends"):
        for run_id in ids:
            ended[run_id] = meter.stub.ask("end", run=run_id)
            time.sleep(pause * random.uniform(0.5, 1.5))
        _until("all that ended have landed", lambda: len(_finished(site)) >= len(ids))
    noticed, finished = meter.stub.ask("noticed"), _finished(site)
    return [noticed[i] - ended[i] for i in ids], [finished[i] - ended[i] for i in ids]


def _finished(site: Site) -> dict[str, float]:
    return dict(site.admin.execute(_FINISHED).fetchall())


def _cancel(site: Site, meter: Meter) -> tuple[float, float]:
    """Cancel what is left; seconds until no pod lives, and until nothing is left of it."""
    began = time.monotonic()
    with meter.phase("cancel"):
        site.rows(_CANCEL)
        _until("no pod lives", lambda: meter.stub.ask("standing")["alive"] == 0)
        stopped = time.monotonic() - began
        _until("nothing is left", lambda: _nothing(site, meter.stub))
    return stopped, meter.seconds


def _nothing(site: Site, process: StubProcess) -> bool:
    left: Any = site.admin.execute(_LEFT).fetchone()
    return bool(left == (0,) and process.ask("standing")["secrets"] == 0)


def measure(server: Server, scale: Scale, runs: int) -> Found:
    steady = scale.rows(60, 3)
    with server.database(f"bench_scale_{runs}") as site, stub(POD_BYTES) as process:
        _prepare(site)
        process.ask("print", every=PRINTS)
        variables = process.variables | {"KWDBML_KFP_POLL": str(POLL), "KWDBML_KFP_CONCURRENCY": str(runs)}
        with site.worker(1, ["--engine", "kubeflow"], variables) as worker, Most(server.dsn(site.name)) as most:
            meter, bare = Meter(process, worker), _resident(worker.pid)
            say(f"  {runs:,} runs")
            rate = _launch(site, meter, runs)
            peak = worker.peak()
            with meter.phase("steady"):
                time.sleep(steady)
            lasting = worker.peak()
            ids = sorted(process.ask("runs"))
            random.Random(0).shuffle(ids)
            pause = max(0.1, min(1.0, 60 / runs)) if not scale.smoke else 0.05
            noticed, finished = _end(site, meter, ids[: runs // 2], pause)
            stopped, cleaned = _cancel(site, meter)
            last = worker.peak()
        say(
            f"    launched {rate:.1f} a second; noticed after {_spread(noticed)}; SUCCEEDED after {_spread(finished)};"
            f" no pod after {stopped:.1f} s, nothing left after {cleaned:.1f} s"
        )
        say(
            f"    worker's memory: {bare / 1e6:.0f} MB before, VmHWM {peak / 1e6:.0f} MB launched,"
            f" {lasting / 1e6:.0f} MB steady, {last / 1e6:.0f} MB at the end; at most {most.connections} connections"
            " to the database"
        )
    return Found(runs, noticed)


def _spread(values: list[float]) -> str:
    last = statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]
    return f"{statistics.median(values):.2f} s (99 %: {min(last, max(values)):.2f})"


def run(server: Server, scale: Scale) -> Result:
    sizes = (20,) if scale.smoke else (10, 100, 1000)
    noticed: list[float] = []
    for size in sizes:
        progress(f"{size:,} runs")
        noticed = measure(server, scale, size).noticed
    middle = statistics.median(noticed)
    return Result("kubeflow_scale", f"{middle:.2f}s", "-", f"{middle / LIMIT:.2f}", f"<{LIMIT:.0f}s", middle < LIMIT)
