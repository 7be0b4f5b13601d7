"""The embedded PostgreSQL: a server, its database with the extension, and a worker, from what is on this machine.

    up      find PostgreSQL (binaries) → copy it (binaries) → install the extension (kwdbml.extension) → initdb and
            start (server) → database, extension, role (database) → worker
    status  what runs
    down    worker, then server

Every step looks at what is there first, so ``up`` repeats safely and picks up after whatever was killed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import psycopg

from kwdbml import __version__, extension
from kwdbml.embedded import binaries, database, place, server, worker
from kwdbml.embedded.account import server_account
from kwdbml.embedded.place import Place, Say, default_data_dir, silence
from kwdbml.embedded.process import Process
from kwdbml.errors import UndefinedObject, WrongState

__all__ = ["DownResult", "Status", "UpResult", "default_data_dir", "down", "status", "up"]


@dataclass(frozen=True, slots=True)
class UpResult:
    dsn: str  # the superuser's, with its password
    data_dir: Path  # where the files really are
    port: int
    server_pid: int
    worker_pid: int | None  # None: up was told not to start one
    psql: Path  # a psql of the server's version


@dataclass(frozen=True, slots=True)
class Status:
    data_dir: Path
    exists: bool
    server_pid: int | None
    worker_pid: int | None
    port: int | None
    dsn: str | None  # of a running server
    server_log: Path
    worker_log: Path

    @property
    def running(self) -> bool:
        """Both run."""
        return self.server_pid is not None and self.worker_pid is not None


@dataclass(frozen=True, slots=True)
class DownResult:
    data_dir: Path
    worker_ran: bool
    server_ran: bool


def _password(file: Path) -> str:
    """The superuser's password, made at the first call and kept."""
    if not file.exists():
        fresh = file.with_name(file.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(24), encoding="ascii")
        fresh.replace(file)
    return file.read_text(encoding="ascii").strip()


def _binaries(where: Place, say: Say) -> extension.Postgres:
    """Our copy of PostgreSQL, of the version that an existing cluster needs. A running server keeps the copy it has."""
    version = where.pgdata / "PG_VERSION"
    original = binaries.find(int(version.read_text(encoding="ascii")) if version.exists() else None)
    if server.running(where.pgdata) is None and not where.prefix.exists():
        say(f"copying PostgreSQL {original.major} to {where.prefix}")
    if server.running(where.pgdata) is not None and where.prefix.exists():
        return binaries.placed(original, where.prefix)
    return binaries.copied(original, where.prefix)


def _fill(where: Place, password: str, port: int, say: Say) -> None:
    """Database, extension and worker's role."""
    database.create_database(password, port)
    created = database.create_extension(password, port)
    script = extension.files() / f"kwdbml--{__version__}.sql"
    if database.script_changed(where.script_hash, script, created=created):
        say(f"this database goes on with the SQL of kwdbml {__version__} that it was made with, not this checkout's.")
        say(f"For the new one dump what you need (pg_dump), remove {where.base}, and run kwdbml up again.")


def up(
    data_dir: Path | None = None,
    port: int | None = None,
    *,
    with_worker: bool = True,
    say: Say = silence,
) -> UpResult:
    """Start what does not run; returns when server and worker are ready. ``say`` hears what takes time.

    KwdbmlError with the cure when something is missing or does not start.
    """
    account = server_account()
    where = place.prepare(data_dir, account, say)
    with where.locked():
        postgres = _binaries(where, say)
        extension.install(postgres.pg_config)
        password = _password(where.password)
        cluster = server.Server(where, postgres, account)
        cluster.create(password)
        actual = cluster.start(port)
        _fill(where, password, actual, say)
        process = _start_worker(where, password, actual) if with_worker else None
        now = server.running(where.pgdata)
    return UpResult(
        dsn=database.dsn(server.SUPERUSER, password, actual),
        data_dir=where.base,
        port=actual,
        server_pid=now.process.pid if now else 0,
        worker_pid=process.pid if process else None,
        psql=postgres.bindir / "psql",
    )


def _start_worker(where: Place, password: str, port: int) -> Process:
    job = worker.Worker(where, port)
    found = job.running()
    if found is not None:
        return found
    secret = secrets.token_hex(24)
    database.create_worker_role(password, port, secret)
    return job.start(secret)


def status(data_dir: Path | None = None) -> Status:
    """What runs, without touching it."""
    where = place.existing(data_dir)
    now = server.running(where.pgdata)
    process = Process.load(where.worker_pid)
    password = where.password.read_text(encoding="ascii").strip() if where.password.exists() else None
    return Status(
        data_dir=where.base,
        exists=(where.pgdata / "PG_VERSION").exists(),
        server_pid=now.process.pid if now else None,
        worker_pid=process.pid if process else None,
        port=now.port if now else None,
        dsn=database.dsn(server.SUPERUSER, password, now.port) if now else None,
        server_log=where.server_log,
        worker_log=where.worker_log,
    )


def _jobs(where: Place, pid: int) -> int:
    """How many jobs the worker of that pid holds; 0 also when nobody can say."""
    now = server.running(where.pgdata)
    if now is None or not where.password.exists():
        return 0
    try:
        return database.jobs_held(_password(where.password), now.port, pid)
    except (WrongState, psycopg.Error):
        return 0


def down(data_dir: Path | None = None, *, drain: float = worker.DRAIN, say: Say = silence) -> DownResult:
    """Stop the worker, which has ``drain`` seconds to finish its jobs, then the server. The data stays, and what still
    runs goes on: the next worker follows it. ``say`` hears what is waited for."""
    where = place.existing(data_dir)
    if not where.base.is_dir():
        raise UndefinedObject(f"there is no embedded server in {where.base}", hint="kwdbml up makes one")
    with where.locked():
        worker_ran = worker.stop(where, drain, say, lambda pid: _jobs(where, pid))
        server_ran = server.stop(where)
    return DownResult(where.base, worker_ran, server_ran)
