"""The step as a child of the pod's process: started, listened to, ended with everything that it has started.

It gets an environment of its own, a session of its own, where possible another user number and no sight of the pod's
Secret. Its standard streams and descriptor 3 are pipes to us (``kwdbml.steps.__main__`` has the protocol).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import selectors
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from kwdbml.processes import descendants
from kwdbml.steps.pod_hide import hide, no_new_privileges
from kwdbml.steps.pod_log import PodLog

_READ = 65536
_PROGRESS_EVERY = 0.25  # seconds between two fractions of one step
_SUBREAPER = 36
#: User numbers for the step: above those of containers; where there are few, between those that systems hand out.
_UIDS = ((1_900_000_000, 1 << 20), (60_600, 500))

_SEEN = "kwdbml: the job's code can read this pod's Secret and service-account token: the kernel has no Landlock"


def adopt_orphans() -> None:
    """What loses its parent becomes our child, so that nothing of the step outlives it unseen."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def choose_uid(needs: Sequence[str]) -> int | None:
    """A user number under which the step can run, that is, read ``needs``; None: it must run as we do."""
    if os.geteuid() != 0:
        return None
    for first, count in _UIDS:
        uid = first + random.randrange(count)
        if as_user(uid, lambda: all(map(_reachable, needs))):
            return uid
    return None


def _reachable(path: str) -> bool:
    return os.access(path, os.X_OK if os.path.isdir(path) else os.R_OK, effective_ids=True)


def as_user(uid: int, action: Callable[[], bool]) -> bool:
    """Do it in a process of that user; whether that was possible and the answer was true."""
    pid = os.fork()
    if pid == 0:
        try:
            _become(uid)
            os._exit(0 if action() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Child:
    """The started step, to which ``hidden`` is closed; with ``unsafe`` it runs also where that cannot be done. ``pump``
    runs in a thread until its pipes have ended; ``wait`` in the main one."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        directory: str,
        log: PodLog,
        *,
        uid: int | None,
        hidden: Iterable[str],
        unsafe: bool,
    ) -> None:
        self.step = ""
        self._uid, self._log = uid, log
        self._fraction: float | None = None
        self._told_at = 0.0
        self._untold = False
        self._control = b""
        pipes = {0: os.pipe(), 1: os.pipe(), 2: os.pipe(), 3: os.pipe()}
        ends = {number: pipe[0] if number == 0 else pipe[1] for number, pipe in pipes.items()}
        # What a signal's handler raises between here and the end would leave a process that nobody knows.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGALRM))
        self.pid = os.fork()
        if self.pid == 0:
            _exec(command, env, directory, ends, uid, hidden, unsafe)
        for fd in ends.values():
            os.close(fd)
        self._stdin = pipes[0][1]
        self._outputs = {pipes[1][0]: "stdout", pipes[2][0]: "stderr", pipes[3][0]: "control"}
        self._thread = threading.Thread(target=self._pump, name="pump", daemon=True)
        self._thread.start()
        self._unblock = before

    def listen(self) -> None:
        """The child is known to whoever has to end it: signals may come again."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unblock)

    # -- the main thread -----------------------------------------------------------------------------------------

    def go(self, order: dict[str, Any]) -> None:
        """Tell the step which run it is. It may not be reading yet."""
        data = json.dumps(order).encode() + b"\n"
        threading.Thread(target=self._write, args=(data,), name="go", daemon=True).start()

    def wait(self) -> int:
        """Its exit status as the kernel gives it, once it has ended; orphans are buried meanwhile."""
        while True:
            pid, status = os.wait()
            if pid == self.pid:
                return status

    def end(self) -> None:
        """Nothing of the step lives when this returns, and all that it has printed is in the log."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.kill()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.005)  # the kernel needs a moment
        self._thread.join(30)
        if self._untold:
            self._log.progress(self.step, self._fraction)

    def kill(self) -> None:
        """SIGKILL to everything of the step; stopped first, a parent makes no more children."""
        if self._uid is not None:
            as_user(self._uid, _kill_all_mine)
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            seen = {os.getpid()}
            while fresh := set(descendants(os.getpid())) - seen:
                seen |= fresh
                for pid in fresh:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signum)

    # -- the threads ---------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._stdin, "wb", buffering=0) as stdin:
            view = memoryview(data)
            while view:
                view = view[stdin.write(view) :]

    def _pump(self) -> None:
        selector = selectors.DefaultSelector()
        for fd, name in self._outputs.items():
            selector.register(fd, selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(_PROGRESS_EVERY if self._untold else None)
            # Progress before output: a line belongs to the step that was announced before it.
            for key, _ in sorted(ready, key=lambda item: item[0].data != "control"):
                data = os.read(key.fd, _READ)
                if key.data != "control":
                    self._log.feed(key.data, data, self.step, final=not data)
                elif data:
                    self._announcements(data)
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
            self._tell()
        selector.close()

    def _announcements(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        self._control = self._control[-_READ:]
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):  # user code writes here too: anything may come
                message = json.loads(line)
                if isinstance(message, dict) and message.get("event") == "progress":
                    self._progressed(message.get("step"), message.get("fraction"))

    def _progressed(self, step: object, fraction: object) -> None:
        if not isinstance(step, str) or not step.isidentifier() or len(step) > 32:
            return
        exact = isinstance(fraction, int | float) and 0 <= fraction <= 1
        changed, self.step = step != self.step, step
        self._fraction, self._untold = float(fraction) if exact else None, True  # type: ignore[arg-type]
        if changed:
            self._told_at = 0.0
            self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if self._untold and now - self._told_at >= _PROGRESS_EVERY:
            self._told_at, self._untold = now, False
            self._log.progress(self.step, self._fraction)


def _fall_first() -> None:
    """When memory is short the kernel shall end the step, not who can tell of it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _kill_all_mine() -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    return True


def _exec(
    command: Sequence[str],
    env: Mapping[str, str],
    directory: str,
    ends: Mapping[int, int],
    uid: int | None,
    hidden: Iterable[str],
    unsafe: bool,
) -> NoReturn:
    """Turn this forked process into the step; never returns."""
    try:
        os.setsid()
        for signum in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # First above the numbers that we hand out, so that no dup2 overwrites one that is still to come.
        lifted = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for number, fd in ends.items()}
        for number, fd in lifted.items():
            os.dup2(fd, number, inheritable=True)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.umask(0o077)
        os.chdir(directory)
        no_new_privileges()
        _fall_first()
        try:
            hide(hidden)
        except OSError as error:
            if not unsafe:
                raise
            os.write(2, f"{_SEEN} ({error.strerror})\n".encode())
        if uid is not None:
            _become(uid)
        program = shutil.which(command[0], path=env["PATH"]) or command[0]
        os.execve(program, list(command), dict(env))
    except BaseException as error:  # noqa: BLE001 - this is a copy of the pod's process and must end here
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)
