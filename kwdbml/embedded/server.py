"""One PostgreSQL server of our own: made, started, stopped, and found again after whatever happened to it.

What runs is read from the server's own ``postmaster.pid``, checked against the process of that pid; there is no state
of ours that could disagree.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kwdbml.embedded.account import Account
from kwdbml.embedded.place import Place
from kwdbml.embedded.process import Process, spawn
from kwdbml.errors import ObjectInUse, WrongState
from kwdbml.extension import Postgres

SUPERUSER = "postgres"
HOST = "127.0.0.1"
_LONGEST_SOCKET = 107  # bytes: sun_path, less its final NUL

#: postgresql.conf of every embedded server, beside what up() decides (port and socket directory).
SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "log_destination": "stderr",
    "logging_collector": "off",
    "cluster_name": "kwdbml",
}


def environment() -> dict[str, str]:
    """Of the server, and so of PL/Python in it: no virtual environment and no secret of ours."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}


@dataclass(frozen=True, slots=True)
class Running:
    process: Process
    port: int
    ready: bool


def port_is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        number: int = probe.getsockname()[1]
    return number


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for an error's detail."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def running(pgdata: Path) -> Running | None:
    """The server that runs on a data directory, as its postmaster.pid says, if that process is one."""
    try:
        lines = (pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    process = Process.of(int(lines[0])) if lines and lines[0].strip().isdigit() else None
    if process is None or not (str(pgdata) in process.command() or process.directory() == pgdata):
        return None
    port = int(lines[3]) if len(lines) > 3 else 0
    return Running(process, port, ready=len(lines) > 7 and lines[7].strip() == "ready")


@dataclass(frozen=True, slots=True)
class Server:
    place: Place
    postgres: Postgres  # our copy
    account: Account

    def create(self, password: str, settings: Mapping[str, str] | None = None) -> None:
        """Make the data directory unless it is there; one that was left half-made is made anew."""
        if (self.place.pgdata / "PG_VERSION").exists():
            return
        fresh = self.place.base / "pgdata.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        self.account.own(fresh, 0o700)
        secret = self._secret(password)
        try:
            command: list[str | Path] = [self.postgres.bindir / "initdb", "--pgdata", fresh, "--username", SUPERUSER]
            command += ["--pwfile", secret, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
            done = self.account.run([*command, "--data-checksums", "--no-instructions"], environment())
        finally:
            shutil.rmtree(secret.parent)
        if done.returncode:
            raise WrongState("initdb could not make a database cluster", detail=done.stdout)
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as conf:
            for name, value in {**SETTINGS, **(settings or {})}.items():
                conf.write(f"{name} = '{value}'\n")
        shutil.rmtree(self.place.pgdata, ignore_errors=True)
        fresh.rename(self.place.pgdata)

    def _secret(self, password: str) -> Path:
        """A file with the password that only the server's user can read."""
        directory = Path(tempfile.mkdtemp(prefix="kwdbml-"))
        file = directory / "password"
        file.touch(mode=0o600)
        file.write_text(password, encoding="ascii")
        self.account.own(file, 0o600)
        self.account.own(directory, 0o700)
        return file

    def start(self, port: int | None = None, timeout: float = 300.0) -> int:
        """Start the server, or find it running; answers its port. ObjectInUse when the port asked for is taken."""
        now = running(self.place.pgdata)
        if now is not None and port not in (None, now.port):
            raise ObjectInUse(f"the server already runs on port {now.port}", hint="run: kwdbml down")
        if now is None:
            if port is not None and not port_is_free(port):
                raise ObjectInUse(f"port {port} is taken", hint="give another --port, or none to have one chosen")
            self._end_orphans()
            for attempt in range(3):
                if self._launch(port or self._usual_port()):
                    break
                # Somebody took the free port between our look and the server's, or it was another reason for good.
                if port is not None or attempt == 2:
                    raise WrongState("the PostgreSQL server does not start", detail=tail(self.place.server_log))
        return self._wait_ready(timeout)

    def _usual_port(self) -> int:
        """The port of the last time, so that a DSN somebody noted goes on to work; another one when it is taken."""
        options = self.place.pgdata / "postmaster.opts"
        words = options.read_text(encoding="utf-8").split('"') if options.exists() else []
        last = next((int(word[5:]) for word in words if word.startswith("port=") and word[5:].isdigit()), 0)
        return last if last and port_is_free(last) else free_port()

    def _launch(self, port: int) -> bool:
        """Start the process; False when it ended before it wrote its pid file."""
        sockets = self._socket_directory()
        if not self.place.server_log.exists():
            self.place.server_log.touch()
        self.account.own(self.place.server_log, 0o600)
        options = {"port": str(port), "unix_socket_directories": str(sockets)}
        command = [str(self.postgres.bindir / "postgres"), "-D", str(self.place.pgdata)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        process = spawn(
            command, log=self.place.server_log, cwd=self.place.base, env=environment(), account=self.account
        )
        while process is not None and running(self.place.pgdata) is None:
            if process.wait(0.02):
                return False
        return process is not None

    def _socket_directory(self) -> Path:
        """Beside the data, private; somewhere shorter when the path would not fit the system's limit."""
        directory = self.place.sockets
        if len(os.fsencode(directory)) + len("/.s.PGSQL.65535") > _LONGEST_SOCKET:
            directory = Path(tempfile.mkdtemp(prefix="kwdbml-"))
        directory.mkdir(exist_ok=True)
        self.account.own(directory, 0o700)
        return directory

    def _wait_ready(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while True:
            now = running(self.place.pgdata)
            if now is None:
                raise WrongState("the PostgreSQL server ended while it started", detail=tail(self.place.server_log))
            if now.ready:
                return now.port
            if time.monotonic() > deadline:
                raise WrongState(
                    f"the PostgreSQL server is not ready after {timeout:.0f} s",
                    hint="it may be recovering: try again",
                    detail=tail(self.place.server_log),
                )
            now.process.wait(0.02)

    def _end_orphans(self) -> None:
        """Clear the way after a server that was killed: what is left of it, and lock files that name a stranger.

        PostgreSQL takes any process of the recorded pid for a server, a zombie too (and in a container whose first
        process reaps nothing, a killed server stays one). Backends outlive a killed postmaster only while they are
        busy (in PL/Python, for ever); they hold the shared memory that a new server must not share.
        """
        for process in self._orphans():
            process.stop([(signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)])
        for stale in (self.place.pgdata / "postmaster.pid", *self.place.sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def _orphans(self) -> list[Process]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            process = Process.of(int(entry.name))
            if process is None or process.directory() != self.place.pgdata:
                continue
            if (process.command() or [""])[0].startswith("postgres"):
                found.append(process)
        return found

    def stop(self) -> bool:
        """Stop the server, fast; at once when it does not obey. Whether it ran."""
        return stop(self.place)


def stop(place: Place) -> bool:
    """Stop the server of a place: connections are ended, then the server; whether it ran."""
    now = running(place.pgdata)
    if now is None:
        return False
    lines = (place.pgdata / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    # A backend in an endless PL/Python loop obeys no cancel: then SIGQUIT, on which the server kills what is left.
    now.process.stop([(signal.SIGINT, 30.0), (signal.SIGQUIT, 15.0), (signal.SIGKILL, 5.0)])
    sockets = Path(lines[4]) if len(lines) > 4 else place.sockets
    if sockets != place.sockets and sockets.name.startswith("kwdbml-"):
        shutil.rmtree(sockets, ignore_errors=True)
    return True
