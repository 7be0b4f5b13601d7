"""The named statements: each is the worker's one function call, and all are used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kwdbml
from kwdbml.queries import QUERIES

PACKAGE = Path(kwdbml.__file__).parent


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_statement_is_used(name: str) -> None:
    used = {
        found
        for path in (PACKAGE / "store.py", PACKAGE / "dataset.py")
        for found in re.findall(r'(?:QUERIES\[|_rows\(\s*|_value\(\s*|_prepared\()"(\w+)"', path.read_text())
    }
    assert name in used


def test_the_worker_names_no_table_of_ours() -> None:
    text = " ".join(QUERIES.values())
    assert set(re.findall(r"kwdbml\.(\w+)", text)) == set(re.findall(r"kwdbml\.(worker_\w+)", text))
