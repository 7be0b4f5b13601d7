"""A step that does what its job.json says: stands in for kwdbml.steps where only the engine is tested.

Speaks the warm protocol: tells ``ready`` on descriptor 3, reads the go-line, works, leaves a result. Standard library
only. ``job["do"]`` is a list of [action, argument …]; each action is a function of this file. What an action answers
is in result.json under its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import re
import signal
import socket
import ssl
import stat
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WORKSPACE = Path()
GO: str | None = None
AUTHORITY: str | None = None  # certificates that vouch for that address
LOOK_EVERY = 0.005  # seconds


def tell(**message: Any) -> None:
    os.write(3, json.dumps(message).encode() + b"\n")


def say(line: str, stream: str = "stdout") -> None:
    print(line, file=getattr(sys, stream), flush=True)


def raw(text: str, times: int = 1, stream: int = 1) -> None:
    """Write bytes (given as latin-1) ``times`` times."""
    data = text.encode("latin-1")
    block = data * max(1, min(times, 65536 // len(data)))
    left = len(data) * times
    while left:
        left -= os.write(stream, block[:left])


def progress(step: str, fraction: float | None = None) -> None:
    tell(event="progress", step=step, fraction=fraction)


def control(text: str) -> None:
    os.write(3, text.encode())


def write(name: str, text: str) -> None:
    path = Path(name) if name.startswith("/") else WORKSPACE / "out" / name
    path.write_text(text)


def told_to_go() -> bool:
    """Whether the test has written an object where no file of its own can reach us."""
    if GO is None:
        return False
    try:
        trust = ssl.create_default_context(cadata=AUTHORITY) if GO.startswith("https:") else None
        with urllib.request.urlopen(GO, timeout=10, context=trust):
            return True
    except OSError:
        return False


def pause(step: str = "paused") -> None:
    """Announce this step, then wait until the test writes in/go."""
    progress(step)
    while not (WORKSPACE / "in" / "go").exists() and not told_to_go():
        time.sleep(LOOK_EVERY)


def hang() -> None:
    while True:
        pass


def leave(code: int) -> None:
    sys.exit(code)


def fall(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


def raise_error(message: str) -> None:
    raise RuntimeError(message)


def allocate(size: int, block: int = 4 << 20) -> None:
    kept = []
    for _ in range(size // block):
        kept.append(b"\1" * block)


_KEPT: list[bytes] = []


def keep(size: int) -> None:
    """Memory that stays, and that children made later share."""
    _KEPT.append(b"\1" * size)


def children(count: int, detach: bool = True, size: int = 0) -> list[int]:
    """Children that live for ever, each with ``size`` bytes; detached by a double fork in a session of their own."""
    pids = []
    for _ in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            if detach:
                os.setsid()
                if os.fork():
                    os._exit(0)
            for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)
            kept = b"\1" * size
            os.write(writing, str(os.getpid()).encode())
            while True:
                time.sleep(60 + len(kept) * 0)
        os.close(writing)
        pids.append(int(os.read(reading, 32)))
        os.close(reading)
        if detach:
            os.wait()
    return pids


def bomb() -> int:
    """Fork until the kernel says no; the children stay."""
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            return count
        count += 1


def fork_once() -> None:
    if os.fork() == 0:
        os._exit(0)


def share(size: int) -> None:
    """A file in memory, mapped and full."""
    fd = os.memfd_create("x")
    os.truncate(fd, size)
    _MAPS.append(mmap.mmap(fd, size))
    _MAPS[-1][:] = b"\1" * size


def nest(depth: int) -> None:
    os.chdir(WORKSPACE / "out")
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.chmod(".", 0)


def fill(size: int, files: int = 1) -> None:
    for number in range(files):
        with (WORKSPACE / "out" / f"big{number}").open("wb") as file:
            for _ in range(size >> 20):
                file.write(b"\1" * (1 << 20))


def fill_unseen(how: str, size: int) -> None:
    """``size`` bytes where a look at directories does not find them; they stay as long as the step lives."""
    if how == "closed":
        folder = WORKSPACE / "out" / "closed"
        folder.mkdir()
        folder.chmod(0o300)
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    elif how == "memory":
        fd = os.memfd_create("x")
    elif how == "shared":
        fd = os.open("/dev/shm/x", os.O_RDWR | os.O_CREAT)
    else:
        fd = os.open(WORKSPACE / "out" / "gone", os.O_RDWR | os.O_CREAT)
        os.unlink(WORKSPACE / "out" / "gone")
    with contextlib.suppress(OSError):  # no room: all there was is taken
        for _ in range(size >> 20):
            os.write(fd, b"\1" * (1 << 20))
    if how == "mapped":
        _MAPS.append(mmap.mmap(fd, 4096))
        os.close(fd)


_MAPS: list[mmap.mmap] = []


def empty_files(count: int, where: str = "") -> None:
    folder = Path(where) if where else WORKSPACE / "out"
    for number in range(count):
        os.close(os.open(folder / f"empty{number}", os.O_WRONLY | os.O_CREAT))


def sparse(name: str, size: int) -> None:
    with (WORKSPACE / "out" / name).open("wb") as file:
        file.truncate(size)


def odd_names() -> None:
    """Names that are no line, no text, or look like another path."""
    for name in (b"new\nline", b"no\xfftext", b"-rf", b"..x", b"\\", "😀".encode()):
        path = os.path.join(os.fsencode(WORKSPACE / "out"), name)
        os.mkdir(path)
        with open(os.path.join(path, name), "wb") as file:
            file.write(b"x")


def swap_folder(target: str) -> None:
    """Put a link where the worker made a directory."""
    os.chdir(WORKSPACE / "out")
    os.rename("tmp", "old")
    os.symlink(target, "tmp")


def stay_locked() -> None:
    """Every signal is blocked, and the interpreter is inside one long call."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    re.match("(a|a?)+b", "a" * 60)


def open_all() -> int:
    """How many files one process can have open."""
    found = []
    with contextlib.suppress(OSError):
        while True:
            found.append(os.open("/dev/null", os.O_RDONLY))
    for fd in found:
        os.close(fd)
    return len(found)


def link(target: str, name: str) -> None:
    os.symlink(target, WORKSPACE / "out" / name)


def cores(ask: list[int] | None = None) -> list[int]:
    if ask is not None:
        os.sched_setaffinity(0, ask)
    return sorted(os.sched_getaffinity(0))


def await_cores(count: int) -> list[int]:
    while len(os.sched_getaffinity(0)) != count:
        time.sleep(0.01)
    return sorted(os.sched_getaffinity(0))


def environment() -> dict[str, str]:
    return dict(os.environ)


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def status() -> dict[str, str]:
    return dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)


def attempt(what: str, *arguments: Any) -> str:
    """Try an attack: "done …" when it worked, else the error's name. Never raises."""
    try:
        return f"done {_ATTACKS[what](*arguments)}"
    except OSError as error:
        return type(error).__name__ if type(error) is not OSError else f"OSError {error.errno}"


def _connect(family: int, address: Any) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(tuple(address) if isinstance(address, list) else address)
        return connection.recv(100).decode()


def _make_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def _become_root() -> None:
    os.setuid(0)


def _listing(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _all_processes() -> list[str]:
    return [Path(f"/proc/{name}/cmdline").read_text() for name in os.listdir("/proc") if name.isdigit()]


def _device(path: str) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(8, 0))


def _system_call(*arguments: int) -> int:
    answer: int = ctypes.CDLL(None, use_errno=True).syscall(*map(ctypes.c_long, arguments))
    if answer == -1:
        raise OSError(ctypes.get_errno(), "")
    return answer


def _write_descriptors(numbers: list[int]) -> list[int]:
    """Those that something can be written to."""
    return [number for number in numbers if _takes(number)]


def _takes(number: int) -> bool:
    try:
        os.write(number, b"attacked\n")
    except OSError:
        return False
    return True


def _serve(name: str) -> str:
    """Listen at an abstract address and answer oneself."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("\0" + name)
        server.listen()
        client.connect("\0" + name)
    return ""


def _real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _set_user_bit(name: str) -> str:
    path = WORKSPACE / "out" / name
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o6755)
    return oct(path.stat().st_mode)


_ATTACKS: dict[str, Any] = {
    "read": lambda path: Path(path).read_text(),
    "write": lambda path: Path(path).write_text("attacked"),
    "list": _listing,
    "remove": os.unlink,
    "move": os.rename,
    "signal": lambda pid: os.kill(pid, signal.SIGTERM),
    "connect": _connect,
    "socket": lambda family: socket.socket(family, socket.SOCK_STREAM).close(),
    "namespace": _make_namespace,
    "root": _become_root,
    "processes": _all_processes,
    "device": _device,
    "hard link": os.link,
    "system call": _system_call,
    "descriptors": _write_descriptors,
    "serve": _serve,
    "real time": _real_time,
    "set user": _set_user_bit,
    "priority": lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
}


def kill_own_child() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def pipe(name: str) -> None:
    os.mkfifo(WORKSPACE / "out" / name)


def second_name(name: str, other: str) -> None:
    os.link(WORKSPACE / "out" / name, WORKSPACE / "out" / other)


def job_user() -> list[int]:
    return [*os.getresuid(), *os.getresgid(), *os.getgroups()]


def main() -> None:
    global WORKSPACE, GO, AUTHORITY, LOOK_EVERY
    tell(event="ready")
    order = json.loads(sys.stdin.readline())
    first = time.time()
    WORKSPACE = Path(order["workspace"])
    os.environ.update(order["env"])
    results: dict[str, Any] = {"order": order, "first": first}
    job = json.loads((WORKSPACE / "in" / "job.json").read_text())
    GO, AUTHORITY, LOOK_EVERY = job.get("go"), job.get("authority"), job.get("look_every", LOOK_EVERY)
    for number, (action, *arguments) in enumerate(job["do"]):
        results[f"{number}"] = globals()[action](*arguments)
    (WORKSPACE / "out" / "result.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
