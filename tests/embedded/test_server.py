"""``kwdbml up`` without its worker: the server is private, found again, and recovers from whatever was killed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kwdbml import __version__, embedded
from kwdbml.embedded import place, server
from kwdbml.embedded.account import server_account
from kwdbml.embedded.process import Process
from kwdbml.errors import ObjectInUse


def up(data_dir: Path, port: int | None = None) -> embedded.UpResult:
    return embedded.up(data_dir, port, with_worker=False)


def answer(dsn: str, query: str = "SELECT 'here'") -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def do(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_up_gives_a_superuser_in_a_database_with_the_extension(data_dir: Path) -> None:
    result = up(data_dir)
    assert result.dsn.startswith("postgresql://postgres:")
    assert result.dsn.endswith(f"@127.0.0.1:{result.port}/kwdbml")
    assert answer(result.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    assert answer(result.dsn, "SELECT extversion FROM pg_extension WHERE extname = 'kwdbml'") == __version__
    printed = subprocess.run(
        [result.psql, result.dsn, "-Atc", "SELECT 6 * 7"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "42\n"


def test_up_twice_is_once(data_dir: Path) -> None:
    first = up(data_dir)
    do(first.dsn, "CREATE TABLE public.kept AS SELECT 1")
    assert up(data_dir) == first


def test_down_and_up_keeps_port_and_data(data_dir: Path) -> None:
    first = up(data_dir)
    do(first.dsn, "CREATE TABLE public.kept AS SELECT 'still' AS here")
    assert embedded.down(data_dir) == embedded.DownResult(first.data_dir, worker_ran=False, server_ran=True)
    stopped = embedded.status(data_dir)
    assert (stopped.exists, stopped.running, stopped.server_pid, stopped.dsn) == (True, False, None, None)
    assert embedded.down(data_dir).server_ran is False
    again = up(data_dir)
    assert (again.dsn, again.server_pid == first.server_pid) == (first.dsn, False)
    assert answer(again.dsn, "SELECT here FROM public.kept") == "still"


def test_nobody_gets_in_without_the_password(data_dir: Path) -> None:
    result = up(data_dir)
    known = conninfo_to_dict(result.dsn)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        answer(make_conninfo(result.dsn, password="guess"))
    sockets = embedded.place.existing(data_dir).sockets
    for host in ("127.0.0.1", str(sockets)):
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            answer(
                make_conninfo(host=host, port=known["port"], user="postgres", dbname="postgres", passfile=os.devnull)
            )
    assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert answer(result.dsn, "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules") == "scram-sha-256"
    assert answer(result.dsn, "SHOW listen_addresses") == "127.0.0.1"


def test_the_server_sees_none_of_our_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sings")
    result = up(data_dir)
    listing = Path(f"/proc/{result.server_pid}/environ").read_bytes()
    assert b"PATH=/usr" in listing
    assert b"CANARY" not in listing


def test_a_killed_server_is_started_again(data_dir: Path) -> None:
    first = up(data_dir)
    do(first.dsn, "CREATE TABLE public.kept AS SELECT 'still' AS here")
    killed = Process.of(first.server_pid)
    assert killed is not None
    killed.stop([(signal.SIGKILL, 10.0)])
    assert embedded.status(data_dir).server_pid is None
    again = up(data_dir)
    assert answer(again.dsn, "SELECT here FROM public.kept") == "still"


def test_a_backend_that_outlives_a_killed_server_is_no_obstacle(data_dir: Path) -> None:
    first = up(data_dir)
    with closing(psycopg.connect(first.dsn, autocommit=True)) as connection:
        # Deaf to the server's end, as PL/Python is.
        connection.pgconn.send_query(b"DO LANGUAGE plpython3u 'import time; time.sleep(600)'")
        connection.pgconn.flush()
        busy = Process.of(connection.info.backend_pid)
        postmaster = Process.of(first.server_pid)
        assert busy is not None
        assert postmaster is not None
        postmaster.stop([(signal.SIGKILL, 10.0)])
        assert Process.of(busy.pid) == busy
        again = up(data_dir)
        assert Process.of(busy.pid) is None
    assert answer(again.dsn) == "here"


def test_a_pid_file_that_names_a_stranger_is_stale(data_dir: Path) -> None:
    up(data_dir)
    embedded.down(data_dir)
    (data_dir / "pgdata" / "postmaster.pid").write_text(f"{os.getpid()}\n", encoding="ascii")
    (data_dir / "worker.pid").write_text('{"pid": 1, "started": 0, "boot": ""}', encoding="ascii")
    assert embedded.status(data_dir).server_pid is None
    assert answer(up(data_dir).dsn) == "here"


def test_a_half_made_directory_is_made_whole(data_dir: Path) -> None:
    (data_dir / "pgdata.new" / "base").mkdir(parents=True)
    (data_dir / "pgdata").mkdir()
    (data_dir / "prefix.new").mkdir()
    data_dir.chmod(0o711)
    result = up(data_dir)
    do(result.dsn, "DROP EXTENSION kwdbml CASCADE")
    assert answer(up(data_dir).dsn, "SELECT count(*) FROM pg_extension WHERE extname = 'kwdbml'") == 1
    assert not (data_dir / "pgdata.new").exists()


def test_a_port_that_is_taken_or_other_than_the_running_one_is_refused(data_dir: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, pytest.raises(ObjectInUse, match="is taken"):
        up(data_dir, taken.getsockname()[1])
    result = up(data_dir)
    with pytest.raises(ObjectInUse, match=f"already runs on port {result.port}"):
        up(data_dir, result.port - 1)
    assert up(data_dir, result.port).server_pid == result.server_pid


def test_a_path_too_long_for_a_socket_has_it_elsewhere(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100)
    deep.mkdir(parents=True)
    for path in (data_dir, deep):
        path.chmod(0o711)
    result = up(deep)
    directory = Path(str(answer(result.dsn, "SHOW unix_socket_directories")))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    embedded.down(deep)
    assert not directory.exists()


def test_where_the_servers_user_cannot_get_the_data_goes_elsewhere(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root under a home of mode 0700; an ordinary user's server is that user's, and has no such trouble."""
    monkeypatch.setattr(place, "STATE_ROOT", data_dir.parent / "state")
    closed = data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    result = embedded.up(closed / "data", with_worker=False, say=said.append)
    try:
        assert answer(result.dsn) == "here"
        assert embedded.status(closed / "data").server_pid == result.server_pid
        assert up(closed / "data") == result
        moved = not server_account().ourselves
        assert (closed / "data").is_symlink() == moved
        assert any(str(result.data_dir) in line and "cannot reach" in line for line in said) == moved
    finally:
        embedded.down(closed / "data")
    assert server.running(result.data_dir / "pgdata") is None
