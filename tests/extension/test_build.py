"""The extension's script: the one that is checked in is what sql/ says, and the order is a promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from extension import build
from kwdbml import __version__


def tree(root: Path, **files: str) -> Path:
    """Files under ``root``, ``__`` in a name standing for a directory."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".sql")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def names(root: Path) -> list[str]:
    return [file.stem for file in build.sources(root)]


def test_the_script_that_is_checked_in_is_what_sql_says() -> None:
    checked_in = build.HERE / f"kwdbml--{build.version()}.sql"
    assert checked_in.read_text(encoding="utf-8") == build.build(), "run: python extension/build.py"


def test_one_version_everywhere() -> None:
    assert build.version() == __version__


def test_psql_cannot_run_the_script_by_mistake() -> None:
    lines = build.build().splitlines()
    assert lines[1].startswith("\\echo Use")
    assert lines[1].endswith("\\quit")


def test_order_is_schema_tables_functions_views_grants(tmp_path: Path) -> None:
    tree(
        tmp_path,
        grants="",
        views__v="",
        functions__b__f="",
        functions__a__g="",
        tables__02_b="",
        tables__01_a="",
        schema="",
    )
    assert names(tmp_path) == ["schema", "01_a", "02_b", "g", "f", "v", "grants"]


def test_what_is_required_comes_first_also_a_view(tmp_path: Path) -> None:
    tree(
        tmp_path,
        functions__a__f="-- requires: h, v\nSELECT",
        functions__a__g="",
        functions__z__h="",
        views__v="-- requires: g",
    )
    assert names(tmp_path) == ["h", "g", "v", "f"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"functions__f": "-- requires: g", "functions__g": "-- requires: f"}, "f → g → f"),
        ({"functions__f": "-- requires: nothing"}, "requires nothing, which is no file"),
        ({"functions__a__f": "", "functions__b__f": ""}, "has the same name"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        build.build(tree(tmp_path, **files))


def test_a_release_is_written_down_and_nothing_else_changes(tmp_path: Path) -> None:
    for name in ("1", "1--2", "2", "2--3", "3"):
        (tmp_path / f"kwdbml--{name}.sql").write_text(name, encoding="utf-8")
    build.release("1", tmp_path)
    first = (tmp_path / "RELEASED.sha256").read_text(encoding="ascii")
    (tmp_path / "kwdbml--1.sql").write_text("changed", encoding="utf-8")
    build.release("2", tmp_path)
    lines = (tmp_path / "RELEASED.sha256").read_text(encoding="ascii").splitlines(keepends=True)
    assert [line.split()[1] for line in lines] == ["kwdbml--1--2.sql", "kwdbml--1.sql", "kwdbml--2.sql"]
    assert lines[1] == first
    with pytest.raises(SystemExit, match="no script of version 4"):
        build.release("4", tmp_path)
