"""Files that have lost their name but are still open or mapped: space that a look at directories does not find.

A job that opens a file, deletes it and writes on fills the disk all the same; a ``memfd`` is memory that no process's
resident size shows. What is under way inside a socket (SCM_RIGHTS) stays hidden, and so does, for an ordinary user,
what is only mapped. Standard library only and light to import: part of the supervisor.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Iterator

#: What a file in memory costs beside its content: a directory of empty ones is not free.
_INODE = 1024


class Nameless:
    """Bytes that processes hold in nameless files: on ``disk``, and in ``memory`` (memfds, shared memory)."""

    def __init__(self, pids: Iterable[int], *, mapped: bool) -> None:
        """``mapped``: look at mappings as well, which takes about a millisecond for each process."""
        self.disk = self.memory = 0
        seen: set[tuple[int, int]] = set()
        for pid in pids:
            for path in (*_descriptors(pid), *(_mappings(pid) if mapped else ())):
                self._add(path, seen)

    def _add(self, path: str, seen: set[tuple[int, int]]) -> None:
        try:
            found = os.stat(path)
        except OSError:  # closed meanwhile, or not ours to look at
            return
        key = (found.st_dev, found.st_ino)
        if found.st_nlink or not stat.S_ISREG(found.st_mode) or key in seen:
            return
        seen.add(key)
        if found.st_dev == _memory_device():
            self.memory += found.st_blocks * 512
        else:
            self.disk += found.st_blocks * 512


@functools.cache
def _memory_device() -> int:
    """Where the kernel keeps memfds, System V segments and shared anonymous mappings."""
    fd = os.memfd_create("kwdbml", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _own_device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except FileNotFoundError:
        return None


def _descriptors(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        yield f"/proc/{pid}/fd/{name}"


def _mappings(pid: int) -> Iterator[str]:
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = [line for line in file if line.endswith(b" (deleted)\n")]
    except OSError:
        return
    for line in lines:
        first, _, last = line.split(b" ", 1)[0].decode().partition("-")
        yield f"/proc/{pid}/map_files/{int(first, 16):x}-{int(last, 16):x}"  # only root may look there


def shared_memory(init: int | None) -> int:
    """Bytes in the /dev/shm of the sandbox whose first process is ``init``, deleted files included."""
    if init is None:
        return 0  # no sandbox: it is the machine's
    place = f"/proc/{init}/root/dev/shm"
    try:
        if os.stat(place).st_dev == _own_device("/dev/shm"):
            return 0  # the sandbox is still being made: this is the machine's
        found = os.statvfs(place)
    except OSError:
        return 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize + (found.f_files - found.f_ffree) * _INODE
