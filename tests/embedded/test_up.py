"""``kwdbml up``, ``status`` and ``down`` as a person runs them: two detached processes and one line to connect with."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kwdbml import embedded
from kwdbml.embedded.database import WORKER
from kwdbml.embedded.process import Process
from tests.fixtures.local import open_to_others

REPOSITORY = Path(__file__).resolve().parents[2]
KWDBML = [sys.executable, "-m", "kwdbml"]


def run(
    *arguments: str | Path,
    check: bool = True,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """The command line; without a standard input, as CI runs it."""
    return subprocess.run(
        [*KWDBML, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=check,
        timeout=timeout,
        env=env,
        **options,
    )


def alive(pid: int | None) -> Process:
    process = Process.of(pid) if pid else None
    assert process is not None, f"process {pid} does not live"
    return process


def test_the_last_line_of_up_is_a_dsn_and_nothing_holds_the_pipe(data_dir: Path) -> None:
    kwdbml = shlex.join(KWDBML)
    script = (
        f'dsn=$({kwdbml} up --data-dir {shlex.quote(str(data_dir))} | tail -n 1) && psql "$dsn" -Atc "SELECT 6 * 7"'
    )
    # A pipe that server or worker held open would keep tail, and so this, waiting until the time is up.
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "42\n"
    status = embedded.status(data_dir)
    assert status.running
    for pid in (status.server_pid, status.worker_pid):
        process = alive(pid)
        assert os.getsid(process.pid) == process.pid
        descriptors = {str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.is_symlink()}
        assert str(Path(f"/proc/{os.getpid()}/fd/1").readlink()) not in descriptors - {"/dev/null"}


def test_up_twice_reuses_both_and_down_stops_both(data_dir: Path) -> None:
    first = embedded.up(data_dir)
    assert embedded.up(data_dir) == first
    server, worker = alive(first.server_pid), alive(first.worker_pid)
    listed = run("status", "--data-dir", data_dir)
    assert str(first.port) in listed.stdout
    result = embedded.down(data_dir)
    assert (result.worker_ran, result.server_ran) == (True, True)
    assert (Process.of(server.pid), Process.of(worker.pid)) == (None, None)


def test_the_worker_has_no_power_and_its_password_is_nobodys_to_see(data_dir: Path) -> None:
    result = embedded.up(data_dir)
    worker = alive(result.worker_pid)
    password = (data_dir / "worker.pgpass").read_text(encoding="ascii").strip().rpartition(":")[2]
    assert len(password) == 48
    assert not any(password in word for word in worker.command())
    assert password.encode() not in Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert stat.S_IMODE((data_dir / "worker.pgpass").stat().st_mode) == 0o600
    with psycopg.connect(result.dsn) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = %s",
            [WORKER],
        ).fetchone()
        groups = connection.execute(
            "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole", [WORKER]
        ).fetchall()
        logged = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [WORKER]).fetchone()
    assert rights == (False,) * 5
    assert groups == [("kwdbml_worker",)]
    assert logged is not None
    assert logged[0] > 0


def test_a_killed_worker_is_replaced_and_the_server_kept(data_dir: Path) -> None:
    first = embedded.up(data_dir)
    alive(first.worker_pid).stop([(signal.SIGKILL, 10.0)])
    assert embedded.status(data_dir).worker_pid is None
    again = embedded.up(data_dir)
    assert (again.dsn, again.server_pid) == (first.dsn, first.server_pid)
    assert again.worker_pid != first.worker_pid
    alive(again.worker_pid)


def test_a_worker_of_older_code_is_replaced(data_dir: Path) -> None:
    first = embedded.up(data_dir)
    (data_dir / "worker.code").write_text("older", encoding="ascii")
    again = embedded.up(data_dir)
    assert again.worker_pid != first.worker_pid
    assert Process.of(first.worker_pid or 0) is None
    alive(again.worker_pid)


def test_a_killed_server_comes_back_with_a_worker(data_dir: Path) -> None:
    first = embedded.up(data_dir)
    alive(first.server_pid).stop([(signal.SIGKILL, 10.0)])
    again = embedded.up(data_dir)
    assert again.server_pid != first.server_pid
    alive(again.server_pid)
    alive(again.worker_pid)


def test_down_says_what_it_waits_for_and_the_next_worker_goes_on_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWDBML_SCRATCH", str(data_dir.parent / "scratch"))
    with psycopg.connect(embedded.up(data_dir).dsn, autocommit=True) as holder:
        holder.execute("CREATE TABLE trips AS SELECT n / 10.0 AS x, n % 2 AS late FROM generate_series(1, 50) n")
        holder.execute(
            "SELECT kwdbml.create_training_pipeline('p', 'logistic_regression', 'late', 'SELECT x, late FROM trips')"
        )
        holder.execute("SELECT pg_advisory_lock(1)")
        gated = "SELECT t.* FROM (SELECT pg_advisory_lock_shared(1) OFFSET 0) AS gate, trips AS t"
        holder.execute("SELECT kwdbml.train_model('p', 'm', %s, false, false)", [gated])
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        while holder.execute(waiting).fetchone() != (True,):
            pass
        told = run("down", "--data-dir", data_dir, "--drain", "1").stderr
    assert "waiting for 1 running job, " in told
    assert "1 job not finished" in told
    with psycopg.connect(embedded.up(data_dir).dsn, autocommit=True) as again:
        again.execute("LISTEN kwdbml_job_finished")
        running = "SELECT status = 'RUNNING' FROM kwdbml.jobs"
        while again.execute(running).fetchone() == (True,):
            assert list(again.notifies(timeout=60, stop_after=1)), "the job did not end"
        assert again.execute("SELECT status FROM kwdbml.jobs").fetchone() == ("SUCCEEDED",)
        # given back, not run out: that would count as a second try at reading
        assert again.execute("SELECT number, stagings FROM kwdbml.attempt").fetchall() == [(1, 1)]


def test_an_ordinary_user_needs_no_root(data_dir: Path) -> None:
    """As root: as nobody, who has no rights and no home. Else as ourselves."""
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        if not open_to_others(REPOSITORY):
            pytest.skip(f"no ordinary user can come to {REPOSITORY}: clone it elsewhere to run this test")
        nobody = pwd.getpwnam("nobody")
        os.chown(data_dir.parent, nobody.pw_uid, nobody.pw_gid)
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    env = {"PATH": os.environ["PATH"], "HOME": str(data_dir.parent)}
    dsn = run("up", "--data-dir", data_dir, env=env, **options).stdout.splitlines()[-1]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
    assert Path(f"/proc/{embedded.status(data_dir).server_pid}").stat().st_uid == data_dir.parent.stat().st_uid
    run("down", "--data-dir", data_dir, env=env, **options)
    assert embedded.status(data_dir).server_pid is None
