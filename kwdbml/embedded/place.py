"""Where the embedded server's files lie, and that its user gets there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kwdbml.embedded.account import Account
from kwdbml.errors import WrongState

Say = Callable[[str], None]


def silence(_: str) -> None:
    """Say nothing."""


#: Where the data goes when root's server cannot reach the place that was asked for.
STATE_ROOT = Path("/var/lib/kwdbml")


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one embedded server, under one directory."""

    base: Path

    @property
    def pgdata(self) -> Path:
        return self.base / "pgdata"

    @property
    def prefix(self) -> Path:
        """Our own copy of PostgreSQL."""
        return self.base / "prefix"

    @property
    def sockets(self) -> Path:
        return self.base / "run"

    @property
    def password(self) -> Path:
        """The superuser's password; 0600."""
        return self.base / "password"

    @property
    def passfile(self) -> Path:
        """The worker's password, as libpq's PGPASSFILE has it; 0600."""
        return self.base / "worker.pgpass"

    @property
    def script_hash(self) -> Path:
        """Which SQL the database's extension was made of."""
        return self.base / "extension.sha256"

    @property
    def server_log(self) -> Path:
        return self.base / "server.log"

    @property
    def worker_log(self) -> Path:
        return self.base / "worker.log"

    @property
    def worker_code(self) -> Path:
        """Which code the worker was started with."""
        return self.base / "worker.code"

    @property
    def worker_pid(self) -> Path:
        return self.base / "worker.pid"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One up or down at a time; another one waits."""
        descriptor = os.open(self.base / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def default_data_dir() -> Path:
    """``.kwdbml`` beside the virtual environment we run in; outside of one, the user's state directory."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix).parent / ".kwdbml"
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "kwdbml"


def existing(data_dir: Path | None) -> Place:
    """The place as it is, made or not."""
    return Place((data_dir or default_data_dir()).absolute().resolve())


def prepare(data_dir: Path | None, account: Account, say: Say) -> Place:
    """Make the directory, reachable for the server's user; WrongState when one that exists is not.

    Where the user cannot get (a clone in root's home), the files go under STATE_ROOT and a symbolic link stands in.
    """
    given = (data_dir or default_data_dir()).absolute()
    given.parent.mkdir(parents=True, exist_ok=True)
    if not account.can_enter(given.parent) and _free(given):
        real = _elsewhere(given)
        say(f"{account.name} cannot reach {given.parent}: the data is in {real}, {given} is a link to it")
    elif not given.resolve().is_dir():
        _make(given.resolve())
    real = given.resolve()
    if not account.can_enter(real):
        raise WrongState(
            f"the server's user {account.name} cannot reach {real}",
            hint="give another --data-dir, or let that user pass (chmod o+x) on the directories above it",
        )
    return Place(real)


def _free(given: Path) -> bool:
    """Whether nothing stands there that must stay: no file, no link, at most an empty directory."""
    if given.is_symlink():
        return False
    return not given.exists() or (given.is_dir() and next(given.iterdir(), None) is None)


def _elsewhere(given: Path) -> Path:
    real = STATE_ROOT / hashlib.sha256(os.fsencode(given)).hexdigest()[:12]
    _make(real)
    if given.is_dir():
        given.rmdir()
    given.symlink_to(real)
    return real


def _make(directory: Path) -> None:
    """A directory that others pass through and do not list, whatever the umask."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        path.chmod(0o711 if path == directory else 0o755)
