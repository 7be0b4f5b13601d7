"""What one run may use, enforced from outside: memory, cores, disk; and the end of all its processes.

Standard library only and light to import: part of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable

from kwdbml import processes
from kwdbml.engines.cgroups import Cgroup
from kwdbml.engines.nameless import Nameless, shared_memory
from kwdbml.engines.trees import MOST_ENTRIES, measure

#: A job that fills the disk takes the database on it down too: it ends while this much is left.
DISK_RESERVE = 256 << 20


class Limits:
    """Of one run; None: none. ``memory`` and ``disk`` in bytes, ``ttl`` in seconds, ``cpus`` the cores it runs on."""

    def __init__(self, limits: dict[str, object]) -> None:
        memory, ttl, cpus, disk = (limits.get(name) for name in ("memory", "ttl", "cpus", "disk"))
        self.memory = memory if isinstance(memory, int) else None
        self.ttl = float(ttl) if isinstance(ttl, int | float) else None
        self.cpus = {int(cpu) for cpu in cpus} if isinstance(cpus, list) else None
        self.disk = disk if isinstance(disk, int) else None


class Group:
    """All processes of a run.

    ``init`` (set when bubblewrap has told it) is the first process of the job's pid namespace: the kernel ends all
    others there before it ends. ``uid``: the user that only this run uses, if there is one. All are descendants of the
    process that uses this class.
    """

    def __init__(self, cgroup: Cgroup | None, uid: int | None) -> None:
        self.cgroup = cgroup
        self.uid = uid
        self.init: int | None = None
        self.init_fd: int | None = None

    def set_init(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            self.init_fd = os.pidfd_open(pid)
            self.init = pid

    def pids(self) -> list[int]:
        # Complete, also without a pid namespace: every orphan becomes a child of ours (launcher.adopt_orphans). The
        # control group alone would miss a child that has not joined it yet.
        return processes.descendants(os.getpid())[1:]

    def kill(self) -> None:
        """Send SIGKILL to everything."""
        if self.init_fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        elif self.uid is not None:
            _as_user(self.uid, lambda: os.kill(-1, signal.SIGKILL))  # all at once, which no fork outruns
        # A fork could outrun us: stopped first, a parent makes no more children.
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            seen: set[int] = set()
            while fresh := set(self.pids()) - seen:
                seen |= fresh
                for pid in fresh:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signum)


def _as_user(uid: int, action: Callable[[], object]) -> None:
    """Do it in a process of that user."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


class Watch:
    """Applies limits to a group and looks, when asked, whether they hold."""

    def __init__(self, group: Group, limits: Limits, outputs: str, most_processes: int) -> None:
        self._group = group
        self._limits = limits
        self._outputs = outputs
        self._most = most_processes

    def apply(self) -> str:
        """Before the job's code runs. Returns what cannot be had, as ``memory`` does."""
        self.pin()
        limit = self._limits.memory
        if limit is None:
            return ""
        if self._group.cgroup is not None:
            return "" if self._group.cgroup.limit_memory(limit) else self._too_much()
        limited: set[int] = set()
        while fresh := set(self._group.pids()) - limited:  # a child that was forked before its parent was limited
            limited |= fresh
            for pid in fresh:
                _limit_data(pid, limit, self._group.uid)
        return ""

    def memory(self, *, thorough: bool = False) -> str:
        """A sentence when the run uses more memory than it may, else ''. ``thorough``: also what is only mapped."""
        limit = self._limits.memory
        if self._group.cgroup is not None:
            return self._too_much() if self._group.cgroup.oom_kills() else ""
        pids = self._group.pids()
        if len(pids) > self._most:
            for pid in pids[self._most :]:  # a fork bomb where the kernel counts no processes for us
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if limit is None:
            return ""
        # Files in memory take it whether or not a process has them mapped.
        files = Nameless(pids, mapped=thorough).memory + shared_memory(self._group.init)
        if sum(map(_resident, pids)) + files <= limit:
            return ""
        # Pages that forked children share with their parent were counted once for each, and mapped files twice: look
        # closer before killing.
        shares = [_proportional(pid) for pid in pids]
        used = sum(anonymous for anonymous, _ in shares) + max(files, sum(shared for _, shared in shares))
        return self._too_much() if used > limit else ""

    def disk(self) -> str:
        """A sentence when the outputs take more disk than they may, else ''. Costs a walk through all of them."""
        limit = self._limits.disk
        if limit is None:
            return ""
        found = measure(self._outputs, limit)
        if found.hidden:
            return "The job has made directories that are closed to their owner, or nested too deeply to be measured."
        if found.entries > MOST_ENTRIES:
            return f"The job has made more than {MOST_ENTRIES:,} files; write fewer, larger ones."
        if found.size + Nameless(self._group.pids(), mapped=True).disk > limit:
            return (
                f"The job's files take more than the {limit / (1 << 20):,.0f} MiB that a run may write; "
                "write less, or let the worker's operator raise KWDBML_SCRATCH_LIMIT."
            )
        return ""

    def room(self) -> str:
        """A sentence when the disk is nearly full, whoever has filled it, else ''. Cheap: a disk fills in moments."""
        free = os.statvfs(self._outputs)
        if free.f_bavail * free.f_frsize >= DISK_RESERVE:
            return ""
        return f"The worker's disk has less than {DISK_RESERVE >> 20} MiB left; free some, or write less."

    def pin(self) -> None:
        """Keep every thread on the run's cores, also one that has asked for others meanwhile."""
        cpus = self._limits.cpus
        if cpus is None:
            return
        for pid in self._group.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        if os.sched_getaffinity(int(thread)) != cpus:
                            os.sched_setaffinity(int(thread), cpus)

    def _too_much(self) -> str:
        return f"The job needed more than its {(self._limits.memory or 0) / (1 << 20):,.0f} MiB of memory."


def _status(pid: int) -> dict[str, int]:
    """VmData, RssAnon, RssShmem … of a process in bytes; empty when it is gone."""
    values = {}
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if value.endswith(" kB\n"):
                    values[name] = int(value[:-4]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return values


def _resident(pid: int) -> int:
    """Memory that only the process's end gives back: anonymous and shared, not mapped files."""
    values = _status(pid)
    return values.get("RssAnon", 0) + values.get("RssShmem", 0)


def _proportional(pid: int) -> tuple[int, int]:
    """Anonymous and shared memory, a page that n processes share counted as 1/n of a page."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            values = dict(line.split(":", 1) for line in file if line.startswith("Pss_"))
        anonymous, shared = (int(values[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
        return anonymous, shared
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    except (PermissionError, KeyError):  # an older kernel, or not ours to look at
        values_now = _status(pid)
        return values_now.get("RssAnon", 0), values_now.get("RssShmem", 0)


def _limit_data(pid: int, limit: int, uid: int | None) -> None:
    """Let one giant allocation fail as MemoryError, which a look several times a second would see too late.

    What the process has reserved without using (stacks, arenas) is not held against it.
    """
    values = _status(pid)
    room = limit + max(0, values.get("VmData", 0) - values.get("RssAnon", 0)) + (64 << 20)

    def apply() -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (room, room))

    try:
        apply()
    except PermissionError:
        if uid is not None:  # root without CAP_SYS_RESOURCE, as in a container: the job's own user may
            _as_user(uid, apply)
