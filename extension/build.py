"""Concatenate ``sql/`` into the extension's scripts, which are checked in and compared in CI.

``kwdbml--VERSION.sql`` makes the extension. Order: ``schema.sql``, ``tables/`` by number, then functions and views by
path, ``grants.sql`` last. A function or view that needs another one to exist (``BEGIN ATOMIC`` and views do, PL bodies
do not) says so in its first comment: ``-- requires: NAME [NAME …]``, each the name of a file under ``functions/`` or
``views/`` without its ``.sql``.

``kwdbml--OLD--VERSION.sql`` brings an older one here: first ``upgrades/OLD--VERSION.sql``, the part that runs once
(what ``schema.sql`` and ``tables/`` have new), then functions, views and grants, which can be run again.

A script that was released never changes: ``RELEASED.sha256`` has its hash.

    python extension/build.py                    write the scripts of this version
    python extension/build.py --check            exit 1 when one on disk is not what would be written
    python extension/build.py --release 0.2.0    write down the hashes of the scripts that lead to that version
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SQL = HERE.parent / "sql"
GUARD = '\\echo Use "{}" to load this file. \\quit\n'
#: What a repeatable file makes, at the start of a line.
AGAIN = re.compile(r"^CREATE (FUNCTION|PROCEDURE|VIEW)\b", re.MULTILINE)
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


def repeatable(sql: Path) -> Iterator[Path]:
    """What can be run again, in order."""
    pool = [*sorted((sql / "functions").rglob("*.sql")), *sorted((sql / "views").glob("*.sql"))]
    yield from ordered(by_name(pool))
    yield from (file for file in [sql / "grants.sql"] if file.exists())


def sources(sql: Path) -> Iterator[Path]:
    """All files of the script that makes the extension, in order."""
    yield from (file for file in [sql / "schema.sql"] if file.exists())
    yield from sorted((sql / "tables").glob("*.sql"))
    yield from repeatable(sql)


def _joined(sql: Path, files: Iterable[Path], command: str, change: Callable[[str], str] = str) -> str:
    parts = [f"-- Generated from sql/ by extension/build.py: edit there.\n{GUARD.format(command)}"]
    for file in files:
        text = change(file.read_text(encoding="utf-8")).strip("\n").replace("@VERSION@", version())
        parts.append(f"-- {'-' * 8} sql/{file.relative_to(sql).as_posix()}\n{text}\n")
    return "\n".join(parts)


def build(sql: Path = SQL) -> str:
    """The text of the script that makes the extension."""
    return _joined(sql, sources(sql), "CREATE EXTENSION kwdbml CASCADE")


def build_upgrade(step: Path, sql: Path = SQL) -> str:
    """The text of the script that goes one step: ``step`` is a file of ``upgrades/``."""
    files = [step, *repeatable(sql)]
    return _joined(sql, files, "ALTER EXTENSION kwdbml UPDATE", lambda text: AGAIN.sub(r"CREATE OR REPLACE \1", text))


def scripts(sql: Path = SQL) -> dict[str, str]:
    """Every script of this version by its file name."""
    steps = sorted((sql / "upgrades").glob(f"*--{version()}.sql"))
    made = {f"kwdbml--{version()}.sql": build(sql)}
    return made | {f"kwdbml--{step.name}": build_upgrade(step, sql) for step in steps}


def release(wanted: str, home: Path = HERE) -> None:
    """Write down the hashes of the scripts that make a version or lead to it; those of other versions stay."""
    made = sorted([*home.glob(f"kwdbml--{wanted}.sql"), *home.glob(f"kwdbml--*--{wanted}.sql")])
    if not made:
        raise SystemExit(f"there is no script of version {wanted} in {home}")
    file = home / "RELEASED.sha256"
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    known = {name: digest for digest, name in map(str.split, lines)}
    known |= {script.name: hashlib.sha256(script.read_bytes()).hexdigest() for script in made}
    file.write_text("".join(f"{known[name]}  {name}\n" for name in sorted(known)), encoding="ascii")


def main() -> int:
    parser = argparse.ArgumentParser(description="Concatenate sql/ into the extension's scripts.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only compare, and exit 1 when they differ")
    what.add_argument("--release", metavar="VERSION", help="freeze the scripts on disk that lead to this version")
    given = parser.parse_args()
    if given.release:
        release(given.release)
        return 0
    only_check = given.check
    stale = []
    for name, text in scripts().items():
        target = HERE / name
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not only_check:
            target.write_text(text, encoding="utf-8")
    if only_check and stale:
        print(f"{', '.join(stale)}: not what sql/ says; run: python extension/build.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
