"""Starting the step's process: the last things that happen between the supervisor's fork and its exec.

What is started is described by the engine in a ``Plan`` (``sandbox.py``) as plain JSON. Standard library only and light
to import: part of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

from kwdbml.engines.cgroups import Cgroup

#: Rather a job than the database when the machine runs out of memory.
_OOM_SCORE = "800"
#: The child's descriptors beyond the standard three: the control pipe, and what bubblewrap reads and writes.
CONTROL, INFO, ARGUMENTS, FILTER = 3, 4, 5, 6


class Child:
    """The started process and our ends of its pipes."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int, control: int, info: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.stdin, self.stdout, self.stderr, self.control, self.info = stdin, stdout, stderr, control, info
        for fd in (stdin, stdout, stderr, control, info):
            os.set_blocking(fd, False)


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("kwdbml", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def start(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    bwrap: Sequence[str] | None,
    seccomp: bytes | None,
    cgroup: Cgroup | None,
    directory: str | None,
) -> Child:
    """Start ``command`` with ``env`` and nothing else of ours; inside bubblewrap when ``bwrap`` has its path and
    arguments.

    Its standard streams and descriptor 3 are pipes to us. ``directory``: where it runs without a sandbox.
    """
    stdin, control_pipes = os.pipe(), [os.pipe() for _ in range(4)]
    child_ends = {0: stdin[0], 1: control_pipes[0][1], 2: control_pipes[1][1], CONTROL: control_pipes[2][1]}
    if bwrap is not None:
        arguments = [*bwrap[1:], "--info-fd", str(INFO)]
        child_ends[INFO] = control_pipes[3][1]
        if seccomp is not None:
            arguments += ["--seccomp", str(FILTER)]
            child_ends[FILTER] = _memory_file(seccomp)
        # Not on the command line: that can be read inside, and tells where things lie on this machine.
        child_ends[ARGUMENTS] = _memory_file(b"".join(argument.encode() + b"\0" for argument in arguments))
        command = [bwrap[0], "--args", str(ARGUMENTS), "--", *command]
    pid = os.fork()
    if pid == 0:
        _become(command, env, child_ends, cgroup, directory)
    for fd in (*child_ends.values(), control_pipes[3][1]):
        with contextlib.suppress(OSError):
            os.close(fd)
    return Child(pid, stdin[1], *(pipe[0] for pipe in control_pipes))


def _become(
    command: Sequence[str],
    env: Mapping[str, str],
    ends: Mapping[int, int],
    cgroup: Cgroup | None,
    directory: str | None,
) -> NoReturn:
    """Turn this forked process into ``command``; never returns."""
    try:
        os.setpgid(0, 0)
        if cgroup is not None:
            cgroup.join()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE)
        if directory is not None:
            os.chdir(directory)
        # First above the numbers we hand out, so that no dup2 below overwrites one that is still to come.
        lifted = {number: _lift(fd) for number, fd in ends.items()}
        for number, fd in lifted.items():
            os.dup2(fd, number, inheritable=True)
        os.closerange(max(ends) + 1, os.sysconf("SC_OPEN_MAX"))
        for signum in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_DFL)
        os.umask(0o077)
        os.execvpe(command[0], list(command), dict(env))
    except BaseException as error:  # noqa: BLE001 - this is a copy of the supervisor and must end here
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _lift(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def adopt_orphans() -> None:
    """Make this process the parent of everything below it that loses its own.

    So nothing of a run is ever out of our sight: what a job leaves behind where it has no pid namespace, and
    bubblewrap's inner process when the outer one dies before it has bound the two together.
    """
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
