"""Every test that the list of attacks in ``docs/security.md`` names exists, and every kind of attack is in the list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(
    r"^\| (?P<attack>[^|]+) \| (?P<stop>[^|]+) \| `(?P<file>tests/[\w/]+\.py)::(?P<test>\w+)` \|$", re.MULTILINE
)
LISTED = (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("## What is tried")[2]
ATTACKS = [row.groupdict() for row in _ROW.finditer(LISTED)]

#: Each is tried by somebody sooner or later; the list must speak of it.
KINDS = (
    "changes the role", "dblink", "view", "operator", "cast", "domain", "policies", "trigger", "deferred", "rules",
    "generated", "search_path", "temporary", "column names", "cursors", "prepared", "LISTEN", "COPY PROGRAM", "pickle",
    "bundle", "requirements.txt", "links", "environment", "/proc", "network", "other jobs", "after the job",
    "modules.zip", "token", "explain_train", "by hand", "prediction",
)  # fmt: skip


def test_every_row_names_a_test() -> None:
    rows = [line for line in LISTED.splitlines() if line.startswith("| ")]
    assert len(ATTACKS) == len(rows) - 2  # the heading and the line below it
    assert len(ATTACKS) > 30


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row["test"])
def test_the_test_exists(row: dict[str, str]) -> None:
    tree = ast.parse((ROOT / row["file"]).read_text(encoding="utf-8"))
    assert row["test"] in {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_attack_is_listed(kind: str) -> None:
    assert kind.lower() in " ".join(row["attack"] for row in ATTACKS).lower()
