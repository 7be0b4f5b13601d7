"""A container as a process of this machine: its own file system (bubblewrap), its own processes, its memory limit.

What a container sees: the image (this machine's system, Python and kwdbml, read-only), an empty ``/tmp``, the
volumes of its pod, and nothing else. What it prints goes to the pod's log. When its first process ends, the others die
with it; when the stub ends, all do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kwdbml.engines.cgroups import Cgroup, find_base

REPOSITORY = Path(__file__).resolve().parents[4]
_SYSTEM = ("usr", "etc", "opt", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: What a container runtime leaves to root in a container.
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE"),
    *("NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
)

_SHARED_MEMORY = (
    "--perms",
    "1777",
    "--size",
    str(64 * 2**20),
    "--tmpfs",
    "/dev/shm",
)  # as big as container runtimes make it


@dataclass(frozen=True, slots=True)
class Image:
    """What stands behind an image's name. ``simulated``: nothing runs, the test says how it ends."""

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    binds: Sequence[Path] = ()
    files: Mapping[str, Path] = field(default_factory=dict)  # what lies at a path that the machine has otherwise
    simulated: bool = False


def runtime(name: str, **env: str) -> Image:
    """An image with this Python and kwdbml, and no more of the repository, as the runtime image is."""
    paths = {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY / "kwdbml"}
    # /usr is in every image
    binds = sorted(path for path in paths if not path.is_relative_to("/usr"))
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return Image(name, {"PATH": path, "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8", "HOME": "/root", **env}, binds)


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: str
    read_only: bool = False


@dataclass(slots=True)
class Order:
    """What to run."""

    image: Image
    argv: list[str]
    env: dict[str, str]
    mounts: list[Mount]
    hostname: str
    scratch: Path  # a directory of the container's own
    memory: int | None = None  # bytes


class Container:
    """One process tree. ``ended(exit_code, oom)`` is called from its own thread, after its last line was read."""

    def __init__(self, order: Order, print_line: Callable[[bytes], None], ended: Callable[[int, bool], None]) -> None:
        self._order = order
        self._print, self._ended = print_line, ended
        self._group = _memory_group(order.memory)
        self._too_big = threading.Event()
        self._status, writer = os.pipe()
        # bubblewrap must not outlive this process: --die-with-parent looks at the thread that started it, so the
        # thread that starts it is the one that waits for it
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._inside: int | None = None  # its first process, as this machine numbers it
        self._handle: int | None = None  # a pidfd of that one
        self._thread = threading.Thread(target=self._run, args=(writer,), name=order.hostname, daemon=True)
        self._thread.start()
        self._started.wait()

    def terminate(self) -> None:
        """SIGTERM to everything in it, as the runtime does first."""
        for pid in self._members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Its first process, and with it its PID namespace: nothing of it lives on."""
        with suppress(OSError):  # it has ended
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def join(self) -> None:
        self._thread.join()

    def pids(self) -> list[int]:
        """The processes in it, as this machine numbers them; none when it has ended."""
        return [self._inside, *self._members()] if self._inside and self._handle is not None else []

    def _run(self, writer: int) -> None:
        command = [*_limits(self._group), *sandbox(self._order, writer), "--", *self._order.argv]
        try:
            self._follow(command, writer)
        finally:
            self._started.set()
        oom = self._too_big.is_set() or (self._group is not None and self._group.oom_kills() > 0)
        if self._group is not None:
            self._group.remove()
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        assert self._process is not None
        code = self._process.returncode
        self._ended(code if code >= 0 else 128 - code, oom)

    def _follow(self, command: list[str], writer: int) -> None:
        with subprocess.Popen(
            command,
            env=self._order.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            start_new_session=True,
        ) as process:
            self._process = process
            os.close(writer)
            self._inside = _child_pid(self._status)
            self._handle = os.pidfd_open(self._inside) if self._inside else None
            self._started.set()
            if self._order.memory is not None and self._group is None:
                threading.Thread(target=self._watch_memory, args=(self._order.memory, process), daemon=True).start()
            assert process.stdout is not None
            for line in process.stdout:
                self._print(line)

    def _watch_memory(self, limit: int, process: subprocess.Popen[bytes]) -> None:
        """Where no control group can be made: look often, and kill."""
        while process.returncode is None:
            if sum(_resident(pid) for pid in self._members()) > limit:
                self._too_big.set()
                self.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)

    def _members(self) -> list[int]:
        """The descendants of the sandbox's first process."""
        found: list[int] = []
        waiting = [self._inside] if self._inside else []
        while waiting:
            pid = waiting.pop()
            with suppress(OSError):
                children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                found += children
                waiting += children
        return found


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def _child_pid(descriptor: int) -> int | None:
    with os.fdopen(descriptor) as status:
        said = status.read()
    _, _, rest = said.partition('"child-pid":')
    digits = rest.strip().partition("\n")[0].rstrip(", }")
    return int(digits) if digits.isdigit() else None


def _memory_group(limit: int | None) -> Cgroup | None:
    base = find_base() if limit is not None else None
    if limit is None or base is None:
        return None
    group = Cgroup(base[0], f"{base[1]}/kwdbml-stub-{secrets.token_hex(4)}")
    group.create(4096)
    group.limit_memory(limit)
    return group


def _limits(group: Cgroup | None) -> list[str]:
    """A shell that joins the group before it becomes the sandbox."""
    if group is None:
        return []
    return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group.path)]


def sandbox(order: Order, info: int) -> list[str]:
    """bubblewrap's arguments: a root of our own, with what the image and the pod's volumes hold."""
    bwrap = shutil.which("bwrap")
    assert bwrap, "bubblewrap is missing: apt-get install bubblewrap"
    (order.scratch / "tmp").mkdir(parents=True, exist_ok=True)
    (order.scratch / "tmp").chmod(0o1777)
    words = [bwrap, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    words += ["--hostname", order.hostname, "--info-fd", str(info)]
    if os.geteuid() == 0:
        words += ["--cap-drop", "ALL", *(word for one in _CAPABILITIES for word in ("--cap-add", f"CAP_{one}"))]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            words += ["--ro-bind", str(path), str(path)]
    # before the image: its files may be below /tmp here
    words += ["--bind", str(order.scratch / "tmp"), "/tmp"]
    # every user of the image may pass through what leads to a mount
    passages = {parent for path in order.image.binds for parent in path.parents} | {Path("/run"), Path("/var")}
    for passage in sorted(passages - {Path("/"), Path("/tmp")}):
        words += ["--perms", "0755", "--dir", str(passage)]
    for bind in order.image.binds:
        words += ["--ro-bind", str(bind), str(bind)]
    for target, source in order.image.files.items():
        words += ["--ro-bind", str(source), target]
    words += ["--proc", "/proc", "--dev", "/dev", *_SHARED_MEMORY]
    words += ["--symlink", "/run", "/var/run", "--dir", "/root", "--chdir", "/"]
    for mount in sorted(order.mounts, key=lambda one: one.target):
        # /var/run is /run: a mount's way may lead over no link
        target = mount.target.replace("/var/run/", "/run/", 1) if mount.target.startswith("/var/run/") else mount.target
        words += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), target]
    return words
