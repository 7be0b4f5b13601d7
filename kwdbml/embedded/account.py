"""The operating-system user the embedded server runs as: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from kwdbml.errors import UndefinedObject

#: The user that Debian's and Ubuntu's packages, and nearly all others, make for the server.
SERVER_USER = "postgres"


class _Identity(TypedDict, total=False):
    """What subprocess takes to start a program as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def ourselves(self) -> bool:
        return self.uid == os.geteuid()

    def arguments(self) -> _Identity:
        return {} if self.ourselves else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path, mode: int) -> None:
        """Make a file or directory the account's, with that mode."""
        if not self.ourselves:
            os.chown(path, self.uid, self.gid)
        path.chmod(mode)

    def run(self, command: Sequence[str | Path], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this user; stdout and stderr together in ``stdout``."""
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            cwd="/",
            env=dict(env),
            umask=0o077,
            **self.arguments(),
        )

    def can_enter(self, directory: Path) -> bool:
        """Whether this user may pass through a directory and all above it, as the system itself answers."""
        return self.run(["/bin/sh", "-c", 'cd -- "$0"', directory], {}).returncode == 0


def server_account() -> Account:
    """Ourselves, or when we are root the packages' own user; UndefinedObject when there is none."""
    if os.geteuid() != 0:
        return Account(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(SERVER_USER)
    except KeyError:
        raise UndefinedObject(
            f"PostgreSQL does not run as root, and there is no user {SERVER_USER}",
            hint=f"useradd --system {SERVER_USER}, or run this as an ordinary user",
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
