"""``kwdbml extension install``: what lands in the server, that it repeats, and what it says when it cannot work."""

from __future__ import annotations

import ast
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kwdbml import __version__, elf, extension
from kwdbml.errors import InsufficientPrivilege, UndefinedObject, WrongState
from tests.fixtures.local import Installation


def modules() -> Iterator[Path]:
    for source, name in extension.server_side():
        if name != "sqlglot":
            yield from source.rglob("*.py") if source.is_dir() else [source]


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports when it runs: at its top or in a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for_checkers = {inner for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_everything_that_belongs_into_the_server_exists() -> None:
    for name in extension.SERVER_SIDE:
        assert (extension.PACKAGE / name).exists(), name


@pytest.mark.parametrize("file", sorted(modules()), ids=lambda file: file.relative_to(extension.PACKAGE).as_posix())
def test_what_runs_in_the_server_needs_only_what_is_there(file: Path) -> None:
    """The standard library, sqlglot, and files that are copied too."""
    copied = {
        module.relative_to(extension.PACKAGE).with_suffix("").as_posix().replace("/", ".") for module in modules()
    }
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top != "kwdbml":
            assert top in sys.stdlib_module_names | {"sqlglot"}, f"{file} imports {name}"
        elif (extension.PACKAGE / f"{rest.replace('.', '/')}.py").exists():
            assert rest in copied, f"{file} imports {name}"


def test_the_servers_own_python_imports_it(db: psycopg.Connection[Any]) -> None:
    row = db.execute("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'").fetchone()
    assert row is not None
    directory = Path(row[0]) / "kwdbml" / __version__
    body = f"""
        import sys
        sys.path.insert(0, {str(directory)!r})
        import kwdbml, kwdbml.model, kwdbml.errors, sqlglot
        for module in (kwdbml, kwdbml.model, sqlglot):
            assert module.__file__.startswith({str(directory)!r}), module.__file__
        assert kwdbml.__version__ == {__version__!r}
        assert sqlglot.transpile("SELECT 1", read="postgres") == ["SELECT 1"]
    """
    db.execute(f"DO LANGUAGE plpython3u $do${body}$do$".encode())


def test_everything_is_readable_and_compiled(local_installation: Installation) -> None:
    python = extension.install(local_installation.postgres.pg_config, local_installation.base / "script").python
    for path in python.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    cached = python / "sqlglot" / "__pycache__" / f"parser.{sys.implementation.cache_tag}.pyc"
    assert cached.exists()
    assert not list(python.rglob("*.so"))


@pytest.fixture
def scratch(tmp_path: Path, local_installation: Installation, monkeypatch: pytest.MonkeyPatch) -> extension.Postgres:
    """An installation with nothing of ours in it: plpython3u's library, and directories to write to."""
    original = local_installation.postgres
    postgres = replace(original, sharedir=tmp_path / "share", pkglibdir=tmp_path / "lib")
    (postgres.sharedir / "extension").mkdir(parents=True)
    postgres.pkglibdir.mkdir()
    shutil.copy(original.plpython, postgres.pkglibdir)
    monkeypatch.setattr(extension, "inspect", lambda _: postgres)
    return postgres


def test_install_twice_changes_nothing_and_repairs_what_is_missing(scratch: extension.Postgres) -> None:
    first = extension.install("pg_config")
    assert first.changed
    assert first.control.read_text(encoding="utf-8").startswith("comment")
    assert (first.control.parent / f"kwdbml--{__version__}.sql").exists()
    assert extension.install("pg_config").changed is False
    first.control.unlink()
    shutil.rmtree(first.python)
    assert extension.install("pg_config") == first
    assert (first.python / "kwdbml" / "errors.py").exists()
    leftovers = [path.name for path in (*first.python.parent.iterdir(), *first.control.parent.iterdir())]
    assert not [name for name in leftovers if name.startswith(".")]


def test_another_python_is_refused_with_the_cure(scratch: extension.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "server_python", lambda _: (3, 4))
    with pytest.raises(WrongState, match=r"runs Python 3\.4, this is") as caught:
        extension.install("pg_config")
    assert "python3.4 -m venv" in caught.value.hint
    assert not (scratch.pkglibdir / "kwdbml").exists()


def test_a_server_without_plpython_names_the_package(scratch: extension.Postgres) -> None:
    scratch.plpython.unlink()
    with pytest.raises(UndefinedObject, match="has no plpython3u") as caught:
        extension.install("pg_config")
    assert f"apt-get install postgresql-plpython3-{scratch.major}" in caught.value.hint


def test_directories_of_somebody_else_are_named(scratch: extension.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(scratch.pkglibdir))

    monkeypatch.setattr(extension, "_install_python", refuse)
    with pytest.raises(InsufficientPrivilege, match="may not write") as caught:
        extension.install("pg_config")
    assert "as root" in caught.value.hint


def test_no_pg_config_says_how_to_get_one() -> None:
    with pytest.raises(UndefinedObject, match="no pg_config") as caught:
        extension.inspect("pg_config_of_nobody")
    assert "apt-get install postgresql" in caught.value.hint


def test_elf_names_the_libraries(local_installation: Installation) -> None:
    wanted = f"libpython{sys.version_info.major}.{sys.version_info.minor}."
    assert any(name.startswith(wanted) for name in elf.needed(local_installation.postgres.plpython))


def test_elf_refuses_what_is_none(tmp_path: Path) -> None:
    for content in (b"#!/bin/sh\n", b"\x7fELF\x02\x01 and no more"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match="ELF"):
            elf.needed(tmp_path / "file")
