"""A control group per run, where we may make one: exact memory limits, and a list of members that nobody can leave.

Version 1 (a hierarchy of its own for memory) and version 2. Where neither is writable the supervisor watches resident
memory instead (``watch.py``). Standard library only and light to import.
"""

from __future__ import annotations

import contextlib
import os
import time

from kwdbml.engines import procs

#: Files that hold the limit, per version; the second of version 1 counts swap too, and is there with swap accounting.
_LIMITS = {1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), 2: ("memory.max",)}
_OOM = {1: "memory.oom_control", 2: "memory.events"}


class Cgroup:
    """One run's group. ``version`` 1 or 2, ``path`` its directory."""

    def __init__(self, version: int, path: str) -> None:
        self.version = version
        self.path = path

    def create(self, most_processes: int) -> None:
        os.mkdir(self.path)
        if self.version == 2:
            for name, value in (("memory.oom.group", "1"), ("memory.swap.max", "0"), ("pids.max", str(most_processes))):
                with contextlib.suppress(OSError):  # an older kernel, no swap, or no pids controller here
                    self._write(name, value)

    def join(self) -> None:
        """Move the calling process in; children follow."""
        self._write("cgroup.procs", "0")

    def limit_memory(self, limit: int) -> bool:
        """False when the group already uses more than that."""
        for index, name in enumerate(_LIMITS[self.version]):
            try:
                self._write(name, str(limit))
            except OSError:
                if index == 0:
                    return False
        return True

    def oom_kills(self) -> int:
        """How often the kernel has killed a member for memory."""
        try:
            with open(os.path.join(self.path, _OOM[self.version]), encoding="ascii") as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except FileNotFoundError:
            pass
        return 0

    def pids(self) -> list[int]:
        try:
            with open(os.path.join(self.path, "cgroup.procs"), encoding="ascii") as file:
                return [int(line) for line in file]
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Delete the group. No error when it is gone; one that stays busy is left for ``sweep``."""
        for _ in range(50):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:  # the kernel takes its time to let go of members that have been reaped
                time.sleep(0.002)
            else:
                return

    def _write(self, name: str, value: str) -> None:
        fd = os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _own_groups() -> dict[str, str]:
    """Controller (version 1) or "" (version 2) → this process's group there."""
    groups = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _mounts() -> list[tuple[str, str, str, list[str]]]:
    """(root of the mount, where, type, super options) of the control group mounts that we see."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields, (kind, _, options) = left.split(), right.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                found.append((fields[3], fields[4], kind, options.split(",")))
    return found


def find_base() -> tuple[int, str] | None:
    """(version, directory) under which this process may make groups that limit memory, or None."""
    own = _own_groups()
    for root, where, kind, options in _mounts():
        controller = "" if kind == "cgroup2" else "memory"
        if (controller and controller not in options) or controller not in own:
            continue
        inside = os.path.relpath(own[controller], root)
        base = where if inside.startswith("..") else os.path.normpath(os.path.join(where, inside))
        version = 1 if controller else 2
        if usable(version, base):
            return version, base
    return None


def run_group(version: int, base: str) -> Cgroup:
    """The group of the run that this process supervises; its name says whose it is."""
    return Cgroup(version, os.path.join(base, f"kwdbml-{os.getpid()}-{procs.start_time(os.getpid())}"))


def sweep(version: int, base: str) -> None:
    """Delete groups whose supervisor is gone."""
    for name in os.listdir(base):
        prefix, _, owner = name.partition("-")
        pid, _, start = owner.partition("-")
        if prefix == "kwdbml" and pid.isdigit() and start.isdigit() and not procs.alive(int(pid), int(start)):
            Cgroup(version, os.path.join(base, name)).remove()


def usable(version: int, base: str) -> bool:
    """Whether a group made below ``base`` can be limited and joined; tries it, since rights differ in so many ways."""
    group = Cgroup(version, os.path.join(base, f"kwdbml-probe-{os.getpid()}"))
    try:
        group.create(16)
    except OSError:
        return False
    try:
        # Version 2 hands the memory files to children only where the controller is delegated
        # (cgroup.subtree_control of ``base``): without the file this is False.
        return group.limit_memory(1 << 40) and os.access(os.path.join(group.path, "cgroup.procs"), os.W_OK)
    finally:
        group.remove()
