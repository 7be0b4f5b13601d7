"""What a step is shut into: bubblewrap's arguments, the user it runs as, and whether all that works on this machine.

Three ways, best first (``Sandbox.detect``):

* **root**: bubblewrap as real root, without a user namespace, so that it can bind what lies below /root; inside,
  setpriv gives up every capability and becomes a user number that nobody else has, another one for each run.
* **user**: bubblewrap with a user namespace, for an ordinary user; no further ones can be made inside.
* **plain**: no sandbox, an ordinary process with an empty environment, under root as a user of its own where it can
  reach the runtime. For code that ships with kwdbml, or when the operator says so (``--unsafe-no-sandbox``).

Inside there is an allow-list: the Python runtime, the kwdbml package, a few made-up files of /etc, and the run's own
in/ and out/ at /job. No network, no other process, no socket of the host, and nothing of the worker's environment.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kwdbml.engines import seccomp
from kwdbml.environment import environment, package_path
from kwdbml.errors import EngineError

JOB = "/job"
#: User numbers for runs: above those of containers, below what some tools take for negative.
_UIDS = (1_900_000_000, 1 << 20)
#: The same inside a container that has 65,536 users: between systemd's home and dynamic users.
_FEW_UIDS = (60_600, 500)
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: joblib counts physical cores there; it names nothing of the host but its processors.
_READABLE = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/sys/devices/system/cpu")
_SHARED_MEMORY = 256 << 20  # bytes of /dev/shm
_MOST_PROCESSES = 1024  # processes and threads of one run
#: Open files of one process: times the processes it stays below what a machine can open.
_MOST_OPEN = 4096

_CURE_NAMESPACES = (
    "allow unprivileged user namespaces: on Ubuntu 24.04 and later give bwrap an AppArmor profile with “userns,” or "
    "run sysctl kernel.apparmor_restrict_unprivileged_userns=0; elsewhere sysctl kernel.unprivileged_userns_clone=1 "
    "and user.max_user_namespaces above 0; in a container start it with --security-opt seccomp=unconfined. "
    "Or start the worker with --unsafe-no-sandbox if you trust everyone who may upload code"
)


@dataclass(frozen=True, slots=True)
class Python:
    """Another interpreter than the worker's own, and what of the machine it needs; it finds kwdbml by itself."""

    executable: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One way to run steps here. ``kind``: root, user or plain. ``uids``: first and number of users to run as.
    ``python``: None is the worker's own."""

    kind: str
    bwrap: str = ""
    uids: tuple[int, int] | None = None
    no_further_namespaces: bool = False
    runtime: tuple[str, ...] = ()
    python: Python | None = None

    @property
    def inside(self) -> str | None:
        """The workspace's path as the step sees it; None: as it is outside."""
        return None if self.kind == "plain" else JOB

    def choose_uid(self) -> int | None:
        """A user that no process here runs as now."""
        if self.uids is None:
            return None
        first, count = self.uids
        taken = {os.stat(entry).st_uid for entry in _processes()} if count < 1 << 16 else set()
        return random.choice([uid for uid in (first + random.randrange(count) for _ in range(64)) if uid not in taken])

    def setup(
        self,
        workspace: Path,
        command: Sequence[str],
        *,
        uid: int | None,
        threads: int,
        disk: int,
        cgroup: tuple[int, str] | None = None,
        tick: float = 0.1,
    ) -> dict[str, Any]:
        """What the supervisor is told to start (JSON): ``command`` in this sandbox, on this workspace."""
        inside = self.inside or str(workspace)
        wrapped = _bounded(command, uid=uid, disk=disk, processes=self.kind != "plain" or uid is not None)
        program = seccomp.program() if self.kind != "plain" else None
        return {
            "workspace": str(workspace),
            "command": wrapped,
            "env": environment(inside, threads, self.python.executable if self.python else None),
            "bwrap": None if self.kind == "plain" else [self.bwrap, *self._arguments(workspace, uid)],
            "seccomp": None if program is None else program.hex(),
            "uid": uid,
            "cgroup": None if cgroup is None else list(cgroup),
            "tick": tick,
            "most_processes": _MOST_PROCESSES,
        }

    def online(
        self, workspace: Path, command: Sequence[str], *, uid: int | None, disk: int, readable: Sequence[str]
    ) -> list[str]:
        """The command line for a program of ours that needs the network: ``command`` in this sandbox, which sees the
        runtime, its workspace, and ``readable`` of the machine."""
        wrapped = _bounded(command, uid=uid, disk=disk, processes=self.kind != "plain" or uid is not None)
        if self.kind == "plain":
            return wrapped
        return [self.bwrap, *self._arguments(workspace, uid, online=readable), "--", *wrapped]

    def _arguments(self, workspace: Path, uid: int | None, online: Sequence[str] | None = None) -> list[str]:
        """Bubblewrap's. Directories are made by hand: as root it makes them for itself alone. ``online``: with the
        machine's network, and what else of the machine can be read."""
        arguments = ["--die-with-parent", "--new-session", "--hostname", "job", "--chdir", f"{JOB}/out/tmp"]
        closed = ("ipc", "pid", "uts", "cgroup-try", *(() if online is not None else ("net",)))
        arguments += [f"--unshare-{name}" for name in closed]
        if self.kind == "user":
            arguments += ["--unshare-user", *(["--disable-userns"] if self.no_further_namespaces else [])]
        else:
            arguments += ["--cap-drop", "ALL"]
            for capability in ("SETUID", "SETGID", "SETPCAP"):  # until setpriv has dropped these as well
                arguments += ["--cap-add", f"CAP_{capability}"]
        arguments += ["--ro-bind", "/usr", "/usr"]
        for path in _SYSTEM:
            if os.path.islink(path):
                arguments += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                arguments += ["--ro-bind", path, path]
        mounts = self._mounts(workspace, uid, online)
        for directory in _parents(target for _, _, target in mounts):
            arguments += ["--perms", "0755", "--dir", directory]
        arguments += ["--proc", "/proc", "--dev", "/dev"]
        arguments += ["--perms", "1777", "--size", str(_SHARED_MEMORY), "--tmpfs", "/dev/shm"]
        for mount in mounts:
            arguments += mount
        # Both are file systems in memory that an ordinary user's job owns: nobody would count what it puts there.
        return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/"]

    def _mounts(self, workspace: Path, uid: int | None, online: Sequence[str] | None) -> list[tuple[str, str, str]]:
        """What of the machine appears inside: (how, path outside, path inside)."""
        out, readable = workspace / "out", online or ()
        mounts = [("--ro-bind-try", path, path) for path in _READABLE]
        mounts += [("--ro-bind", path, path) for path in (*self.runtime, *readable)]
        for name in _accounts(uid):
            if f"/etc/{name}" not in readable:
                mounts.append(("--ro-bind", str(workspace / "ctl" / "etc" / name), f"/etc/{name}"))
        mounts += [("--ro-bind", str(workspace / "in"), f"{JOB}/in"), ("--bind", str(out), f"{JOB}/out")]
        # What is readable may lie below /tmp, and would be hidden; TMPDIR is elsewhere anyway.
        hides = online is not None or any(path.startswith("/tmp/") for path in self.runtime)
        return mounts if hides else [*mounts, ("--bind", str(out / "tmp"), "/tmp")]


def write_accounts(workspace: Path, uid: int | None) -> None:
    """Files of /etc that the sandbox binds; they name the job's user and nobody else."""
    directory = workspace / "ctl" / "etc"
    directory.mkdir(mode=0o755)
    for name, content in _accounts(uid).items():
        path = directory / name
        path.write_text(content, encoding="ascii")
        path.chmod(0o644)


def _accounts(uid: int | None) -> dict[str, str]:
    number = os.getuid() if uid is None else uid
    group = os.getgid() if uid is None else uid
    return {
        "passwd": f"job:x:{number}:{group}:job:{JOB}/out/tmp:/bin/false\n",
        "group": f"job:x:{group}:\n",
        "hosts": "127.0.0.1 localhost job\n::1 localhost\n",
    }


def _bounded(command: Sequence[str], *, uid: int | None, disk: int, processes: bool) -> list[str]:
    """``command`` behind the limits that a process sets on itself, as ``uid`` without any right."""
    # 1 and not 0: the kernel starts a crash handler (a pipe in core_pattern) at 0, but not at 1.
    # No real-time priority, also where the worker itself might have one: it would take the cores from everybody.
    limits = ["/usr/bin/prlimit", "--core=1", f"--fsize={disk}", f"--nofile={_most_open()}", "--rtprio=0"]
    if processes:  # as the worker's own user it would count the worker's processes too
        limits.append(f"--nproc={_MOST_PROCESSES}")
    if uid is None:
        return [*limits, "--", *command]
    drop = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
    become = ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *drop]
    return [*limits, "--", *become, "--", *command]


def _most_open() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _MOST_OPEN if hard == resource.RLIM_INFINITY else min(_MOST_OPEN, hard)


def _processes() -> Iterable[str]:
    return [entry.path for entry in os.scandir("/proc") if entry.name.isdigit()]


def _parents(paths: Iterable[str]) -> list[str]:
    """Directories above ``paths``, outermost first."""
    found: dict[str, None] = {}
    for path in paths:
        for parent in reversed(Path(path).parents):
            if str(parent) != "/":
                found[str(parent)] = None
    return list(found)


def runtime_paths(extra: Sequence[Path] = ()) -> tuple[str, ...]:
    """What Python needs beyond /usr: the virtual environment, the interpreter it was made from, our package."""
    return readable(
        [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, package_path(), *map(str, extra)]
    )


def readable(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The directories beyond /usr that lead to all of these, none below another."""
    # uv and pyenv put a link between a short name and the real directory: both names are in use.
    wanted = sorted({path for prefix in prefixes for path in (os.path.abspath(prefix), os.path.realpath(prefix))})
    kept: list[str] = []
    for path in wanted:
        if path == "/" or _below(path, ("/usr", *kept)):
            continue
        kept.append(path)
    return tuple(kept)


def _below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _uid_range() -> tuple[int, int] | None:
    """The users that runs may have, as far as this user namespace knows them."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        mapped = [(int(first), int(count)) for first, _, count in map(str.split, file)]
    for first, count in (_UIDS, _FEW_UIDS):
        if any(start <= first and first + count <= start + length for start, length in mapped):
            return first, count
    return None


def tool_env() -> Mapping[str, str]:
    """The environment of programs that we ask something."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}


def detect(*, extra: Sequence[Path] = ()) -> Sandbox:
    """The best sandbox that really works here. EngineError with the cure when none does."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise EngineError(
            "there is no sandbox for uploaded code: bubblewrap is not installed",
            hint="install it (apt install bubblewrap), or start the worker with --unsafe-no-sandbox",
        )
    uids = _uid_range() if os.geteuid() == 0 else None
    options = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False, env=tool_env()).stdout
    sandbox = Sandbox(
        "user" if uids is None else "root", bwrap, uids, "--disable-userns" in options, runtime_paths(extra)
    )
    if "--size" not in options:
        raise EngineError(
            "there is no sandbox for uploaded code: this bubblewrap is too old",
            hint="install bubblewrap 0.7 or later, or start the worker with --unsafe-no-sandbox",
        )
    problem = _try(sandbox)
    if problem:
        raise EngineError(
            "there is no sandbox for uploaded code: bubblewrap fails here", detail=problem, hint=_CURE_NAMESPACES
        )
    return sandbox


def without() -> Sandbox:
    """Plain processes; under root as another user, when that one can start Python and import us."""
    uids = _uid_range() if os.geteuid() == 0 else None
    sandbox = Sandbox("plain", uids=uids)
    return sandbox if uids is None or not _try(sandbox) else Sandbox("plain")


def make_workspace(path: Path, uid: int | None) -> None:
    """An empty workspace that nobody but its run's user and we may enter."""
    path.mkdir(mode=0o710)
    # out/ has to let bubblewrap pass, which at that moment is root without root's rights.
    for name, mode in (("in", 0o750), ("out", 0o711), ("out/tmp", 0o711), ("ctl", 0o700)):
        (path / name).mkdir(mode=mode)
        (path / name).chmod(mode)
    if uid is not None:
        os.chown(path, -1, uid)
        os.chown(path / "in", -1, uid)
        for name in ("out", "out/tmp"):
            os.chown(path / name, uid, uid)


def _try(sandbox: Sandbox) -> str:
    """Start Python inside, as a run would be. Returns what goes wrong, '' when nothing does."""
    with tempfile.TemporaryDirectory(prefix="kwdbml-") as directory:
        os.chmod(directory, 0o711)  # noqa: S103 - the job's user passes through, and sees nothing
        workspace, uid = Path(directory) / "ws", sandbox.choose_uid()
        make_workspace(workspace, uid)
        write_accounts(workspace, uid)
        python = [sys.executable, "-c", "import kwdbml.steps"]
        setup = sandbox.setup(workspace, python, uid=uid, threads=1, disk=1 << 20)
        command, bwrap = setup["command"], setup["bwrap"]
        if bwrap is not None:
            command = [*bwrap, "--", *command]
        env = environment(sandbox.inside or str(workspace), 1)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env, cwd="/")
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
