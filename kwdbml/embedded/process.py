"""Detached processes: they hold nothing of the caller's, and are recognised again by more than their pid."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kwdbml.embedded.account import Account

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (ticks since boot) of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command in parentheses may hold anything
    return fields[0], int(fields[19])


@dataclass(frozen=True, slots=True)
class Process:
    """A process that may have ended: pids are used again, so its start time and the machine's boot belong to it."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process of that pid; a zombie does not live."""
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            return None
        return cls(pid, stat[1], _BOOT_ID.read_text(encoding="ascii").strip())

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """The living process that a file records; None when it ended, or the file says nothing."""
        try:
            recorded = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return recorded if cls.of(recorded.pid) == recorded else None

    def save(self, path: Path) -> None:
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
        fresh.replace(path)

    def command(self) -> list[str]:
        """Its arguments; empty when it has just ended."""
        try:
            raw = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [os.fsdecode(part) for part in raw.split(b"\0")]

    def directory(self) -> Path | None:
        """Its current directory; None when it has ended, or is not ours to look into."""
        try:
            return Path(f"/proc/{self.pid}/cwd").readlink()
        except OSError:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended meanwhile."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if Process.of(self.pid) == self:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within so many seconds."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if Process.of(self.pid) != self:
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(descriptor)

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal in turn, waiting so many seconds after it, until the process has ended."""
        for number, timeout in steps:
            self.send(number)
            if self.wait(timeout):
                return


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
) -> Process | None:
    """Start a detached process: a session of its own, nobody's child, its output appended to ``log``.

    None when it has ended already. The shell in between says its pid and becomes the program; setsid(1) forks, so that
    the program is no child of ours, which we would have to wait for.
    """
    script = 'echo $$; exec "$@" </dev/null >>"$0" 2>&1'
    started = subprocess.run(
        ["setsid", "--fork", "/bin/sh", "-c", script, log, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=cwd,
        env=dict(env),
        pass_fds=pass_fds,
        **(account.arguments() if account else {}),
    )
    return Process.of(int(started.stdout))
