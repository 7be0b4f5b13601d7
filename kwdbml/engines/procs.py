"""Processes seen from outside: who still lives, and is signalled; and files written so that a crash cannot tear them.

Standard library only and light to import: the supervisor (``supervisor.py``) starts with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time

from kwdbml.processes import stat


def boot_id() -> str:
    """The kernel's name for this boot: pids and start times of another one mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which ``pid`` started; None when it is gone or only a zombie is left."""
    fields = stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether the process that had this pid *and* this start time still runs."""
    return start_time(pid) == start


def open_pidfd(pid: int, start: int) -> int | None:
    """A pidfd of exactly that process, or None when it is gone. Checked after opening, so a reused pid is noticed."""
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return None
    if alive(pid, start):
        return fd
    os.close(fd)
    return None


def signal_process(pid: int, start: int, signum: int) -> bool:
    """Signal exactly that process; False when it is gone."""
    fd = open_pidfd(pid, start)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def write_atomically(path: str, content: dict[str, object], *, durable: bool = True, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content`` as JSON: readers see the old file or the whole new one, also after a crash."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, json.dumps(content).encode())
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    if durable:
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make a rename or an unlink in that directory survive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hold(path: str, content: dict[str, object]) -> int:
    """Write ``path``, locked from its first moment on until the descriptor that this answers is closed: others see by
    that whether this process lives, those in another container too, to which a pid says nothing."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, json.dumps(content).encode())
    os.rename(temporary, path)
    return fd


def is_held(path: str) -> bool:
    """Whether the process that wrote it with ``hold`` lives."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_json(path: str) -> dict[str, object] | None:
    """What ``write_atomically`` wrote, or None when there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content if isinstance(content, dict) else None


def wait_gone(pid: int, start: int, timeout: float) -> bool:
    """Block until that process has ended, at most ``timeout`` seconds."""
    import select

    fd = open_pidfd(pid, start)
    if fd is None:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if poller.poll(left * 1000):
                return True
        return False
    finally:
        os.close(fd)
