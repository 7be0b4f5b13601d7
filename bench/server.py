"""The embedded server as users get it, in a directory of its own that goes away at the end, whatever happens.

Settings are the embedded server's own, durable ones; both sides of a bench use the same server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg import sql

from bench.report import progress
from kwdbml import embedded, readiness
from kwdbml.embedded import database, server
from kwdbml.embedded.place import Place

ROLE = "bench"
#: Fires with every new phase of an attempt and tells when, on the server's clock, which is also ours.
_TELL = """
CREATE FUNCTION public.bench_phase() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bench_phase', NEW.job_id || ' ' || NEW.phase || ' ' || extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER bench_phase AFTER UPDATE OF phase ON kwdbml.attempt
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase) EXECUTE FUNCTION public.bench_phase()"""


@dataclass
class Server:
    """A running embedded server. ``database(name)`` makes one with the extension and the ordinary role ``bench``."""

    base: Path
    port: int
    password: str
    role_password: str = field(default_factory=lambda: secrets.token_hex(12))
    worker_password: str = field(default_factory=lambda: secrets.token_hex(12))

    def dsn(self, name: str, user: str = server.SUPERUSER) -> str:
        words = {server.SUPERUSER: self.password, ROLE: self.role_password, database.WORKER: None}
        return database.dsn(user, words[user], self.port, name)

    @contextmanager
    def database(self, name: str) -> Iterator[Site]:
        database.create_database(self.password, self.port, name)
        database.create_extension(self.password, self.port, name)
        with psycopg.connect(self.dsn(name), autocommit=True) as admin:
            _give_role(admin, self.role_password)
            admin.execute(_TELL)
            with psycopg.connect(self.dsn(name, ROLE), autocommit=True) as person:
                yield Site(self, name, admin, person)

    @property
    def passfile(self) -> Path:
        return self.base / "bench.pgpass"


@dataclass
class Site:
    """A database: ``admin`` is the superuser's connection, ``person`` the ordinary role's, which owns schema bench."""

    server: Server
    name: str
    admin: psycopg.Connection[Any]
    person: psycopg.Connection[Any]

    @property
    def url(self) -> str:
        """The ordinary role's, as SQLAlchemy has it."""
        return self.server.dsn(self.name, ROLE).replace("postgresql://", "postgresql+psycopg://")

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        return self.person.execute(query, parameters or None).fetchall()

    def value(self, query: LiteralString, *parameters: object) -> Any:
        return self.rows(query, *parameters)[0][0]

    @contextmanager
    def listening(self, *channels: LiteralString) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.server.dsn(self.name, ROLE), autocommit=True) as connection:
            for channel in channels:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield connection

    def wait(self, listener: psycopg.Connection[Any], *jobs: str, timeout: float = 600.0) -> None:
        """Until all have ended; RuntimeError for one that did not succeed. ``listener`` listens to
        kwdbml_job_finished since before they were submitted."""
        missing = set(jobs)
        for told in listener.notifies(timeout=timeout):
            missing.discard(told.payload)
            if not missing:
                break
        for job in jobs:
            status, error = self.rows("SELECT status, error FROM kwdbml.show_job(%s)", job)[0]
            if status != "SUCCEEDED":
                raise RuntimeError(f"job {job} is {status}: {error}")

    def run(self, query: LiteralString, *parameters: object) -> str:
        """Submit a job with a statement that answers its id, and wait for its success; the id."""
        with self.listening("kwdbml_job_finished") as listener:
            job = str(self.value(query, *parameters))
            self.wait(listener, job)
        return job

    @contextmanager
    def worker(
        self, concurrency: int = 1, arguments: Sequence[str] = (), variables: Mapping[str, str] | None = None
    ) -> Iterator[WorkerProcess]:
        """``kwdbml worker`` on this database, ready; SIGTERM at the end."""
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.server.base))
        scratch.chmod(0o711)
        command = [sys.executable, "-m", "kwdbml", "worker", "--dsn", self.server.dsn(self.name, database.WORKER)]
        command += ["--concurrency", str(concurrency), "--scratch", str(scratch), *arguments]
        receive, send = os.pipe()
        env = {"PATH": os.environ["PATH"], "PGPASSFILE": str(self.server.passfile), readiness.VARIABLE: str(send)}
        env |= variables or {}
        with (self.server.base / f"worker-{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[send], env=env
            )
        os.close(send)
        try:
            if not (select.select([receive], [], [], 120.0)[0] and os.read(receive, 16) == readiness.READY):
                raise RuntimeError(f"the worker does not start: {Path(log.name).read_text(encoding='utf-8')[-2000:]}")
            yield WorkerProcess(process.pid)
        finally:
            os.close(receive)
            process.terminate()
            try:
                process.wait(30.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class WorkerProcess:
    pid: int

    def warmed(self, slots: int = 1, timeout: float = 60.0) -> None:
        """Wait until so many sandboxes have imported what is heavy: they run no more, and wait for a job."""
        deadline = time.monotonic() + timeout
        before: dict[int, float] = {}
        while time.monotonic() < deadline:
            now = self._warm_steps()
            if len(now) >= slots and all(cpu > 0.5 and before.get(pid) == cpu for pid, cpu in now.items()):
                return
            before = now
            time.sleep(0.25)
        raise RuntimeError(f"no {slots} warm sandboxes after {timeout:.0f} s")

    def _warm_steps(self) -> dict[int, float]:
        """CPU seconds by process of the sandboxed steps of this worker that were started to wait."""
        found = {}
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[-2:] == ["kwdbml.steps", "--warm"] and process.name().startswith("python"):
                    times = process.cpu_times()
                    found[process.pid] = float(times.user + times.system)
        return found

    def peak(self) -> int:
        """Bytes of resident memory at most so far."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        words = {line.split(":")[0]: line.split() for line in status.splitlines()}
        return int(words["VmHWM"][1]) * 1024


def _give_role(admin: psycopg.Connection[Any], password: str) -> None:
    role = sql.Identifier(ROLE)
    if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
    admin.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role))


@contextmanager
def start() -> Iterator[Server]:
    """A server with a worker's role and no worker; everything is stopped and deleted at the end."""
    base = Path(tempfile.mkdtemp(prefix="kwdbml-bench-"))
    base.chmod(0o711)
    try:
        progress(f"an embedded server in {base}")
        up = embedded.up(base, with_worker=False)
        password = Place(up.data_dir).password.read_text(encoding="ascii").strip()
        running = Server(up.data_dir, up.port, password)
        database.create_worker_role(password, up.port, running.worker_password)
        running.passfile.touch(mode=0o600)
        running.passfile.write_text(f"{server.HOST}:{up.port}:*:{database.WORKER}:{running.worker_password}\n")
        yield running
    finally:
        with contextlib.suppress(Exception):
            embedded.down(base, drain=5.0)
        shutil.rmtree(base, ignore_errors=True)
