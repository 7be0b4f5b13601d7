"""The detached worker of the embedded server."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kwdbml.embedded.database import WORKER, dsn
from kwdbml.embedded.place import Place, Say, silence
from kwdbml.embedded.process import Process, spawn
from kwdbml.embedded.server import HOST, tail
from kwdbml.errors import WrongState
from kwdbml.extension import PACKAGE
from kwdbml.readiness import READY, VARIABLE

#: The caller's variables that the worker keeps; the rest is not its business.
_KEPT = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE")
_KEPT_PREFIXES = ("KWDBML_", "UV_", "PIP_", "OMP_")
#: Seconds that a worker has to finish its jobs before it gives them back.
DRAIN = 30.0
#: Seconds of draining before the first word, and between two.
_SILENT, _SAY_EVERY = 0.5, 5.0


def code() -> str:
    """Changes with the package: a worker of older code does not go on beside a newer extension."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        status = file.stat()
        digest.update(f"{file.relative_to(PACKAGE)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Worker:
    place: Place
    port: int

    @property
    def command(self) -> list[str]:
        """Without the password: arguments are for everybody on the machine to see. libpq finds it in PGPASSFILE."""
        return [sys.executable, "-m", "kwdbml", "worker", "--dsn", dsn(WORKER, None, self.port)]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
        if config := kept.get("KWDBML_CONFIG"):
            kept["KWDBML_CONFIG"] = str(Path(config).absolute())  # the worker runs in a directory of its own
        return kept | {"PGPASSFILE": str(self.place.passfile)}

    def running(self) -> Process | None:
        """The worker of this port and this code, if it lives."""
        process = Process.load(self.place.worker_pid)
        if process is None or self.command[-1] not in process.command():
            return None
        known = self.place.worker_code
        return process if known.exists() and known.read_text(encoding="ascii") == code() else None

    def start(self, password: str, timeout: float = 120.0) -> Process:
        """Start the worker unless it runs, and wait until it says that it is ready."""
        found = self.running()
        if found is not None:
            return found
        stop(self.place, DRAIN)  # one of another port, or of older code
        self.place.worker_code.write_text(code(), encoding="ascii")
        self._write_passfile(password)
        receive, send = os.pipe()
        try:
            process = spawn(
                self.command,
                log=self.place.worker_log,
                cwd=self.place.base,
                env=self.environment() | {VARIABLE: str(send)},
                pass_fds=[send],
            )
            os.close(send)
            send = -1
            if process is not None:
                process.save(self.place.worker_pid)
            if process is None or not _says_ready(receive, timeout):
                stop(self.place, drain=0.0)
                raise WrongState("the worker does not start", detail=tail(self.place.worker_log))
            return process
        finally:
            os.close(receive)
            if send >= 0:
                os.close(send)

    def _write_passfile(self, password: str) -> None:
        fresh = self.place.passfile.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(f"{HOST}:{self.port}:*:{WORKER}:{password}\n", encoding="ascii")
        fresh.replace(self.place.passfile)


def _says_ready(pipe: int, timeout: float) -> bool:
    """Whether the worker announces itself in time; a worker that dies closes the pipe."""
    deadline = time.monotonic() + timeout
    received = b""
    while not received.endswith(READY):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return False
        part = os.read(pipe, 64)
        if not part:
            return False
        received += part
    return True


def stop(place: Place, drain: float, say: Say = silence, jobs: Callable[[int], int] = lambda _pid: 0) -> bool:
    """Stop the worker; whether it ran. It has ``drain`` seconds to finish its jobs, then it gives back what is left, or
    is killed. ``say`` hears what is waited for; ``jobs(pid)`` counts what it still holds."""
    process = Process.load(place.worker_pid)
    if process is not None:
        process.send(signal.SIGTERM)
        # another signal than the first: two of a kind at once can come as one
        if not _drained(process, drain, say, jobs):
            process.stop([(signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)])
    place.worker_pid.unlink(missing_ok=True)
    return process is not None


def _drained(process: Process, drain: float, say: Say, jobs: Callable[[int], int]) -> bool:
    """Whether the worker has ended in time; says now and then what it still does."""
    deadline = time.monotonic() + drain
    if process.wait(min(_SILENT, drain)):
        return True
    while (left := deadline - time.monotonic()) > 0:
        running = jobs(process.pid)
        say(f"waiting for {running or 'no'} running job{'' if running == 1 else 's'}, {left:.0f} s left")
        if process.wait(min(_SAY_EVERY, left)):
            return True
    if running := jobs(process.pid):
        say(f"{running} job{'' if running == 1 else 's'} not finished: the next kwdbml up goes on with what runs")
    return False
