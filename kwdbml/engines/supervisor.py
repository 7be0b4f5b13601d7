"""The process that watches over one run, from before its start to its last byte of output.

One supervisor per sandbox, started by the worker in a session of its own, and surviving it::

    worker ──stdin──▶ supervisor ──▶ bubblewrap ──▶ step (kwdbml.steps --warm)
           ◀─stdout──      │  ctl/log.*  ctl/progress.json  ctl/status.json

From its stdin it reads two JSON lines: what to start (at once), and later ``go``: which run this is and what it may
use. It ends in one of three ways:

* stdin ends before ``go``: the worker is gone or has no use for it. It kills the sandbox and deletes the workspace.
* the run ends (by itself, at a limit, or cancelled by SIGUSR1): it writes ctl/status.json when nothing of it lives.
* SIGTERM: somebody stops the machine. It kills everything and leaves no status, so that the run counts as lost, and
  not as failed.

Its own death by SIGKILL takes the sandbox with it (bubblewrap's --die-with-parent). It imports the standard library
and its light neighbours only: there are as many supervisors as jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any

if __name__ == "__main__":  # started as a file by ``python -I -S``: nothing of ours is on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from kwdbml.engines import launcher, procs
from kwdbml.engines.cgroups import Cgroup, run_group
from kwdbml.engines.joblog import LogWriter
from kwdbml.engines.trees import remove_tree
from kwdbml.engines.watch import Group, Limits, Watch

CANCEL = signal.SIGUSR1
_READ = 65536
_SLOW_EVERY = 10  # looks at memory per look at disk and cores
_PROGRESS_EVERY = 0.1  # seconds between two writes of progress.json at most


class Supervisor:
    """``setup``: what to start, as ``sandbox.Plan.setup`` makes it."""

    def __init__(self, setup: dict[str, Any], rest: bytes) -> None:
        self._workspace = str(setup["workspace"])
        self._ctl = os.path.join(self._workspace, "ctl")
        self._tick = float(setup["tick"])
        self._log = LogWriter(self._ctl)
        self._poller = select.poll()
        self._commands = rest
        self._control = b""
        self._info = b""
        self._last_words = b""
        self._outgoing = b""
        self._step = ""
        self._progress: dict[str, object] = {}
        self._progress_at: float | None = None
        self._deadline: float | None = None
        self._started: float | None = None
        self._exit: int | None = None
        self._killed: tuple[str, str] | None = None
        self._watch: Watch | None = None
        self._look_at = 0.0  # when the next look is due: by the clock, so that a flood of output does not make more
        self._most_processes = int(setup["most_processes"])
        cgroup = _make_cgroup(setup["cgroup"], self._most_processes)
        uid, bwrap, seccomp = setup["uid"], setup["bwrap"], setup["seccomp"]
        launcher.adopt_orphans()
        self._child = launcher.start(
            setup["command"],
            setup["env"],
            bwrap=bwrap,
            seccomp=None if seccomp is None else bytes.fromhex(seccomp),
            cgroup=cgroup,
            directory=None if bwrap is not None else os.path.join(self._workspace, "out", "tmp"),
        )
        self._group = Group(cgroup, uid)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, wakeup: int) -> None:
        """Until everything has ended. ``wakeup`` becomes readable when a signal came."""
        child = self._child
        for fd in (0, wakeup, child.control, child.stdout, child.stderr, child.info, child.pidfd):
            self._poller.register(fd, select.POLLIN)
        tick = 0
        if self._commands:
            self._command(b"")
        while self._exit is None and not self._gone():
            ready = {fd for fd, _ in self._poller.poll(self._timeout())}
            # Progress before output: a line belongs to the step that was announced before it.
            for fd in sorted(ready, key=lambda fd: fd != child.control):
                self._handle(fd, wakeup)
            if self._watch is not None and self._killed is None and self._exit is None:
                tick += self._look_when_due(self._watch, tick + 1)
        self._end(wakeup)

    def _gone(self) -> bool:
        return self._killed is not None and self._killed[0] in ("", "Terminated")

    def _timeout(self) -> float | None:
        """Milliseconds to the next look; none while nothing runs: a warm sandbox costs no time."""
        if self._watch is None:
            return None
        return min(max(0.0, self._look_at - time.monotonic()), self._tick) * 1000

    def _handle(self, fd: int, wakeup: int) -> None:
        child = self._child
        if fd == wakeup:
            self._signalled(os.read(wakeup, 64))
        elif fd == child.pidfd:
            self._exit = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        elif fd == child.stdin:
            self._send()
        else:
            data = _read(fd)
            if data == b"":
                self._poller.unregister(fd)
                if fd == 0 and self._watch is None:
                    self._kill("", "the worker let go")
            elif data:
                self._received(fd, data)

    def _received(self, fd: int, data: bytes) -> None:
        child = self._child
        if fd == 0:
            self._command(data)
        elif fd == child.control:
            self._control_lines(data)
        elif fd == child.info:
            self._info += data
            with contextlib.suppress(ValueError, KeyError):
                self._group.set_init(int(json.loads(self._info)["child-pid"]))
        else:
            stream = "stdout" if fd == child.stdout else "stderr"
            if self._watch is None:
                self._last_words = (self._last_words + data)[-2000:]
            self._log.feed(stream, data, self._step)

    # -- before the run ------------------------------------------------------------------------------------------

    def _command(self, data: bytes) -> None:
        self._commands += data
        line, newline, _ = self._commands.partition(b"\n")
        if newline and self._watch is None:
            self._go(json.loads(line))

    def _go(self, go: dict[str, Any]) -> None:
        """Start the run. From the marker on it has been launched, whatever happens next."""
        self._started = time.time()
        init = self._group.init or self._child.pid
        procs.write_atomically(
            os.path.join(self._ctl, "started"),
            # Not synced: after a power failure another boot id says that nothing of it lives.
            {"at": self._started, "pid": init, "start": procs.start_time(init)},
            durable=False,
        )
        bounds = Limits(go["limits"])
        if bounds.ttl is not None:
            self._deadline = time.monotonic() + bounds.ttl
        self._watch = Watch(self._group, bounds, os.path.join(self._workspace, "out"), self._most_processes)
        if problem := self._watch.apply():
            self._kill("OOMKilled", problem)
        self._outgoing = json.dumps(go["step"]).encode() + b"\n"
        self._poller.register(self._child.stdin, select.POLLOUT)
        self._send()
        _tell({"event": "started"})

    def _send(self) -> None:
        """Hand the go-line to the step, which may not be reading yet."""
        try:
            self._outgoing = self._outgoing[os.write(self._child.stdin, self._outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outgoing = b""
        if not self._outgoing:
            self._poller.unregister(self._child.stdin)
            os.close(self._child.stdin)

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or self._watch is None:
            self._kill("Terminated", "the supervisor was told to stop")
        elif CANCEL in numbers:
            self._kill("Canceled", "The job was cancelled.")

    # -- during the run ------------------------------------------------------------------------------------------

    def _control_lines(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        self._control = self._control[-_READ:]
        for line in lines:
            if line.strip() == b"ready":
                _tell({"event": "ready"})
                continue
            with contextlib.suppress(ValueError, RecursionError):  # user code writes here too: anything may come
                message = json.loads(line)
                if isinstance(message, dict):
                    self._announced(message)

    def _announced(self, message: dict[str, object]) -> None:
        step, fraction = message.get("step"), message.get("fraction")
        if message.get("event") == "ready" and self._watch is None:
            _tell({"event": "ready"})
        elif message.get("event") == "progress" and isinstance(step, str) and step.isidentifier() and len(step) <= 32:
            exact = isinstance(fraction, int | float) and 0 <= fraction <= 1
            self._progress = {"step": step, "fraction": fraction if exact else None}
            changed, self._step = step != self._step, step
            if changed or self._progress_at is None or time.monotonic() > self._progress_at + _PROGRESS_EVERY:
                self._write_progress()

    def _write_progress(self) -> None:
        self._progress_at = time.monotonic()
        procs.write_atomically(os.path.join(self._ctl, "progress.json"), self._progress, durable=False)

    def _look_when_due(self, watch: Watch, tick: int) -> bool:
        if time.monotonic() < self._look_at:
            return False
        self._look(watch, tick)
        self._look_at = time.monotonic() + self._tick
        return True

    def _look(self, watch: Watch, tick: int) -> None:
        self._bury()
        slow = tick % _SLOW_EVERY == 0
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._kill("DeadlineExceeded", "The job ran longer than its ttl allows.")
        elif problem := watch.memory(thorough=slow):
            self._kill("OOMKilled", problem)
        elif problem := watch.room():
            self._kill("Evicted", problem)
        elif slow:
            watch.pin()
            if problem := watch.disk():
                self._kill("Evicted", problem)

    def _kill(self, reason: str, message: str) -> None:
        if self._killed is None:
            self._killed = (reason, message)
        self._group.kill()

    # -- after the run -------------------------------------------------------------------------------------------

    def _end(self, wakeup: int) -> None:
        """Nothing of the run lives when this has written the status."""
        if self._watch is not None and self._killed is None and (problem := self._watch.memory()):
            self._killed = ("OOMKilled", problem)  # the kernel was quicker than our look
        self._reap()
        for fd in (self._child.control, self._child.stdout, self._child.stderr):
            while data := _read(fd):
                self._received(fd, data)
        self._log.close(self._step)
        if self._progress:
            self._write_progress()
        if self._group.cgroup is not None:
            self._group.cgroup.remove()
        if self._watch is None:
            if self._exit is not None and self._killed is None:
                words = self._last_words.decode("utf-8", "replace").strip()
                _tell({"event": "failed", "message": f"the step left with {self._exit} before its start: {words}"})
                _wait_for_end_of_input(wakeup)  # the worker may be filling the workspace right now
            remove_tree(self._workspace)
        elif not self._gone():
            procs.write_atomically(os.path.join(self._ctl, "status.json"), self._status())

    def _reap(self) -> None:
        """Kill what is left and wait until the kernel has none of it."""
        while True:
            self._group.kill()
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self._child.pid:
                self._exit = os.waitstatus_to_exitcode(status)

    def _bury(self) -> None:
        """Take leave of orphans that have ended: without a pid namespace they come to us while the step runs."""
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == self._child.pid:
                return  # the loop sees to that one
            os.waitpid(ended.si_pid, 0)

    def _status(self) -> dict[str, object]:
        code = 0 if self._exit is None else self._exit
        # Bubblewrap says 128 + n of a step that signal n ended, as a shell does.
        number = -code if code < 0 else code - 128 if 128 < code <= 192 else 0
        reason, message = self._killed or ("", "")
        return {
            "exit_code": code if code >= 0 else 128 - code,
            "signal": number or None,
            "reason": reason,
            "message": message,
            "started": self._started,
            "ended": time.time(),
        }


def _make_cgroup(base: list[Any] | None, most_processes: int) -> Cgroup | None:
    if base is None:
        return None
    group = run_group(int(base[0]), str(base[1]))
    group.create(most_processes)
    return group


def _read(fd: int) -> bytes | None:
    """What there is to read; b'' at the end, None when there is nothing now."""
    try:
        return os.read(fd, _READ)
    except BlockingIOError:
        return None


def _wait_for_end_of_input(wakeup: int) -> None:
    """Until the worker lets go or somebody stops us."""
    while wakeup not in select.select([0, wakeup], [], [])[0]:
        if _read(0) == b"":
            return


def _tell(message: dict[str, object]) -> None:
    """To the worker, if it is still there."""
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Read what to start, then watch over it."""
    os.chdir("/")
    wakeup, notify = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    for signum in (CANCEL, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    received = b""
    while b"\n" not in received:
        data = os.read(0, _READ)
        if not data:
            return
        received += data
    line, _, rest = received.partition(b"\n")
    setup = json.loads(line)
    pid = os.getpid()
    procs.hold(
        os.path.join(setup["workspace"], "ctl", "supervisor.json"),
        {"pid": pid, "start": procs.start_time(pid), "boot": procs.boot_id()},
    )
    os.set_blocking(0, False)
    os.set_blocking(1, False)
    Supervisor(setup, rest).run(wakeup)
    os._exit(0)  # the worker waits for our end: taking the interpreter down would cost it milliseconds


if __name__ == "__main__":
    main()
