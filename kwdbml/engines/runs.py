"""The run records of a scratch root: what of a local run is on disk, so that another worker can find it.

    <root>/runs/<run name>.json      which supervisor and which workspace: written before the run is told to go
    <root>/ws/<slot>/ctl/started     the supervisor has told it to go
    <root>/ws/<slot>/ctl/status.json nothing of it lives any more, and how it ended

A record without ``started`` whose supervisor is gone was never launched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kwdbml.engines import procs
from kwdbml.engines.base import Handle, RunState, RunStatus
from kwdbml.engines.outputs import has_output
from kwdbml.engines.trees import remove_tree
from kwdbml.errors import EngineError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SLOT = re.compile(r"[0-9a-f]{16}")
#: A workspace without a supervisor's mark is being made, unless it is older than this (seconds).
_YOUNG = 300.0


class Records:
    """Runs under ``root``, as seen from the host named ``host``."""

    def __init__(self, root: Path, host: str) -> None:
        self.root = root
        self.workspaces = root / "ws"
        self._runs = root / "runs"
        self._host = host
        self._boot = procs.boot_id()

    def prepare(self) -> None:
        """Make the directories; others may pass through, to their own workspace, and see nothing."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)
        for path, mode in ((self.root, 0o711), (self.workspaces, 0o711), (self._runs, 0o700)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time judges and replaces records."""
        fd = os.open(self._runs / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise EngineError(f"“{name}” is no name for a run", hint="letters, digits, “.”, “_” and “-”, at most 200")
        return self._runs / f"{name}.json"

    def write(self, name: str, slot: str, pid: int, start: int) -> Handle:
        """Record that this supervisor is about to start the run; durable when it returns.

        EngineError, retryable, when somebody else has recorded the run meanwhile.
        """
        handle: Handle = {"engine": "local", "run": name, "slot": slot, "pid": pid, "start": start}
        handle |= {"host": self._host, "boot": self._boot}
        with self._locked():
            if self._launched(name) is not None:
                raise EngineError(f"run {name} has been launched by another worker", retryable=True)
            procs.write_atomically(str(self._path(name)), handle)
        return handle

    def find(self, name: str) -> Handle | None:
        """The handle of a run that was launched; a record that never came so far is removed. Blocks for moments."""
        if self.read(name) is None:
            return None
        with self._locked():
            handle = self._launched(name)
            if handle is None:
                with contextlib.suppress(FileNotFoundError):
                    self._path(name).unlink()
        return handle

    def read(self, name: str) -> Handle | None:
        return procs.read_json(str(self._path(name)))

    def _launched(self, name: str) -> Handle | None:
        handle = self.read(name)
        if handle is None or self._began(handle):
            return handle
        if not self.here(handle):
            return handle  # who can say how far it got: LOST is the safe answer
        # Its worker has not said go, and from now on must not: whoever asks is about to launch it again.
        pid, start = int(handle["pid"]), int(handle["start"])
        procs.signal_process(pid, start, signal.SIGTERM)
        if not procs.wait_gone(pid, start, 10):
            procs.signal_process(pid, start, signal.SIGKILL)
            procs.wait_gone(pid, start, 10)
        return handle if self._began(handle) else None

    def _began(self, handle: Handle) -> bool:
        control = self.workspace(handle) / "ctl"
        return (control / "started").exists() or (control / "status.json").exists()

    def workspace(self, handle: Handle) -> Path:
        """Where the run's workspace lies. The handle comes from a database: nothing outside the root is believed."""
        slot = str(handle.get("slot", ""))
        if not _SLOT.fullmatch(slot):
            raise EngineError("this is no handle of the local engine")
        return self.workspaces / slot

    def here(self, handle: Handle) -> bool:
        """Whether the run's processes can be seen from here: same host, same boot."""
        return handle.get("host") == self._host and handle.get("boot") == self._boot

    def mine(self, handle: Handle) -> bool:
        """Whether it is the run that is recorded under its name here, and not one that was cleaned up."""
        return handle.get("host") == self._host and self.read(str(handle.get("run", ""))) == handle

    def status(self, handle: Handle) -> RunStatus:
        """How the run stands, from what lies on disk and lives. Kills what a dead supervisor left behind."""
        if not self.mine(handle):
            return lost("nothing is known of this run on this host")
        workspace = self.workspace(handle)
        alive = self.here(handle) and procs.alive(int(handle["pid"]), int(handle["start"]))
        progress = procs.read_json(str(workspace / "ctl" / "progress.json")) or {}
        # After the look at the process: a status that it wrote before it ended is there now.
        status = procs.read_json(str(workspace / "ctl" / "status.json"))
        step, fraction = progress.get("step"), progress.get("fraction")
        if status is not None:
            return _ended(workspace, status, step)
        if alive:
            return RunStatus(RunState.RUNNING, step=_text(step), fraction=_number(fraction))
        if self.here(handle) and self._leftovers(workspace):
            return RunStatus(RunState.UNKNOWN, reason="Lost", message="the rest of a lost run is being killed")
        return lost("its supervisor is gone and left no status: killed, or the machine was restarted")

    def _leftovers(self, workspace: Path) -> bool:
        """Whether a run without supervisor still lives; it is killed, and gone in a moment."""
        started = procs.read_json(str(workspace / "ctl" / "started"))
        if started is None or not isinstance(started.get("start"), int):
            return False
        return procs.signal_process(int(str(started["pid"])), int(str(started["start"])), signal.SIGKILL)

    def remove(self, handle: Handle) -> None:
        """Delete what the run left. It must have ended. Blocks while it deletes."""
        if not self.mine(handle):
            return
        remove_tree(str(self.workspace(handle)))
        with contextlib.suppress(FileNotFoundError):
            self._path(str(handle["run"])).unlink()

    def sweep(self) -> None:
        """Delete workspaces that belong to no recorded run and have no living supervisor: a power failure's."""
        recorded = {str((procs.read_json(str(path)) or {}).get("slot")) for path in self._runs.glob("*.json")}
        for path in self.workspaces.iterdir():
            if path.name in recorded:
                continue
            # a living supervisor of another worker may delete its own at this very moment
            with contextlib.suppress(FileNotFoundError):
                if self._abandoned(path):
                    remove_tree(str(path))

    def _abandoned(self, workspace: Path) -> bool:
        path = str(workspace / "ctl" / "supervisor.json")
        mark = procs.read_json(path)
        if mark is None:
            return time.time() - workspace.stat().st_mtime > _YOUNG
        if procs.is_held(path):
            return False
        return mark["boot"] != self._boot or not procs.alive(int(str(mark["pid"])), int(str(mark["start"])))


def lost(message: str) -> RunStatus:
    return RunStatus(RunState.LOST, reason="Lost", message=message)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _ended(workspace: Path, status: dict[str, Any], step: object) -> RunStatus:
    """What the supervisor's last word means."""
    code, reason, message = int(status["exit_code"]), str(status["reason"]), str(status["message"])
    state = RunState.FAILED
    if reason == "Canceled":
        state = RunState.CANCELED
    elif reason:
        pass
    elif code == 0 and has_output(workspace / "out", "result.json"):
        state = RunState.SUCCEEDED
    elif code == 0:
        reason, message = "Error", "The step left with exit code 0 but without a result (did it call sys.exit?)."
    elif status["signal"]:
        reason, message = "Signal", f"The step was ended by signal {status['signal']} ({_signal(status['signal'])})."
    else:
        reason, message = "Error", f"The step left with exit code {code}."
    return RunStatus(state, code, reason, message, _text(step), 1.0 if state is RunState.SUCCEEDED else None)


def _signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name}, {signal.strsignal(number)}"
    except ValueError:
        return "unknown"
