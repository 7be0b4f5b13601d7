"""Find the PostgreSQL of this machine, and copy it under a prefix of our own.

PostgreSQL finds its share and library trees relative to its own program file, so a copy that keeps their relative
places is an installation of its own: its pg_config points into the copy, where we may add an extension.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kwdbml.errors import KwdbmlError, UndefinedObject
from kwdbml.extension import Postgres, check_python, inspect

SUPPORTED = range(15, 19)
_PACKAGED = Path("/usr/lib/postgresql")
#: What is copied from the directory of programs, which on some systems is /usr/bin.
_PROGRAMS = ("postgres", "initdb", "pg_config", "pg_ctl", "psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_isready")


def _candidates() -> Iterator[Postgres]:
    """Every PostgreSQL server that is installed, the newest packaged one first."""
    for major in sorted(SUPPORTED, reverse=True):
        pg_config = _PACKAGED / str(major) / "bin" / "pg_config"
        if pg_config.exists():
            yield inspect(pg_config)
    if shutil.which("pg_config"):
        yield inspect("pg_config")


def find(major: int | None = None) -> Postgres:
    """The newest usable server: supported, with a plpython3u of this Python. UndefinedObject says what is missing."""
    reasons: list[str] = []
    hint = ""
    for postgres in _candidates():
        if postgres.major not in SUPPORTED or (major is not None and postgres.major != major):
            continue
        if not (postgres.bindir / "postgres").exists():
            continue
        try:
            check_python(postgres)
        except KwdbmlError as error:
            reasons.append(error.message)
            hint = hint or error.hint
        else:
            return postgres
    wanted = str(major) if major else f"{SUPPORTED.start} to {SUPPORTED[-1]}"
    raise UndefinedObject(
        "; ".join(reasons) or f"no PostgreSQL server {wanted} on this machine",
        hint=hint or f"Debian, Ubuntu: apt-get install postgresql postgresql-plpython3-{major or 'VERSION'}",
    )


def _stamp(postgres: Postgres) -> str:
    """What a copy was made of: changes when the packages are upgraded."""
    parts = [str(postgres.bindir), "{}.{}".format(*postgres.version)]
    for file in (postgres.bindir / "postgres", postgres.plpython):
        status = file.stat()
        parts.append(f"{status.st_size}:{status.st_mtime_ns}")
    return " ".join(parts)


def _root(postgres: Postgres) -> Path:
    """What the three trees have in common: /usr, as Debian places them."""
    return Path(os.path.commonpath([postgres.bindir, postgres.sharedir, postgres.pkglibdir]))


def placed(postgres: Postgres, prefix: Path) -> Postgres:
    """Where the parts of that installation are in its copy."""
    bindir, sharedir, pkglibdir = (
        prefix / path.relative_to(_root(postgres)) for path in (postgres.bindir, postgres.sharedir, postgres.pkglibdir)
    )
    return replace(postgres, pg_config=bindir / "pg_config", bindir=bindir, sharedir=sharedir, pkglibdir=pkglibdir)


def copied(postgres: Postgres, prefix: Path) -> Postgres:
    """That installation's copy under ``prefix``, made anew when it is missing or the original has changed."""
    stamp = prefix / "COPY_OF"
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == _stamp(postgres)):
        fresh = prefix.with_name(prefix.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        _copy(postgres, placed(postgres, fresh))
        (fresh / stamp.name).write_text(_stamp(postgres), encoding="utf-8")
        for path in (fresh, *fresh.rglob("*")):
            if path.is_dir():  # whatever our umask is, the server's user has to get in
                path.chmod(0o755)
        shutil.rmtree(prefix, ignore_errors=True)
        fresh.rename(prefix)
    copy = placed(postgres, prefix)
    if inspect(copy.pg_config).sharedir.resolve() != copy.sharedir.resolve():
        raise UndefinedObject(
            f"the copy of PostgreSQL under {prefix} still points to {postgres.sharedir}",
            hint="use a PostgreSQL that can be relocated, as the packages of Debian and Ubuntu",
        )
    return copy


def _copy(original: Postgres, copy: Postgres) -> None:
    ignore = shutil.ignore_patterns("pgxs", "man", "bitcode", "kwdbml", "kwdbml--*", "kwdbml.control")
    for source, target in ((original.sharedir, copy.sharedir), (original.pkglibdir, copy.pkglibdir)):
        shutil.copytree(source, target, ignore=ignore, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    copy.bindir.mkdir(parents=True, exist_ok=True)
    for name in _PROGRAMS:
        if (original.bindir / name).exists():
            shutil.copy2(original.bindir / name, copy.bindir / name)
