"""A worker as a person starts it: a process of its own, the local engine, the sandbox of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from kwdbml.readiness import READY, VARIABLE

_DEADLINE = 120.0


class Serve(Protocol):
    def __call__(self, *flags: str, dsn: str | None = None) -> None: ...


@pytest.fixture
def serve(worker_dsn: str, tmp_path: Path) -> Iterator[Serve]:
    """``serve()``: a worker for this test's database, or for another; afterwards it has drained and left nothing."""
    base = Path(tempfile.mkdtemp(prefix="kwdbml-test-"))
    base.chmod(0o711)  # runs have users of their own, who pass through
    log = tmp_path / "worker.log"
    started: list[subprocess.Popen[bytes]] = []

    def serve(*flags: str, dsn: str | None = None) -> None:
        receive, send = os.pipe()
        options = ["--dsn", dsn or worker_dsn, "--scratch", str(base / "engine"), *flags]
        command = [sys.executable, "-m", "kwdbml", "worker", *options]
        with log.open("ab") as file:
            env = os.environ | {VARIABLE: str(send)}
            started.append(subprocess.Popen(command, stderr=file, env=env, pass_fds=[send]))
        os.close(send)
        try:
            assert os.read(receive, 64) == READY, log.read_text(encoding="utf-8", errors="replace")
        finally:
            os.close(receive)

    yield serve
    codes = []
    for process in started:
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(_DEADLINE))
    left = list((base / "engine" / "runs").glob("*.json"))
    shutil.rmtree(base)
    assert codes == [0] * len(started), log.read_text(encoding="utf-8", errors="replace")
    assert left == []
