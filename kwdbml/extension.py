"""Put the extension where a PostgreSQL server finds it: control file, SQL, and the Python that runs inside the server.

The server's own Python is the distribution's, without our virtual environment. So the part of this package that needs
only the standard library, and sqlglot, which is pure Python, are copied to ``$(pg_config --pkglibdir)/kwdbml/VERSION``.
The copies carry compiled files, which is why the minor versions of both Pythons have to agree.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kwdbml import __version__
from kwdbml.elf import needed
from kwdbml.errors import InsufficientPrivilege, UndefinedObject, WrongState

PACKAGE = Path(__file__).resolve().parent

#: What of this package is copied into the server: files and whole directories, all of it standard library only.
SERVER_SIDE = (
    "__init__.py",
    "model.py",
    "cures.py",
    "errors.py",
    "dialect.py",
    "quantity.py",
    "frameworks/__init__.py",
    "frameworks/algorithms.py",
    "plpy",
)

_IGNORED = shutil.ignore_patterns("*.so", "*.dist-info", "tests")


@dataclass(frozen=True, slots=True)
class Postgres:
    """An installation of PostgreSQL, as its pg_config describes it."""

    pg_config: Path
    version: tuple[int, int]  # (15, 20)
    bindir: Path
    sharedir: Path
    pkglibdir: Path

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def plpython(self) -> Path:
        """plpython3u's library, which exists when the language is installed."""
        return self.pkglibdir / "plpython3.so"


@dataclass(frozen=True, slots=True)
class Installed:
    """What ``install`` put where."""

    control: Path
    python: Path
    changed: bool  # False: everything was there already


def inspect(pg_config: str | Path) -> Postgres:
    """Ask a pg_config; UndefinedObject when there is none."""
    found = shutil.which(str(pg_config))
    if found is None:
        raise UndefinedObject(
            f"no pg_config at {pg_config}",
            hint="install PostgreSQL (Debian, Ubuntu: apt-get install postgresql), or name its pg_config",
        )
    command = [found, "--version", "--bindir", "--sharedir", "--pkglibdir"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    numbers = re.search(r"(\d+)(?:\.(\d+))?", lines[0])
    if numbers is None:
        raise WrongState(f"{found} does not say which PostgreSQL it belongs to: {lines[0]}")
    major, minor = int(numbers.group(1)), int(numbers.group(2) or 0)
    return Postgres(Path(found), (major, minor), *(Path(line) for line in lines[1:4]))


def server_python(postgres: Postgres) -> tuple[int, int]:
    """The Python that plpython3u is linked to, as (3, 11); UndefinedObject when there is no plpython3u."""
    if not postgres.plpython.exists():
        raise UndefinedObject(
            f"PostgreSQL {postgres.major} has no plpython3u ({postgres.plpython} is missing)",
            hint=f"Debian, Ubuntu: apt-get install postgresql-plpython3-{postgres.major}",
        )
    for name in needed(postgres.plpython):
        found = re.match(r"libpython(\d+)\.(\d+)", name)
        if found:
            return int(found.group(1)), int(found.group(2))
    raise WrongState(
        f"{postgres.plpython} names no libpython, so its version is unknown",
        hint="use a PostgreSQL whose plpython3u is linked to a shared libpython",
    )


def check_python(postgres: Postgres) -> None:
    """WrongState, with the cure, unless this interpreter's minor version is the server's."""
    theirs, ours = server_python(postgres), sys.version_info[:2]
    if theirs != ours:
        wanted = ".".join(map(str, theirs))
        raise WrongState(
            f"plpython3u of PostgreSQL {postgres.major} runs Python {wanted}, this is Python {ours[0]}.{ours[1]}",
            hint=f"install kwdbml into an environment made with python{wanted}: python{wanted} -m venv DIR",
        )


def files() -> Path:
    """Where control file and SQL lie: beside the package in an installed kwdbml, in extension/ of a checkout."""
    for place in (PACKAGE / "_extension", PACKAGE.parent / "extension"):
        if (place / "kwdbml.control").exists():
            return place
    raise UndefinedObject("this kwdbml was installed without its extension files", hint="install the wheel again")


def install(pg_config: str | Path, source: Path | None = None) -> Installed:
    """Install the extension for that pg_config; ``source`` holds control file and SQL (default: our own).

    Safe to repeat: what is there already is left alone. Each file and the Python directory appear by rename, so that
    a running server sees the old or the new one. InsufficientPrivilege when the directories are not ours to write.
    """
    postgres = inspect(pg_config)
    check_python(postgres)
    target = postgres.sharedir / "extension"
    python = postgres.pkglibdir / "kwdbml" / __version__
    try:
        changed = _install_python(python)
        # The control file last: with it the extension is offered.
        place = source or files()
        for file in [*sorted(place.glob("kwdbml--*.sql")), place / "kwdbml.control"]:
            changed |= _install_file(file, target / file.name)
    except PermissionError as error:
        raise InsufficientPrivilege(
            f"may not write {error.filename}",
            hint=f"run as root: kwdbml extension install --pg-config {postgres.pg_config}",
        ) from error
    return Installed(target / "kwdbml.control", python, changed)


def _install_file(source: Path, target: Path) -> bool:
    content = source.read_bytes()
    if target.exists() and target.read_bytes() == content:
        return False
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".kwdbml-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)
    Path(name).replace(target)
    return True


def server_side() -> Iterator[tuple[Path, str]]:
    """Each file or directory that is copied, and its path under the server's directory."""
    for name in SERVER_SIDE:
        if (PACKAGE / name).exists():
            yield PACKAGE / name, f"kwdbml/{name}"
    spec = importlib.util.find_spec("sqlglot")
    if spec is None or spec.origin is None:
        raise UndefinedObject("sqlglot is not installed", hint="install kwdbml with its dependencies")
    yield Path(spec.origin).parent, "sqlglot"


def _fingerprint() -> str:
    """A hash over names and contents of all Python files that are copied."""
    digest = hashlib.sha256()
    for source, name in server_side():
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(f"{name}/{file.relative_to(source)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _install_python(target: Path) -> bool:
    fingerprint = _fingerprint()
    stamp = target / "FINGERPRINT"
    if stamp.exists() and stamp.read_text(encoding="ascii") == fingerprint:
        return False
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        _fill(fresh)
        (fresh / stamp.name).write_text(fingerprint, encoding="ascii")
        _make_readable(fresh)
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return True


def _fill(target: Path) -> None:
    for source, name in server_side():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=_IGNORED)
        else:
            shutil.copy2(source, place)
    # The server's user may not write here: what is not compiled now is compiled again in every backend.
    compileall.compile_dir(str(target), quiet=2)


def _make_readable(tree: Path) -> None:
    """For the server's user, whatever the umask of ours and the modes of the originals."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _swap(fresh: Path, target: Path) -> None:
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-"))
    try:
        if target.exists():
            target.rename(old / "tree")
        fresh.rename(target)
    finally:
        shutil.rmtree(old, ignore_errors=True)
