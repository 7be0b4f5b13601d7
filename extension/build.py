"""Concatenate ``sql/`` into the extension's script, ``kwdbml--VERSION.sql``, which is checked in and compared in CI.

Order: ``schema.sql``, ``tables/`` by number, then functions and views by path, ``grants.sql`` last. A function or view
that needs another one to exist (``BEGIN ATOMIC`` and views do, PL bodies do not) says so in its first comment:
``-- requires: NAME [NAME …]``, each the name of a file under ``functions/`` or ``views/`` without its ``.sql``.

    python extension/build.py            write the script
    python extension/build.py --check    exit 1 when the one on disk is not what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUARD = '\\echo Use "CREATE EXTENSION kwdbml CASCADE" to load this file. \\quit\n'
REQUIRES = re.compile(r"^--\s*requires:\s*(?P<names>.+?)\s*$", re.MULTILINE)


def version(control: Path = HERE / "kwdbml.control") -> str:
    """The control file's default_version."""
    found = re.search(r"^default_version\s*=\s*'([^']+)'", control.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{control.name}: no default_version")
    return found.group(1)


def requirements(text: str) -> list[str]:
    """The names in the ``-- requires:`` lines of a file."""
    return [name for line in REQUIRES.finditer(text) for name in re.split(r"[\s,]+", line["names"])]


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files under their stems, which must differ."""
    named: dict[str, Path] = {}
    for file in files:
        if file.stem in named:
            raise SystemExit(f"{file}: {named[file.stem]} has the same name; one file per function, overloads included")
        named[file.stem] = file
    return named


def ordered(named: Mapping[str, Path]) -> Iterator[Path]:
    """Every file once, in the given order, except that what it requires comes before it."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[Path]:
        if name in done:
            return
        if name in path:
            raise SystemExit("requires goes in a circle: " + " → ".join([*path, name]))
        for needed in requirements(named[name].read_text(encoding="utf-8")):
            if needed not in named:
                raise SystemExit(f"{named[name]} requires {needed}, which is no file under functions/ or views/")
            yield from visit(needed, (*path, name))
        done.add(name)
        yield named[name]

    for name in named:
        yield from visit(name, ())


def sources(sql: Path) -> Iterator[Path]:
    """All files of the script, in order."""
    yield from (file for file in [sql / "schema.sql"] if file.exists())
    yield from sorted((sql / "tables").glob("*.sql"))
    pool = [*sorted((sql / "functions").rglob("*.sql")), *sorted((sql / "views").glob("*.sql"))]
    yield from ordered(by_name(pool))
    yield from (file for file in [sql / "grants.sql"] if file.exists())


def build(sql: Path = HERE.parent / "sql") -> str:
    """The text of the script."""
    parts = ["-- Generated from sql/ by extension/build.py: edit there.\n" + GUARD]
    for file in sources(sql):
        text = file.read_text(encoding="utf-8").strip("\n").replace("@VERSION@", version())
        parts.append(f"-- {'-' * 8} sql/{file.relative_to(sql).as_posix()}\n{text}\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Concatenate sql/ into the extension's script.")
    parser.add_argument("--check", action="store_true", help="only compare, and exit 1 when they differ")
    target = HERE / f"kwdbml--{version()}.sql"
    text = build()
    if not parser.parse_args().check:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"{target.name} is not what sql/ says; run: python extension/build.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
